//! Confirmed and unconfirmed pod removals: what the planner passes to the guard, and what happens to the keys once the
//! guard has decided.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::desired::{DesiredPod, PodState};
use super::guard::{Cause, Guard, GuardEvent, GuardSettings, Hold, Known, Moment, Removal};
use super::key_table::KeyState;
use super::meta::MetaKeys;
use super::planner::Planner;
use super::refresh::DesiredState;
use super::registrations::RegistrationState;
use super::work::Work;
use crate::model::{Expect, Key, KeyValue, LeaseId, Op, Prefix, RegistrationRef, Revision};

impl Planner {
    pub fn set_guard(&mut self, settings: GuardSettings) {
        self.guard.set_settings(settings);
    }

    /// Sets the state of `pod` for `registration`, because the pod changed.
    pub fn set_pod_state(&mut self, registration: &RegistrationRef, pod: &Arc<str>, pod_state: PodState) {
        self.change_pod_state(registration, pod, pod_state, Cause::Pod);
    }

    /// Sets the state of `pod` for `registration`. If the cause is an edit, the pod may lose keys by mistake. A pod that is
    /// not ready loses its keys for that, whatever was edited.
    pub(super) fn change_pod_state(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        pod_state: PodState,
        cause: Cause,
    ) {
        if let PodState::Ready(desired) = &pod_state
            && self.must_wait(registration, pod, desired)
        {
            return self.set_waiting(registration, pod, desired);
        }
        if self.waiting.remove(registration, pod) {
            self.registrations.mark_changed(registration);
        }
        match pod_state {
            PodState::Ready(desired) => self.change_desired(registration, pod, Some(desired), cause),
            PodState::Unready(desired) => self.set_unready(registration, pod, desired, Cause::Pod),
            PodState::Missing => self.set_unready(registration, pod, DesiredPod::default(), cause),
            PodState::Gone(keys) => {
                self.change_desired(registration, pod, None, cause);
                for key in keys {
                    if self.clear_unconfirmed(&key) {
                        self.registrations.mark_changed(registration);
                    }
                }
            }
        }
    }

    /// Handles a pod that is ready and waits for `minReadySeconds`: the same as for a pod that is not ready, except that
    /// it counts as ready.
    fn set_waiting(&mut self, registration: &RegistrationRef, pod: &Arc<str>, desired: &DesiredPod) {
        self.set_unready(registration, pod, desired.clone(), Cause::Pod);
        // Its problems are reported even if they prevent all of its records.
        self.registrations.set_unready(registration, pod, Some(desired.clone()));
        // A frozen registration keeps no readiness gate closed.
        let is_gated = desired.gated.is_some();
        self.registrations.set_gated(registration, pod, is_gated);
        self.registrations.mark_changed(registration);
    }

    /// Handles a pod that is not ready or missing. `if_ready` are the records it would have if it were ready.
    fn set_unready(&mut self, registration: &RegistrationRef, pod: &Arc<str>, if_ready: DesiredPod, cause: Cause) {
        let is_kept = self.registrations.is_kept(registration, pod);
        if if_ready.all_records().next().is_none() {
            self.registrations.set_unready(registration, pod, None);
        } else {
            self.registrations
                .set_unready(registration, pod, Some(if_ready.clone()));
            if is_kept {
                // The last endpoint stays. Its keys change only if the desired records of the pod have changed.
                let dropped = self.replace_desired(registration, pod, Some(if_ready));
                return self.drop_keys(registration, pod, &dropped, cause);
            }
        }
        if is_kept {
            self.registrations.set_kept(registration, None);
        }
        self.quotas.mark_changed(registration, pod);
        self.drop_unconfirmed(registration, pod, cause);
    }

