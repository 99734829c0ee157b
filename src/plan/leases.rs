//! The pool of leases: which are ours, how full each is, and where a new key goes.
//!
//! Leases are pooled because the operator, not the pod, renews them. Holes are filled before a lease is granted,
//! and a key is never moved to another lease without need: a move is an event for every consumer. Keys of different
//! [`LeaseGroup`](super::lease_groups::LeaseGroup)s are never put on one lease; what shares one already stays there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

pub(super) use self::homes::Home;
use self::lease::{Lease, State};
use super::lease_groups::LeaseGroups;
use super::transaction::{Expect, Key, LeaseId, Revision};

mod homes;
mod lease;

/// How long a lease stays empty before it is let go.
const EMPTY_FOR: Duration = Duration::from_mins(10);

/// How long a lease lives that is recorded in a form that is not known here, in seconds: the shortest time that there is,
/// so that it is renewed often enough whatever its own is.
const UNKNOWN_TTL: u32 = 5;

/// Whether a key can stay on its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The lease is ours and lives as long as it should.
    Stays,
    /// It has to go on another lease.
    Moves,
    /// It is not known whether the lease, and with it the key, is still there.
    InDoubt,
}

/// All leases of one Registry.
#[derive(Debug)]
pub struct Leases {
    capacity: usize,
    domains: LeaseGroups,
    known: BTreeMap<LeaseId, Lease>,
    /// Open leases with room, by time to live and by whose keys they take: placing a key does not search. In order, so
    /// that some fill up and others run empty.
    roomy: HashMap<(u32, Home), BTreeSet<LeaseId>>,
    /// Leases in [`State::Fresh`]: every plan asks for them, and there are mostly none.
    fresh: BTreeSet<LeaseId>,
    /// Leases in [`State::Doubtful`], likewise.
    doubtful: BTreeSet<LeaseId>,
    /// Leases that etcd denies.
    denied: BTreeSet<LeaseId>,
    /// Leases whose room, or whose keys' domain, may have changed since the last [`Self::take_offered`].
    offered: BTreeSet<LeaseId>,
    /// The number of keys that etcd holds on all of them.
    key_count: usize,
    /// Keys on leases that are not known to be ours (yet): a key may be seen before the record of its lease is.
    strangers: HashMap<LeaseId, HashSet<Key>>,
    changed: bool,
}

