//! The guard at work: what it decides is carried out, logged, counted and said.

use std::time::{Duration, Instant};

use jiff::{Timestamp, TimestampRound, Unit};

use super::{Registrar, size};
use crate::api::{APPROVE_REMOVALS, Guard, GuardMode};
use crate::etcd::lease_id;
use crate::plan::{self, GuardNews, GuardTerms};

/// What the guard needs from outside, and what is said of it.
#[derive(Debug, Default)]
pub struct Guarding {
    /// The id of the hold that an admin approved of.
    pub approved: Option<String>,
    /// What is said of the hold there is.
    notice: Option<String>,
}

impl Guarding {
    /// What is said of the hold there is.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }
}

/// A Registry's guard in the words of the plan.
pub fn terms(guard: &Guard) -> GuardTerms {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    GuardTerms {
        mode: match guard.mode {
            GuardMode::Off => plan::GuardMode::Off,
            GuardMode::Warn => plan::GuardMode::Warn,
            GuardMode::Hold => plan::GuardMode::Hold,
        },
        window: seconds(guard.window_seconds),
        max_loss_percent: size(guard.max_loss_percent),
        min_keys: size(guard.min_keys),
        hold: seconds(guard.hold_seconds),
    }
}

impl Registrar {
    /// Lets the guard decide about what is in doubt.
    pub(super) fn guard(&mut self, now: Instant) {
        let approved = self.guarding.approved.as_deref();
        let news = self.ledger.judge(now, approved, || lease_id().to_string());
        let registry = &*self.name;
        match (news, self.ledger.hold()) {
            (Some(GuardNews::Held), Some(hold)) => {
                self.metrics.count_guard_trip();
                let plan::Hold { id, lost, of, .. } = hold;
                let end = Timestamp::now() + hold.until.saturating_duration_since(now);
                let end = end.round(TimestampRound::new().smallest(Unit::Second)).unwrap_or(end);
                let notice = format!(
                    "{lost} of {of} keys would have gone at once because their pods are no longer ready or were missing \
                     from a list. What is left of them is kept until {end}, or until most of their pods are back. If the pods are really gone: \
                     kubectl annotate --overwrite registry {registry} {APPROVE_REMOVALS}={id}"
                );
                tracing::warn!(registry, hold = %id, lost, of, until = %end, "too many keys would go at once: holding them");
                self.guarding.notice = Some(notice);
            }
            (Some(GuardNews::Warned { lost, of }), _) => {
                self.metrics.count_guard_trip();
                tracing::warn!(
                    registry,
                    lost,
                    of,
                    "many keys go at once; spec.guard.mode is Warn, so they are not held"
                );
            }
            (Some(GuardNews::Released { id, keys, why }), _) => {
                tracing::warn!(registry, hold = %id, keys, ?why, "nothing is held any more: what is left goes");
                self.guarding.notice = None;
            }
            (Some(GuardNews::Held) | None, _) => {}
        }
        self.metrics.set_held(self.ledger.hold().map_or(0, plan::Hold::len));
    }
}
