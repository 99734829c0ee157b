//! Backoff between attempts, up to one second, with jitter so that replicas differ.

use std::time::Duration;

use super::error::Error;
use crate::backend::random;
use crate::model::Backoff;

/// Returns a random time in `0..=most`.
pub(super) fn jitter(most: Duration) -> Duration {
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random() % most.saturating_add(1))
}

/// Returns a random time between the half of `pause` and `pause`.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause / 2 + jitter(pause / 2)
}

/// The pause before the next attempt: none after the first failure, then increasingly long, with jitter.
#[derive(Debug)]
pub(super) struct JitteredBackoff {
    pauses: Backoff,
    /// Whether the last attempt failed.
    failing: bool,
}

impl JitteredBackoff {
    const FIRST: Duration = Duration::from_millis(50);
    /// After an outage of etcd, leases have a whole TTL left. A pause of one second costs nothing and prevents a
    /// thundering herd.
    const MAX: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self {
            pauses: Backoff::new(Self::FIRST, Self::MAX),
            failing: false,
        }
    }

    /// Resets the backoff after a success: the next failure is retried at once.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Logs a failure: the first of a series as a warning, the others at debug level.
    pub(super) fn log_failure(&self, what: &str, error: &Error) {
        if self.failing {
            tracing::debug!(%error, "{what}");
        } else {
            tracing::warn!(%error, "{what}; retrying");
        }
    }

    pub(super) async fn pause(&mut self) {
        if std::mem::replace(&mut self.failing, true) {
            tokio::time::sleep(jittered(self.pauses.next_pause())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_bound() {
        for _ in 0..100 {
            assert!(jitter(Duration::from_millis(3)) <= Duration::from_millis(3));
        }
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
