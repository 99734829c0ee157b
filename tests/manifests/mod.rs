//! Manifests to create: a smallest one of each kind, and what is changed in it.

mod access;
mod formats;
pub mod record_formats;
pub mod registrations;
pub mod registries;
pub mod schemas;

use serde_json::{Value, json};

/// A change to the smallest manifest and what the apiserver answers to the result.
pub struct Case {
    pub name: &'static str,
    /// A JSON merge patch.
    pub patch: Value,
    /// A part of the message that tells the user what to write; none when the manifest is good.
    pub expected: Option<&'static str>,
}

/// The smallest good registration.
pub fn registration() -> Value {
    json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}},
            "ports": [{"name": "http"}],
            "formats": [{"type": "Plain"}],
        },
    })
}

/// The smallest good registry.
pub fn registry() -> Value {
    json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": "default"},
        "spec": {"etcd": {"endpoints": ["http://10.0.0.5:2379"]}},
    })
}

/// The smallest good record format.
pub fn record_format() -> Value {
    json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "RecordFormat",
        "metadata": {"name": "mine"},
        "spec": {"records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": "{{ hostPort }}"}]},
    })
}

/// `base` with the JSON merge patch `patch`; a null in the patch stays, for the apiserver to judge.
pub fn with(base: &Value, patch: &Value) -> Value {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            let mut merged = base.clone();
            for (key, value) in patch {
                let old = merged.get(key).unwrap_or(&Value::Null);
                let new = with(old, value);
                merged.insert(key.clone(), new);
            }
            Value::Object(merged)
        }
        _ => patch.clone(),
    }
}

/// Rows about the spec: name, what to put there, and a part of the answer.
fn rejected(rows: Vec<(&'static str, Value, &'static str)>) -> Vec<Case> {
    let case = |(name, spec, expected)| Case {
        name,
        patch: json!({"spec": spec}),
        expected: Some(expected),
    };
    rows.into_iter().map(case).collect()
}

fn taken(rows: Vec<(&'static str, Value)>) -> Vec<Case> {
    rows.into_iter()
        .map(|(name, spec)| Case {
            name,
            patch: json!({"spec": spec}),
            expected: None,
        })
        .collect()
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn many(count: usize, item: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..count).map(item).collect()
}
