//! Quotas: how many keys each namespace may have, and which of its pods get none when more are desired.
//!
//! A pod has all of its keys for a registration or none. A pod that has keys keeps them: a healthy endpoint is never
//! removed to make room for another one. So the room of keys that the guard holds stays reserved, because their pods may
//! get them back; for pods that are not ready until the keys are removed, and after an edit until the guard has decided.
//! Free room is given to the oldest registration first, and within it by pod name. If the limit itself was lowered, the
//! youngest registrations lose keys first. So after a takeover the new leader decides like the old one, because both
//! start from what etcd holds.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use super::desired::{DesiredPod, Problem};
use super::guard::Cause;
use super::key_table::KeyState;
use super::planner::Planner;
use super::policy::Quota;
use super::registrations::RegistrationState;
use crate::model::{Counts, Key, RegistrationRef};

#[derive(Debug, Default)]
pub(super) struct Quotas {
    by_namespace: HashMap<Arc<str>, Ration>,
    /// The namespaces for which it must be decided which pods get no keys.
    undecided: BTreeSet<Arc<str>>,
    reserved: Reserved,
    /// The registrations that keep their last endpoint, and have room for another pod by now.
    keeping: BTreeSet<RegistrationRef>,
}

/// The room of keys that no pod desires now, and that a pod may get back.
#[derive(Debug, Default)]
struct Reserved {
    /// Each key with the namespace in whose quota it has room.
    keys: HashMap<Key, Arc<str>>,
    /// The keys of each namespace.
    counts: Counts<Arc<str>>,
}

impl Reserved {
    fn add(&mut self, key: Key, namespace: &Arc<str>) {
        // Pods of two namespaces may have had the key. The first one has the room.
        if let Entry::Vacant(free) = self.keys.entry(key) {
            free.insert(namespace.clone());
            self.counts.add(namespace.clone());
        }
    }

    /// Removes `key`. Returns the namespace in whose quota it had room.
    fn remove(&mut self, key: &Key) -> Option<Arc<str>> {
        let namespace = self.keys.remove(key)?;
        self.counts.remove(&namespace);
        Some(namespace)
    }

    fn count_of(&self, namespace: &str) -> usize {
        self.counts.of(namespace)
    }

    fn remove_namespace(&mut self, namespace: &str) {
        if self.counts.remove_all(namespace) > 0 {
            self.keys.retain(|_, other| **other != *namespace);
        }
    }
}

/// A pod of a registration.
type Candidate = (RegistrationRef, Arc<str>);

/// The quota of one namespace.
#[derive(Debug)]
struct Ration {
    quota: Quota,
    /// The pods that were admitted, each with the number of its keys.
    placed: HashMap<Candidate, usize>,
    /// The number of keys of all admitted pods.
    used: usize,
    /// The pods that wait for room, the next one first, each with the number of its keys. A pod comes by the creation time
    /// of its registration, in seconds since 1970.
    waiting: BTreeMap<(i64, Candidate), usize>,
    /// The pods whose desired keys have changed since the last decision.
    changed: BTreeSet<Candidate>,
    /// Whether it must be decided about all pods, and not only about those that changed.
    is_open: bool,
}

/// A pod that needs keys.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Applicant {
    /// Pods that have keys already come first.
    waits: bool,
    created: i64,
    pod: Candidate,
    keys: usize,
}

impl Ration {
    fn new(quota: Quota) -> Self {
        Self {
            quota,
            placed: HashMap::new(),
            used: 0,
            waiting: BTreeMap::new(),
            changed: BTreeSet::new(),
            is_open: true,
        }
    }

    /// Records that it must be decided about all pods.
    fn open(&mut self) {
        self.is_open = true;
        self.changed = BTreeSet::new();
    }

    /// Whether there is room for `keys` more beside `reserved` ones.
    fn has_room_for(&self, keys: usize, reserved: usize) -> bool {
        self.used + reserved + keys <= self.quota.keys
    }

