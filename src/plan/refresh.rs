//! Computes the desired records of marked pods: just before a pod is reconciled, or all at once while nothing is written.

use std::sync::Arc;
use std::time::Instant;

use super::desired::PodState;
use super::planner::Planner;
use super::work::Work;
use crate::model::RegistrationRef;

/// The desired state in Kubernetes.
pub trait DesiredState {
    /// Returns the registrations that select a pod.
    fn selecting(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef>;

    /// Returns the present state of `pod` with regard to `registration`; none if the registration is not in force.
    fn pod_state(&self, registration: &RegistrationRef, pod: &str) -> Option<PodState>;
}

/// No registration is in force.
impl DesiredState for () {
    fn selecting(&self, _: &str, _: &str) -> Vec<RegistrationRef> {
        Vec::new()
    }

    fn pod_state(&self, _: &RegistrationRef, _: &str) -> Option<PodState> {
        None
    }
}

impl Planner {
    /// Sets how many pods of a namespace may change per second before other namespaces take precedence.
    pub fn set_rate_limit(&mut self, changes_per_second: u32) {
        self.work.set_rate_limit(changes_per_second);
    }

    /// Sets whether work above the rate limit may be served by the next step.
    pub fn set_may_serve_excess(&mut self, may: bool) {
        self.work.set_may_serve_excess(may);
    }

    /// Whether work above the rate limit is queued, and none of it is in flight.
    pub fn has_excess(&self) -> bool {
        self.work.has_excess() && !self.transactions.has_excess()
    }

    /// Marks a pod that changed at `at`, while the same registrations as before select it.
    pub fn mark_pod(&mut self, namespace: &Arc<str>, pod: &Arc<str>, at: Instant) {
        self.work.mark_pod(namespace, pod, at);
    }

    /// Marks a pod of `registration` that changed at `at`. `deleted` means that a pod of this name was deleted.
    pub fn mark_changed(&mut self, registration: &RegistrationRef, pod: &Arc<str>, deleted: bool, at: Instant) {
        if self.registrations.contains(registration) {
            self.work.mark(registration, pod, (deleted, false), at);
        }
    }

    /// Marks a pod of `registration`, which was edited at `at`. Until the pod's records have been computed again, it
    /// counts as outstanding.
    pub fn mark_edited(&mut self, registration: &RegistrationRef, pod: &Arc<str>, at: Instant) {
        if self.registrations.contains(registration) {
            self.work.mark(registration, pod, (false, true), at);
            self.registrations.mark_changed(registration);
        }
    }

    /// Records that a list did not contain `pod`, which is an unconfirmed removal.
    pub fn set_missing(&mut self, registration: &RegistrationRef, pod: &Arc<str>) {
        let mark = self.work.take_mark(&Work::Pod(registration.clone(), pod.clone()));
        if mark.is_some_and(|mark| mark.deleted) {
            self.set_pod_state(registration, pod, PodState::Gone(Vec::new()));
        }
        self.set_pod_state(registration, pod, PodState::Missing);
    }

    /// Computes the desired records of all marked pods. A replica that writes nothing computes them at once, so that a
    /// leader never acts on older state than it has observed.
    pub fn refresh_all(&mut self, desired: &dyn DesiredState) {
        for work in self.work.marked() {
            if matches!(work, Work::Changed(..)) {
                self.mark_selecting(desired, &work);
                self.work.popped(&work);
            }
        }
        for work in self.work.marked() {
            self.refresh(desired, &work);
        }
    }

    /// Marks the changed pod of `work` in each registration that selects it. Returns how many these are.
    pub(super) fn mark_selecting(&mut self, desired: &dyn DesiredState, work: &Work) -> usize {
        let Work::Changed(namespace, pod) = work else { return 0 };
        let Some(mark) = self.work.take_mark(work) else {
            return 0;
        };
        let selecting = desired.selecting(namespace, pod);
        for registration in &selecting {
            self.mark_changed(registration, pod, false, mark.at);
        }
        selecting.len()
    }

    /// Computes the desired records of the pod of `work`, if it is marked. Returns whether it was.
    pub(super) fn refresh(&mut self, desired: &dyn DesiredState, work: &Work) -> bool {
        let Work::Pod(registration, pod) = work else {
            return false;
        };
        let Some(mark) = self.work.take_mark(work) else {
            return false;
        };
        if mark.edited && self.work.edited(registration) == 0 {
            self.registrations.mark_changed(registration);
        }
        if let Some(state) = desired.pod_state(registration, pod) {
            if mark.deleted && !matches!(state, PodState::Gone(_)) {
                self.set_pod_state(registration, pod, PodState::Gone(Vec::new()));
            }
            self.set_pod_state(registration, pod, state);
        }
        true
    }
}
