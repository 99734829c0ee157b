//! A token bucket of the keys that may be written, filled at the Registry's rate.

use std::time::{Duration, Instant};

/// Maximum duration of a batch that is written while the bucket is empty.
const SLICE: Duration = Duration::from_millis(10);
/// Minimum batch size nevertheless: the records of one pod in several formats should move together.
const FEWEST: usize = 32;
/// Keys that namespaces with few changes may borrow: the keys of this time at the configured rate, and at least this
/// number.
const LENT: Duration = Duration::from_millis(100);
const FEWEST_LENT: f64 = 64.0;

/// A token bucket with one token per key. A transaction passes while the bucket is not empty and may overdraw the
/// bucket, so that keys that belong together are never split because of the rate limit.
#[derive(Debug)]
pub struct WriteRateLimiter {
    per_second: f64,
    available: f64,
    filled: Instant,
}

impl WriteRateLimiter {
    /// Returns a full bucket, filled with `per_second` tokens per second, with a capacity of one second.
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second: per_second.into(),
            available: per_second.into(),
            filled: now,
        }
    }

    pub fn set_rate(&mut self, per_second: u32) {
        self.per_second = per_second.into();
    }

    pub fn spend(&mut self, keys: usize) {
        self.available -= f64::from(u32::try_from(keys).unwrap_or(u32::MAX));
    }

    /// Returns the maximum number of keys of the next transaction, at most `most`. The number is small if few keys may
    /// be written, so that the next namespace does not wait long.
    pub fn share(&self, most: usize) -> usize {
        let soon = self.available.max(self.per_second * SLICE.as_secs_f64());
        // The conversion saturates; no bucket is that large.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive and small"
        )]
        let soon = soon.min(f64::from(u16::MAX)) as usize;
        soon.clamp(FEWEST.min(most), most)
    }

    /// Whether namespaces with few changes may write although the bucket is empty. What they borrow is missing for the
    /// others. As of the last [`WriteRateLimiter::wait`].
    pub fn lends(&self) -> bool {
        self.available > -(self.per_second * LENT.as_secs_f64()).max(FEWEST_LENT)
    }

    /// Returns how long to wait until the next write; zero if keys may be written now.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let gained = now.duration_since(self.filled).as_secs_f64() * self.per_second;
        self.available = (self.available + gained).min(self.per_second);
        self.filled = now;
        if self.available > 0.0 {
            Duration::ZERO
        } else {
            // At least one millisecond, so that rounding causes no busy loop.
            Duration::from_secs_f64(-self.available / self.per_second).max(Duration::from_millis(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_overdrawn_makes_the_next_one_wait() {
        let start = Instant::now();
        let mut write_limit = WriteRateLimiter::new(100, start);
        assert_eq!(write_limit.wait(start), Duration::ZERO);
        write_limit.spend(127);
        assert_eq!(write_limit.wait(start).as_millis(), 270);
        assert_eq!(write_limit.wait(start + Duration::from_millis(300)), Duration::ZERO);
    }

    #[test]
    fn a_bucket_that_is_nearly_empty_gives_small_shares() {
        let start = Instant::now();
        let mut write_limit = WriteRateLimiter::new(5000, start);
        assert_eq!(write_limit.share(127), 127);
        write_limit.spend(4990);
        assert_eq!(write_limit.share(127), 50);
        let mut slow = WriteRateLimiter::new(100, start);
        slow.spend(100);
        assert_eq!((slow.share(127), slow.share(8)), (32, 8));
    }

    #[test]
    fn an_empty_bucket_lends_a_little() {
        let start = Instant::now();
        let mut write_limit = WriteRateLimiter::new(5000, start);
        write_limit.spend(5050);
        assert!(!write_limit.wait(start).is_zero() && write_limit.lends());
        write_limit.spend(500);
        assert!(!write_limit.lends());
        assert!(!write_limit.wait(start + Duration::from_millis(100)).is_zero() && write_limit.lends());
    }

    #[test]
    fn an_idle_bucket_holds_no_more_than_a_second_s_worth() {
        let start = Instant::now();
        let mut write_limit = WriteRateLimiter::new(100, start);
        assert_eq!(write_limit.wait(start + Duration::from_hours(1)), Duration::ZERO);
        write_limit.spend(101);
        assert!(write_limit.wait(start + Duration::from_hours(1)) > Duration::ZERO);
    }
}
