//! What etcd does not let us do: scopes that may not be read, scopes that may not be written, and leases that carry a key
//! that may not be written.
//!
//! What lies there stays as it is, and everything else goes on as if it were not there. A role is somebody else's to
//! change, so all of it is tried again; what waited comes up once it is allowed.

use std::collections::{BTreeMap, BTreeSet};

use super::in_flight::Ticket;
use super::lease_groups::{LeaseGroups, folders};
use super::planner::Planner;
use super::transaction::{Key, LeaseId, Op, Prefix};
use crate::index::RegistrationRef;

/// What may be missing of the rights on a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// It may not be read, and therefore not be written either: every write of ours compares first.
    Read,
    /// It may be read, but not be written.
    Write,
}

/// Keys of one scope, some of which etcd may have refused to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeCandidate {
    /// The scope.
    pub scope: Prefix,
    /// The keys.
    pub keys: Vec<Key>,
}

/// The scopes that etcd denies.
#[derive(Debug, Default)]
pub(super) struct Denied {
    unreadable: BTreeSet<Prefix>,
    /// Each with a key that may not be written.
    unwritable: BTreeMap<Prefix, Key>,
}

impl Denied {
    fn is_empty(&self) -> bool {
        self.unreadable.is_empty() && self.unwritable.is_empty()
    }

    /// Forgets what is denied in scopes that nobody wants any more.
    pub fn keep(&mut self, wanted: &BTreeSet<Prefix>) {
        self.unreadable.retain(|scope| wanted.contains(scope));
        let is_wanted = |scope: &Prefix| wanted.iter().any(|outer| outer.contains(scope.prefix()));
        self.unwritable.retain(|scope, _| is_wanted(scope));
    }
}

impl Planner {
    // ---- reading ----

    /// etcd does not let `scope` be read.
    pub(super) fn reading_denied(&mut self, scope: Prefix) {
        self.surveyed.remove(&scope);
        self.note_change(&scope);
        if self.denied.unreadable.insert(scope) {
            // Another scope may lie in it.
            self.scopes_changed = true;
        }
    }

    /// `scope` was read.
    pub(super) fn reading_allowed(&mut self, scope: &Prefix) {
        if self.denied.unreadable.remove(scope) {
            self.surveyed.retain(|inner| !scope.contains(inner.prefix()));
            self.scopes_changed = true;
            self.leases.forget_domain(scope);
            self.look_again(scope);
        }
    }

    /// Whether `scope` itself is one that may not be read.
    pub(super) fn may_not_read(&self, scope: &Prefix) -> bool {
        self.denied.unreadable.contains(scope)
    }

    // ---- writing ----

    /// etcd does not let `scope` be written, to begin with `key`.
    pub fn writing_denied(&mut self, scope: &Prefix, key: &Key) {
        self.denied.unwritable.insert(scope.clone(), key.clone());
        self.note_change(scope);
    }

    /// `scope` may be written (again): what waited for it is to be looked at.
    pub fn writing_allowed(&mut self, scope: &Prefix) {
        if self.denied.unwritable.remove(scope).is_some() {
            self.leases.forget_domain(scope);
            self.look_again(scope);
        }
    }

    /// The scopes that may not be written, each with a key to ask etcd about.
    pub fn unwritable(&self) -> impl Iterator<Item = (&Prefix, &Key)> {
        self.denied.unwritable.iter()
    }

    /// etcd denies renewing `lease` and putting keys on it, because of a key on it that may not be written; or it does
    /// no longer. The others on it go elsewhere before it lapses.
    pub fn set_lease_denied(&mut self, lease: LeaseId, denied: bool) {
        for key in self.leases.set_denied(lease, denied) {
            self.enqueue(&key);
        }
    }

