//! Plans without a cluster and without an etcd, with the pods and other objects in a file.

use std::collections::BTreeSet;
use std::path::Path;

use kube::ResourceExt;
use serde_json::json;

use super::error::Error;
use super::manifests::{Manifests, cluster};
use super::{Compared, Plan, unix_time};
use crate::api::RegistrySpec;
use crate::controller::Preview;
use crate::format::RecordFormats;

pub fn find(mut manifests: Manifests, path: &Path, namespace: Option<&str>) -> Result<Plan, Error> {
    let mut cluster = cluster(path)?;
    cluster.at = unix_time();
    let namespaces: BTreeSet<&str> = cluster
        .pods
        .iter()
        .map(|pod| pod.namespace.as_str())
        .filter(|namespace| !namespace.is_empty())
        .collect();
    let common = match namespaces.first() {
        Some(only) if namespaces.len() == 1 => only,
        _ => "default",
    };
    let default = namespace.unwrap_or(common).to_owned();
    manifests.settle(&default)?;
    if manifests.registrations.is_empty() {
        return Err(Error::Nothing);
    }
    manifests.apply_to(&mut cluster);
    for pod in cluster.pods.iter_mut().filter(|pod| pod.namespace.is_empty()) {
        pod.namespace.clone_from(&default);
    }
    let mut record_formats = RecordFormats::new();
    record_formats.add(&manifests.record_formats);
    let mut outcomes = Vec::new();
    for registration in &manifests.registrations {
        let name = registration.spec.registry_ref.name.as_str();
        let given = manifests.registries.iter().find(|registry| registry.name_any() == name);
        let spec = given.map_or_else(defaults, |registry| registry.spec.clone());
        let mut preview = Preview::new("no-cluster", name, spec, cluster.clone());
        preview.settle(manifests.namespace(&registration.namespace().unwrap_or_default()));
        let reference = preview
            .register(registration, &record_formats)
            .map_err(|cause| Error::Refused {
                registration: format!(
                    "{}/{}",
                    registration.namespace().unwrap_or_default(),
                    registration.name_any()
                ),
                cause,
            })?;
        for scope in preview.scopes() {
            preview.observe(scope, 1, Vec::new());
        }
        outcomes.extend(preview.outcomes(&[reference]));
    }
    Ok(Plan {
        outcomes,
        refused: Vec::new(),
        other_etcd: Vec::new(),
        compared: Compared::Nothing,
    })
}

/// Returns the spec of a Registry with defaults only.
fn defaults() -> RegistrySpec {
    serde_json::from_value(json!({"etcd": {"endpoints": []}})).expect("all other fields have defaults")
}
