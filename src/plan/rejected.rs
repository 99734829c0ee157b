//! Record sets that etcd rejects for their content: too large for one request, or invalid.
//!
//! etcd rejects a transaction as a whole. The work of a rejected transaction is sent again in transactions with at most
//! half the operations, until a record set is rejected that was sent alone. That set is left out of every plan until its
//! records change or a retry is due. Everything else goes on.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::actions::Decision;
use super::in_flight::Ticket;
use super::planner::Planner;
use super::units::{Group, request_size, size_of};
use super::work::Work;
use crate::model::{Key, Op, RegistrationRef, TxnOutcome};

/// The registration that a rejected record set belongs to; none for keys that no registration wants.
pub type Owner = Option<RegistrationRef>;

/// What etcd objects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// The request exceeds a limit on size or on the number of operations.
    TooLarge,
    /// etcd takes no such request.
    Invalid,
}

/// Why etcd rejects the records of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What etcd objects to.
    pub objection: Objection,
    /// etcd's words.
    pub cause: Arc<str>,
    /// The number of records that are written together.
    pub records: usize,
    /// The size of the request that writes them, in bytes.
    pub bytes: usize,
}

/// The result of [`Planner::reject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Narrowed {
    /// The transaction was bookkeeping of the operator: no registration is to blame, and nothing was changed.
    Bookkeeping,
    /// The transaction had several record sets, which are sent again in smaller transactions.
    Split,
    /// The transaction had one record set, which is left out from now on.
    Found {
        /// Whose it is.
        owner: Owner,
        /// Whether it was rejected before.
        again: bool,
    },
}

/// One rejected record set.
#[derive(Debug)]
struct Set {
    owner: Owner,
    keys: Vec<Key>,
    rejection: Rejection,
}

/// All that etcd rejects.
#[derive(Debug, Default)]
pub(super) struct Rejected {
    /// The most operations of a transaction with this work, because a larger one was rejected.
    narrowed: HashMap<Work, usize>,
    by_key: HashMap<Key, Arc<Set>>,
    /// By the first key of each set.
    by_owner: BTreeMap<Owner, BTreeMap<Key, Arc<Set>>>,
    /// The work whose set is being tried again.
    retried: BTreeMap<Owner, Work>,
}

impl Rejected {
    /// Whether etcd rejects the record set of `registration` with `key`.
    pub fn contains(&self, key: &str, registration: &RegistrationRef) -> bool {
        let set = self.by_key.get(key);
        set.is_some_and(|set| set.owner.as_ref() == Some(registration))
    }

    /// Whether `work` leaves `key` out. A registration that got the key from the one whose records were rejected writes
    /// other records.
    pub fn blocks(&self, work: &Work, key: &str) -> bool {
        let Some(set) = self.by_key.get(key) else {
            return false;
        };
        let owner = work.owner();
        set.owner == owner && self.retried.get(&owner) != Some(work)
    }

    /// The smallest rejected record set of `owner`.
    pub fn smallest(&self, owner: &Owner) -> Option<&Rejection> {
        let sets = self.by_owner.get(owner)?.values();
        sets.map(|set| &set.rejection).min_by_key(|rejection| rejection.bytes)
    }

    /// The most operations of a transaction with `work`, if it is limited: a registration with a rejected record set
    /// shares no transaction, so that its next one fails alone.
    pub fn limit(&self, work: &Work) -> Option<usize> {
        if self.narrowed.is_empty() && self.by_owner.is_empty() {
            return None;
        }
        let owner = work.owner();
        if owner.is_some() && self.by_owner.contains_key(&owner) {
            return Some(1);
        }
        self.narrowed.get(work).copied()
    }

    fn mark(&mut self, set: Set) {
        let Some(first) = set.keys.first().cloned() else { return };
        let set = Arc::new(set);
        for key in &set.keys {
            self.clear(key);
            self.by_key.insert(key.clone(), set.clone());
        }
        self.by_owner.entry(set.owner.clone()).or_default().insert(first, set);
    }

    /// The records of the set that `key` is in have changed: it is no longer known to be rejected.
    pub fn clear(&mut self, key: &str) {
        if self.by_key.is_empty() {
            return;
        }
        let Some(set) = self.by_key.remove(key) else { return };
        for key in &set.keys {
            self.by_key.remove(key);
        }
        if let Some(of_owner) = self.by_owner.get_mut(&set.owner) {
            of_owner.retain(|_, other| !Arc::ptr_eq(other, &set));
            if of_owner.is_empty() {
                self.by_owner.remove(&set.owner);
            }
        }
    }

    /// Forgets limits of work that `is_known` no longer.
    pub fn keep(&mut self, is_known: impl Fn(&Work) -> bool) {
        self.narrowed.retain(|work, _| is_known(work));
        self.retried.retain(|_, work| is_known(work));
    }
}

