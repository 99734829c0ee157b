//! Unconfirmed removals, in a world whose guard has low limits and long holds.

use std::time::Duration;

use super::World;
use crate::api::GuardMode;
use crate::plan::properties::Wish;
use crate::plan::{GuardSettings, Moment, PodState};

/// The limits are so low that a handful of pods exceeds them.
pub(super) const GUARD: GuardSettings = GuardSettings {
    mode: GuardMode::Hold,
    window: Duration::from_mins(1),
    max_loss_percent: 40,
    min_endpoints: 2,
    hold: Duration::from_mins(5),
};

impl World {
    /// A pod becomes unready.
    pub(super) fn unconfirm(&mut self, pod: &str) {
        let address = self.pods.remove(pod).unwrap_or_default();
        self.unready.insert(pod.into(), address);
        if self.complete {
            for (registration, wish) in &self.registrations {
                let desired = wish.desired(pod, address);
                self.planner
                    .set_pod_state(registration, &pod.into(), PodState::Unready(desired));
            }
        }
    }

    /// Whether a registration keeps its last endpoint although the pod is not ready.
    pub(in crate::plan) fn keeps_last(&self) -> bool {
        self.pods.is_empty() && !self.unready.is_empty() && self.registrations.values().any(|wish| wish.keep_last)
    }

    /// Whether `key` may belong to such an endpoint.
    pub(super) fn may_be_kept(&self, key: &str) -> bool {
        let keys = |wish: &Wish| {
            let desired_pods = self.unready.iter().map(|(pod, address)| wish.desired(pod, *address));
            desired_pods.flat_map(|desired| desired.keys()).collect::<Vec<_>>()
        };
        let is_empty = |registration| {
            self.pods
                .keys()
                .all(|pod| self.planner.is_over_quota(registration, pod))
        };
        let mut keeping = self.registrations.iter().filter(|(_, wish)| wish.keep_last);
        keeping.any(|(name, wish)| is_empty(name) && keys(wish).iter().any(|kept| **kept == *key))
    }

    /// Lets the guard decide; returns whether it reported an event.
    pub(super) fn decide_removals(&mut self) -> bool {
        let moment = Moment {
            now: self.now,
            unix: self.now.duration_since(self.began),
        };
        let event = self.planner.decide_removals(moment, None, || "h".to_owned());
        event.is_some()
    }

    /// Lets the current hold end, if there is one.
    pub(super) fn hold_ends(&mut self) -> bool {
        if let Some(hold) = self.planner.hold() {
            self.now = self.now.max(hold.wake_at());
        }
        self.decide_removals()
    }
}
