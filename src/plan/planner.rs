//! The planner's state for one Registry: the desired records of each registration, and the observed keys in etcd. A
//! change on either side puts the affected pods on the work queue. [`super::actions`] takes them from there and plans
//! the writes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::desired::DesiredPod;
use super::guard::{Cause, Guard};
use super::in_flight::Transactions;
use super::key_table::{Claim, KeyTable};
use super::lease_pool::LeasePool;
use super::meta::MetaKeys;
use super::min_ready::WaitingPods;
use super::permissions::Permissions;
use super::prefixes::Prefixes;
use super::quota::Quotas;
use super::registrations::{ClaimChange, RegistrationSettings, RegistrationState, Registrations};
use super::rejected::Rejected;
use super::since::Since;
use super::units::units_of;
use super::work::{Work, WorkQueue};
use crate::model::{Key, Prefix, RegistrationRef};

/// The desired and the observed state of one Registry.
#[derive(Debug)]
pub struct Planner {
    pub(super) meta: MetaKeys,
    pub(super) keys: KeyTable,
    pub(super) registrations: Registrations,
    pub(super) leases: LeasePool,
    pub(super) guard: Guard,
    pub(super) work: WorkQueue,
    pub(super) transactions: Transactions,
    /// Whether every Kubernetes watch has delivered its full list. Before that, no data key is written or removed.
    pub(super) is_kubernetes_complete: bool,
    pub(super) prefixes: Prefixes,
    pub(super) quotas: Quotas,
    pub(super) permissions: Permissions,
    /// The ready pods that wait for `minReadySeconds`.
    pub(super) waiting: WaitingPods,
    /// The record sets that etcd rejects for their content.
    pub(super) rejected: Rejected,
    /// The pods of deleted registrations, by namespace and name, of which it is to be found out whether they have ended.
    pub(super) left: Vec<(Arc<str>, Arc<str>)>,
}

impl Planner {
    pub fn meta(&self) -> &MetaKeys {
        &self.meta
    }

