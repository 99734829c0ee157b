//! Where the checkpoints of leaders are in etcd: see [`crate::model::Checkpoint`].

use super::planner::Planner;
use crate::model::{CheckpointWrite, LeaseId, Op, Prefix, Revision, Transaction, Value};

impl Planner {
    /// The prefix of the checkpoints of all write slots.
    pub fn notes(&self) -> Prefix {
        self.meta.checkpoints()
    }

    /// Returns the checkpoint with the value `heard` that is written with `transaction` in the write slot `track`. The
    /// slot's last checkpoint was written at the revision `after` at the latest. The checkpoint is put on the lease of
    /// a key that the transaction puts, deletes or checks, because that lease is alive. None if there is no such lease.
    pub fn note(
        &self,
        transaction: &Transaction,
        track: usize,
        after: Revision,
        heard: Value,
    ) -> Option<CheckpointWrite> {
        Some(CheckpointWrite {
            key: format!("{}{track}", self.meta.checkpoints().prefix()).into(),
            value: heard,
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
