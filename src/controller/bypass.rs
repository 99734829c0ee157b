//! Whether somebody waits for all that has been heard: then nobody's pace counts. A replica that came to lead writes for
//! no one before it has heard as much as its predecessor, and one namespace's row must not keep it from that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Whether somebody waits. Clones tell of the same.
#[derive(Clone, Debug, Default)]
pub struct RateLimitBypass(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    begun: Notify,
}

/// Somebody waits, until this value is dropped.
#[derive(Debug)]
pub struct BypassGuard(RateLimitBypass);

impl RateLimitBypass {
    /// Somebody waits from now on.
    pub fn suspend(&self) -> BypassGuard {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.begun.notify_one();
        BypassGuard(self.clone())
    }

    /// Whether somebody waits.
    pub fn is_needed(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Waits until somebody does.
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
