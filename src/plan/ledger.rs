//! Two columns: what etcd should hold, and what it does hold. Whatever changes in either puts the pods concerned
//! on the work list, from which [`super::planner`] takes the differences to write.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::leases::Leases;
use super::meta::MetaKeys;
use super::planner::{InFlight, Ticket};
use super::tenancy::Tenancy;
use super::transaction::{Held, Key, LeaseId, Observation, Revision, Scope, Value};
use super::work::{Work, WorkList};
use crate::index::RegistrationRef;

/// What a registration asks for, apart from its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When the registration was created, in seconds since 1970: the older of two has a key both want.
    pub created: i64,
    /// The time to live of the leases its keys go on, in seconds.
    pub ttl: u32,
    /// Renew, but change nothing.
    pub suspended: bool,
    /// Where its keys lie.
    pub scopes: Vec<Scope>,
}

/// One registration's side of the ledger.
#[derive(Debug)]
pub(super) struct Book {
    pub terms: Terms,
    /// What each of its ready pods is to have.
    pub tenancies: BTreeMap<Arc<str>, Tenancy>,
    /// Keys that a pod had and is no longer to have; forgotten once they are gone.
    pub dropped: HashMap<Arc<str>, Vec<Key>>,
}

/// A registration's pod that wants a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    pub registration: RegistrationRef,
    pub pod: Arc<str>,
}

/// One key, seen from both sides.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Who wants it, the one who shall have it first.
    pub claims: Vec<Claim>,
    /// What etcd holds.
    pub held: Option<Held>,
    /// The revision `held` is known from.
    pub seen: Revision,
    /// The `create_revision` under which the key was seen to be ours. A stranger's overwrite keeps it, so the key
    /// stays ours and is put right; a stranger's key created anew is another key.
    pub born: Revision,
    /// A write to it is under way.
    pub in_flight: bool,
}

/// What etcd should and does hold for one Registry.
#[derive(Debug)]
pub struct Ledger {
    pub(super) meta: MetaKeys,
    pub(super) slots: BTreeMap<Key, Slot>,
    pub(super) books: HashMap<RegistrationRef, Book>,
    pub(super) leases: Leases,
    pub(super) work: WorkList,
    pub(super) in_flight: HashMap<Ticket, InFlight>,
    pub(super) next_ticket: Ticket,
    /// Whether Kubernetes has told everything: before that, nothing is written and nothing removed.
    pub(super) complete: bool,
    /// The scopes whose contents are known.
    surveyed: BTreeSet<Scope>,
    /// Scopes of registrations that are gone, kept until none of our keys is left in them.
    lingering: BTreeSet<Scope>,
    scopes_changed: bool,
    suspended: HashSet<RegistrationRef>,
    changed: HashSet<RegistrationRef>,
}

impl Ledger {
    /// An empty ledger for the Registry whose bookkeeping lies under `meta`, with up to `keys_per_lease` keys on a lease.
    pub fn new(meta: MetaKeys, keys_per_lease: usize) -> Self {
        Self {
            meta,
            slots: BTreeMap::new(),
            books: HashMap::new(),
            leases: Leases::new(keys_per_lease),
            work: WorkList::default(),
            in_flight: HashMap::new(),
            next_ticket: Ticket::default(),
            complete: false,
            surveyed: BTreeSet::new(),
            lingering: BTreeSet::new(),
            scopes_changed: true,
            suspended: HashSet::new(),
            changed: HashSet::new(),
        }
    }

    /// The pool of leases.
    pub fn leases(&mut self) -> &mut Leases {
        &mut self.leases
    }

    /// The number of data keys of ours that etcd holds.
    pub fn key_count(&self) -> usize {
        self.leases.key_count()
    }

    // ---- what Kubernetes wants ----

    /// Every Kubernetes watch has told everything it has: from here on, what no registration claims is removed.
    pub fn kubernetes_is_complete(&mut self) {
        if !self.complete {
            self.complete = true;
            for (key, slot) in &self.slots {
                if slot.claims.is_empty() && slot.held.is_some() {
                    self.work.push(Work::Key(key.clone()));
                }
            }
        }
    }

