//! Finds out what etcd grants and what it denies when it refuses a write or a renewal, and retries what is denied until
//! etcd grants it.
//!
//! etcd refuses a whole transaction because of one key that may not be written, and does not renew a lease that carries
//! such a key. So the worker asks etcd about each prefix separately, in transactions that change nothing. The planner
//! sets aside what etcd denies and continues with everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};

use super::RegistryWorker;
use super::permission_probe::{Found, QUESTIONS, find, lease_groups};
use super::writing::{Refused, Written};
use crate::backend::{self, Backend, Capabilities};
use crate::model::{Backoff, Key, LeaseId, Prefix, listed};
use crate::plan::{LeaseGroups, ProbeCandidate, Right};

/// Pause before a denied prefix or lease is tried again, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many are tried at a time, and the pause until the next attempt: denied requests should not keep etcd busy.
const TRIED: usize = 64;
const BETWEEN: Duration = Duration::from_secs(1);
/// Pause before etcd is asked for lease groups again after a failure.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many prefixes a message names.
const NAMED: usize = 3;

/// What etcd can deny.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    /// Writing below a prefix.
    Prefix(Prefix),
    /// Renewing a lease and attaching keys to it.
    Lease(LeaseId),
}

/// The time of the next attempt, and the pauses after it.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    backoff: Backoff,
}

/// What etcd denies, and which questions are in flight.
#[derive(Debug)]
pub struct Rights {
    denied: BTreeMap<Thing, Attempt>,
    probing: bool,
    not_before: Instant,
    /// Leases that etcd is being asked about.
    searched: BTreeSet<LeaseId>,
    /// The questions about lease groups. None if the store has no permissions.
    grants: Option<Grants>,
}

/// The state of the questions about lease groups.
#[derive(Debug)]
struct Grants {
    /// Whether the known lease groups may be stale, so that etcd is asked about all prefixes.
    are_stale: bool,
    asking: bool,
    not_before: Instant,
}

/// A refused request whose cause is being looked for.
#[derive(Debug)]
pub enum PermissionProbe {
    Written(Written, backend::Error),
    /// The renewal of a lease.
    Renewal(LeaseId),
}

/// Results of another attempt at what was denied: whether etcd allows it now. None if etcd could not be asked.
#[derive(Debug)]
pub struct Probed(Vec<(Thing, Option<bool>)>);

impl Rights {
    pub fn new(capabilities: Capabilities) -> Self {
        Self {
            denied: BTreeMap::new(),
            probing: false,
            not_before: Instant::now(),
            searched: BTreeSet::new(),
            grants: capabilities.has_permissions.then(|| Grants {
                are_stale: false,
                asking: false,
                not_before: Instant::now(),
            }),
        }
    }

    /// Records that the last answers about lease groups are old.
    pub fn may_have_changed(&mut self) {
        if let Some(grants) = &mut self.grants {
            grants.are_stale = true;
        }
    }

    /// Schedules an immediate retry of everything: the credentials have changed, or this replica has just become the
    /// leader.
    pub fn are_others(&mut self, now: Instant) {
        self.may_have_changed();
        self.not_before = now;
        for attempt in self.denied.values_mut() {
            attempt.at = now;
        }
    }

    /// When to act again. Denied prefixes and leases are retried only while this replica `leads`. `lacks_groups`: the lease
    /// group of a prefix is not known.
    pub fn wake_at(&self, leads: bool, lacks_groups: bool) -> Option<Instant> {
        let tries = self.denied.values().map(|attempt| attempt.at).min();
        let probe = tries
            .map(|at| at.max(self.not_before))
            .filter(|_| leads && !self.probing);
        let waiting = |grants: &&Grants| (grants.are_stale || lacks_groups) && !grants.asking;
        let ask = self.grants.as_ref().filter(waiting).map(|grants| grants.not_before);
        probe.into_iter().chain(ask).min()
    }

    /// Records that etcd denies this. Returns whether that is new: transactions that were in flight together are
    /// refused together.
    fn deny(&mut self, thing: Thing, now: Instant) -> bool {
        let is_new = !self.denied.contains_key(&thing);
        self.denied.entry(thing).or_insert_with(|| {
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            let at = now + backoff.next_pause();
            Attempt { at, backoff }
        });
        is_new
    }

