//! Whether somebody waits for all that has been heard: then nobody's pace counts. A replica that came to lead writes for
//! no one before it has heard as much as its predecessor, and one namespace's row must not keep it from that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Whether somebody waits. Clones tell of the same.
#[derive(Clone, Debug, Default)]
pub struct Haste(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    begun: Notify,
}

/// Somebody waits, until this value is dropped.
#[derive(Debug)]
pub struct Hurry(Haste);

impl Haste {
    /// Somebody waits from now on.
    pub fn hurry(&self) -> Hurry {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.begun.notify_one();
        Hurry(self.clone())
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

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_lasts_until_the_last_one_who_waits_has_what_it_needs() {
        let haste = Haste::default();
        let (first, second) = (haste.hurry(), haste.hurry());
        haste.begins().await;
        drop(first);
        assert!(haste.is_needed());
        drop(second);
        assert!(!haste.is_needed());
    }
}
