//! Pods that are ready and wait until they have been ready for the `minReadySeconds` of their registration.
//!
//! While a pod waits, it is handled like one that is not ready: if it has keys, their removal is unconfirmed. So the
//! guard and `keep_last` protect keys from a mass of short interruptions as from a mass of lost pods.
//!
//! A registered pod never waits, unless its readiness was interrupted. So neither an edit of `minReadySeconds` nor the
//! clock of another replica or node removes a key. After a start and a takeover, a pod counts as registered if etcd holds
//! one of its keys.
//!
//! The end of a wait is a point of the monotonic clock, at most `minReadySeconds` after the wait began. So clocks that
//! differ or jump keep no pod out for longer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::desired::DesiredPod;
use super::guard::Moment;
use super::key_table::Claim;
use super::planner::Planner;
use super::work::Cause;
use crate::index::MinReady;
use crate::model::{Key, RegistrationRef};

/// The waiting pods of one Registry.
#[derive(Debug, Default)]
pub(super) struct WaitingPods {
    /// None until [`Planner::set_time`].
    now: Option<Moment>,
    pods: HashMap<RegistrationRef, BTreeMap<Arc<str>, Wait>>,
    /// The waits whose end has not been reached yet, in the order of their ends.
    ends: BTreeSet<(Instant, RegistrationRef, Arc<str>)>,
    /// The pods that may be registered, because it is not known yet what etcd holds, or what another leader has done.
    undecided: BTreeSet<Claim>,
    /// Whether more is known than when it was last decided about these pods.
    has_changed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    min_ready: MinReady,
    end: Instant,
}

impl WaitingPods {
    /// Returns the waiting pods of `registration`, in the order of their names.
    pub fn of(&self, registration: &RegistrationRef) -> impl Iterator<Item = &Arc<str>> {
        self.pods.get(registration).into_iter().flat_map(BTreeMap::keys)
    }

    fn contains(&self, Claim { registration, pod }: &Claim) -> bool {
        self.pods.get(registration).is_some_and(|pods| pods.contains_key(pod))
    }

    /// Begins the wait of a pod, or continues it if the pod and `minReadySeconds` are the same. Returns whether it lasts.
    fn wait(&mut self, registration: &RegistrationRef, pod: &Arc<str>, min_ready: MinReady, now: Moment) -> bool {
        let known = self.pods.get(registration).and_then(|pods| pods.get(pod)).copied();
        if let Some(known) = known.filter(|known| known.min_ready == min_ready) {
            return known.end > now.now;
        }
        self.remove(registration, pod);
        let remaining = min_ready.remaining(now.unix);
        let end = now.now + remaining;
        if remaining.is_zero() {
            return false;
        }
        self.ends.insert((end, registration.clone(), pod.clone()));
        let pods = self.pods.entry(registration.clone()).or_default();
        pods.insert(pod.clone(), Wait { min_ready, end });
        true
    }

    /// Removes a pod that does not wait any more. Returns whether it did.
    pub fn remove(&mut self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        let Some(pods) = self.pods.get_mut(registration) else {
            return false;
        };
        let Some((pod, wait)) = pods.remove_entry(pod) else {
            return false;
        };
        if pods.is_empty() {
            self.pods.remove(registration);
        }
        self.ends.remove(&(wait.end, registration.clone(), pod));
        true
    }

    pub fn remove_registration(&mut self, registration: &RegistrationRef) {
        for (pod, wait) in self.pods.remove(registration).into_iter().flatten() {
            self.ends.remove(&(wait.end, registration.clone(), pod));
        }
    }

    /// Records that more is known of what etcd holds.
    pub fn etcd_was_listed(&mut self) {
        self.has_changed = true;
    }

    /// Records that another leader may have registered any of the pods.
    pub fn mark_all_undecided(&mut self) {
        self.has_changed = true;
        for (registration, pods) in &self.pods {
            self.undecided.extend(pods.keys().map(|pod| Claim {
                registration: registration.clone(),
                pod: pod.clone(),
            }));
        }
    }
}

impl Planner {
    /// Sets the time, and marks the pods that have been ready for long enough now. Returns whether there are any.
    pub fn set_time(&mut self, now: Moment) -> bool {
        self.waiting.now = Some(now);
        let mut is_any = false;
        while let Some((end, ..)) = self.waiting.ends.first()
            && *end <= now.now
            && let Some((_, registration, pod)) = self.waiting.ends.pop_first()
        {
            is_any = true;
            self.work.mark(&registration, &pod, Cause::default(), now.now);
        }
        is_any
    }

    /// When the next pod has been ready for long enough, if nothing happens before.
    pub fn next_available_at(&self) -> Option<Instant> {
        self.waiting.ends.first().map(|(end, ..)| *end)
    }

    /// Whether `pod`, which is ready and would have the records `desired`, must wait before it is registered.
    pub(super) fn must_wait(&mut self, registration: &RegistrationRef, pod: &Arc<str>, desired: &DesiredPod) -> bool {
        let Some((min_ready, now)) = desired.min_ready.zip(self.waiting.now) else {
            return false;
        };
        let Some(state) = self.registrations.get(registration) else {
            return false;
        };
        let is_registered = match state.pods.get(pod).filter(|_| state.kept.as_ref() != Some(pod)) {
            // With another time, the pod was not ready in between.
            Some(former) => former.min_ready.is_none_or(|former| former.since == min_ready.since),
            None => !state.unready.contains_key(pod) && self.has_left(registration, pod, desired),
        };
        if is_registered || !self.waiting.wait(registration, pod, min_ready, now) {
            return false;
        }
        if !self.are_listed(desired) {
            self.waiting.undecided.insert(Claim {
                registration: registration.clone(),
                pod: pod.clone(),
            });
        }
        true
    }

    /// Decides which waiting pods are registered, for those for which that is open.
    pub(super) fn decide_waits(&mut self) {
        if !std::mem::take(&mut self.waiting.has_changed) {
            return;
        }
        for claim in std::mem::take(&mut self.waiting.undecided) {
            let Claim { registration, pod } = &claim;
            let state = self
                .registrations
                .get(registration)
                .filter(|_| self.waiting.contains(&claim));
            // The last endpoint, which was kept until now, too.
            let Some(desired) = state.and_then(|state| state.unready.get(pod)) else {
                continue;
            };
            if self.has_left(registration, pod, desired) {
                let desired = DesiredPod::clone(desired);
                self.waiting.remove(registration, pod);
                self.set_desired(registration, pod, Some(desired));
            } else if !self.are_listed(desired) {
                self.waiting.undecided.insert(claim);
            }
        }
    }

    /// Whether etcd holds a record of `pod` that another leader or an earlier process has left, or that the pod has by
    /// another registration.
    fn has_left(&self, registration: &RegistrationRef, pod: &Arc<str>, desired: &DesiredPod) -> bool {
        let dropped = self.registrations.get(registration);
        let dropped = dropped.map_or(&[][..], |state| state.dropped_by(pod));
        let is_of_pod = |claim: &Claim| claim.pod == *pod && claim.registration.namespace == registration.namespace;
        let is_left = |key: &Key| {
            let state = self.keys.get(key).filter(|state| state.is_ours(&self.leases));
            state.is_some_and(|state| state.claims.first().is_none_or(is_of_pod)) && !dropped.contains(key)
        };
        desired.all_records().any(|record| is_left(&record.key))
    }

    /// Whether it is known which of the records etcd holds.
    fn are_listed(&self, desired: &DesiredPod) -> bool {
        let mut records = desired.all_records();
        records.all(|record| self.prefixes.is_listed(&record.key))
    }
}
