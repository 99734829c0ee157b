//! The candidates in the election of a Registry, as recorded in etcd, and the candidacy of this replica: a replica
//! whose view of Kubernetes is stale yields to one whose view is fresh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Outdated, RegistryWorker};
use crate::backend::{Backend, Candidacy};
use crate::model::{Elsewhere, Key, KeyValue, Observation, Prefix, listed};
use crate::peer::{Hint, PeerStatus, PeerStatuses, RegistryState};
use crate::plan::{CandidateRecord, in_the_way};

/// How long a leader may keep the lead with a stale view of Kubernetes while another candidate has a fresh one.
const STALE: Duration = Duration::from_secs(15);
/// The reason of the Event about replicas that watch other namespaces.
const OTHER_NAMESPACES: &str = "OtherNamespacesWatched";
/// How many replicas or namespaces a message names.
const NAMED: usize = 5;

/// The candidates that have a record in etcd.
#[derive(Debug)]
pub(super) struct Candidates {
    /// The prefix of the candidates' records.
    below: Prefix,
    /// The prefix of all bookkeeping keys.
    meta: Prefix,
    /// The namespaces that this replica watches; empty if it watches all.
    namespaces: BTreeSet<Arc<str>>,
    records: BTreeMap<Key, CandidateRecord>,
}

impl Candidates {
    pub fn new(meta: Prefix, below: Prefix, namespaces: BTreeSet<Arc<str>>) -> Self {
        Self {
            below,
            meta,
            namespaces,
            records: BTreeMap::new(),
        }
    }

