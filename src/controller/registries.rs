//! Registries as they come, change and go, and as they were before this process began.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt;

use super::{Command, Controller};
use crate::api::{APPROVE_REMOVALS, Registry, RegistrySpec, RegistryStatus};
use crate::controller::state::{State, StoredRegistry};
use crate::controller::worker::{StatusSeen, Trouble, Version};
use crate::etcd::Access;
use crate::index::NamespaceScope;
use crate::kube::{ObjectEvent, REGISTRIES, StatusUpdate};
use crate::telemetry::RegistryHealth;

/// One Registry.
#[derive(Debug)]
pub struct Known {
    uid: String,
    /// The `uid` that an earlier process knew, of an object that Kubernetes has not told of yet.
    former_uid: String,
    generation: i64,
    spec: RegistrySpec,
    /// The hold that an admin has approved of.
    approved: Option<String>,
    /// The list that it was last seen in.
    list: u64,
    /// What its status says.
    pub(super) told: StatusSeen,
    /// The access that its registrar was last given; none while it has none.
    pub(super) offered: Option<Box<Access>>,
    /// Why what it names now cannot be used.
    pub(super) wrong: Option<Trouble>,
    /// The access that last let us in.
    pub(super) good: Option<Access>,
}

impl Known {
    /// What it says.
    pub fn spec(&self) -> &RegistrySpec {
        &self.spec
    }

    /// Which version of it that is.
    pub fn version(&self) -> Version {
        Version {
            uid: self.uid.as_str().into(),
            generation: self.generation,
        }
    }

    /// Whether an object of this `uid` is another one, created after this one was deleted.
    fn is_other(&self, uid: &str) -> bool {
        let known = [&self.uid, &self.former_uid]
            .into_iter()
            .find(|known| !known.is_empty());
        known.is_some_and(|known| known != uid)
    }

    /// What to begin with where spec says `access`: the endpoints that the status says are in use, if they are others.
    pub(super) fn begin_with(&self, access: &Access) -> Access {
        let endpoints = &self.told.endpoints;
        if endpoints.is_empty() {
            return access.clone();
        }
        Access {
            endpoints: endpoints.clone(),
            ..access.clone()
        }
    }

    /// The hold that an admin has approved of.
    pub fn approved(&self) -> Option<String> {
        self.approved.clone()
    }
}

