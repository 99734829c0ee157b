//! Finds fields that no kind has. Decoding ignores them, so that a misspelt field would have no effect.

use serde_json::Value;

/// Returns the path of a field in `written` that is not in `known`.
pub fn unknown_field(written: &Value, known: &Value, path: &str) -> Option<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            written
                .iter()
                .filter(|(_, value)| !value.is_null())
                .find_map(|(name, value)| {
                    let path = format!("{path}.{name}");
                    match known.get(name) {
                        Some(known) => unknown_field(value, known, &path),
                        // Serialization may omit empty fields.
                        None if value.as_object().is_some_and(serde_json::Map::is_empty) => None,
                        None if value.as_array().is_some_and(Vec::is_empty) => None,
                        None => Some(path),
                    }
                })
        }
        (Value::Array(written), Value::Array(known)) => written
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(i, (written, known))| unknown_field(written, known, &format!("{path}[{i}]"))),
        _ => None,
    }
}
