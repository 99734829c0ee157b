//! Handles Registries that are created, changed or deleted, and Registries from the stored state of an earlier process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;

use super::cache::Cache;
use super::compile::Compiled;
use super::{Command, Controller};
use crate::api::{APPROVE_REMOVALS, GuardMode, Registry, RegistrySpec, RegistryStatus, ServiceRegistration};
use crate::backend::Access;
use crate::controller::state::{State, StoredRegistry};
use crate::controller::worker::{StatusSeen, Trouble, Version};
use crate::kube::{ObjectEvent, REGISTRIES, StatusUpdate};
use crate::model::{NamespaceScope, WatchTarget};
use crate::telemetry::RegistryHealth;

/// Whether an installation of the class `class` serves the Registry `spec`. All others leave it alone.
fn serves(class: Option<&str>, spec: &RegistrySpec) -> bool {
    spec.class.as_deref() == class
}

/// A Registry that the controller knows.
#[derive(Debug)]
pub struct Known {
    uid: String,
    /// The `uid` from the stored state, while Kubernetes has not reported the object yet.
    former_uid: String,
    generation: i64,
    spec: RegistrySpec,
    /// The hold that an admin has approved.
    approved: Option<String>,
    /// The list that contained the Registry last.
    list: u64,
    /// When the Registry is dropped by the next list, if no list contains it until then; none if the newest one does.
    missing_until: Option<Instant>,
    /// The status as last observed.
    pub(super) reported: StatusSeen,
    /// The access that its worker received last; none while the worker has none.
    pub(super) offered: Option<Box<Access>>,
    /// Why the access that the spec names now cannot be used.
    pub(super) wrong: Option<Trouble>,
    /// The access that etcd accepted last.
    pub(super) good: Option<Access>,
}

impl Known {
    pub fn spec(&self) -> &RegistrySpec {
        &self.spec
    }

    pub fn version(&self) -> Version {
        Version {
            uid: self.uid.as_str().into(),
            generation: self.generation,
        }
    }

    /// Records that a list lacks the Registry. It stays in force for as long as its guard holds keys, because the list may
    /// be wrong. A Registry of the stored state that the first list lacks is dropped at once.
    fn is_missing(&mut self, name: &str, now: Instant) {
        let guard = &self.spec.guard;
        let is_guarded = guard.mode == GuardMode::Hold && !self.uid.is_empty();
        let hold = Duration::from_secs(if is_guarded { guard.hold_seconds.into() } else { 0 });
        if self.missing_until.is_none() {
            self.missing_until = Some(now + hold);
            if is_guarded {
                tracing::warn!(
                    registry = name,
                    seconds = hold.as_secs(),
                    "a list lacks the Registry, and its deletion was not reported; it stays in force for this time"
                );
            }
        }
    }

    /// Whether `uid` belongs to another object, created after this one was deleted.
    fn is_other(&self, uid: &str) -> bool {
        let known = [&self.uid, &self.former_uid]
            .into_iter()
            .find(|known| !known.is_empty());
        known.is_some_and(|known| known != uid)
    }

    /// Returns the access to start with: `access`, but with the endpoints that the status reports as in use, if it
    /// reports any.
    pub(super) fn begin_with(&self, access: &Access) -> Access {
        let endpoints = &self.reported.endpoints;
        if endpoints.is_empty() {
            return access.clone();
        }
        Access {
            endpoints: endpoints.clone(),
            ..access.clone()
        }
    }

    pub fn approved(&self) -> Option<String> {
        self.approved.clone()
    }
}

