//! Transactions that were sent and not answered yet.

use std::collections::BTreeSet;

use super::work::Work;
use crate::model::{Key, LeaseId, Op};

/// Names a transaction that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The one after it.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A transaction under way.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    pub ops: Vec<Op>,
    /// What is to be looked at when it has ended: what it was made for, and what came up about its keys meanwhile.
    pub works: BTreeSet<Work>,
    /// The work in it, with the number of record sets of each; none for bookkeeping.
    pub gathered: Vec<(Work, usize)>,
    /// Room kept on leases for the keys that it puts there.
    pub reserved: Vec<(Key, LeaseId)>,
    /// Its answer means nothing any more.
    pub void: bool,
}

impl InFlight {
    /// etcd's history is another one now: neither the answer nor the room kept counts.
    pub fn annul(&mut self) {
        self.void = true;
        self.reserved.clear();
    }
}
