//! The desired state of the registrations of one Registry: their settings, and the records of their pods.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::by_prefix::ByPrefix;
use super::desired::DesiredPod;
use super::key_table::Claim;
use super::since::Since;
use crate::model::{Key, Prefix, RegistrationRef, Value};

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
    pub prefixes: Vec<Prefix>,
}

/// The desired state of one registration.
#[derive(Debug)]
pub(super) struct RegistrationState {
    pub settings: RegistrationSettings,
    /// The desired records of each ready pod. Boxed, because a B-tree whose keys are inserted in order leaves nearly half
    /// of its slots empty.
    pub pods: BTreeMap<Arc<str>, Box<DesiredPod>>,
    /// Keys that a pod had and that are no longer desired, until they are removed.
    pub dropped: HashMap<Arc<str>, Vec<Key>>,
    /// The records that existing pods would have if they were ready. Dropped when the pod is ready or gone for good.
    pub unready: HashMap<Arc<str>, Box<DesiredPod>>,
    /// The records that pods would have if their namespace were not over its quota.
    pub rationed: BTreeMap<Arc<str>, Box<DesiredPod>>,
    /// The pod that is not ready and keeps its records, because it was the last endpoint.
    pub kept: Option<Arc<str>>,
    /// The pods whose claims by the previous spec were given up.
    pub released: HashSet<Arc<str>>,
    /// The time at which each prefix was claimed. If it is not known yet, the creation time counts.
    since: Option<BTreeMap<Prefix, Since>>,
}

/// How the claims of a pod change.
#[derive(Debug)]
pub(super) struct ClaimChange {
    pub wanted: Vec<Key>,
    /// The keys that the pod must no longer have.
    pub dropped: Vec<Key>,
}

impl RegistrationState {
    fn new(settings: RegistrationSettings) -> Self {
        Self {
            settings,
            pods: BTreeMap::new(),
            dropped: HashMap::new(),
            unready: HashMap::new(),
            rationed: BTreeMap::new(),
            kept: None,
            released: HashSet::new(),
            since: None,
        }
    }

    pub fn prefixes(&self) -> &[Prefix] {
        &self.settings.prefixes
    }

    /// Returns the prefix that contains `key`.
    pub fn prefix_of(&self, key: &str) -> Option<&Prefix> {
        self.prefixes().iter().find(|prefix| prefix.contains(key))
    }

