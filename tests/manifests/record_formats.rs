//! RecordFormats: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::formats::format;
use super::{Case, many, rejected, taken, text};

const KEY: &str = "{{ prefix }}/{{ id }}";

fn record(record: &Value) -> Value {
    json!({"records": [record]})
}

pub fn wrong() -> Vec<Case> {
    let named = |name: &str, number: usize| json!({"name": name, "key": format!("{KEY}/{number}"), "value": "1"});
    rejected(vec![
        (
            "no records",
            json!({"records": []}),
            "spec.records in body should have at least 1 items",
        ),
        (
            "nine records",
            json!({"records": many(9, |i| json!({"name": format!("r{i}"), "key": format!("{KEY}/{i}"), "value": "1"}))}),
            "must have at most 8 items",
        ),
        (
            "no key",
            record(&json!({"name": "a", "value": "1"})),
            "key: Required value",
        ),
        (
            "no value",
            record(&json!({"name": "a", "key": KEY})),
            "value: Required value",
        ),
        (
            "a key without the prefix",
            record(&json!({"name": "a", "key": "/services/{{ id }}", "value": "1"})),
            "begin its template with {{ prefix }}/",
        ),
        (
            "a key of two lines",
            record(&json!({"name": "a", "key": "{{ prefix }}/\n{{ id }}", "value": "1"})),
            "write its template on one",
        ),
        (
            "a key too long",
            record(&json!({"name": "a", "key": format!("{KEY}{}", text(1024)), "value": "1"})),
            "may not be more than 1024",
        ),
        (
            "a value too long",
            record(&json!({"name": "a", "key": KEY, "value": text(16385)})),
            "may not be more than 16384",
        ),
        (
            "one key twice",
            json!({"records": [{"name": "a", "key": KEY, "value": "1"}, {"name": "b", "key": KEY, "value": "2"}]}),
            "two records have the same key template",
        ),
        (
            "one name twice",
            json!({"records": [named("a", 1), named("a", 2)]}),
            r#"spec.records[1]: Duplicate value: {"name":"a"}"#,
        ),
        (
            "no name",
            record(&json!({"key": KEY, "value": "1"})),
            "spec.records[0].name: Required value",
        ),
        (
            "a strange name",
            json!({"records": [named("a b", 1)]}),
            "a record's name is made of",
        ),
        (
            "an unknown escaping",
            json!({"escaping": "Html"}),
            "supported values: \"JSON\", \"None\"",
        ),
        (
            "a sample too long",
            json!({"sample": {"attributes": [{"name": "a", "value": text(257)}]}}),
            "may not be more than 256",
        ),
        (
            "a sample with 65 attributes",
            json!({"sample": {"attributes": many(65, |i| json!({"name": format!("a{i}"), "value": "v"}))}}),
            "must have at most 64 items",
        ),
        (
            "a sample with an attribute twice",
            json!({"sample": {"attributes": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}}),
            r#"spec.sample.attributes[1]: Duplicate value: {"name":"a"}"#,
        ),
    ])
}

pub fn good() -> Vec<Case> {
    let named = |name: &str, number: usize| json!({"name": name, "key": format!("{KEY}/{number}"), "value": "1"});
    taken(vec![
        ("the smallest", json!({})),
        ("plain text", json!({"escaping": "None"})),
        (
            "eight records",
            json!({"records": many(8, |i| named(&format!("r{i}"), i))}),
        ),
        (
            "a long value",
            record(&json!({"name": "a", "key": KEY, "value": text(16384)})),
        ),
        (
            "a sample",
            json!({"sample": {"attributes": [{"name": "team", "value": "blue"}]}}),
        ),
        // Its status says what is wrong.
        (
            "a mistake in a template",
            record(&json!({"name": "a", "key": KEY, "value": "{{ nope"})),
        ),
    ])
}

/// Registrations that use one.
pub(super) fn users() -> Vec<Case> {
    rejected(vec![
        (
            "Custom without a RecordFormat",
            format(json!({"type": "Custom"})),
            "type Custom needs custom with the name of a RecordFormat",
        ),
        (
            "Custom with a prefix only",
            format(json!({"type": "Custom", "custom": {"prefix": "/a"}})),
            "custom.recordFormatRef: Required value",
        ),
        (
            "a RecordFormat for Plain",
            format(json!({"type": "Plain", "custom": {"recordFormatRef": {"name": "mine"}}})),
            "other types do not take it",
        ),
        (
            "a RecordFormat of no name",
            format(json!({"type": "Custom", "custom": {"recordFormatRef": {"name": "My Format"}}})),
            "name must be that of an object",
        ),
        (
            "two RecordFormats in one place",
            json!({"formats": [
                {"type": "Custom", "custom": {"recordFormatRef": {"name": "a"}}},
                {"type": "Custom", "custom": {"recordFormatRef": {"name": "b"}}},
            ]}),
            "two formats of the same type would use the same default place",
        ),
    ])
}
