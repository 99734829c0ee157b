//! Permissions that etcd denies us: prefixes that may not be read, prefixes that may not be written, and leases that
//! carry a key that may not be written.
//!
//! Keys there stay as they are, and all other work continues. Roles are changed by the etcd admin, so denied operations
//! are retried, and the waiting work is queued again once they are allowed.

use std::collections::{BTreeMap, BTreeSet};

use super::in_flight::Ticket;
use super::lease_groups::{LeaseGroups, folders};
use super::planner::Planner;
use crate::model::{Key, LeaseId, Op, Prefix, RegistrationRef};

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
    pub scope: Prefix,
    pub keys: Vec<Key>,
}

/// The prefixes that etcd denies.
#[derive(Debug, Default)]
pub(super) struct Denied {
    unreadable: BTreeSet<Prefix>,
    /// Each with a key that may not be written, for probing.
    unwritable: BTreeMap<Prefix, Key>,
}

impl Denied {
    fn is_empty(&self) -> bool {
        self.unreadable.is_empty() && self.unwritable.is_empty()
    }

    /// Whether `scope` itself, not one around it, may not be read.
    pub fn is_unreadable(&self, scope: &Prefix) -> bool {
        self.unreadable.contains(scope)
    }

    /// Forgets denials below prefixes that no registration uses any more.
    pub fn keep(&mut self, wanted: &BTreeSet<Prefix>) {
        self.unreadable.retain(|scope| wanted.contains(scope));
        let is_wanted = |scope: &Prefix| wanted.iter().any(|outer| outer.contains(scope.prefix()));
        self.unwritable.retain(|scope, _| is_wanted(scope));
    }
}

impl Planner {
    // ---- reading ----

    /// Records that etcd denies reading `scope`.
    pub(super) fn reading_denied(&mut self, scope: Prefix) {
        self.prefixes.set_unlisted(&scope);
        self.note_change(&scope);
        if self.denied.unreadable.insert(scope) {
            // A prefix inside it may be readable and must be listed separately.
            self.prefixes.mark_changed();
        }
    }

    /// Records that `scope` was read.
    pub(super) fn reading_allowed(&mut self, scope: &Prefix) {
        if self.denied.unreadable.remove(scope) {
            self.prefixes.set_unlisted_inside(scope);
            self.prefixes.mark_changed();
            self.leases.forget_domain(scope);
            self.look_again(scope);
        }
    }

    // ---- writing ----

    /// Records that etcd denies writing below `scope`; `key` is one key it refused.
    pub fn writing_denied(&mut self, scope: &Prefix, key: &Key) {
        self.denied.unwritable.insert(scope.clone(), key.clone());
        self.note_change(scope);
    }

    /// Records that `scope` may be written (again), and queues the work that waited for it.
    pub fn writing_allowed(&mut self, scope: &Prefix) {
        if self.denied.unwritable.remove(scope).is_some() {
            self.leases.forget_domain(scope);
            self.look_again(scope);
        }
    }

