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
        ("no records", json!({"records": []}), "name at least one record"),
        (
            "nine records",
            json!({"records": many(9, |i| json!({"key": format!("{KEY}/{i}"), "value": "1"}))}),
            "must have at most 8 items",
        ),
        ("no key", record(&json!({"value": "1"})), "key: Required value"),
        ("no value", record(&json!({"key": KEY})), "value: Required value"),
        (
            "a key without the prefix",
            record(&json!({"key": "/services/{{ id }}", "value": "1"})),
            "begin its template with {{ prefix }}/",
        ),
        (
            "a key of two lines",
            record(&json!({"key": "{{ prefix }}/\n{{ id }}", "value": "1"})),
            "write its template on one",
        ),
        (
            "a key too long",
            record(&json!({"key": format!("{KEY}{}", text(1024)), "value": "1"})),
            "may not be more than 1024",
        ),
        (
            "a value too long",
            record(&json!({"key": KEY, "value": text(16385)})),
            "may not be more than 16384",
        ),
        (
            "one key twice",
            json!({"records": [{"key": KEY, "value": "1"}, {"key": KEY, "value": "2"}]}),
            "two records have the same key template",
        ),
        (
            "one name twice",
            json!({"records": [named("a", 1), named("a", 2)]}),
            "two records have the same name",
        ),
        (
            "a strange name",
            json!({"records": [named("a b", 1)]}),
            "a record's name is made of",
        ),
        (
            "an unknown escaping",
            json!({"escaping": "Html"}),
            "supported values: \"Json\", \"None\"",
        ),
        (
            "a sample too long",
            json!({"sample": {"metadata": {"a": text(257)}}}),
            "may not be more than 256",
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
        ("a long value", record(&json!({"key": KEY, "value": text(16384)}))),
        ("a sample", json!({"sample": {"metadata": {"team": "blue"}}})),
        // Its status says what is wrong.
        (
            "a mistake in a template",
            record(&json!({"key": KEY, "value": "{{ nope"})),
        ),
    ])
}

/// Registrations that use one.
pub(super) fn users() -> Vec<Case> {
    rejected(vec![
        (
            "Custom without a RecordFormat",
            format(json!({"type": "Custom"})),
            "Custom needs recordFormat, the name of a RecordFormat",
        ),
        (
            "a RecordFormat for Plain",
            format(json!({"type": "Plain", "recordFormat": "mine"})),
            "no other format takes it",
        ),
        (
            "a RecordFormat of no name",
            format(json!({"type": "Custom", "recordFormat": "My Format"})),
            "recordFormat must be the name of a RecordFormat",
        ),
        (
            "two RecordFormats in one place",
            json!({"formats": [
                {"type": "Custom", "recordFormat": "a"},
                {"type": "Custom", "recordFormat": "b"},
            ]}),
            "two formats of the same type would use the same default place",
        ),
    ])
}
