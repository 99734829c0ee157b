//! Updates the planner when a transaction has ended.

use std::collections::HashSet;

use super::in_flight::{InFlight, Ticket};
use super::planner::Planner;
use crate::model::{Expect, Key, KeyValue, LeaseId, Op, OpResult, Revision, TxnOutcome};

impl Planner {
    /// Takes in the outcome of the transaction `ticket`. `None` means that the outcome is unknown: etcd may or may not
    /// have executed it.
    pub fn complete(&mut self, ticket: Ticket, outcome: Option<TxnOutcome>) {
        let Some(InFlight {
            ops,
            works,
            gathered,
            reserved,
            is_excess,
            void,
        }) = self.transactions.close(ticket)
        else {
            return;
        };
        // `Overtaken` counts as unknown: etcd may have executed a copy of the transaction. So does an answer from
        // before etcd's history changed (`void`).
        let outcome = outcome.filter(|outcome| !void && !matches!(outcome, TxnOutcome::Overtaken { .. }));
        let keys: Vec<Key> = ops.iter().map(|op| op.key().clone()).collect();
        for key in &keys {
            self.keys.end(key);
        }
        for (key, lease) in reserved {
            let is_unknown = outcome.is_none();
            let free = if is_unknown {
                self.keys.perhaps_put(&key, lease)
            } else {
                Some(lease)
            };
            if let Some(lease) = free {
                self.leases.release(lease, 1);
            }
        }
        match outcome {
            Some(TxnOutcome::Applied { revision, results }) => {
                self.accepted(&gathered);
                for (op, result) in ops.into_iter().zip(results) {
                    self.complete_op(op, result, revision);
                }
            }
            Some(TxnOutcome::LeaseGone) => self.complete_without_lease(&ops),
            // Nothing was written, or the outcome is unknown. The same work is queued again below. The guards of its
            // ops prevent a second write.
            Some(TxnOutcome::Fenced | TxnOutcome::Overtaken { .. }) | None => {}
        }
        // Both the work that caused the writes and the current claims on the keys may need further writes.
        for (work, _) in gathered {
            self.work.push_back(work, is_excess);
        }
        self.work.extend(works);
        for key in &keys {
            self.free_room_of(key);
            self.enqueue(key);
        }
        self.drop_former_around(&keys);
    }

    fn complete_op(&mut self, op: Op, result: OpResult, revision: Revision) {
        if let Op::Check { key, .. } = &op {
            // The mirror has not reported this state of the record yet. `Done` only confirms what is known.
            if let OpResult::Refused(held) = result {
                self.observe_key(key, held, revision);
            }
            return;
        }
        // The mirror has already reported that this lease record was written and removed, so the answer is stale.
        let lease = self.meta.recorded_lease(op.key());
        if lease.is_some_and(|lease| !self.leases.is_ours(lease)) {
            return;
        }
        let born = self.keys.held(op.key()).map(|held| held.create_revision);
        let (key, held) = match (op, result) {
            (op, OpResult::Refused(held)) => (op.key().clone(), held),
            (Op::Delete { key, .. } | Op::Check { key, .. }, OpResult::Done) => (key, None),
            (
                Op::Put {
                    key,
                    value,
                    lease,
                    expect,
                },
                OpResult::Done,
            ) => {
                let create_revision = match expect {
                    Expect::Absent => revision,
                    Expect::At(_) => born.unwrap_or(revision),
                };
                let held = KeyValue {
                    value,
                    lease,
                    create_revision,
                    mod_revision: revision,
                };
                (key, Some(held))
            }
        };
        self.observe_key(&key, held, revision);
    }

    /// Handles a transaction that failed because a lease does not exist. A single lease in its puts is the missing one.
    /// With several, each lease becomes doubtful and must be confirmed by its record.
    fn complete_without_lease(&mut self, ops: &[Op]) {
        let leases: HashSet<LeaseId> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => Some(*lease),
                Op::Delete { .. } | Op::Check { .. } => None,
            })
            .collect();
        match leases.iter().next() {
            Some(only) if leases.len() == 1 => self.lease_is_gone(*only),
            // Without puts, the missing lease is that of the checkpoint.
            None => {
                // The lease of the checkpoint can be derived for certain only while etcd denies puts on no lease.
                let sure = self.leases.denied().next().is_none();
                match self.lease_of_checkpoint(ops) {
                    Some(lease) if sure => self.lease_is_gone(lease),
                    Some(lease) => self.leases.mark_unconfirmed(lease),
                    None => {}
                }
            }
            _ => leases.into_iter().for_each(|lease| self.leases.mark_unconfirmed(lease)),
        }
    }
}
