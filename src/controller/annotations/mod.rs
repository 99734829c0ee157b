//! Keeps a registration for each Service whose annotations ask for one.
//!
//! [`spec`] turns annotations into a spec and [`decision`] decides what to do; both are pure. [`keeper`] applies the
//! decisions to what the controller has cached. The writes themselves are in `kube`. Once the registration exists, it is
//! admitted like one that a user wrote: annotations reach nothing that a ServiceRegistration could not reach.

mod decision;
mod keeper;
mod kept;
mod spec;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::keeper::AnnotatedServices;
pub use self::spec::Problem;
use crate::api::{MANAGED_BY, ServiceRegistration};
use crate::index::Service;

/// Returns the registration that the operator would keep for `service`; none if its annotations ask for none. It has no
/// owner: the Service may not exist yet.
pub fn annotated_registration(service: &Service) -> Option<Result<ServiceRegistration, Vec<Problem>>> {
    let (label, value) = MANAGED_BY;
    let registration = |spec| ServiceRegistration {
        metadata: ObjectMeta {
            name: Some(service.name.clone()),
            namespace: Some(service.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    Some(spec::desired(service)?.map(registration))
}
