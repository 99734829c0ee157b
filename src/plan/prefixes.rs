//! The prefixes that may contain our keys: which ones to list and watch, for how long, and which keys in them must be
//! left alone.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;

use super::planner::Planner;
use crate::model::{Key, KeyValue, LeaseId, Prefix};

impl Planner {
    /// Returns the prefixes to list and watch, if they changed since the last call. A prefix inside another is left
    /// out.
    pub fn take_changed_scopes(&mut self) -> Option<BTreeSet<Prefix>> {
        if !std::mem::take(&mut self.scopes_changed) {
            return None;
        }
        let wanted = self.books.values().flat_map(|book| &book.terms.scopes);
        let all: BTreeSet<&Prefix> = wanted.chain(&self.lingering).chain([self.meta.scope()]).collect();
        let mut outermost: BTreeSet<Prefix> = BTreeSet::new();
        let (denied, all): (Vec<&Prefix>, Vec<&Prefix>) = all.into_iter().partition(|scope| self.may_not_read(scope));
        for scope in all {
            // In key order an outer prefix sorts before all that lie in it.
            if !outermost.last().is_some_and(|outer| outer.contains(scope.prefix())) {
                outermost.insert(scope.clone());
            }
        }
        // A prefix inside one that may not be read may still be readable. The outer one stays wanted, because reading
        // it is retried.
        outermost.extend(denied.into_iter().cloned());
        self.denied.keep(&outermost);
        let gone: Vec<Prefix> = self.surveyed.difference(&outermost).cloned().collect();
        for scope in gone {
            self.surveyed.remove(&scope);
            let outside = |key: &Key| !outermost.iter().any(|kept| kept.contains(key));
            for key in self.keys.keys_in(&scope).into_iter().filter(outside) {
                if self.keys.drop_unwatched(&key, &mut self.leases) {
                    self.guard.gone(&key);
                }
            }
        }
        Some(outermost)
    }

    /// Drops prefixes of deleted registrations once none of our keys is left in them and none can still appear there. A
    /// key in a prefix that is not watched would be renewed for ever.
    pub(super) fn settle_lingering(&mut self) {
        if self.lingering.is_empty() || !self.complete {
            return;
        }
        let used: HashSet<&Prefix> = self.books.values().flat_map(|book| &book.terms.scopes).collect();
        let still_ours = |scope: &Prefix| {
            let ours = |held: &KeyValue| self.leases.is_ours(held.lease);
            let mut states = self.keys.below(scope.prefix());
            states.any(|(_, state)| state.held.as_ref().is_some_and(ours) || state.may_appear())
        };
        let done = |scope: &&Prefix| used.contains(*scope) || self.surveyed.contains(*scope) && !still_ours(scope);
        let done: Vec<Prefix> = self.lingering.iter().filter(done).cloned().collect();
        for scope in done {
            self.lingering.remove(&scope);
            self.scopes_changed = true;
        }
    }

    /// Whether the current value of `key` is known, because a prefix around it has been listed.
    pub(super) fn is_surveyed(&self, key: &str) -> bool {
        // No listed prefix lies in another, so only the last one that is not after `key` can contain it.
        let up_to = (Bound::Unbounded, Bound::Included(key));
        self.surveyed
            .range::<str, _>(up_to)
            .next_back()
            .is_some_and(|scope| scope.contains(key))
    }

    /// Whether `key` lies in a prefix of a suspended registration.
    pub(super) fn is_frozen(&self, key: &str) -> bool {
        let suspended = self
            .suspended
            .iter()
            .filter_map(|registration| self.books.get(registration));
        suspended
            .flat_map(|book| &book.terms.scopes)
            .any(|scope| scope.contains(key))
    }

    /// The known leases, to ask etcd which keys are on them.
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        self.leases.ids().collect()
    }

    /// Returns the keys among those on our leases that are not known: left by a registration that was deleted while no
    /// replica was running.
    pub fn unknown_keys(&self, keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
        let unknown = |key: &Key| !self.meta.scope().contains(key) && !self.keys.contains(key);
        keys.into_iter().filter(unknown).collect()
    }
}
