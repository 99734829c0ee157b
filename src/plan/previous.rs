//! What a pod has by the spec before: an edit must not empty a service.
//!
//! After an edit that changes keys, a pod keeps the records of the spec before until all that the newest spec newly asks
//! for can be written: until then they are renewed and follow the pod like any others, and a new pod gets them, too.
//! Then the new ones are written at once, and the removal of the old ones is unconfirmed: it is released by the guard.
//! Without a guard both are one transaction. What cannot be written is taken by someone else, denied or rejected by
//! etcd, denied by the Registry's rules, suppressed for another registration's format, or cannot be expressed at all.
//! What was wrong by the spec before already is no reason to keep anything.
//!
//! The claims of the spec before stay until then, so that a key of it is never taken for one that nobody wants. They come
//! after the claims of all others: who wants that key by a spec in force has it.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use super::desired::{DesiredPod, EndpointRecords, Problem};
use super::guard::Cause;
use super::key_table::KeyState;
use super::planner::Planner;
use super::report::{Registered, Report};
use crate::model::{Key, Record, RegistrationRef};

/// What a pod has by the spec before and not by the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    by_endpoint: Box<[EndpointRecords]>,
    /// The keys that the newest spec asks for and the one before did not.
    fresh: Vec<Key>,
    /// Not all that the newest spec asks for can be expressed, and that was not so by the one before.
    lacks: bool,
}

/// Whether the newest spec can be carried out for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Something is in the way of its keys.
    Barred,
    /// That is not known yet.
    Unknown,
    /// Nothing is.
    Open,
    /// Its keys are there.
    Done,
}

impl Previous {
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.by_endpoint
            .iter()
            .flat_map(|endpoint_records| &endpoint_records.records)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &[Record]> {
        self.by_endpoint.iter().flat_map(EndpointRecords::groups)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.records().map(|record| &record.key)
    }

    /// Whether both have the same keys.
    pub(super) fn has_keys_of(&self, other: &Self) -> bool {
        self.keys().eq(other.keys())
    }

    /// Whether something can never be written, however etcd stands.
    pub(super) fn lacks(&self) -> bool {
        self.lacks
    }
}

impl DesiredPod {
    /// Whether the pod has `key` by the spec before only.
    pub(super) fn had(&self, key: &Key) -> bool {
        self.previous
            .as_ref()
            .is_some_and(|previous| previous.keys().any(|former| former == key))
    }

    /// By the spec before the pod has `before`: it keeps of that what it has not by the newest one.
    pub(super) fn keep(&mut self, before: &Self, is_suppressed: bool) {
        let mine: HashSet<&Key> = self.records().map(|record| &record.key).collect();
        let theirs: HashSet<&Key> = before.records().map(|record| &record.key).collect();
        let fresh: Vec<Key> = mine.difference(&theirs).copied().cloned().collect();
        let is_new =
            |problem: &&Problem| !matches!(problem, Problem::WeightUnreadable) && !before.problems.contains(problem);
        let lacks = is_suppressed || self.problems.iter().any(|problem| is_new(&problem)) || mine.is_empty();
        let by_endpoint = before
            .by_endpoint
            .iter()
            .filter_map(|endpoint_records| without(endpoint_records, &mine));
        let by_endpoint: Box<[EndpointRecords]> = by_endpoint.collect();
        if !by_endpoint.is_empty() {
            self.previous = Some(Box::new(Previous {
                by_endpoint,
                fresh,
                lacks,
            }));
        }
    }
}

/// `endpoint_records` without the records under `keys`; none where that leaves nothing.
fn without(endpoint_records: &EndpointRecords, keys: &HashSet<&Key>) -> Option<EndpointRecords> {
    let (mut records, mut units) = (SmallVec::new(), Vec::new());
    for group in endpoint_records.groups() {
        let first = records.len();
        records.extend(group.iter().filter(|record| !keys.contains(&record.key)).cloned());
        if records.len() > first + 1 {
            units.push(first..records.len());
        }
    }
    let endpoint = endpoint_records.endpoint.clone();
    (!records.is_empty()).then_some(EndpointRecords {
        endpoint,
        records,
        units: units.into(),
    })
}

impl Planner {
    /// Every pod of `registration` has what the newest spec asks for: nothing of the spec before is needed any more.
    pub fn forget_previous(&mut self, registration: &RegistrationRef) {
        for (pod, bare) in self.registrations.drop_previous(registration) {
            for key in self.replace_desired(registration, &pod, Some(bare)) {
                self.guard.clear_unconfirmed(&key);
            }
        }
        // The pods that wait for room need fewer keys, too.
        self.quotas.mark_undecided(&registration.namespace);
    }

