//! An etcd that rejects some records for their content.

use super::World;
use crate::model::{Op, Transaction};
use crate::plan::properties::{PREFIXES, REGISTRATIONS};
use crate::plan::testing::reference;
use crate::plan::{Narrowed, Objection, Ticket};

impl World {
    /// Whether etcd rejects the whole transaction.
    pub(super) fn is_rejected(&self, transaction: &Transaction) -> bool {
        let below = |key: &str| self.rejecting.iter().any(|prefix| key.starts_with(PREFIXES[*prefix]));
        let mut ops = transaction.ops.iter();
        ops.any(|op| matches!(op, Op::Put { key, .. } if below(key)))
    }

    /// Delivers the answer that a transaction was rejected.
    pub(super) fn reject(&mut self, ticket: Ticket) {
        let narrowed = self.planner.reject(ticket, Objection::TooLarge, "too large", false);
        assert_ne!(narrowed, Narrowed::Bookkeeping, "a record set is in it");
    }

    /// Retries everything that was rejected.
    pub(super) fn retry_rejected(&mut self) {
        for owner in REGISTRATIONS.map(|name| Some(reference(name))) {
            self.planner.retry_rejected(&owner);
        }
        self.planner.retry_rejected(&None);
    }
}
