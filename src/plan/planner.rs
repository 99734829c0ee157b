//! Two columns: what etcd should hold, and what it does hold. Whatever changes in either puts the pods concerned
//! on the work list, from which [`super::planner`] takes the differences to write.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::denied::Denied;
use super::desired::DesiredPod;
use super::guard::Guard;
use super::in_flight::{InFlight, Ticket};
use super::leases::Leases;
use super::meta::MetaKeys;
use super::policy::PrefixGrant;
use super::quota::Quotas;
use super::rejected::Rejected;
use super::since::Since;
use super::units::units_of;
use super::work::{Work, WorkList};
use crate::model::RegistrationRef;
use crate::model::{Key, KeyValue, LeaseId, Prefix, Revision, Value};

/// What a registration asks for, apart from its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationSettings {
    /// When the registration was created, in seconds since 1970: the older of two has a key both want.
    pub created: i64,
    /// The time to live of the leases its keys go on, in seconds.
    pub ttl: u32,
    /// Renew, but change nothing.
    pub suspended: bool,
    /// Keep the last endpoint when all pods that are there are merely not ready.
    pub keep_last: bool,
    /// Where its keys lie.
    pub scopes: Vec<Prefix>,
}

/// One registration's side of the ledger.
#[derive(Debug)]
pub(super) struct RegistrationState {
    pub terms: RegistrationSettings,
    /// What each of its ready pods is to have.
    pub desired_pods: BTreeMap<Arc<str>, DesiredPod>,
    /// Keys that a pod had and is no longer to have; forgotten once they are gone.
    pub dropped: HashMap<Arc<str>, Vec<Key>>,
    /// What those of its pods would have that are there and not ready: when one is gone for good, so is this.
    pub unready: HashMap<Arc<str>, DesiredPod>,
    /// What those of its pods would have that go without, because their namespace has all that it may have.
    pub rationed: BTreeMap<Arc<str>, DesiredPod>,
    /// The pod that is not ready and has its tenancy nevertheless, because it was the last one.
    pub kept: Option<Arc<str>>,
    /// The pods that have no claim by the spec before any more.
    pub released: HashSet<Arc<str>>,
    /// When each of its places was claimed; where that was never told, it counts from its creation.
    pub since: Option<BTreeMap<Prefix, Since>>,
}

impl RegistrationState {
    /// When the place that `key` lies in was claimed.
    fn since(&self, key: &str) -> Since {
        let Some(places) = &self.since else {
            return Since::Created(self.terms.created.saturating_mul(1000));
        };
        let around = places.iter().rev().find(|(place, _)| place.contains(key));
        around.map_or(Since::LAST, |(_, since)| *since)
    }
}

/// A registration's pod that wants a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub registration: RegistrationRef,
    pub pod: Arc<str>,
}

/// One key, seen from both sides.
#[derive(Debug, Default)]
pub(super) struct KeyState {
    /// Who wants it, the one who shall have it first.
    pub claims: Vec<Claim>,
    /// What etcd holds.
    pub held: Option<KeyValue>,
    /// The revision `held` is known from.
    pub seen: Revision,
    /// The `create_revision` under which the key was seen to be ours. A stranger's overwrite keeps it, so the key
    /// stays ours and is put right; a stranger's key created anew is another key.
    pub born: Revision,
    /// The write to it that is under way.
    pub in_flight: Option<Ticket>,
    /// The lease on which room is kept for it, because it is not known whether a put of it there took place.
    pub perhaps_on: Option<LeaseId>,
    /// The keys that are written and removed as one with it, itself included; none if it was last wanted alone.
    pub unit: Option<Arc<[Key]>>,
}

