//! Suspends the per-namespace rate limit while a new leader catches up. A new leader writes nothing until its caches
//! are as fresh as its predecessor's were. The rate limit of one namespace must not delay that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the workers that catch up. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct RateLimitBypass(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    begun: Notify,
}

/// Suspends the rate limit until it is dropped.
#[derive(Debug)]
pub struct BypassGuard(RateLimitBypass);

impl RateLimitBypass {
    /// Suspends the rate limit until the guard is dropped.
    pub fn suspend(&self) -> BypassGuard {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.begun.notify_one();
        BypassGuard(self.clone())
    }

    /// Whether any worker catches up.
    pub fn is_needed(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Waits until a worker starts to catch up.
    pub async fn begins(&self) {
        self.0.begun.notified().await;
    }
}

impl Drop for BypassGuard {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_lasts_until_the_last_one_who_waits_has_what_it_needs() {
        let bypass = RateLimitBypass::default();
        let (first, second) = (bypass.suspend(), bypass.suspend());
        bypass.begins().await;
        drop(first);
        assert!(bypass.is_needed());
        drop(second);
        assert!(!bypass.is_needed());
    }
}