impl Leases {
    /// An empty pool whose leases carry up to `capacity` keys each, whatever their domain.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            domains: LeaseGroups::everything(),
            known: BTreeMap::new(),
            roomy: HashMap::new(),
            fresh: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            denied: BTreeSet::new(),
            offered: BTreeSet::new(),
            key_count: 0,
            strangers: HashMap::new(),
            changed: true,
        }
    }

    /// Changes how many keys a lease carries; fuller ones stay as they are.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity.max(1);
        for lease in self.known.keys().copied().collect::<Vec<_>>() {
            self.reindex(lease);
        }
    }

    /// How many keys a lease carries.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether a key on `lease` is ours.
    pub fn is_ours(&self, lease: LeaseId) -> bool {
        self.known.contains_key(&lease)
    }

    /// Whether a key on `lease` that is to live `ttl` seconds may stay there.
    pub(super) fn fit(&self, lease: LeaseId, ttl: u32) -> Fit {
        match self.known.get(&lease) {
            Some(known) if known.denied => Fit::Moves,
            Some(known) if known.state == State::Doubtful => Fit::InDoubt,
            Some(known) if known.state == State::Newer => Fit::Stays,
            Some(known) if known.ttl == ttl && known.state == State::Open => Fit::Stays,
            _ => Fit::Moves,
        }
    }

    /// The number of leases.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The number of keys that etcd holds on our leases.
    pub fn key_count(&self) -> usize {
        self.key_count
    }

    /// The ids of all leases.
    pub fn ids(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.known.keys().copied()
    }

    /// The leases to renew with their times to live in seconds, if that changed since the last call.
    pub fn take_changed_renewals(&mut self) -> Option<BTreeMap<LeaseId, u32>> {
        std::mem::take(&mut self.changed).then(|| self.known.iter().map(|(id, lease)| (*id, lease.ttl)).collect())
    }

    /// Forgets every lease: etcd's history is another one now.
    pub fn clear(&mut self) {
        self.known.clear();
        self.roomy.clear();
        self.fresh.clear();
        self.doubtful.clear();
        self.denied.clear();
        self.offered.clear();
        self.key_count = 0;
        self.strangers.clear();
        self.changed = true;
    }

    /// A lease of `ttl` seconds was granted to us. It takes keys once it is recorded.
    pub fn granted(&mut self, lease: LeaseId, ttl: u32) {
        self.insert(lease, ttl, State::Fresh);
    }

    /// Forgets the leases that are not recorded: nobody but us knows of them, and we are not to record them any more.
    pub fn forget_fresh(&mut self) {
        let fresh = self.known.iter().filter(|(_, lease)| lease.state == State::Fresh);
        for lease in fresh.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(lease);
        }
    }

    /// How many granted leases wait to be recorded.
    pub fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// How many of them live `ttl` seconds.
    pub(super) fn fresh_of(&self, ttl: u32) -> usize {
        self.fresh.iter().filter(|id| self.known[id].ttl == ttl).count()
    }

    /// The leases that may have got room since the last call: time to live, whose keys each takes, and its room.
    pub(super) fn take_offered(&mut self) -> Vec<(u32, Home, usize)> {
        let offered = std::mem::take(&mut self.offered);
        let described = |id: LeaseId| {
            let lease = self.known.get(&id)?;
            Some((lease.ttl, lease.home.clone(), self.room(id)))
        };
        offered.into_iter().filter_map(described).collect()
    }

    /// Forgets which leases may have got room.
    pub(super) fn forget_offered(&mut self) {
        self.offered.clear();
    }

    /// The record of a lease exists, written at `revision`; without a time to live if a newer release wrote it in a form
    /// that is not known here. Returns the keys that turn out to be ours by it, and those that waited for it.
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
        if known.state == State::Doubtful {
            concerned.extend(known.keys.iter().cloned());
        }
        if known.state != State::Retiring || known.record != revision {
            if known.state == State::Newer {
                // It is not filed among those with room: nothing has to be filed anew.
                known.ttl = ttl.unwrap_or(known.ttl);
                self.changed = true;
            }
            known.state = state;
        }
        known.record = revision;
        known.spoilt = false;
        let ours = self.strangers.remove(&lease).unwrap_or_default();
        let before = known.keys.len();
        known.keys.extend(ours.iter().cloned());
        self.key_count += known.keys.len() - before;
        concerned.extend(ours);
        self.settle_home(lease);
        self.reindex(lease);
        concerned
    }

    /// The record of a lease was not there at `revision`. That of a fresh one is yet to be written.
    pub(super) fn record_missing(&mut self, lease: LeaseId, revision: Revision) {
        let Some(known) = self.known.get_mut(&lease) else {
            return;
        };
        if revision >= known.record {
            known.record = revision;
            known.spoilt = false;
            if known.state == State::Newer {
                known.state = State::Doubtful;
            }
            if known.state != State::Fresh {
                self.doubt(lease);
            }
        }
    }

    /// Somebody wrote something else, at `revision`, under the key of a lease's record. The key is ours by its name:
    /// the record is written over it.
    pub(super) fn record_spoilt(&mut self, lease: LeaseId, revision: Revision) {
        let Some(known) = self.known.get_mut(&lease) else {
            return;
        };
        if revision > known.record {
            known.record = revision;
            known.spoilt = true;
            if known.state != State::Fresh {
                known.state = State::Doubtful;
            }
            self.reindex(lease);
        }
    }

    /// The lease is said to have lapsed, or its record vanished. One without keys is forgotten; one with keys has to be
    /// confirmed, unless its record is not ours to write: that one ends when its record does.
    pub fn doubt(&mut self, lease: LeaseId) {
        let Some(known) = self.known.get_mut(&lease) else {
            return;
        };
        if known.keys.is_empty() && known.reserved == 0 || known.state == State::Retiring {
            self.remove(lease);
        } else if known.state != State::Newer {
            known.state = State::Doubtful;
            self.reindex(lease);
        }
    }

    /// The lease is gone, and every key on it went with it: these are returned.
    pub fn gone(&mut self, lease: LeaseId) -> Vec<Key> {
        let gone = self.remove(lease);
        gone.map(|lease| lease.keys.into_iter().collect()).unwrap_or_default()
    }

    /// Up to `max` leases whose record must be written, with their times to live in seconds and what is to be found
    /// under the record's key: freshly granted ones together, or one doubtful one alone, so that an answer "no such
    /// lease" names it.
    pub(super) fn unrecorded(&self, max: usize) -> Vec<(LeaseId, u32, Expect)> {
        let described = |id: &LeaseId| {
            let lease = &self.known[id];
            (*id, lease.ttl, lease.record_guard())
        };
        // Of one that etcd denies the record cannot be put.
        match self.doubtful.difference(&self.denied).next() {
            Some(doubtful) => vec![described(doubtful)],
            None => self.fresh.iter().take(max).map(described).collect(),
        }
    }

    /// Gives reserved room back: what was written is counted by [`Leases::attach`].
    pub fn release(&mut self, lease: LeaseId, count: usize) {
        if let Some(known) = self.known.get_mut(&lease) {
            known.reserved = known.reserved.saturating_sub(count);
            self.vacate(lease);
            self.reindex(lease);
        }
    }

    /// etcd holds `key` on `lease`.
    pub fn attach(&mut self, lease: LeaseId, key: &Key) {
        match self.known.get_mut(&lease) {
            Some(known) => {
                self.key_count += usize::from(known.keys.insert(key.clone()));
                let home = known.home.with(self.domains.of(key));
                self.set_home(lease, home);
                self.reindex(lease);
            }
            None if lease == LeaseId::NONE => {}
            None => {
                self.strangers.entry(lease).or_default().insert(key.clone());
            }
        }
    }

    /// etcd no longer holds `key` on `lease`.
    pub fn detach(&mut self, lease: LeaseId, key: &Key) {
        if let Some(known) = self.known.get_mut(&lease) {
            self.key_count -= usize::from(known.keys.remove(key));
            self.vacate(lease);
            self.reindex(lease);
        } else if let Some(strangers) = self.strangers.get_mut(&lease) {
            strangers.remove(key);
            if strangers.is_empty() {
                self.strangers.remove(&lease);
            }
        }
    }

    /// The leases that have been empty for long enough to be let go, with the revisions of their records.
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

    /// The record of an empty lease is about to be removed.
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
            home: Home::Free,
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
        self.doubtful.remove(&id);
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