/// What etcd should and does hold for one Registry.
#[derive(Debug)]
pub struct Planner {
    pub(super) meta: MetaKeys,
    pub(super) slots: BTreeMap<Key, KeyState>,
    pub(super) books: HashMap<RegistrationRef, RegistrationState>,
    pub(super) leases: Leases,
    pub(super) guard: Guard,
    pub(super) work: WorkList,
    pub(super) in_flight: HashMap<Ticket, InFlight>,
    pub(super) next_ticket: Ticket,
    /// Whether the last transaction was for those who ask for little.
    pub(super) small_was_last: bool,
    /// Whether Kubernetes has told everything: before that, nothing is written and nothing removed.
    pub(super) complete: bool,
    /// The scopes whose contents are known.
    pub(super) surveyed: BTreeSet<Prefix>,
    /// Scopes of registrations that are gone, kept until none of our keys is left in them.
    pub(super) lingering: BTreeSet<Prefix>,
    /// Prefixes that registrations left while they were suspended: what was kept there for their sake goes when the last
    /// one is resumed, even where another registration lies.
    left_while_suspended: BTreeSet<Prefix>,
    pub(super) scopes_changed: bool,
    pub(super) suspended: HashSet<RegistrationRef>,
    pub(super) changed: HashSet<RegistrationRef>,
    /// Registrations of which it is to be settled which endpoint is their last.
    pub(super) in_question: HashSet<RegistrationRef>,
    /// Where registrations have no business, but for what each pass allows.
    pub(super) forbidden: HashMap<RegistrationRef, Vec<(Prefix, PrefixGrant)>>,
    pub(super) quotas: Quotas,
    /// What etcd does not let us do.
    pub(super) denied: Denied,
    /// The work that waits because etcd has no space for new data; none while it has. Only removals are planned then.
    pub(super) without_space: Option<HashSet<Work>>,
    /// What etcd rejects for its content.
    pub(super) rejected: Rejected,
    /// The revision that the record of a hold, or its absence, is known from.
    pub(super) hold_seen: Revision,
}

impl Planner {
    /// The names of our bookkeeping keys.
    pub fn meta(&self) -> &MetaKeys {
        &self.meta
    }

    /// An empty ledger for the Registry whose bookkeeping lies under `meta`, with up to `keys_per_lease` keys on a lease.
    pub fn new(meta: MetaKeys, keys_per_lease: usize) -> Self {
        Self {
            meta,
            slots: BTreeMap::new(),
            books: HashMap::new(),
            leases: Leases::new(keys_per_lease),
            guard: Guard::new(),
            work: WorkList::default(),
            in_flight: HashMap::new(),
            next_ticket: Ticket::default(),
            small_was_last: false,
            complete: false,
            surveyed: BTreeSet::new(),
            lingering: BTreeSet::new(),
            left_while_suspended: BTreeSet::new(),
            scopes_changed: true,
            suspended: HashSet::new(),
            changed: HashSet::new(),
            in_question: HashSet::new(),
            forbidden: HashMap::new(),
            quotas: Quotas::default(),
            denied: Denied::default(),
            without_space: None,
            rejected: Rejected::default(),
            hold_seen: 0,
        }
    }

    /// The pool of leases.
    pub fn leases(&mut self) -> &mut Leases {
        &mut self.leases
    }

