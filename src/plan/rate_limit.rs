//! The rate limit of a namespace: how fast its pods may change before other namespaces take precedence.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much of its rate a namespace may use at once.
const BURST: Duration = Duration::from_secs(2);
/// Number of namespaces above which idle ones are dropped. Each further cleanup runs when the number of the remaining
/// ones has doubled.
const FEW: usize = 64;

/// A token bucket per namespace (the generic cell rate algorithm: each change costs the time that it takes at the
/// allowed rate).
#[derive(Debug)]
pub(super) struct NamespaceRateLimiter {
    /// The time of one change.
    cost: Duration,
    /// Until when each namespace has used up its time.
    used: HashMap<Arc<str>, Instant>,
    cleanup_at: usize,
    /// The latest time that was passed in. An earlier one counts as this one: a pod whose change waited in the queue is
    /// not charged for what came after it.
    latest: Option<Instant>,
}

impl Default for NamespaceRateLimiter {
    /// Returns a limiter that admits everything.
    fn default() -> Self {
        Self {
            cost: Duration::ZERO,
            used: HashMap::new(),
            cleanup_at: FEW,
            latest: None,
        }
    }
}

impl NamespaceRateLimiter {
    pub fn set_rate(&mut self, per_second: u32) {
        self.cost = Duration::from_secs(1) / per_second.max(1);
    }

    /// Whether `namespace` is above its rate limit at `at`.
    pub fn is_above(&self, namespace: &str, at: Instant) -> bool {
        let at = self.not_before_latest(at);
        let used = self.used.get(namespace);
        used.and_then(|until| until.checked_sub(BURST))
            .is_some_and(|until| until > at)
    }

    /// Charges `namespace` for one change at `at` if that is within its rate limit. Returns whether it is.
    pub fn admits(&mut self, namespace: &Arc<str>, at: Instant) -> bool {
        let at = self.not_before_latest(at);
        self.latest = Some(at);
        if self.is_above(namespace, at) {
            return false;
        }
        if let Some(until) = self.used.get_mut(namespace) {
            *until = (*until).max(at) + self.cost;
            return true;
        }
        if self.used.len() >= self.cleanup_at {
            self.used.retain(|_, until| *until > at);
            self.cleanup_at = (self.used.len() * 2).max(FEW);
        }
        self.used.insert(namespace.clone(), at + self.cost);
        true
    }

    fn not_before_latest(&self, at: Instant) -> Instant {
        self.latest.map_or(at, |latest| latest.max(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: u32) -> NamespaceRateLimiter {
        let mut limiter = NamespaceRateLimiter::default();
        limiter.set_rate(per_second);
        limiter
    }

    #[test]
    fn two_seconds_worth_may_come_at_once_and_then_as_much_as_time_passes() {
        let (mut limiter, start, shop) = (limiter(100), Instant::now(), Arc::from("shop"));
        let admitted = |limiter: &mut NamespaceRateLimiter, at| {
            let admitted = (0..10_000).take_while(|_| limiter.admits(&shop, at));
            admitted.count()
        };
        assert_eq!(admitted(&mut limiter, start), 201);
        assert!(limiter.admits(&"other".into(), start));
        assert_eq!(admitted(&mut limiter, start + Duration::from_secs(1)), 100);
        assert_eq!(admitted(&mut limiter, start + Duration::from_hours(1)), 201);
    }

    #[test]
    fn a_change_that_waited_is_not_charged_for_later_ones() {
        let (mut limiter, start, shop) = (limiter(1), Instant::now(), Arc::from("shop"));
        assert!(limiter.admits(&shop, start + Duration::from_mins(1)));
        assert!(limiter.admits(&shop, start));
    }

    #[test]
    fn idle_namespaces_are_dropped() {
        let (mut limiter, start) = (limiter(10), Instant::now());
        for i in 0..1000_u32 {
            limiter.admits(&i.to_string().into(), start + i * Duration::from_secs(1));
        }
        assert!(limiter.used.len() <= FEW);
    }
}
