//! Backoff between attempts, up to one second, with jitter so that replicas differ.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::error::Error;

/// Returns a random number of the quality that lease ids require.
pub(super) fn random() -> u64 {
    // `SystemRandom` asks the kernel directly, also in a static program without /dev.
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.expect("the operating system provides random numbers");
    u64::from_ne_bytes(bytes)
}

/// Returns a random time in `0..=most`.
pub(super) fn jitter(most: Duration) -> Duration {
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random() % most.saturating_add(1))
}

/// The pause before the next attempt.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    /// After an outage of etcd, leases have a whole TTL left. A pause of one second costs nothing and prevents a
    /// thundering herd.
    const MOST: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self { next: Duration::ZERO }
    }

    /// Resets the backoff after a success: the next failure is retried at once.
    pub(super) fn reset(&mut self) {
        self.next = Duration::ZERO;
    }

    /// Logs a failure: the first of a series as a warning, the others at debug level.
    pub(super) fn complain(&self, what: &str, error: &Error) {
        if self.next.is_zero() {
            tracing::warn!(%error, "{what}; retrying");
        } else {
            tracing::debug!(%error, "{what}");
        }
    }

    /// Waits: not at all after the first failure, then increasingly long. Half of each pause is random.
    pub(super) async fn pause(&mut self) {
        let pause = self.next;
        self.next = (pause * 2).clamp(Self::FIRST, Self::MOST);
        tokio::time::sleep(pause / 2 + jitter(pause / 2)).await;
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
