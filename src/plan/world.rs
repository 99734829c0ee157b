//! A simulated world: Kubernetes as plain lists, an etcd in memory, and an operator between them that can be disturbed
//! in any way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::properties::{Event, KEYS, PODS, REGISTRATIONS, Wish};
use super::testing::{Etcd, meta, reference, request_leases};
use super::{Planner, PodState, Quota, Step, Ticket};
use crate::model::{Fence, LeaseId, Prefix, RegistrationRef, Transaction, TxnOutcome};

mod check;
mod denied;
mod quota;
mod rejected;
mod unconfirmed;

const KEYS_PER_LEASE: usize = 2;
const MAX_OPS: usize = 3;

/// Restores an earlier state of an etcd.
type Restore = Box<dyn Fn(&mut Etcd)>;

/// A transaction under way, and etcd's answer if it got there.
struct Sent {
    ticket: Ticket,
    transaction: Transaction,
    verdict: Option<TxnOutcome>,
    /// etcd refused it for lack of permission.
    denied: bool,
    /// etcd rejected it for its content.
    rejected: bool,
}

/// Kubernetes as plain lists, an etcd, and the operator between them.
pub(super) struct World {
    registrations: BTreeMap<RegistrationRef, Wish>,
    pods: BTreeMap<Arc<str>, u8>,
    /// Pods that exist and are not ready.
    unready: BTreeMap<Arc<str>, u8>,
    pub etcd: Etcd,
    planner: Planner,
    fence: Fence,
    sent: Vec<Sent>,
    grants: Vec<(LeaseId, u32)>,
    complete: bool,
    began: Instant,
    now: Instant,
    saved: Option<Restore>,
    /// Every prefix that a registration had while it was suspended. Keys there may stay.
    frozen: BTreeMap<RegistrationRef, BTreeSet<Prefix>>,
    /// Keys that a foreign client has overwritten but not created. An operator that saw the key as its own restores it;
    /// any other must treat it as foreign.
    overwritten: BTreeSet<&'static str>,
    forgetful: bool,
    /// etcd was restored: the room reserved for writes under way was forgotten, so leases may carry too many keys.
    restored: bool,
    /// The prefixes that etcd does not let be written.
    denied: BTreeSet<usize>,
    /// The prefixes whose records etcd rejects.
    rejecting: BTreeSet<usize>,
    /// How many keys the registrations may have together.
    quota: Option<Quota>,
}

impl World {
    pub(super) fn new() -> Self {
        let mut etcd = Etcd::new();
        let fence = etcd.elect();
        let mut planner = Planner::new(meta(), KEYS_PER_LEASE);
        planner.set_guard(unconfirmed::GUARD);
        planner.set_lease_groups(denied::lease_groups());
        Self {
            denied: BTreeSet::new(),
            rejecting: BTreeSet::new(),
            quota: None,
            registrations: BTreeMap::new(),
            pods: BTreeMap::new(),
            unready: BTreeMap::new(),
            etcd,
            planner,
            fence,
            sent: Vec::new(),
            grants: Vec::new(),
            complete: false,
            began: Instant::now(),
            now: Instant::now(),
            saved: None,
            frozen: BTreeMap::new(),
            overwritten: BTreeSet::new(),
            forgetful: false,
            restored: false,
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Pod(pod, address) => self.pod(PODS[pod], address),
            Event::Unconfirm(pod) => self.unconfirm(PODS[pod]),
            Event::Register(name, wish) => self.register(&reference(REGISTRATIONS[name]), wish),
            Event::Unregister(name) => self.unregister(&reference(REGISTRATIONS[name])),
            Event::ForeignPut(key) => self.foreign_put(KEYS[key]),
            Event::Delete(key) => self.etcd.foreign_delete(KEYS[key]),
            Event::DeleteRecord(which) => {
                if let Some(lease) = self.some_lease(which) {
                    self.etcd.foreign_delete(&meta().record_key(lease));
                    self.forgetful = true;
                }
            }
            Event::LeaseLapses(which) => {
                if let Some(lease) = self.some_lease(which) {
                    self.etcd.expire(lease);
                }
            }
            Event::Step => drop(self.step()),
            Event::Commit(which) => {
                if !self.sent.is_empty() {
                    self.commit(which % self.sent.len());
                }
            }
            Event::Settle(which, lost) => {
                if !self.sent.is_empty() {
                    self.settle(which % self.sent.len(), lost);
                }
            }
            Event::GrantArrives(succeeds) => drop(self.grant_arrives(succeeds)),
            Event::Deliver(pick) => drop(self.deliver(pick)),
            Event::Interrupt => {
                self.etcd.interrupt();
                self.forgetful = true;
            }
            Event::Resume => self.etcd.resume(),
            Event::NewLeader => self.fence = self.etcd.elect(),
            Event::Restart => self.restart(),
            Event::KubernetesComplete => self.kubernetes_is_complete(),
            Event::Retire => self.retire(),
            Event::Save => self.saved = Some(Box::new(self.etcd.save())),
            Event::Restore => self.restore(),
            Event::Deny(prefix) => drop(self.denied.insert(prefix)),
            Event::Allow(prefix) => {
                self.denied.remove(&prefix);
                self.probe();
            }
            Event::Reject(prefix) => drop(self.rejecting.insert(prefix)),
            Event::Accept(prefix) => {
                self.rejecting.remove(&prefix);
                self.retry_rejected();
            }
            Event::Quota(keys) => self.set_quota(keys),
        }
    }