    /// The desired keys of all ready pods.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let records = self.pods.values().flat_map(|desired| desired.all_records());
        records.map(|record| &record.key)
    }

    /// The keys that `pod` had and that are still to be removed.
    pub fn dropped_by(&self, pod: &Arc<str>) -> &[Key] {
        self.dropped.get(pod).map_or(&[], Vec::as_slice)
    }

    /// The ready pods that have an endpoint.
    pub fn ready_endpoints(&self) -> impl Iterator<Item = &Arc<str>> {
        let ready = self.pods.iter().filter(|(pod, _)| self.kept.as_ref() != Some(*pod));
        ready
            .filter(|(_, desired)| desired.all_records().next().is_some())
            .map(|(pod, _)| pod)
    }

    /// Returns the precedence of the claim of `pod` to `key`. The least one wins: claims of the previous spec come
    /// last; then the time at which the prefix was claimed counts, then the creation time.
    fn precedence(&self, key: &Key, pod: &Arc<str>) -> (bool, Since, i64) {
        let is_former = self.pods.get(pod).is_some_and(|desired| desired.had(key));
        let since = match &self.since {
            None => Since::Created(self.settings.created.saturating_mul(1000)),
            Some(prefixes) => {
                let around = prefixes.iter().rev().find(|(prefix, _)| prefix.contains(key));
                around.map_or(Since::LAST, |(_, since)| *since)
            }
        };
        (is_former, since, self.settings.created)
    }

    /// Replaces the desired records of `pod`. Returns how its claims change, none if the records are the same.
    fn set_desired(&mut self, pod: &Arc<str>, desired: Option<DesiredPod>) -> Option<ClaimChange> {
        let former = self.pods.get(pod).map(|former| &**former);
        let rationed = self.rationed.get(pod).map(|rationed| &**rationed);
        if former == desired.as_ref() || desired.is_some() && rationed == desired.as_ref() {
            return None;
        }
        self.rationed.remove(pod);
        let claimed = |desired: &DesiredPod, is_released: bool| -> Vec<Key> {
            if is_released {
                desired.records().map(|record| record.key.clone()).collect()
            } else {
                desired.keys()
            }
        };
        let was_released = self.released.contains(pod);
        let before = former.map(|desired| claimed(desired, was_released));
        let previous = desired.as_ref().and_then(|desired| desired.previous.as_deref());
        let is_released = was_released
            && previous
                .zip(former.and_then(|former| former.previous.as_deref()))
                .is_some_and(|(now, before)| now.has_keys_of(before) && !now.lacks());
        if !is_released {
            self.released.remove(pod);
        }
        let wanted = desired.as_ref().map(|desired| claimed(desired, is_released));
        let wanted = wanted.unwrap_or_default();
        match desired {
            Some(desired) => drop(self.pods.insert(pod.clone(), boxed(desired))),
            None => drop(self.pods.remove(pod)),
        }
        let before = before.unwrap_or_default().into_iter();
        let dropped: Vec<Key> = before.filter(|key| !wanted.contains(key)).collect();
        self.retain_dropped(pod, |key| !wanted.contains(key));
        if !dropped.is_empty() {
            let all = self.dropped.entry(pod.clone()).or_default();
            for key in &dropped {
                if !all.contains(key) {
                    all.push(key.clone());
                }
            }
        }
        Some(ClaimChange { wanted, dropped })
    }

    /// Strikes the dropped keys of `pod` that are not to `keep`. Returns whether there were any.
    fn retain_dropped(&mut self, pod: &Arc<str>, keep: impl Fn(&Key) -> bool) -> bool {
        let Some(dropped) = self.dropped.get_mut(pod) else {
            return false;
        };
        let before = dropped.len();
        dropped.retain(keep);
        let is_shorter = dropped.len() < before;
        if dropped.is_empty() {
            self.dropped.remove(pod);
        }
        is_shorter
    }
}

/// Returns `desired` as it is kept: for as long as the pod is registered.
fn boxed(mut desired: DesiredPod) -> Box<DesiredPod> {
    desired.shrink_to_fit();
    Box::new(desired)
}

/// The registrations of one Registry.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    states: HashMap<RegistrationRef, RegistrationState>,
    /// The registrations of each namespace.
    namespaces: HashMap<Arc<str>, BTreeSet<RegistrationRef>>,
    /// The number of desired pods of all registrations.
    pod_count: usize,
    by_prefix: ByPrefix,
    suspended: ByPrefix,
    /// Registrations whose report may have changed.
    changed: HashSet<RegistrationRef>,
    /// The pods that wait for their readiness gate.
    gated: HashMap<RegistrationRef, HashSet<Arc<str>>>,
    /// Those of them whose records in etcd may have changed.
    changed_gated: HashSet<Claim>,
    /// Registrations for which the planner must decide which endpoint is the last one.
    undecided: HashSet<RegistrationRef>,
}

impl Registrations {
    pub fn get(&self, registration: &RegistrationRef) -> Option<&RegistrationState> {
        self.states.get(registration)
    }

    /// Whether `namespace` has a registration.
    pub fn is_namespace_known(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    pub fn contains(&self, registration: &RegistrationRef) -> bool {
        self.states.contains_key(registration)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RegistrationRef, &RegistrationState)> {
        self.states.iter()
    }

    pub fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = (&RegistrationRef, &RegistrationState)> {
        let names = self.namespaces.get(namespace).into_iter().flatten();
        names.filter_map(|name| self.states.get_key_value(name))
    }

    /// The number of desired pods of all registrations.
    pub fn pod_count(&self) -> usize {
        self.pod_count
    }

    /// The prefixes of all registrations.
    pub fn prefixes(&self) -> impl Iterator<Item = &Prefix> {
        self.by_prefix.beginning_with("")
    }

    /// Those inside `folder`.
    pub fn prefixes_inside(&self, folder: &Prefix) -> impl Iterator<Item = &Prefix> {
        self.by_prefix.beginning_with(folder.as_str())
    }

    /// Whether a registration has exactly `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.by_prefix.contains(prefix)
    }

