//! Where the checkpoints of leaders are in etcd: see [`crate::model::Checkpoint`].

use super::planner::Planner;
use crate::model::{CheckpointWrite, LeaseId, Op, Prefix, Revision, Transaction, Value};

impl Planner {
    /// The prefix of the checkpoints of all write slots.
    pub fn checkpoints(&self) -> Prefix {
        self.meta.checkpoints()
    }

    /// Returns the checkpoint with the value `value` that is written with `transaction` in the write slot `slot`. The
    /// slot's last checkpoint was written at the revision `after` at the latest. The checkpoint is put on the lease of
    /// a key that the transaction puts, deletes or checks, because that lease is alive. None if there is no such lease.
    pub fn checkpoint(
        &self,
        transaction: &Transaction,
        slot: usize,
        after: Revision,
        value: Value,
    ) -> Option<CheckpointWrite> {
        Some(CheckpointWrite {
            key: format!("{}{slot}", self.meta.checkpoints().as_str()).into(),
            value,
            lease: self.lease_of_checkpoint(&transaction.ops)?,
            after,
        })
    }

    /// The lease for the checkpoint written with `ops`. If etcd denies puts on their leases, any other usable lease of
    /// ours.
    pub(super) fn lease_of_checkpoint(&self, ops: &[Op]) -> Option<LeaseId> {
        let mut theirs = ops.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => Some(*lease),
            Op::Delete { key, .. } | Op::Check { key, .. } => self.our_lease(key),
        });
        match theirs.find(|lease| !self.leases.is_denied(*lease)) {
            None if self.leases.denied().next().is_some() => self.leases.some_sound(),
            found => found,
        }
    }
}
