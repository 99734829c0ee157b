//! The requests with which one registration is written.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::time::{Instant, timeout};

use super::{RegistrationChange, RegistrationWrite};
use crate::api::{MANAGED_BY, ServiceRegistration, ServiceRegistrationSpec};
use crate::index::ANNOTATIONS;
use crate::kube::client::MANAGER;
use crate::telemetry::{Calls, Outcome, Peer};

/// Time-out of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a change was not made.
pub enum Failure {
    /// The API server refuses the change with this HTTP status: the object is invalid, or a right is missing.
    Refused { code: u16, message: String },
    /// The object has changed since it was read.
    Conflict,
    /// The API server is in trouble.
    Failed(String),
}

/// The requests of one write.
pub struct Requests {
    pub client: Client,
    pub calls: Calls,
}

impl Requests {
    /// Makes a change, unless the object already is as wanted or is not the operator's.
    pub async fn make(&self, write: &RegistrationWrite) -> Result<(), Failure> {
        let (namespace, name) = (&write.registration.namespace, &write.registration.name);
        let registrations: Api<ServiceRegistration> = Api::namespaced(self.client.clone(), namespace);
        // A list, because the operator has the right to list anyway. It is never answered from an outdated cache.
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.ask("list_registration", registrations.list(&named)).await?;
        let (present, params) = (found.items.into_iter().next(), params());
        let is_kept = |object: &ServiceRegistration| object.owning_service() == Some(&*write.service_uid);
        match (&write.change, present) {
            (RegistrationChange::Apply(spec), None) => {
                if !self.is_up_to_date(write).await? {
                    return Ok(());
                }
                let object = new_registration(write, spec);
                let created = registrations.create(&params, &object);
                self.ask("create_registration", created).await.map(drop)
            }
            (RegistrationChange::Apply(spec), Some(mut object)) if is_kept(&object) && object.spec != **spec => {
                if !self.is_up_to_date(write).await? {
                    return Ok(());
                }
                object.spec = (**spec).clone();
                object.status = None;
                object.metadata.managed_fields = None;
                let replaced = registrations.replace(name, &params, &object);
                self.ask("update_registration", replaced).await.map(drop)
            }
            (RegistrationChange::DeleteFrom { next, .. }, Some(object)) if is_kept(&object) => {
                if let Some(spec) = next {
                    self.check_creation(write, spec).await?;
                }
                if !self.is_up_to_date(write).await? {
                    return Ok(());
                }
                let exactly = DeleteParams::default().preconditions(Preconditions {
                    uid: object.metadata.uid,
                    resource_version: object.metadata.resource_version,
                });
                let deleted = registrations.delete(name, &exactly);
                self.ask("delete_registration", deleted).await.map(drop)
            }
            // Nothing to do. If the object has changed since the decision, the watch is about to report it.
            _ => Ok(()),
        }
    }

    /// Whether this replica still leads, and the Service still is as when the change was decided: the cached Service may be
    /// older than the one by which another replica has written the registration. If it is, the watch is about to report
    /// the Service.
    async fn is_up_to_date(&self, write: &RegistrationWrite) -> Result<bool, Failure> {
        let (namespace, name) = (&write.registration.namespace, &write.registration.name);
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.ask("list_service", services.list_metadata(&named)).await?;
        let is_same = |service: &kube::core::PartialObjectMeta<Service>| {
            let annotations = service.metadata.annotations.clone().unwrap_or_default();
            let ours = annotations.into_iter().filter(|(key, _)| key.starts_with(ANNOTATIONS));
            service.metadata.uid.as_deref() == Some(&*write.service_uid) && ours.eq(write.annotations.clone())
        };
        Ok(write.leader.is_set() && found.items.first().is_some_and(is_same))
    }

    /// Has the API server check whether it would create the registration with `spec`. The name is another one, because
    /// the present registration has its name.
    async fn check_creation(&self, write: &RegistrationWrite, spec: &ServiceRegistrationSpec) -> Result<(), Failure> {
        let registrations: Api<ServiceRegistration> =
            Api::namespaced(self.client.clone(), &write.registration.namespace);
        let mut object = new_registration(write, spec);
        object.metadata.name = None;
        object.metadata.generate_name = Some("leasehold-check-".to_owned());
        let dry_run = PostParams {
            dry_run: true,
            ..params()
        };
        let checked = registrations.create(&dry_run, &object);
        self.ask("check_registration", checked).await.map(drop)
    }

    /// Waits for the answer to one request, and counts it.
    async fn ask<T>(&self, call: &'static str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        let start = Instant::now();
        let (outcome, result) = match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => (Outcome::Ok, Ok(answer)),
            Ok(Err(kube::Error::Api(answer))) => match answer.code {
                409 => (Outcome::Refused, Err(Failure::Conflict)),
                code @ (400 | 403 | 422) => {
                    let message = answer.message.clone();
                    (Outcome::Refused, Err(Failure::Refused { code, message }))
                }
                _ => (Outcome::Error, Err(Failure::Failed(answer.to_string()))),
            },
            Ok(Err(error)) => (Outcome::Error, Err(Failure::Failed(error.to_string()))),
            Err(_) => {
                let cause = format!("no answer within {REQUEST_TIMEOUT:?}");
                (Outcome::Timeout, Err(Failure::Failed(cause)))
            }
        };
        self.calls.observe(Peer::Apiserver, call, outcome, start.elapsed());
        result
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Returns the registration to create for a Service.
pub fn new_registration(write: &RegistrationWrite, spec: &ServiceRegistrationSpec) -> ServiceRegistration {
    let (label, value) = MANAGED_BY;
    let (namespace, name) = (&write.registration.namespace, &write.registration.name);
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.to_string(),
        uid: write.service_uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    };
    ServiceRegistration {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(namespace.to_string()),
            labels: Some([(label.to_owned(), value.to_owned())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: spec.clone(),
        status: None,
    }
}