    /// Whether the newest spec can be carried out for `pod`; none where nothing of the spec before is known.
    pub(super) fn way(&self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<Way> {
        let previous = self.previous(registration, pod)?;
        if previous.lacks {
            return Some(Way::Barred);
        }
        let mut way = Way::Done;
        for key in &previous.fresh {
            if self.is_denied(key) || self.rejected.contains(key, registration) {
                return Some(Way::Barred);
            }
            let Some(state) = self.keys.get(key) else {
                way = Way::Unknown;
                continue;
            };
            if !state.claims.first().is_some_and(|claim| claim.is_of(registration, pod)) {
                return Some(Way::Barred);
            }
            match &state.held {
                Some(_) if state.is_ours(&self.leases) => {}
                Some(_) => return Some(Way::Barred),
                None if !self.prefixes.is_listed(key) || self.leases.group_of(key).is_none() => way = Way::Unknown,
                None if way == Way::Done => way = Way::Open,
                None => {}
            }
        }
        Some(way)
    }

    fn previous(&self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<&Previous> {
        self.registrations.desired(registration, pod)?.previous.as_deref()
    }

    /// Before it is decided about `pod`: its claims by the spec before are there while they are needed.
    pub(super) fn weigh_previous(&mut self, registration: &RegistrationRef, pod: &Arc<str>) {
        let state = self.registrations.get(registration);
        let Some(state) = state.filter(|state| !state.settings.suspended) else {
            return;
        };
        let is_released = state.released.contains(pod);
        let Some(way) = self.way(registration, pod) else {
            return;
        };
        let keys: Vec<Key> = self
            .previous(registration, pod)
            .map(|previous| previous.keys().cloned().collect())
            .unwrap_or_default();
        match way {
            Way::Barred if is_released => {
                self.registrations.set_released(registration, pod, false);
                for key in &keys {
                    self.claim(key, registration, pod);
                }
            }
            // The new keys wait for space, and the old ones stay until then.
            Way::Open if !self.work.has_space() => {}
            Way::Open | Way::Done if !is_released && keys.iter().all(|key| self.is_known(key)) => {
                self.release_previous(registration, pod, &keys);
            }
            _ => {}
        }
    }

    /// Whether it is known what etcd holds under `key`, or nothing can be done about it. The outcome of a write in flight is
    /// not known.
    fn is_known(&self, key: &Key) -> bool {
        let is_in_flight = self.keys.get(key).is_some_and(|state| state.in_flight().is_some());
        !is_in_flight && self.prefixes.is_listed(key) || self.is_denied(key)
    }

    /// Gives up the claims by the spec before for all pods of which the newest one can be carried out.
    pub fn release_all_previous(&mut self) {
        let mut open = Vec::new();
        for (registration, state) in self.registrations.iter() {
            let pods = state
                .pods
                .iter()
                .filter(|(pod, desired)| desired.previous.is_some() && !state.released.contains(*pod));
            open.extend(pods.map(|(pod, _)| (registration.clone(), pod.clone())));
        }
        for (registration, pod) in open {
            self.weigh_previous(&registration, &pod);
        }
    }

    /// Gives up the claims of `pod` by the spec before: it has, or can have, what the newest one asks for.
    fn release_previous(&mut self, registration: &RegistrationRef, pod: &Arc<str>, keys: &[Key]) {
        self.registrations.set_released(registration, pod, true);
        for key in keys {
            self.unclaim(key, registration, pod);
            let may_be_ours = |state: &KeyState| state.is_unclaimed() && state.may_be_ours(&self.leases);
            if self.keys.get(key).is_some_and(may_be_ours) {
                self.registrations.add_dropped(registration, pod, key);
                self.mark_unconfirmed(key, registration, pod, Cause::Edit);
            }
            self.keys.drop_if_unused(key);
        }
        self.registrations.mark_changed(registration);
    }

    /// Adds what `pod` has by the spec before to `report`.
    pub(super) fn report_previous<'a>(
        &'a self,
        report: &mut Report<'a>,
        registration: &RegistrationRef,
        pod: &'a Arc<str>,
        desired: &'a DesiredPod,
    ) {
        let (Some(previous), Some(way)) = (&desired.previous, self.way(registration, pod)) else {
            return;
        };
        let state = self.registrations.get(registration);
        let is_released = state.is_some_and(|state| state.released.contains(pod));
        let is_there = |key: &Key| self.keys.is_ours(key, &self.leases);
        if is_released && way != Way::Barred {
            // Its keys are leaving or held.
            let is_left = |key: &Key| self.keys.is_unclaimed(key) && is_there(key) && !self.is_denied(key);
            report.carried_out &= !previous.keys().any(is_left);
            return;
        }
        report.carried_out = false;
        if way != Way::Barred {
            report.outstanding += previous
                .keys()
                .filter(|key| is_there(key) && !self.is_denied(key))
                .count();
            return;
        }
        report.retained += 1;
        for endpoint_records in &previous.by_endpoint {
            let keys = endpoint_records.records.iter().map(|record| record.key.clone());
            let keys: Vec<Key> = keys.filter(is_there).collect();
            let folders = endpoint_records.records.iter().map(|record| folder(&record.key));
            report.retained_at.extend(folders);
            if !keys.is_empty() {
                let endpoint = &endpoint_records.endpoint;
                report.endpoints.push(Registered { pod, endpoint, keys });
            }
        }
    }
}

fn folder(key: &str) -> Key {
    key[..key.rfind('/').map_or(0, |slash| slash + 1)].into()
}