    fn pod(&mut self, pod: &str, address: Option<u8>) {
        self.unready.remove(pod);
        match address {
            Some(address) => drop(self.pods.insert(pod.into(), address)),
            None => drop(self.pods.remove(pod)),
        }
        if self.complete {
            for (registration, wish) in &self.registrations {
                let desired = address.map(|address| wish.desired(pod, address));
                self.planner.set_desired(registration, &pod.into(), desired);
            }
        }
    }

    fn register(&mut self, registration: &RegistrationRef, wish: Wish) {
        let settings = wish.settings();
        let frozen = self.frozen.entry(registration.clone()).or_default();
        frozen.retain(|_| settings.suspended);
        frozen.extend(settings.prefixes.iter().cloned());
        if let Some(before) = self.registrations.insert(registration.clone(), wish) {
            frozen.extend(before.settings().prefixes);
        }
        if self.complete {
            self.planner.set_settings(registration, settings);
            self.show_pods(registration);
        }
    }

    /// Whether the prefixes of a suspended registration were edited.
    pub(super) fn has_edited_frozen(&self) -> bool {
        let is_edited = |(name, wish): (&RegistrationRef, &Wish)| {
            let now = wish.settings().prefixes;
            wish.suspended && self.frozen[name].iter().any(|prefix| !now.contains(prefix))
        };
        self.registrations.iter().any(is_edited)
    }

    fn unregister(&mut self, registration: &RegistrationRef) {
        self.registrations.remove(registration);
        if self.complete {
            self.planner.remove_registration(registration);
        }
    }

    fn show_pods(&mut self, registration: &RegistrationRef) {
        let wish = &self.registrations[registration];
        for (pod, address) in &self.pods {
            let desired = wish.desired(pod, *address);
            self.planner.set_desired(registration, pod, Some(desired));
        }
        for (pod, address) in &self.unready {
            let pod_state = PodState::Unready(wish.desired(pod, *address));
            self.planner.set_pod_state(registration, pod, pod_state);
        }
    }

    fn foreign_put(&mut self, key: &'static str) {
        if self.etcd.held(key).is_some() && !self.etcd.is_foreign(key) {
            self.overwritten.insert(key);
        }
        self.etcd.foreign_put(key, "theirs");
    }

    fn some_lease(&self, which: usize) -> Option<LeaseId> {
        let leases = self.etcd.recorded();
        leases.get(which % leases.len().max(1)).copied()
    }

