//! What one registration has in etcd right now, as the ledger knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::denied::Right;
use super::ledger::{Ledger, Slot};
use super::rejected::Rejection;
use super::tenancy::{Lodging, Problem, Tenancy};
use super::transaction::{Key, LeaseId, Revision, Scope};
use crate::api::Reason;
use crate::format::{Endpoint, Record};
use crate::index::RegistrationRef;

/// What one registration has in etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// The registration asks for no changes.
    pub suspended: bool,
    /// The pod whose endpoint is kept though it is not ready, because it was the last one.
    pub kept: Option<&'a Arc<str>>,
    /// How many of its pods are ready.
    pub ready: usize,
    /// Those of them that have all they should have.
    pub registered: usize,
    /// The endpoints that have at least one key, in the order of pods, with the keys they have.
    pub endpoints: Vec<Registered<'a>>,
    /// How many keys are still to be written or removed.
    pub outstanding: usize,
    /// How many keys are kept though their pods do not seem to be ready: the guard holds them.
    pub held: usize,
    /// The keys that are held by someone else, in the order of pods.
    pub conflicts: Vec<Conflict>,
    /// What is wrong, in words, and with which pods, in order.
    pub problems: BTreeMap<String, Vec<Arc<str>>>,
    /// What scripts are told of these problems, if it is the Registry's rules that are the problem.
    pub ruled_out: Option<Reason>,
    /// Where its keys lie and etcd lets nothing be read, or written.
    pub denied: Vec<(Scope, Right)>,
    /// The smallest of its record sets that etcd rejects for their content.
    pub rejected: Option<&'a Rejection>,
    /// How many pods keep what they have by the spec before, because the newest one cannot be carried out for them.
    pub retained: usize,
    /// The folders that those keys lie in.
    pub retained_at: BTreeSet<Key>,
    /// Nothing is left of the spec before, and at least one endpoint is in etcd by the newest one.
    pub carried_out: bool,
}

/// An endpoint that is in etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
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
    Stranger {
        /// The lease the key is on.
        lease: LeaseId,
        /// When the key came into being.
        create_revision: Revision,
    },
    /// A registration of this cluster that comes first: an older one, or this one itself for another of its pods.
    Registration(RegistrationRef),
}

/// How one wanted key stands.
enum Standing {
    Present,
    Outstanding,
    Rejected,
    Conflict(Holder),
}

