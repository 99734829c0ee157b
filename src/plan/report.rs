//! What one registration has in etcd right now, as the ledger knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ledger::{Ledger, Slot};
use super::tenancy::{Lodging, Problem, Tenancy};
use super::transaction::{Key, LeaseId, Revision};
use crate::format::Endpoint;
use crate::index::RegistrationRef;

/// What one registration has in etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// The registration asks for no changes.
    pub suspended: bool,
    /// Its ready pods.
    pub ready: usize,
    /// Those of them that have all they should have.
    pub registered: usize,
    /// The endpoints that have at least one key, in the order of pods, with the keys they have.
    pub endpoints: Vec<Registered<'a>>,
    /// How many keys are still to be written or removed.
    pub outstanding: usize,
    /// The keys that are held by someone else, in the order of pods.
    pub conflicts: Vec<Conflict>,
    /// What is wrong with which pods, and how many they are.
    pub problems: BTreeMap<String, Vec<Arc<str>>>,
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
}

/// Who has a key that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Somebody who is not this cluster's operator.
    Stranger {
        /// The lease the key is on.
        lease: LeaseId,
        /// When the key came into being.
        create_revision: Revision,
    },
    /// An older registration of this cluster.
    Registration(RegistrationRef),
}

/// How one wanted key stands.
enum Standing {
    Present,
    Outstanding,
    Conflict(Holder),
}

impl Ledger {
    /// What `registration` has in etcd; none when it is not known.
    pub fn report(&self, registration: &RegistrationRef) -> Option<Report<'_>> {
        let book = self.books.get(registration)?;
        let mut report = Report {
            suspended: book.terms.suspended,
            ready: book.tenancies.len(),
            registered: 0,
            endpoints: Vec::new(),
            outstanding: book
                .dropped
                .values()
                .flatten()
                .filter(|key| self.is_leaving(key))
                .count(),
            conflicts: Vec::new(),
            problems: BTreeMap::new(),
        };
        for (pod, tenancy) in &book.tenancies {
            for problem in &tenancy.problems {
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
            if missing == 0 && tenancy.is_whole() {
                report.registered += 1;
            }
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
        for record in &lodging.records {
            match self.standing(&record.key, &record.value, registration, pod) {
                Standing::Present => keys.push(record.key.clone()),
                Standing::Outstanding => report.outstanding += 1,
                Standing::Conflict(holder) => {
                    let key = record.key.clone();
                    report.conflicts.push(Conflict { key, holder });
                }
            }
        }
        let missing = lodging.records.len() - keys.len();
        if !keys.is_empty() {
            let endpoint = &lodging.endpoint;
            report.endpoints.push(Registered { endpoint, keys });
        }
        missing
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
        match &slot.held {
            None => Standing::Outstanding,
            Some(held) if self.is_ours(slot) => {
                if *held.value == *value && self.leases.is_ours(held.lease) {
                    Standing::Present
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
        self.slots.get(key).is_some_and(leaving)
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
