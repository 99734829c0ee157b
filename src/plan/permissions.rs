//! Permissions: the prefixes that etcd does not let us read or write, leases that carry a key that may not be written,
//! and the keys that the Registry's rules do not let a registration have.
//!
//! What etcd denies stays as it is, and all other work continues. Roles are changed by the etcd admin, so denied
//! operations are retried, and the waiting work is queued again once they are allowed. A key that the rules of the Registry
//! forbid is removed, even if the registration is suspended, unless the guard holds it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::by_prefix::ByPrefix;
use super::in_flight::Ticket;
use super::planner::Planner;
use super::policy::PrefixGrant;
use super::prefixes::Prefixes;
use super::work::Work;
use crate::model::{Key, LeaseId, Op, Prefix, RegistrationRef, entries_below, prefixes_around};

/// A permission on a prefix that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// The prefix may not be read. Then it cannot be written either, because every write compares first.
    Read,
    /// The prefix may be read, but not written.
    Write,
}

/// Keys below one prefix, some of which etcd may have refused to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeCandidate {
    pub prefix: Prefix,
    pub keys: Vec<Key>,
}

/// What etcd and the rules of the Registry deny.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    unreadable: BTreeSet<Prefix>,
    /// Each with a key that may not be written, for probing.
    unwritable: BTreeMap<Prefix, Key>,
    /// Prefixes that rules forbid to registrations, except for the keys that each grant allows.
    forbidden: HashMap<RegistrationRef, Vec<(Prefix, PrefixGrant)>>,
    /// The registrations in `forbidden`.
    forbidden_below: ByPrefix,
}

impl Permissions {
    /// Whether `prefix` itself, not one around it, may not be read.
    pub fn is_unreadable(&self, prefix: &str) -> bool {
        self.unreadable.contains(prefix)
    }

    /// The permission that etcd denies on `key`, or on a prefix that it is inside. A prefix that has been listed may be
    /// read.
    pub fn missing(&self, key: &str, prefixes: &Prefixes) -> Option<Right> {
        let is_unreadable = || prefixes_around(key).any(|folder| self.unreadable.contains(folder));
        if !self.unreadable.is_empty() && is_unreadable() && !prefixes.is_listed(key) {
            return Some(Right::Read);
        }
        let is_unwritable = || prefixes_around(key).any(|folder| self.unwritable.contains_key(folder));
        (!self.unwritable.is_empty() && is_unwritable()).then_some(Right::Write)
    }

    /// Drops what etcd denies on `prefix` and below it, except below prefixes that are still watched.
    pub fn forget_prefix(&mut self, prefix: &Prefix, prefixes: &Prefixes) {
        self.unreadable.remove(prefix);
        let inside = entries_below(&self.unwritable, prefix.as_str()).map(|(inner, _)| inner);
        let unwatched = inside.filter(|inner| !prefixes.is_inside_watched(inner.as_str()));
        for inner in unwatched.cloned().collect::<Vec<_>>() {
            self.unwritable.remove(&inner);
        }
    }

    /// Sets what the rules forbid to `registration`. Returns whether more may be forbidden than before.
    fn set_forbidden(&mut self, registration: &RegistrationRef, forbidden: Vec<(Prefix, PrefixGrant)>) -> bool {
        let is_new = !forbidden.is_empty() && self.forbidden.get(registration) != Some(&forbidden);
        self.forget(registration);
        if !forbidden.is_empty() {
            self.forbidden_below
                .insert(forbidden.iter().map(|(prefix, _)| prefix), registration);
            self.forbidden.insert(registration.clone(), forbidden);
        }
        is_new
    }

    /// Drops what the rules forbid to `registration`.
    pub fn forget(&mut self, registration: &RegistrationRef) {
        if let Some(former) = self.forbidden.remove(registration) {
            self.forbidden_below
                .remove(former.iter().map(|(prefix, _)| prefix), registration);
        }
    }

    /// Whether the rules forbid `key` to `registration`.
    fn forbid(&self, key: &str, registration: &RegistrationRef) -> bool {
        let forbidden = self.forbidden.get(registration);
        let forbids = |(prefix, grant): &(Prefix, PrefixGrant)| prefix.contains(key) && grant.check(key).is_err();
        forbidden.into_iter().flatten().any(forbids)
    }

    /// Whether the rules forbid `key` to any registration.
    fn forbid_to_any(&self, key: &str) -> bool {
        let mut around = self.forbidden_below.around(key);
        around.any(|registration| self.forbid(key, registration))
    }
}

impl Planner {
    // ---- what etcd denies ----

    /// Records that etcd denies reading `prefix`.
    pub(super) fn reading_denied(&mut self, prefix: &Prefix) {
        if !self.prefixes.is_watched(prefix) {
            return;
        }
        self.prefixes.set_unlisted(prefix);
        self.registrations.mark_changed_around(prefix);
        if self.permissions.unreadable.insert(prefix.clone()) {
            // A prefix inside it may be readable and must be listed separately.
            self.prefixes.mark_changed(prefix);
        }
    }

    /// Records that `prefix` was read.
    pub(super) fn reading_allowed(&mut self, prefix: &Prefix) {
        if self.permissions.unreadable.remove(prefix) {
            self.prefixes.set_unlisted_inside(prefix);
            self.prefixes.mark_changed(prefix);
            self.forget_lease_group(prefix);
            self.look_again(prefix);
        }
    }

    /// Records that etcd denies writing below `prefix`; `key` is one key it refused.
    pub fn writing_denied(&mut self, prefix: &Prefix, key: &Key) {
        if !self.prefixes.is_inside_watched(prefix.as_str()) {
            return;
        }
        self.permissions.unwritable.insert(prefix.clone(), key.clone());
        self.registrations.mark_changed_around(prefix);
    }

