//! What one registration has in etcd, as the planner has observed it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::desired::{DesiredPod, EndpointAddress, EndpointRecords, Problem};
use super::permissions::Right;
use super::planner::Planner;
use super::rejected::Rejection;
use crate::api::Reason;
use crate::model::{Key, LeaseId, Prefix, Record, RegistrationRef, Revision};

/// What one registration has in etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// The registration asks for no changes.
    pub suspended: bool,
    /// The pod whose endpoint is kept though it is not ready, because it was the last one.
    pub kept: Option<&'a Arc<str>>,
    /// How many of its pods are ready.
    pub ready: usize,
    /// Those of them that are not to be registered yet: they have not been ready for `minReadySeconds`.
    pub waiting: Vec<&'a Arc<str>>,
    /// Those of them that have all they should have.
    pub registered: usize,
    /// The endpoints that have at least one key, in the order of pods, with the keys they have.
    pub endpoints: Vec<Registered<'a>>,
    /// How many keys are still to be written or removed.
    pub outstanding: usize,
    /// How many keys are kept though they are not desired: the guard holds them.
    pub held: usize,
    /// The keys that are held by someone else, in the order of pods.
    pub conflicts: Vec<Conflict>,
    /// What is wrong, in words, and with which pods, in order.
    pub problems: BTreeMap<String, Vec<Arc<str>>>,
    /// The reason of these problems in the condition, if the Registry's rules cause them.
    pub ruled_out: Option<Reason>,
    /// Where its keys lie and etcd lets nothing be read, or written.
    pub denied: Vec<(Prefix, Right)>,
    /// The smallest of its record sets that etcd rejects for their content.
    pub rejected: Option<&'a Rejection>,
    /// How many pods keep what they have by the spec before, because the newest one cannot be carried out for them.
    pub retained: usize,
    /// The folders that those keys lie in.
    pub retained_at: BTreeSet<Key>,
    /// Nothing is left of the spec before, and at least one endpoint is in etcd by the newest one.
    pub carried_out: bool,
}

impl Report<'_> {
    /// Returns the number of keys below `location` that etcd holds with the values they should have.
    pub fn records_below(&self, location: &str) -> usize {
        let keys = self.endpoints.iter().flat_map(|endpoint| &endpoint.keys);
        keys.filter(|key| key.starts_with(location)).count()
    }
}

/// An endpoint that is in etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered<'a> {
    /// The name of the pod, of the node, or of the address with dashes.
    pub pod: &'a Arc<str>,
    pub endpoint: &'a EndpointAddress,
    /// Its keys that etcd holds, with the value they should have.
    pub keys: Vec<Key>,
}

/// A key that a registration cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: Key,
    /// Who has it.
    pub holder: Holder,
    /// The keys that make no sense without it, and are therefore not there either.
    pub along: Vec<Key>,
}

/// Who has a key that is wanted, other than the pod that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Somebody who is not this cluster's operator.
    OtherClient {
        /// The lease the key is on.
        lease: LeaseId,
        /// When the key came into being.
        create_revision: Revision,
    },
    /// A registration of this cluster that comes first: an older one, or this one itself for another of its pods.
    Registration(RegistrationRef),
}

/// How one wanted key stands.
enum KeyStatus {
    Present,
    Outstanding,
    Rejected,
    Conflict(Holder),
}

impl Report<'_> {
    fn add_problems(&mut self, pod: &Arc<str>, desired: &DesiredPod) {
        for problem in &desired.problems {
            self.ruled_out = self.ruled_out.or(match problem {
                Problem::Denied(_) => Some(Reason::AccessDenied),
                Problem::OverQuota(_) => Some(Reason::QuotaExceeded),
                _ => None,
            });
            self.problems.entry(problem.to_string()).or_default().push(pod.clone());
        }
    }
}