impl Controller {
    /// Starts workers for the Registries of the stored state, with the access that etcd accepted last. Until Kubernetes
    /// reports the Registries, the workers renew leases and do nothing else, as after any start.
    pub fn resume(&mut self, registries: impl IntoIterator<Item = (String, StoredRegistry)>) {
        let class = self.workers.context().class.clone();
        // The state may be that of an earlier process with another class.
        let registries = registries
            .into_iter()
            .filter(|(_, stored)| serves(class.as_deref(), &stored.spec));
        for (name, stored) in registries {
            let Some(access) = stored.access() else {
                tracing::warn!(
                    registry = name,
                    "the state folder has no credentials of this Registry, so this replica renews none of its \
                     leases until the kube-apiserver answers"
                );
                continue;
            };
            let StoredRegistry {
                uid, generation, spec, ..
            } = stored;
            tracing::info!(registry = name, endpoints = ?access.endpoints, "resuming a Registry of the state folder");
            let name: Arc<str> = name.into();
            // The Registry is in no list yet. When Kubernetes reports the object, it is handled like a new one.
            let known = Known {
                uid: String::new(),
                former_uid: uid,
                generation,
                spec: spec.clone(),
                approved: None,
                list: 0,
                missing_until: None,
                reported: StatusSeen::default(),
                offered: Some(Box::new(access.clone())),
                wrong: None,
                good: Some(access.clone()),
            };
            let version = known.version();
            self.registries.insert(name.clone(), known);
            let health = &self.workers.context().health;
            health.set_registry(&name, RegistryHealth::Starting);
            self.workers.start(&name, spec, version, Ok(Box::new(access)));
        }
        self.watch_sources();
    }

    /// Handles the apiserver's answer with the UID of its cluster. The answer overrides the stored state: Registries of
    /// another cluster are dropped. Nothing has been written for them.
    pub(super) fn cluster(&mut self, id: Arc<str>) {
        let context = self.workers.context();
        let confirmed = context.cluster_confirmed.clone();
        if context.cluster_id != id {
            tracing::warn!(
                cluster_id = %id, stored = %context.cluster_id,
                "the kube-apiserver serves another cluster than the state folder; the stored Registries are dropped"
            );
            for name in std::mem::take(&mut self.registries).into_keys() {
                self.let_go(&name);
            }
            self.watch_sources();
            self.workers.serve_cluster(id);
        }
        confirmed.cancel();
    }

    /// The Registries that this installation serves.
    pub(super) fn served(&self) -> impl Iterator<Item = (&Arc<str>, &Known)> {
        let class = self.workers.context().class.as_deref();
        self.registries
            .iter()
            .filter(move |(_, known)| serves(class, known.spec()))
    }

    /// Publishes the state to be stored, once all Registries are listed.
    pub(super) fn remember(&self) {
        if !self.watches.is_listed(REGISTRIES, &NamespaceScope::Cluster) {
            return;
        }
        let store = |known: &Known| StoredRegistry {
            uid: if known.uid.is_empty() {
                known.former_uid.clone()
            } else {
                known.uid.clone()
            },
            generation: known.generation,
            spec: known.spec.clone(),
            access: known.good.clone(),
        };
        let registries = self.served();
        let now = State {
            cluster_id: self.workers.context().cluster_id.to_string(),
            registries: registries
                .map(|(name, known)| (name.to_string(), store(known)))
                .collect(),
        };
        self.state.send_if_modified(|reported| {
            let is_new = reported.as_ref() != Some(&now);
            *reported = Some(now);
            is_new
        });
    }

    pub(super) fn registry(&mut self, cache: &mut Cache, seen: ObjectEvent<Box<Registry>>, now: Instant) {
        match seen {
            ObjectEvent::ListBegins => self.registry_list += 1,
            ObjectEvent::Lost(_) => self.weigh(cache, now),
            ObjectEvent::Applied(object) => self.registry_applied(cache, *object, now),
            ObjectEvent::Deleted { name, .. } => self.registry_gone(cache, &name, now),
            // The watch has logged the error. The known spec stays in force.
            ObjectEvent::Unreadable { name, .. } => {
                if let Some(known) = self.registries.get_mut(&*name) {
                    known.list = self.registry_list;
                    known.missing_until = None;
                }
            }
            ObjectEvent::ListComplete => {
                let list = self.registry_list;
                for (name, known) in self.registries.iter_mut().filter(|(_, known)| known.list != list) {
                    known.is_missing(name, now);
                }
                self.drop_missing(cache, now);
                if self.watches.listed(REGISTRIES, &NamespaceScope::Cluster) {
                    self.admit_pending(cache, now);
                    self.examine_all(cache, |_| true, now);
                }
                self.weigh(cache, now);
            }
        }
    }

