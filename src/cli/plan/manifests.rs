//! Reads registrations, Registries, RecordFormats, and objects of the cluster from files, as users write them and kubectl
//! prints them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use kube::ResourceExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Error;
use crate::api::{RecordFormat, Registry, ServiceRegistration, unknown_field};
use crate::controller::{ClusterState, annotated_registration};
use crate::index::{EndpointSlice, NamespaceLabels, Service};
use crate::model::{RegistrationRef, listed};

/// The objects in the files given with `-f`.
#[derive(Debug, Default)]
pub struct Manifests {
    pub registrations: Vec<ServiceRegistration>,
    pub registries: Vec<Registry>,
    pub namespaces: Vec<NamespaceLabels>,
    pub record_formats: Vec<RecordFormat>,
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
}

impl Manifests {
    pub fn read(files: &[PathBuf]) -> Result<Self, Error> {
        let mut manifests = Self::default();
        for path in files {
            for object in objects(path)? {
                match object["kind"].as_str() {
                    Some("ServiceRegistration") => {
                        let registration = decode(path, "ServiceRegistration", object)?;
                        manifests.registrations.push(registration);
                    }
                    Some("RecordFormat") => {
                        let format = decode(path, "RecordFormat", object)?;
                        manifests.record_formats.push(format);
                    }
                    Some("Registry") => manifests.registries.push(decode(path, "Registry", object)?),
                    Some("Namespace") => {
                        let namespace = stripped(path, "Namespace", object, crate::kube::namespace)?;
                        manifests.namespaces.push(namespace);
                    }
                    Some("Service") => {
                        let service = stripped(path, "Service", object, crate::kube::service)?;
                        manifests.services.push(service);
                    }
                    Some("EndpointSlice") => {
                        let slice = stripped(path, "EndpointSlice", object, crate::kube::endpoint_slice)?;
                        manifests.slices.push(slice);
                    }
                    other => {
                        return Err(Error::Kind {
                            path: path.clone(),
                            kind: other.unwrap_or("document without a kind").to_owned(),
                        });
                    }
                }
            }
        }
        Ok(manifests)
    }

