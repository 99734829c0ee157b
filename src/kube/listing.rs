//! One-time requests for the state of a cluster, for CLI commands that print something and exit. Their calls are not
//! counted: such a command serves no metrics.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::sources::{Content, Holder, Source, SourceKind};
use super::stripped::StrippedPod;
use super::stripped_objects::{StrippedNamespace, StrippedNode, StrippedService, StrippedSlice};
use super::watch_scope::WatchScope;
use crate::api::{RecordFormat, Registry, ServiceRegistration};
use crate::index::{EndpointSlice, NamespaceLabels, Node, Pod, Service};

/// Time-out of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects per page of a list.
const PAGE: u32 = 500;
/// Attempts at a dry run of an object that others write at the same time.
const DRY_RUN_ATTEMPTS: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// The API server refuses the request, or the connection fails.
    #[error("cannot {doing}: {cause}")]
    Refused {
        /// The attempted action, as an infinitive.
        doing: String,
        cause: Box<kube::Error>,
    },
    #[error("cannot {doing}: no answer within {REQUEST_TIMEOUT:?}; check that the kube-apiserver is reachable")]
    Timeout {
        /// The attempted action, as an infinitive.
        doing: String,
    },
}

/// Decodes the fields that matter of a pod as Kubernetes prints it, such as an item of `kubectl get pods -o json`.
pub fn pod(object: Value) -> Result<Pod, serde_json::Error> {
    serde_json::from_value::<StrippedPod>(object).map(Pod::from)
}

/// Decodes the fields that matter of a namespace manifest.
pub fn namespace(object: Value) -> Result<NamespaceLabels, serde_json::Error> {
    serde_json::from_value::<StrippedNamespace>(object).map(NamespaceLabels::from)
}

/// Decodes the fields that matter of a Service manifest.
pub fn service(object: Value) -> Result<Service, serde_json::Error> {
    serde_json::from_value::<StrippedService>(object).map(Service::from)
}

/// Decodes the fields that matter of an EndpointSlice manifest.
pub fn endpoint_slice(object: Value) -> Result<EndpointSlice, serde_json::Error> {
    serde_json::from_value::<StrippedSlice>(object).map(EndpointSlice::from)
}

/// Decodes the fields that matter of a node as Kubernetes prints it.
pub fn node(object: Value) -> Result<Node, serde_json::Error> {
    serde_json::from_value::<StrippedNode>(object).map(Node::from)
}

/// Sends one-time requests to a cluster.
#[derive(Clone)]
pub struct Listing {
    client: Client,
}

impl Listing {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub async fn pods(&self, namespace: &str) -> Result<Vec<Pod>, ListingError> {
        let api: Api<StrippedPod> = Api::namespaced(self.client.clone(), namespace);
        let pods = all(&api, &format!("list the pods of the namespace {namespace}")).await?;
        Ok(pods.into_iter().map(Pod::from).collect())
    }

    pub async fn services(&self, namespace: &str) -> Result<Vec<Service>, ListingError> {
        let api: Api<StrippedService> = Api::namespaced(self.client.clone(), namespace);
        let services = all(&api, &format!("list the Services of the namespace {namespace}")).await?;
        Ok(services.into_iter().map(Service::from).collect())
    }

    pub async fn endpoint_slices(&self, namespace: &str) -> Result<Vec<EndpointSlice>, ListingError> {
        let api: Api<StrippedSlice> = Api::namespaced(self.client.clone(), namespace);
        let slices = all(&api, &format!("list the EndpointSlices of the namespace {namespace}")).await?;
        Ok(slices.into_iter().map(EndpointSlice::from).collect())
    }

    pub async fn nodes(&self) -> Result<Vec<Node>, ListingError> {
        let api: Api<StrippedNode> = Api::all(self.client.clone());
        let nodes = all(&api, "list the nodes").await?;
        Ok(nodes.into_iter().map(Node::from).collect())
    }

    pub async fn namespace(&self, name: &str) -> Result<NamespaceLabels, ListingError> {
        let api: Api<StrippedNamespace> = Api::all(self.client.clone());
        let found = answer(&format!("get the namespace {name}"), api.get(name)).await?;
        Ok(found.into())
    }

    /// Returns the registrations in all namespaces of `watch_scope`.
    pub async fn registrations(&self, watch_scope: &WatchScope) -> Result<Vec<ServiceRegistration>, ListingError> {
        let mut found = Vec::new();
        for namespaces in watch_scope.scopes() {
            let api: Api<ServiceRegistration> = match namespaces.name() {
                Some(namespace) => Api::namespaced(self.client.clone(), namespace),
                None => Api::all(self.client.clone()),
            };
            found.extend(all(&api, &format!("list the ServiceRegistrations of {namespaces}")).await?);
        }
        Ok(found)
    }