    fn registry_applied(&mut self, cache: &mut Cache, object: Registry, now: Instant) {
        let name: Arc<str> = object.name_any().into();
        let generation = object.metadata.generation.unwrap_or_default();
        let uid = object.uid().unwrap_or_default();
        let class = self.workers.context().class.clone();
        let is_served = serves(class.as_deref(), &object.spec);
        let former = self.registries.get(&name);
        if former.is_some_and(|former| former.spec.class != object.spec.class) {
            // It was deleted and created again between two lists.
            self.registry_gone(cache, &name, now);
        }
        if let Some(status) = object.status.as_ref().filter(|_| is_served) {
            self.hint(&name, status);
        }
        let reported = StatusSeen::of(object.status.as_ref());
        // The status writer runs until the process ends.
        let _ = self
            .workers
            .context()
            .registries
            .send(StatusUpdate::Observed(name.clone(), object.status));
        let approved = object.metadata.annotations.as_ref();
        let approved = approved.and_then(|all| all.get(APPROVE_REMOVALS)).cloned();
        let spec = object.spec;
        let former = self.registries.remove(&name);
        let (offered, wrong, good) = match &former {
            // With another metaPrefix it is a different Registry: start from scratch.
            Some(former) if former.spec.etcd.meta_prefix == spec.etcd.meta_prefix => {
                // A recreated object may name another etcd cluster on purpose: drop an access with other endpoints.
                let is_same = |good: &Access| !former.is_other(&uid) || good.endpoints == spec.etcd.endpoints;
                let good = former.good.clone().filter(is_same);
                (former.offered.clone(), former.wrong.clone(), good)
            }
            _ => (None, None, None),
        };
        let known = Known {
            uid: uid.clone(),
            former_uid: String::new(),
            generation,
            spec: spec.clone(),
            approved: approved.clone(),
            list: self.registry_list,
            missing_until: None,
            reported: reported.clone(),
            offered,
            wrong,
            good,
        };
        let version = known.version();
        self.registries.insert(name.clone(), known);
        self.workers.send(&name, Command::Status(reported));
        self.watch_sources();
        let Some(former) = former else {
            tracing::info!(registry = %name, endpoints = ?spec.etcd.endpoints, class = spec.class, is_served, "new Registry");
            return self.registry_is_new(cache, &name, is_served, now);
        };
        if former.spec.etcd.meta_prefix != spec.etcd.meta_prefix {
            self.judge_reserved(cache, now);
        }
        if former.approved != approved {
            self.workers.send(&name, Command::Approve(approved));
        }
        let is_new = former.generation != generation || former.uid != uid;
        if !is_new {
            return;
        }
        if former.spec.etcd.meta_prefix != spec.etcd.meta_prefix {
            self.workers.stop(&name);
            self.enter(cache, &name, now);
            return self.examine_default_users(cache, &name, now);
        }
        if former.offered.is_none() {
            // The worker has no access yet: start it with the current spec.
            if let Some(known) = self.registries.get_mut(&name) {
                known.wrong = None;
            }
            self.enter(cache, &name, now);
            return self.examine_default_users(cache, &name, now);
        }
        let settings = Command::Settings {
            limits: spec.limits,
            guard: spec.guard,
            version,
        };
        self.workers.send(&name, settings);
        self.enter(cache, &name, now);
        if former.spec.access != spec.access || spec.access.is_some() && former.spec.defaults != spec.defaults {
            tracing::info!(registry = %name, "the access rules or the TTL of the Registry changed; checking its registrations again");
            self.rules_changed(cache, &name, now);
        } else if former.spec.defaults != spec.defaults {
            self.admit_all(cache, &name, now);
        } else if former.spec.node_labels != spec.node_labels {
            tracing::info!(registry = %name, "the labels of nodes that may be published changed; checking their users again");
            let of_registry = |compiled: &Compiled| compiled.registration.registry == name;
            self.admit_publishers_of_node_labels(cache, of_registry, now);
        }
        if former.spec.defaults.formats != spec.defaults.formats {
            self.examine_default_users(cache, &name, now);
        }
    }

