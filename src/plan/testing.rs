//! Fixtures of the planner's tests: an etcd in memory with a watch that may lag, and small desired pods.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::desired::{DesiredPod, EndpointRecords};
use super::meta::MetaKeys;
use super::planner::Planner;
use super::registrations::RegistrationSettings;
use crate::model::{
    Endpoint, Expect, Fence, Key, KeyValue, LeaseId, Observation, Op, OpResult, Prefix, PrefixChanges, Record,
    RegistrationRef, Revision, Transaction, TxnOutcome, Value,
};

/// The content of an etcd.
#[derive(Clone, Debug, Default)]
struct State {
    revision: Revision,
    keys: BTreeMap<Key, KeyValue>,
    leases: BTreeSet<LeaseId>,
    /// The keys that a foreign client created.
    foreign: BTreeSet<Key>,
}

/// An etcd in memory. Transactions behave as [`TxnOutcome`] describes; one that writes or deletes a foreign key fails
/// the test at once. Watch events are delivered when the test asks for them.
#[derive(Debug)]
pub(super) struct Etcd {
    state: State,
    meta: MetaKeys,
    next_lease: i64,
    watched: BTreeSet<Prefix>,
    live: bool,
    /// The changes while there are no watches, from which they can continue; none if all prefixes must be listed.
    missed: Option<Vec<Observation>>,
    reported: VecDeque<Observation>,
}

pub(super) fn meta() -> MetaKeys {
    MetaKeys::new("/leasehold/", "c1")
}

impl Etcd {
    pub(super) fn new() -> Self {
        let mut etcd = Self {
            state: State::default(),
            meta: meta(),
            next_lease: 0x10,
            watched: BTreeSet::new(),
            live: true,
            missed: None,
            reported: VecDeque::new(),
        };
        etcd.forget_watches();
        etcd
    }

    // ---- actions of the operator ----

    /// Elects a new leader; the previous one is no longer leader.
    pub(super) fn elect(&mut self) -> Fence {
        let key = self.meta.leader();
        if self.state.keys.contains_key(&key) {
            self.write(&[(key.clone(), None)]);
        }
        let revision = self.write(&[(key.clone(), Some((b"leader".as_slice().into(), LeaseId::NONE)))]);
        Fence {
            key,
            create_revision: revision,
            lease: LeaseId::NONE,
        }
    }

    pub(super) fn grant(&mut self) -> LeaseId {
        self.next_lease += 1;
        let lease = LeaseId(self.next_lease);
        self.state.leases.insert(lease);
        lease
    }

    pub(super) fn commit(&mut self, fence: &Fence, transaction: &Transaction) -> TxnOutcome {
        let ops = &transaction.ops;
        let widest = transaction.units.iter().map(Range::len).max().unwrap_or(1);
        assert!(!ops.is_empty() && ops.len() + widest <= Transaction::MAX_OPS + 1);
        let written: Vec<_> = ops.iter().filter(|op| !matches!(op, Op::Check { .. })).collect();
        let distinct: BTreeSet<_> = written.iter().map(|op| op.key()).collect();
        assert_eq!(
            distinct.len(),
            written.len(),
            "etcd refuses a key that is written twice: {ops:?}"
        );
        let leader = self.state.keys.get(&fence.key);
        if leader.map(|held| held.create_revision) != Some(fence.create_revision) {
            return TxnOutcome::Fenced;
        }
        let holds = |position| transaction.unit_of(position).iter().all(|op| self.guard_holds(op));
        let done: Vec<bool> = (0..ops.len()).map(holds).collect();
        let mut writes = Vec::new();
        for (op, _) in ops.iter().zip(&done).filter(|(_, done)| **done) {
            if matches!(op, Op::Check { .. }) {
                continue;
            }
            let ours_by_name = self.meta.prefix().contains(op.key());
            assert!(
                ours_by_name || !self.state.foreign.contains(op.key()),
                "somebody else's key is written: {op:?}"
            );
            match op {
                Op::Put { lease, .. } if !self.state.leases.contains(lease) => return TxnOutcome::LeaseGone,
                Op::Put { key, value, lease, .. } => writes.push((key.clone(), Some((value.clone(), *lease)))),
                Op::Delete { key, .. } => writes.push((key.clone(), None)),
                Op::Check { .. } => {}
            }
        }
        let held_before: Vec<_> = ops.iter().map(|op| self.held(op.key()).cloned()).collect();
        let revision = self.write(&writes);
        let result = |(done, held)| if done { OpResult::Done } else { OpResult::Refused(held) };
        let results = done.into_iter().zip(held_before).map(result).collect();
        TxnOutcome::Applied { revision, results }
    }

    fn guard_holds(&self, op: &Op) -> bool {
        let held = self.held(op.key());
        match op.expect() {
            Expect::Absent => held.is_none(),
            Expect::At(revision) => held.is_some_and(|held| held.mod_revision == revision),
        }
    }

