//! Handles changes of leadership, and collects keys of registrations that were deleted while no replica watched.
//!
//! No list contains such registrations any more, so no replica watches their prefixes. But their keys are on our
//! leases, and etcd knows which keys are on a lease. The worker reads those that no registration is known to want. From
//! then on the planner treats them like any other key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Done, RegistryWorker};
use crate::api::{Registry, ServiceRegistration};
use crate::backend::{self, Backend, ErrorKind, Leadership};
use crate::kube::StatusUpdate;
use crate::model::{Key, KeyValue, RegistrationRef, Revision};

/// Concurrent requests to etcd.
const QUESTIONS: usize = 4;
/// Pause before a failed collection is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether orphaned keys may have to be collected.
#[derive(Debug, Default)]
pub struct OrphanCollection {
    due: bool,
    running: bool,
    not_before: Option<Instant>,
}

impl OrphanCollection {
    /// Schedules a collection.
    pub fn is_due(&mut self) {
        self.due = true;
    }

    /// When to try again after a failure. None once that time has come: any condition that is still missing arrives as
    /// an event.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now && self.due && !self.running)
    }

    #[cfg(test)]
    pub fn fail_long_ago(&mut self) {
        self.not_before = self.not_before.and_then(|at| at.checked_sub(2 * PAUSE));
    }
}

impl<B: Backend> RegistryWorker<B> {
    pub(super) fn leads(&self) -> bool {
        matches!(&self.leadership, Leadership::Leading(_))
    }

    pub(super) fn leadership_changed(&mut self) {
        let now = self.lines.leadership.borrow_and_update().clone();
        self.leadership = now.clone();
        self.metrics.set_leader(matches!(now, Leadership::Leading(_)));
        match now {
            Leadership::Leading(fence) => {
                self.led = true;
                // Under the same fence no other replica can have led meanwhile: this view is still the newest.
                self.rights.are_others(Instant::now());
                if self.last_fence.replace(fence.clone()).as_ref() != Some(&fence) {
                    self.take_guard();
                    self.catch_up(fence);
                }
                self.writing.forget_change();
                self.orphans.is_due();
            }
            Leadership::Standby { .. } => {
                self.led = false;
                self.leave_guard();
                // No other replica knows these leases, so renewing them would be useless.
                self.planner.leases().forget_fresh();
                self.release_statuses();
                self.reported.forget();
            }
            Leadership::Seeking => {}
        }
    }

    /// Leaves the statuses to the new leader.
    fn release_statuses(&self) {
        self.send_to_status_writers(StatusUpdate::Released, StatusUpdate::Released);
    }

    /// Insists on no status any more, because this worker ends. What the controller reports of registrations without a
    /// worker is still written.
    pub(super) fn stop_insisting(&self) {
        self.send_to_status_writers(StatusUpdate::NotInsisted, StatusUpdate::NotInsisted);
    }

    fn send_to_status_writers(
        &self,
        of_registration: fn(RegistrationRef) -> StatusUpdate<ServiceRegistration>,
        of_registry: fn(Arc<str>) -> StatusUpdate<Registry>,
    ) {
        for registration in self.subjects.keys() {
            let _ = self.context.registrations.send(of_registration(registration.clone()));
        }
        let _ = self.context.registries.send(of_registry(self.name.clone()));
    }

    /// Asks which keys are on our leases, when that is due and everything else is known.
    pub(super) fn orphans(&mut self, now: Instant) {
        let all_known = self.kubernetes.complete && !self.kubernetes.some_are_unclear && self.state.is_live();
        let waiting = self.orphans.running || self.orphans.not_before.is_some_and(|at| at > now);
        if !self.orphans.due || waiting || !all_known || !self.leads() {
            return;
        }
        self.orphans = OrphanCollection {
            due: false,
            running: true,
            not_before: None,
        };
        let (backend, leases) = (self.backend.clone(), self.planner.lease_ids());
        self.tasks.spawn(async move {
            let questions = stream::iter(leases).map(|lease| {
                let backend = &backend;
                async move { allowed(backend.keys_on(lease).await.map(Some)) }
            });
            let keys: backend::Result<Vec<_>> = questions.buffer_unordered(QUESTIONS).try_collect().await;
            Done::Listed(keys.map(|keys| keys.into_iter().flatten().flatten().collect()))
        });
    }

    pub(super) fn listed(&mut self, keys: backend::Result<Vec<Key>>) {
        let unknown = match keys {
            Ok(keys) => self.planner.unknown_keys(keys),
            Err(error) => return self.orphan_collection_failed(&error),
        };
        if unknown.is_empty() {
            self.orphans.running = false;
            return;
        }
        let backend = self.backend.clone();
        self.tasks.spawn(async move {
            let looks = stream::iter(unknown).map(|key| {
                let backend = &backend;
                async move {
                    let found = allowed(backend.get(&key).await.map(Some))?;
                    Ok(found.map(|(held, revision)| (key, held, revision)))
                }
            });
            let found: backend::Result<Vec<_>> = looks.buffer_unordered(QUESTIONS).try_collect().await;
            Done::Looked(found.map(|found| found.into_iter().flatten().collect()))
        });
    }

    pub(super) fn looked(&mut self, found: backend::Result<Vec<(Key, Option<KeyValue>, Revision)>>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.orphan_collection_failed(&error),
        };
        self.orphans.running = false;
        // A registration may have become unreadable while etcd was asked. Then the keys may be its own.
        if self.kubernetes.some_are_unclear {
            return self.orphans.is_due();
        }
        tracing::info!(registry = %self.name, keys = found.len(), "collecting orphaned keys of deleted registrations");
        for (key, held, revision) in found {
            self.planner.find_stray(&key, held, revision);
        }
    }

    fn orphan_collection_failed(&mut self, error: &backend::Error) {
        tracing::warn!(registry = %self.name, %error, "cannot list the keys on the operator's leases; trying again");
        self.orphans = OrphanCollection {
            due: true,
            running: false,
            not_before: Some(Instant::now() + PAUSE),
        };
    }
}

/// Skips what etcd does not let us read. The rest is still collected.
fn allowed<T>(answer: backend::Result<Option<T>>) -> backend::Result<Option<T>> {
    match answer {
        Err(error) if error.kind == ErrorKind::Denied => Ok(None),
        answer => answer,
    }
}
