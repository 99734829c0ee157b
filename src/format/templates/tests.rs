use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::api::{self, FormatType, Reason};
use crate::format::compiled::{MAX_KEY, MAX_VALUE};
use crate::format::testing::{ORDERS, of};
use crate::format::{Format, FormatError, Refusal, Service, ServicePort};
use crate::model::endpoints::orders;

mod used;

const KEY: &str = "{{ prefix }}/{{ id }}";

/// A record format of one record.
pub fn spec(key: &str, value: &str) -> RecordFormatSpec {
    decode(&json!({"records": [{"name": "endpoint", "key": key, "value": value}]}))
}

fn plain(key: &str, value: &str) -> RecordFormatSpec {
    decode(&json!({"escaping": "None", "records": [{"name": "endpoint", "key": key, "value": value}]}))
}

fn decode(spec: &Value) -> RecordFormatSpec {
    serde_json::from_value(spec.clone()).expect("decodes")
}

fn refused(spec: &RecordFormatSpec) -> (Reason, String) {
    let error = Templates::compile("mine", spec).expect_err("it makes no sense");
    (error.reason(), error.to_string())
}

fn printed(spec: &RecordFormatSpec, endpoint: &Endpoint) -> Vec<(String, String)> {
    let templates = Templates::compile("mine", spec).unwrap_or_else(|error| panic!("{error}"));
    let records = templates.print(endpoint, &endpoint.pod, &Prefix::below("/s/orders"));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("UTF-8");
    let records = records.unwrap_or_else(|error| panic!("{error}"));
    records
        .iter()
        .map(|record| (record.key.to_string(), text(&record.value)))
        .collect()
}

fn value(spec: &RecordFormatSpec, endpoint: &Endpoint) -> String {
    printed(spec, endpoint).remove(0).1
}

fn with_metadata(metadata: &[(&str, &str)]) -> Endpoint {
    let metadata = metadata.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Endpoint {
        metadata: Arc::new(metadata.collect::<BTreeMap<_, _>>()),
        ..orders()
    }
}

/// Returns a format of the service `orders` that uses `record_formats`.
fn used(record_formats: &RecordFormats, ports: &[ServicePort<'_>], prefix: &str) -> Result<Format, FormatError> {
    let spec = api::CustomFormat {
        record_format_ref: api::ObjectReference {
            name: "mine".to_owned(),
        },
        prefix: Some(prefix.to_owned()),
    };
    let service = Service {
        ports,
        record_formats,
        ..ORDERS
    };
    Format::compile(&spec.into(), &service)
}

fn library(spec: &RecordFormatSpec) -> RecordFormats {
    let mut formats = RecordFormats::new();
    formats.set("mine", Templates::compile("mine", spec));
    formats
}

#[test]
fn a_template_prints_every_fact_there_is() {
    let facts = r"[{{ prefix }}, {{ id }}, {{ namespace }}, {{ service }}, {{ pod }}, {{ node }}, {{ zone }},
        {{ address }}, {{ family }}, {{ port }}, {{ portName }}, {{ hostPort }}, {{ scheme }}, {{ version }},
        {{ weight }}, {{ metadata }}]";
    let read: Value = serde_json::from_str(&value(&spec(KEY, facts), &orders())).unwrap();
    let expected = json!([
        "/s/orders",
        "orders-7d9f-abcde",
        "shop",
        "orders",
        "orders-7d9f-abcde",
        "n1",
        "eu-1a",
        "10.0.0.7",
        "IPv4",
        8080,
        "grpc",
        "10.0.0.7:8080",
        "grpc",
        "1.4.2",
        10,
        {"zone": "eu-1a"}
    ]);
    assert_eq!(read, expected);
}

