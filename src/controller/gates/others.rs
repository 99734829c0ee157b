//! Which pods that wait for their readiness gate another installation has registered, as far as the status of its
//! registration says so. A pod with records in Registries of several installations becomes ready only when all of them
//! are there.

use std::collections::BTreeSet;

use super::spec_version;
use crate::api::{ConditionType, EndpointStatus, ServiceRegistration, ServiceRegistrationStatus};
use crate::controller::cache::Cache;
use crate::controller::gates::GateEvent;
use crate::index::ReadyPod;
use crate::model::RegistrationRef;
use crate::plan::GatedPod;

/// Returns the pods that wait for their gate and that `object`, a registration of another installation, has registered
/// by its newest spec.
pub fn registered(cache: &Cache, registration: &RegistrationRef, object: &ServiceRegistration) -> Vec<GateEvent> {
    let generation = object.metadata.generation.unwrap_or_default();
    let status = object.status.as_ref().filter(|status| is_in_sync(status, generation));
    let (Some(status), Some(spec)) = (status, spec_version(cache, registration)) else {
        return Vec::new();
    };
    let names: BTreeSet<&str> = status.endpoints.iter().map(|endpoint| &*endpoint.pod).collect();
    let event = |pod: &str| {
        let uid = cache.index.waiting(&registration.namespace, pod)?;
        let ready = cache.index.view_if_ready(registration, pod)?;
        let gated = GatedPod {
            registration: registration.clone(),
            pod: pod.into(),
            uid,
            is_registered: true,
        };
        let registry = object.spec.registry_ref.name.as_str().into();
        is_covered(&ready, &status.endpoints).then(|| GateEvent::Registered(gated, registry, spec.clone()))
    };
    names.into_iter().filter_map(event).collect()
}

/// Whether the status says that etcd contains what the spec of this generation asks for.
fn is_in_sync(status: &ServiceRegistrationStatus, generation: i64) -> bool {
    status.conditions.iter().any(|condition| {
        let is_new = condition.observed_generation == Some(generation);
        condition.type_ == ConditionType::Synced.as_str() && condition.status == "True" && is_new
    })
}

/// Whether all endpoints of the pod are among those of the status. A former pod of this name had another address.
fn is_covered(ready: &ReadyPod, endpoints: &[EndpointStatus]) -> bool {
    ready.endpoints.iter().all(|wanted| {
        let address = wanted.address.to_string();
        endpoints
            .iter()
            .any(|one| (&one.address, one.port, &*one.port_name) == (&address, wanted.port, &*wanted.port_name))
    })
}
