//! Computes the desired records of marked pods: just before a pod is reconciled, or all at once while nothing is written.

use std::sync::Arc;
use std::time::Instant;

use super::desired::PodState;
use super::guard;
use super::planner::Planner;
use super::work::{Cause, Served, Work};
use crate::model::RegistrationRef;

/// The desired state in Kubernetes.
pub trait DesiredState {
    /// Returns the registrations that select a pod.
    fn selecting(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef>;

    /// Whether `registration` selects `pod`.
    fn selects(&self, registration: &RegistrationRef, pod: &str) -> bool;

    /// Whether there is a pod of this name that is neither terminating nor ended, selected or not.
    fn is_alive(&self, namespace: &str, pod: &str) -> bool;

    /// Returns the present state of `pod` with regard to `registration`; none if the registration is not in force.
    fn pod_state(&self, registration: &RegistrationRef, pod: &str) -> Option<PodState>;
}

/// No registration is in force.
impl DesiredState for () {
    fn selecting(&self, _: &str, _: &str) -> Vec<RegistrationRef> {
        Vec::new()
    }

    fn selects(&self, _: &RegistrationRef, _: &str) -> bool {
        false
    }

    fn is_alive(&self, _: &str, _: &str) -> bool {
        false
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

    /// Sets the time at which namespaces above their rate limit are served no faster than the limit; none if they are
    /// served as fast as possible, because no other namespace is active. `is_shared`: several namespaces are active.
    pub fn set_activity(&mut self, limits_apply_at: Option<Instant>, is_shared: bool) {
        self.work.set_activity(limits_apply_at, is_shared);
    }

    /// Returns the work that was looked at since the last call.
    pub fn take_served(&mut self) -> Served {
        self.work.take_served()
    }

    /// Whether work above the rate limit can be served: it is queued, and none of it is in flight.
    pub fn has_excess(&self) -> bool {
        self.is_ready() && self.work.has_excess() && !self.transactions.has_excess()
    }

    /// Marks a pod that changed at `at`, while the same registrations as before select it. `ending` means that the pod is
    /// about to end, so that its records are removed.
    pub fn mark_pod(&mut self, namespace: &Arc<str>, pod: &Arc<str>, ending: bool, at: Instant) {
        if ending {
            self.end_pod(namespace, pod);
        }
        if self.registrations.is_namespace_known(namespace) {
            self.work.mark_pod(namespace, pod, ending, at);
        }
    }

    /// Marks a pod of `registration` that changed at `at`. `deleted` means that a pod of this name was deleted.
    pub fn mark_changed(&mut self, registration: &RegistrationRef, pod: &Arc<str>, deleted: bool, at: Instant) {
        if self.registrations.contains(registration) {
            let cause = Cause {
                deleted,
                ..Cause::default()
            };
            self.work.mark(registration, pod, cause, at);
        }
    }

    /// Marks `pods` of `registration`, which was edited at `at`, in this order. Until a pod's records have been computed
    /// again, it counts as outstanding.
    pub fn mark_edited(&mut self, registration: &RegistrationRef, pods: Vec<Arc<str>>, at: Instant) {
        if self.registrations.contains(registration) {
            self.work.mark_edited(registration, pods, at);
            self.registrations.mark_changed(registration);
        }
    }

    /// Records that a list did not contain `pod`. Unless the pod was about to end when it was last seen (`ended`), its
    /// removal is unconfirmed.
    pub fn set_missing(&mut self, registration: &RegistrationRef, pod: &Arc<str>, ended: bool) {
        let cause = self.work.take_pod(registration, pod);
        if ended || cause.is_some_and(|cause| cause.deleted) {
            self.set_pod_state(registration, pod, PodState::Gone(Vec::new()));
        }
        self.set_pod_state(registration, pod, PodState::Missing);
    }

    /// Computes the desired records of marked pods, those with the oldest marks first: at most about `budget` of them.
    /// Returns whether marked pods are left. A replica that writes nothing computes them at once, so that a leader never
    /// acts on older state than it has observed.
    pub fn refresh_all(&mut self, desired: &dyn DesiredState, budget: usize) -> bool {
        self.refresh_oldest(desired, budget, true)
    }

    /// The same for the pods within the rate limits of their namespaces.
    pub fn refresh_within_limits(&mut self, desired: &dyn DesiredState, budget: usize) -> bool {
        self.refresh_oldest(desired, budget, false)
    }

    fn refresh_oldest(&mut self, desired: &dyn DesiredState, budget: usize, with_excess: bool) -> bool {
        let mut computed = 0;
        while let Some(work) = self.work.oldest_marked(with_excess) {
            if computed >= budget {
                return true;
            }
            self.refresh_now(desired, &work);
            computed += 1;
        }
        false
    }

    /// Computes the marked pods that unclaimed keys wait for: at most about `budget` of them. Returns whether keys still
    /// wait.
    pub(super) fn refresh_blocking(&mut self, desired: &dyn DesiredState, budget: usize) -> bool {
        let mut computed = 0;
        while let Some(work) = self.work.blocking() {
            if computed >= budget {
                return true;
            }
            self.refresh_now(desired, &work);
            computed += 1;
        }
        self.work.release_unclaimed();
        false
    }

    /// Computes the desired records of the marked `work`, or marks the pods that it stands for.
    fn refresh_now(&mut self, desired: &dyn DesiredState, work: &Work) {
        self.mark_pods_of(desired, work);
        self.refresh(desired, work);
    }

    /// Marks the pods that `work` stands for: a changed pod in each registration that selects it, or the next pods of an
    /// edited registration. Returns how many marks these are.
    pub(super) fn mark_pods_of(&mut self, desired: &dyn DesiredState, work: &Work) -> usize {
        self.mark_selecting(desired, work) + self.work.mark_next_edited(work)
    }

    /// Marks the changed pod of `work` in each registration that selects it. Returns how many these are.
    fn mark_selecting(&mut self, desired: &dyn DesiredState, work: &Work) -> usize {
        let Work::Changed(namespace, pod) = work else { return 0 };
        let Some(mark) = self.work.take_mark(work) else {
            return 0;
        };
        let selecting = desired.selecting(namespace, pod);
        let cause = Cause {
            ending: mark.ending,
            serial: Some(mark.serial),
            ..Cause::default()
        };
        for registration in &selecting {
            if self.registrations.contains(registration) {
                self.work.mark(registration, pod, cause, mark.at);
            }
        }
        selecting.len()
    }

    /// Computes the desired records of the pod of `work`, if it is marked. Returns whether it was.
    pub(super) fn refresh(&mut self, desired: &dyn DesiredState, work: &Work) -> bool {
        let Work::Pod(registration, pod) = work else {
            return false;
        };
        let Some(cause) = self.work.take_pod(registration, pod) else {
            return false;
        };
        // The registrations that select the pod now may claim the keys that it has left. They would otherwise be removed
        // and written again.
        if !desired.selects(registration, pod) {
            for other in desired.selecting(&registration.namespace, pod) {
                if let Some(cause) = self.work.take_pod(&other, pod) {
                    self.compute(desired, (&other, pod), cause);
                }
            }
        }
        self.compute(desired, (registration, pod), cause);
        true
    }

    fn compute(
        &mut self,
        desired: &dyn DesiredState,
        (registration, pod): (&RegistrationRef, &Arc<str>),
        cause: Cause,
    ) {
        if !self.registrations.contains(registration) {
            return;
        }
        let Cause { deleted, edited, .. } = cause;
        if edited && self.work.edited(registration) == 0 {
            self.registrations.mark_changed(registration);
        }
        if let Some(state) = desired.pod_state(registration, pod) {
            if deleted && !matches!(state, PodState::Gone(_)) {
                self.set_pod_state(registration, pod, PodState::Gone(Vec::new()));
            }
            // The pod has not left the registration: the registration has left the pod, maybe by mistake. Nodes and
            // addresses are removed at once: what lists them is the only sign of their end.
            let is_left = !deleted
                && edited
                && !desired.selects(registration, pod)
                && desired.is_alive(&registration.namespace, pod);
            let state = if is_left { PodState::Missing } else { state };
            let cause = if edited { guard::Cause::Edit } else { guard::Cause::Pod };
            self.change_pod_state(registration, pod, state, cause);
        }
    }
}