#[test]
fn what_is_not_known_is_null_in_json_and_has_to_be_given_a_word_elsewhere() {
    let unknown = Endpoint {
        zone: None,
        weight: None,
        ..orders()
    };
    assert_eq!(
        value(&spec(KEY, "[{{ zone }}, {{ weight | default(1) }}]"), &unknown),
        "[null, 1]"
    );
    assert_eq!(value(&plain(KEY, "{{ zone | default('none') }}"), &unknown), "none");
    let zero = Endpoint {
        weight: Some(0),
        ..orders()
    };
    assert_eq!(value(&spec(KEY, "{{ weight | default(1) }}"), &zero), "0");
    let templates = Templates::compile("mine", &plain(KEY, "in {{ zone }}")).unwrap();
    let error = templates.print(&unknown, "p", &Prefix::below("/s")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("column 7: invalid operation: the value is unknown"),
        "{error}"
    );
}

#[test]
fn no_text_of_a_tenant_breaks_the_json_it_is_printed_into() {
    let spec = decode(&json!({
        "sample": {"attributes": [{"name": "team", "value": "blue"}]},
        "records": [{"name": "endpoint", "key": KEY, "value": r#"{"team": {{ metadata.team }}, "all": {{ metadata }}, "host": {{ address }}}"#}],
    }));
    for hostile in [
        r#"", "host": "6.6.6.6"#,
        "\\",
        "\u{0}\n\u{2028}",
        "{{ port }}",
        "</script>",
        "'\"`",
    ] {
        let read: Value =
            serde_json::from_str(&value(&spec, &with_metadata(&[("team", hostile), (hostile, hostile)]))).unwrap();
        assert_eq!(read["team"], hostile);
        assert_eq!(read["all"][hostile], hostile);
        assert_eq!(read["host"], "10.0.0.7");
    }
}

#[test]
fn what_escapes_cannot_be_switched_off_by_a_filter() {
    for filter in ["safe", "e", "escape"] {
        let (reason, message) = refused(&spec(KEY, &format!("[{{{{ pod | {filter} }}}}]")));
        assert_eq!(reason, Reason::InvalidTemplate);
        assert!(message.contains("unknown filter"), "{message}");
    }
    // `tojson` prints JSON, and is not escaped a second time.
    assert_eq!(
        value(&spec(KEY, "[{{ pod | tojson }}]"), &orders()),
        r#"["orders-7d9f-abcde"]"#
    );
    assert_eq!(
        value(&plain(KEY, "{{ metadata | tojson }}"), &orders()),
        r#"{"zone":"eu-1a"}"#
    );
}

#[test]
fn template_error_is_reported_with_line_and_column() {
    let cases = [
        (
            spec(KEY, "{\n  \"host\": {{ addres }}\n}"),
            "the value of the record \"endpoint\", line 2, column 14: addres is undefined",
        ),
        (
            spec(KEY, "[\n{{ port + }}]"),
            "the value of the record \"endpoint\", line 2, column 11: syntax error",
        ),
        (
            spec("{{ prefix }}/{% if %}", "1"),
            "the key of the record \"endpoint\", line 1, column 20: syntax error",
        ),
        (
            spec(KEY, "é\n{{ pod }}{{ é }}"),
            "line 2, column 13: syntax error: unexpected character",
        ),
        (
            spec(KEY, "{{ pod }} {{ 'pod }}"),
            "line 1, column 21: syntax error: unexpected end of string",
        ),
        (spec(KEY, "\"é\" {{ pod | nope }}"), "line 1, column 14: unknown filter"),
        (
            spec(KEY, "{{ metadata.team }}"),
            "line 1, column 4: metadata.team is undefined",
        ),
        (plain(KEY, "{{ metadata }}"), "a map is not text"),
        (spec(KEY, "{% include 'x' %}"), "syntax error"),
        (spec(KEY, "{% macro m() %}{% endmacro %}1"), "syntax error"),
        (spec(KEY, "{{ debug() }}"), "unknown function"),
    ];
    for (spec, expected) in cases {
        let (reason, message) = refused(&spec);
        assert!(message.contains(expected), "{message} / {expected}");
        assert_eq!(reason, Reason::InvalidTemplate);
    }
}

#[test]
fn a_template_that_would_never_end_is_stopped() {
    let start = Instant::now();
    let endless = "[{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}]";
    let (reason, message) = refused(&spec(KEY, endless));
    assert_eq!(reason, Reason::TemplateTooCostly);
    assert!(
        message.contains("line 1, column 41: the template takes more than 20000 steps"),
        "{message}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_template_that_prints_too_much_is_stopped() {
    let long = |count: usize| format!("{{% for a in range({count}) %}}{}{{% endfor %}}", "x".repeat(100));
    let (reason, message) = refused(&plain(KEY, &long(MAX_VALUE / 100 + 1)));
    assert_eq!(reason, Reason::TemplateTooCostly);
    assert!(message.contains("would have more than 65536 bytes"), "{message}");
    assert_eq!(
        value(&plain(KEY, &long(MAX_VALUE / 100)), &orders()).len(),
        MAX_VALUE / 100 * 100
    );
    let (_, message) = refused(&plain(&format!("{KEY}{}", long(MAX_KEY / 100 + 1)), ""));
    assert!(
        message.contains("the key of the record \"endpoint\" would have more than 1024 bytes"),
        "{message}"
    );
}

#[test]
fn a_key_that_two_endpoints_would_share_is_refused() {
    for key in [
        "{{ prefix }}/x",
        "{{ prefix }}/{{ service }}",
        "{{ prefix }}/{{ node }}/{{ port }}",
        "{{ prefix }}/{{ pod[:4] }}",
        "{{ prefix }}/{{ pod | length }}",
        "{{ prefix }}/{{ (address | split('.') | list)[2] }}",
        // Pods in the host network share the address of their node.
        "{{ prefix }}/{{ address }}",
    ] {
        let (reason, message) = refused(&spec(key, "1"));
        assert_eq!(reason, Reason::KeyNotUnique, "{key}");
        assert!(
            message.contains("orders-7d9f-abcde at 10.0.0.7:8080 and the pod"),
            "{message}"
        );
        assert!(message.contains("put {{ id }} into its template"), "{message}");
    }
    for key in [
        KEY,
        "{{ prefix }}/{{ pod }}",
        "{{ prefix }}/{{ hostPort }}",
        "{{ prefix }}/a/{{ id }}/b",
    ] {
        Templates::compile("mine", &spec(key, "1")).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[test]
fn two_records_of_an_endpoint_have_keys_of_their_own() {
    let records = |second: &str| {
        decode(&json!({"records": [
            {"name": "host", "key": "{{ prefix }}/{{ id }}/host", "value": "{{ address }}"},
            {"name": "port", "key": second, "value": "{{ port }}"},
        ]}))
    };
    let (reason, message) = refused(&records("{{ prefix }}/{{ pod }}/host"));
    assert_eq!(reason, Reason::KeyNotUnique);
    assert!(
        message.contains("the key of the record \"host\" and the key of the record \"port\""),
        "{message}"
    );
    let both = printed(&records("{{ prefix }}/{{ id }}/port"), &orders());
    assert_eq!(
        both[1],
        ("/s/orders/orders-7d9f-abcde/port".to_owned(), "8080".to_owned())
    );
    // The first endpoint's template prints the second endpoint's usual key: endpoints of two pods would share a key
    // here, too.
    let swapped =
        records("{{ prefix }}/{% if pod == 'orders-7d9f-abcde' %}orders-7d9f-abcdf{% else %}x{% endif %}/host");
    assert_eq!(refused(&swapped).0, Reason::KeyNotUnique);
}

#[test]
fn a_key_outside_of_the_prefix_is_refused() {
    for key in [
        "/leasehold/{{ pod }}{% set p = prefix %}",
        "{{ prefix }}-2/{{ pod }}",
        "{{ prefix }}",
        " {{ prefix }}/{{ pod }}",
        "{{ prefix | upper }}/{{ pod }}",
    ] {
        let (reason, message) = refused(&spec(key, "1"));
        assert_eq!(reason, Reason::KeyOutsidePrefix, "{key}");
        assert!(message.contains("begin its template with {{ prefix }}/"), "{message}");
    }
    for (key, expected) in [
        ("{{ prefix }}/", "empty segment"),
        ("{{ prefix }}//{{ pod }}", "empty segment"),
        ("{{ prefix }}/{{ pod }}/", "empty segment"),
        ("{{ prefix }}/../leasehold/{{ pod }}", "segment of dots only"),
        ("{{ prefix }}/a {{ pod }}", "spaces or control characters"),
    ] {
        let (reason, message) = refused(&spec(key, "1"));
        assert_eq!(reason, Reason::InvalidKey, "{key}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_a_tenant_writes_cannot_take_a_key_out_of_its_prefix() {
    let spec = decode(&json!({
        "sample": {"attributes": [{"name": "shard", "value": "a"}]},
        "records": [{"name": "endpoint", "key": "{{ prefix }}/{{ metadata.shard }}/{{ id }}", "value": "1"}],
    }));
    let format = used(&library(&spec), &[], "/s/orders").unwrap();
    for hostile in [
        "..",
        "../../leasehold",
        "",
        "a//b",
        "a b",
        "a\n",
        "/",
        &"x".repeat(MAX_KEY),
    ] {
        let refused = format.record(&with_metadata(&[("shard", hostile)]), true);
        assert!(
            matches!(refused, Err(Refusal::RecordFormat { .. })),
            "{hostile:?}: {refused:?}"
        );
    }
    let records = format.record(&with_metadata(&[("shard", "a/b")]), true).unwrap();
    assert_eq!(&*records[0].key, "/s/orders/a/b/orders-7d9f-abcde");
    // An endpoint that does not have this metadata.
    let refusal = format.record(&with_metadata(&[]), true).unwrap_err().to_string();
    assert!(
        refusal.contains("the RecordFormat \"mine\" does not fit: the key of the record \"endpoint\", line 1"),
        "{refusal}"
    );
}

#[test]
fn a_value_that_is_no_json_is_refused_unless_it_need_not_be() {
    let quoted = r#"{"at": "{{ hostPort }}"}"#;
    let (reason, message) = refused(&spec(KEY, quoted));
    assert_eq!(reason, Reason::ValueNotJSON);
    assert!(
        message.contains("line 1, column 10") && message.contains("expressions print their own quotes"),
        "{message}"
    );
    assert_eq!(value(&plain(KEY, quoted), &orders()), r#"{"at": "10.0.0.7:8080"}"#);
}

#[test]
fn the_preview_shows_the_records_of_the_sample() {
    let spec = decode(&json!({
        "sample": {"attributes": [{"name": "team", "value": "blue"}]},
        "records": [
            {"name": "node", "key": KEY, "value": r#"{"host": {{ address }}, "team": {{ metadata.team }}}"#},
            {"name": "long", "key": "{{ prefix }}/{{ id }}/long", "value": "\"{% for i in range(3000) %}é{% endfor %}\""},
        ],
    }));
    let templates = Templates::compile("mine", &spec).unwrap();
    let [node, long] = templates.preview() else {
        panic!("two records")
    };
    assert_eq!(
        (&*node.name, &*node.key, &*node.value),
        (
            "node",
            "/services/shop/orders/orders-7d9f-abcde",
            r#"{"host": "10.0.0.7", "team": "blue"}"#
        )
    );
    assert_eq!(long.value.len(), 4095);
}

#[test]
fn what_multiplies_with_every_word_ends_before_memory_does() {
    for word in [" | tojson", " | replace('o', 'oooooooooo')"] {
        let template = format!("{{{{ pod{} }}}}", word.repeat(40));
        let (_, message) = refused(&plain(KEY, &template));
        assert!(message.contains("print less"), "{message}");
    }
    let usual = plain(KEY, "{{ pod | replace('-', '_') | tojson }}");
    assert_eq!(value(&usual, &orders()), "\"orders_7d9f_abcde\"");
}
