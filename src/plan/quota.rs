//! Quotas: how many keys each namespace may have, and which of its pods get none when more are desired.
//!
//! A pod has all of its keys for a registration or none. A pod that has keys keeps them: a healthy endpoint is never
//! removed to make room for another one. Free room is given to the oldest registration first, and within it by pod
//! name. If the limit itself was lowered, the youngest registrations lose keys first. So after a takeover the new
//! leader decides like the old one, because both start from what etcd holds.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::desired::{DesiredPod, Problem};
use super::planner::Planner;
use super::policy::Quota;
use crate::model::RegistrationRef;

#[derive(Debug, Default)]
pub(super) struct Quotas {
    by_namespace: HashMap<Arc<str>, Ration>,
    /// The namespaces for which it must be decided which pods get no keys.
    undecided: BTreeSet<Arc<str>>,
}

/// The quota of one namespace.
#[derive(Debug)]
struct Ration {
    quota: Quota,
    /// The pods that were admitted.
    placed: HashSet<(RegistrationRef, Arc<str>)>,
}

/// A pod that needs keys.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Applicant {
    /// Pods that have keys already come first.
    waits: bool,
    created: i64,
    registration: RegistrationRef,
    pod: Arc<str>,
    keys: usize,
}

impl Quotas {
    /// Sets the quota of `namespace`, none for any number of keys.
    fn set(&mut self, namespace: &Arc<str>, quota: Option<Quota>) {
        let is_new = match quota {
            None => self.by_namespace.remove(namespace).is_some(),
            Some(quota) => match self.by_namespace.entry(namespace.clone()) {
                Entry::Occupied(mut known) => {
                    let is_new = known.get().quota != quota;
                    known.get_mut().quota = quota;
                    is_new
                }
                Entry::Vacant(free) => {
                    let placed = HashSet::new();
                    free.insert(Ration { quota, placed });
                    true
                }
            },
        };
        if is_new {
            self.undecided.insert(namespace.clone());
        }
    }

    /// Whether the number of keys of `namespace` is limited.
    pub(super) fn limits(&self, namespace: &str) -> bool {
        self.by_namespace.contains_key(namespace)
    }

    /// Records that the desired keys of a pod in `namespace` have changed.
    pub fn mark_undecided(&mut self, namespace: &Arc<str>) {
        if self.by_namespace.contains_key(namespace) {
            self.undecided.insert(namespace.clone());
        }
    }

    /// Drops all decisions, because another leader may have decided differently: they are made again from what etcd
    /// holds.
    pub fn forget_decisions(&mut self) {
        for (namespace, ration) in &mut self.by_namespace {
            ration.placed.clear();
            self.undecided.insert(namespace.clone());
        }
    }

    fn quota_of(&self, namespace: &str) -> Option<&Quota> {
        self.by_namespace.get(namespace).map(|ration| &ration.quota)
    }

    fn is_placed(&self, namespace: &str, pod: &(RegistrationRef, Arc<str>)) -> bool {
        let ration = self.by_namespace.get(namespace);
        ration.is_some_and(|ration| ration.placed.contains(pod))
    }

    /// Records which pods of `namespace` were admitted. The decision `is_final` if all of its keys are known.
    fn decided(&mut self, namespace: &Arc<str>, placed: Vec<Applicant>, is_final: bool) {
        if let Some(ration) = self.by_namespace.get_mut(namespace) {
            let names = placed.into_iter().map(|one| (one.registration, one.pod));
            ration.placed = names.collect();
        }
        if is_final {
            // The changes that the decision made have marked the namespace again.
            self.undecided.remove(namespace);
        }
    }
}

impl Planner {
    /// Sets how many keys the pods of `namespace` may have together, any number if none.
    pub fn set_quota(&mut self, namespace: &Arc<str>, quota: Option<Quota>) {
        self.quotas.set(namespace, quota);
    }

