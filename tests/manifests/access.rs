//! Rules about who may write where: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::{Case, many, rejected, taken, text, with};

/// A Registry with one rule that is changed.
fn rule(change: &Value) -> Value {
    let smallest = json!({"name": "shops", "namespaceSelector": {}});
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
        ("an empty prefix", prefix(""), "should be at least 1 chars long"),
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
            json!({"access": {"rules": [{"namespaceSelector": {}}]}}),
            "name: Required value",
        ),
        (
            "a rule for nobody",
            json!({"access": {"rules": [{"name": "a"}]}}),
            "namespaceSelector: Required value",
        ),
        (
            "a rule's name in capitals",
            rule(&json!({"name": "Shops"})),
            "lower-case letters, digits and hyphens",
        ),
        (
            "two rules of a name",
            json!({"access": {"rules": [{"name": "a", "namespaceSelector": {}}, {"name": "a", "namespaceSelector": {}}]}}),
            r#"spec.access.rules[1]: Duplicate value: {"name":"a"}"#,
        ),
        (
            "an operator without values",
            rule(&json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})),
            "In and NotIn need at least one entry in values",
        ),
        (
            "no formats",
            rule(&json!({"formats": []})),
            "spec.access.rules[0].formats in body should have at least 1 items",
        ),
        (
            "a format that is none",
            rule(&json!({"formats": ["Consul"]})),
            "Unsupported value: \"Consul\"",
        ),
        (
            "a TTL range that is upside down",
            rule(&json!({"leaseTTL": {"minSeconds": 60, "maxSeconds": 15}})),
            "must not be above",
        ),
        (
            "a TTL range that is too wide",
            rule(&json!({"leaseTTL": {"minSeconds": 4}})),
            "leaseTTL.minSeconds in body should be greater than or equal to 5",
        ),
        (
            "a TTL range that ends too late",
            rule(&json!({"leaseTTL": {"maxSeconds": 300}})),
            "leaseTTL.maxSeconds in body should be less than or equal to 299",
        ),
        (
            "no keys",
            rule(&json!({"keysPerNamespace": 0})),
            "keysPerNamespace in body should be greater than or equal to 1",
        ),
        (
            "too many keys",
            rule(&json!({"keysPerNamespace": 1_000_001})),
            "keysPerNamespace in body should be less than or equal to 1000000",
        ),
        (
            "a format twice",
            rule(&json!({"formats": ["Plain", "Plain"]})),
            r#"formats[1]: Duplicate value: "Plain""#,
        ),
        (
            "a prefix twice",
            rule(&json!({"prefixes": ["/a", "/a"]})),
            r#"prefixes[1]: Duplicate value: "/a""#,
        ),
        (
            "access without rules",
            json!({"access": {}}),
            "spec.access.rules: Required value",
        ),
        (
            "33 rules",
            json!({"access": {"rules": many(33, |i| json!({"name": format!("r{i}"), "namespaceSelector": {}}))}}),
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
                "namespaceSelector": {
                    "matchLabels": {"team": "shop"},
                    "matchExpressions": [{"key": "stage", "operator": "NotIn", "values": ["test"]}],
                },
                "prefixes": ["/", "/services/{{namespace}}", "{{namespace}}-{{namespace}}/x", "kitex/registry-etcd/a_b.c~d"],
                "formats": ["Plain", "GoZero"], "leaseTTL": {"minSeconds": 15, "maxSeconds": 60}, "keysPerNamespace": 1_000_000,
            })),
        ),
    ])
}