impl Planner {
    /// etcd rejected the transaction `ticket` for its content. Settles the transaction unless it is bookkeeping; `done`
    /// tells whether etcd may have carried it out nevertheless.
    pub fn reject(&mut self, ticket: Ticket, objection: Objection, cause: &str, done: bool) -> Narrowed {
        let Some(sent) = self.transactions.get(ticket) else {
            return Narrowed::Split;
        };
        let sets: usize = sent.gathered.iter().map(|(_, sets)| sets).sum();
        let narrowed = match &sent.gathered[..] {
            [] => return Narrowed::Bookkeeping,
            [(work, 1)] => {
                let (owner, work) = (work.owner(), work.clone());
                let rejection = Rejection {
                    objection,
                    cause: cause.into(),
                    records: sent.ops.len(),
                    bytes: request_size(sent.ops.iter().map(|op| (op.key(), value_len(op)))),
                };
                let keys = sent.ops.iter().map(|op| op.key().clone()).collect();
                let again = self.rejected.retried.remove(&owner).is_some();
                self.rejected.narrowed.insert(work, 1);
                self.mark_owner_changed(&owner);
                self.rejected.mark(Set {
                    owner: owner.clone(),
                    keys,
                    rejection,
                });
                Narrowed::Found { owner, again }
            }
            gathered => {
                debug_assert!(sets > 1, "every gathered work has a record set");
                let half = (sent.ops.len() / 2).max(1);
                for (work, _) in gathered {
                    self.rejected.narrowed.insert(work.clone(), half);
                }
                Narrowed::Split
            }
        };
        // Nothing was written, as when another replica leads; or it is not known.
        self.complete(ticket, (!done).then_some(TxnOutcome::Fenced));
        narrowed
    }

    /// Tries one rejected record set of `owner` again. Returns false when there is none any more.
    pub fn retry_rejected(&mut self, owner: &Owner) -> bool {
        self.rejected.retried.remove(owner);
        while let Some(sets) = self.rejected.by_owner.get(owner) {
            let Some(set) = sets.values().min_by_key(|set| set.rejection.bytes).cloned() else {
                break;
            };
            let mut works = set.keys.iter().filter_map(|key| self.work_of(key));
            if let Some(work) = works.find(|work| work.owner() == *owner) {
                self.rejected.narrowed.insert(work.clone(), 1);
                self.rejected.retried.insert(owner.clone(), work.clone());
                self.work.push(work);
                return true;
            }
            // Its keys are gone by now, or another registration has them.
            if let Some(key) = set.keys.first() {
                self.rejected.clear(key);
            }
            for key in &set.keys {
                self.enqueue(key);
            }
        }
        false
    }

    fn mark_owner_changed(&mut self, owner: &Owner) {
        if let Some(registration) = owner {
            self.registrations.mark_changed(registration);
        }
    }

    /// The transaction with these works was carried out: what was limited for its sake is limited no longer.
    pub(super) fn accepted(&mut self, works: &[(Work, usize)]) {
        if self.rejected.narrowed.is_empty() {
            return;
        }
        for (work, _) in works {
            self.rejected.narrowed.remove(work);
            let owner = work.owner();
            if self.rejected.retried.get(&owner) != Some(work) {
                continue;
            }
            // etcd takes by now what it rejected before: the others of this registration are tried, too.
            self.rejected.retried.remove(&owner);
            let others = self.rejected.by_owner.remove(&owner).unwrap_or_default();
            for key in others.values().flat_map(|set| &set.keys) {
                self.rejected.by_key.remove(key);
                self.enqueue(key);
            }
            self.mark_owner_changed(&owner);
        }
    }

    /// Leaves out those of `groups` that are no smaller than what etcd rejects as too large for the same registration:
    /// each of its pods would otherwise cost a request of that size.
    pub(super) fn leave_out_rejected(&mut self, work: &Work, groups: &mut Vec<Group>) {
        let owner = work.owner();
        let Some(known) = self.rejected.smallest(&owner).cloned() else {
            return;
        };
        if known.objection != Objection::TooLarge || self.rejected.retried.get(&owner) == Some(work) {
            return;
        }
        groups.retain(|group| {
            let puts = group
                .iter()
                .any(|(_, decision)| matches!(decision, Decision::Put { .. }));
            let bytes = size_of(group);
            if !puts || bytes < known.bytes {
                return true;
            }
            self.rejected.mark(Set {
                owner: owner.clone(),
                keys: group.iter().map(|(key, _)| key.clone()).collect(),
                rejection: Rejection {
                    records: group.len(),
                    bytes,
                    ..known.clone()
                },
            });
            false
        });
        self.mark_owner_changed(&owner);
    }
}

fn value_len(op: &Op) -> usize {
    match op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } | Op::Check { .. } => 0,
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            objection,
            cause,
            records,
            bytes,
        } = self;
        match objection {
            Objection::TooLarge => write!(
                f,
                "etcd rejects the records of one endpoint as too large ({cause}): {records} records that are written \
                 together make a request of {bytes} bytes. Make values shorter or records fewer, or raise etcd's \
                 --max-request-bytes (1572864 by default) above that; what is registered stays as it is until then"
            ),
            Objection::Invalid => write!(
                f,
                "etcd rejects the records of one endpoint as invalid ({cause}): {records} records that are written \
                 together in a request of {bytes} bytes. Change the format or its RecordFormat; what is registered \
                 stays as it is until then"
            ),
        }
    }
}