    pub async fn registries(&self) -> Result<Vec<Registry>, ListingError> {
        let api: Api<Registry> = Api::all(self.client.clone());
        all(&api, "list the Registries").await
    }

    /// Returns the CustomResourceDefinitions with these `names`; `None` for each that does not exist.
    pub async fn definitions(&self, names: &[String]) -> Result<Vec<Option<CustomResourceDefinition>>, ListingError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            found.push(answer(&format!("get the CustomResourceDefinition {name}"), api.get_opt(name)).await?);
        }
        Ok(found)
    }

    /// Returns the version of the kube-apiserver, such as `v1.36.3`.
    pub async fn version(&self) -> Result<Info, ListingError> {
        answer("get the version of the kube-apiserver", self.client.apiserver_version()).await
    }

    pub async fn record_formats(&self) -> Result<Vec<RecordFormat>, ListingError> {
        let api: Api<RecordFormat> = Api::all(self.client.clone());
        all(&api, "list the RecordFormats").await
    }

    pub async fn registry(&self, name: &str) -> Result<Option<Registry>, ListingError> {
        let api: Api<Registry> = Api::all(self.client.clone());
        answer(&format!("get the Registry {name}"), api.get_opt(name)).await
    }

    /// Returns the content of a Secret or ConfigMap in `namespace` that a Registry names.
    pub async fn source(&self, namespace: &str, source: &Source) -> Result<Content, ListingError> {
        let doing = format!("get the {} {namespace}/{}", source.kind.as_str(), source.name);
        match source.kind {
            SourceKind::Secret => content::<Secret>(&self.client, namespace, source, &doing).await,
            SourceKind::ConfigMap => content::<ConfigMap>(&self.client, namespace, source, &doing).await,
        }
    }

    /// Returns the registration as the API server would store it in place of the present one: after admission and with
    /// defaults, by a dry run that changes nothing. The registration must name its namespace.
    pub async fn admitted(&self, registration: &ServiceRegistration) -> Result<ServiceRegistration, ListingError> {
        let (namespace, name) = (registration.namespace().unwrap_or_default(), registration.name_any());
        let api = Api::namespaced(self.client.clone(), &namespace);
        let doing = format!("validate the ServiceRegistration {namespace}/{name} by a dry run");
        dry_run(&api, registration.clone(), &doing).await
    }

    /// The same for a Registry.
    pub async fn admitted_registry(&self, registry: &Registry) -> Result<Registry, ListingError> {
        let api = Api::all(self.client.clone());
        let doing = format!("validate the Registry {} by a dry run", registry.name_any());
        dry_run(&api, registry.clone(), &doing).await
    }
}

async fn dry_run<K>(api: &Api<K>, mut object: K, doing: &str) -> Result<K, ListingError>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let name = object.name_any();
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let present = answer(doing, api.get_metadata_opt(&name)).await?;
        // The resourceVersion in a file may be outdated.
        object.meta_mut().resource_version = present.as_ref().and_then(ResourceExt::resource_version);
        let admitted = match present {
            Some(_) => answer(doing, api.replace(&name, &params, &object)).await,
            None => answer(doing, api.create(&params, &object)).await,
        };
        match admitted {
            // The operator writes the status whenever it has something to report.
            Err(ListingError::Refused { cause, .. }) if is_conflict(&cause) && attempts < DRY_RUN_ATTEMPTS => {}
            admitted => return admitted,
        }
    }
}

async fn content<K>(client: &Client, namespace: &str, source: &Source, doing: &str) -> Result<Content, ListingError>
where
    K: Holder + kube::Resource<Scope = kube::core::NamespaceResourceScope>,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let found = answer(doing, api.get_opt(&source.name)).await?;
    Ok(found.map_or(Content::Absent, Holder::content))
}

async fn all<K: Clone + DeserializeOwned + std::fmt::Debug>(api: &Api<K>, doing: &str) -> Result<Vec<K>, ListingError> {
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = answer(doing, api.list(&page)).await?;
        objects.extend(listed.items);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// The object was changed or created since it was read.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

pub(super) async fn answer<T>(doing: &str, question: impl Future<Output = kube::Result<T>>) -> Result<T, ListingError> {
    match timeout(REQUEST_TIMEOUT, question).await {
        Ok(answer) => answer.map_err(|cause| ListingError::Refused {
            doing: doing.to_owned(),
            cause: Box::new(cause),
        }),
        Err(_) => Err(ListingError::Timeout {
            doing: doing.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
