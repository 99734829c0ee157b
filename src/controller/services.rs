//! Handles Services, EndpointSlices and nodes, and examines the registrations that depend on them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::cache::Cache;
use super::compile::{Compiled, References};
use super::worker::Command;
use super::{Controller, registry_of};
use crate::api::{AddressType, ServiceRegistration};
use crate::index::{DirtyMark, EndpointSlice, Node, ObjectCache, Service, Target};
use crate::kube::{ENDPOINT_SLICES, NODES, ObjectEvent, SERVICES};
use crate::model::{NamespaceScope, RegistrationRef};

/// Services, the EndpointSlices that Kubernetes' own controller does not write, and the registrations that name Services.
#[derive(Debug, Default)]
pub struct Services {
    objects: ObjectCache<Service>,
    slices: ObjectCache<EndpointSlice>,
    /// By namespace and name of the Service. May contain registrations that no longer name it.
    users: HashMap<(Arc<str>, Arc<str>), BTreeSet<RegistrationRef>>,
}

impl Services {
    /// Returns the Service as it is cached.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.objects.get(namespace, name)
    }

    /// Adds `registration` to the users of the Service that `object` names.
    pub fn add_user(&mut self, registration: &RegistrationRef, object: &ServiceRegistration) {
        if let Some(service) = &object.spec.service {
            let service = (registration.namespace.clone(), service.name.as_str().into());
            self.users.entry(service).or_default().insert(registration.clone());
        }
    }

    pub fn remove_user(&mut self, registration: &RegistrationRef, object: &ServiceRegistration) {
        let Some(service) = &object.spec.service else { return };
        let service = (registration.namespace.clone(), service.name.as_str().into());
        if let Some(users) = self.users.get_mut(&service) {
            users.remove(registration);
            if users.is_empty() {
                self.users.remove(&service);
            }
        }
    }
}

