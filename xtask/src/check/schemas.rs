//! `docs/reference/schemas`: the kinds as JSON Schema, for editors and for validators that run without a cluster.
//!
//! A schema rejects nothing that kube-apiserver accepts. It accepts what only the CEL rules of a CRD reject.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The version of JSON Schema that yaml-language-server and kubeconform both read.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// The schemas by the names of their files.
pub(super) fn rendered() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for crd in leasehold::api::crds() {
        let crd = serde_json::to_value(crd).expect("a CRD is plain data");
        let spec = &crd["spec"];
        let [group, kind] = [&spec["group"], &spec["names"]["kind"]].map(|name| name.as_str().expect("a name"));
        for version in spec["versions"].as_array().expect("versions") {
            let name = version["name"].as_str().expect("a name");
            let schema = of_kind(group, name, kind, &version["schema"]["openAPIV3Schema"]);
            let text = serde_json::to_string_pretty(&schema).expect("JSON");
            files.insert(format!("{}_{name}.json", kind.to_lowercase()), format!("{text}\n"));
        }
    }
    files
}

/// Returns the schema of a whole object: a CRD leaves the fields that all objects have to kube-apiserver.
fn of_kind(group: &str, version: &str, kind: &str, openapi: &Value) -> Value {
    let mut schema = converted(openapi);
    schema["$schema"] = json!(DRAFT);
    for (field, value) in [("apiVersion", format!("{group}/{version}")), ("kind", kind.to_owned())] {
        schema["properties"][field] = json!({"type": "string", "enum": [value]});
    }
    schema["properties"]["metadata"] = metadata();
    let mut required = vec![json!("apiVersion"), json!("kind"), json!("metadata")];
    required.extend(openapi["required"].as_array().into_iter().flatten().cloned());
    schema["required"] = Value::Array(required);
    schema
}