    /// The waiting pods for which there is room once none is reserved.
    fn next_in_turn(&self) -> impl Iterator<Item = &Candidate> {
        let mut keys_before = 0;
        let fits = move |(_, keys): &(_, &usize)| {
            keys_before += **keys;
            self.has_room_for(keys_before, 0)
        };
        self.waiting.iter().take_while(fits).map(|((_, pod), _)| pod)
    }

    fn place(&mut self, pod: Candidate, keys: usize) {
        self.used += keys;
        self.placed.insert(pod, keys);
    }

    /// Drops the decision about `pod`, of a registration that was `created` then. Returns whether it was admitted.
    fn withdraw(&mut self, pod: &Candidate, created: i64) -> bool {
        self.waiting.remove(&(created, pod.clone()));
        let keys = self.placed.remove(pod);
        self.used -= keys.unwrap_or_default();
        keys.is_some()
    }
}

impl Quotas {
    /// Sets the quota of `namespace`, none for any number of keys.
    fn set(&mut self, namespace: &Arc<str>, quota: Option<Quota>) {
        let is_new = match quota {
            None => {
                self.reserved.remove_namespace(namespace);
                self.by_namespace.remove(namespace).is_some()
            }
            Some(quota) => match self.by_namespace.entry(namespace.clone()) {
                Entry::Occupied(mut known) => {
                    let ration = known.get_mut();
                    let is_new = ration.quota != quota;
                    ration.quota = quota;
                    if is_new {
                        ration.open();
                    }
                    is_new
                }
                Entry::Vacant(free) => {
                    free.insert(Ration::new(quota));
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

    /// Whether `pod` has room in the quota of its namespace; not while that is undecided.
    pub(super) fn is_admitted(&self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        let ration = self.by_namespace.get(&registration.namespace);
        let is_placed = |ration: &Ration| ration.placed.contains_key(&(registration.clone(), pod.clone()));
        ration.is_none_or(is_placed)
    }

    /// Records that the desired keys of `pod` have changed.
    pub fn mark_changed(&mut self, registration: &RegistrationRef, pod: &Arc<str>) {
        let ration = self.by_namespace.get_mut(&registration.namespace);
        if let Some(ration) = ration.filter(|ration| !ration.is_open) {
            ration.changed.insert((registration.clone(), pod.clone()));
            self.undecided.insert(registration.namespace.clone());
        }
    }

    /// Records that it must be decided about all pods of `namespace`.
    pub fn mark_undecided(&mut self, namespace: &Arc<str>) {
        if let Some(ration) = self.by_namespace.get_mut(namespace) {
            ration.open();
            self.undecided.insert(namespace.clone());
        }
    }

    /// Records that it must be decided about all pods of all namespaces.
    pub fn mark_all_undecided(&mut self) {
        for (namespace, ration) in &mut self.by_namespace {
            ration.open();
            self.undecided.insert(namespace.clone());
        }
    }

    /// The waiting pods that are admitted when no room is reserved any more.
    pub(super) fn about_to_be_admitted(&self) -> impl Iterator<Item = &Candidate> {
        self.by_namespace.values().flat_map(Ration::next_in_turn)
    }

    /// Records that nothing is known of what etcd holds.
    pub fn forget_observed(&mut self) {
        self.reserved = Reserved::default();
        self.mark_all_undecided();
    }

    /// Drops all decisions, because another leader may have decided differently: they are made again from what etcd
    /// holds.
    pub fn forget_decisions(&mut self) {
        for ration in self.by_namespace.values_mut() {
            ration.placed.clear();
        }
        self.mark_all_undecided();
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
        loop {
            self.decide_open_quotas();
            let keeping = std::mem::take(&mut self.quotas.keeping);
            if keeping.is_empty() {
                return;
            }
            // What they kept is to be removed.
            for registration in keeping {
                self.stop_keeping_last(&registration);
            }
        }
    }

    fn decide_open_quotas(&mut self) {
        for namespace in std::mem::take(&mut self.quotas.undecided) {
            // While the ration is taken out, the changes that the decision makes mark no pods again.
            let Some(mut ration) = self.quotas.by_namespace.remove(&namespace) else {
                self.lift_quota(&namespace);
                continue;
            };
            let changed = std::mem::take(&mut ration.changed);
            if ration.is_open || !self.decide_changed(&mut ration, changed) {
                ration.is_open = !self.decide_all(&namespace, &mut ration);
            }
            if ration.is_open {
                self.quotas.undecided.insert(namespace.clone());
            }
            self.quotas.by_namespace.insert(namespace, ration);
        }
    }

    /// Gives all pods of a namespace that has no quota any more their keys.
    fn lift_quota(&mut self, namespace: &Arc<str>) {
        let states = self.registrations.of_namespace(namespace);
        let waiting = states.flat_map(|(registration, state)| {
            let pods = state.rationed.keys();
            pods.map(|pod| (registration.clone(), pod.clone()))
        });
        for pod in waiting.collect::<Vec<Candidate>>() {
            self.grant_place(&pod);
        }
    }

    /// Decides about all pods of a namespace. Returns whether that is final, because all of its keys are known.
    fn decide_all(&mut self, namespace: &Arc<str>, ration: &mut Ration) -> bool {
        let mut applicants = self.applicants(namespace, ration);
        applicants.sort();
        let wanted: usize = applicants.iter().map(|applicant| applicant.keys).sum();
        let is_listed = self.is_namespace_listed(namespace);
        ration.placed.clear();
        ration.waiting.clear();
        ration.used = 0;
        self.reserve_all(namespace);
        // A pod whose keys have not been read yet may have precedence.
        let mut is_full = wanted > ration.quota.keys && !is_listed;
        for applicant in applicants {
            // A pod that has keys gets the room that is reserved for it. The others come after all of these.
            let reserved = applicant.waits.then(|| self.reserved_for_others(&applicant.pod));
            let has_room = ration.has_room_for(applicant.keys, reserved.unwrap_or_default());
            is_full |= applicant.waits && !has_room;
            if has_room && !(applicant.waits && is_full) {
                self.grant_place(&applicant.pod);
                ration.place(applicant.pod, applicant.keys);
            } else {
                self.deny_place(&applicant.pod, &ration.quota);
                ration
                    .waiting
                    .insert((applicant.created, applicant.pod), applicant.keys);
            }
        }
        is_listed
    }

    /// Decides about the pods that changed, and about those that can have the room that they left. The cost does not depend
    /// on the number of other pods. Returns false if pods that have keys may have to give them up, so that it must be decided
    /// about all of them.
    fn decide_changed(&mut self, ration: &mut Ration, changed: BTreeSet<Candidate>) -> bool {
        let mut applicants = Vec::new();
        for pod in changed {
            // The removal of a registration has opened the decision about all pods.
            let Some(state) = self.registrations.get(&pod.0) else {
                continue;
            };
            let created = state.settings.created;
            let was_placed = ration.withdraw(&pod, created);
            let desired = state.rationed.get(&pod.1).or_else(|| state.pods.get(&pod.1));
            applicants.extend(desired.and_then(|desired| self.applicant(created, pod.clone(), desired, was_placed)));
            let lost = self.lost_keys(state, &pod.1);
            self.reserve(&pod.0.namespace, lost);
        }
        let (waiting, having): (Vec<_>, Vec<_>) = applicants.into_iter().partition(|applicant| applicant.waits);
        for applicant in &having {
            ration.place(applicant.pod.clone(), applicant.keys);
        }
        if ration.used > ration.quota.keys {
            return false;
        }
        let waiting: Vec<_> = waiting
            .into_iter()
            .map(|applicant| {
                let place = (applicant.created, applicant.pod);
                ration.waiting.insert(place.clone(), applicant.keys);
                place
            })
            .collect();
        for applicant in &having {
            self.grant_place(&applicant.pod);
        }
        self.place_waiting(ration);
        for place in waiting.iter().filter(|place| ration.waiting.contains_key(place)) {
            self.deny_place(&place.1, &ration.quota);
        }
        true
    }

    /// Admits the waiting pods for which there is room, in their order: the first one without room keeps the others from
    /// getting it.
    fn place_waiting(&mut self, ration: &mut Ration) {
        while let Some(((created, pod), keys)) = ration.waiting.pop_first() {
            if !ration.has_room_for(keys, self.reserved_for_others(&pod)) {
                ration.waiting.insert((created, pod), keys);
                return;
            }
            self.grant_place(&pod);
            ration.place(pod, keys);
        }
    }

    fn applicants(&self, namespace: &Arc<str>, ration: &Ration) -> Vec<Applicant> {
        let mut applicants = Vec::new();
        for (registration, state) in self.registrations.of_namespace(namespace) {
            let having = state.pods.iter().filter(|(pod, _)| !state.rationed.contains_key(*pod));
            for (pod, desired) in having.chain(&state.rationed) {
                let pod = (registration.clone(), pod.clone());
                let is_placed = ration.placed.contains_key(&pod);
                applicants.extend(self.applicant(state.settings.created, pod, desired, is_placed));
            }
        }
        applicants
    }

    /// Reserves the room of all keys of a namespace that pods may get back.
    fn reserve_all(&mut self, namespace: &Arc<str>) {
        let mut lost = Vec::new();
        for (_, state) in self.registrations.of_namespace(namespace) {
            let pods: BTreeSet<&Arc<str>> = state.unready.keys().chain(state.dropped.keys()).collect();
            lost.extend(pods.into_iter().flat_map(|pod| self.lost_keys(state, pod)));
        }
        self.reserve(namespace, lost);
    }

    /// The keys that a pod may get back: those that it will have when it is ready, and those whose removal is unconfirmed. None
    /// if the pod waits for room itself.
    fn lost_keys(&self, state: &RegistrationState, pod: &Arc<str>) -> Vec<Key> {
        if state.rationed.contains_key(pod) {
            return Vec::new();
        }
        let if_ready = state
            .unready
            .get(pod)
            .into_iter()
            .flat_map(|desired| desired.all_records());
        let unconfirmed = state.dropped_by(pod).iter().filter(|key| self.guard.knows(key));
        if_ready.map(|record| &record.key).chain(unconfirmed).cloned().collect()
    }

    /// Reserves room for those of `keys` that a pod may get back.
    fn reserve(&mut self, namespace: &Arc<str>, keys: Vec<Key>) {
        for key in keys {
            if self.may_be_back(&key) {
                self.quotas.reserved.add(key, namespace);
            }
        }
    }

    /// Whether `key` is still to be removed, and not for an edit that the guard has let pass: what replaces the key then need
    /// not wait.
    fn may_be_back(&self, key: &Key) -> bool {
        let is_there = |state: &KeyState| state.in_flight().is_some() || state.is_ours(&self.leases);
        let state = self.keys.get(key);
        state.is_some_and(|state| state.is_unclaimed() && is_there(state)) && !self.guard.has_released_edit(key)
    }

    /// The number of keys for which room is reserved in the namespace of a pod, except for those that it had itself.
    fn reserved_for_others(&self, (registration, pod): &Candidate) -> usize {
        let (reserved, namespace) = (&self.quotas.reserved, &registration.namespace);
        let state = self.registrations.get(registration);
        let had = state.map_or(&[][..], |state| state.dropped_by(pod)).iter();
        let own = had.filter(|key| reserved.keys.get(*key) == Some(namespace)).count();
        reserved.count_of(namespace) - own
    }

    /// Frees the room that is reserved for `key`, which has changed, unless a pod may still get it back.
    pub(super) fn free_room_of(&mut self, key: &Key) {
        if self.quotas.reserved.keys.contains_key(key)
            && !self.may_be_back(key)
            && let Some(namespace) = self.quotas.reserved.remove(key)
        {
            self.quotas.undecided.insert(namespace);
        }
    }

    /// Returns what `pod` needs; none if it needs no keys.
    fn applicant(&self, created: i64, pod: Candidate, desired: &DesiredPod, is_placed: bool) -> Option<Applicant> {
        let previous = desired.previous.as_ref();
        let previous = previous.map_or(0, |previous| previous.records().count());
        let keys = desired.records().count().max(previous);
        (keys > 0).then(|| Applicant {
            waits: !is_placed && !self.has_keys(desired),
            created,
            pod,
            keys,
        })
    }

    /// Whether etcd may hold a key of `desired` that is ours.
    fn has_keys(&self, desired: &DesiredPod) -> bool {
        let mut states = desired.all_records().filter_map(|record| self.keys.get(&record.key));
        states.any(|state| state.may_be_ours(&self.leases))
    }

    fn is_namespace_listed(&self, namespace: &Arc<str>) -> bool {
        let states = self.registrations.of_namespace(namespace);
        let mut prefixes = states.flat_map(|(_, state)| state.prefixes());
        prefixes.all(|prefix| self.prefixes.is_listed(prefix.as_str()))
    }

    fn grant_place(&mut self, (registration, pod): &Candidate) {
        if let Some(whole) = self.registrations.set_rationed(registration, pod, None) {
            self.replace_desired(registration, pod, Some(*whole));
        }
        let state = self.registrations.get(registration);
        let kept = state.and_then(|state| state.kept.as_ref());
        if kept.is_some_and(|kept| kept != pod) {
            self.quotas.keeping.insert(registration.clone());
        }
    }

    fn deny_place(&mut self, (registration, pod): &Candidate, quota: &Quota) {
        let Some(state) = self.registrations.get(registration) else {
            return;
        };
        let Some(whole) = state.rationed.get(pod).or_else(|| state.pods.get(pod)) else {
            return;
        };
        let whole = DesiredPod::clone(whole);
        let mut bare = whole.clone();
        bare.previous = None;
        for endpoint_records in &mut bare.by_endpoint {
            endpoint_records.records = SmallVec::new();
            endpoint_records.units = Box::default();
        }
        let over_quota = Problem::OverQuota(quota.clone());
        bare.problems = bare.problems.into_iter().chain([over_quota]).collect();
        let dropped = self.replace_desired(registration, pod, Some(bare));
        self.registrations.set_rationed(registration, pod, Some(whole));
        // A key that is not known to be there was not taken from the pod.
        for key in dropped {
            let state = self.keys.get(&key);
            if state.is_some_and(|state| state.may_be_ours(&self.leases)) {
                self.mark_unconfirmed(&key, registration, pod, Cause::Edit);
            }
        }
    }
}

#[cfg(test)]
impl Planner {
    /// Whether `pod` waits for room in the quota of its namespace.
    pub(super) fn is_over_quota(&self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        let state = self.registrations.get(registration);
        state.is_some_and(|state| state.rationed.contains_key(pod))
    }

    /// Panics unless what is counted for each quota is what the pods need, and nobody waits for room that is there.
    pub(super) fn check_quotas(&self) {
        for (namespace, ration) in &self.quotas.by_namespace {
            let (mut placed, mut waiting) = (HashMap::new(), BTreeMap::new());
            for applicant in self.applicants(namespace, ration) {
                let (registration, pod) = &applicant.pod;
                if self.is_over_quota(registration, pod) {
                    waiting.insert((applicant.created, applicant.pod), applicant.keys);
                } else {
                    placed.insert(applicant.pod, applicant.keys);
                }
            }
            assert_eq!((&ration.placed, &ration.waiting), (&placed, &waiting), "{namespace}");
            assert_eq!(ration.used, placed.values().sum::<usize>(), "{namespace}");
            assert!(ration.used <= ration.quota.keys, "{ration:?}");
            let has_room = |pod: &Candidate, keys| ration.has_room_for(keys, self.reserved_for_others(pod));
            let next = waiting.first_key_value();
            assert!(next.is_none_or(|((_, pod), keys)| !has_room(pod, *keys)), "{ration:?}");
        }
        let reserved = &self.quotas.reserved;
        for key in reserved.keys.keys() {
            assert!(self.may_be_back(key), "{key}: {:?}", self.keys.get(key));
        }
        for (namespace, count) in reserved.counts.iter() {
            let keys = reserved.keys.values().filter(|other| *other == namespace);
            assert_eq!(keys.count(), count, "{namespace}");
        }
    }
}