    /// The registrations that have a prefix around `key`.
    pub fn around(&self, key: &str) -> impl Iterator<Item = &RegistrationRef> {
        self.by_prefix.around(key)
    }

    /// Whether `key` lies in a prefix of a suspended registration.
    pub fn is_frozen(&self, key: &str) -> bool {
        self.suspended.around(key).next().is_some()
    }

    /// Whether a prefix of a suspended registration may contain keys.
    pub fn is_any_frozen(&self) -> bool {
        !self.suspended.is_empty()
    }

    /// Whether `pod` is not ready and keeps its records.
    pub fn is_kept(&self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        self.get(registration).and_then(|state| state.kept.as_ref()) == Some(pod)
    }

    /// The time to live of the leases of `registration`, in seconds.
    pub fn ttl_of(&self, registration: &RegistrationRef) -> u32 {
        self.get(registration).map_or(0, |state| state.settings.ttl)
    }

    /// Whether the pod of `claim` had `key`, which is still to be removed.
    pub fn is_dropped(&self, key: &Key, claim: &Claim) -> bool {
        let state = self.get(&claim.registration);
        state.is_some_and(|state| state.dropped_by(&claim.pod).contains(key))
    }

    pub fn desired(&self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<&DesiredPod> {
        self.get(registration)?.pods.get(pod).map(|desired| &**desired)
    }

    /// Returns the value that `claim` desires for `key`.
    pub fn value_of(&self, key: &str, claim: &Claim) -> Option<&Value> {
        let mut records = self.desired(&claim.registration, &claim.pod)?.all_records();
        records.find(|record| &*record.key == key).map(|record| &record.value)
    }

    /// Returns the precedence of `claim` to `key`. The least one wins.
    pub fn precedence(&self, key: &Key, claim: &Claim) -> (bool, Since, i64) {
        let state = self.get(&claim.registration);
        state.map_or((true, Since::LAST, i64::MAX), |state| state.precedence(key, &claim.pod))
    }

    /// Adds a registration, or replaces its settings. Returns the former ones.
    pub fn set_settings(
        &mut self,
        registration: &RegistrationRef,
        settings: RegistrationSettings,
    ) -> Option<RegistrationSettings> {
        let former = self.states.get(registration).map(|state| state.settings.clone());
        self.file(registration, former.as_ref(), Some(&settings));
        match self.states.entry(registration.clone()) {
            Entry::Occupied(mut known) => known.get_mut().settings = settings,
            Entry::Vacant(free) => {
                free.insert(RegistrationState::new(settings));
                let names = self.namespaces.entry(registration.namespace.clone()).or_default();
                names.insert(registration.clone());
            }
        }
        self.mark_changed(registration);
        self.mark_undecided(registration);
        let gated = self.gated.get(registration).into_iter().flatten();
        self.changed_gated.extend(gated.map(|pod| Claim {
            registration: registration.clone(),
            pod: pod.clone(),
        }));
        former
    }

    /// Replaces the prefixes by which `registration` is found.
    fn file(
        &mut self,
        registration: &RegistrationRef,
        former: Option<&RegistrationSettings>,
        settings: Option<&RegistrationSettings>,
    ) {
        if let Some(former) = former {
            self.by_prefix.remove(&former.prefixes, registration);
            self.suspended.remove(&former.prefixes, registration);
        }
        if let Some(settings) = settings {
            self.by_prefix.insert(&settings.prefixes, registration);
            if settings.suspended {
                self.suspended.insert(&settings.prefixes, registration);
            }
        }
    }

    /// Sets the time at which each prefix was claimed. Returns whether it is another one.
    pub fn set_since(&mut self, registration: &RegistrationRef, since: BTreeMap<Prefix, Since>) -> bool {
        let state = self.states.get_mut(registration);
        state.is_some_and(|state| state.since.replace(since) != state.since)
    }

    /// Replaces the desired records of `pod`. Returns how its claims change, none if the records are the same.
    pub fn set_desired(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        desired: Option<DesiredPod>,
    ) -> Option<ClaimChange> {
        let is_gated = desired.as_ref().is_some_and(|desired| desired.gated.is_some());
        self.set_gated(registration, pod, is_gated);
        let state = self.states.get_mut(registration)?;
        let before = state.pods.len();
        let change = state.set_desired(pod, desired);
        self.pod_count = self.pod_count + state.pods.len() - before;
        change
    }

    /// Sets whether `pod` waits for its readiness gate.
    pub fn set_gated(&mut self, registration: &RegistrationRef, pod: &Arc<str>, is_gated: bool) {
        if is_gated {
            let pods = self.gated.entry(registration.clone()).or_default();
            pods.insert(pod.clone());
            self.changed_gated.insert(Claim {
                registration: registration.clone(),
                pod: pod.clone(),
            });
        } else if let Some(pods) = self.gated.get_mut(registration) {
            pods.remove(pod);
            if pods.is_empty() {
                self.gated.remove(registration);
            }
        }
    }

    /// Records that what etcd holds of `claim` may have changed.
    pub fn mark_claim(&mut self, claim: &Claim) {
        self.mark_changed(&claim.registration);
        let pods = self.gated.get(&claim.registration);
        if pods.is_some_and(|pods| pods.contains(&claim.pod)) {
            self.changed_gated.insert(claim.clone());
        }
    }

    /// Returns the pods that wait for their readiness gate, and whose records in etcd may have changed since the last
    /// call.
    pub fn take_changed_gated(&mut self) -> HashSet<Claim> {
        std::mem::take(&mut self.changed_gated)
    }

    /// Drops what pods would have by the previous spec, except for ready pods. Returns the ready ones that have records
    /// by it, without these records.
    pub fn drop_previous(&mut self, registration: &RegistrationRef) -> Vec<(Arc<str>, DesiredPod)> {
        let Some(state) = self.states.get_mut(registration) else {
            return Vec::new();
        };
        let others = state.unready.values_mut().chain(state.rationed.values_mut());
        others.for_each(|desired| desired.previous = None);
        let ready = state.pods.iter().filter(|(_, desired)| desired.previous.is_some());
        let bare = ready.map(|(pod, desired)| {
            let mut bare = DesiredPod::clone(desired);
            bare.previous = None;
            (pod.clone(), bare)
        });
        bare.collect()
    }

    /// Sets whether the claims of `pod` by the previous spec were given up.
    pub fn set_released(&mut self, registration: &RegistrationRef, pod: &Arc<str>, is_released: bool) {
        match self.states.get_mut(registration) {
            Some(state) if is_released => drop(state.released.insert(pod.clone())),
            Some(state) => drop(state.released.remove(pod)),
            None => {}
        }
    }

    /// Adds `key` to the dropped keys of `pod`.
    pub fn add_dropped(&mut self, registration: &RegistrationRef, pod: &Arc<str>, key: &Key) {
        if let Some(state) = self.states.get_mut(registration)
            && !state.dropped_by(pod).contains(key)
        {
            state.dropped.entry(pod.clone()).or_default().push(key.clone());
        }
    }

    /// Strikes the dropped keys of `pod` that are not to `keep`.
    pub fn retain_dropped(&mut self, registration: &RegistrationRef, pod: &Arc<str>, keep: impl Fn(&Key) -> bool) {
        let state = self.states.get_mut(registration);
        if state.is_some_and(|state| state.retain_dropped(pod, keep)) {
            // The report showed a key as being removed. No claim on the key triggers a new report.
            self.mark_changed(registration);
        }
    }

    /// Sets the records that `pod` would have if it were ready, none if it is ready or gone. Returns the former ones.
    pub fn set_unready(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        if_ready: Option<DesiredPod>,
    ) -> Option<Box<DesiredPod>> {
        let unready = &mut self.states.get_mut(registration)?.unready;
        match if_ready {
            Some(if_ready) => unready.insert(pod.clone(), boxed(if_ready)),
            None => unready.remove(pod),
        }
    }

    /// Sets the pod that is not ready and keeps its records. Returns the former one.
    pub fn set_kept(&mut self, registration: &RegistrationRef, pod: Option<Arc<str>>) -> Option<Arc<str>> {
        std::mem::replace(&mut self.states.get_mut(registration)?.kept, pod)
    }

    /// Sets the records that `pod` would have if its namespace were not over its quota, none if it is not over it.
    /// Returns the former ones.
    pub fn set_rationed(
        &mut self,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        whole: Option<DesiredPod>,
    ) -> Option<Box<DesiredPod>> {
        let rationed = &mut self.states.get_mut(registration)?.rationed;
        match whole {
            Some(whole) => rationed.insert(pod.clone(), boxed(whole)),
            None => rationed.remove(pod),
        }
    }

    pub fn remove(&mut self, registration: &RegistrationRef) -> Option<RegistrationState> {
        self.changed.remove(registration);
        self.undecided.remove(registration);
        self.gated.remove(registration);
        let state = self.states.remove(registration)?;
        self.file(registration, Some(&state.settings), None);
        self.pod_count -= state.pods.len();
        if let Some(names) = self.namespaces.get_mut(&registration.namespace) {
            names.remove(registration);
            if names.is_empty() {
                self.namespaces.remove(&registration.namespace);
            }
        }
        Some(state)
    }

    /// Records that the report of `registration` may have changed, if the registration exists.
    pub fn mark_changed(&mut self, registration: &RegistrationRef) {
        if self.contains(registration) {
            self.changed.insert(registration.clone());
        }
    }

    pub fn mark_all_changed(&mut self) {
        self.changed.extend(self.states.keys().cloned());
        for (registration, pods) in &self.gated {
            self.changed_gated.extend(pods.iter().map(|pod| Claim {
                registration: registration.clone(),
                pod: pod.clone(),
            }));
        }
    }

    /// Records that the reports of the registrations whose prefixes overlap `prefix` may have changed.
    pub fn mark_changed_around(&mut self, prefix: &Prefix) {
        self.changed
            .extend(self.by_prefix.touching(prefix).into_iter().cloned());
    }

    /// Returns the registrations whose report may have changed since the last call.
    pub fn take_changed(&mut self) -> HashSet<RegistrationRef> {
        std::mem::take(&mut self.changed)
    }

    /// Records that it must be decided which endpoint of `registration` is the last one.
    pub fn mark_undecided(&mut self, registration: &RegistrationRef) {
        self.undecided.insert(registration.clone());
    }

    /// Records that it must be decided again which endpoints are the last ones.
    pub fn mark_all_undecided(&mut self) {
        let keeping = self.states.iter().filter(|(_, state)| state.settings.keep_last);
        self.undecided
            .extend(keeping.map(|(registration, _)| registration.clone()));
    }

    pub fn take_undecided(&mut self) -> HashSet<RegistrationRef> {
        std::mem::take(&mut self.undecided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{desired, reference, settings};

    #[test]
    fn key_that_a_pod_drops_again_is_dropped_once() {
        let (mut registrations, orders, pod) = (Registrations::default(), reference("orders"), Arc::from("p"));
        registrations.set_settings(&orders, settings(1));
        let key = Key::from("/s/p");
        registrations.set_desired(&orders, &pod, Some(desired("p", &[&key], "1")));
        registrations.add_dropped(&orders, &pod, &key);
        registrations.set_desired(&orders, &pod, None);
        let state = registrations.get(&orders).expect("it is known");
        assert_eq!(state.dropped_by(&pod), [key]);
    }
}
