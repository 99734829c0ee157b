//! Whether this replica leads a Registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this replica leads one Registry and has observed as much as its predecessors. The worker of the Registry sets
/// it. Clones share one value.
#[derive(Clone, Debug, Default)]
pub struct LeaderFlag(Arc<AtomicBool>);

impl LeaderFlag {
    /// Returns a flag that is set and that no worker clears: for decisions that belong to no leader.
    pub fn raised() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sets the value. Returns whether it has changed.
    pub fn set(&self, leads: bool) -> bool {
        self.0.swap(leads, Ordering::AcqRel) != leads
    }
}
