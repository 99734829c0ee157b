//! The pool of leases of one Registry: which leases are ours, how full each is, and which lease a new key is put on.
//!
//! The operator renews the leases, not the pods, so keys of many pods share a lease. Free room is filled before another
//! lease is granted. A key is never moved to another lease without need, because every consumer sees a move as an
//! event. New keys of different [`LeaseGroup`](super::lease_groups::LeaseGroup)s are never put on one lease; keys that
//! already share a lease stay there.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use self::lease::{Lease, State};
pub(super) use self::lease_use::{LeaseUse, NeededRoom};
use super::lease_groups::LeaseGroups;
use crate::model::{Expect, Key, LeaseId, Revision};

mod lease;
mod lease_use;

/// How long a lease must be empty before its record is removed, so that it expires.
const EMPTY_FOR: Duration = Duration::from_mins(10);

/// Assumed time to live, in seconds, of a lease whose record has an unknown format. It is the shortest one, so that the
/// lease is renewed often enough whatever its real time to live is.
const UNKNOWN_TTL: u32 = 5;

/// Whether a key can stay on its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The lease is ours and usable, and has the right time to live; or a newer release recorded it.
    Stays,
    /// The key must be put on another lease.
    Moves,
    /// Unknown: the lease, and the key with it, may not exist any more.
    Unconfirmed,
}

/// The leases of one Registry.
#[derive(Debug)]
pub struct LeasePool {
    capacity: usize,
    groups: LeaseGroups,
    known: BTreeMap<LeaseId, Lease>,
    /// Open leases with room, by time to live and [`LeaseUse`], so that placing a key needs no search. They are ordered, so
    /// that some fill up and others run empty.
    roomy: HashMap<(u32, LeaseUse), BTreeSet<LeaseId>>,
    /// Leases in [`State::Fresh`]. Every planning step asks for them, and mostly there are none.
    fresh: BTreeSet<LeaseId>,
    /// Leases in [`State::Unconfirmed`], kept for the same reason.
    unconfirmed: BTreeSet<LeaseId>,
    /// Leases for which etcd denies renewals and puts.
    denied: BTreeSet<LeaseId>,
    /// Leases whose room or [`LeaseUse`] may have changed since the last [`Self::take_offered`].
    offered: BTreeSet<LeaseId>,
    /// The number of keys that etcd holds on all known leases.
    key_count: usize,
    /// Keys on leases that are not known to be ours (yet): a key may be observed before the record of its lease.
    foreign: HashMap<LeaseId, HashSet<Key>>,
    /// Keys that are being written to leases which are not known to be ours (again): etcd was restored meanwhile.
    pending: HashMap<LeaseId, Vec<Key>>,
    changed: bool,
}