    // ---- events in etcd ----

    /// A foreign client writes `key`, on no lease.
    pub(super) fn foreign_put(&mut self, key: &str, value: &str) {
        if !self.state.keys.contains_key(key) {
            self.state.foreign.insert(key.into());
        }
        self.write(&[(key.into(), Some((value.as_bytes().into(), LeaseId::NONE)))]);
    }

    /// A client writes what looks like a record of ours below the meta prefix, on a lease that exists from then on.
    pub(super) fn record(&mut self, key: &str, value: &str, lease: LeaseId) {
        if lease != LeaseId::NONE {
            self.state.leases.insert(lease);
        }
        self.write(&[(key.into(), Some((value.as_bytes().into(), lease)))]);
    }

    /// A newer release writes `key`, on the lease that it is on.
    pub(super) fn rewrite(&mut self, key: &str, value: &str) {
        let lease = self.held(key).expect("it is there").lease;
        self.write(&[(key.into(), Some((value.as_bytes().into(), lease)))]);
    }

    /// A foreign client deletes `key`, if it exists.
    pub(super) fn foreign_delete(&mut self, key: &str) {
        if self.state.keys.contains_key(key) {
            self.write(&[(key.into(), None)]);
        }
    }

    /// Expires a lease and all keys on it.
    pub(super) fn expire(&mut self, lease: LeaseId) {
        if self.state.leases.remove(&lease) {
            let gone: Vec<_> = self.keys_on(lease).into_iter().map(|key| (key, None)).collect();
            self.write(&gone);
        }
    }

    /// Saves a copy that the test can restore later.
    pub(super) fn save(&self) -> impl Fn(&mut Self) + use<> {
        let saved = self.state.clone();
        move |etcd| {
            etcd.state = saved.clone();
            etcd.missed = None;
            etcd.reported.push_back(Observation::Restored);
            etcd.show_all();
        }
    }

    /// Applies all `writes` at one revision.
    fn write(&mut self, writes: &[(Key, Option<(Value, LeaseId)>)]) -> Revision {
        if writes.is_empty() {
            return self.state.revision;
        }
        self.state.revision += 1;
        let revision = self.state.revision;
        for (key, written) in writes {
            let held = written.clone().map(|(value, lease)| KeyValue {
                value,
                lease,
                create_revision: self.held(key).map_or(revision, |held| held.create_revision),
                mod_revision: revision,
            });
            if let Some(held) = &held {
                self.state.keys.insert(key.clone(), held.clone());
            } else {
                self.state.keys.remove(key);
                self.state.foreign.remove(key);
            }
            if self.watched.iter().any(|prefix| prefix.contains(key)) {
                let key = key.clone();
                let change = Observation::Changed { key, held, revision };
                if self.live {
                    self.reported.push_back(change);
                } else if let Some(missed) = &mut self.missed {
                    missed.push(change);
                }
            }
        }
        revision
    }

    // ---- watch events ----

    pub(super) fn watch(&mut self, PrefixChanges { removed, added }: PrefixChanges) {
        self.watched.retain(|prefix| !removed.contains(prefix));
        let fresh: Vec<Prefix> = added
            .into_iter()
            .filter(|prefix| self.watched.insert(prefix.clone()))
            .collect();
        if self.live && !fresh.is_empty() {
            self.show(fresh);
        } else if !fresh.is_empty() {
            self.missed = None;
        }
    }

    /// Watches what a new operator watches: its records.
    pub(super) fn forget_watches(&mut self) {
        self.watched.clear();
        self.missed = None;
        self.reported.clear();
        self.live = true;
        self.watch(PrefixChanges::add([self.meta.prefix().clone()]));
    }

    pub(super) fn interrupt(&mut self) {
        if std::mem::take(&mut self.live) {
            self.missed = Some(Vec::new());
            self.reported.push_back(Observation::Interrupted);
        }
    }

    /// Continues the watches where they ended, unless etcd was restored or other prefixes are watched. Every other time, as
    /// after a compaction, lists all prefixes.
    pub(super) fn resume(&mut self) {
        if std::mem::replace(&mut self.live, true) {
            return;
        }
        match self.missed.take() {
            Some(missed) if missed.len().is_multiple_of(2) => {
                self.reported.extend(missed);
                let revision = self.state.revision;
                self.reported.push_back(Observation::Complete { revision });
            }
            _ => self.show_all(),
        }
    }

    fn show_all(&mut self) {
        if self.live {
            self.show(self.watched.iter().cloned().collect());
        }
    }

    fn show(&mut self, prefixes: Vec<Prefix>) {
        let revision = self.state.revision;
        for prefix in prefixes {
            let snapshot = self.snapshot(prefix);
            self.reported.push_back(snapshot);
        }
        self.reported.push_back(Observation::Complete { revision });
    }

