//! Takes in what the controller, the mirror and the worker's own tasks send.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinError;

use super::command::{MissingPod, Register};
use super::reporting::Subject;
use super::{Command, Done, RegistryWorker, Version, guarding, size};
use crate::api::{Guard, Limits};
use crate::backend::Backend;
use crate::controller::policy::Verdict;
use crate::model::{Key, KeyValue, LeaseId, Observation, RECORD_VERSION, RegistrationRef};
use crate::plan::newer_version;

/// Observations taken in before the worker acts. Most are of its own writes.
const OBSERVED: usize = 256;

impl<B: Backend> RegistryWorker<B> {
    /// Takes in all commands that the controller has sent. The caller has locked the cache, so that afterwards the
    /// worker knows everything that belongs to the cache's content.
    pub(super) fn take_commands(&mut self) {
        while let Ok(command) = self.lines.commands.try_recv() {
            self.take(command);
        }
    }

    fn pods_are_missing(&mut self, pods: Vec<MissingPod>, at: Instant) {
        for MissingPod {
            registration,
            pod,
            ended,
            selected,
        } in pods
        {
            self.planner.set_missing(&registration, &pod, ended);
            self.select(registration, selected);
        }
        self.writing.observed(at);
    }

    fn set_settings(&mut self, limits: Limits, guard: &Guard, version: Version) {
        self.planner.set_guard(guarding::settings(guard));
        self.planner.set_rate_limit(limits.changes_per_second_per_namespace);
        self.planner.leases().set_capacity(size(limits.keys_per_lease));
        self.writing.set_limits(&limits);
        self.limits = limits;
        self.version = version;
    }

    /// Applies what the Registry's rules allow a registration.
    fn set_verdict(&mut self, registration: &RegistrationRef, verdict: Verdict) {
        self.planner.set_quota(&registration.namespace, verdict.quota);
        self.planner.forbid(registration, verdict.forbidden);
        if let Some(subject) = self.subjects.get_mut(registration) {
            subject.denial = verdict.denial;
        }
    }

    /// Records the number of pods that a registration selects.
    fn select(&mut self, registration: RegistrationRef, selected: usize) {
        if let Some(subject) = self.subjects.get_mut(&registration)
            && subject.select(selected)
        {
            self.debouncer.changed(registration, Instant::now());
        }
    }

    /// Applies a registration, its settings and what its status needs.
    fn register(&mut self, register: Register) {
        let Register {
            registration,
            settings,
            service,
            version,
            selected,
            suppressed,
            kind,
            obstacle,
            missing,
            keeps_previous,
            since,
            places,
            identity,
            last_synced,
        } = register;
        if !keeps_previous {
            self.planner.forget_previous(&registration);
        }
        self.planner.set_settings(&registration, settings);
        self.planner.set_since(&registration, since);
        self.debouncer.changed(registration.clone(), Instant::now());
        let subject = Subject::new(service, version, selected)
            .suppressed(suppressed)
            .of(kind, obstacle, missing);
        let mut subject = subject.recording(places, identity, last_synced);
        if let Some(former) = self.subjects.remove(&registration) {
            subject.take_over(former);
        }
        self.subjects.insert(registration, subject);
    }

