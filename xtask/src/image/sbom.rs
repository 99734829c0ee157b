//! The bill of materials: every crate in the program, as CycloneDX. It says nothing of when or where it was made.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::{
    check::workspace,
    crates::{Id, linked},
    error::{Result, doing},
};

/// The bill of the operator that is built from this tree for a target, as JSON.
pub fn bill(target: &str) -> Result<String> {
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).map_err(doing("read Cargo.lock"))?;
    let hashes = hashes(&lock);
    let crates = linked(target)?;
    let component = |id: &Id, kind: &str| {
        let mut component = json!({
            "type": kind,
            "bom-ref": reference(id),
            "name": id.0,
            "version": id.1,
            "purl": reference(id),
        });
        let licence = &crates[id].licence;
        if !licence.is_empty() {
            component["licenses"] = json!([{"expression": licence}]);
        }
        if let Some(hash) = hashes.get(id) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": hash}]);
        }
        component
    };
    let (own, others): (Vec<_>, Vec<_>) = crates.keys().partition(|id| id.0 == "leasehold");
    let dependencies: Vec<Value> = crates
        .iter()
        .map(|(id, of)| json!({"ref": reference(id), "dependsOn": of.uses.iter().map(reference).collect::<Vec<_>>()}))
        .collect();
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(own[0], "application")},
        "components": others.iter().map(|id| component(id, "library")).collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    Ok(format!("{bill:#}\n"))
}

fn reference((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{version}")
}

/// The hash of each crate's source, as Cargo.lock pins it.
fn hashes(lock: &str) -> BTreeMap<Id, String> {
    let mut hashes = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let value = package
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            value.map(|value| value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(hash)) = (field("name"), field("version"), field("checksum")) {
            hashes.insert((name, version), hash);
        }
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_names_every_crate_with_its_licence_and_hash() {
        let bill = bill("x86_64-unknown-linux-gnu").expect("a bill");
        let bill: Value = serde_json::from_str(&bill).expect("JSON");
        assert_eq!(bill["metadata"]["component"]["name"], "leasehold");
        let components = bill["components"].as_array().expect("a list");
        assert!(components.len() > 50, "{}", components.len());
        for component in components {
            assert!(
                component["hashes"][0]["content"]
                    .as_str()
                    .is_some_and(|hash| hash.len() == 64),
                "{component}"
            );
            assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        }
        let named = |name: &str| components.iter().any(|component| component["name"] == name);
        assert!(named("etcd-client") && named("ring"), "{components:?}");
        assert!(!named("testbed") && !named("proptest"), "only what is linked");
    }
}
