//! Hand-written schemas, and the post-processing of the derived CRD schemas: bounded versions of Kubernetes' own types.
//!
//! Every list and string has a bound, because the API server rejects a CRD whose validation rules it estimates as too
//! costly, and it counts an unbounded string as 3 MB.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// The longest label key: a DNS name of 253, a slash and 63.
const LABEL_KEY_MAX: u32 = 317;

/// The pattern of a label key.
const LABEL_KEY: &str = "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$";

/// The pattern of a container port name: lower-case letters, digits and inner hyphens. At least one letter is required,
/// because the text would otherwise be read as a number.
const PORT_NAME: &str = "^([a-z]([a-z0-9-]*[a-z0-9])?|[0-9][0-9-]*[a-z]([a-z0-9-]*[a-z0-9])?)$";

/// Returns the schema of an object with any content, which the API server keeps unchanged.
pub fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Returns the schema of a label selector whose parts are all bounded. Errors in it are reported at admission, not by a
/// pod watch.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels a pod must carry, each with exactly this value.",
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "description": "Further requirements; a pod must meet all of them.",
                "type": "array",
                "maxItems": 32,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "The label's key.",
                            "type": "string",
                            "maxLength": LABEL_KEY_MAX,
                            "x-kubernetes-validations": [{
                                "rule": format!("self.matches('{LABEL_KEY}')"),
                                "message": "key must be that of a label, such as app.kubernetes.io/name",
                            }],
                        },
                        "operator": {
                            "description": "How the label is compared with values: In, NotIn, Exists or DoesNotExist.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values that In and NotIn compare with; the other operators take none.",
                            "type": "array",
                            "maxItems": 64,
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "self.operator in ['In', 'NotIn'] == (has(self.values) && size(self.values) > 0)",
                        "message": "In and NotIn need at least one entry in values; Exists and DoesNotExist take none: \
                                    leave values out",
                    }],
                },
            },
        },
    })
}

/// Returns the schema of a namespace selector: that of pods with other descriptions.
pub fn namespace_selector(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = label_selector(generator);
    for (field, text) in [
        (
            "matchLabels",
            "Labels a namespace must carry, each with exactly this value.",
        ),
        (
            "matchExpressions",
            "Further requirements; a namespace must meet all of them.",
        ),
    ] {
        if let Some(described) = schema.pointer_mut(&format!("/properties/{field}/description")) {
            *described = text.into();
        }
    }
    schema
}

/// Returns the schema of a container port, by name or number. A rule of [`super::Port`] checks numbers, the pattern
/// checks names.
///
/// Up to 1.33, kube-apiserver assumes that text in such a field may be as long as a request, whatever `maxLength` says,
/// and rejects each rule that reads it from end to end: `matches`, `string(..)` and `==` between two of them. `a in
/// [b]` and `==` with a bounded text are cheap.
pub fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 15, "pattern": PORT_NAME})
}

/// Returns the schema of a port that was found in a Service: a number, or the name of a container port or of a port in
/// EndpointSlices, which may be empty.
pub fn found_port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 63})
}

/// Returns the schema of the prefix of a format's keys.
pub fn prefix(_: &mut SchemaGenerator) -> Schema {
    path("prefix", 512, "the slash before the record's name is added")
}

/// Returns the schema of the part of a key before the service's name.
pub fn root(_: &mut SchemaGenerator) -> Schema {
    path("root", 256, "the slash before the service's name is added")
}

/// Returns the schema of the text that the keys of a format begin with.
fn path(field: &str, max: u32, instead: &str) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": max,
        "x-kubernetes-validations": [
            {"rule": "!self.endsWith('/')", "message": format!("{field} must not end with a slash: {instead}")},
            {
                "rule": "!self.contains('//')",
                "message": format!("{field} must not contain an empty segment: write one slash where there are two"),
            },
            {
                "rule": r"!self.matches('[\\s\\pZ\\pC]')",
                "message": format!("{field} must not contain spaces or control characters"),
            },
            {
                "rule": "!self.matches('(^|/)[.][.]?(/|$)')",
                "message": format!(
                    "{field} must not have a segment of dots only: consumers that clean paths never read it"
                ),
            },
        ],
    })
}

/// Returns the schema of conditions, as strict as that of `metav1.Condition`.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "The type of the condition.",
                    "type": "string",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
                                (([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
                "status": {
                    "description": "Whether the condition holds: True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "description": "The generation of the spec that the condition describes.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "When the status of the condition changed last.",
                    "type": "string",
                    "format": "date-time",
                },
                "reason": {
                    "description": "The cause in one word. Scripts and alerts may compare it.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "description": "The cause in words, and what to do about it. The text may change.",
                    "type": "string",
                    "maxLength": 32768,
                },
            },
        },
    })
}

/// Adapts a derived schema to what users of `kubectl` expect.
///
/// - Nothing is `nullable`: an absent field and a null field mean the same, and no rule has to distinguish them.
/// - Formats that Kubernetes does not know become formats that it knows.
/// - Lists that are neither sets nor maps are atomic, and say so.
/// - Descriptions are paragraphs without the line breaks of the source file.
/// - A list has one description: `kubectl explain` prints the description of its items right after that of the list.
pub fn polish(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            fields.remove("nullable");
            let unsigned = match fields.get("format").and_then(Value::as_str) {
                Some("uint8" | "uint16" | "uint32") => Some("int32"),
                Some("uint64" | "uint") => Some("int64"),
                _ => None,
            };
            if let Some(format) = unsigned {
                fields.insert("format".to_owned(), format.into());
            }
            if fields.get("type").is_some_and(|kind| kind == "array") {
                let list_type = fields.entry("x-kubernetes-list-type");
                list_type.or_insert_with(|| "atomic".into());
            }
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = paragraphs(text);
            }
            if fields.contains_key("description")
                && let Some(Value::Object(items)) = fields.get_mut("items")
            {
                items.remove("description");
            }
            fields.values_mut().for_each(polish);
        }
        Value::Array(items) => items.iter_mut().for_each(polish),
        _ => {}
    }
}

fn paragraphs(text: &str) -> String {
    let joined: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    joined.join("\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn polished_schema_has_no_nullable_and_only_kubernetes_formats() {
        let mut schema = json!({
            "properties": {"weight": {"type": "integer", "format": "uint32", "minimum": 0, "nullable": true}},
        });
        polish(&mut schema);
        assert_eq!(
            schema,
            json!({"properties": {"weight": {"type": "integer", "format": "int32", "minimum": 0}}})
        );
    }

    #[test]
    fn a_list_is_described_once() {
        let mut schema = json!({"description": "The ports.", "items": {"description": "A port.", "type": "object"}});
        polish(&mut schema);
        assert_eq!(
            schema,
            json!({"description": "The ports.", "items": {"type": "object"}})
        );
    }

    #[test]
    fn a_list_without_a_type_is_atomic_and_others_keep_theirs() {
        let mut schema = json!([{"type": "array"}, {"type": "array", "x-kubernetes-list-type": "set"}]);
        polish(&mut schema);
        let types = |index: usize| schema[index]["x-kubernetes-list-type"].clone();
        assert_eq!([types(0), types(1)], [json!("atomic"), json!("set")]);
    }

    #[test]
    fn a_description_keeps_its_paragraphs_and_loses_its_line_breaks() {
        let mut schema = json!({"description": "One\nline.\n\nAnother\none."});
        polish(&mut schema);
        assert_eq!(schema, json!({"description": "One line.\n\nAnother one."}));
    }
}