impl LeasePool {
    /// Returns an empty pool. Each lease carries up to `capacity` keys, whatever their lease group.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            groups: LeaseGroups::everything(),
            known: BTreeMap::new(),
            roomy: HashMap::new(),
            fresh: BTreeSet::new(),
            unconfirmed: BTreeSet::new(),
            denied: BTreeSet::new(),
            offered: BTreeSet::new(),
            key_count: 0,
            foreign: HashMap::new(),
            pending: HashMap::new(),
            changed: true,
        }
    }

    /// Changes how many keys a lease carries. Leases that carry more keep their keys.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity.max(1);
        for lease in self.known.keys().copied().collect::<Vec<_>>() {
            self.reindex(lease);
        }
    }

    /// The maximum number of keys on a lease.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether `lease`, and thus a key on it, is ours.
    pub fn is_ours(&self, lease: LeaseId) -> bool {
        self.known.contains_key(&lease)
    }

    /// Whether a key on `lease` that needs a time to live of `ttl` seconds may stay there.
    pub(super) fn fit(&self, lease: LeaseId, ttl: u32) -> Fit {
        match self.known.get(&lease) {
            Some(known) if known.denied => Fit::Moves,
            Some(known) if known.state == State::Unconfirmed => Fit::Unconfirmed,
            Some(known) if known.state == State::Newer => Fit::Stays,
            Some(known) if known.ttl == ttl && known.state == State::Open => Fit::Stays,
            _ => Fit::Moves,
        }
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The number of keys that etcd holds on our leases.
    pub fn key_count(&self) -> usize {
        self.key_count
    }

    pub fn ids(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.known.keys().copied()
    }

    /// Returns the leases to renew with their times to live in seconds, if they changed since the last call.
    pub fn take_changed_renewals(&mut self) -> Option<BTreeMap<LeaseId, u32>> {
        std::mem::take(&mut self.changed).then(|| self.known.iter().map(|(id, lease)| (*id, lease.ttl)).collect())
    }

    /// Forgets every lease: etcd's history has been replaced. Writes `in_flight` may still arrive in the new history. Their
    /// leases keep room for them once they are recorded again, so that they take no keys of other lease groups.
    pub fn clear(&mut self, in_flight: impl Iterator<Item = (Key, LeaseId)>) {
        self.known.clear();
        self.roomy.clear();
        self.fresh.clear();
        self.unconfirmed.clear();
        self.denied.clear();
        self.offered.clear();
        self.key_count = 0;
        self.foreign.clear();
        self.pending.clear();
        for (key, lease) in in_flight {
            self.pending.entry(lease).or_default().push(key);
        }
        self.changed = true;
    }

    /// Adds a lease of `ttl` seconds that etcd granted us. It takes keys once its record is written.
    pub fn granted(&mut self, lease: LeaseId, ttl: u32) {
        self.insert(lease, ttl, State::Fresh);
    }

    /// Forgets the leases without a record. No other replica knows them, and this one must not record them any more.
    pub fn forget_fresh(&mut self) {
        let fresh = self.known.iter().filter(|(_, lease)| lease.state == State::Fresh);
        for lease in fresh.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(lease);
        }
    }

    /// The number of granted leases of `ttl` seconds whose record is not written yet.
    pub(super) fn fresh_of(&self, ttl: u32) -> usize {
        self.fresh.iter().filter(|id| self.known[id].ttl == ttl).count()
    }

    /// Returns the leases that may have got room since the last call: time to live, [`LeaseUse`] and room.
    pub(super) fn take_offered(&mut self) -> Vec<(u32, LeaseUse, usize)> {
        let offered = std::mem::take(&mut self.offered);
        let described = |id: LeaseId| {
            let lease = self.known.get(&id)?;
            Some((lease.ttl, lease.usage.clone(), self.room(id)))
        };
        offered.into_iter().filter_map(described).collect()
    }

    pub(super) fn forget_offered(&mut self) {
        self.offered.clear();
    }

    /// Takes in the record of a lease, written at `revision`. `ttl` is none if a newer release wrote the record in an
    /// unknown format. Returns the keys that the record proves to be ours, and those that waited for it.
    pub fn recorded(&mut self, lease: LeaseId, ttl: Option<u32>, revision: Revision) -> Vec<Key> {
        let state = if ttl.is_some() { State::Open } else { State::Newer };
        if !self.is_ours(lease) {
            self.insert(lease, ttl.unwrap_or(UNKNOWN_TTL), state);
        }
        let known = self.known.get_mut(&lease).expect("known or just inserted");
        let mut concerned: Vec<Key> = Vec::new();
        if revision < known.record {
            return concerned;
        }
        if known.state == State::Unconfirmed {
            concerned.extend(known.keys.iter().cloned());
        }
        if known.state != State::Retiring || known.record != revision {
            if known.state == State::Newer {
                // A lease in this state is not in `roomy`, so the index by time to live needs no update.
                known.ttl = ttl.unwrap_or(known.ttl);
                self.changed = true;
            }
            known.state = state;
        }
        known.record = revision;
        known.spoilt = false;
        let ours = self.foreign.remove(&lease).unwrap_or_default();
        let before = known.keys.len();
        known.keys.extend(ours.iter().cloned());
        self.key_count += known.keys.len() - before;
        concerned.extend(ours);
        self.update_use(lease);
        for key in self.pending.remove(&lease).unwrap_or_default() {
            self.reserve_for(lease, &key);
        }
        self.reindex(lease);
        concerned
    }

    /// Takes in that a lease had no record at `revision`. A fresh lease is expected to have none yet.
    pub(super) fn record_missing(&mut self, lease: LeaseId, revision: Revision) {
        let Some(known) = self.known.get_mut(&lease) else {
            return;
        };
        if revision >= known.record {
            known.record = revision;
            known.spoilt = false;
            if known.state == State::Newer {
                known.state = State::Unconfirmed;
            }
            if known.state != State::Fresh {
                self.mark_unconfirmed(lease);
            }
        }
    }

    /// Takes in that a foreign value was written at `revision` under the key of a lease's record. The key is ours by
    /// its name, so the record is written over it.
    pub(super) fn record_spoilt(&mut self, lease: LeaseId, revision: Revision) {
        let Some(known) = self.known.get_mut(&lease) else {
            return;
        };
        if revision > known.record {
            known.record = revision;
            known.spoilt = true;
            if known.state != State::Fresh {
                known.state = State::Unconfirmed;
            }
            self.reindex(lease);
        }
    }

    /// Marks a lease as doubtful: it was reported as expired, or its record vanished. A lease without keys, or one
    /// being retired, is forgotten. A lease with keys must be confirmed, except one whose record is of a newer release
    /// and must not be written: it ends when its record vanishes.
    pub fn mark_unconfirmed(&mut self, lease: LeaseId) {
        let Some(known) = self.known.get_mut(&lease) else {
            return;
        };
        if known.keys.is_empty() && known.reserved == 0 || known.state == State::Retiring {
            self.remove(lease);
        } else if known.state != State::Newer {
            known.state = State::Unconfirmed;
            self.reindex(lease);
        }
    }

    /// Removes a lease that does not exist any more. Returns the keys on it, which vanished with it.
    pub fn gone(&mut self, lease: LeaseId) -> Vec<Key> {
        let gone = self.remove(lease);
        gone.map(|lease| lease.keys.into_iter().collect()).unwrap_or_default()
    }

    /// Returns up to `max` leases whose record must be written, with their times to live in seconds and the guard of
    /// the write. Either several fresh leases, or one doubtful lease alone, so that etcd's answer "no such lease"
    /// identifies it.
    pub(super) fn unrecorded(&self, max: usize) -> Vec<(LeaseId, u32, Expect)> {
        let described = |id: &LeaseId| {
            let lease = &self.known[id];
            (*id, lease.ttl, lease.record_guard())
        };
        // The record of a lease that etcd denies cannot be written.
        match self.unconfirmed.difference(&self.denied).next() {
            Some(unconfirmed) => vec![described(unconfirmed)],
            None => self.fresh.iter().take(max).map(described).collect(),
        }
    }

    /// Returns reserved room to the lease. Keys that were written are counted by [`LeasePool::attach`].
    pub fn release(&mut self, lease: LeaseId, count: usize) {
        if let Some(known) = self.known.get_mut(&lease) {
            known.reserved = known.reserved.saturating_sub(count);
            self.vacate(lease);
            self.reindex(lease);
        } else if let Entry::Occupied(mut pending) = self.pending.entry(lease) {
            let rest = pending.get().len().saturating_sub(count);
            pending.get_mut().truncate(rest);
            if rest == 0 {
                pending.remove();
            }
        }
    }

    /// Records that etcd holds `key` on `lease`.
    pub fn attach(&mut self, lease: LeaseId, key: &Key) {
        match self.known.get_mut(&lease) {
            Some(known) => {
                self.key_count += usize::from(known.keys.insert(key.clone()));
                let lease_use = known.usage.with(self.groups.of(key));
                self.set_use(lease, lease_use);
                self.reindex(lease);
            }
            None if lease == LeaseId::NONE => {}
            None => {
                self.foreign.entry(lease).or_default().insert(key.clone());
            }
        }
    }

    /// Records that etcd no longer holds `key` on `lease`.
    pub fn detach(&mut self, lease: LeaseId, key: &Key) {
        if let Some(known) = self.known.get_mut(&lease) {
            self.key_count -= usize::from(known.keys.remove(key));
            self.vacate(lease);
            self.reindex(lease);
        } else if let Some(foreign) = self.foreign.get_mut(&lease) {
            foreign.remove(key);
            if foreign.is_empty() {
                self.foreign.remove(&lease);
            }
        }
    }

    /// Returns the leases that have been empty for `EMPTY_FOR`, with the revisions of their records.
    pub fn retirable(&mut self, now: Instant) -> Vec<(LeaseId, Revision)> {
        let mut long_empty = Vec::new();
        for (id, lease) in &mut self.known {
            let settled = matches!(lease.state, State::Open | State::Retiring);
            if !settled || !lease.keys.is_empty() || lease.reserved > 0 {
                lease.empty_since = None;
            } else if now.duration_since(*lease.empty_since.get_or_insert(now)) >= EMPTY_FOR {
                long_empty.push((*id, lease.record));
            }
        }
        long_empty
    }

    /// Marks an empty lease whose record is about to be removed.
    pub fn retire(&mut self, lease: LeaseId) {
        if let Some(known) = self.known.get_mut(&lease) {
            known.state = State::Retiring;
            self.reindex(lease);
        }
    }

    fn insert(&mut self, id: LeaseId, ttl: u32, state: State) {
        let lease = Lease {
            ttl,
            state,
            usage: LeaseUse::Free,
            denied: false,
            keys: HashSet::new(),
            reserved: 0,
            record: 0,
            spoilt: false,
            empty_since: None,
        };
        self.known.insert(id, lease);
        self.changed = true;
        self.reindex(id);
    }

    fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        self.unfile(id);
        let lease = self.known.remove(&id)?;
        self.fresh.remove(&id);
        self.unconfirmed.remove(&id);
        self.denied.remove(&id);
        self.offered.remove(&id);
        self.key_count -= lease.keys.len();
        self.changed = true;
        Some(lease)
    }

    /// How many more keys a lease takes.
    pub(super) fn room(&self, id: LeaseId) -> usize {
        let used = |lease: &Lease| lease.keys.len() + lease.reserved;
        self.known
            .get(&id)
            .map_or(0, |lease| self.capacity.saturating_sub(used(lease)))
    }
}

#[cfg(test)]
mod tests;
