//! Records what etcd holds, from the reports of the mirror and from the results of transactions. The newer revision
//! wins.

use std::collections::HashSet;

use super::guard::Recorded;
use super::key_table::Observed;
use super::meta::{MetaKeys, newer_version};
use super::planner::Planner;
use super::prefixes::KeysWithoutLease;
use crate::model::{Key, KeyValue, LeaseId, Observation, Prefix, Revision};

impl Planner {
    /// Applies one report of the mirror.
    pub fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Changed { key, held, revision } => self.observe_key(&key, held, revision),
            Observation::Snapshot {
                prefix,
                revision,
                entries,
            } => self.observe_prefix(prefix, revision, entries),
            Observation::Denied { prefix } => self.reading_denied(&prefix),
            Observation::Restored => self.forget(),
            Observation::Interrupted | Observation::Complete { .. } => {}
        }
    }

    fn observe_prefix(&mut self, prefix: Prefix, revision: Revision, entries: Vec<(Key, KeyValue)>) {
        // The mirror follows a removal that it receives later: no change of the keys would follow.
        if !self.prefixes.is_watched(&prefix) {
            return;
        }
        let is_first_list = !self.prefixes.is_listed(prefix.as_str());
        let present: HashSet<Key> = entries.iter().map(|(key, _)| key.clone()).collect();
        let mut without_lease = KeysWithoutLease::default();
        for (key, held) in entries {
            if held.lease == LeaseId::NONE {
                without_lease.set(&key, true);
            }
            self.observe_key(&key, Some(held), revision);
        }
        for key in self.keys.keys_in(&prefix) {
            if !present.contains(&key) {
                self.observe_key(&key, None, revision);
            }
        }
        if prefix == *self.meta.prefix() {
            if !present.contains(&self.meta.hold()) {
                self.guard.observe_record(None, revision);
            }
            for lease in self.leases.ids().collect::<Vec<_>>() {
                if !present.contains(&self.meta.record_key(lease)) {
                    self.leases.record_missing(lease, revision);
                }
            }
        }
        // Work on these keys has waited for the first list. A later one queues what it changes, like any other observation.
        if is_first_list {
            for key in self.keys.keys_in(&prefix) {
                self.enqueue(&key);
            }
        }
        self.reading_allowed(&prefix);
        self.prefixes.set_listed(prefix, without_lease);
        self.waiting.etcd_was_listed();
    }

    /// Records what etcd holds under `key` at `revision`, unless a newer state is known.
    pub(super) fn observe_key(&mut self, key: &Key, held: Option<KeyValue>, revision: Revision) {
        if self.meta.prefix().contains(key) {
            self.observe_meta(key, held, revision);
            return;
        }
        let is_absent = held.is_none();
        let is_without_lease = held.as_ref().is_some_and(|held| held.lease == LeaseId::NONE);
        let held = held.map(|held| self.with_desired_value(key, held));
        let observed = self.keys.observe(key, held, revision, &mut self.leases);
        if observed != Observed::Outdated {
            self.prefixes.set_without_lease(key, is_without_lease);
            if is_absent {
                self.guard.gone(key);
            }
        }
        match observed {
            Observed::Changed => self.key_changed(key),
            Observed::Unchanged if is_absent => self.keys.drop_if_unused(key),
            Observed::Unchanged | Observed::Outdated => {}
        }
    }

    /// Returns `held` with the desired value in place of an equal one, so that it is stored once.
    fn with_desired_value(&self, key: &Key, mut held: KeyValue) -> KeyValue {
        let claim = self.keys.first_claim(key);
        let desired = claim.and_then(|claim| self.registrations.value_of(key, claim));
        if let Some(desired) = desired.filter(|desired| **desired == held.value) {
            held.value = desired.clone();
        }
        held
    }

    /// Queues the work of `key`, and marks the registrations that claim it as changed.
    fn key_changed(&mut self, key: &Key) {
        let claims = self.keys.get(key).into_iter().flat_map(|state| &state.claims);
        claims.for_each(|claim| self.registrations.mark_claim(claim));
        self.free_room_of(key);
        self.enqueue(key);
    }

    /// Whether `key` is one of the operator's own records, not a data key.
    pub fn is_record(&self, key: &str) -> bool {
        self.meta.prefix().contains(key)
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
            self.keys.confirm_ours(&key);
            self.key_changed(&key);
        }
    }

    /// Records that a lease no longer exists, and that etcd removed every key on it.
    pub(super) fn lease_is_gone(&mut self, lease: LeaseId) {
        for key in self.leases.gone(lease) {
            self.guard.gone(&key);
            self.keys.expire(&key);
            self.key_changed(&key);
        }
    }

    fn forget(&mut self) {
        self.leases.clear(self.transactions.reserved());
        self.prefixes.forget_lists();
        self.quotas.forget_observed();
        self.guard.forget_record();
        // The guard still needs the result for its keys: the list that follows shows whether they exist.
        self.keys.forget_observed(|key| self.guard.knows(key));
        // The answers of these transactions belong to the void history.
        self.transactions.void();
        self.registrations.mark_all_changed();
    }
}
