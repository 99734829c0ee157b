//! Records what etcd holds, from the reports of the mirror and from the results of transactions. The newer revision
//! wins.

use std::collections::HashSet;

use super::guard::Recorded;
use super::meta::{MetaKeys, newer_version};
use super::planner::Planner;
use crate::model::{Key, KeyValue, LeaseId, Observation, Prefix, Revision};

impl Planner {
    /// Applies one report of the mirror.
    pub fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Changed { key, held, revision } => self.observe_key(&key, held, revision),
            Observation::Snapshot {
                scope,
                revision,
                entries,
            } => self.observe_scope(scope, revision, entries),
            Observation::Denied { scope } => self.reading_denied(scope),
            Observation::Restored => self.forget(),
            Observation::Interrupted | Observation::Complete { .. } => {}
        }
    }

    fn observe_scope(&mut self, scope: Prefix, revision: Revision, entries: Vec<(Key, KeyValue)>) {
        let present: HashSet<Key> = entries.iter().map(|(key, _)| key.clone()).collect();
        for (key, held) in entries {
            self.observe_key(&key, Some(held), revision);
        }
        for key in self.keys_in(&scope) {
            if !present.contains(&key) {
                self.observe_key(&key, None, revision);
            }
        }
        if scope == *self.meta.scope() {
            if !present.contains(&self.meta.hold()) {
                self.guard.observe_record(None, revision);
            }
            for lease in self.leases.ids().collect::<Vec<_>>() {
                if !present.contains(&self.meta.record_key(lease)) {
                    self.leases.record_missing(lease, revision);
                }
            }
        }
        for key in self.keys_in(&scope) {
            self.enqueue(&key);
        }
        self.reading_allowed(&scope);
        self.surveyed.insert(scope);
    }

    /// Records what etcd holds under `key` at `revision`, unless a newer state is known.
    pub(super) fn observe_key(&mut self, key: &Key, held: Option<KeyValue>, revision: Revision) {
        if self.meta.scope().contains(key) {
            self.observe_meta(key, held, revision);
            return;
        }
        if held.is_none() && !self.slots.contains_key(key) {
            self.guard.gone(key);
            // An absent key gets no key state: otherwise every key that ever existed would leave an empty one.
            return;
        }
        let slot = self.slots.entry(key.clone()).or_default();
        if revision < slot.seen {
            return;
        }
        if held.is_none() {
            self.guard.gone(key);
        }
        slot.seen = revision;
        let lease_of = |held: &Option<KeyValue>| held.as_ref().map_or(LeaseId::NONE, |held| held.lease);
        let (before, after) = (lease_of(&slot.held), lease_of(&held));
        if before != after {
            self.leases.detach(before, key);
            self.leases.attach(after, key);
        }
        if let Some(lease) = slot.perhaps_on.take() {
            self.leases.release(lease, 1);
        }
        match &held {
            Some(now) if self.leases.is_ours(now.lease) => slot.born = now.create_revision,
            Some(_) => {}
            None => slot.born = 0,
        }
        if slot.held != held {
            slot.held = held;
            self.changed
                .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
            self.enqueue(key);
        }
    }

    /// Whether `key` is one of the operator's own records, not a data key.
    pub fn is_record(&self, key: &str) -> bool {
        self.meta.scope().contains(key)
    }

    fn observe_meta(&mut self, key: &Key, held: Option<KeyValue>, revision: Revision) {
        if *key == self.meta.hold() {
            let recorded = held.map(|held| Recorded {
                hold: MetaKeys::recorded_hold(&held.value),
                lease: held.lease,
                mod_revision: held.mod_revision,
            });
            self.guard.observe_record(recorded, revision);
            return;
        }
        let Some(lease) = self.meta.recorded_lease(key) else {
            return;
        };
        let Some(held) = held else {
            self.leases.record_missing(lease, revision);
            return;
        };
        // A record is evidence only for the lease that it is on.
        let ttl = MetaKeys::recorded_ttl(&held.value);
        if held.lease != lease || ttl.is_none() && newer_version(&held.value).is_none() {
            self.leases.record_spoilt(lease, held.mod_revision);
            return;
        }
        for key in self.leases.recorded(lease, ttl, held.mod_revision) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.born = slot.held.as_ref().map_or(0, |held| held.create_revision);
            }
            self.enqueue(&key);
        }
    }

    /// Records that a lease no longer exists, and that etcd removed every key on it.
    pub(super) fn lease_is_gone(&mut self, lease: LeaseId) {
        for key in self.leases.gone(lease) {
            self.guard.gone(&key);
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.held = None;
                slot.born = 0;
                self.changed
                    .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
            }
            self.enqueue(&key);
        }
    }

    fn forget(&mut self) {
        self.leases.clear();
        self.surveyed.clear();
        self.guard.forget_record();
        // The guard still needs the result for its keys: the list that follows shows whether they exist.
        self.slots
            .retain(|key, slot| !slot.claims.is_empty() || self.guard.knows(key));
        for slot in self.slots.values_mut() {
            slot.held = None;
            slot.seen = 0;
            slot.born = 0;
            slot.perhaps_on = None;
        }
        // The answers of these transactions belong to the void history.
        self.transactions.void();
        self.changed.extend(self.books.keys().cloned());
    }
}
