//! Single decisions about keys: a planner, an etcd in memory, and the writes between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::testing::{Etcd, desired, endpoint, meta, reference, request_leases, settings};
use super::{Conflict, DesiredPod, DesiredState, EndpointRecords, Holder, Planner, RegistrationSettings, Report, Step};
use crate::model::{Expect, Fence, LeaseId, Op, Prefix, Record, Transaction, TxnOutcome};

mod contests;
mod denied;
mod gated;
mod growth;
mod holds;
mod last_endpoint;
mod leases;
mod min_ready;
mod previous;
mod refresh;
mod rejected;
mod rules;
mod turns;
mod unconfirmed;
mod units;
mod writes;

struct Rig {
    etcd: Etcd,
    planner: Planner,
    fence: Fence,
}

fn suspended(created: i64) -> RegistrationSettings {
    RegistrationSettings {
        suspended: true,
        ..settings(created)
    }
}

impl Rig {
    /// A rig with the registration `orders` and the prefix `/s/`.
    fn new() -> Self {
        let mut etcd = Etcd::new();
        let fence = etcd.elect();
        let mut rig = Self {
            etcd,
            planner: Planner::new(meta(), 256),
            fence,
        };
        rig.planner.set_settings(&reference("orders"), settings(1));
        rig.planner.kubernetes_is_complete();
        rig
    }

    fn want(&mut self, registration: &str, pod: &str, keys: &[&str], value: &str) {
        let desired = desired(pod, keys, value);
        self.planner
            .set_desired(&reference(registration), &pod.into(), Some(desired));
    }

    fn drop_pod(&mut self, registration: &str, pod: &str) {
        self.planner.set_desired(&reference(registration), &pod.into(), None);
    }

    fn listen(&mut self) {
        if let Some(prefixes) = self.planner.take_changed_prefixes() {
            self.etcd.watch(prefixes);
        }
        while let Some(observation) = self.etcd.deliver(0) {
            self.planner.observe(observation);
        }
    }

    /// Returns the next transaction; carries out grants on the way.
    fn next(&mut self) -> Option<(super::Ticket, Transaction)> {
        self.listen();
        loop {
            match self.step(&(), Transaction::MAX_OPS)? {
                Step::Continue => {}
                Step::Write(ticket, transaction) => return Some((ticket, transaction)),
            }
        }
    }

    /// Returns the next step towards `desired`; carries out grants on the way.
    fn step(&mut self, desired: &dyn DesiredState, max_ops: usize) -> Option<Step> {
        loop {
            self.grant();
            let step = self.planner.next(desired, max_ops);
            if step.is_some() || !self.grant() {
                return step;
            }
        }
    }

    /// Offers the room on leases and grants those that are missing. Returns whether that changed anything.
    fn grant(&mut self) -> bool {
        let mut requested = Vec::new();
        let is_any = request_leases(&mut self.planner, &mut self.etcd, &mut requested);
        for (lease, ttl) in requested {
            self.planner.granted(lease, ttl);
        }
        is_any
    }

    fn commit(&mut self, transaction: &Transaction) -> TxnOutcome {
        self.etcd.commit(&self.fence, transaction)
    }

    /// Carries out all steps; returns the transactions that write data keys.
    fn run(&mut self) -> Vec<Transaction> {
        let mut written = Vec::new();
        while let Some((ticket, transaction)) = self.next() {
            assert!(written.len() < 100, "it does not come to rest");
            let verdict = self.commit(&transaction);
            self.planner.complete(ticket, Some(verdict));
            if !transaction.ops.iter().all(|op| op.key().starts_with("/leasehold/")) {
                written.push(transaction);
            }
        }
        written
    }

    fn report(&self, registration: &str) -> Report<'_> {
        self.planner.report(&reference(registration)).expect("it is known")
    }

    fn lease_of(&self, key: &str) -> LeaseId {
        self.etcd.held(key).unwrap_or_else(|| panic!("{key} is missing")).lease
    }
}

fn keys(transaction: &Transaction) -> Vec<&str> {
    transaction.ops.iter().map(|op| &**op.key()).collect()
}
