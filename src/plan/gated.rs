//! Which pods that wait for their readiness gate have all their records in etcd.

use std::sync::Arc;

use super::key_table::Claim;
use super::planner::Planner;
use super::work::Work;
use crate::model::RegistrationRef;

/// Whether a pod that waits for its readiness gate has all records of a registration in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatedPod {
    pub registration: RegistrationRef,
    /// The pod's name.
    pub pod: Arc<str>,
    pub uid: Arc<str>,
    pub is_registered: bool,
}

impl Planner {
    /// Returns the pods that wait for their readiness gate, and for which the answer may have changed since the last
    /// call.
    pub fn take_gated(&mut self) -> Vec<GatedPod> {
        let changed = self.registrations.take_changed_gated();
        changed.into_iter().filter_map(|claim| self.gated(claim)).collect()
    }

    fn gated(&self, Claim { registration, pod }: Claim) -> Option<GatedPod> {
        let state = self.registrations.get(&registration)?;
        let registered = state.pods.get(&pod);
        let desired = registered.or_else(|| state.unready.get(&pod))?;
        let uid = desired.gated.clone()?;
        let mut records = desired.records();
        let is_registered = registered.is_some()
            && !self.is_marked(&registration, &pod)
            && desired.is_whole()
            && records.all(|record| self.is_present(&record.key, &record.value, &registration, &pod));
        Some(GatedPod {
            // A suspended registration asks for no writes, so that nothing is to be waited for.
            is_registered: is_registered || state.settings.suspended,
            registration,
            pod,
            uid,
        })
    }

    /// Whether the desired records of `pod` are to be computed again.
    fn is_marked(&self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        let changed = Work::Changed(registration.namespace.clone(), pod.clone());
        let work = Work::Pod(registration.clone(), pod.clone());
        self.work.is_marked(&changed) || self.work.is_marked(&work)
    }
}