    /// Drops all keys of `pod` for `registration`, as unconfirmed removals.
    pub(super) fn drop_unconfirmed(&mut self, registration: &RegistrationRef, pod: &Arc<str>, cause: Cause) {
        let mut dropped = self.replace_desired(registration, pod, None);
        self.keep_if_last(registration, Some(pod));
        if cause == Cause::Pod {
            // What edits would have removed is to be removed for this as well.
            let work = Work::Pod(registration.clone(), pod.clone());
            dropped.extend(self.guard.edited_keys_of(&work));
        }
        for key in dropped {
            self.mark_unconfirmed(&key, registration, pod, cause);
        }
    }

    /// Marks the removal of `key`, which `pod` claimed last, as unconfirmed.
    pub(super) fn mark_unconfirmed(&mut self, key: &Key, registration: &RegistrationRef, pod: &Arc<str>, cause: Cause) {
        // A key that was never written, or that is foreign, is no loss.
        let may_be_ours = |state: &KeyState| state.may_be_ours(&self.leases);
        let may_be_ours = self.keys.get(key).is_some_and(may_be_ours) || !self.prefixes.is_listed(key);
        if self.guard.is_on() && may_be_ours && self.keys.is_unclaimed(key) {
            let work = Work::Pod(registration.clone(), pod.clone());
            self.guard.mark_unconfirmed(key, Removal::new(cause, work));
        }
    }

    /// Confirms the removal of the pods of deleted registrations that have ended. A registration is often deleted together with
    /// its pods. Nodes and addresses count as ended: without the registration, nothing shows their end. Call before the
    /// guard decides.
    pub fn end_left(&mut self, desired: &dyn DesiredState) {
        for (namespace, pod) in std::mem::take(&mut self.left) {
            if !desired.is_alive(&namespace, &pod) {
                self.end_pod(&namespace, &pod);
            }
        }
    }

    /// Handles the end of a pod, whether or not a registration selects it: its removal is confirmed.
    pub fn end_pod(&mut self, namespace: &Arc<str>, pod: &Arc<str>) {
        for key in self.guard.keys_of_pod(namespace, pod) {
            if self.clear_unconfirmed(&key)
                && let Some(claim) = self.keys.get(&key).and_then(|state| state.last_claim())
            {
                self.registrations.mark_changed(&claim.registration);
            }
        }
    }

    /// Clears the unconfirmed keys of `pod`: those it had, and those it would have if ready. It is now to have `desired`,
    /// nothing if it is confirmed to be gone. Keys that an edit takes from a pod that still has the same endpoints stay
    /// unconfirmed.
    pub(super) fn clear_pod(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        desired: Option<&DesiredPod>,
        cause: Cause,
    ) {
        let unready = self.registrations.set_unready(registration, pod, None);
        let unready = unready.as_deref();
        let mut keys = unready.map(DesiredPod::keys).unwrap_or_default();
        let Some(state) = self.registrations.get(registration) else {
            return;
        };
        keys.extend_from_slice(state.dropped_by(pod));
        let former = state.pods.get(pod).map(|former| &**former).or(unready);
        let is_same = desired.is_some()
            && (cause == Cause::Edit
                || former
                    .zip(desired)
                    .is_some_and(|(former, desired)| former.has_endpoints_of(desired)));
        for key in keys {
            let is_edited = is_same && self.guard.is_edited(&key);
            // Rules took the key while the pod was not ready.
            let is_taken = || desired.is_some() && self.guard.knows(&key) && self.is_forbidden(&key);
            if !is_edited && !is_taken() && self.clear_unconfirmed(&key) {
                self.registrations.mark_changed(registration);
            }
        }
    }

    /// Handles keys that `pod` must no longer have: its desired records have just been replaced.
    pub(super) fn drop_keys(&mut self, registration: &RegistrationRef, pod: &Arc<str>, dropped: &[Key], cause: Cause) {
        let is_gone = self.registrations.desired(registration, pod).is_none();
        for key in dropped {
            if cause == Cause::Edit && !is_gone {
                self.mark_unconfirmed(key, registration, pod, cause);
            } else {
                self.guard.clear_unconfirmed(key);
            }
        }
    }

