//! `docs/reference`: every field of the kinds, from the schemas of the CRDs, as a page and as JSON schemas.

use std::{
    fmt::{Display, Write},
    fs,
    path::PathBuf,
};

use serde_json::Value;

use super::{Step, crds, schemas, workspace};
use crate::error::{Result, doing};

const HEAD: &str = "\
<!-- Generated from src/api by `cargo xtask reference`. Do not edit. -->
# API reference

The kinds of `leasehold.dev/v1alpha1`, one table for each object. **Bold** fields are required. `kubectl explain` prints the
same descriptions. [JSON schemas](schemas/README.md) have the same content, for editors and CI.
";

fn file() -> PathBuf {
    workspace().join("docs/reference/api.md")
}

/// Where the JSON schemas are, beside a page about them that is not generated.
const SCHEMAS: &str = "docs/reference/schemas";

/// Compares the page and the schemas with the CRDs.
pub(super) fn check(step: &Step) -> Result<()> {
    let kept = fs::read_to_string(file()).map_err(doing("read docs/reference/api.md"))?;
    if kept != rendered() {
        return Err(step.failed("docs/reference/api.md is not what src/api says".to_owned()));
    }
    let mut kept = crds::read(&workspace().join(SCHEMAS))?;
    kept.remove("README.md");
    match crds::difference(SCHEMAS, &kept, &schemas::rendered()) {
        None => Ok(()),
        Some(found) => Err(step.failed(found)),
    }
}

/// Writes the page and the schemas.
pub fn write() -> Result<()> {
    let folder = workspace().join(SCHEMAS);
    fs::create_dir_all(&folder).map_err(doing(format!("create the folder {SCHEMAS}")))?;
    for (name, text) in schemas::rendered() {
        fs::write(folder.join(&name), text).map_err(doing(format!("write {SCHEMAS}/{name}")))?;
    }
    fs::write(file(), rendered()).map_err(doing("write docs/reference/api.md"))
}

fn rendered() -> String {
    let mut page = HEAD.to_owned();
    for crd in leasehold::api::crds() {
        let crd = serde_json::to_value(crd).expect("a CRD is plain data");
        let kind = text(&crd["spec"]["names"]["kind"]);
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let _ = write!(page, "\n## {kind}\n\n{}\n", text(&schema["description"]));
        for part in ["spec", "status"] {
            table(&mut page, part, &schema["properties"][part]);
        }
    }
    page
}

/// Adds the table of the object at `path`, and after it the tables of the objects in its fields.
fn table(page: &mut String, path: &str, object: &Value) {
    let _ = write!(page, "\n### {path}\n\n");
    if let Some(about) = object["description"].as_str() {
        let _ = write!(page, "{about}\n\n");
    }
    page.push_str("| field | type | default | description |\n|---|---|---|---|\n");
    let required = object["required"].as_array().map_or(&[][..], Vec::as_slice);
    let fields = object["properties"].as_object().into_iter().flatten();
    for (name, field) in fields.clone() {
        let is_required = required.iter().any(|one| one == name);
        let shown = if is_required {
            format!("**`{name}`**")
        } else {
            format!("`{name}`")
        };
        let default = field
            .get("default")
            .map_or_else(String::new, |value| format!("`{value}`"));
        let about = text(&field["description"]).replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(page, "| {shown} | {} | {default} | {about} |", kind(field));
    }
    for (name, field) in fields {
        let (path, object) = match field["type"].as_str() {
            Some("array") => (format!("{path}.{name}[]"), &field["items"]),
            _ => (format!("{path}.{name}"), field),
        };
        if object["properties"].is_object() && known(field).is_none() {
            table(page, &path, object);
        }
    }
}

/// Returns the name of a type of Kubernetes that needs no table.
fn known(field: &Value) -> Option<&'static str> {
    if field["properties"]["matchLabels"].is_object() {
        Some("LabelSelector")
    } else if field["items"]["properties"]["lastTransitionTime"].is_object() {
        Some("[]Condition")
    } else {
        None
    }
}

/// Returns the type of a field with its bounds.
fn kind(field: &Value) -> String {
    if let Some(known) = known(field) {
        return known.to_owned();
    }
    if let Some(values) = field["enum"].as_array() {
        let values = values.iter().map(|value| format!("`{}`", text(value)));
        return values.collect::<Vec<_>>().join(", ");
    }
    if field["x-kubernetes-int-or-string"] == true {
        return "string or integer".to_owned();
    }
    let name = match field["type"].as_str().unwrap_or("object") {
        "array" => {
            let merge = match (
                &field["x-kubernetes-list-type"],
                &field["x-kubernetes-list-map-keys"][0],
            ) {
                (Value::String(list), Value::String(key)) => format!("{list} by {key}"),
                (Value::String(list), _) => list.clone(),
                _ => "atomic".to_owned(),
            };
            format!("[]{} ({merge})", field["items"]["type"].as_str().unwrap_or("object"))
        }
        "string" if field["format"] == "date-time" => "time".to_owned(),
        name => name.to_owned(),
    };
    let bounds = [
        bounds(&field["minimum"], &field["maximum"], ""),
        bounds(&field["minLength"], &field["maxLength"], " characters"),
        bounds(&field["minItems"], &field["maxItems"], " items"),
    ];
    let bounds: Vec<String> = [name].into_iter().chain(bounds.into_iter().flatten()).collect();
    bounds.join(", ")
}

fn bounds(from: &Value, to: &Value, unit: impl Display) -> Option<String> {
    match (from.as_f64(), to.as_f64()) {
        (Some(from), Some(to)) if from >= to => Some(format!("exactly {to}{unit}")),
        (Some(from), Some(to)) => Some(format!("{from} to {to}{unit}")),
        (None, Some(to)) => Some(format!("at most {to}{unit}")),
        (Some(from), None) => Some(format!("at least {from}{unit}")),
        (None, None) => None,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_shown_with_its_bounds_and_whether_it_is_required() {
        let mut page = String::new();
        let object = json!({"required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": 63, "description": "A | b."},
            "ttl": {"type": "integer", "minimum": 5, "maximum": 299, "default": 30, "description": "T."},
            "list": {
                "type": "array", "description": "L.", "minItems": 1,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"mode": {"enum": ["On", "Off"], "description": "M."}}},
            },
        }});
        table(&mut page, "spec", &object);
        for line in [
            "| **`name`** | string, at most 63 characters |  | A \\| b. |",
            "| `ttl` | integer, 5 to 299 | `30` | T. |",
            "| `list` | []object (map by name), at least 1 items |  | L. |",
            "### spec.list[]",
            "| `mode` | `On`, `Off` |  | M. |",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
        }
    }

    #[test]
    fn the_page_has_a_table_for_each_member_of_the_formats() {
        let page = rendered();
        for heading in [
            "## Registry",
            "### spec.formats[].coreDNS",
            "### spec.etcd.tls.caRef",
            "### status.pods",
        ] {
            assert!(page.lines().any(|line| line == heading), "{heading}");
        }
        assert!(!page.contains("conditions[]") && !page.contains("matchExpressions"));
    }
}