    /// Records that `prefix` may be written (again), and queues the work that waited for it.
    pub fn writing_allowed(&mut self, prefix: &Prefix) {
        if self.permissions.unwritable.remove(prefix).is_some() {
            self.forget_lease_group(prefix);
            self.look_again(prefix);
        }
    }

    /// The prefixes that may not be written, each with a key to probe.
    pub fn unwritable(&self) -> impl Iterator<Item = (&Prefix, &Key)> {
        self.permissions.unwritable.iter()
    }

    /// Sets whether etcd denies renewing `lease` and putting keys on it, because of a key on it that may not be
    /// written. The other keys on it are moved to other leases before it expires.
    pub fn set_lease_denied(&mut self, lease: LeaseId, denied: bool) {
        for key in self.leases.set_denied(lease, denied) {
            self.enqueue(&key);
        }
    }

    /// Returns the keys of the transaction `ticket`, which etcd refused, by prefix, and the leases that it puts keys
    /// on. Our own bookkeeping keys are left out: no registration is responsible for them.
    pub fn probe_candidates(&self, ticket: Ticket) -> (Vec<ProbeCandidate>, BTreeSet<LeaseId>) {
        let ops = self.transactions.get(ticket).map_or(&[][..], |sent| &sent.ops);
        let leases = ops.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => Some(*lease),
            Op::Delete { .. } | Op::Check { .. } => None,
        });
        (
            self.by_prefix(ops.iter().map(Op::key)),
            leases.chain(self.lease_of_checkpoint(ops)).collect(),
        )
    }

    /// Returns the keys on `lease`, which etcd refused to renew, by prefix.
    pub fn probe_candidates_on(&self, lease: LeaseId) -> Vec<ProbeCandidate> {
        self.by_prefix(self.leases.keys_on(lease))
    }

    fn by_prefix<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Vec<ProbeCandidate> {
        let mut candidates: BTreeMap<Prefix, Vec<Key>> = BTreeMap::new();
        for key in keys.filter(|key| !self.meta.prefix().contains(key)) {
            candidates.entry(self.prefix_of(key)).or_default().push(key.clone());
        }
        let candidates = candidates.into_iter();
        candidates
            .map(|(prefix, keys)| ProbeCandidate { prefix, keys })
            .collect()
    }

    /// The prefix whose permission decides about `key`: that of the registration that claims it, else the listed one
    /// around it, else its folder.
    fn prefix_of(&self, key: &Key) -> Prefix {
        let claim = self.keys.first_claim(key);
        let state = claim.and_then(|claim| self.registrations.get(&claim.registration));
        let wanted = state.and_then(|state| state.prefix_of(key));
        let known = wanted.or_else(|| self.prefixes.listed_around(key));
        known.cloned().unwrap_or_else(|| {
            let folder = prefixes_around(key).last().unwrap_or("/");
            Prefix::below(folder)
        })
    }

    /// Whether `key` must be left alone because etcd denies reading or writing it.
    pub(super) fn is_denied(&self, key: &str) -> bool {
        self.permissions.missing(key, &self.prefixes).is_some()
    }

    /// Returns the prefixes of `registration` on which a permission is missing.
    pub(super) fn denied_to(&self, registration: &RegistrationRef) -> Vec<(Prefix, Right)> {
        let state = self.registrations.get(registration);
        let prefixes = state.map_or(&[][..], |state| state.prefixes());
        let right = |prefix: &Prefix| self.permissions.missing(prefix.as_str(), &self.prefixes);
        let denied = prefixes
            .iter()
            .filter_map(|prefix| Some((prefix.clone(), right(prefix)?)));
        denied.collect()
    }

    /// Returns all prefixes that etcd denies, with the missing permission.
    pub fn denied(&self) -> impl Iterator<Item = (&Prefix, Right)> {
        let Permissions {
            unreadable, unwritable, ..
        } = &self.permissions;
        let readable = unwritable.keys().filter(|prefix| !unreadable.contains(*prefix));
        let unreadable = unreadable.iter().map(|prefix| (prefix, Right::Read));
        unreadable.chain(readable.map(|prefix| (prefix, Right::Write)))
    }

    /// Queues every key below `prefix`.
    fn look_again(&mut self, prefix: &Prefix) {
        for key in self.keys.keys_in(prefix) {
            self.enqueue(&key);
        }
        self.registrations.mark_changed_around(prefix);
    }

    // ---- what the rules forbid ----

    /// Sets the prefixes below which `registration` may not write, except for the keys that each grant allows. Call
    /// after [`Planner::set_settings`].
    pub fn forbid(&mut self, registration: &RegistrationRef, forbidden: Vec<(Prefix, PrefixGrant)>) {
        let prefixes: Vec<Prefix> = forbidden.iter().map(|(prefix, _)| prefix.clone()).collect();
        if !self.permissions.set_forbidden(registration, forbidden) {
            return;
        }
        let there: Vec<Key> = prefixes.iter().flat_map(|prefix| self.keys.keys_in(prefix)).collect();
        for key in there {
            if self.is_forbidden(&key) {
                self.enqueue(&key);
            }
        }
        // The dropped keys of a pod are removed by the pod's work item, even if nothing else of it may change now.
        if let Some(state) = self.registrations.get(registration) {
            let pods = state.dropped.keys();
            self.work
                .extend(pods.map(|pod| Work::Pod(registration.clone(), pod.clone())));
        }
    }

    /// Whether a rule forbids `key` to a registration, and no other registration may have it.
    pub(super) fn is_forbidden(&self, key: &Key) -> bool {
        let may_have = |registration: &RegistrationRef| !self.permissions.forbid(key, registration);
        self.permissions.forbid_to_any(key) && !self.registrations.around(key).any(may_have)
    }
}
