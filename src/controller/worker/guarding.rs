//! Carries out, logs, counts and reports what the guard decides.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::{RegistryWorker, size};
use crate::api::{APPROVE_REMOVALS, Guard};
use crate::backend::{Backend, random};
use crate::plan::{self, GuardEvent, GuardSettings, Holding, Moment};

/// The input of the guard, and what is reported about it.
#[derive(Debug)]
pub struct Guarding {
    /// The id of the hold that an admin approved.
    pub approved: Option<String>,
    /// The removals that are held, as reported.
    holding: Holding,
}

impl Default for Guarding {
    fn default() -> Self {
        Self {
            approved: None,
            holding: Holding::Undecided,
        }
    }
}

impl Guarding {
    pub fn holding(&self) -> &Holding {
        &self.holding
    }
}

/// Converts a Registry's guard to the planner's settings.
pub fn settings(guard: &Guard) -> GuardSettings {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    GuardSettings {
        mode: guard.mode,
        window: seconds(guard.window_seconds),
        max_loss_percent: size(guard.max_loss_percent),
        min_endpoints: size(guard.min_endpoints),
        hold: seconds(guard.hold_seconds),
    }
}

/// Returns the present moment. Both clocks are read at once: what waits for a time of day waits until the monotonic clock
/// reaches it.
pub fn moment() -> Moment {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Moment {
        now: Instant::now(),
        unix: unix.unwrap_or_default(),
    }
}

impl<B: Backend> RegistryWorker<B> {
    /// Lets the guard decide about unconfirmed removals, if this replica is the one to decide: it leads, its view is
    /// live, and it has caught up.
    pub(super) fn guard(&mut self, now: Instant) {
        if !self.may_judge() {
            return self.planner.look(now);
        }
        let moment = moment();
        let approved = self.guarding.approved.as_deref();
        let event = self
            .planner
            .decide_removals(moment, approved, || format!("{:016x}", random()));
        let is_new = event.is_some() || self.guarding.holding == Holding::Undecided;
        if is_new && self.planner.has_decided_leftovers() {
            self.guarding.holding = match self.planner.hold() {
                Some(hold) => Holding::Some(notice(&self.name, hold).into()),
                None => Holding::Nothing,
            };
            for registration in self.subjects.keys() {
                self.debouncer.changed(registration.clone(), now);
            }
        }
        self.metrics.set_held(self.planner.hold().map_or(0, plan::Hold::len));
        if let Some(event) = event {
            self.report_guard(&event);
        }
    }

    /// When the guard has to decide again if nothing happens before.
    pub(super) fn guard_wakes_at(&self) -> Option<Instant> {
        let hold = self.planner.hold().filter(|_| self.may_judge());
        hold.map(plan::Hold::wake_at)
    }

    /// Resets the guard after a takeover under a new fence: another replica may have led meanwhile and decided
    /// otherwise.
    pub(super) fn take_guard(&mut self) {
        self.planner.becomes_leader();
        self.guarding.holding = Holding::Undecided;
    }

    /// Resets the guard on a standby replica: the leader reports what is held.
    pub(super) fn leave_guard(&mut self) {
        self.planner.becomes_standby();
        self.guarding.holding = Holding::Undecided;
        self.metrics.set_held(0);
    }

    pub(super) fn may_judge(&self) -> bool {
        self.leads() && self.state.is_live() && self.catching_up.is_none()
    }

    fn report_guard(&mut self, event: &GuardEvent) {
        let registry = &*self.name;
        match event {
            GuardEvent::Held => {
                self.metrics.count_guard_trip();
                tracing::warn!(
                    registry, hold = ?self.planner.hold().map(|hold| &hold.id),
                    "too many endpoints would lose keys at once; holding the removals"
                );
            }
            GuardEvent::Resumed => {
                tracing::warn!(
                    registry, hold = ?self.planner.hold().map(|hold| &hold.id),
                    "resuming a hold that another process began"
                );
            }
            GuardEvent::Widened => {
                self.metrics.count_guard_trip();
                tracing::warn!(
                    registry, hold = ?self.planner.hold().map(|hold| &hold.id),
                    "too many endpoints of other namespaces would lose keys as well; holding their removals, too"
                );
            }
            GuardEvent::Warned { lost, of } => {
                self.metrics.count_guard_trip();
                tracing::warn!(
                    registry,
                    lost,
                    of,
                    "many endpoints lose keys at once; spec.guard.mode is Warn, so the removals are not held"
                );
            }
            GuardEvent::Released { id, keys, why } => {
                tracing::warn!(registry, hold = %id, keys, ?why, "hold released; the remaining keys are removed");
            }
        }
        self.announce_guard(event);
    }
}

/// Describes a hold. The text is the same in every process that resumes the hold, otherwise statuses would change with
/// the leader.
fn notice(registry: &str, hold: &plan::Hold) -> String {
    let plan::Hold { id, lost, of, .. } = hold;
    let namespaces = match hold.namespace_count() {
        None => String::new(),
        Some(0) => " that an earlier process left".to_owned(),
        Some(1) => " in the one namespace that would lose most of its own".to_owned(),
        Some(count) => format!(" in the {count} namespaces that would lose most of their own"),
    };
    let end = i64::try_from(hold.until_unix)
        .ok()
        .and_then(|end| Timestamp::from_second(end).ok())
        .unwrap_or(Timestamp::MAX);
    let edits = "of registrations, access rules, labels of namespaces or quotas";
    let (cause, pods_end) = if hold.is_of_edits() {
        (
            format!("because of an edit: {edits}"),
            "until their pods end or are no longer ready",
        )
    } else {
        (
            format!(
                "because their pods are no longer ready or were missing from a list, or because of an edit: {edits}"
            ),
            "until their pods end",
        )
    };
    format!(
        "{lost} of {of} endpoints would have lost keys at once {cause}. The remaining keys{namespaces} are kept until {end}, \
         {pods_end}, or until most of them are desired again. If the removal is right: \
         kubectl annotate --overwrite registry {registry} {APPROVE_REMOVALS}={id}"
    )
}