    /// How many pods and stray keys are still to be looked at.
    pub fn queued(&self) -> usize {
        self.work.len() + self.without_space.as_ref().map_or(0, HashSet::len)
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
    pub fn set_terms(&mut self, registration: &RegistrationRef, terms: RegistrationSettings) {
        let mut scopes: Vec<Prefix> = terms.scopes.clone();
        let is_suspended = terms.suspended;
        let was_suspended = if is_suspended {
            !self.suspended.insert(registration.clone())
        } else {
            self.suspended.remove(registration)
        };
        match self.books.get_mut(registration) {
            Some(book) if book.terms == terms => return,
            Some(book) => {
                let created = terms.created;
                let former = std::mem::replace(&mut book.terms, terms);
                if is_suspended {
                    self.left_while_suspended.extend(former.scopes.iter().cloned());
                } else {
                    scopes.extend(former.scopes.iter().cloned());
                }
                self.lingering.extend(former.scopes);
                for pod in book.desired_pods.keys().chain(book.dropped.keys()) {
                    self.work.push(Work::Pod(registration.clone(), pod.clone()));
                }
                // Another registration of the same name: its age decides anew what it may have.
                if former.created != created {
                    self.quotas.question(&registration.namespace);
                    let records = book.desired_pods.values().flat_map(DesiredPod::all_records);
                    let keys: Vec<Key> = records.map(|record| record.key.clone()).collect();
                    for key in &keys {
                        self.rank(key);
                    }
                }
            }
            None => {
                let book = RegistrationState {
                    terms,
                    desired_pods: BTreeMap::new(),
                    dropped: HashMap::new(),
                    unready: HashMap::new(),
                    rationed: BTreeMap::new(),
                    kept: None,
                    released: HashSet::new(),
                    since: None,
                };
                self.books.insert(registration.clone(), book);
            }
        }
        self.scopes_changed = true;
        self.changed.insert(registration.clone());
        self.in_question.insert(registration.clone());
        // A resumed registration leaves nothing behind that was kept for its sake only, be it where it lay before.
        if was_suspended && self.suspended.is_empty() {
            scopes.extend(std::mem::take(&mut self.left_while_suspended));
        }
        for scope in scopes {
            self.requeue_unclaimed(&scope);
        }
    }

    /// When the registration claimed each of its places: who claimed the place of a key earlier has it. Tell after its
    /// terms.
    pub fn set_since(&mut self, registration: &RegistrationRef, since: BTreeMap<Prefix, Since>) {
        let Some(book) = self.books.get_mut(registration) else {
            return;
        };
        if book.since.as_ref() == Some(&since) {
            return;
        }
        book.since = Some(since);
        let records = book.desired_pods.values().flat_map(DesiredPod::all_records);
        let is_contested = |key: &&Key| self.slots.get(*key).is_some_and(|slot| slot.claims.len() > 1);
        let contested = records.map(|record| &record.key).filter(is_contested);
        for key in contested.cloned().collect::<Vec<_>>() {
            self.rank(&key);
        }
    }

    /// A registration is gone: what its pods had is to go.
    pub fn remove_registration(&mut self, registration: &RegistrationRef) {
        let Some(book) = self.books.remove(registration) else {
            return;
        };
        let was_suspended = self.suspended.remove(registration);
        self.forbidden.remove(registration);
        self.quotas.question(&registration.namespace);
        for (pod, desired) in &book.desired_pods {
            for record in desired.all_records() {
                self.unclaim(&record.key, registration, pod);
            }
        }
        for key in book.dropped.into_values().flatten() {
            self.guard.clear_unconfirmed(&key);
            self.work.push(Work::Key(key));
        }
        self.acquit_scopes(&book.terms.scopes);
        let mut scopes = book.terms.scopes.clone();
        if was_suspended && self.suspended.is_empty() {
            scopes.extend(std::mem::take(&mut self.left_while_suspended));
        }
        for scope in &scopes {
            self.requeue_unclaimed(scope);
        }
        self.lingering.extend(book.terms.scopes);
        self.scopes_changed = true;
        self.settle_lingering();
        self.changed.remove(registration);
    }

    /// What `pod` is to have for `registration` from now on; none when it is gone for sure.
    pub fn set_tenancy(&mut self, registration: &RegistrationRef, pod: &Arc<str>, desired: Option<DesiredPod>) {
        self.acquit_pod(registration, pod);
        if let Some(book) = self.books.get_mut(registration) {
            book.kept.take_if(|kept| kept == pod);
        }
        let has_endpoint = desired
            .as_ref()
            .is_some_and(|desired| desired.all_records().next().is_some());
        for key in self.change_tenancy(registration, pod, desired) {
            self.guard.clear_unconfirmed(&key);
        }
        if has_endpoint {
            self.let_last_go(registration);
        } else {
            self.keep_if_last(registration, None);
        }
    }

    /// Takes over what `pod` is to have; returns what it is to have no longer.
    pub(super) fn change_tenancy(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        desired: Option<DesiredPod>,
    ) -> Vec<Key> {
        let Some(book) = self.books.get_mut(registration) else {
            return Vec::new();
        };
        if book.desired_pods.get(pod) == desired.as_ref()
            || book.rationed.get(pod).is_some_and(|it| Some(it) == desired.as_ref())
        {
            return Vec::new();
        }
        book.rationed.remove(pod);
        self.quotas.question(&registration.namespace);
        let previous = |desired: Option<&DesiredPod>| desired.and_then(|desired| desired.previous.clone());
        let former = previous(book.desired_pods.get(pod));
        let was_released = book.released.contains(pod);
        let is_released = was_released
            && previous(desired.as_ref())
                .zip(former)
                .is_some_and(|(now, before)| now.has_keys_of(&before) && !now.lacks());
        if was_released && !is_released {
            book.released.remove(pod);
        }
        let keys = |desired: &DesiredPod, is_released: bool| -> Vec<Key> {
            if is_released {
                desired.records().map(|record| record.key.clone()).collect()
            } else {
                desired.keys()
            }
        };
        let wanted = desired.as_ref().map(|desired| keys(desired, is_released));
        let wanted = wanted.unwrap_or_default();
        let units = desired.as_ref().map(units_of).unwrap_or_default();
        let before = match desired {
            Some(desired) => book.desired_pods.insert(pod.clone(), desired),
            None => book.desired_pods.remove(pod),
        };
        let former = before.as_ref().map(|desired| keys(desired, was_released));
        let former = former.unwrap_or_default();
        let dropped: Vec<Key> = former.into_iter().filter(|key| !wanted.contains(key)).collect();
        let pending = book.dropped.entry(pod.clone()).or_default();
        pending.retain(|key| !wanted.contains(key));
        pending.extend(dropped.iter().cloned());
        if pending.is_empty() {
            book.dropped.remove(pod);
        }
        // The dropped keys go with the pod's work, in the transaction that writes what takes their place.
        for key in &dropped {
            self.unclaim(key, registration, pod);
        }
        for key in &wanted {
            self.claim(key, registration, pod);
        }
        self.note_units(units);
        self.work.push(Work::Pod(registration.clone(), pod.clone()));
        self.changed.insert(registration.clone());
        dropped
    }

    /// Adds `pod` to those who want `key`; that it has work to do is for the caller to note.
    pub(super) fn claim(&mut self, key: &Key, registration: &RegistrationRef, pod: &Arc<str>) {
        let claim = Claim {
            registration: registration.clone(),
            pod: pod.clone(),
        };
        self.guard.back(key);
        self.rejected.clear(key);
        let slot = self.slots.entry(key.clone()).or_default();
        slot.unit = None;
        if !slot.claims.contains(&claim) {
            slot.claims.push(claim);
            if slot.claims.len() > 1 {
                self.rank(key);
            }
        }
    }

    /// Puts those who want `key` in the order in which they claimed its place, those who only had it by the spec before
    /// at the end.
    fn rank(&mut self, key: &Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let books = &self.books;
        let created = |claim: &Claim| {
            let last = (true, Since::LAST, i64::MAX);
            books.get(&claim.registration).map_or(last, |book| {
                let desired = book.desired_pods.get(&claim.pod);
                let is_former = desired.is_some_and(|desired| desired.had(key));
                (is_former, book.since(key), book.terms.created)
            })
        };
        slot.claims.sort_by(|a, b| (created(a), a).cmp(&(created(b), b)));
        self.changed
            .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
        // Who comes later may have to take away what goes with this key.
        for claim in &slot.claims {
            self.work.push(Work::Pod(claim.registration.clone(), claim.pod.clone()));
        }
    }

    pub(super) fn unclaim(&mut self, key: &Key, registration: &RegistrationRef, pod: &Arc<str>) {
        self.rejected.clear(key);
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.claims
            .retain(|claim| claim.registration != *registration || claim.pod != *pod);
        if let Some(next) = slot.claims.first() {
            self.work.push(Work::Pod(next.registration.clone(), next.pod.clone()));
            self.changed
                .extend(slot.claims.iter().map(|claim| claim.registration.clone()));
        }
    }

    /// The registrations whose report may read differently since the last call.
    pub fn take_changed(&mut self) -> HashSet<RegistrationRef> {
        std::mem::take(&mut self.changed)
    }

    // ---- helpers ----

    pub(super) fn is_ours(&self, slot: &KeyState) -> bool {
        let ours = |held: &KeyValue| self.leases.is_ours(held.lease) || held.create_revision == slot.born;
        slot.held.as_ref().is_some_and(ours)
    }

    /// The value that `claim` wants under `key`.
    pub(super) fn wanted(&self, key: &str, claim: &Claim) -> Option<&Value> {
        let desired = self.books.get(&claim.registration)?.desired_pods.get(&claim.pod)?;
        desired
            .all_records()
            .find(|record| &*record.key == key)
            .map(|record| &record.value)
    }

    pub(super) fn enqueue(&mut self, key: &Key) {
        if let Some(work) = self.work_of(key) {
            self.work.push(work);
        }
    }

    /// The work that `key` belongs to; none if the key is not known.
    pub(super) fn work_of(&self, key: &Key) -> Option<Work> {
        let slot = self.slots.get(key)?;
        Some(match slot.claims.first() {
            Some(claim) => Work::Pod(claim.registration.clone(), claim.pod.clone()),
            None => Work::Key(key.clone()),
        })
    }

    fn requeue_unclaimed(&mut self, scope: &Prefix) {
        for key in self.keys_in(scope) {
            if self.slots.get(&key).is_some_and(|slot| slot.claims.is_empty()) {
                self.work.push(Work::Key(key));
            }
        }
    }
}
