//! Property tests of templates that hold for every endpoint.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::RecordFormatSpec;
use crate::format::properties::endpoints;

/// A template that prints, as JSON, all facts that can be hostile.
fn all_facts() -> Templates {
    let spec: RecordFormatSpec = serde_json::from_value(json!({
        "records": [
            {"name": "a", "key": "{{ prefix }}/{{ id }}", "value": "{\"address\": {{ address }}, \"port\": {{ port }}, \"metadata\": {{ metadata }}}"},
            {
                "name": "b",
                "key": "{{ prefix }}/{{ metadata | length }}{{ version | default('none') }}/{{ id }}/{{ zone | default('none') }}",
                "value": "[{% for name, value in metadata | items %}{{ name }}, {{ value }}, {% endfor %}{{ zone }}, {{ version }}]",
            },
        ],
    }))
    .expect("decodes");
    Templates::compile("all", &spec).unwrap_or_else(|error| panic!("{error}"))
}

/// A template that puts all facts that tenants write into its key.
fn all_in_the_key() -> Templates {
    let key = "{{ prefix }}/{% for name, value in metadata | items %}{{ name }}{{ value }}{% endfor %}{{ id }}";
    let spec: RecordFormatSpec = serde_json::from_value(
        json!({"escaping": "None", "records": [{"name": "endpoint", "key": key, "value": "{{ pod }}"}]}),
    )
    .expect("decodes");
    Templates::compile("key", &spec).unwrap_or_else(|error| panic!("{error}"))
}

proptest! {
    #[test]
    fn json_reads_back_as_it_was_and_keys_stay_below_their_prefix(endpoint in endpoints()) {
        let prefix = Prefix::below("/s/orders");
        let records = all_facts().print(&endpoint, &endpoint.pod, &prefix);
        let records = records.map_err(|error| TestCaseError::fail(error.to_string()))?;
        for record in &records {
            prop_assert!(prefix.contains(&record.key));
        }
        let first: serde_json::Value = serde_json::from_slice(&records[0].value).expect("JSON");
        prop_assert_eq!(first["address"].as_str().map(str::to_owned), Some(endpoint.address.to_string()));
        prop_assert_eq!(first["port"].as_u64(), Some(u64::from(endpoint.port)));
        prop_assert_eq!(first["metadata"].as_object().map(serde_json::Map::len), Some(endpoint.metadata.len()));
        for (name, value) in &*endpoint.metadata {
            prop_assert_eq!(first["metadata"][&**name].as_str(), Some(&**value));
        }
        let second: Vec<Option<String>> = serde_json::from_slice(&records[1].value).expect("JSON");
        prop_assert_eq!(second.len(), endpoint.metadata.len() * 2 + 2);
    }

    #[test]
    fn a_key_of_any_text_is_either_refused_or_below_its_prefix(endpoint in endpoints()) {
        let prefix = Prefix::below("/s/orders");
        match all_in_the_key().print(&endpoint, &endpoint.pod, &prefix) {
            Err(error) => prop_assert!(matches!(error, TemplateError::Key { .. }), "{error}"),
            Ok(records) => {
                let key = &records[0].key;
                prop_assert!(prefix.contains(key) && !key.contains("//") && !key.contains("/../"));
                prop_assert!(!key.chars().any(|c| c.is_whitespace() || c.is_control()));
            }
        }
    }

    #[test]
    fn any_text_for_a_template_is_refused_or_safe(text in "(?s)(\\{\\{|\\{%|%\\}|\\}\\}| |prefix|pod|[a-z.|'\"/]|.){0,16}") {
        let key = format!("{{{{ prefix }}}}/{{{{ id }}}}{text}");
        for (key, value) in [(key.as_str(), "1"), ("{{ prefix }}/{{ id }}", text.as_str())] {
            let spec = super::tests::spec(key, value);
            if let Ok(templates) = Templates::compile("any", &spec) {
                for record in templates.preview() {
                    prop_assert!(record.key.starts_with("/services/shop/orders/"));
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&record.value).is_ok());
                }
            }
        }
    }
}
