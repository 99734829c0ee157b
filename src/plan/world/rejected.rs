//! An etcd that rejects records for their content.

use super::World;
use crate::plan::properties::{REGISTRATIONS, SCOPES};
use crate::plan::testing::reference;
use crate::plan::transaction::{Op, Transaction};
use crate::plan::{Narrowed, Objection, Ticket};

impl World {
    /// Whether etcd rejects this whole.
    pub(super) fn is_rejected(&self, transaction: &Transaction) -> bool {
        let below = |key: &str| self.rejecting.iter().any(|scope| key.starts_with(SCOPES[*scope]));
        let mut ops = transaction.ops.iter();
        ops.any(|op| matches!(op, Op::Put { key, .. } if below(key)))
    }

    /// The operator hears that a transaction was rejected.
    pub(super) fn reject(&mut self, ticket: Ticket) {
        let narrowed = self.planner.reject(ticket, Objection::TooLarge, "too large", false);
        assert_ne!(narrowed, Narrowed::Bookkeeping, "a record set is in it");
    }

    /// Everything that was rejected is tried again.
    pub(super) fn retry_rejected(&mut self) {
        for owner in REGISTRATIONS.map(|name| Some(reference(name))) {
            self.planner.retry_rejected(&owner);
        }
        self.planner.retry_rejected(&None);
    }
}