    fn registry_is_new(&mut self, cache: &mut Cache, name: &Arc<str>, is_served: bool, now: Instant) {
        if !is_served {
            cache.others.insert(name.clone());
        }
        self.judge_reserved(cache, now);
        self.enter(cache, name, now);
        if !is_served {
            // Its registrations select pods here, too, whose readiness gates wait for the other installation.
            self.admit_all(cache, name, now);
        }
        self.keep_all_of(cache, name);
        self.examine_default_users(cache, name, now);
    }

    /// Examines the registrations again that have the default formats of a Registry.
    fn examine_default_users(&mut self, cache: &mut Cache, registry: &str, now: Instant) {
        let has_defaults =
            |object: &ServiceRegistration| object.spec.formats.is_empty() && object.spec.registry_ref.name == registry;
        self.examine_all(cache, has_defaults, now);
    }

    /// Passes on which replicas were connected to etcd according to the status, and their addresses. A replica without
    /// a connection must ask them before it can be counted on.
    fn hint(&self, name: &Arc<str>, status: &RegistryStatus) {
        let mut hints: Vec<(Arc<str>, Option<SocketAddr>)> = Vec::new();
        for replica in &status.replicas {
            let address = replica.address.as_ref().and_then(|address| address.parse().ok());
            hints.push((replica.name.as_str().into(), address));
        }
        if let Some(leader) = &status.leader
            && hints.iter().all(|(name, _)| **name != **leader)
        {
            // Earlier releases record no address.
            hints.push((leader.as_str().into(), None));
        }
        self.workers.context().peers.hint(name, hints);
    }

    /// Returns when Registries are to be listed again because lists have lacked one for long enough.
    pub(super) fn relist_at(&self) -> Option<Instant> {
        let missing = self.registries.values().filter_map(|known| known.missing_until);
        missing
            .filter(|until| self.relisted_at.is_none_or(|at| at < *until))
            .min()
    }

    /// Lists the Registries again: the list that lacks one is old by now. While the watch is lost, none is dropped.
    pub(super) fn relist(&mut self, now: Instant) {
        self.relisted_at = Some(now);
        let registries = WatchTarget::of_cluster(REGISTRIES);
        self.workers.context().checkpoint.relist(&registries);
    }

    /// Drops the Registries that lists have lacked for long enough. Call when a list is complete.
    fn drop_missing(&mut self, cache: &mut Cache, now: Instant) {
        let is_gone = |known: &Known| known.missing_until.is_some_and(|until| until <= now);
        let gone = self.registries.iter().filter(|(_, known)| is_gone(known));
        let gone: Vec<Arc<str>> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.registry_gone(cache, &name, now);
        }
    }

    fn registry_gone(&mut self, cache: &mut Cache, name: &str, now: Instant) {
        if self.registries.remove(name).is_none() {
            return;
        }
        if !cache.others.remove(name) {
            tracing::warn!(
                registry = name,
                "the Registry was deleted; its leases are no longer renewed, and its keys expire with their TTL"
            );
        }
        self.let_go(name);
        self.watch_sources();
        self.withdraw_all(cache, name, now);
        self.judge_reserved(cache, now);
        self.keep_all_of(cache, name);
    }

    /// Stops the worker of a Registry and drops its health, metrics and status.
    fn let_go(&mut self, name: &str) {
        self.workers.stop(name);
        self.unclear.forget(name);
        let context = self.workers.context();
        context.health.forget(name);
        context.peers.forget(name);
        context.metrics.forget(name);
        let _ = context.registries.send(StatusUpdate::Gone(name.into()));
    }
}