    /// Decides which pods get no keys, in the namespaces for which that is open.
    pub(super) fn decide_quotas(&mut self) {
        if !self.is_kubernetes_complete {
            return;
        }
        for namespace in std::mem::take(&mut self.quotas.undecided) {
            self.decide_quota(&namespace);
        }
    }

    fn decide_quota(&mut self, namespace: &Arc<str>) {
        let mut applicants = self.applicants(namespace);
        let wanted: usize = applicants.iter().map(|applicant| applicant.keys).sum();
        let is_listed = self.is_namespace_listed(namespace);
        let quota = self.quotas.quota_of(namespace).cloned();
        let Some(quota) = quota.filter(|quota| wanted > quota.keys) else {
            for Applicant { registration, pod, .. } in &applicants {
                self.grant_place(registration, pod);
            }
            self.quotas.decided(namespace, applicants, is_listed);
            return;
        };
        applicants.sort();
        if !is_listed {
            // A pod whose keys have not been read yet may have precedence.
            self.quotas.mark_undecided(namespace);
        }
        let (mut room, mut full) = (quota.keys, false);
        let mut placed = Vec::new();
        for applicant in applicants {
            full |= applicant.waits && (!is_listed || applicant.keys > room);
            if applicant.keys <= room && !(applicant.waits && full) {
                room -= applicant.keys;
                self.grant_place(&applicant.registration, &applicant.pod);
                placed.push(applicant);
            } else {
                self.deny_place(&applicant, &quota);
            }
        }
        self.quotas.decided(namespace, placed, is_listed);
    }

    fn applicants(&self, namespace: &Arc<str>) -> Vec<Applicant> {
        let mut applicants = Vec::new();
        for (registration, state) in self.registrations.of_namespace(namespace) {
            let having = state.pods.iter().filter(|(pod, _)| !state.rationed.contains_key(*pod));
            for (pod, desired) in having.chain(&state.rationed) {
                let previous = desired
                    .previous
                    .as_ref()
                    .map_or(0, |previous| previous.records().count());
                let keys = desired.records().count().max(previous);
                if keys > 0 {
                    let name = (registration.clone(), pod.clone());
                    let has = self.quotas.is_placed(namespace, &name) || self.has_keys(desired);
                    applicants.push(Applicant {
                        waits: !has,
                        created: state.settings.created,
                        registration: name.0,
                        pod: name.1,
                        keys,
                    });
                }
            }
        }
        applicants
    }

    /// Whether etcd may hold a key of `desired` that is ours.
    fn has_keys(&self, desired: &DesiredPod) -> bool {
        let mut states = desired.all_records().filter_map(|record| self.keys.get(&record.key));
        states.any(|state| state.may_be_ours(&self.leases))
    }

    fn is_namespace_listed(&self, namespace: &Arc<str>) -> bool {
        let states = self.registrations.of_namespace(namespace);
        let mut prefixes = states.flat_map(|(_, state)| state.prefixes());
        prefixes.all(|prefix| self.prefixes.is_listed(prefix.prefix()))
    }

    fn grant_place(&mut self, registration: &RegistrationRef, pod: &Arc<str>) {
        if let Some(whole) = self.registrations.set_rationed(registration, pod, None) {
            self.replace_desired(registration, pod, Some(whole));
        }
    }

    fn deny_place(&mut self, Applicant { registration, pod, .. }: &Applicant, quota: &Quota) {
        let Some(state) = self.registrations.get(registration) else {
            return;
        };
        let Some(whole) = state.rationed.get(pod).or_else(|| state.pods.get(pod)).cloned() else {
            return;
        };
        let mut bare = whole.clone();
        bare.previous = None;
        for endpoint_records in &mut bare.by_endpoint {
            endpoint_records.records.clear();
            endpoint_records.units.clear();
        }
        bare.problems.push(Problem::OverQuota(quota.clone()));
        for key in self.replace_desired(registration, pod, Some(bare)) {
            self.guard.clear_unconfirmed(&key);
        }
        self.registrations.set_rationed(registration, pod, Some(whole));
    }
}
