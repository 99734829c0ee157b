//! Rules about who may write where: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::{Case, many, rejected, taken, text, with};

/// A Registry with one rule that is changed.
fn rule(change: &Value) -> Value {
    let smallest = json!({"name": "shops", "namespaces": {}});
    json!({"access": {"rules": [with(&smallest, change)]}})
}

fn prefix(prefix: &str) -> Value {
    rule(&json!({"prefixes": [prefix]}))
}

pub fn wrong() -> Vec<Case> {
    [rules(), prefixes()].into_iter().flatten().collect()
}

fn prefixes() -> Vec<Case> {
    rejected(vec![
        (
            "an empty prefix",
            prefix(""),
            "a prefix is empty: write one such as /services/{{namespace}}",
        ),
        (
            "a prefix with a slash at its end",
            prefix("/services/"),
            "a prefix must not end with a slash",
        ),
        (
            "a prefix with an empty segment",
            prefix("/services//shop"),
            "a prefix must not contain an empty segment",
        ),
        (
            "a prefix of dots",
            prefix("/services/../shop"),
            "a prefix must not have a segment of dots only",
        ),
        (
            "a prefix of one dot",
            prefix("./shop"),
            "a prefix must not have a segment of dots only",
        ),
        (
            "a prefix with a space",
            prefix("/my services"),
            "a prefix must be made of ASCII letters, digits and signs",
        ),
        (
            "a prefix that is not ASCII",
            prefix("/d\u{456}scovery"),
            "a prefix must be made of ASCII",
        ),
        (
            "a prefix with a control character",
            prefix("/a\u{7}"),
            "a prefix must be made of ASCII",
        ),
        (
            "a prefix with another template",
            prefix("/{{name}}"),
            "{{namespace}} is the only placeholder",
        ),
        (
            "a prefix with half a template",
            prefix("/{{namespace}"),
            "{{namespace}} is the only placeholder",
        ),
        ("a prefix of 257", prefix(&text(257)), "may not be more than 256"),
    ])
}

fn rules() -> Vec<Case> {
    rejected(vec![
        (
            "a rule without a name",
            json!({"access": {"rules": [{"namespaces": {}}]}}),
            "name: Required value",
        ),
        (
            "a rule for nobody",
            json!({"access": {"rules": [{"name": "a"}]}}),
            "namespaces: Required value",
        ),
        (
            "a rule's name in capitals",
            rule(&json!({"name": "Shops"})),
            "lower-case letters, digits and hyphens",
        ),
        (
            "two rules of a name",
            json!({"access": {"rules": [{"name": "a", "namespaces": {}}, {"name": "a", "namespaces": {}}]}}),
            "two rules have the same name",
        ),
        (
            "an operator without values",
            rule(&json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "In"}]}})),
            "In and NotIn need at least one entry in values",
        ),
        (
            "no formats",
            rule(&json!({"formats": []})),
            "name at least one format, or leave formats out",
        ),
        (
            "a format that is none",
            rule(&json!({"formats": ["Consul"]})),
            "Unsupported value: \"Consul\"",
        ),
        (
            "a TTL range that is upside down",
            rule(&json!({"ttlSeconds": {"min": 60, "max": 15}})),
            "must not be above",
        ),
        (
            "a TTL range that is too wide",
            rule(&json!({"ttlSeconds": {"min": 1}})),
            "must lie within 5 to 299",
        ),
        (
            "no keys",
            rule(&json!({"keysPerNamespace": 0})),
            "keysPerNamespace must be 1 to 1000000",
        ),
        (
            "33 rules",
            json!({"access": {"rules": many(33, |i| json!({"name": format!("r{i}"), "namespaces": {}}))}}),
            "must have at most 32 items",
        ),
    ])
}

pub fn good() -> Vec<Case> {
    taken(vec![
        ("rules that let nobody write", json!({"access": {"rules": []}})),
        ("the smallest rule", rule(&json!({}))),
        (
            "the largest rule",
            rule(&json!({
                "namespaces": {
                    "matchLabels": {"team": "shop"},
                    "matchExpressions": [{"key": "stage", "operator": "NotIn", "values": ["test"]}],
                },
                "prefixes": ["/", "/services/{{namespace}}", "{{namespace}}-{{namespace}}/x", "kitex/registry-etcd/a_b.c~d"],
                "formats": ["Plain", "GoZero"], "ttlSeconds": {"min": 15, "max": 60}, "keysPerNamespace": 1_000_000,
            })),
        ),
    ])
}