    /// A registration exists on these terms.
    pub fn set_terms(&mut self, registration: &RegistrationRef, terms: Terms) {
        let scopes: Vec<Scope> = terms.scopes.clone();
        if terms.suspended {
            self.suspended.insert(registration.clone());
        } else {
            self.suspended.remove(registration);
        }
        match self.books.get_mut(registration) {
            Some(book) if book.terms == terms => return,
            Some(book) => {
                let former = std::mem::replace(&mut book.terms, terms);
                self.lingering.extend(former.scopes);
                for pod in book.tenancies.keys().chain(book.dropped.keys()) {
                    self.work.push(Work::Pod(registration.clone(), pod.clone()));
                }
            }
            None => {
                let book = Book {
                    terms,
                    tenancies: BTreeMap::new(),
                    dropped: HashMap::new(),
                };
                self.books.insert(registration.clone(), book);
            }
        }
        self.scopes_changed = true;
        self.changed.insert(registration.clone());
        // A resumed registration leaves nothing behind that was kept for its sake only.
        for scope in scopes {
            self.requeue_unclaimed(&scope);
        }
    }

    /// A registration is gone: what its pods had is to go.
    pub fn remove_registration(&mut self, registration: &RegistrationRef) {
        let Some(book) = self.books.remove(registration) else {
            return;
        };
        self.suspended.remove(registration);
        for (pod, tenancy) in &book.tenancies {
            for record in tenancy.records() {
                self.unclaim(&record.key, registration, pod);
            }
        }
        for scope in &book.terms.scopes {
            self.requeue_unclaimed(scope);
        }
        self.lingering.extend(book.terms.scopes);
        self.scopes_changed = true;
        self.changed.remove(registration);
    }

    /// What `pod` is to have for `registration` from now on; none when it is not ready or not selected.
    pub fn set_tenancy(&mut self, registration: &RegistrationRef, pod: &Arc<str>, tenancy: Option<Tenancy>) {
        let Some(book) = self.books.get_mut(registration) else {
            return;
        };
        let before = match &tenancy {
            Some(wanted) => book.tenancies.insert(pod.clone(), wanted.clone()),
            None => book.tenancies.remove(pod),
        };
        if before == tenancy {
            return;
        }
        let keys = |tenancy: &Option<Tenancy>| -> Vec<Key> {
            tenancy
                .iter()
                .flat_map(Tenancy::records)
                .map(|record| record.key.clone())
                .collect()
        };
        let (former, wanted) = (keys(&before), keys(&tenancy));
        let dropped: Vec<Key> = former.into_iter().filter(|key| !wanted.contains(key)).collect();
        let pending = book.dropped.entry(pod.clone()).or_default();
        pending.retain(|key| !wanted.contains(key));
        pending.extend(dropped.iter().cloned());
        if pending.is_empty() {
            book.dropped.remove(pod);
        }
        // The dropped keys go with the pod's work, in the transaction that writes what takes their place.
        for key in dropped {
            self.unclaim(&key, registration, pod);
        }
        for key in wanted {
            self.claim(key, registration, pod);
        }
        self.work.push(Work::Pod(registration.clone(), pod.clone()));
        self.changed.insert(registration.clone());
    }

    fn claim(&mut self, key: Key, registration: &RegistrationRef, pod: &Arc<str>) {
        let claim = Claim {
            registration: registration.clone(),
            pod: pod.clone(),
        };
        let slot = self.slots.entry(key).or_default();
        if !slot.claims.contains(&claim) {
            slot.claims.push(claim);
            let books = &self.books;
            let created = |claim: &Claim| {
                books
                    .get(&claim.registration)
                    .map_or(i64::MAX, |book| book.terms.created)
            };
            slot.claims.sort_by(|a, b| {
                let (a_key, b_key) = (
                    (created(a), &a.registration, &a.pod),
                    (created(b), &b.registration, &b.pod),
                );
                a_key.cmp(&b_key)
            });
            self.changed
                .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
        }
    }

    fn unclaim(&mut self, key: &Key, registration: &RegistrationRef, pod: &Arc<str>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.claims
            .retain(|claim| claim.registration != *registration || claim.pod != *pod);
        if let Some(next) = slot.claims.first() {
            self.work.push(Work::Pod(next.registration.clone(), next.pod.clone()));
            self.changed
                .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
        }
    }

    // ---- what etcd has ----

