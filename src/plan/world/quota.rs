//! A namespace that may have so many keys only.

use super::World;
use crate::plan::Quota;
use crate::plan::properties::REGISTRATIONS;
use crate::plan::testing::reference;

impl World {
    pub(super) fn set_quota(&mut self, keys: Option<usize>) {
        self.quota = keys.map(|keys| Quota { keys, rule: "r".into() });
        self.show_quota();
    }

    pub(super) fn show_quota(&mut self) {
        let namespace = reference(REGISTRATIONS[0]).namespace.clone();
        self.planner.set_quota(&namespace, self.quota.clone());
    }

    /// Whether a pod waits for room in the quota.
    pub(in crate::plan) fn is_any_over_quota(&self) -> bool {
        let mut pods = self
            .registrations
            .keys()
            .flat_map(|registration| self.pods.keys().map(move |pod| (registration, pod)));
        pods.any(|(registration, pod)| self.planner.is_over_quota(registration, pod))
    }
}