    /// Adds the registrations that the operator would keep for the annotated Services, in place of those that it has kept.
    /// As in a cluster, it leaves a registration of the same name alone that a user wrote.
    fn register_annotated(&mut self) -> Result<(), Error> {
        let annotated = self
            .services
            .iter()
            .filter(|service| annotated_registration(service).is_some());
        let annotated: Vec<_> = annotated.map(|service| (&*service.namespace, &*service.name)).collect();
        self.registrations.retain(|registration| {
            let (namespace, name) = (registration.namespace().unwrap_or_default(), registration.name_any());
            registration.owning_service().is_none() || !annotated.contains(&(&*namespace, &*name))
        });
        for service in &self.services {
            let (namespace, name) = (&*service.namespace, &*service.name);
            let is_taken = self.registrations.iter().any(|registration| {
                registration.name_any() == name && registration.namespace().unwrap_or_default() == namespace
            });
            match annotated_registration(service) {
                None => {}
                Some(_) if is_taken => {
                    let service = name.to_owned();
                    return Err(Error::Taken { service });
                }
                Some(Ok(registration)) => self.registrations.push(registration),
                Some(Err(problems)) => {
                    return Err(Error::Annotations {
                        service: name.to_owned(),
                        problems: listed(&problems, problems.len(), "and"),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the namespace `name` with its labels from the files, plus the name label that Kubernetes sets on each
    /// namespace.
    pub fn namespace(&self, name: &str) -> NamespaceLabels {
        let given = self.namespaces.iter().find(|namespace| namespace.name == name);
        let mut namespace = given.cloned().unwrap_or_else(|| NamespaceLabels {
            name: name.to_owned(),
            labels: BTreeMap::new(),
        });
        namespace
            .labels
            .insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        namespace
    }

    /// Whether the registration is that of an annotated Service.
    pub fn is_annotated(&self, registration: &RegistrationRef) -> bool {
        let mut services = self.services.iter();
        let names = |service: &Service| {
            (&*service.namespace, &*service.name) == (&*registration.namespace, &*registration.name)
        };
        services.any(|service| names(service) && annotated_registration(service).is_some())
    }

    /// Sets the namespace of registrations, Services and EndpointSlices that have none. Then adds the registrations of
    /// annotated Services.
    pub fn settle(&mut self, namespace: &str) -> Result<(), Error> {
        for registration in &mut self.registrations {
            registration
                .metadata
                .namespace
                .get_or_insert_with(|| namespace.to_owned());
        }
        let services = self.services.iter_mut().map(|service| &mut service.namespace);
        let slices = self.slices.iter_mut().map(|slice| &mut slice.namespace);
        for unset in services.chain(slices).filter(|own| own.is_empty()) {
            namespace.clone_into(unset);
        }
        self.register_annotated()
    }

    /// Adds the Services and EndpointSlices to `cluster`, as if they were applied.
    pub fn apply_to(&self, cluster: &mut ClusterState) {
        for service in &self.services {
            cluster.apply_service(service.clone());
        }
        for slice in &self.slices {
            cluster.add_slice(slice.clone());
        }
    }
}

/// Decodes an object of the cluster by `decode`.
fn stripped<T>(
    path: &Path,
    kind: &'static str,
    object: Value,
    decode: impl FnOnce(Value) -> Result<T, serde_json::Error>,
) -> Result<T, Error> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    decode(object).map_err(|cause| Error::Object {
        path: path.to_owned(),
        kind,
        name,
        cause: cause.to_string(),
    })
}

/// Reads the pods in a file, and the Services, EndpointSlices and nodes.
pub fn cluster(path: &Path) -> Result<ClusterState, Error> {
    let mut cluster = ClusterState::default();
    for object in objects(path)? {
        match object["kind"].as_str() {
            Some("Pod") => cluster.pods.push(stripped(path, "Pod", object, crate::kube::pod)?),
            Some("Node") => cluster.nodes.push(stripped(path, "Node", object, crate::kube::node)?),
            Some("Service") => cluster.add_service(stripped(path, "Service", object, crate::kube::service)?),
            Some("EndpointSlice") => {
                let slice = stripped(path, "EndpointSlice", object, crate::kube::endpoint_slice)?;
                cluster.add_slice(slice);
            }
            other => {
                return Err(Error::Kind {
                    path: path.to_owned(),
                    kind: other.unwrap_or("document without a kind").to_owned(),
                });
            }
        }
    }
    Ok(cluster)
}

/// Returns all objects of a file, including the items of lists.
fn objects(path: &Path) -> Result<Vec<Value>, Error> {
    let failed = |cause| Error::Read {
        path: path.to_owned(),
        cause,
    };
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        text
    } else {
        std::fs::read_to_string(path).map_err(failed)?
    };
    // A list of many pods is usually JSON, and JSON parses in a fraction of the time.
    let documents: Vec<Value> = match serde_json::from_str(&text) {
        Ok(object) => vec![object],
        Err(_) => serde_saphyr::from_multiple(&text).map_err(|cause| Error::Parse {
            path: path.to_owned(),
            cause: cause.to_string(),
        })?,
    };
    let mut objects = Vec::new();
    for mut document in documents {
        match document.get_mut("items").map(Value::take) {
            // In lists, kubectl sets the kind of the items, but the API server does not.
            Some(Value::Array(items)) => {
                let kind = document["kind"].as_str().unwrap_or_default();
                let of_items = kind
                    .strip_suffix("List")
                    .filter(|kind| !kind.is_empty())
                    .map(str::to_owned);
                objects.extend(items.into_iter().map(|mut item| {
                    if let (Some(kind), true) = (&of_items, item["kind"].is_null() && item.is_object()) {
                        item["kind"] = Value::from(kind.as_str());
                    }
                    item
                }));
            }
            _ if document.is_null() => {}
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

/// Decodes an object and rejects fields that its kind does not have: a misspelt field would otherwise be ignored
/// silently.
fn decode<K: DeserializeOwned + Serialize + ResourceExt>(
    path: &Path,
    kind: &'static str,
    object: Value,
) -> Result<K, Error> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let wrong = |cause| Error::Object {
        path: path.to_owned(),
        kind,
        name: name.clone(),
        cause,
    };
    let spec = object["spec"].clone();
    let decoded: K = serde_json::from_value(object).map_err(|error| wrong(error.to_string()))?;
    if decoded.name_any().is_empty() {
        return Err(wrong("it has no metadata.name".to_owned()));
    }
    let known = serde_json::to_value(&decoded).map_err(|error| wrong(error.to_string()))?;
    match unknown_field(&spec, &known["spec"], "spec") {
        Some(field) => Err(wrong(format!("there is no field {field}"))),
        None => Ok(decoded),
    }
}