    /// Takes in what the mirror saw.
    pub fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Changed { key, held, revision } => self.observe_key(&key, held, revision),
            Observation::Snapshot {
                scope,
                revision,
                entries,
            } => self.observe_scope(scope, revision, entries),
            Observation::Restored => self.forget(),
            Observation::Interrupted | Observation::Complete { .. } => {}
        }
    }

    fn observe_scope(&mut self, scope: Scope, revision: Revision, entries: Vec<(Key, Held)>) {
        let present: HashSet<Key> = entries.iter().map(|(key, _)| key.clone()).collect();
        // The lease records first: whose a data key is depends on them.
        for (key, held) in entries {
            self.observe_key(&key, Some(held), revision);
        }
        for key in self.keys_in(&scope) {
            if !present.contains(&key) {
                self.observe_key(&key, None, revision);
            }
        }
        if scope == *self.meta.scope() {
            for lease in self.leases.ids().collect::<Vec<_>>() {
                if !present.contains(&self.meta.record_key(lease)) {
                    self.leases.doubt(lease);
                }
            }
        }
        for key in self.keys_in(&scope) {
            self.enqueue(&key);
        }
        self.surveyed.insert(scope);
    }

    /// Learns what `key` holds as of `revision`, unless something newer is known.
    pub(super) fn observe_key(&mut self, key: &Key, held: Option<Held>, revision: Revision) {
        if self.meta.scope().contains(key) {
            self.observe_meta(key, held);
            return;
        }
        let slot = self.slots.entry(key.clone()).or_default();
        if revision < slot.seen {
            return;
        }
        slot.seen = revision;
        let lease_of = |held: &Option<Held>| held.as_ref().map_or(LeaseId::NONE, |held| held.lease);
        let (before, after) = (lease_of(&slot.held), lease_of(&held));
        if before != after {
            self.leases.detach(before, key);
            self.leases.attach(after, key);
        }
        match &held {
            Some(now) if self.leases.is_ours(now.lease) => slot.born = now.create_revision,
            Some(_) => {}
            None => slot.born = 0,
        }
        if slot.held != held {
            slot.held = held;
            self.changed
                .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
            self.enqueue(key);
        }
    }

    fn observe_meta(&mut self, key: &Key, held: Option<Held>) {
        let Some(lease) = self.meta.recorded_lease(key) else {
            return;
        };
        match held {
            // A record proves something only about the lease it is on.
            Some(held) if held.lease == lease => {
                let Some(ttl) = MetaKeys::recorded_ttl(&held.value) else {
                    return;
                };
                for key in self.leases.recorded(lease, ttl, held.mod_revision) {
                    if let Some(slot) = self.slots.get_mut(&key) {
                        slot.born = slot.held.as_ref().map_or(0, |held| held.create_revision);
                    }
                    self.enqueue(&key);
                }
                self.work.release(ttl);
            }
            Some(_) | None => self.leases.doubt(lease),
        }
    }

    /// A lease does not exist any more, and with it every key that was on it.
    pub(super) fn lease_is_gone(&mut self, lease: LeaseId) {
        for key in self.leases.gone(lease) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.held = None;
                slot.born = 0;
                self.changed
                    .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
            }
            self.enqueue(&key);
        }
    }

    fn forget(&mut self) {
        self.leases.clear();
        self.surveyed.clear();
        self.slots.retain(|_, slot| !slot.claims.is_empty());
        for slot in self.slots.values_mut() {
            slot.held = None;
            slot.seen = 0;
            slot.born = 0;
        }
        self.changed.extend(self.books.keys().cloned());
    }

    // ---- scopes ----

    /// The scopes to read and watch, if they changed since the last call. A scope inside another is left out.
    pub fn take_changed_scopes(&mut self) -> Option<BTreeSet<Scope>> {
        if !std::mem::take(&mut self.scopes_changed) {
            return None;
        }
        let wanted = self.books.values().flat_map(|book| &book.terms.scopes);
        let all: BTreeSet<&Scope> = wanted.chain(&self.lingering).chain([self.meta.scope()]).collect();
        let mut outermost: BTreeSet<Scope> = BTreeSet::new();
        for scope in all {
            // In key order an outer scope comes before all that lie in it.
            if !outermost.last().is_some_and(|outer| outer.contains(scope.prefix())) {
                outermost.insert(scope.clone());
            }
        }
        let gone: Vec<Scope> = self.surveyed.difference(&outermost).cloned().collect();
        for scope in gone {
            self.surveyed.remove(&scope);
            let outside = |key: &Key| !outermost.iter().any(|kept| kept.contains(key));
            for key in self.keys_in(&scope).into_iter().filter(outside) {
                if self
                    .slots
                    .get(&key)
                    .is_some_and(|slot| slot.claims.is_empty() && !slot.in_flight)
                {
                    self.slots.remove(&key);
                }
            }
        }
        Some(outermost)
    }

    /// Lets go of scopes whose registration is gone once none of our keys is left in them.
    pub(super) fn settle_lingering(&mut self) {
        if self.lingering.is_empty() || !self.complete {
            return;
        }
        let used: HashSet<&Scope> = self.books.values().flat_map(|book| &book.terms.scopes).collect();
        let still_ours = |scope: &Scope| {
            let mut held = self.range(scope).filter_map(|(_, slot)| slot.held.as_ref());
            held.any(|held| self.leases.is_ours(held.lease))
        };
        let done = |scope: &&Scope| used.contains(*scope) || self.surveyed.contains(*scope) && !still_ours(scope);
        let done: Vec<Scope> = self.lingering.iter().filter(done).cloned().collect();
        for scope in done {
            self.lingering.remove(&scope);
            self.scopes_changed = true;
        }
    }

    /// Whether what `key` holds is known.
    pub(super) fn is_surveyed(&self, key: &str) -> bool {
        // No surveyed scope lies in another, so only the last one that is not behind `key` can contain it.
        let up_to = (Bound::Unbounded, Bound::Included(key));
        self.surveyed
            .range::<str, _>(up_to)
            .next_back()
            .is_some_and(|scope| scope.contains(key))
    }

    /// Whether a suspended registration lays its keys where `key` is.
    pub(super) fn is_frozen(&self, key: &str) -> bool {
        let suspended = self
            .suspended
            .iter()
            .filter_map(|registration| self.books.get(registration));
        suspended
            .flat_map(|book| &book.terms.scopes)
            .any(|scope| scope.contains(key))
    }

    /// The recorded leases, to ask etcd which keys are on them.
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        self.leases.ids().collect()
    }

    /// Of the keys etcd says are on a lease of ours, those that lie in no scope: left behind by a registration that
    /// was deleted while nobody was up.
    pub fn unknown_keys(&self, keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
        let unknown = |key: &Key| !self.meta.scope().contains(key) && !self.slots.contains_key(key);
        keys.into_iter().filter(unknown).collect()
    }

    /// The registrations whose report may read differently since the last call.
    pub fn take_changed(&mut self) -> HashSet<RegistrationRef> {
        std::mem::take(&mut self.changed)
    }

    // ---- helpers ----

    pub(super) fn is_ours(&self, slot: &Slot) -> bool {
        let ours = |held: &Held| self.leases.is_ours(held.lease) || held.create_revision == slot.born;
        slot.held.as_ref().is_some_and(ours)
    }

    /// The value that `claim` wants under `key`.
    pub(super) fn wanted(&self, key: &str, claim: &Claim) -> Option<&Value> {
        let tenancy = self.books.get(&claim.registration)?.tenancies.get(&claim.pod)?;
        tenancy
            .records()
            .find(|record| &*record.key == key)
            .map(|record| &record.value)
    }

    pub(super) fn enqueue(&mut self, key: &Key) {
        let Some(slot) = self.slots.get(key) else { return };
        match slot.claims.first() {
            Some(claim) => self.work.push(Work::Pod(claim.registration.clone(), claim.pod.clone())),
            None => self.work.push(Work::Key(key.clone())),
        }
    }

    fn requeue_unclaimed(&mut self, scope: &Scope) {
        for key in self.keys_in(scope) {
            if self.slots.get(&key).is_some_and(|slot| slot.claims.is_empty()) {
                self.work.push(Work::Key(key));
            }
        }
    }

    fn range(&self, scope: &Scope) -> impl Iterator<Item = (&Key, &Slot)> {
        let from = (Bound::Included(scope.prefix()), Bound::Unbounded);
        self.slots
            .range::<str, _>(from)
            .take_while(|(key, _)| scope.contains(key))
    }

    fn keys_in(&self, scope: &Scope) -> Vec<Key> {
        self.range(scope).map(|(key, _)| key.clone()).collect()
    }
}
