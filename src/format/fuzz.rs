//! Fuzz target for RecordFormats: the input is a RecordFormat from an untrusted author. See `src/fuzz`.

use std::sync::Arc;

use super::{TemplateError, Templates};
use crate::api::{Escaping, RecordFormatSpec};
use crate::model::endpoints::orders;
use crate::model::{Endpoint, Prefix};

/// Words from which the fuzzer makes templates.
pub(crate) const WORDS: [&str; 44] = [
    "records",
    "key",
    "value",
    "name",
    "escaping",
    "None",
    "JSON",
    "sample",
    "attributes",
    "{{ prefix }}/{{ id }}",
    "{{ prefix }}",
    "{{ id }}",
    "{{ pod }}",
    "{{ port }}",
    "{{ address }}",
    "{{ zone }}",
    "{{ version | default('1') }}",
    "{{ metadata | length }}",
    "{{ metadata.zone }}",
    "{% for name, value in metadata | items %}",
    "{% for i in range(9) %}",
    "{% endfor %}",
    "{% if weight %}",
    "{% else %}",
    "{% endif %}",
    "{% set x = 1 %}",
    "{% macro m(a) %}",
    "{{ m(1) }}",
    "{% endmacro %}",
    "{# ",
    " #}",
    "{% raw %}",
    "{% endraw %}",
    "{{ \"",
    "(((((((((",
    "[[[[[[[[[",
    " * 9999999999",
    " ** 99999",
    " ~ pod",
    " | replace('o', 'oooooooooo')",
    " | upper",
    " | tojson",
    "not ",
    "-",
];

/// Checks that a RecordFormat is rejected, or prints keys below its prefix, and JSON values where the spec asks for
/// JSON. Unusual endpoints are included.
pub(crate) fn templates(input: &[u8]) -> String {
    let Ok(spec) = serde_json::from_slice::<RecordFormatSpec>(input) else {
        return "no spec".to_owned();
    };
    // Admission rejects longer templates and more records.
    let most = |text: &str| text.chars().count() > 4096;
    if spec.records.len() > 8
        || spec
            .records
            .iter()
            .any(|record| most(&record.key) || most(&record.value))
    {
        return "too long".to_owned();
    }
    let templates = match Templates::compile("fuzzed", &spec) {
        Ok(templates) => templates,
        Err(error) => return kind(&error),
    };
    for record in templates.preview() {
        assert!(record.key.starts_with("/services/shop/orders/"), "{}", record.key);
    }
    assert_eq!(templates.preview().len(), spec.records.len());
    let prefix = Prefix::below("/s/orders");
    let mut outcome = String::new();
    for endpoint in odd_endpoints() {
        match templates.print(&endpoint, &endpoint.pod, &prefix) {
            Err(error) => outcome += &kind(&error),
            Ok(records) => {
                for record in &records {
                    assert!(prefix.contains(&record.key), "{} is elsewhere", record.key);
                    let bad = |c: char| c.is_whitespace() || c.is_control();
                    assert!(
                        !record.key.contains(bad) && !record.key.contains("//"),
                        "{:?}",
                        record.key
                    );
                    assert!(
                        !record.key.split('/').any(|part| part == ".." || part == "."),
                        "{}",
                        record.key
                    );
                    let json = serde_json::from_slice::<serde_json::Value>(&record.value);
                    assert!(spec.escaping == Escaping::None || json.is_ok(), "{json:?}");
                }
                let again = templates.print(&endpoint, &endpoint.pod, &prefix);
                assert_eq!(again.ok(), Some(records), "twice the same is printed twice the same");
                outcome += "printed";
            }
        }
    }
    outcome
}

/// Returns the error without the parts that are specific to this input.
fn kind(error: &TemplateError) -> String {
    let text = error.to_string();
    let words = text
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| word.len() > 2);
    format!("{:?} {}", error.reason(), words.take(12).collect::<Vec<_>>().join(" "))
}

fn odd_endpoints() -> [Endpoint; 3] {
    let odd = |text: &str| {
        let metadata = [(text.into(), text.into()), ("zone".into(), "//..".into())];
        Endpoint {
            node: None,
            zone: Some(text.into()),
            version: Some(text.into()),
            scheme: None,
            weight: None,
            metadata: Arc::new(metadata.into()),
            ..orders()
        }
    };
    [
        orders(),
        odd("\"}} {{ pod }}\u{0}\n/../"),
        odd("\u{202e}ß\u{10ffff}%2f\\"),
    ]
}
