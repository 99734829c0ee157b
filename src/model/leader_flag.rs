//! Whether this replica leads a Registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const FOLLOWS: u8 = 0;
const LEADS: u8 = 1;
const REVOKED: u8 = 2;

/// Whether this replica leads one Registry and has observed as much as its predecessors. The worker of the Registry sets
/// it. Clones share one value.
#[derive(Clone, Debug, Default)]
pub struct LeaderFlag(Arc<AtomicU8>);

impl LeaderFlag {
    /// Returns a flag that is set and that no worker clears: for decisions that belong to no leader.
    pub fn raised() -> Self {
        Self(Arc::new(AtomicU8::new(LEADS)))
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire) == LEADS
    }

    /// Sets the value. Returns whether it has changed.
    pub fn set(&self, leads: bool) -> bool {
        let (from, to) = if leads { (FOLLOWS, LEADS) } else { (LEADS, FOLLOWS) };
        let changed = self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        changed.is_ok()
    }

    /// Clears the flag for good: its worker was stopped.
    pub fn revoke(&self) {
        self.0.store(REVOKED, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::LeaderFlag;

    #[test]
    fn revoked_flag_stays_cleared() {
        let flag = LeaderFlag::default();
        assert!(flag.set(true) && !flag.set(true) && flag.is_set());
        assert!(flag.set(false) && !flag.is_set());
        flag.set(true);
        flag.revoke();
        assert!(!flag.set(true) && !flag.is_set(), "the worker may not have ended yet");
    }
}
