//! The desired state in Kubernetes: the pods and the registrations. The controller updates it from watch events; the
//! workers compute the desired records of a pod from it when they reconcile the pod.
//!
//! The controller sends the commands that belong to an update before it unlocks the cache. A worker takes in all
//! commands after it has locked the cache. So a worker never reads a pod or a spec that is newer than its commands.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::admission::Entry;
use super::compile::Compiled;
use super::services::lacks_nodes;
use crate::index::Index;
use crate::model::RegistrationRef;
use crate::plan::{DesiredState, PodState};

#[derive(Debug, Default)]
pub struct Cache {
    pub index: Index,
    pub entries: HashMap<RegistrationRef, Entry>,
    /// The Registries that other installations serve. Their registrations are admitted without a worker, and without a
    /// word in their statuses.
    pub others: HashSet<Arc<str>>,
}

impl Cache {
    /// Returns the registrations that name `registry`, with their newest specs, oldest first: in this order they claim
    /// their prefixes.
    pub fn asking_for(&self, registry: &str) -> Vec<(RegistrationRef, Box<Compiled>)> {
        let all = self
            .entries
            .iter()
            .filter_map(|(reference, entry)| Some((reference.clone(), Box::new(entry.newest()?.clone()))));
        let asking = all.filter(|(_, compiled)| *compiled.registration.registry == *registry);
        let mut asking: Vec<(RegistrationRef, Box<Compiled>)> = asking.collect();
        asking.sort_by_key(|(reference, compiled)| (compiled.registration.created, reference.clone()));
        asking
    }
}

impl DesiredState for Cache {
    fn selecting(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef> {
        self.index.registering(namespace, pod)
    }

    fn selects(&self, registration: &RegistrationRef, pod: &str) -> bool {
        self.index.registers(registration, pod)
    }

    fn is_alive(&self, namespace: &str, pod: &str) -> bool {
        self.index.is_alive(namespace, pod)
    }

    fn pod_state(&self, registration: &RegistrationRef, pod: &str) -> Option<PodState> {
        let compiled = self.entries.get(registration).and_then(Entry::in_force)?;
        // A registration that was just refused, or whose nodes are not known: its keys are to stay.
        let lacks_nodes = lacks_nodes(self, compiled);
        if lacks_nodes || !self.index.contains_registration(registration) {
            return None;
        }
        let if_ready = || self.index.view_if_ready(registration, pod);
        let state = PodState::of(self.index.view(registration, pod), if_ready, &compiled.bindings);
        Some(match &compiled.previous {
            None => state,
            Some(_) => state.keeping(|| compiled.previously(&self.index, pod), compiled.is_newly_suppressed()),
        })
    }
}

/// The cache, shared by the controller and the workers.
#[derive(Clone, Debug, Default)]
pub struct SharedCache(Arc<RwLock<Cache>>);

impl SharedCache {
    pub fn read(&self) -> RwLockReadGuard<'_, Cache> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Cache> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
