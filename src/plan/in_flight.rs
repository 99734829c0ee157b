//! Transactions in flight: sent, and not answered yet.

use std::collections::BTreeSet;

use super::work::Work;
use crate::model::{Key, LeaseId, Op};

/// Identifies a transaction in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

impl Ticket {
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[derive(Debug, Default)]
pub(super) struct InFlight {
    pub ops: Vec<Op>,
    /// The work to queue when the transaction ends: the work in it, and work on its keys that came up meanwhile.
    pub works: BTreeSet<Work>,
    /// The work in the transaction, each with its number of record sets. Empty for bookkeeping.
    pub gathered: Vec<(Work, usize)>,
    /// The room reserved on leases for the keys that the transaction puts there.
    pub reserved: Vec<(Key, LeaseId)>,
    /// Whether the outcome must be ignored.
    pub void: bool,
}

impl InFlight {
    /// Voids the transaction because etcd's history was replaced: its outcome is ignored and its reservations are
    /// dropped.
    pub fn annul(&mut self) {
        self.void = true;
        self.reserved.clear();
    }
}