    /// The prefixes that may not be written, each with a key to probe.
    pub fn unwritable(&self) -> impl Iterator<Item = (&Prefix, &Key)> {
        self.denied.unwritable.iter()
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
    pub fn suspects(&self, ticket: Ticket) -> (Vec<ProbeCandidate>, BTreeSet<LeaseId>) {
        let ops = self.transactions.get(ticket).map_or(&[][..], |sent| &sent.ops);
        let leases = ops.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => Some(*lease),
            Op::Delete { .. } | Op::Check { .. } => None,
        });
        (
            self.by_scope(ops.iter().map(Op::key)),
            leases.chain(self.lease_of_note(ops)).collect(),
        )
    }

    /// Returns the keys on `lease`, which etcd refused to renew, by prefix.
    pub fn suspects_on(&self, lease: LeaseId) -> Vec<ProbeCandidate> {
        self.by_scope(self.leases.keys_on(lease))
    }

    fn by_scope<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Vec<ProbeCandidate> {
        let mut suspects: BTreeMap<Prefix, Vec<Key>> = BTreeMap::new();
        for key in keys.filter(|key| !self.meta.scope().contains(key)) {
            suspects.entry(self.scope_of(key)).or_default().push(key.clone());
        }
        let suspects = suspects.into_iter();
        suspects.map(|(scope, keys)| ProbeCandidate { scope, keys }).collect()
    }

    /// The prefix whose permission decides about `key`: that of the registration that claims it, else the listed one
    /// around it, else its folder.
    fn scope_of(&self, key: &Key) -> Prefix {
        let book = self.keys.first_claim(key).and_then(|claim| self.books.get(&claim.registration));
        let inside = |scope: &&Prefix| scope.contains(key);
        let wanted = book.and_then(|book| book.terms.scopes.iter().find(inside));
        let known = wanted.or_else(|| self.prefixes.listed_around(key));
        known.cloned().unwrap_or_else(|| {
            let folder = folders(key).last().unwrap_or("/");
            Prefix::below(folder)
        })
    }

    // ---- both ----

    /// Whether `key` must be left alone because etcd denies reading or writing it.
    pub(super) fn is_denied(&self, key: &str) -> bool {
        if self.denied.is_empty() {
            return false;
        }
        folders(key).any(|folder| {
            self.denied.unwritable.contains_key(folder)
                || self.denied.unreadable.contains(folder) && !self.prefixes.is_listed(key)
        })
    }

    /// Returns the prefixes of `registration` on which a permission is missing.
    pub(super) fn denied_to(&self, registration: &RegistrationRef) -> Vec<(Prefix, Right)> {
        let scopes = self.books.get(registration).map_or(&[][..], |book| &book.terms.scopes);
        let right = |scope: &Prefix| {
            let around = || folders(scope.prefix());
            if around().any(|folder| self.denied.unreadable.contains(folder)) && !self.prefixes.is_listed(scope.prefix()) {
                Some(Right::Read)
            } else {
                around()
                    .any(|folder| self.denied.unwritable.contains_key(folder))
                    .then_some(Right::Write)
            }
        };
        scopes
            .iter()
            .filter_map(|scope| Some((scope.clone(), right(scope)?)))
            .collect()
    }

    /// Returns all prefixes that etcd denies, with the missing permission.
    pub fn denied(&self) -> impl Iterator<Item = (&Prefix, Right)> {
        let unreadable = self.denied.unreadable.iter().map(|scope| (scope, Right::Read));
        let unwritable = self.denied.unwritable.keys().map(|scope| (scope, Right::Write));
        unreadable.chain(unwritable.filter(|(scope, _)| !self.denied.is_unreadable(scope)))
    }

    // ---- what may share a lease ----

    /// Requires lease groups from now on. A key is not placed until [`Self::set_domains`] has set its group.
    pub fn await_domains(&mut self) {
        self.leases.set_domains(LeaseGroups::default());
    }

    /// The lease groups known so far.
    pub fn domains(&self) -> &LeaseGroups {
        self.leases.domains()
    }

    /// Replaces the lease groups. Keys stay on their leases.
    pub fn set_domains(&mut self, domains: LeaseGroups) {
        let unknown = |key: &&Key| self.leases.domain_of(key).is_none();
        let waited: Vec<Key> = self.keys.iter().map(|(key, _)| key).filter(unknown).cloned().collect();
        self.leases.set_domains(domains);
        for key in waited {
            self.enqueue(&key);
        }
    }

    /// The prefixes of all registrations.
    pub fn data_scopes(&self) -> BTreeSet<Prefix> {
        let scopes = self.books.values().flat_map(|book| &book.terms.scopes);
        scopes.cloned().collect()
    }

    /// The key under which `lease` is recorded.
    pub fn record_key(&self, lease: LeaseId) -> Key {
        self.meta.record_key(lease)
    }

    /// The prefixes whose lease group is not known yet.
    pub fn without_domain(&self) -> BTreeSet<Prefix> {
        let scopes = self.books.values().flat_map(|book| &book.terms.scopes);
        let unknown = |scope: &&Prefix| self.leases.domain_of(scope.prefix()).is_none();
        scopes.filter(unknown).cloned().collect()
    }

    // ---- helpers ----

    /// Queues every key below `scope`.
    fn look_again(&mut self, scope: &Prefix) {
        for key in self.keys.keys_in(scope) {
            self.enqueue(&key);
        }
        self.note_change(scope);
    }

    /// Marks the registrations whose prefixes overlap `scope` as changed.
    fn note_change(&mut self, scope: &Prefix) {
        let concerned = |of: &Prefix| scope.contains(of.prefix()) || of.contains(scope.prefix());
        let concerned = self
            .books
            .iter()
            .filter(|(_, book)| book.terms.scopes.iter().any(concerned));
        self.changed
            .extend(concerned.map(|(registration, _)| registration.clone()));
    }
}
