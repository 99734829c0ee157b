//! The credentials of Registries: which Secrets and ConfigMaps are watched, and what a change of them causes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::cache::Cache;
use super::{Command, Controller};
use crate::backend::Access;
use crate::controller::access::{Unresolved, resolve, sources};
use crate::controller::worker::{Trouble, trouble};
use crate::kube::{Content, Source};
use crate::telemetry::RegistryHealth;

impl Controller {
    /// Handles the current content of a Secret or ConfigMap.
    pub(super) fn source(&mut self, cache: &mut Cache, source: Source, content: Content, now: Instant) {
        if self.sources.get(&source) == Some(&content) {
            return;
        }
        tracing::info!(kind = source.kind.as_str(), name = %source.name, "the state of this object has changed");
        let asking = self
            .served()
            .filter(|(_, known)| sources(&known.spec().etcd).contains(&source));
        let asking: Vec<Arc<str>> = asking.map(|(name, _)| name.clone()).collect();
        self.sources.insert(source, content);
        for name in asking {
            self.enter(cache, &name, now);
        }
    }

    /// Watches the objects that a Registry names, and drops the content of all others.
    pub(super) fn watch_sources(&mut self) {
        let wanted: BTreeSet<Source> = self
            .served()
            .flat_map(|(_, known)| sources(&known.spec().etcd))
            .collect();
        self.sources.retain(|source, _| wanted.contains(source));
        self.workers.context().sources.send_if_modified(|watched| {
            let is_new = *watched != wanted;
            *watched = wanted;
            is_new
        });
    }

    /// Serves the Registry with the endpoints and credentials that it names, as far as they are known. After etcd has
    /// accepted an access, the existing worker tests a new access before it uses it. Before that there is nothing to
    /// lose, and new endpoints get a new worker. Invalid credentials change nothing.
    pub(super) fn enter(&mut self, cache: &mut Cache, name: &Arc<str>, now: Instant) {
        let context = self.workers.context();
        let Some(known) = self.registries.get(name).filter(|_| !cache.others.contains(name)) else {
            return;
        };
        let resolved = resolve(&known.spec().etcd, &context.namespace, |source| {
            self.sources.get(source)
        });
        let (spec, version) = (known.spec().clone(), known.version());
        match resolved {
            Err(Unresolved::NotObserved) => {
                if known.offered.is_none() {
                    context.health.set_registry(name, RegistryHealth::Starting);
                }
            }
            Err(Unresolved::Wrong(wrong)) => {
                let trouble = trouble(wrong);
                if known.wrong.as_ref() == Some(&trouble) {
                    return;
                }
                if known.offered.is_some() {
                    self.workers.send(name, Command::Access(Err(trouble.clone())));
                } else {
                    let reported = known.reported.clone();
                    self.workers.start(name, spec, version, Err(trouble.clone()));
                    self.workers.send(name, Command::Status(reported));
                    self.hand_over(cache, name, now);
                }
                self.is_wrong(name, Some(trouble));
            }
            Ok(access) => {
                let access = Box::new(access);
                match &known.offered {
                    Some(former) if *former == access && known.wrong.is_none() => return,
                    Some(former) if known.good.is_some() || former.endpoints == access.endpoints => {
                        tracing::info!(
                            registry = %name, endpoints = ?access.endpoints,
                            "testing the new endpoints or credentials"
                        );
                        self.workers.send(name, Command::Access(Ok(access.clone())));
                    }
                    former => {
                        let is_first = former.is_none();
                        let begin = Box::new(known.begin_with(&access));
                        let reported = known.reported.clone();
                        tracing::info!(registry = %name, endpoints = ?begin.endpoints, is_first, "connecting");
                        context.health.set_registry(name, RegistryHealth::Starting);
                        self.workers.start(name, spec, version, Ok(begin.clone()));
                        self.workers.send(name, Command::Status(reported));
                        if begin != access {
                            self.workers.send(name, Command::Access(Ok(access.clone())));
                        }
                        self.hand_over(cache, name, now);
                    }
                }
                self.offered(name, access);
                self.is_wrong(name, None);
            }
        }
    }

    fn offered(&mut self, name: &str, access: Box<Access>) {
        if let Some(known) = self.registries.get_mut(name) {
            known.offered = Some(access);
        }
    }

    fn is_wrong(&mut self, name: &str, trouble: Option<Trouble>) {
        if let Some(known) = self.registries.get_mut(name) {
            known.wrong = trouble;
        }
    }

    /// Records an access that etcd has accepted. A replica that starts while the apiserver is unavailable starts with
    /// it.
    pub(super) fn is_good(&mut self, name: &str, access: Access) {
        if let Some(known) = self.registries.get_mut(name) {
            known.good = Some(access);
            self.remember();
        }
    }
}