impl Planner {
    /// What `registration` has in etcd; none when it is not known.
    pub fn report(&self, registration: &RegistrationRef) -> Option<Report<'_>> {
        let state = self.registrations.get(registration)?;
        let waiting: Vec<&Arc<str>> = self.waiting.of(registration).collect();
        let mut report = Report {
            suspended: state.settings.suspended,
            kept: state.kept.as_ref(),
            ready: state.pods.len() - usize::from(state.kept.is_some()) + waiting.len(),
            waiting,
            registered: 0,
            endpoints: Vec::new(),
            outstanding: state
                .dropped
                .values()
                .flatten()
                .filter(|key| self.is_leaving(key))
                .count()
                + self.work.edited(registration),
            held: self
                .guard
                .hold()
                .map_or(0, |hold| hold.count_of(registration, state.prefixes().iter())),
            conflicts: Vec::new(),
            problems: BTreeMap::new(),
            ruled_out: None,
            denied: self.denied_to(registration),
            rejected: self.rejected.smallest(&Some(registration.clone())),
            retained: 0,
            retained_at: BTreeSet::new(),
            carried_out: false,
        };
        // What prevents the records of a pod is reported before the pod has waited.
        for pod in report.waiting.clone() {
            if let Some(desired) = state.unready.get(pod).filter(|_| report.kept != Some(pod)) {
                report.add_problems(pod, desired);
            }
        }
        for (pod, desired) in &state.pods {
            report.add_problems(pod, desired);
            let mut missing = 0;
            for endpoint_records in &desired.by_endpoint {
                missing += self.report_endpoint(&mut report, registration, pod, endpoint_records);
            }
            if missing == 0 && desired.is_whole() && report.kept != Some(pod) {
                report.registered += 1;
            }
        }
        report.carried_out = !report.endpoints.is_empty() && self.work.edited(registration) == 0;
        for (pod, desired) in &state.pods {
            self.report_previous(&mut report, registration, pod, desired);
        }
        // Keys of pods that are not ready may be held as well.
        let is_left = |key: &Key| self.keys.is_unclaimed(key) && self.keys.is_ours(key, &self.leases);
        let mut unready = state.unready.values().filter_map(|desired| desired.previous.as_deref());
        report.carried_out &= !unready.any(|previous| previous.keys().any(is_left));
        Some(report)
    }

    /// Adds one endpoint to `report`; returns how many of its keys are missing.
    fn report_endpoint<'a>(
        &'a self,
        report: &mut Report<'a>,
        registration: &RegistrationRef,
        pod: &'a Arc<str>,
        endpoint_records: &'a EndpointRecords,
    ) -> usize {
        let mut keys = Vec::with_capacity(endpoint_records.records.len());
        for group in endpoint_records.groups() {
            self.report_group(report, registration, pod, group, &mut keys);
        }
        let missing = endpoint_records.records.len() - keys.len();
        if !keys.is_empty() {
            let endpoint = &endpoint_records.endpoint;
            report.endpoints.push(Registered { pod, endpoint, keys });
        }
        missing
    }

    /// Adds the records of one unit to `report`, and those of its keys that are there to `present`.
    fn report_group(
        &self,
        report: &mut Report<'_>,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        group: &[Record],
        present: &mut Vec<Key>,
    ) {
        let (mut there, mut along, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        let mut is_rejected = false;
        for record in group {
            let key = record.key.clone();
            match self.state(&key, &record.value, registration, pod) {
                KeyStatus::Present => there.push(key),
                KeyStatus::Outstanding => along.push(key),
                KeyStatus::Rejected => is_rejected = true,
                KeyStatus::Conflict(holder) => taken.push((key, holder)),
            }
        }
        if is_rejected {
            if let Some(rejection) = report.rejected {
                let pods = report.problems.entry(rejection.to_string()).or_default();
                if pods.last() != Some(pod) {
                    pods.push(pod.clone());
                }
            }
            return present.append(&mut there);
        }
        if taken.is_empty() {
            report.outstanding += along.len();
            return present.append(&mut there);
        }
        // What of it is there goes; what is not, waits for all.
        let is_there = |key: &&Key| self.keys.is_ours(key, &self.leases);
        report.outstanding += there.len() + along.iter().filter(is_there).count();
        present.append(&mut there.clone());
        along.append(&mut there);
        for (key, holder) in taken {
            let along = std::mem::take(&mut along);
            report.conflicts.push(Conflict { key, holder, along });
        }
    }

    fn state(&self, key: &Key, value: &[u8], registration: &RegistrationRef, pod: &Arc<str>) -> KeyStatus {
        let Some(state) = self.keys.get(key) else {
            return KeyStatus::Outstanding;
        };
        match state.claims.first() {
            Some(first) if first.registration != *registration => {
                return KeyStatus::Conflict(Holder::Registration(first.registration.clone()));
            }
            // Two pods of one registration: the format gave both the same key, the first has it.
            Some(first) if first.pod != *pod => {
                return KeyStatus::Conflict(Holder::Registration(first.registration.clone()));
            }
            _ => {}
        }
        let is_rejected = self.rejected.contains(key, registration);
        match &state.held {
            None if is_rejected => KeyStatus::Rejected,
            None => KeyStatus::Outstanding,
            Some(held) if state.is_ours(&self.leases) => {
                if *held.value == *value && self.leases.is_ours(held.lease) {
                    KeyStatus::Present
                } else if is_rejected {
                    KeyStatus::Rejected
                } else {
                    KeyStatus::Outstanding
                }
            }
            Some(held) => KeyStatus::Conflict(Holder::OtherClient {
                lease: held.lease,
                create_revision: held.create_revision,
            }),
        }
    }

    /// Whether etcd holds `key` with `value` for `pod`, on a lease of the operator.
    pub(super) fn is_present(&self, key: &Key, value: &[u8], registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        matches!(self.state(key, value, registration, pod), KeyStatus::Present)
    }

    fn is_leaving(&self, key: &Key) -> bool {
        self.keys.is_unclaimed(key) && self.keys.is_ours(key, &self.leases) && !self.guard.holds(key)
    }
}

