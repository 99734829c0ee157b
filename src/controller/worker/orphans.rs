//! What leading brings with it: taking over what a predecessor left, and sweeping up after registrations that were
//! deleted while nobody was there to see it.
//!
//! Such registrations are in no list any more, so nobody watches where their keys lie. But the keys are on our leases,
//! and etcd knows which keys are on a lease: those that nobody is known to want are read, and from there on treated
//! like any other key.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Done, RegistryWorker};
use crate::etcd::{self, Leadership};
use crate::kube::StatusUpdate;
use crate::plan::{Key, KeyValue, Revision};

/// Questions to etcd at a time.
const QUESTIONS: usize = 4;
/// Before a sweep that failed is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether there is something to sweep up.
#[derive(Debug, Default)]
pub struct OrphanCollection {
    due: bool,
    running: bool,
    not_before: Option<Instant>,
}

impl OrphanCollection {
    /// There may be something to sweep up.
    pub fn is_due(&mut self) {
        self.due = true;
    }

    /// When to try again after a failure. None once that time has come: what is still missing then comes as an event.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now && self.due && !self.running)
    }

    /// The time to try again has come.
    #[cfg(test)]
    pub fn fail_long_ago(&mut self) {
        self.not_before = self.not_before.and_then(|at| at.checked_sub(2 * PAUSE));
    }
}

impl RegistryWorker {
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
                // Under the same proof nobody else can have led meanwhile: our view is still the newest.
                self.rights.are_others(Instant::now());
                if self.last_fence.replace(fence.clone()).as_ref() != Some(&fence) {
                    self.take_guard();
                    self.catch_up(fence);
                }
                self.writing.forget_heard();
                self.sweep.is_due();
            }
            Leadership::Standby { .. } => {
                self.led = false;
                self.leave_guard();
                // Nobody else knows of them, so they would be renewed for nothing.
                self.planner.leases().forget_fresh();
                // Whoever leads now writes the statuses.
                for registration in self.subjects.keys() {
                    let _ = self
                        .context
                        .registrations
                        .send(StatusUpdate::Released(registration.clone()));
                }
                let _ = self.context.registries.send(StatusUpdate::Released(self.name.clone()));
                self.told.forget();
            }
            Leadership::Seeking => {}
        }
    }

    /// Asks which keys are on our leases, when that is due and everything else is known.
    pub(super) fn sweep(&mut self, now: Instant) {
        let all_known = self.kubernetes.complete && !self.kubernetes.some_are_unclear && self.standing.is_live();
        let waiting = self.sweep.running || self.sweep.not_before.is_some_and(|at| at > now);
        if !self.sweep.due || waiting || !all_known || !self.leads() {
            return;
        }
        self.sweep = OrphanCollection {
            due: false,
            running: true,
            not_before: None,
        };
        let (connection, leases) = (self.connection.clone(), self.planner.lease_ids());
        self.tasks.spawn(async move {
            let questions = stream::iter(leases).map(|lease| {
                let connection = &connection;
                async move { allowed(connection.lease(lease, true).await) }
            });
            let states: etcd::Result<Vec<_>> = questions.buffer_unordered(QUESTIONS).try_collect().await;
            let keys = states.map(|states| states.into_iter().flatten().flat_map(|state| state.keys).collect());
            Done::Listed(keys)
        });
    }

    pub(super) fn listed(&mut self, keys: etcd::Result<Vec<Key>>) {
        let unknown = match keys {
            Ok(keys) => self.planner.unknown_keys(keys),
            Err(error) => return self.sweep_failed(&error),
        };
        if unknown.is_empty() {
            self.sweep.running = false;
            return;
        }
        let connection = self.connection.clone();
        self.tasks.spawn(async move {
            let looks = stream::iter(unknown).map(|key| {
                let connection = &connection;
                async move {
                    let found = allowed(connection.get(&key).await.map(Some))?;
                    Ok(found.map(|(held, revision)| (key, held, revision)))
                }
            });
            let found: etcd::Result<Vec<_>> = looks.buffer_unordered(QUESTIONS).try_collect().await;
            Done::Looked(found.map(|found| found.into_iter().flatten().collect()))
        });
    }

    pub(super) fn looked(&mut self, found: etcd::Result<Vec<(Key, Option<KeyValue>, Revision)>>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.sweep_failed(&error),
        };
        self.sweep.running = false;
        // While etcd was asked, a registration may have become unclear: then the keys may be its.
        if self.kubernetes.some_are_unclear {
            return self.sweep.is_due();
        }
        tracing::info!(registry = %self.name, keys = found.len(), "sweeping up keys of registrations that are gone");
        for (key, held, revision) in found {
            self.planner.find_stray(&key, held, revision);
        }
    }

    fn sweep_failed(&mut self, error: &etcd::Error) {
        tracing::warn!(registry = %self.name, %error, "cannot ask which keys are on our leases; asking again");
        self.sweep = OrphanCollection {
            due: true,
            running: false,
            not_before: Some(Instant::now() + PAUSE),
        };
    }
}

/// What etcd does not let us see is none of our business, and keeps nobody from the rest.
fn allowed<T>(answer: etcd::Result<Option<T>>) -> etcd::Result<Option<T>> {
    match answer {
        Err(etcd::Error::PermissionDenied { .. }) => Ok(None),
        answer => answer,
    }
}
