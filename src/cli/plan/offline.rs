//! Plans without a cluster and without an etcd, with the pods and other objects in a file.

use std::collections::BTreeSet;
use std::path::Path;

use kube::ResourceExt;
use serde_json::json;

use super::error::Error;
use super::manifests::{Manifests, cluster};
use super::{Compared, Plan, reference};
use crate::api::{RegistrySpec, ServiceRegistration};
use crate::controller::{ClusterState, Outcome, Preview};
use crate::model::RegistrationRef;

pub async fn find(mut manifests: Manifests, path: &Path, namespace: Option<&str>) -> Result<Plan, Error> {
    let mut cluster = cluster(path)?;
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
    let names = manifests.registrations.iter().map(registry_name);
    let mut outcomes = Vec::new();
    for name in names.collect::<BTreeSet<&str>>() {
        outcomes.extend(in_registry(name, &manifests, cluster.clone()).await?);
    }
    let order: Vec<RegistrationRef> = manifests.registrations.iter().map(reference).collect();
    outcomes.sort_by_key(|outcome| order.iter().position(|wanted| *wanted == outcome.registration));
    Ok(Plan {
        outcomes,
        refused: Vec::new(),
        other_etcd: Vec::new(),
        compared: Compared::Nothing,
    })
}

fn registry_name(registration: &ServiceRegistration) -> &str {
    &registration.spec.registry_ref.name
}

/// Returns the outcomes of the registrations that use this Registry.
async fn in_registry(name: &str, manifests: &Manifests, cluster: ClusterState) -> Result<Vec<Outcome>, Error> {
    let given = manifests.registries.iter().find(|registry| registry.name_any() == name);
    let spec = given.map_or_else(defaults, |registry| registry.spec.clone());
    let registrations = manifests.registrations.iter();
    let registrations: Vec<_> = registrations.filter(|one| registry_name(one) == name).collect();
    let mut preview = Preview::new("no-cluster", name, spec, cluster);
    let namespaces = registrations.iter().filter_map(|one| one.namespace());
    for namespace in namespaces.collect::<BTreeSet<String>>() {
        preview.settle(manifests.namespace(&namespace));
    }
    for format in &manifests.record_formats {
        preview.add_record_format(format);
    }
    let mut references = Vec::new();
    for registration in registrations {
        let refused = |cause| Error::Refused {
            registration: reference(registration).to_string(),
            cause,
        };
        references.push(preview.register(registration).map_err(refused)?);
    }
    for prefix in preview.prefixes() {
        preview.observe(prefix, 1, Vec::new());
    }
    Ok(preview.outcomes(&references).await)
}

/// Returns the spec of a Registry with defaults only.
fn defaults() -> RegistrySpec {
    serde_json::from_value(json!({"etcd": {"endpoints": []}})).expect("all other fields have defaults")
}