impl Controller {
    /// Serves the Registries that an earlier process knew, by what let that one in, until Kubernetes tells what has become
    /// of them. Leases are renewed; nothing else is done until then, as after any start.
    pub fn resume(&mut self, registries: impl IntoIterator<Item = (String, StoredRegistry)>) {
        for (name, stored) in registries {
            let Some(access) = stored.access() else {
                tracing::warn!(
                    registry = name,
                    "the credentials of this Registry were not kept, so it has to wait"
                );
                continue;
            };
            let StoredRegistry {
                uid, generation, spec, ..
            } = stored;
            tracing::info!(registry = name, endpoints = ?access.endpoints, "a Registry that was served before");
            let name: Arc<str> = name.into();
            // It is in no list yet, and the object that Kubernetes tells of is looked at as a new one.
            let known = Known {
                uid: String::new(),
                former_uid: uid,
                generation,
                spec: spec.clone(),
                approved: None,
                list: 0,
                told: StatusSeen::default(),
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

    /// The apiserver has said which cluster it serves. Its word counts: what was known of another is let go, which
    /// wrote nothing.
    pub(super) fn cluster(&mut self, id: Arc<str>) {
        let context = self.workers.context();
        let confirmed = context.cluster_confirmed.clone();
        if context.cluster_id != id {
            tracing::warn!(
                cluster_id = %id, stored = %context.cluster_id,
                "the apiserver serves another cluster than the one in the state folder, which is served no more"
            );
            for name in std::mem::take(&mut self.registries).into_keys() {
                self.let_go(&name);
            }
            self.watch_sources();
            self.workers.serve_cluster(id);
        }
        confirmed.cancel();
    }

    /// Tells what is to outlive the process, once that is everything.
    pub(super) fn remember(&self) {
        if !self.streams.is_listed(REGISTRIES, &NamespaceScope::Cluster) {
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
        let registries = self.registries.iter();
        let now = State {
            cluster_id: self.workers.context().cluster_id.to_string(),
            registries: registries
                .map(|(name, known)| (name.to_string(), store(known)))
                .collect(),
        };
        self.state.send_if_modified(|told| {
            let is_new = told.as_ref() != Some(&now);
            *told = Some(now);
            is_new
        });
    }

    pub(super) fn registry(&mut self, seen: ObjectEvent<Box<Registry>>, now: Instant) {
        match seen {
            ObjectEvent::ListBegins => self.registry_list += 1,
            ObjectEvent::Lost(_) => self.weigh(now),
            ObjectEvent::Applied(object) => self.registry_applied(*object, now),
            ObjectEvent::Deleted { name, .. } => self.registry_gone(&name, now),
            // The watch has said so; what is known of it stays in force.
            ObjectEvent::Unreadable { name, .. } => {
                if let Some(known) = self.registries.get_mut(&*name) {
                    known.list = self.registry_list;
                }
            }
            ObjectEvent::ListComplete => {
                let gone = self
                    .registries
                    .iter()
                    .filter(|(_, known)| known.list != self.registry_list);
                let gone: Vec<Arc<str>> = gone.map(|(name, _)| name.clone()).collect();
                for name in gone {
                    self.registry_gone(&name, now);
                }
                if self.streams.listed(REGISTRIES, &NamespaceScope::Cluster) {
                    self.admit_pending(now);
                }
                self.weigh(now);
            }
        }
    }

    fn registry_applied(&mut self, object: Registry, now: Instant) {
        let name: Arc<str> = object.name_any().into();
        let generation = object.metadata.generation.unwrap_or_default();
        let uid = object.uid().unwrap_or_default();
        if let Some(status) = &object.status {
            self.hint(&name, status);
        }
        let told = StatusSeen::of(object.status.as_ref());
        // The desk ends only with the process.
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
            // Another meta prefix is another Registry of the same name: all begins anew.
            Some(former) if former.spec.meta_prefix == spec.meta_prefix => {
                // Another object of the same name may name another cluster: that is what it is created anew for.
                let is_same = |good: &Access| !former.is_other(&uid) || good.endpoints == spec.endpoints;
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
            told: told.clone(),
            offered,
            wrong,
            good,
        };
        let version = known.version();
        self.registries.insert(name.clone(), known);
        self.workers.send(&name, Command::Status(told));
        self.watch_sources();
        let Some(former) = former else {
            tracing::info!(registry = %name, endpoints = ?spec.endpoints, "a Registry to serve");
            self.judge_reserved(now);
            return self.enter(&name, now);
        };
        if former.spec.meta_prefix != spec.meta_prefix {
            self.judge_reserved(now);
        }
        if former.approved != approved {
            self.workers.send(&name, Command::Approve(approved));
        }
        let is_new = former.generation != generation || former.uid != uid;
        if !is_new {
            return;
        }
        if former.spec.meta_prefix != spec.meta_prefix {
            self.workers.stop(&name);
            return self.enter(&name, now);
        }
        if former.offered.is_none() {
            // What is not served yet is served as it is now.
            if let Some(known) = self.registries.get_mut(&name) {
                known.wrong = None;
            }
            return self.enter(&name, now);
        }
        let settings = Command::Settings {
            limits: spec.limits,
            guard: spec.guard,
            version,
        };
        self.workers.send(&name, settings);
        self.enter(&name, now);
        if former.spec.access != spec.access || spec.access.is_some() && former.spec.ttl_seconds != spec.ttl_seconds {
            tracing::info!(registry = %name, "the Registry's rules about who may write what are looked at anew");
            self.rules_changed(&name, now);
        } else if former.spec.ttl_seconds != spec.ttl_seconds {
            self.admit_all(&name, now);
        }
    }

    /// Remembers which replicas were connected, and where they are reached: a replica that is not has to ask them whether
    /// it may be counted on.
    fn hint(&self, name: &Arc<str>, status: &RegistryStatus) {
        let mut hints: Vec<(Arc<str>, Option<SocketAddr>)> = Vec::new();
        for replica in &status.replicas {
            let address = replica.address.as_ref().and_then(|address| address.parse().ok());
            hints.push((replica.name.as_str().into(), address));
        }
        if let Some(leader) = &status.leader
            && hints.iter().all(|(name, _)| **name != **leader)
        {
            // An earlier release does not say where.
            hints.push((leader.as_str().into(), None));
        }
        self.workers.context().peers.hint(name, hints);
    }

    fn registry_gone(&mut self, name: &str, now: Instant) {
        if self.registries.remove(name).is_none() {
            return;
        }
        tracing::warn!(
            registry = name,
            "the Registry was deleted: its keys are renewed no more and go with their TTL"
        );
        self.let_go(name);
        self.watch_sources();
        self.withdraw_all(name, now);
        self.judge_reserved(now);
    }

    /// The Registry is served no more, and nothing is told of it.
    fn let_go(&mut self, name: &str) {
        self.workers.stop(name);
        let context = self.workers.context();
        context.health.forget(name);
        context.peers.forget(name);
        context.metrics.forget(name);
        let _ = context.registries.send(StatusUpdate::Gone(name.into()));
    }
}