    /// Backs off after another attempt that failed.
    fn try_later(&mut self, thing: &Thing, now: Instant) {
        if let Some(attempt) = self.denied.get_mut(thing) {
            attempt.at = now + attempt.backoff.next_pause();
        }
    }
}

impl<B: Backend> RegistryWorker<B> {
    // ---- refused requests ----

    /// Starts a permission probe after etcd refused a transaction for lack of a permission.
    pub(super) fn search_refused(&mut self, sent: Written, error: backend::Error) {
        let (candidates, leases) = self.planner.probe_candidates(sent.ticket);
        self.search(PermissionProbe::Written(sent, error), candidates, leases);
    }

    /// Starts a permission probe after etcd refused to renew a lease, if this replica leads. The keys on it that may be
    /// written are then moved before it expires.
    pub(super) fn renewal_denied(&mut self, lease: LeaseId) {
        if self.leads() && self.rights.searched.insert(lease) {
            let candidates = self.planner.probe_candidates_on(lease);
            self.search(PermissionProbe::Renewal(lease), candidates, BTreeSet::from([lease]));
        }
    }

    fn search(&mut self, search: PermissionProbe, candidates: Vec<ProbeCandidate>, leases: BTreeSet<LeaseId>) {
        let leases: Vec<_> = leases
            .into_iter()
            .map(|lease| (lease, self.planner.record_key(lease)))
            .collect();
        let backend = self.backend.clone();
        self.tasks.spawn(async move {
            let found = find(&backend, candidates, leases).await;
            super::Done::Searched(search, found)
        });
    }

    /// Handles the result of a permission probe.
    pub(super) fn searched(&mut self, search: PermissionProbe, found: backend::Result<Found>) {
        let now = Instant::now();
        let found = found.unwrap_or_else(|error| {
            tracing::debug!(registry = %self.name, %error, "permission probe failed");
            Found::default()
        });
        let (mut is_new, is_found) = (false, !found.prefixes.is_empty() || !found.leases.is_empty());
        for (prefix, key) in found.prefixes {
            if self.rights.deny(Thing::Prefix(prefix.clone()), now) {
                is_new = true;
                tracing::warn!(
                    registry = %self.name, prefix = prefix.as_str(), %key,
                    "etcd denies writing below this prefix; its keys stay as they are"
                );
            }
            self.planner.writing_denied(&prefix, &key);
        }
        for lease in found.leases {
            if self.rights.deny(Thing::Lease(lease), now) {
                is_new = true;
                tracing::warn!(
                    registry = %self.name, %lease,
                    "etcd denies the use of this lease; its keys that may be written move to another lease"
                );
            }
            self.planner.set_lease_denied(lease, true);
        }
        if is_new {
            // A prefix that was granted as a whole no longer is.
            self.rights.may_have_changed();
        }
        match search {
            PermissionProbe::Renewal(lease) => drop(self.rights.searched.remove(&lease)),
            PermissionProbe::Written(sent, _) if is_found => self.settle(sent, Err(Refused::Denied)),
            // Nothing in it is denied any more, or etcd denies the bookkeeping keys. Both are handled like any other
            // failure.
            PermissionProbe::Written(sent, error) => self.settle(sent, Err(Refused::Failed(error))),
        }
    }

    // ---- retries ----

    /// Tries denied prefixes and leases again when that is due.
    pub(super) fn probe(&mut self, now: Instant) {
        if !self.leads() || self.rights.probing || self.rights.denied.is_empty() || now < self.rights.not_before {
            return;
        }
        self.forget_denied();
        let due = self.rights.denied.iter().filter(|(_, attempt)| attempt.at <= now);
        let mut due: Vec<(Instant, Thing)> = due.map(|(thing, attempt)| (attempt.at, thing.clone())).collect();
        due.sort();
        due.truncate(TRIED);
        if due.is_empty() {
            return;
        }
        let keys: BTreeMap<Prefix, Key> = self
            .planner
            .unwritable()
            .map(|(prefix, key)| (prefix.clone(), key.clone()))
            .collect();
        let asked: Vec<(Thing, Key, Option<LeaseId>)> = due
            .into_iter()
            .filter_map(|(_, thing)| match &thing {
                Thing::Prefix(prefix) => keys.get(prefix).cloned().map(|key| (thing, key, None)),
                Thing::Lease(lease) => {
                    let (key, lease) = (self.planner.record_key(*lease), *lease);
                    Some((thing, key, Some(lease)))
                }
            })
            .collect();
        self.rights.probing = true;
        let backend = self.backend.clone();
        self.tasks.spawn(async move {
            let probes = stream::iter(asked).map(|(thing, key, lease)| {
                let backend = &backend;
                async move {
                    let answer = match lease {
                        None => backend.may_write(std::slice::from_ref(&key)).await,
                        Some(lease) => backend.may_attach(&key, lease).await,
                    };
                    (thing, answer.ok())
                }
            });
            super::Done::Probed(Probed(probes.buffer_unordered(QUESTIONS).collect().await))
        });
    }