impl Ledger {
    /// What `registration` has in etcd; none when it is not known.
    pub fn report(&self, registration: &RegistrationRef) -> Option<Report<'_>> {
        let book = self.books.get(registration)?;
        let mut report = Report {
            suspended: book.terms.suspended,
            kept: book.kept.as_ref(),
            ready: book.tenancies.len() - usize::from(book.kept.is_some()),
            registered: 0,
            endpoints: Vec::new(),
            outstanding: book
                .dropped
                .values()
                .flatten()
                .filter(|key| self.is_leaving(key))
                .count(),
            held: book
                .terms
                .scopes
                .iter()
                .map(|scope| self.guard.held_in(scope, registration))
                .sum(),
            conflicts: Vec::new(),
            problems: BTreeMap::new(),
            ruled_out: None,
            denied: self.denied_to(registration),
            rejected: self.rejected.smallest(&Some(registration.clone())),
            retained: 0,
            retained_at: BTreeSet::new(),
            carried_out: false,
        };
        for (pod, tenancy) in &book.tenancies {
            for problem in &tenancy.problems {
                report.ruled_out = report.ruled_out.or(match problem {
                    Problem::Denied(_) => Some(Reason::AccessDenied),
                    Problem::OverQuota(_) => Some(Reason::QuotaExceeded),
                    _ => None,
                });
                report
                    .problems
                    .entry(problem.to_string())
                    .or_default()
                    .push(pod.clone());
            }
            let mut missing = 0;
            for lodging in &tenancy.lodgings {
                missing += self.report_lodging(&mut report, registration, pod, lodging);
            }
            if missing == 0 && tenancy.is_whole() && report.kept != Some(pod) {
                report.registered += 1;
            }
        }
        report.carried_out = !report.endpoints.is_empty();
        for (pod, tenancy) in &book.tenancies {
            self.report_previous(&mut report, registration, pod, tenancy);
        }
        Some(report)
    }

    /// Adds one endpoint to `report`; returns how many of its keys are missing.
    fn report_lodging<'a>(
        &'a self,
        report: &mut Report<'a>,
        registration: &RegistrationRef,
        pod: &Arc<str>,
        lodging: &'a Lodging,
    ) -> usize {
        let mut keys = Vec::with_capacity(lodging.records.len());
        for group in lodging.groups() {
            self.report_group(report, registration, pod, group, &mut keys);
        }
        let missing = lodging.records.len() - keys.len();
        if !keys.is_empty() {
            let endpoint = &lodging.endpoint;
            report.endpoints.push(Registered { endpoint, keys });
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
            match self.standing(&key, &record.value, registration, pod) {
                Standing::Present => there.push(key),
                Standing::Outstanding => along.push(key),
                Standing::Rejected => is_rejected = true,
                Standing::Conflict(holder) => taken.push((key, holder)),
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
        let is_there = |key: &&Key| self.slots.get(*key).is_some_and(|slot| self.is_ours(slot));
        report.outstanding += there.len() + along.iter().filter(is_there).count();
        present.append(&mut there.clone());
        along.append(&mut there);
        for (key, holder) in taken {
            let along = std::mem::take(&mut along);
            report.conflicts.push(Conflict { key, holder, along });
        }
    }

    fn standing(&self, key: &Key, value: &[u8], registration: &RegistrationRef, pod: &Arc<str>) -> Standing {
        let Some(slot) = self.slots.get(key) else {
            return Standing::Outstanding;
        };
        match slot.claims.first() {
            Some(first) if first.registration != *registration => {
                return Standing::Conflict(Holder::Registration(first.registration.clone()));
            }
            // Two pods of one registration: the format gave both the same key, the first has it.
            Some(first) if first.pod != *pod => {
                return Standing::Conflict(Holder::Registration(first.registration.clone()));
            }
            _ => {}
        }
        let is_rejected = self.rejected.of(key).is_some();
        match &slot.held {
            None if is_rejected => Standing::Rejected,
            None => Standing::Outstanding,
            Some(held) if self.is_ours(slot) => {
                if *held.value == *value && self.leases.is_ours(held.lease) {
                    Standing::Present
                } else if is_rejected {
                    Standing::Rejected
                } else {
                    Standing::Outstanding
                }
            }
            Some(held) => Standing::Conflict(Holder::Stranger {
                lease: held.lease,
                create_revision: held.create_revision,
            }),
        }
    }

    fn is_leaving(&self, key: &Key) -> bool {
        let leaving = |slot: &Slot| slot.claims.is_empty() && slot.held.is_some() && self.is_ours(slot);
        self.slots.get(key).is_some_and(leaving) && !self.guard.detains(key)
    }
}

impl Tenancy {
    /// Whether every port of the pod could be expressed in every format.
    fn is_whole(&self) -> bool {
        self.problems
            .iter()
            .all(|problem| matches!(problem, Problem::WeightUnreadable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{endpoint, meta, reference, tenancy};
    use crate::plan::{Observation, Terms};

    /// A ledger of the registration `orders`, in an etcd that holds `held` on a recorded lease.
    fn ledger(held: &[(&str, &str)]) -> Ledger {
        let mut ledger = Ledger::new(meta(), 256);
        let terms = Terms {
            created: 1,
            ttl: 30,
            suspended: false,
            keep_last: false,
            scopes: vec![Scope::below("/s/")],
        };
        ledger.set_terms(&reference("orders"), terms);
        ledger.leases().recorded(LeaseId(1), Some(30), 1);
        let entry = |(key, value): &(&str, &str)| {
            let held = crate::plan::Held {
                value: value.as_bytes().into(),
                lease: LeaseId(1),
                create_revision: 1,
                mod_revision: 1,
            };
            (Key::from(*key), held)
        };
        ledger.observe(Observation::Snapshot {
            scope: Scope::below("/s/"),
            revision: 1,
            entries: held.iter().map(entry).collect(),
        });
        ledger
    }

    fn report(ledger: &Ledger) -> Report<'_> {
        ledger.report(&reference("orders")).expect("it is known")
    }

    /// The tenancy of `p` with one key for each of two ports.
    fn two_ports() -> Tenancy {
        let lodging = |port: u16| Lodging {
            endpoint: endpoint("p", port),
            records: vec![Record {
                key: format!("/s/p:{port}").into(),
                value: b"1".as_slice().into(),
            }],
            units: Vec::new(),
        };
        Tenancy {
            lodgings: vec![lodging(80), lodging(81)],
            ..Tenancy::default()
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
            let mut ledger = ledger(held);
            ledger.set_tenancy(&orders, &"p".into(), Some(two_ports()));
            let report = report(&ledger);
            assert_eq!(
                (report.ready, report.registered, report.endpoints.len()),
                (1, registered, endpoints)
            );
            assert_eq!(report.outstanding, 2 - endpoints);
        }
    }

    #[test]
    fn a_pod_of_which_a_port_is_missing_is_not_registered_as_a_whole() {
        let mut ledger = ledger(&[("/s/p:80", "1"), ("/s/p:81", "1")]);
        let missing = Problem::PortMissing {
            port: "http".into(),
            protocol: None,
        };
        let told = missing.to_string();
        let tenancy = Tenancy {
            problems: vec![missing],
            ..two_ports()
        };
        ledger.set_tenancy(&reference("orders"), &"p".into(), Some(tenancy));
        let report = report(&ledger);
        assert_eq!(
            (report.registered, report.endpoints.len(), report.outstanding),
            (0, 2, 0)
        );
        assert_eq!(report.problems, BTreeMap::from([(told, vec!["p".into()])]));
    }

    #[test]
    fn an_unreadable_weight_is_told_and_keeps_no_pod_out() {
        let mut ledger = ledger(&[("/s/p", "1")]);
        let tenancy = Tenancy {
            problems: vec![Problem::WeightUnreadable],
            ..tenancy("p", &["/s/p"], "1")
        };
        ledger.set_tenancy(&reference("orders"), &"p".into(), Some(tenancy));
        let report = report(&ledger);
        assert_eq!((report.registered, report.problems.len()), (1, 1));
    }

    #[test]
    fn a_key_on_its_way_out_is_outstanding_until_it_is_gone() {
        let mut ledger = ledger(&[("/s/p", "1")]);
        let (orders, key) = (reference("orders"), Key::from("/s/p"));
        ledger.set_tenancy(&orders, &"p".into(), Some(tenancy("p", &["/s/p"], "1")));
        ledger.set_tenancy(&orders, &"p".into(), None);
        assert_eq!((report(&ledger).ready, report(&ledger).outstanding), (0, 1));
        ledger.observe(Observation::Changed {
            key,
            held: None,
            revision: 2,
        });
        assert_eq!(report(&ledger).outstanding, 0);
    }
}