    fn step(&mut self) -> bool {
        self.decide_removals();
        let is_granted = self.grant();
        let step = self.planner.next(&(), MAX_OPS);
        if let Some(prefixes) = self.planner.take_changed_prefixes() {
            self.etcd.watch(prefixes);
        }
        let Some(step) = step else {
            return is_granted | self.grant();
        };
        assert!(
            self.complete,
            "before Kubernetes has told everything nothing is done: {step:?}"
        );
        self.take(step);
        true
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(ticket, transaction) => self.sent.push(Sent {
                ticket,
                transaction,
                verdict: None,
                denied: false,
                rejected: false,
            }),
            Step::Continue => {}
        }
    }

    fn grant(&mut self) -> bool {
        let is_any = request_leases(&mut self.planner, &mut self.etcd, &mut self.grants);
        assert!(self.grants.len() <= 40, "these are far more leases than all keys need");
        is_any
    }

    fn commit(&mut self, which: usize) {
        let denied = self.is_denied(&self.sent[which].transaction);
        let rejected = self.is_rejected(&self.sent[which].transaction);
        let sent = &mut self.sent[which];
        if sent.verdict.is_none() && !sent.denied && !sent.rejected {
            (sent.denied, sent.rejected) = (denied, rejected && !denied);
            if !denied && !rejected {
                sent.verdict = Some(self.etcd.commit(&self.fence, &sent.transaction));
            }
        }
    }

    fn settle(&mut self, which: usize, lost: bool) {
        let sent = self.sent.swap_remove(which);
        self.forgetful |= lost;
        if sent.denied && !lost {
            self.search(sent.ticket);
        }
        if sent.rejected && !lost {
            self.reject(sent.ticket);
        }
        self.planner.complete(sent.ticket, sent.verdict.filter(|_| !lost));
    }

    fn grant_arrives(&mut self, succeeds: bool) -> bool {
        let Some((lease, ttl)) = self.grants.pop() else {
            return false;
        };
        if succeeds {
            self.planner.granted(lease, ttl);
        }
        true
    }

    fn deliver(&mut self, pick: usize) -> bool {
        let reported = self.etcd.deliver(pick);
        reported.map(|observation| self.planner.observe(observation)).is_some()
    }

    /// Starts a new operator. It knows the registrations at once, and the pods once Kubernetes has been listed.
    pub(super) fn restart(&mut self) {
        self.forgetful = true;
        self.complete = false;
        self.sent.clear();
        self.grants.clear();
        self.etcd.forget_watches();
        self.fence = self.etcd.elect();
        self.planner = Planner::new(meta(), KEYS_PER_LEASE);
        self.planner.set_guard(unconfirmed::GUARD);
        self.planner.set_lease_groups(denied::lease_groups());
        for (registration, wish) in &self.registrations {
            self.planner.set_settings(registration, wish.settings());
        }
        self.show_quota();
    }

    fn kubernetes_is_complete(&mut self) {
        if std::mem::replace(&mut self.complete, true) {
            return;
        }
        let known: Vec<_> = self.registrations.keys().cloned().collect();
        for registration in REGISTRATIONS.map(reference) {
            if !known.contains(&registration) {
                self.planner.remove_registration(&registration);
            }
        }
        for registration in known {
            self.planner
                .set_settings(&registration, self.registrations[&registration].settings());
            self.show_pods(&registration);
        }
        self.planner.kubernetes_is_complete();
    }

    fn retire(&mut self) {
        // Twice: first a lease is found empty, then it is found still empty.
        for _ in 0..2 {
            if let Some(step) = self.planner.retire_leases(self.now) {
                self.take(step);
            }
            self.now += Duration::from_secs(700);
        }
    }

    fn restore(&mut self) {
        if let Some(restore) = self.saved.take() {
            restore(&mut self.etcd);
            // The leader finds its key gone and campaigns again.
            self.fence = self.etcd.elect();
            self.forgetful = true;
            self.restored = true;
        }
    }

    /// Lets everything under way arrive, until nothing changes any more.
    pub(super) fn come_to_rest(&mut self) {
        self.kubernetes_is_complete();
        self.etcd.resume();
        self.denied.clear();
        self.probe();
        self.rejecting.clear();
        for _ in 0..500 {
            let mut moved = self.step();
            while self.deliver(0) {
                moved = true;
            }
            while self.grant_arrives(true) {
                moved = true;
            }
            while !self.sent.is_empty() {
                self.commit(0);
                self.settle(0, false);
                moved = true;
            }
            // Some transactions were refused earlier, and their answer arrives only now.
            self.probe();
            self.retry_rejected();
            moved = moved || self.find_leftovers() || self.time_passes() || self.hold_ends();
            if !moved {
                return;
            }
        }
        panic!("it does not come to rest: {:#?}", self.planner);
    }

    /// Expires the leases that the operator does not renew.
    fn time_passes(&mut self) -> bool {
        let renewed = self.planner.lease_ids();
        let forgotten: Vec<_> = self.etcd.leases().filter(|lease| !renewed.contains(lease)).collect();
        for lease in &forgotten {
            self.etcd.expire(*lease);
        }
        !forgotten.is_empty()
    }

    /// Finds keys on our leases that lie in no known prefix.
    fn find_leftovers(&mut self) -> bool {
        let on_leases = self
            .planner
            .lease_ids()
            .into_iter()
            .flat_map(|lease| self.etcd.keys_on(lease));
        let unknown = self.planner.unknown_keys(on_leases.collect::<Vec<_>>());
        let revision = self.etcd.revision();
        for key in &unknown {
            let held = self.etcd.held(key).cloned();
            self.planner.find_stray(key, held, revision);
        }
        !unknown.is_empty()
    }
}