impl Controller {
    /// The objects that registrations of the Registry `registry` refer to.
    pub(super) fn references(&self, registry: &str) -> References<'_> {
        let registry = self.registries.get(registry);
        References {
            record_formats: self.library.formats(),
            default_formats: registry.map_or(&[], |known| &known.spec().defaults.formats),
            services: &self.services.objects,
            slices: &self.services.slices,
        }
    }

    /// Whether all objects are listed that decide what the Service of `object` is.
    pub(super) fn is_service_known(&self, reference: &RegistrationRef, object: &ServiceRegistration) -> bool {
        let is_listed = |kind| self.watches.is_listed_in(kind, &reference.namespace);
        object.spec.service.is_none() || is_listed(SERVICES) && is_listed(ENDPOINT_SLICES)
    }

    pub(super) fn service(
        &mut self,
        cache: &mut Cache,
        namespaces: &NamespaceScope,
        seen: ObjectEvent<Service>,
        now: Instant,
    ) {
        match seen {
            ObjectEvent::ListBegins => self.services.objects.begin_relist(namespaces),
            ObjectEvent::Lost(_) => self.weigh(cache, now),
            ObjectEvent::Applied(service) => {
                let (namespace, name) = (service.namespace.clone(), service.name.clone());
                if self.services.objects.apply(&namespace, &name, service) {
                    self.examine_users_of(cache, &namespace, &name, now);
                    self.annotations_changed(cache, &namespace, &name);
                }
            }
            ObjectEvent::Deleted { namespace, name } => {
                if self.services.objects.delete(&namespace, &name).is_some() {
                    self.examine_users_of(cache, &namespace, &name, now);
                    self.annotations_changed(cache, &namespace, &name);
                }
            }
            ObjectEvent::Unreadable { namespace, name, .. } => self.services.objects.keep(&namespace, &name),
            ObjectEvent::ListComplete => {
                for deleted in self.services.objects.end_relist(namespaces) {
                    self.examine_users_of(cache, &deleted.namespace, &deleted.name, now);
                    self.annotations_changed(cache, &deleted.namespace, &deleted.name);
                }
                self.are_listed(cache, SERVICES, namespaces, now);
            }
        }
    }

    pub(super) fn endpoint_slice(
        &mut self,
        cache: &mut Cache,
        namespaces: &NamespaceScope,
        seen: ObjectEvent<EndpointSlice>,
        now: Instant,
    ) {
        match seen {
            ObjectEvent::ListBegins => self.services.slices.begin_relist(namespaces),
            ObjectEvent::Lost(_) => self.weigh(cache, now),
            ObjectEvent::Applied(slice) => {
                let (namespace, name, service) = (slice.namespace.clone(), slice.name.clone(), slice.service.clone());
                let before = self.services.slices.get(&namespace, &name);
                let before = before
                    .map(|slice| slice.service.clone())
                    .filter(|before| *before != service);
                if self.services.slices.apply(&namespace, &name, slice) {
                    for service in before.iter().chain([&service]) {
                        self.examine_users_of(cache, &namespace, service, now);
                    }
                }
            }
            ObjectEvent::Deleted { namespace, name } => {
                if let Some(deleted) = self.services.slices.delete(&namespace, &name) {
                    self.examine_users_of(cache, &namespace, &deleted.service, now);
                }
            }
            ObjectEvent::Unreadable { namespace, name, .. } => self.services.slices.keep(&namespace, &name),
            ObjectEvent::ListComplete => {
                for deleted in self.services.slices.end_relist(namespaces) {
                    self.examine_users_of(cache, &deleted.namespace, &deleted.service, now);
                }
                self.are_listed(cache, ENDPOINT_SLICES, namespaces, now);
            }
        }
    }

    /// Handles the end of a list: what it did not contain does not exist.
    fn are_listed(&mut self, cache: &mut Cache, kind: &'static str, namespaces: &NamespaceScope, now: Instant) {
        if self.watches.listed(kind, namespaces) {
            self.examine_all(cache, |object| object.spec.service.is_some(), now);
        }
        self.weigh(cache, now);
    }

    /// Examines the registrations that name a Service again.
    fn examine_users_of(&mut self, cache: &mut Cache, namespace: &str, service: &str, now: Instant) {
        let key = (namespace.into(), service.into());
        let Some(users) = self.services.users.get(&key) else {
            return;
        };
        let names = |object: &ServiceRegistration| {
            let named = object.spec.service.as_ref();
            named.is_some_and(|named| named.name == service)
        };
        for reference in users.clone() {
            let kept = cache.entries.get(&reference).and_then(|entry| entry.kept().cloned());
            if let Some(object) = kept.filter(|object| names(object)) {
                self.examine(cache, &reference, &object, now);
            } else if let Some(users) = self.services.users.get_mut(&key) {
                users.remove(&reference);
            }
        }
        self.report_unclear();
    }

    pub(super) fn node(&mut self, cache: &mut Cache, seen: ObjectEvent<Node>, now: Instant) {
        match seen {
            ObjectEvent::ListBegins => cache.index.begin_node_relist(),
            ObjectEvent::Lost(_) => self.weigh(cache, now),
            ObjectEvent::Applied(node) => {
                let marks = cache.index.apply_node(&node);
                self.send_marks(cache, &marks, false, now);
            }
            ObjectEvent::Deleted { name, .. } => {
                let marks = cache.index.delete_node(&name);
                self.send_marks(cache, &marks, true, now);
            }
            ObjectEvent::Unreadable { name, .. } => cache.index.keep_node(&name),
            ObjectEvent::ListComplete => {
                let missing = cache.index.end_node_relist().into_iter();
                let missing: Vec<_> = missing.map(|mark| (mark, false)).collect();
                self.send_missing(cache, &missing, now);
                if self.watches.listed(NODES, &NamespaceScope::Cluster) {
                    self.examine_node_users(cache, now);
                }
                self.weigh(cache, now);
            }
        }
    }

    /// Examines the registrations of nodes and of their labels again, because it has become known which nodes there are, or
    /// that this cannot be known.
    pub(super) fn examine_node_users(&mut self, cache: &mut Cache, now: Instant) {
        let needs_nodes = |object: &ServiceRegistration| {
            object.spec.address.kind == AddressType::NodePort || object.spec.uses_node_labels()
        };
        self.examine_all(cache, needs_nodes, now);
    }

    /// Sends each worker the marks of its registrations. `deleted`: the pods or nodes of these names were deleted.
    pub(super) fn send_marks(&self, cache: &Cache, marks: &[DirtyMark], deleted: bool, at: Instant) {
        // The marks of one registration follow each other. Its count, which may cost a look at each address, is the same
        // for all of them.
        for marks in marks.chunk_by(|mark, next| mark.registration == next.registration) {
            let registration = &marks[0].registration;
            let Some(registry) = registry_of(cache, registration) else {
                continue;
            };
            let selected = cache.index.selected_count(registration);
            for mark in marks {
                let changed = Command::PodSelected {
                    selected,
                    registration: registration.clone(),
                    pod: mark.pod.clone(),
                    deleted,
                    at,
                };
                self.workers.send(registry, changed);
            }
        }
    }
}

/// Whether the nodes decide what the registration registers, and are not known.
pub fn lacks_nodes(cache: &Cache, compiled: &Compiled) -> bool {
    let needs_nodes = matches!(compiled.registration.target, Target::Nodes(_)) || !compiled.node_labels.is_empty();
    needs_nodes && !cache.index.nodes().are_listed()
}
