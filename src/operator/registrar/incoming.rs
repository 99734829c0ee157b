//! What a registrar is told, by the intake, by the mirror and by the tasks it started, and what it makes of it.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinError;

use super::reporting::Subject;
use super::{Done, Order, Registrar, guarding, size};
use crate::etcd::{self, Connection};
use crate::plan::{Held, Key, LeaseId, Observation, RECORD_VERSION, newer_version};

/// Orders taken in before the next look at what is to be done: what comes together is written together.
const BATCH: usize = 1024;
/// Observations taken in before that: most are of what was written here.
const OBSERVED: usize = 256;

impl Registrar {
    pub(super) fn take_orders(&mut self, first: Order, rest: &mut mpsc::UnboundedReceiver<Order>) {
        self.take(first);
        for _ in 1..BATCH {
            match rest.try_recv() {
                Ok(order) => self.take(order),
                Err(_) => return,
            }
        }
    }

    pub(super) fn take(&mut self, order: Order) {
        match order {
            Order::Register {
                registration,
                terms,
                service,
                version,
                selected,
                aside,
                keeps_previous,
                since,
                places,
                identity,
                last_synced,
            } => {
                if !keeps_previous {
                    self.ledger.forget_previous(&registration);
                }
                self.ledger.set_terms(&registration, terms);
                self.ledger.set_since(&registration, since);
                self.pacer.changed(registration.clone(), Instant::now());
                let subject = Subject::new(service, version, selected).aside(aside);
                let mut subject = subject.recording(places, identity, last_synced);
                if let Some(former) = self.subjects.remove(&registration) {
                    subject.take_over(former);
                }
                self.subjects.insert(registration, subject);
            }
            Order::Refuse {
                registration,
                generation,
                reason,
                message,
            } => {
                if let Some(subject) = self.subjects.get_mut(&registration) {
                    subject.refuse(generation, reason, message);
                    self.pacer.changed(registration, Instant::now());
                }
            }
            Order::Rule { registration, verdict } => {
                self.ledger.set_quota(&registration.namespace, verdict.quota);
                self.ledger.forbid(&registration, verdict.forbidden);
                if let Some(subject) = self.subjects.get_mut(&registration) {
                    subject.denial = verdict.denial;
                }
            }
            Order::Remove(registration) => {
                self.ledger.remove_registration(&registration);
                self.subjects.remove(&registration);
                self.pacer.forget(&registration);
            }
            Order::Pod {
                registration,
                pod,
                presence,
                selected,
                heard,
                slip,
            } => {
                self.slips.extend(slip);
                self.ledger.set_presence(&registration, &pod, presence);
                if let Some(subject) = self.subjects.get_mut(&registration)
                    && subject.select(selected)
                {
                    self.pacer.changed(registration, Instant::now());
                }
                self.writing.heard(heard);
            }
            Order::KubernetesIsComplete => {
                self.kubernetes.complete = true;
                self.weigh_view(Instant::now());
                self.ledger.kubernetes_is_complete();
            }
            Order::KubernetesIsOutdated(outdated) => {
                self.kubernetes.outdated = outdated;
                self.weigh_view(Instant::now());
                self.has_caught_up();
            }
            Order::Progress(progress) => {
                self.kubernetes.progress = progress;
                self.has_caught_up();
            }
            Order::SomeAreUnclear(unclear) => {
                self.kubernetes.some_are_unclear = unclear;
                self.sweep.is_due();
            }
            Order::Access(offer) => self.offered(offer),
            Order::Status(seen) => self.confirmation.see(seen, Instant::now()),
            Order::Approve(hold) => self.guarding.approved = hold,
            Order::Together(orders) => orders.into_iter().for_each(|order| self.take(order)),
            Order::Settings { limits, guard, version } => {
                self.ledger.set_guard(guarding::terms(&guard));
                self.ledger.leases().set_capacity(size(limits.keys_per_lease));
                self.writing.set_limits(&limits);
                self.limits = limits;
                self.version = version;
            }
        }
    }

