//! What becomes of the ledger when a transaction or a grant has ended.

use std::collections::HashSet;

use super::in_flight::{InFlight, Ticket};
use super::planner::Planner;
use crate::model::{Expect, Key, KeyValue, LeaseId, Op, OpResult, Revision, TxnOutcome};

impl Planner {
    /// Tells how the transaction `ticket` ended; none when that is not known (it may or may not have happened).
    pub fn settle(&mut self, ticket: Ticket, verdict: Option<TxnOutcome>) {
        let Some(InFlight {
            ops,
            works,
            gathered,
            reserved,
            void,
        }) = self.in_flight.remove(&ticket)
        else {
            return;
        };
        // A copy of it may have been carried out.
        let verdict = verdict.filter(|verdict| !void && !matches!(verdict, TxnOutcome::Overtaken { .. }));
        let keys: Vec<Key> = ops.iter().map(|op| op.key().clone()).collect();
        for key in &keys {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.in_flight = None;
            }
        }
        for (key, lease) in reserved {
            let kept = match self.slots.get_mut(&key) {
                Some(slot) if verdict.is_none() => slot.perhaps_on.replace(lease),
                _ => Some(lease),
            };
            if let Some(lease) = kept {
                self.leases.release(lease, 1);
            }
        }
        match verdict {
            Some(TxnOutcome::Applied { revision, results }) => {
                self.accepted(&gathered);
                for (op, result) in ops.into_iter().zip(results) {
                    self.settle_op(op, result, revision);
                }
            }
            Some(TxnOutcome::LeaseGone) => self.settle_lease_gone(&ops),
            // Nothing was written, or it is not known: the same work comes up again, and the guards see to the rest.
            Some(TxnOutcome::Fenced | TxnOutcome::Overtaken { .. }) | None => {}
        }
        // Both who asked for the writes and who wants the keys by now may have more to do.
        for work in works {
            self.work.push(work);
        }
        for key in &keys {
            self.enqueue(key);
        }
        self.settle_lingering();
    }

    fn settle_op(&mut self, op: Op, result: OpResult, revision: Revision) {
        if let Op::Check { key, .. } = &op {
            // A record of which the mirror has not told yet. Done says what was known already.
            if let OpResult::Refused(held) = result {
                self.observe_key(key, held, revision);
            }
            return;
        }
        // The mirror has seen this record come and go already: the answer is the older news.
        let lease = self.meta.recorded_lease(op.key());
        if lease.is_some_and(|lease| !self.leases.is_ours(lease)) {
            return;
        }
        let born = self
            .slots
            .get(op.key())
            .and_then(|slot| slot.held.as_ref())
            .map(|held| held.create_revision);
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

    /// A transaction named a lease that does not exist. If it named only one, that is the one; otherwise each has
    /// to be confirmed by its record.
    fn settle_lease_gone(&mut self, ops: &[Op]) {
        let leases: HashSet<LeaseId> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => Some(*lease),
                Op::Delete { .. } | Op::Check { .. } => None,
            })
            .collect();
        match leases.iter().next() {
            Some(only) if leases.len() == 1 => self.lease_is_gone(*only),
            // Where nothing is put, it is that of the note.
            None => {
                // Which one that was is only known for sure while none is denied.
                let sure = self.leases.denied().next().is_none();
                match self.lease_of_note(ops) {
                    Some(lease) if sure => self.lease_is_gone(lease),
                    Some(lease) => self.leases.doubt(lease),
                    None => {}
                }
            }
            _ => leases.into_iter().for_each(|lease| self.leases.doubt(lease)),
        }
    }
}