    /// Clears an unconfirmed key; returns whether it was held back until now.
    fn clear_unconfirmed(&mut self, key: &Key) -> bool {
        let was_held = self.guard.clear_unconfirmed(key);
        if was_held {
            self.enqueue(key);
        }
        was_held
    }

    /// This replica becomes leader with a new fence. Another replica may have led in between and decided differently.
    pub fn becomes_leader(&mut self) {
        self.guard.mark_released_unconfirmed();
        self.registrations.mark_all_undecided();
        self.waiting.mark_all_undecided();
        self.quotas.forget_decisions();
    }

    /// Another replica leads and decides about unconfirmed removals.
    pub fn becomes_standby(&mut self) {
        self.guard.stand_by();
        self.quotas.mark_all_undecided();
    }

    /// Decides about endpoints for which more had to be known first.
    pub(super) fn decide_endpoints(&mut self) {
        self.decide_waits();
        self.decide_last_endpoints();
    }

    /// Updates the guard without deciding: another replica decides, or it is too early to decide.
    pub fn look(&mut self, now: Instant) {
        self.decide_endpoints();
        if !self.guard.is_starting() || self.mark_leftovers_unconfirmed() {
            self.guard.look(now);
        }
    }

    /// Decides about all unconfirmed removals. `approved` is the id of the hold that a user approved; `id` creates the
    /// id of a new hold. Returns the event to report.
    pub fn decide_removals(
        &mut self,
        moment: Moment,
        approved: Option<&str>,
        id: impl FnOnce() -> String,
    ) -> Option<GuardEvent> {
        self.decide_endpoints();
        if self.guard.is_starting() && !self.mark_leftovers_unconfirmed() {
            return None;
        }
        self.decide_quotas();
        if self.guard.is_to_resume() {
            // A standby replica still claims what edits take from pods, and the hold concerns it.
            self.release_all_previous();
        }
        let (event, released) = self.with_known(|guard, known| guard.decide(known, moment, approved, id));
        for (key, work) in released {
            self.free_room_of(&key);
            // A key that was not known to be in etcd when its pod was dropped is not on the pod's list. It is removed
            // separately.
            let work = if self.removes(&work, &key) {
                work
            } else {
                Work::Key(key)
            };
            self.work.push(work);
        }
        event
    }

    fn removes(&self, work: &Work, key: &Key) -> bool {
        let Work::Pod(registration, pod) = work else {
            return true;
        };
        let state = self.registrations.get(registration);
        state.is_some_and(|state| state.dropped_by(pod).contains(key))
    }

    /// Whether it has been decided about all removals that were unconfirmed at the start.
    pub fn has_decided_leftovers(&self) -> bool {
        !self.guard.is_starting()
    }

    /// Whether unconfirmed removals wait for a decision that [`Self::decide_removals`] can make now.
    pub fn has_undecided(&self) -> bool {
        self.has_decided_leftovers() && self.guard.has_undecided()
    }

    /// Whether the unconfirmed removals come near the guard's limit, so that those still to be found may exceed it.
    pub fn is_loss_near_limit(&self) -> bool {
        self.guard.is_loss_near_limit(self.registrations.pod_count())
    }