    /// The keys of the transaction `ticket`, which etcd refused, by scope, and the leases that it puts keys on. Of our own
    /// bookkeeping nobody but us is to blame.
    pub fn suspects(&self, ticket: Ticket) -> (Vec<ProbeCandidate>, BTreeSet<LeaseId>) {
        let ops = self.in_flight.get(&ticket).map_or(&[][..], |sent| &sent.ops);
        let leases = ops.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => Some(*lease),
            Op::Delete { .. } | Op::Check { .. } => None,
        });
        (
            self.by_scope(ops.iter().map(Op::key)),
            leases.chain(self.lease_of_note(ops)).collect(),
        )
    }

    /// The keys on `lease`, which etcd refused to renew, by scope.
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

    /// The scope that `key` stands or falls with: that of the registration that wants it.
    fn scope_of(&self, key: &Key) -> Prefix {
        let claim = self.slots.get(key).and_then(|slot| slot.claims.first());
        let book = claim.and_then(|claim| self.books.get(&claim.registration));
        let inside = |scope: &&Prefix| scope.contains(key);
        let wanted = book.and_then(|book| book.terms.scopes.iter().find(inside));
        let known = wanted.or_else(|| self.surveyed.iter().find(inside));
        known.cloned().unwrap_or_else(|| {
            let folder = folders(key).last().unwrap_or("/");
            Prefix::below(folder)
        })
    }

    // ---- both ----

    /// Whether `key` may not be touched, because etcd would not let us.
    pub(super) fn is_denied(&self, key: &str) -> bool {
        if self.denied.is_empty() {
            return false;
        }
        folders(key).any(|folder| {
            self.denied.unwritable.contains_key(folder)
                || self.denied.unreadable.contains(folder) && !self.is_surveyed(key)
        })
    }

    /// What `registration` may not do where its keys lie.
    pub(super) fn denied_to(&self, registration: &RegistrationRef) -> Vec<(Prefix, Right)> {
        let scopes = self.books.get(registration).map_or(&[][..], |book| &book.terms.scopes);
        let right = |scope: &Prefix| {
            let around = || folders(scope.prefix());
            if around().any(|folder| self.denied.unreadable.contains(folder)) && !self.is_surveyed(scope.prefix()) {
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

    /// All scopes that etcd denies, and what of them.
    pub fn denied(&self) -> impl Iterator<Item = (&Prefix, Right)> {
        let unreadable = self.denied.unreadable.iter().map(|scope| (scope, Right::Read));
        let unwritable = self.denied.unwritable.keys().map(|scope| (scope, Right::Write));
        unreadable.chain(unwritable.filter(|(scope, _)| !self.may_not_read(scope)))
    }

    // ---- what may share a lease ----

    /// From now on, what shares leases is what etcd grants together. Before [`Self::set_domains`] has told of a key,
    /// that is put nowhere.
    pub fn await_domains(&mut self) {
        self.leases.set_domains(LeaseGroups::default());
    }

    /// What may share a lease, as far as is known.
    pub fn domains(&self) -> &LeaseGroups {
        self.leases.domains()
    }

    /// What may share a lease from now on. Keys stay on the leases that they are on.
    pub fn set_domains(&mut self, domains: LeaseGroups) {
        let unknown = |key: &&Key| self.leases.domain_of(key).is_none();
        let waited: Vec<Key> = self.slots.keys().filter(unknown).cloned().collect();
        self.leases.set_domains(domains);
        for key in waited {
            self.enqueue(&key);
        }
    }

    /// The scopes of all registrations.
    pub fn data_scopes(&self) -> BTreeSet<Prefix> {
        let scopes = self.books.values().flat_map(|book| &book.terms.scopes);
        scopes.cloned().collect()
    }

    /// The key under which `lease` is recorded.
    pub fn record_key(&self, lease: LeaseId) -> Key {
        self.meta.record_key(lease)
    }

    /// The scopes whose keys belong to no domain yet.
    pub fn without_domain(&self) -> BTreeSet<Prefix> {
        let scopes = self.books.values().flat_map(|book| &book.terms.scopes);
        let unknown = |scope: &&Prefix| self.leases.domain_of(scope.prefix()).is_none();
        scopes.filter(unknown).cloned().collect()
    }

    // ---- helpers ----

    /// Everything in `scope` is to be looked at.
    fn look_again(&mut self, scope: &Prefix) {
        for key in self.keys_in(scope) {
            self.enqueue(&key);
        }
        self.note_change(scope);
    }

    /// Those whose keys lie in `scope` stand otherwise now.
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
