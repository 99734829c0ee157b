//! The transactions in flight: sent, and not answered yet.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::work::Work;
use crate::model::{Key, LeaseId, Op};

/// Identifies a transaction in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(NonZeroU64);

#[cfg(test)]
impl Ticket {
    pub const FIRST: Self = Self(NonZeroU64::MIN);
}

/// The transactions in flight of one Registry.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: HashMap<Ticket, InFlight>,
    /// The number of transactions that were opened.
    opened: u64,
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
    /// Whether the transaction serves namespaces above their rate limit.
    pub is_excess: bool,
    /// Whether the outcome must be ignored.
    pub void: bool,
}

impl Transactions {
    /// Opens a transaction with `ops`.
    pub fn open(&mut self, ops: Vec<Op>) -> Ticket {
        self.opened += 1;
        let ticket = Ticket(NonZeroU64::new(self.opened).expect("it was incremented"));
        let opened = InFlight {
            ops,
            ..InFlight::default()
        };
        self.open.insert(ticket, opened);
        ticket
    }

    /// Adds the `ops` of `work`, which are `sets` record sets, to an open transaction. `reserved` is the room reserved
    /// for them.
    pub fn add(&mut self, ticket: Ticket, (work, sets): (Work, usize), ops: &[Op], reserved: Vec<(Key, LeaseId)>) {
        if let Some(open) = self.open.get_mut(&ticket) {
            open.ops.extend_from_slice(ops);
            open.reserved.extend(reserved);
            open.works.insert(work.clone());
            open.gathered.push((work, sets));
        }
    }

    /// Lets `work` wait until the transaction `ticket` has ended.
    pub fn wait(&mut self, ticket: Ticket, work: Work) {
        if let Some(open) = self.open.get_mut(&ticket) {
            open.works.insert(work);
        }
    }

    /// Records that an open transaction serves namespaces above their rate limit.
    pub fn set_excess(&mut self, ticket: Ticket) {
        if let Some(open) = self.open.get_mut(&ticket) {
            open.is_excess = true;
        }
    }

    /// Whether a transaction in flight serves namespaces above their rate limit.
    pub fn has_excess(&self) -> bool {
        self.open.values().any(|sent| sent.is_excess)
    }

    pub fn get(&self, ticket: Ticket) -> Option<&InFlight> {
        self.open.get(&ticket)
    }

    pub fn close(&mut self, ticket: Ticket) -> Option<InFlight> {
        self.open.remove(&ticket)
    }

    /// Whether a transaction in flight contains an operation on `key`. Slow: meant for the few bookkeeping keys.
    pub fn contain(&self, key: &Key) -> bool {
        self.open.values().any(|sent| sent.ops.iter().any(|op| op.key() == key))
    }

    /// The namespaces that work in flight belongs to.
    pub fn namespaces(&self) -> HashSet<Arc<str>> {
        let works = self.open.values().flat_map(|sent| &sent.works);
        works.map(|work| work.namespace().clone()).collect()
    }

    /// Voids all transactions because etcd's history was replaced: their outcomes are ignored.
    pub fn void(&mut self) {
        self.open.values_mut().for_each(|sent| sent.void = true);
    }

    /// The keys that transactions in flight put on other leases than before, with these leases.
    pub fn reserved(&self) -> impl Iterator<Item = (Key, LeaseId)> + '_ {
        self.open.values().flat_map(|sent| sent.reserved.iter().cloned())
    }
}