    /// Lets the guard decide something with what is known of the endpoints.
    fn with_known<T>(&mut self, decide: impl FnOnce(&mut Guard, &Known<'_>) -> T) -> T {
        let (keys, leases) = (&self.keys, &self.leases);
        // A key that several endpoints claim is that of the first one. What nobody claims is held or was released.
        let is_registered = |registration: &RegistrationRef, pod: &Arc<str>, desired: &DesiredPod| {
            let is_mine = |state: &KeyState| {
                let claim = state.claims.first();
                claim.is_none_or(|claim| claim.is_of(registration, pod))
                    && state.held.as_ref().is_some_and(|held| leases.is_ours(held.lease))
            };
            let mut records = desired.all_records();
            records.any(|record| keys.get(&record.key).is_some_and(is_mine))
        };
        let registrations = &self.registrations;
        let registered = || {
            let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
            for (registration, state) in registrations.iter() {
                let pods = state.pods.iter();
                let pods = pods.filter(|(pod, desired)| is_registered(registration, pod, desired));
                *counts.entry(registration.namespace.clone()).or_default() += pods.count();
            }
            counts
        };
        let may_be_written = |registration: &RegistrationRef, key: &Key| {
            self.prefixes.is_listed(key)
                && self.permissions.missing(key, &self.prefixes).is_none()
                && !self.rejected.contains(key, registration)
        };
        let is_to_come = |registration: &RegistrationRef, pod: &Arc<str>, desired: &DesiredPod| {
            let is_first = |state: &KeyState| state.claims.first().is_some_and(|claim| claim.is_of(registration, pod));
            let is_free = |key: &Key| {
                keys.get(key)
                    .is_some_and(|state| state.held.is_none() && is_first(state))
            };
            let mut records = desired.records();
            !is_registered(registration, pod, desired)
                && records.any(|record| is_free(&record.key) && may_be_written(registration, &record.key))
        };
        // A pod that waits for room in a quota, which it gets when the keys are removed.
        let gets_room = |registration: &RegistrationRef, state: &RegistrationState, pod: &Arc<str>| {
            let is_free = |key: &Key| {
                let state = keys.get(key);
                state.is_none_or(|state| state.held.is_none() && state.is_unclaimed())
            };
            let mut records = state
                .rationed
                .get(pod)
                .into_iter()
                .flat_map(|desired| desired.records());
            records.any(|record| is_free(&record.key) && may_be_written(registration, &record.key))
        };
        let has_space = self.work.has_space();
        let to_come = || {
            if !has_space {
                return 0;
            }
            let is_suspended = |state: &RegistrationState| state.settings.suspended;
            let count = |(registration, state): (&RegistrationRef, &RegistrationState)| {
                let pods = state.pods.iter();
                pods.filter(|(pod, desired)| is_to_come(registration, pod, desired))
                    .count()
            };
            let unsuspended = registrations.iter().filter(|(_, state)| !is_suspended(state));
            let waiting = self.quotas.about_to_be_admitted().filter(|(registration, pod)| {
                let state = registrations.get(registration).filter(|state| !is_suspended(state));
                state.is_some_and(|state| gets_room(registration, state, pod))
            });
            unsuspended.map(count).sum::<usize>() + waiting.count()
        };
        let known = Known {
            is_registered: &|work: &Work| match work {
                Work::Pod(registration, pod) => registrations
                    .desired(registration, pod)
                    .is_some_and(|desired| is_registered(registration, pod, desired)),
                Work::Changed(..) | Work::Edited(_) | Work::Key(_) => false,
            },
            is_desired: &|work: &Work| match work {
                Work::Pod(registration, pod) => registrations
                    .desired(registration, pod)
                    .is_some_and(|desired| desired.records().next().is_some()),
                Work::Changed(..) | Work::Edited(_) | Work::Key(_) => false,
            },
            registered: &registered,
            to_come: &to_come,
        };
        decide(&mut self.guard, &known)
    }

    /// Returns the write that brings the hold's record in etcd up to date, none if it is.
    pub(super) fn hold_op(&self) -> Option<Op> {
        let (key, recorded) = (self.meta.hold(), self.guard.recorded());
        let Some(hold) = self.guard.hold() else {
            // A key that a foreign client has written since is not the key that was held.
            let may_be_ours = |state: &KeyState| state.may_be_ours(&self.leases);
            let is_there = |key: &Key| self.keys.get(key).is_some_and(may_be_ours);
            let mod_revision = recorded.filter(|_| self.guard.is_record_void(is_there))?.mod_revision;
            return Some(Op::Delete { key, mod_revision });
        };
        let lasts = |lease| self.leases.is_ours(lease) && !self.leases.is_denied(lease);
        let lasting = recorded.filter(|recorded| lasts(recorded.lease));
        let record = hold.record();
        if lasting.is_some_and(|recorded| recorded.hold.as_ref() == Some(&record)) {
            return None;
        }
        let of_a_key = || {
            hold.keys()
                .filter_map(|key| self.our_lease(key))
                .find(|lease| lasts(*lease))
        };
        Some(Op::Put {
            key,
            value: MetaKeys::hold_value(record),
            lease: lasting.map(|recorded| recorded.lease).or_else(of_a_key)?,
            expect: recorded.map_or(Expect::Absent, |recorded| Expect::At(recorded.mod_revision)),
        })
    }

    /// The lease that `key` is on, if the lease is ours.
    pub(super) fn our_lease(&self, key: &Key) -> Option<LeaseId> {
        let held = self.keys.held(key)?;
        self.leases.is_ours(held.lease).then_some(held.lease)
    }

    /// The current hold.
    pub fn hold(&self) -> Option<&Hold> {
        self.guard.hold()
    }

    /// Marks the keys that a predecessor left and no ready pod claims as unconfirmed. Returns false if not all prefixes
    /// have been listed yet.
    fn mark_leftovers_unconfirmed(&mut self) -> bool {
        // Do not wait for prefixes that may not be read: they would keep the guard from deciding about all others.
        let is_listed = |prefix: &Prefix| self.prefixes.is_listed(prefix.as_str()) || self.is_denied(prefix.as_str());
        if !self.is_kubernetes_complete
            || !is_listed(self.meta.prefix())
            || !self.registrations.prefixes().all(is_listed)
        {
            return false;
        }
        // What edits take from pods is unclaimed before it is decided about: a predecessor may hold or have released it.
        self.decide_quotas();
        self.release_all_previous();
        let left = |(key, state): &(&Key, &KeyState)| {
            state.is_unclaimed()
                && state.is_ours(&self.leases)
                && self.guard.holds(key)
                && (!self.registrations.is_frozen(key) || self.is_forbidden(key))
        };
        let left: HashSet<Key> = self.keys.iter().filter(left).map(|(key, _)| key.clone()).collect();
        let unknown = |key: &Key| Removal::new(Cause::Edit, Work::Key(key.clone()));
        let mut removals: HashMap<&Key, Removal> = left.iter().map(|key| (key, unknown(key))).collect();
        // Pods that are not ready lose keys together.
        for (registration, state) in self.registrations.iter() {
            for (pod, desired) in &state.unready {
                for key in desired.all_records().filter_map(|record| left.get(&record.key)) {
                    let work = Work::Pod(registration.clone(), pod.clone());
                    removals.insert(key, Removal::new(Cause::Pod, work));
                }
            }
        }
        for (key, removal) in removals {
            self.guard.mark_unconfirmed(key, removal);
        }
        self.guard.started();
        // Until now the unclaimed keys were left alone. Those that are not unconfirmed can be removed.
        self.queue_unclaimed();
        true
    }

    /// Takes in a key that was found on one of our leases and that no registration is known to have claimed. If it
    /// still exists, its removal is unconfirmed.
    pub fn find_stray(&mut self, key: &Key, held: Option<KeyValue>, revision: Revision) {
        // A key that has lost its lease meanwhile is foreign.
        let is_on_lease = held.as_ref().is_some_and(|held| held.lease != LeaseId::NONE);
        let is_new = is_on_lease && !self.keys.contains(key);
        if is_new && self.guard.is_on() {
            let work = Work::Key(key.clone());
            self.guard.mark_unconfirmed(key, Removal::new(Cause::Edit, work));
        }
        self.observe_key(key, held, revision);
    }
}
