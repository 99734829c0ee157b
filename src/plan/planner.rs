//! The planner's state for one Registry: the desired records of each registration, and the observed keys in etcd. A
//! change on either side puts the affected pods on the work queue. [`super::actions`] takes them from there and plans
//! the writes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::desired::DesiredPod;
use super::guard::Guard;
use super::in_flight::{Ticket, Transactions};
use super::key_table::{Claim, KeyTable};
use super::lease_pool::LeasePool;
use super::meta::MetaKeys;
use super::permissions::Permissions;
use super::prefixes::Prefixes;
use super::quota::Quotas;
use super::rejected::Rejected;
use super::since::Since;
use super::units::units_of;
use super::work::{Work, WorkQueue};
use crate::model::{Key, KeyValue, LeaseId, Prefix, RegistrationRef, Revision, Value};

/// The settings of a registration, apart from its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationSettings {
    /// The creation time, in seconds since 1970. If two registrations claimed the prefix of a key at the same time, the
    /// older registration has the key.
    pub created: i64,
    /// The time to live of the leases that carry its keys, in seconds.
    pub ttl: u32,
    /// Renew the leases, but change no key. Only dropped keys that the Registry's rules forbid are removed.
    pub suspended: bool,
    /// Keep the last endpoint while all existing pods are merely not ready.
    pub keep_last: bool,
    /// The prefixes that contain its keys.
    pub scopes: Vec<Prefix>,
}

/// The desired state of one registration.
#[derive(Debug)]
pub(super) struct RegistrationState {
    pub terms: RegistrationSettings,
    /// The desired records of each ready pod.
    pub desired_pods: BTreeMap<Arc<str>, DesiredPod>,
    /// Keys that a pod had and that are no longer desired, until they are removed.
    pub dropped: HashMap<Arc<str>, Vec<Key>>,
    /// The records that existing pods would have if they were ready. Dropped when the pod is ready or gone for good.
    pub unready: HashMap<Arc<str>, DesiredPod>,
    /// The records that pods would have if their namespace were not over its quota.
    pub rationed: BTreeMap<Arc<str>, DesiredPod>,
    /// The pod that is not ready and keeps its records, because it was the last endpoint.
    pub kept: Option<Arc<str>>,
    /// The pods whose claims by the previous spec were given up.
    pub released: HashSet<Arc<str>>,
    /// The time at which each prefix was claimed. If it is not known yet, the creation time counts.
    pub since: Option<BTreeMap<Prefix, Since>>,
}

impl RegistrationState {
    /// Returns the time at which the prefix of `key` was claimed.
    fn since(&self, key: &str) -> Since {
        let Some(places) = &self.since else {
            return Since::Created(self.terms.created.saturating_mul(1000));
        };
        let around = places.iter().rev().find(|(place, _)| place.contains(key));
        around.map_or(Since::LAST, |(_, since)| *since)
    }
}

/// The desired and the observed state of one Registry.
#[derive(Debug)]
pub struct Planner {
    pub(super) meta: MetaKeys,
    pub(super) keys: KeyTable,
    pub(super) books: HashMap<RegistrationRef, RegistrationState>,
    pub(super) leases: LeasePool,
    pub(super) guard: Guard,
    pub(super) work: WorkQueue,
    pub(super) transactions: Transactions,
    /// Whether every Kubernetes watch has delivered its full list. Before that, no data key is written or removed.
    pub(super) complete: bool,
    pub(super) prefixes: Prefixes,
    pub(super) suspended: HashSet<RegistrationRef>,
    pub(super) changed: HashSet<RegistrationRef>,
    /// Registrations for which the planner must decide which endpoint is the last one.
    pub(super) in_question: HashSet<RegistrationRef>,
    pub(super) quotas: Quotas,
    pub(super) permissions: Permissions,
    /// The record sets that etcd rejects for their content.
    pub(super) rejected: Rejected,
}

impl Planner {
    pub fn meta(&self) -> &MetaKeys {
        &self.meta
    }

    /// Returns an empty planner for the Registry with the bookkeeping keys `meta` and up to `keys_per_lease` keys on a
    /// lease.
    pub fn new(meta: MetaKeys, keys_per_lease: usize) -> Self {
        Self {
            meta,
            keys: KeyTable::default(),
            books: HashMap::new(),
            leases: LeasePool::new(keys_per_lease),
            guard: Guard::new(),
            work: WorkQueue::default(),
            transactions: Transactions::default(),
            complete: false,
            prefixes: Prefixes::default(),
            suspended: HashSet::new(),
            changed: HashSet::new(),
            in_question: HashSet::new(),
            quotas: Quotas::default(),
            permissions: Permissions::default(),
            rejected: Rejected::default(),
        }
    }

    pub fn leases(&mut self) -> &mut LeasePool {
        &mut self.leases
    }

    /// Returns the number of pods and unclaimed keys that are still to be reconciled.
    pub fn queued(&self) -> usize {
        self.work.len()
    }

    /// Returns the number of our data keys in etcd.
    pub fn key_count(&self) -> usize {
        self.leases.key_count()
    }

    // ---- desired state from Kubernetes ----

    /// Marks the desired state as complete: every Kubernetes watch has delivered its full list. From now on, keys that
    /// no registration claims are removed.
    pub fn kubernetes_is_complete(&mut self) {
        if !self.complete {
            self.complete = true;
            self.queue_unclaimed();
        }
    }