    /// The snapshot that a list of `prefix` returns now.
    pub(super) fn snapshot(&self, prefix: Prefix) -> Observation {
        let inside = self.state.keys.iter().filter(|(key, _)| prefix.contains(key));
        let entries = inside.map(|(key, held)| (key.clone(), held.clone())).collect();
        Observation::Snapshot {
            prefix,
            revision: self.state.revision,
            entries,
        }
    }

    /// Delivers the next observation, or one of another key that overtakes it: `pick` chooses among those that may come
    /// first. Changes of one key keep their order, and nothing overtakes a snapshot.
    pub(super) fn deliver(&mut self, pick: usize) -> Option<Observation> {
        let key_of = |observation: &Observation| match observation {
            Observation::Changed { key, .. } => Some(key.clone()),
            _ => None,
        };
        let mut seen = BTreeSet::new();
        let mut first = Vec::new();
        for (position, observation) in self.reported.iter().enumerate() {
            if let Some(key) = key_of(observation) {
                if seen.insert(key) {
                    first.push(position);
                }
                continue;
            }
            if position == 0 {
                first.push(position);
            }
            break;
        }
        let position = *first.get(pick % first.len().max(1))?;
        self.reported.remove(position)
    }

    // ---- inspection ----

    pub(super) fn revision(&self) -> Revision {
        self.state.revision
    }

    pub(super) fn held(&self, key: &str) -> Option<&KeyValue> {
        self.state.keys.get(key)
    }

    pub(super) fn value(&self, key: &str) -> Option<String> {
        self.held(key)
            .map(|held| String::from_utf8_lossy(&held.value).into_owned())
    }

    pub(super) fn is_foreign(&self, key: &str) -> bool {
        self.state.foreign.contains(key)
    }

    /// The keys outside of our bookkeeping.
    pub(super) fn data(&self) -> impl Iterator<Item = (&Key, &KeyValue)> {
        let meta = self.meta.prefix();
        self.state.keys.iter().filter(|(key, _)| !meta.contains(key))
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.state.leases.iter().copied()
    }

    /// The leases with a record of ours on the lease itself.
    pub(super) fn recorded(&self) -> Vec<LeaseId> {
        let recorded = self
            .state
            .keys
            .iter()
            .filter_map(|(key, held)| self.meta.recorded_lease(key).filter(|lease| *lease == held.lease));
        recorded.collect()
    }

    pub(super) fn keys_on(&self, lease: LeaseId) -> Vec<Key> {
        let on_it = self.state.keys.iter().filter(|(_, held)| held.lease == lease);
        on_it.map(|(key, _)| key.clone()).collect()
    }
}

pub(super) fn reference(name: &str) -> RegistrationRef {
    RegistrationRef::new("shop", name)
}

/// The settings of a registration that was created then and has the prefix `/s/`.
pub(super) fn settings(created: i64) -> RegistrationSettings {
    RegistrationSettings {
        created,
        ttl: 30,
        suspended: false,
        keep_last: false,
        prefixes: vec![Prefix::below("/s/")],
    }
}

/// A desired pod with one port and these keys, all with this value.
pub(super) fn desired(pod: &str, keys: &[&str], value: &str) -> DesiredPod {
    let record = |key: &&str| Record {
        key: (*key).into(),
        value: value.as_bytes().into(),
    };
    let endpoint_records = EndpointRecords {
        endpoint: endpoint(pod, 8080).into(),
        records: keys.iter().map(record).collect(),
        units: Box::default(),
    };
    DesiredPod {
        by_endpoint: [endpoint_records].into(),
        ..DesiredPod::default()
    }
}

/// The same, with all keys in one unit.
pub(super) fn whole(pod: &str, keys: &[&str], value: &str) -> DesiredPod {
    let mut desired = desired(pod, keys, value);
    let unit = 0..keys.len();
    desired.by_endpoint[0].units = [unit].into();
    desired
}

pub(super) fn endpoint(pod: &str, port: u16) -> Endpoint {
    Endpoint {
        namespace: "shop".into(),
        service: "orders".into(),
        pod: pod.into(),
        node: None,
        zone: None,
        address: "10.0.0.7".parse().expect("an address"),
        second_family: None,
        port,
        port_name: "grpc".into(),
        scheme: None,
        version: None,
        weight: None,
        metadata: Arc::default(),
    }
}

/// Offers the room on leases and requests those that are missing, as the worker does. `requested` are the leases on their
/// way, each with its time to live. Returns whether that changed anything.
pub(super) fn request_leases(planner: &mut Planner, etcd: &mut Etcd, requested: &mut Vec<(LeaseId, u32)>) -> bool {
    let mut is_any = planner.offer_room();
    let mut in_flight: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, ttl) in requested.iter() {
        *in_flight.entry(*ttl).or_default() += 1;
    }
    while let Some(ttl) = planner.grant_due(&in_flight) {
        requested.push((etcd.grant(), ttl));
        *in_flight.entry(ttl).or_default() += 1;
        is_any = true;
    }
    is_any
}
