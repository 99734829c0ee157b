//! The endpoints that lose keys.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Cause, Removal};
use crate::model::Key;
use crate::plan::work::Work;

/// Endpoints, each with how many of its keys are lost: an endpoint counts once, in however many formats it is registered.
/// A key whose endpoint is not known counts as one.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    keys: HashMap<Work, Keys>,
    /// How many of the endpoints have lost keys, or lose them because of their pods.
    by_pods: usize,
}

/// The lost keys of one endpoint.
#[derive(Debug, Default)]
struct Keys {
    /// Those that are released, or are to be removed because of the pod.
    by_pod: usize,
    /// Those that an edit would remove.
    by_edit: usize,
}

impl Endpoints {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns how many endpoints have lost keys, or lose them because of their pods: those that would lose keys because
    /// of edits only do not count.
    pub fn by_pods(&self) -> usize {
        self.by_pods
    }

    pub fn iter(&self) -> impl Iterator<Item = &Work> {
        self.keys.keys()
    }

    /// Adds a key of an endpoint that is undecided or held.
    pub fn add(&mut self, removal: &Removal) {
        match removal.cause {
            Cause::Pod => self.add_released(&removal.work),
            Cause::Edit => self.keys.entry(removal.work.clone()).or_default().by_edit += 1,
        }
    }

    /// Removes a key of an endpoint that is undecided or held no longer.
    pub fn remove(&mut self, removal: &Removal) {
        match removal.cause {
            Cause::Pod => self.remove_released(&removal.work),
            Cause::Edit => self.change(&removal.work, |keys| keys.by_edit -= 1),
        }
    }

    /// Adds a key of an endpoint that was released.
    pub fn add_released(&mut self, work: &Work) {
        let keys = self.keys.entry(work.clone()).or_default();
        self.by_pods += usize::from(keys.by_pod == 0);
        keys.by_pod += 1;
    }

    /// Removes a key of an endpoint that was released.
    pub fn remove_released(&mut self, work: &Work) {
        let mut is_last = false;
        self.change(work, |keys| {
            keys.by_pod -= 1;
            is_last = keys.by_pod == 0;
        });
        self.by_pods -= usize::from(is_last);
    }

    fn change(&mut self, work: &Work, change: impl FnOnce(&mut Keys)) {
        if let Entry::Occupied(mut keys) = self.keys.entry(work.clone()) {
            change(keys.get_mut());
            if keys.get().by_pod + keys.get().by_edit == 0 {
                keys.remove();
            }
        }
    }
}

/// Returns the endpoints that would lose `keys`, each once.
pub(super) fn distinct(keys: &BTreeMap<Key, Removal>) -> HashSet<&Work> {
    keys.values().map(|removal| &removal.work).collect()
}