/// Returns the schema of `metadata`, of which no CRD says more than that it is an object.
fn metadata() -> Value {
    let strings = json!({"type": ["object", "null"], "additionalProperties": {"type": "string"}});
    let mut properties = Map::new();
    for field in ["annotations", "labels"] {
        properties.insert(field.to_owned(), strings.clone());
    }
    for field in [
        "creationTimestamp",
        "deletionTimestamp",
        "generateName",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ] {
        properties.insert(field.to_owned(), json!({"type": ["string", "null"]}));
    }
    for field in ["deletionGracePeriodSeconds", "generation"] {
        properties.insert(field.to_owned(), json!({"type": ["integer", "null"]}));
    }
    for (field, items) in [
        ("finalizers", "string"),
        ("managedFields", "object"),
        ("ownerReferences", "object"),
    ] {
        properties.insert(
            field.to_owned(),
            json!({"type": ["array", "null"], "items": {"type": items}}),
        );
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// Converts a structural OpenAPI schema. Value validations below `allOf`, `anyOf`, `oneOf` and `not` are JSON Schema
/// already, and must not close an object.
fn converted(openapi: &Value) -> Value {
    let mut schema = Map::new();
    for (name, value) in openapi.as_object().into_iter().flatten() {
        let value = match (name.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                let fields = fields.iter().map(|(field, schema)| {
                    let is_required = has(&openapi["required"], field);
                    let schema = converted(schema);
                    (field.clone(), if is_required { schema } else { or_null(schema) })
                });
                Value::Object(fields.collect())
            }
            ("items", _) | ("additionalProperties", Value::Object(_)) => converted(value),
            // Validators that are strict know only the formats of JSON Schema; bounds say what these do.
            ("format", Value::String(format)) if ["int32", "int64"].contains(&format.as_str()) => continue,
            ("nullable", _) => continue,
            (name, _) if name.starts_with("x-kubernetes-") => continue,
            _ => value.clone(),
        };
        schema.insert(name.clone(), value);
    }
    if openapi["x-kubernetes-int-or-string"] == true {
        schema.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    if openapi["x-kubernetes-list-type"] == "set" {
        schema.insert("uniqueItems".to_owned(), json!(true));
    }
    let is_open =
        openapi["x-kubernetes-preserve-unknown-fields"] == true || schema.contains_key("additionalProperties");
    if openapi["type"] == "object" && !is_open {
        schema.insert("additionalProperties".to_owned(), json!(false));
    }
    let schema = Value::Object(schema);
    if openapi["nullable"] == true {
        or_null(schema)
    } else {
        schema
    }
}

/// Returns a schema that also accepts null: kube-apiserver drops the null of an optional field, which is not `nullable`.
fn or_null(mut schema: Value) -> Value {
    if let Some(kind) = schema["type"].as_str() {
        schema["type"] = json!([kind, "null"]);
    }
    for (name, null) in [("anyOf", json!({"type": "null"})), ("enum", Value::Null)] {
        let values = schema.get_mut(name).and_then(Value::as_array_mut);
        if let Some(values) = values.filter(|values| !values.contains(&null)) {
            values.push(null);
        }
    }
    schema
}

fn has(list: &Value, name: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|one| one == name))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::{super::workspace, *};

    #[test]
    fn an_object_is_closed_where_kube_apiserver_would_prune_it() {
        let openapi = json!({
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "maxLength": 63, "x-kubernetes-validations": [{"rule": "true"}]},
                "none": {"type": "object"},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "string", "nullable": true}},
                "list": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"},
            },
            "anyOf": [{"required": ["any"]}, {"properties": {"map": {}}}],
        });
        let schema = json!({
            "type": "object",
            "required": ["name"],
            "additionalProperties": false,
            "properties": {
                "name": {"type": "string", "maxLength": 63},
                "none": {"type": ["object", "null"], "additionalProperties": false},
                "any": {"type": ["object", "null"]},
                "map": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}},
                "list": {"type": ["array", "null"], "items": {"type": "object", "additionalProperties": false}},
            },
            "anyOf": [{"required": ["any"]}, {"properties": {"map": {}}}],
        });
        assert_eq!(converted(&openapi), schema);
    }

    #[test]
    fn types_that_only_kubernetes_has_become_types_of_json_schema() {
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        for (openapi, schema) in [
            (
                json!({"x-kubernetes-int-or-string": true, "maxLength": 15}),
                json!({"anyOf": either, "maxLength": 15}),
            ),
            (
                json!({"type": "integer", "format": "int32", "minimum": 1}),
                json!({"type": "integer", "minimum": 1}),
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!({"type": "string", "format": "date-time"}),
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
                json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            ),
            (
                json!({"type": "string", "enum": ["On", "Off"], "nullable": true}),
                json!({"type": ["string", "null"], "enum": ["On", "Off", null]}),
            ),
        ] {
            assert_eq!(converted(&openapi), schema);
        }
        let optional = or_null(converted(
            &json!({"x-kubernetes-int-or-string": true, "nullable": true}),
        ));
        assert_eq!(
            optional,
            json!({"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]})
        );
    }

    #[test]
    fn no_schema_has_what_only_kubernetes_understands() {
        let files = rendered();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "recordformat_v1alpha1.json",
                "registry_v1alpha1.json",
                "serviceregistration_v1alpha1.json"
            ]
        );
        for (name, text) in files {
            assert!(text.contains(DRAFT), "{name}");
            for word in ["x-kubernetes-", "\"nullable\"", "\"int32\""] {
                assert!(!text.contains(word), "{name} has {word}");
            }
        }
    }

    /// The objects of our kinds in the documentation, each with its file.
    fn shown() -> Vec<(PathBuf, Value)> {
        let files = super::super::kept_files().expect("a checkout");
        let files = files.iter().filter(|file| {
            let is_page =
                file.starts_with("docs/") || !file.contains('/') || file.starts_with("charts/leasehold/README");
            is_page && [".md", ".yaml"].iter().any(|end| file.ends_with(end))
        });
        let mut shown = Vec::new();
        for file in files.map(|file| workspace().join(file)) {
            let text = fs::read_to_string(&file).expect("it can be read");
            let blocks: Vec<&str> = if file.extension().is_some_and(|extension| extension == "md") {
                let blocks = text.split("```yaml\n").skip(1);
                blocks
                    .map(|rest| rest.split("```").next().unwrap_or_default())
                    .collect()
            } else {
                vec![text.as_str()]
            };
            for document in blocks.iter().flat_map(|block| block.split("\n---\n")) {
                let object: Value = serde_saphyr::from_str(document).expect("YAML");
                if object["apiVersion"] == "leasehold.dev/v1alpha1" {
                    shown.push((file.clone(), object));
                }
            }
        }
        shown
    }

    fn validators() -> BTreeMap<String, jsonschema::Validator> {
        let files = rendered().into_iter().map(|(name, text)| {
            let schema = serde_json::from_str(&text).expect("JSON");
            (name, jsonschema::draft7::new(&schema).expect("a schema"))
        });
        files.collect()
    }

    fn problems(validator: &jsonschema::Validator, object: &Value) -> Vec<String> {
        let errors = validator.iter_errors(object);
        errors
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    #[test]
    fn what_the_documentation_shows_is_valid_and_a_typo_in_it_is_not() {
        let validators = validators();
        let mut kinds = BTreeMap::new();
        for (file, object) in shown() {
            let kind = object["kind"].as_str().expect("a kind");
            let validator = &validators[&format!("{}_v1alpha1.json", kind.to_lowercase())];
            assert_eq!(problems(validator, &object), [""; 0], "{}", file.display());
            *kinds.entry(kind.to_owned()).or_insert(0) += 1;
            // Each field of each object in turn, under a name that no kind has.
            for (path, typo) in typos(&object) {
                let found = problems(validator, &typo);
                let is_free = ["/labels/", "/annotations/", "/matchLabels/"]
                    .iter()
                    .any(|map| path.contains(map));
                assert!(
                    is_free || !found.is_empty(),
                    "{}: a typo at {path} is accepted",
                    file.display()
                );
            }
        }
        assert_eq!(kinds.len(), 3, "{kinds:?}");
        assert!(kinds["ServiceRegistration"] > 10, "{kinds:?}");
    }

    /// The object with one field renamed, once for each field, with the field's path.
    fn typos(value: &Value) -> Vec<(String, Value)> {
        match value {
            Value::Object(fields) => {
                let mut all = Vec::new();
                for (name, inner) in fields {
                    let mut renamed = fields.clone();
                    renamed.remove(name);
                    renamed.insert(format!("{name}x"), inner.clone());
                    all.push((format!("/{name}"), Value::Object(renamed)));
                    for (path, typo) in typos(inner) {
                        let mut changed = fields.clone();
                        changed.insert(name.clone(), typo);
                        all.push((format!("/{name}{path}"), Value::Object(changed)));
                    }
                }
                all
            }
            Value::Array(items) => {
                let mut all = Vec::new();
                for (i, item) in items.iter().enumerate() {
                    for (path, typo) in typos(item) {
                        let mut changed = items.clone();
                        changed[i] = typo;
                        all.push((format!("/{i}{path}"), Value::Array(changed)));
                    }
                }
                all
            }
            _ => Vec::new(),
        }
    }
}
