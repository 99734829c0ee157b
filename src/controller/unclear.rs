//! Registrations whose keys are unknown: the object is invalid or unreadable, and none of its specs is in force. A key
//! that no registration claims may be theirs, so the workers of their Registries collect no orphans.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::RegistrationRef;

/// The unclear registrations, each with the Registry that it names; none if the object is unreadable.
#[derive(Debug, Default)]
pub struct UnclearRegistrations {
    registries: HashMap<RegistrationRef, Option<Arc<str>>>,
    counts: HashMap<Option<Arc<str>>, usize>,
    /// The Registries with unclear registrations, as last sent to the workers.
    sent: HashSet<Arc<str>>,
}

impl UnclearRegistrations {
    pub fn insert(&mut self, registration: &RegistrationRef, registry: Option<Arc<str>>) {
        self.remove(registration);
        *self.counts.entry(registry.clone()).or_default() += 1;
        self.registries.insert(registration.clone(), registry);
    }

    pub fn remove(&mut self, registration: &RegistrationRef) {
        let Some(registry) = self.registries.remove(registration) else {
            return;
        };
        if let Entry::Occupied(mut count) = self.counts.entry(registry) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Returns whether keys of unclear registrations may be in this Registry, to be sent to a new worker.
    pub fn send(&mut self, registry: &Arc<str>) -> bool {
        self.send_changed(registry);
        self.sent.contains(registry)
    }

    /// Like [`UnclearRegistrations::send`]. None if that was sent already.
    pub fn send_changed(&mut self, registry: &Arc<str>) -> Option<bool> {
        let some = self.counts.contains_key(&None) || self.counts.contains_key(&Some(registry.clone()));
        let is_new = if some {
            self.sent.insert(registry.clone())
        } else {
            self.sent.remove(registry)
        };
        is_new.then_some(some)
    }

    /// Call when the worker of this Registry has been stopped for good.
    pub fn forget(&mut self, registry: &str) {
        self.sent.remove(registry);
    }

    #[cfg(test)]
    pub fn sent(&self) -> Vec<&str> {
        let mut sent: Vec<&str> = self.sent.iter().map(|registry| &**registry).collect();
        sent.sort_unstable();
        sent
    }
}