    /// Takes in an observation of the mirror. Returns whether the candidates have changed.
    pub fn observe(&mut self, observation: &Observation) -> bool {
        let read = |key: &Key, held: &KeyValue| Some((key.clone(), CandidateRecord::read(held)?));
        match observation {
            Observation::Changed { key, held, .. } if self.below.contains(key) => {
                match held.as_ref().and_then(|held| read(key, held)) {
                    Some((key, record)) => self.records.insert(key, record.clone()) != Some(record),
                    None => self.records.remove(key).is_some(),
                }
            }
            Observation::Snapshot { prefix, entries, .. } if *prefix == self.meta => {
                let within = entries.iter().filter(|(key, _)| self.below.contains(key));
                let records = within.filter_map(|(key, held)| read(key, held)).collect();
                let changed = self.records != records;
                self.records = records;
                changed
            }
            Observation::Restored => {
                let changed = !self.records.is_empty();
                self.records.clear();
                changed
            }
            _ => false,
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &CandidateRecord> {
        self.records.values()
    }

    /// Returns the candidate that watches other namespaces and for which the replica `me` does not claim the lead.
    pub fn in_the_way(&self, me: &str) -> Option<&CandidateRecord> {
        in_the_way((me, &self.namespaces), self.records.values())
    }

    fn watches_others(&self, record: &CandidateRecord) -> bool {
        record
            .namespaces
            .as_ref()
            .is_some_and(|theirs| *theirs != self.namespaces)
    }

    /// Names the candidates that watch other namespaces than this replica, if there are any.
    pub fn with_other_namespaces(&self) -> Option<String> {
        let others = self.all().filter(|record| self.watches_others(record));
        let named: Vec<_> = others
            .map(|record| format!("{} ({})", record.identity, watched(record.namespaces.as_ref())))
            .collect();
        (!named.is_empty()).then(|| listed(named, NAMED, "and"))
    }

    /// Returns a candidate other than the process `me` that has a fresh view of the same namespaces and is not known to
    /// have ended or to hang.
    fn fresh_other(&self, me: &str, presences: &PeerStatuses) -> Option<&CandidateRecord> {
        self.all().find(|record| {
            let is_it = |process: &str| process == &*record.process;
            let is_dead = match record.address.and_then(|address| presences.get(&address)) {
                Some(PeerStatus::Gone(replica) | PeerStatus::Hung(replica)) => is_it(&replica.incarnation),
                // Another process answers at that address now.
                Some(PeerStatus::Alive(replica, _)) => !is_it(&replica.incarnation),
                Some(PeerStatus::Unknown(_) | PeerStatus::Refused) | None => false,
            };
            record.fresh && !is_it(me) && !is_dead && !self.watches_others(record)
        })
    }
}

/// Describes the namespaces that a replica watches.
fn watched(namespaces: Option<&BTreeSet<Arc<str>>>) -> String {
    match namespaces {
        Some(some) if !some.is_empty() => listed(some, NAMED, "and"),
        _ => "all namespaces".to_owned(),
    }
}

/// Decides the candidacy of a replica whose view of Kubernetes is stale since `stale_since` (None: it is fresh).
fn candidacy(stale_since: Option<Instant>, leads: bool, fresh_other: bool, now: Instant) -> Candidacy {
    let Some(since) = stale_since else {
        return Candidacy {
            fresh: true,
            yields: false,
        };
    };
    let is_due = !leads || now.saturating_duration_since(since) >= STALE;
    Candidacy {
        fresh: false,
        yields: fresh_other && is_due,
    }
}

impl<B: Backend> RegistryWorker<B> {
    /// Reports once that this replica does not claim the lead, because an earlier candidate watches other namespaces.
    pub(super) fn announce_giving_way(&mut self) {
        let other = self.candidates.in_the_way(&self.context.identity);
        let other = other.filter(|_| self.state.is_live() && !self.leads());
        let namespaces = other.and_then(|other| other.namespaces.clone());
        if self.gives_way_to == namespaces {
            return;
        }
        if let Some(other) = other {
            let (mine, theirs) = (watched(Some(&self.candidates.namespaces)), watched(namespaces.as_ref()));
            let (me, other) = (&self.context.identity, &other.identity);
            let note = format!(
                "Replica {me} watches {mine}, and {other} watches {theirs}. Each would remove the keys that the other has \
                 registered, so {me} stands by until no replica watches {theirs}: give both installations the same \
                 namespaces, or different classes."
            );
            tracing::warn!(registry = %self.name, "{note}");
            self.publish(true, OTHER_NAMESPACES, note, format!("{me} {theirs}"));
        }
        self.gives_way_to = namespaces;
    }

    /// Takes in an observation of candidate records and connects to the candidates.
    pub(super) fn observe_candidates(&mut self, observation: &Observation) {
        if self.candidates.observe(observation) {
            let addresses = self.candidates.all().filter_map(|record| record.address);
            self.context.peers.seek(&self.name, addresses.collect());
        }
    }

    /// Updates since when the view of Kubernetes is stale.
    pub(super) fn weigh_view(&mut self, now: Instant) {
        let outdated = self
            .kubernetes
            .outdated
            .as_ref()
            .filter(|outdated| outdated.is_general());
        self.stale_since = match outdated {
            None if self.kubernetes.complete => None,
            None => self.stale_since.or(Some(now)),
            Some(Outdated { since, .. }) => {
                let age = Timestamp::now().duration_since(*since).unsigned_abs();
                self.stale_since.or_else(|| now.checked_sub(age)).or(Some(now))
            }
        };
    }

    /// Updates the candidacy of this replica. Returns when it changes by the passing of time alone.
    pub(super) fn stand(&mut self, now: Instant) -> Option<Instant> {
        let other = self.fresh_other().is_some();
        let candidacy = candidacy(self.stale_since, self.leads(), other, now);
        self.lines.candidacy.send_if_modified(|known| {
            let is_new = *known != candidacy;
            *known = candidacy;
            is_new
        });
        let due = self.stale_since? + STALE;
        (other && due > now).then_some(due)
    }

    fn fresh_other(&self) -> Option<&CandidateRecord> {
        // While the view of etcd is not live, the candidate records may be stale.
        let presences = self.presences.borrow();
        let found = self
            .candidates
            .fresh_other(&self.context.peers.me().incarnation, &presences);
        found.filter(|_| self.state.is_live())
    }

    /// The candidate that this replica yields to, if it yields.
    pub(super) fn yields_to(&self) -> Option<Arc<str>> {
        let yields = self.lines.candidacy.borrow().yields;
        let other = self.fresh_other().filter(|_| yields);
        other.map(|record| record.identity.clone())
    }

    /// Whether another replica is connected to this Registry, according to the replicas themselves. The replicas that
    /// the Registry's status names and the last known candidates are asked.
    pub(super) fn elsewhere(&self, now: Instant) -> Elsewhere {
        let peers = &self.context.peers;
        let me = peers.me();
        let others = self.candidates.all().filter(|record| record.process != me.incarnation);
        let hints = others.map(|record| Hint {
            identity: record.identity.clone(),
            address: record.address,
            since: self.began,
        });
        peers.elsewhere(&self.name, hints, now)
    }

    /// The replicas that are connected to this Registry, each with its address, for the status.
    pub(super) fn connected_replicas(&self, now: Instant) -> Vec<(Arc<str>, Option<SocketAddr>)> {
        let none_other = !self.state.is_live() && self.elsewhere(now) == Elsewhere::NoReplica;
        let me = &self.context.peers.me().incarnation;
        // Other replicas ask the leader that the status names, so the status gives its address.
        let is_there = |record: &&CandidateRecord| !none_other || record.process == *me && self.leads();
        self.candidates
            .all()
            .filter(is_there)
            .map(|record| (record.identity.clone(), record.address))
            .collect()
    }

    /// Whether this replica has renewed every recorded lease itself. A lease that etcd does not let this replica renew
    /// cannot be renewed by another replica either.
    pub(super) fn has_renewed(&mut self, now: Instant) -> bool {
        let leases = self.planner.leases();
        let (none, denied) = (leases.len() == 0, leases.denied().next().is_some());
        none || denied || self.lines.ends.borrow().is_some_and(|end| end > now)
    }

    /// Reports to the other replicas whether this one is connected to the Registry and whether it leads.
    pub(super) fn state_to_peers(&self, connected: bool) {
        let state = RegistryState {
            connected,
            leading: self.leads(),
        };
        self.context.peers.state_registry(&self.name, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LeaseId;
    use crate::peer::Replica;
    use crate::plan::MetaKeys;

    fn record(identity: &str, fresh: bool) -> CandidateRecord {
        CandidateRecord {
            identity: identity.into(),
            process: format!("{identity}-1").into(),
            address: Some("10.0.0.1:8081".parse().expect("an address")),
            fresh,
            namespaces: Some(BTreeSet::new()),
            since: 1,
        }
    }

    fn held(record: &CandidateRecord) -> KeyValue {
        KeyValue {
            value: record.value(),
            lease: LeaseId(1),
            create_revision: 1,
            mod_revision: 1,
        }
    }

    fn candidates() -> (MetaKeys, Candidates) {
        let meta = MetaKeys::new("/leasehold/", "c1");
        let candidates = Candidates::new(meta.prefix().clone(), meta.candidates(), BTreeSet::new());
        (meta, candidates)
    }

    #[test]
    fn a_fresh_replica_never_yields() {
        let now = Instant::now();
        for leads in [false, true] {
            let found = candidacy(None, leads, true, now);
            assert!(found.fresh && !found.yields);
        }
    }

    #[test]
    fn a_stale_standby_yields_at_once_and_a_stale_leader_after_15_s() {
        let now = Instant::now();
        let since = Some(now);
        assert!(candidacy(since, false, true, now).yields);
        assert!(!candidacy(since, true, true, now + STALE / 2).yields);
        assert!(candidacy(since, true, true, now + STALE).yields);
    }

    #[test]
    fn candidate_does_not_yield_when_no_view_is_fresh() {
        let now = Instant::now();
        for leads in [false, true] {
            let found = candidacy(Some(now), leads, false, now + STALE * 100);
            assert!(!found.fresh && !found.yields);
        }
    }

    #[test]
    fn candidates_are_exactly_those_with_records() {
        let (meta, mut candidates) = candidates();
        let (a, b) = (record("a", true), record("b", false));
        let snapshot = Observation::Snapshot {
            prefix: meta.prefix().clone(),
            revision: 1,
            entries: vec![(meta.candidate("a"), held(&a)), (meta.leader(), held(&b))],
        };
        assert!(candidates.observe(&snapshot));
        assert!(!candidates.observe(&snapshot), "nothing has changed");
        assert_eq!(candidates.all().collect::<Vec<_>>(), [&a]);
        let changed = |held| Observation::Changed {
            key: meta.candidate("b"),
            held,
            revision: 2,
        };
        assert!(candidates.observe(&changed(Some(held(&b)))));
        assert_eq!(candidates.all().collect::<Vec<_>>(), [&a, &b]);
        assert!(candidates.observe(&changed(None)));
        assert!(candidates.observe(&Observation::Restored));
        assert_eq!(candidates.all().count(), 0);
    }

    #[test]
    fn candidate_with_ended_process_is_not_yielded_to() {
        let (meta, mut candidates) = candidates();
        let record = record("a", true);
        candidates.observe(&Observation::Changed {
            key: meta.candidate("a"),
            held: Some(held(&record)),
            revision: 1,
        });
        let other = |presence: Option<PeerStatus>| {
            let address = record.address.expect("an address");
            let presences = presence.map(|presence| (address, presence)).into_iter().collect();
            candidates.fresh_other("me-1", &presences).is_some()
        };
        let process = |number: u32| Replica {
            identity: "a".into(),
            incarnation: format!("a-{number}").into(),
        };
        assert!(other(None));
        assert!(other(Some(PeerStatus::Unknown("no answer".into()))));
        assert!(other(Some(PeerStatus::Alive(process(1), Arc::default()))));
        assert!(!other(Some(PeerStatus::Alive(process(2), Arc::default()))));
        assert!(!other(Some(PeerStatus::Gone(process(1)))));
        assert!(!other(Some(PeerStatus::Hung(process(1)))));
        assert!(candidates.fresh_other("a-1", &PeerStatuses::new()).is_none(), "itself");
    }

    #[test]
    fn a_candidate_that_watches_other_namespaces_is_named_and_not_yielded_to() {
        let (meta, mut candidates) = candidates();
        let other = CandidateRecord {
            namespaces: Some(["shop".into(), "bank".into()].into()),
            ..record("b", true)
        };
        let older = CandidateRecord {
            namespaces: None,
            ..record("c", false)
        };
        assert_eq!(candidates.with_other_namespaces(), None);
        for record in [&record("a", true), &other, &older] {
            candidates.observe(&Observation::Changed {
                key: meta.candidate(&record.identity),
                held: Some(held(record)),
                revision: 1,
            });
        }
        let fresh = |me: &str| {
            candidates
                .fresh_other(me, &PeerStatuses::new())
                .map(|found| &*found.identity)
        };
        assert_eq!((fresh("b-1"), fresh("a-1")), (Some("a"), None));
        let named = candidates.with_other_namespaces();
        assert_eq!(named.as_deref(), Some("b (bank and shop)"));
    }
}
