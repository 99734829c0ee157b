//! Limits how fast each namespace may change. Each change costs time; a namespace that has used more time than has
//! passed must wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much time a namespace may use at once.
const BURST: Duration = Duration::from_secs(10);
/// Number of namespaces above which idle ones are dropped. Each further cleanup runs when the number of the remaining
/// ones has doubled.
const FEW: usize = 64;

#[derive(Debug)]
pub struct NamespaceRateLimiter {
    /// Until when each namespace has used up its time.
    used: HashMap<Arc<str>, Instant>,
    look_at: usize,
}

impl Default for NamespaceRateLimiter {
    fn default() -> Self {
        Self {
            used: HashMap::new(),
            look_at: FEW,
        }
    }
}

impl NamespaceRateLimiter {
    /// Charges `namespace` with one change, where `per_second` changes are allowed per second.
    pub fn spend(&mut self, namespace: &Arc<str>, per_second: u32, now: Instant) {
        let cost = Duration::from_secs(1) / per_second.max(1);
        if let Some(until) = self.used.get_mut(namespace) {
            *until = (*until).max(now) + cost;
            return;
        }
        if self.used.len() >= self.look_at {
            self.used.retain(|_, until| *until > now);
            self.look_at = (self.used.len() * 2).max(FEW);
        }
        self.used.insert(namespace.clone(), now + cost);
    }

    /// Returns when `namespace` may change again; none if it may change now.
    pub fn waits_until(&self, namespace: &str, now: Instant) -> Option<Instant> {
        let used = *self.used.get(namespace)?;
        used.checked_sub(BURST).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_worth_may_come_at_once_and_then_as_much_as_time_passes() {
        let (mut rate_limits, start, shop): (_, _, Arc<str>) =
            (NamespaceRateLimiter::default(), Instant::now(), "shop".into());
        let spend = |rate_limits: &mut NamespaceRateLimiter, now| {
            let mut count = 0;
            while rate_limits.waits_until("shop", now).is_none() {
                rate_limits.spend(&shop, 100, now);
                count += 1;
            }
            count
        };
        assert_eq!(spend(&mut rate_limits, start), 1001);
        assert_eq!(
            rate_limits.waits_until("shop", start),
            Some(start + Duration::from_millis(10))
        );
        assert_eq!(rate_limits.waits_until("other", start), None);
        assert_eq!(spend(&mut rate_limits, start + Duration::from_secs(2)), 200);
        assert_eq!(spend(&mut rate_limits, start + Duration::from_hours(1)), 1001);
    }

    #[test]
    fn who_has_time_left_is_forgotten() {
        let (mut rate_limits, start) = (NamespaceRateLimiter::default(), Instant::now());
        for i in 0..1000_u32 {
            let now = start + i * Duration::from_secs(1);
            rate_limits.spend(&i.to_string().into(), 10, now);
        }
        assert!(rate_limits.used.len() <= FEW);
    }
}