impl DesiredPod {
    /// Whether every port of the pod could be expressed in every format, for the preferred family at least.
    pub(super) fn is_whole(&self) -> bool {
        self.problems
            .iter()
            .all(|problem| matches!(problem, Problem::WeightUnreadable | Problem::SameKeyOfFamilies { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::PortTarget;
    use crate::model::Observation;
    use crate::plan::testing::{desired, endpoint, meta, reference, settings};

    /// A planner of the registration `orders`, in an etcd that holds `held` on a recorded lease.
    fn planner(held: &[(&str, &str)]) -> Planner {
        let mut planner = Planner::new(meta(), 256);
        planner.set_settings(&reference("orders"), settings(1));
        planner.leases().recorded(LeaseId(1), Some(30), 1);
        let entry = |(key, value): &(&str, &str)| {
            let held = crate::model::KeyValue {
                value: value.as_bytes().into(),
                lease: LeaseId(1),
                create_revision: 1,
                mod_revision: 1,
            };
            (Key::from(*key), held)
        };
        assert!(planner.take_changed_prefixes().is_some());
        planner.observe(Observation::Snapshot {
            prefix: Prefix::below("/s/"),
            revision: 1,
            entries: held.iter().map(entry).collect(),
        });
        planner
    }

    fn report(planner: &Planner) -> Report<'_> {
        planner.report(&reference("orders")).expect("it is known")
    }

    /// The desired records of `p` with one key for each of two ports.
    fn two_ports() -> DesiredPod {
        let endpoint_records = |port: u16| EndpointRecords {
            endpoint: endpoint("p", port).into(),
            records: [Record {
                key: format!("/s/p:{port}").into(),
                value: b"1".as_slice().into(),
            }]
            .into(),
            units: Box::default(),
        };
        DesiredPod {
            by_endpoint: [80, 81].into_iter().map(endpoint_records).collect(),
            ..DesiredPod::default()
        }
    }

    #[test]
    fn a_pod_with_two_ports_counts_once_and_only_when_both_are_there() {
        let orders = reference("orders");
        for (held, registered, endpoints) in [
            (&[("/s/p:80", "1"), ("/s/p:81", "1")][..], 1, 2),
            (&[("/s/p:80", "1")], 0, 1),
            (&[("/s/p:80", "1"), ("/s/p:81", "stale")], 0, 1),
            (&[], 0, 0),
        ] {
            let mut planner = planner(held);
            planner.set_desired(&orders, &"p".into(), Some(two_ports()));
            let report = report(&planner);
            assert_eq!(
                (report.ready, report.registered, report.endpoints.len()),
                (1, registered, endpoints)
            );
            assert_eq!(report.outstanding, 2 - endpoints);
        }
    }

    #[test]
    fn a_pod_of_which_a_port_is_missing_is_not_registered_as_a_whole() {
        let mut planner = planner(&[("/s/p:80", "1"), ("/s/p:81", "1")]);
        let missing = Problem::PortMissing {
            target: PortTarget::Name {
                name: "http".into(),
                protocol: None,
            },
            is_host_port: false,
        };
        let reported = missing.to_string();
        let desired = DesiredPod {
            problems: [missing].into(),
            ..two_ports()
        };
        planner.set_desired(&reference("orders"), &"p".into(), Some(desired));
        let report = report(&planner);
        assert_eq!(
            (report.registered, report.endpoints.len(), report.outstanding),
            (0, 2, 0)
        );
        assert_eq!(report.problems, BTreeMap::from([(reported, vec!["p".into()])]));
    }

    #[test]
    fn unreadable_weight_is_reported_and_its_pod_is_registered() {
        let mut planner = planner(&[("/s/p", "1")]);
        let desired = DesiredPod {
            problems: [Problem::WeightUnreadable].into(),
            ..desired("p", &["/s/p"], "1")
        };
        planner.set_desired(&reference("orders"), &"p".into(), Some(desired));
        let report = report(&planner);
        assert_eq!((report.registered, report.problems.len()), (1, 1));
    }

    #[test]
    fn a_key_on_its_way_out_is_outstanding_until_it_is_gone() {
        let mut planner = planner(&[("/s/p", "1")]);
        let (orders, key) = (reference("orders"), Key::from("/s/p"));
        planner.set_desired(&orders, &"p".into(), Some(desired("p", &["/s/p"], "1")));
        planner.set_desired(&orders, &"p".into(), None);
        assert_eq!((report(&planner).ready, report(&planner).outstanding), (0, 1));
        planner.observe(Observation::Changed {
            key,
            held: None,
            revision: 2,
        });
        assert_eq!(report(&planner).outstanding, 0);
    }
}
