//! What the JSON schemas in `docs/reference/schemas` say of a manifest, for comparison with what kube-apiserver says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

/// The schemas by kind.
static SCHEMAS: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/schemas");
    let read = |kind: &'static str| {
        let file = folder.join(format!("{}_v1alpha1.json", kind.to_lowercase()));
        let text = std::fs::read_to_string(file).expect("it is generated");
        let schema = serde_json::from_str(&text).expect("JSON");
        (kind, jsonschema::draft7::new(&schema).expect("a schema"))
    };
    ["ServiceRegistration", "Registry", "RecordFormat"].map(read).into()
});

/// What is wrong with a manifest; nothing when it is valid.
pub fn problems(manifest: &Value) -> Vec<String> {
    let kind = manifest["kind"].as_str().expect("a kind");
    let errors = SCHEMAS[kind].iter_errors(manifest);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}