    pub(super) fn observe_all(&mut self, first: Observation, rest: &mut mpsc::Receiver<Observation>) {
        self.observe(first);
        for _ in 1..OBSERVED {
            match rest.try_recv() {
                Ok(observation) => self.observe(observation),
                Err(_) => return,
            }
        }
    }

    pub(super) fn observe(&mut self, observation: Observation) {
        let now = Instant::now();
        match &observation {
            Observation::Complete { .. } => {
                self.standing.view_is_live(now);
                self.access_is_good();
            }
            Observation::Interrupted => self.standing.view_is_lost(now),
            Observation::Restored => {
                self.standing.view_is_lost(now);
                self.sweep.is_due();
            }
            Observation::Snapshot { entries, .. } => {
                for (key, held) in entries {
                    self.tell_if_newer(key, held);
                }
            }
            Observation::Changed { key, held, .. } => {
                if let Some(held) = held {
                    self.tell_if_newer(key, held);
                }
            }
            Observation::Denied { .. } => {}
        }
        self.observe_candidates(&observation);
        self.ledger.observe(observation);
    }

    /// Says of a record of ours that a newer release wrote it.
    fn tell_if_newer(&self, key: &Key, held: &Held) {
        if self.ledger.is_record(key)
            && let Some(version) = newer_version(&held.value)
        {
            tracing::warn!(
                registry = %self.name, %key, version, known = RECORD_VERSION,
                "a newer release wrote this record: what cannot be read of it stays as it is, and so does what it is about"
            );
        }
    }

    /// A task that was started here has ended.
    pub(super) fn end_of(&mut self, task: Result<Done, JoinError>) {
        match task {
            Ok(done) => self.done(done),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Written {
                ticket,
                track,
                fence,
                result,
                heard,
            } => self.written((ticket, track), fence, result, heard),
            Done::Granted { lease, ttl, result } => self.granted(lease, ttl, result),
            Done::Asked(answer) => self.standing.answered(answer, Instant::now()),
            Done::NotesRead { fence, notes, at } => self.notes_read(&fence, notes, at),
            Done::Tried(access, result) => self.tried(access, result),
            Done::Listed(keys) => self.listed(keys),
            Done::Looked(found) => self.looked(found),
            Done::Searched(search, found) => self.searched(search, found),
            Done::Probed(probed) => self.probed(probed),
            Done::Domains(domains) => self.told_domains(domains),
        }
    }

    /// Asks etcd for its status when that is in question.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.standing.ask_at().is_some_and(|at| at <= now) {
            self.standing.asked();
            let (connection, live) = (self.connection.clone(), self.standing.is_live());
            let key = (!live).then(|| self.leader_key.clone());
            self.tasks
                .spawn(async move { Done::Asked(question(&connection, key).await) });
        }
    }

    /// etcd says that it does not know this lease.
    pub(super) fn lapsed(&mut self, lease: LeaseId) {
        tracing::warn!(registry = %self.name, %lease, "a lease lapsed; its keys are put back on another");
        self.metrics.count_lapsed(1);
        self.announce_lapsed(lease);
        self.ledger.leases().doubt(lease);
    }
}

/// Asks etcd for its status; and for a key of ours as well, if one is named: who may do nothing there may still ask for
/// the status.
async fn question(connection: &Connection, key: Option<Key>) -> etcd::Result<etcd::Status> {
    let status = connection.status().await;
    let looked = match &key {
        Some(key) => connection.get(key).await.map(drop),
        None => Ok(()),
    };
    let answer = match looked {
        Err(etcd::Error::PermissionDenied { message }) => Err(etcd::Error::PermissionDenied {
            message: format!("{message}, for {}", key.as_deref().unwrap_or_default()),
        }),
        Err(error) if error.is_access() => Err(error),
        // Some releases tell their status to administrators only, which is no trouble of ours.
        _ => status,
    };
    match answer {
        Ok(status) => Ok(status),
        Err(error) => Err(connection.explain(error).await),
    }
}