    /// Drops what the planner no longer counts as denied: prefixes that no registration uses any more, and leases that
    /// are gone.
    fn forget_denied(&mut self) {
        let prefixes: BTreeSet<Prefix> = self.planner.unwritable().map(|(prefix, _)| prefix.clone()).collect();
        let leases: BTreeSet<LeaseId> = self.planner.leases().denied().collect();
        self.rights.denied.retain(|thing, _| match thing {
            Thing::Prefix(prefix) => prefixes.contains(prefix),
            Thing::Lease(lease) => leases.contains(lease),
        });
    }

    /// Handles the result of another attempt at what was denied.
    pub(super) fn probed(&mut self, Probed(probed): Probed) {
        let now = Instant::now();
        self.rights.probing = false;
        self.rights.not_before = now + BETWEEN;
        for (thing, allowed) in probed {
            match (thing, allowed) {
                (Thing::Prefix(prefix), Some(true)) => {
                    tracing::info!(registry = %self.name, prefix = prefix.as_str(), "etcd allows writing here again");
                    self.planner.writing_allowed(&prefix);
                    self.rights.denied.remove(&Thing::Prefix(prefix));
                    self.orphans.is_due();
                }
                (Thing::Lease(lease), Some(true)) => {
                    self.planner.set_lease_denied(lease, false);
                    self.rights.denied.remove(&Thing::Lease(lease));
                }
                (thing, _) => self.rights.try_later(&thing, now),
            }
        }
    }

    // ---- lease groups ----

    /// Asks etcd which prefixes it grants together, when there is something to ask.
    pub(super) fn ask_for_lease_groups(&mut self, now: Instant) {
        let ready = |grants: &&mut Grants| !grants.asking && grants.not_before <= now;
        let Some(grants) = self.rights.grants.as_mut().filter(ready) else {
            return;
        };
        let about_all = std::mem::take(&mut grants.are_stale);
        let prefixes = if about_all {
            self.planner.data_prefixes()
        } else {
            self.planner.prefixes_without_lease_group().clone()
        };
        if prefixes.is_empty() {
            return;
        }
        grants.asking = true;
        let backend = self.backend.clone();
        self.tasks.spawn(async move {
            let groups = lease_groups(&backend, prefixes).await;
            super::Done::LeaseGroups { about_all, groups }
        });
    }

    /// Takes in which prefixes etcd grants together: all of them, or those that were not known.
    pub(super) fn lease_groups_listed(&mut self, about_all: bool, reported: backend::Result<LeaseGroups>) {
        let Some(grants) = &mut self.rights.grants else { return };
        grants.asking = false;
        match reported {
            Ok(groups) if !about_all => self.planner.add_lease_groups(groups),
            Ok(groups) if *self.planner.lease_groups() == groups => {}
            Ok(groups) => self.planner.set_lease_groups(groups),
            Err(error) => {
                tracing::debug!(registry = %self.name, %error, "cannot ask etcd what it grants; trying again");
                grants.are_stale = true;
                grants.not_before = Instant::now() + ASK_AGAIN;
            }
        }
    }

    // ---- reporting ----

    /// Describes what etcd denies. None if it denies nothing.
    pub(super) fn denied_words(&self) -> Option<String> {
        let denied = self.planner.denied().map(|(prefix, right)| match right {
            Right::Read => format!("reading below {}", prefix.as_str()),
            Right::Write => format!("writing below {}", prefix.as_str()),
        });
        Some(listed(denied, NAMED, "and")).filter(|words| !words.is_empty())
    }
}
