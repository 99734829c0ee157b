//! Pods that only seem to be gone, in a world whose guard holds soon and for long.

use std::time::Duration;

use super::World;
use crate::plan::{GuardMode, GuardTerms, Moment, Presence};

/// So few keys that a handful of pods passes the limits.
pub(super) const GUARD: GuardTerms = GuardTerms {
    mode: GuardMode::Hold,
    window: Duration::from_mins(1),
    max_loss_percent: 40,
    min_keys: 2,
    hold: Duration::from_mins(5),
};

impl World {
    /// A pod is no longer ready.
    pub(super) fn doubt(&mut self, pod: &str) {
        let address = self.pods.remove(pod).unwrap_or_default();
        if self.complete {
            for (registration, wish) in &self.registrations {
                let tenancy = wish.tenancy(pod, address);
                self.ledger
                    .set_presence(registration, &pod.into(), Presence::Unready(tenancy));
            }
        }
    }

    /// The guard decides; returns whether that was news.
    pub(super) fn judge(&mut self) -> bool {
        let moment = Moment {
            now: self.now,
            unix: self.now.duration_since(self.began),
        };
        let news = self.ledger.judge(moment, None, || "h".to_owned());
        news.is_some()
    }

    /// The time of a hold passes, if there is one.
    pub(super) fn hold_ends(&mut self) -> bool {
        if let Some(hold) = self.ledger.hold() {
            self.now = self.now.max(hold.wake_at());
        }
        self.judge()
    }
}
