//! A pod to be created.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Read by kwok's stage `pod-ready`.
const READY: &str = "testbed.leasehold.dev/ready";
/// Read by kwok's stage `pod-ready`.
const IP: &str = "testbed.leasehold.dev/ip";

/// What a pod is to be. Whatever is not said here is said by [`NewPod::with`].
#[derive(Clone, Debug)]
pub struct NewPod {
    name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<Value>,
    finalizers: Vec<String>,
    more: Vec<Value>,
}

impl NewPod {
    /// A pod with a label `app=NAME`, no ports, ready as soon as it runs.
    pub fn new(name: &str) -> Self {
        let pod = Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            ports: Vec::new(),
            finalizers: Vec::new(),
            more: Vec::new(),
        };
        pod.label("app", name)
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a named TCP container port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.push(json!({"name": name, "containerPort": number}));
        self
    }

    /// Runs without being ready, until [`Namespace::set_ready`](super::Namespace::set_ready).
    #[must_use]
    pub fn unready(self) -> Self {
        self.annotation(READY, "false")
    }

    /// Has this address from the start, instead of one that kwok picks.
    #[must_use]
    pub fn ip(self, address: &str) -> Self {
        self.annotation(IP, address)
    }

    /// Stays terminating once deleted, until [`Namespace::release`](super::Namespace::release).
    #[must_use]
    pub fn held_when_deleted(mut self) -> Self {
        self.finalizers.push("testbed.leasehold.dev/hold".to_owned());
        self
    }

    /// Merges anything else (RFC 7386) into the manifest.
    #[must_use]
    pub fn with(mut self, more: &Value) -> Self {
        // Kept apart until the manifest is made: merged into each other their nulls would be lost.
        self.more.push(more.clone());
        self
    }

    /// Its manifest.
    pub fn manifest(&self) -> Value {
        let mut manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "labels": self.labels,
                "annotations": self.annotations,
                "finalizers": self.finalizers,
            },
            "spec": {"containers": [container(&self.ports)]},
        });
        for more in &self.more {
            merge(&mut manifest, more);
        }
        manifest
    }
}

/// The one container of all our pods. Nothing pulls its image.
pub(super) fn container(ports: &[Value]) -> Value {
    json!({"name": "main", "image": "leasehold.test/main", "ports": ports})
}

/// RFC 7386.
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().expect("made one just above");
    for (key, value) in change {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_can_be_merged_into_a_manifest() {
        let pod = NewPod::new("a")
            .port("grpc", 8080)
            .with(&json!({"spec": {"nodeName": "node-1"}, "metadata": {"labels": null}}));
        let manifest = pod.manifest();
        assert_eq!(manifest["spec"]["nodeName"], "node-1");
        assert_eq!(
            manifest["spec"]["containers"][0]["ports"],
            json!([{"name": "grpc", "containerPort": 8080}])
        );
        assert_eq!(manifest["metadata"].get("labels"), None);
        assert_eq!(manifest["metadata"]["name"], "a");
    }
}
