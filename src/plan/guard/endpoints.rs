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
    /// How many of the endpoints lose keys because of their pods.
    by_pods: usize,
}

/// The lost keys of one endpoint.
#[derive(Debug, Default)]
struct Keys {
    /// Those that are lost because of the pod, or that were the last ones.
    by_pod: usize,
    /// Those that an edit would remove, or has replaced by others.
    by_edit: usize,
}

impl Endpoints {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns how many endpoints lose keys because of their pods, or have lost all: those that edits only would take keys
    /// from, or have given others, do not count.
    pub fn by_pods(&self) -> usize {
        self.by_pods
    }

    pub fn iter(&self) -> impl Iterator<Item = &Work> {
        self.keys.keys()
    }

    /// Adds a key of an endpoint.
    pub fn add(&mut self, removal: &Removal) {
        let keys = self.keys.entry(removal.work.clone()).or_default();
        match removal.cause {
            Cause::Pod => {
                self.by_pods += usize::from(keys.by_pod == 0);
                keys.by_pod += 1;
            }
            Cause::Edit => keys.by_edit += 1,
        }
    }

    /// Removes a key of an endpoint.
    pub fn remove(&mut self, removal: &Removal) {
        let Entry::Occupied(mut entry) = self.keys.entry(removal.work.clone()) else {
            return;
        };
        let keys = entry.get_mut();
        match removal.cause {
            Cause::Pod => {
                keys.by_pod -= 1;
                self.by_pods -= usize::from(keys.by_pod == 0);
            }
            Cause::Edit => keys.by_edit -= 1,
        }
        if keys.by_pod + keys.by_edit == 0 {
            entry.remove();
        }
    }
}

/// Returns the endpoints that would lose `keys`, each once.
pub(super) fn distinct(keys: &BTreeMap<Key, Removal>) -> HashSet<&Work> {
    keys.values().map(|removal| &removal.work).collect()
}