    /// Adds a registration, or changes its settings.
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
                if !is_suspended {
                    scopes.extend(former.scopes.iter().cloned());
                }
                self.prefixes.leave(former.scopes);
                for pod in book.desired_pods.keys().chain(book.dropped.keys()) {
                    self.work.push(Work::Pod(registration.clone(), pod.clone()));
                }
                // Another registration with the same name: its age decides again which keys and quota it gets.
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
        self.prefixes.mark_changed();
        self.changed.insert(registration.clone());
        self.in_question.insert(registration.clone());
        self.queue_unclaimed_in(&scopes);
        if was_suspended {
            self.queue_if_none_suspended();
        }
    }

    /// Sets the time at which the registration claimed each of its prefixes. The registration that claimed the prefix
    /// of a key earlier has the key. The caller must set the settings first.
    pub fn set_since(&mut self, registration: &RegistrationRef, since: BTreeMap<Prefix, Since>) {
        let Some(book) = self.books.get_mut(registration) else {
            return;
        };
        if book.since.as_ref() == Some(&since) {
            return;
        }
        book.since = Some(since);
        let records = book.desired_pods.values().flat_map(DesiredPod::all_records);
        let is_contested = |key: &&Key| self.keys.get(key).is_some_and(|state| state.claims.len() > 1);
        let contested = records.map(|record| &record.key).filter(is_contested);
        for key in contested.cloned().collect::<Vec<_>>() {
            self.rank(&key);
        }
    }

    /// Removes a registration and queues the keys of its pods for removal.
    pub fn remove_registration(&mut self, registration: &RegistrationRef) {
        let Some(book) = self.books.remove(registration) else {
            return;
        };
        let was_suspended = self.suspended.remove(registration);
        self.permissions.forget(registration);
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
        self.queue_unclaimed_in(&book.terms.scopes);
        if was_suspended {
            self.queue_if_none_suspended();
        }
        self.prefixes.leave(book.terms.scopes);
        self.drop_former_prefixes();
        self.changed.remove(registration);
    }

    /// Sets the desired records of `pod` for `registration`; none if the pod is confirmed to be gone.
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

    /// Replaces the desired records of `pod`. Returns the keys that it must no longer have.
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
        // The dropped keys belong to the pod's work, so the transaction that writes their replacements removes them.
        for key in &dropped {
            self.unclaim(key, registration, pod);
        }
        for key in &wanted {
            self.claim(key, registration, pod);
        }
        for unit in &units {
            self.keys.set_unit(unit);
        }
        self.work.push(Work::Pod(registration.clone(), pod.clone()));
        self.changed.insert(registration.clone());
        dropped
    }

    /// Adds the claim of `pod` to `key`. The caller must queue the pod's work.
    pub(super) fn claim(&mut self, key: &Key, registration: &RegistrationRef, pod: &Arc<str>) {
        let claim = Claim {
            registration: registration.clone(),
            pod: pod.clone(),
        };
        self.guard.back(key);
        self.rejected.clear(key);
        if self.keys.claim(key, claim) {
            self.rank(key);
        }
    }

    /// Sorts the claims on `key`: claims of the previous spec last, then by the time at which the prefix was claimed,
    /// then by the creation time of the registration.
    fn rank(&mut self, key: &Key) {
        let books = &self.books;
        let created = |claim: &Claim| {
            let last = (true, Since::LAST, i64::MAX);
            books.get(&claim.registration).map_or(last, |book| {
                let desired = book.desired_pods.get(&claim.pod);
                let is_former = desired.is_some_and(|desired| desired.had(key));
                (is_former, book.since(key), book.terms.created)
            })
        };
        for claim in self.keys.sort_claims(key, created) {
            self.changed.insert(claim.registration.clone());
            // A losing claimant may have to remove the other keys of its unit.
            self.work.push(claim.work());
        }
    }

    pub(super) fn unclaim(&mut self, key: &Key, registration: &RegistrationRef, pod: &Arc<str>) {
        self.rejected.clear(key);
        let others = self.keys.unclaim(key, registration, pod);
        self.work.extend(others.first().map(Claim::work));
        self.changed.extend(others.iter().map(|claim| claim.registration.clone()));
    }

    /// Returns the registrations whose report may have changed since the last call.
    pub fn take_changed(&mut self) -> HashSet<RegistrationRef> {
        std::mem::take(&mut self.changed)
    }

    // ---- helpers ----

    /// Returns the value that `claim` desires for `key`.
    pub(super) fn wanted(&self, key: &str, claim: &Claim) -> Option<&Value> {
        let desired = self.books.get(&claim.registration)?.desired_pods.get(&claim.pod)?;
        desired
            .all_records()
            .find(|record| &*record.key == key)
            .map(|record| &record.value)
    }

    pub(super) fn enqueue(&mut self, key: &Key) {
        self.work.extend(self.keys.work_of(key));
    }

    /// Queues all unclaimed keys.
    pub(super) fn queue_unclaimed(&mut self) {
        let unclaimed = self.keys.iter().filter(|(_, state)| state.is_unclaimed());
        self.work.extend(unclaimed.map(|(key, _)| Work::Key(key.clone())));
    }

    fn queue_unclaimed_in(&mut self, scopes: &[Prefix]) {
        let inside = scopes.iter().flat_map(|scope| self.keys.below(scope.prefix()));
        let unclaimed = inside.filter(|(_, state)| state.is_unclaimed());
        self.work.extend(unclaimed.map(|(key, _)| Work::Key(key.clone())));
    }

    /// Queues the keys that stayed only because registrations were suspended, if none is suspended any more. They may
    /// also lie in former prefixes.
    fn queue_if_none_suspended(&mut self) {
        if self.suspended.is_empty() {
            self.queue_unclaimed();
        }
    }
}