    pub(super) fn take(&mut self, command: Command) {
        match command {
            Command::Register(register) => self.register(*register),
            Command::Refuse {
                registration,
                generation,
                reason,
                message,
            } => {
                if let Some(subject) = self.subjects.get_mut(&registration) {
                    subject.refuse(generation, reason, message);
                    self.debouncer.changed(registration, Instant::now());
                }
            }
            Command::Rule { registration, verdict } => self.set_verdict(&registration, verdict),
            Command::Remove(registration) => {
                self.planner.remove_registration(&registration);
                self.subjects.remove(&registration);
                self.debouncer.forget(&registration);
            }
            Command::PodChanged {
                namespace,
                pod,
                ending,
                at,
            } => {
                self.planner.mark_pod(&namespace, &pod, ending, at);
                self.writing.observed(at);
            }
            Command::PodDeleted { namespace, pod } => self.planner.end_pod(&namespace, &pod),
            Command::PodSelected {
                registration,
                pod,
                deleted,
                selected,
                at,
            } => {
                self.planner.mark_changed(&registration, &pod, deleted, at);
                self.select(registration, selected);
                self.writing.observed(at);
            }
            Command::PodsEdited { registration, pods, at } => {
                self.planner.mark_edited(&registration, pods, at);
                self.writing.observed(at);
            }
            Command::PodsMissing { pods, at } => self.pods_are_missing(pods, at),
            Command::KubernetesIsComplete => {
                self.kubernetes.complete = true;
                self.weigh_view(Instant::now());
                self.planner.kubernetes_is_complete();
            }
            Command::KubernetesIsOutdated(outdated) => {
                self.kubernetes.outdated = outdated;
                self.weigh_view(Instant::now());
                self.has_caught_up();
            }
            Command::SomeAreUnclear(unclear) => {
                self.kubernetes.some_are_unclear = unclear;
                self.orphans.is_due();
            }
            Command::Access(offer) => self.offered(offer),
            Command::Status(seen) => self.confirmation.see(seen, Instant::now()),
            Command::Approve(hold) => self.guarding.approved = hold,
            Command::Together(commands) => commands.into_iter().for_each(|command| self.take(command)),
            Command::Settings { limits, guard, version } => self.set_settings(limits, &guard, version),
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
                self.state.view_is_live(now);
                self.access_is_good();
            }
            Observation::Interrupted => self.state.view_is_lost(now),
            Observation::Restored => {
                self.state.view_is_lost(now);
                self.orphans.is_due();
            }
            Observation::Snapshot { entries, .. } => {
                for (key, held) in entries {
                    self.report_if_newer(key, held);
                }
            }
            Observation::Changed { key, held, .. } => {
                if let Some(held) = held {
                    self.report_if_newer(key, held);
                }
            }
            Observation::Denied { .. } => {}
        }
        self.observe_candidates(&observation);
        self.planner.observe(observation);
    }

    /// Logs that a newer release wrote a record of ours.
    fn report_if_newer(&self, key: &Key, held: &KeyValue) {
        if self.planner.is_record(key)
            && let Some(version) = newer_version(&held.value)
        {
            tracing::warn!(
                registry = %self.name, %key, version, known = RECORD_VERSION,
                "a newer release wrote this record; parts that cannot be read stay unchanged, as does what they describe"
            );
        }
    }

    /// Handles the end of a task that the worker started.
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
                slot,
                fence,
                result,
                observed,
            } => self.written((ticket, slot), fence, result, observed),
            Done::Granted { ttl, result } => self.granted(ttl, result),
            Done::Asked(answer) => self.state.answered(answer, Instant::now()),
            Done::StillBehind { fence } => self.still_behind(&fence),
            Done::CheckpointsRead { fence, checkpoints, at } => self.checkpoints_read(&fence, checkpoints, at),
            Done::Tried(access, result) => self.tried(access, result),
            Done::Listed(keys) => self.listed(keys),
            Done::Looked(found) => self.looked(found),
            Done::Searched(search, found) => self.searched(search, found),
            Done::Probed(probed) => self.probed(probed),
            Done::LeaseGroups { about_all, groups } => self.lease_groups_listed(about_all, groups),
        }
    }

    /// Requests the status of etcd when that is due.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.state.ask_at().is_some_and(|at| at <= now) {
            self.state.asked();
            let (backend, live) = (self.backend.clone(), self.state.is_live());
            let key = (!live).then(|| self.leader_key.clone());
            self.tasks
                .spawn(async move { Done::Asked(backend.status(key.as_ref()).await) });
        }
    }

    /// Handles a lease that etcd no longer knows.
    pub(super) fn lapsed(&mut self, lease: LeaseId) {
        tracing::warn!(registry = %self.name, %lease, "lease expired; its keys are written again on another lease");
        self.metrics.count_lapsed(1);
        self.announce_lapsed(lease);
        self.planner.leases().mark_unconfirmed(lease);
    }
}