    /// Returns an empty planner for the Registry with the bookkeeping keys `meta` and up to `keys_per_lease` keys on a
    /// lease.
    pub fn new(meta: MetaKeys, keys_per_lease: usize) -> Self {
        Self {
            prefixes: Prefixes::new(meta.prefix()),
            meta,
            keys: KeyTable::default(),
            registrations: Registrations::default(),
            leases: LeasePool::new(keys_per_lease),
            guard: Guard::new(),
            work: WorkQueue::default(),
            transactions: Transactions::default(),
            is_kubernetes_complete: false,
            quotas: Quotas::default(),
            permissions: Permissions::default(),
            waiting: WaitingPods::default(),
            rejected: Rejected::default(),
            left: Vec::new(),
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
        if !self.is_kubernetes_complete {
            self.is_kubernetes_complete = true;
            self.queue_unclaimed();
        }
    }

    /// Adds a registration, or changes its settings.
    pub fn set_settings(&mut self, registration: &RegistrationRef, settings: RegistrationSettings) {
        let known = self.registrations.get(registration);
        if known.is_some_and(|state| state.settings == settings) {
            return;
        }
        let (created, is_suspended) = (settings.created, settings.suspended);
        let mut prefixes = settings.prefixes.clone();
        let former = self.registrations.set_settings(registration, settings);
        let before = former.as_ref().map_or(&[][..], |former| &former.prefixes);
        self.change_prefixes(before, &prefixes);
        if former.as_ref().is_none_or(|former| former.prefixes != prefixes) {
            // The keys below the prefixes, which may have to be listed first, decide which pods come first.
            self.quotas.mark_undecided(&registration.namespace);
        }
        if let Some(former) = former {
            self.change_settings(registration, &former, created);
            if !is_suspended {
                prefixes.extend(former.prefixes);
            }
            if former.suspended {
                self.queue_if_none_frozen();
            }
        }
        self.queue_unclaimed_in(&prefixes);
    }

    /// Queues what the change of a registration's settings concerns. `created` is the new creation time.
    fn change_settings(&mut self, registration: &RegistrationRef, former: &RegistrationSettings, created: i64) {
        let Some(state) = self.registrations.get(registration) else {
            return;
        };
        let pods = state.pods.keys().chain(state.dropped.keys());
        self.work
            .extend(pods.map(|pod| Work::Pod(registration.clone(), pod.clone())));
        // Another registration with the same name: its age decides again which keys and quota it gets.
        if former.created != created {
            self.quotas.mark_undecided(&registration.namespace);
            for key in state.keys().cloned().collect::<Vec<_>>() {
                self.rank(&key);
            }
        }
    }

    /// Sets the time at which the registration claimed each of its prefixes. The registration that claimed the prefix
    /// of a key earlier has the key. The caller must set the settings first.
    pub fn set_since(&mut self, registration: &RegistrationRef, since: BTreeMap<Prefix, Since>) {
        if !self.registrations.set_since(registration, since) {
            return;
        }
        let keys = self
            .registrations
            .get(registration)
            .into_iter()
            .flat_map(RegistrationState::keys);
        let is_contested = |key: &&Key| self.keys.get(key).is_some_and(|state| state.claims.len() > 1);
        for key in keys.filter(is_contested).cloned().collect::<Vec<_>>() {
            self.rank(&key);
        }
    }

    /// Removes a registration that was deleted. The removal of the keys of its pods is unconfirmed until the pods end.
    pub fn remove_registration(&mut self, registration: &RegistrationRef) {
        let Some(state) = self.registrations.remove(registration) else {
            return;
        };
        self.waiting.remove_registration(registration);
        self.quotas.mark_undecided(&registration.namespace);
        for (pod, desired) in &state.pods {
            for record in desired.all_records() {
                self.unclaim(&record.key, registration, pod);
                self.mark_unconfirmed(&record.key, registration, pod, Cause::Edit);
                // The pod's records may be those of a spec before the last edit, below other prefixes.
                self.enqueue(&record.key);
            }
            if self.guard.is_on() {
                self.left.push((registration.namespace.clone(), pod.clone()));
            }
        }
        for key in state.dropped.values().flatten() {
            self.work.push(Work::Key(key.clone()));
        }
        self.permissions.forget(registration);
        self.queue_unclaimed_in(state.prefixes());
        if state.settings.suspended {
            self.queue_if_none_frozen();
        }
        self.change_prefixes(state.prefixes(), &[]);
        self.drop_former_among(state.prefixes());
    }

    /// Sets the desired records of `pod` for `registration`; none if the pod is confirmed to be gone.
    pub fn set_desired(&mut self, registration: &RegistrationRef, pod: &Arc<str>, desired: Option<DesiredPod>) {
        self.change_desired(registration, pod, desired, Cause::Pod);
    }

    /// The same for any cause.
    pub(super) fn change_desired(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        desired: Option<DesiredPod>,
        cause: Cause,
    ) {
        self.clear_pod(registration, pod, desired.as_ref(), cause);
        if self.registrations.is_kept(registration, pod) {
            self.registrations.set_kept(registration, None);
        }
        let has_endpoint = desired
            .as_ref()
            .is_some_and(|desired| desired.all_records().next().is_some());
        let dropped = self.replace_desired(registration, pod, desired);
        self.drop_keys(registration, pod, &dropped, cause);
        if has_endpoint && self.quotas.limits(&registration.namespace) {
            // The quota may have no room for it.
            self.registrations.mark_undecided(registration);
        } else if has_endpoint {
            self.stop_keeping_last(registration);
        } else {
            self.keep_if_last(registration, None);
        }
    }

    /// Replaces the desired records of `pod`. Returns the keys that it must no longer have.
    pub(super) fn replace_desired(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        mut desired: Option<DesiredPod>,
    ) -> Vec<Key> {
        if let Some(desired) = &mut desired {
            self.keys.share(desired);
        }
        let change = self.registrations.set_desired(registration, pod, desired);
        let Some(ClaimChange { wanted, dropped }) = change else {
            return Vec::new();
        };
        self.quotas.mark_changed(registration, pod);
        // The dropped keys belong to the pod's work, so the transaction that writes their replacements removes them.
        for key in &dropped {
            self.unclaim(key, registration, pod);
        }
        for key in &wanted {
            self.claim(key, registration, pod);
        }
        let desired = self.registrations.desired(registration, pod);
        for unit in desired.map(units_of).unwrap_or_default() {
            self.keys.set_unit(&unit);
        }
        self.work.push(Work::Pod(registration.clone(), pod.clone()));
        self.registrations.mark_changed(registration);
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
        let is_without_lease = self.prefixes.is_without_lease(key);
        if self.keys.claim(key, claim, is_without_lease) {
            self.rank(key);
        }
        self.free_room_of(key);
    }

    /// Sorts the claims on `key`.
    fn rank(&mut self, key: &Key) {
        let precedence = |claim: &Claim| self.registrations.precedence(key, claim);
        for claim in self.keys.sort_claims(key, precedence) {
            self.registrations.mark_claim(claim);
            // A losing claimant may have to remove the other keys of its unit.
            self.work.push(claim.work());
        }
    }

    pub(super) fn unclaim(&mut self, key: &Key, registration: &RegistrationRef, pod: &Arc<str>) {
        self.rejected.clear(key);
        let others = self.keys.unclaim(key, registration, pod);
        self.work.extend(others.first().map(Claim::work));
        for claim in others {
            self.registrations.mark_claim(claim);
        }
    }

    /// Returns the registrations whose report may have changed since the last call.
    pub fn take_changed(&mut self) -> HashSet<RegistrationRef> {
        self.registrations.take_changed()
    }

    // ---- work ----

    pub(super) fn enqueue(&mut self, key: &Key) {
        self.work.extend(self.work_of(key));
    }

    /// Returns the work that `key` belongs to, none if the key is not known. A key that a pod has dropped is removed
    /// with the pod's work.
    pub(super) fn work_of(&self, key: &Key) -> Option<Work> {
        let state = self.keys.get(key)?;
        let dropped_by = || {
            let claim = state.last_claim()?;
            self.registrations.is_dropped(key, claim).then_some(claim)
        };
        let claim = state.claims.first().or_else(dropped_by);
        Some(claim.map_or_else(|| Work::Key(key.clone()), Claim::work))
    }

    /// Queues all unclaimed keys.
    pub(super) fn queue_unclaimed(&mut self) {
        let unclaimed = self.keys.iter().filter(|(_, state)| state.is_unclaimed());
        self.work.extend(unclaimed.map(|(key, _)| Work::Key(key.clone())));
    }

    fn queue_unclaimed_in(&mut self, prefixes: &[Prefix]) {
        let inside = prefixes.iter().flat_map(|prefix| self.keys.below(prefix.as_str()));
        let unclaimed = inside.filter(|(_, state)| state.is_unclaimed());
        self.work.extend(unclaimed.map(|(key, _)| Work::Key(key.clone())));
    }

    /// Queues the keys that stayed only because registrations were suspended, if none is suspended any more. They may
    /// also lie in former prefixes.
    fn queue_if_none_frozen(&mut self) {
        if !self.registrations.is_any_frozen() {
            self.queue_unclaimed();
        }
    }
}
