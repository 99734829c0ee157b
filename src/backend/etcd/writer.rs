//! Commits a transaction of the planner as one etcd transaction. The fence guards it as a whole. Each write is a nested
//! transaction with its own guard and the guards of its unit. The checkpoint is written last and prevents copies of the
//! transaction from being executed.

use etcd_client::proto::{PbResponseOp, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnResponse};

use super::connection::{Call, Connection, HEDGE};
use super::error::{Error, Result};
use super::requests::decode;
use crate::model::{Expect, Fence, KeyValue, Op, OpResult, Transaction, TxnOutcome};

impl Connection {
    /// Writes `transaction` if `fence` holds. It takes effect at one revision.
    ///
    /// It must not be empty nor have more than [`Transaction::MAX_OPS`] ops, and all its keys and values together must
    /// stay below etcd's request limit of 1.5 MiB. The planner splits larger ones; otherwise etcd answers
    /// [`Error::TooLarge`].
    ///
    /// If an answer is lost or late, the transaction is sent again. With a checkpoint it is still executed
    /// only once: the other copies return [`TxnOutcome::Overtaken`]. Without a checkpoint, puts of an earlier copy are
    /// reported as `Refused`, with exactly the value and lease that this transaction writes.
    pub async fn commit(&self, fence: &Fence, transaction: &Transaction) -> Result<TxnOutcome> {
        debug_assert!(!transaction.ops.is_empty(), "nothing to write");
        debug_assert!(transaction.ops.len() <= Transaction::MAX_OPS, "too many ops");
        let request = encode(fence, transaction);
        match self.txn("txn", request, |answer| !answer.succeeded()).await {
            Ok(answer) => interpret(answer, fence, transaction.ops.len()),
            Err(error) if error.is_lease_not_found() => Ok(TxnOutcome::LeaseGone),
            Err(error) => Err(error),
        }
    }

    /// Sends `request`, hedged to another member if the first is slow, and counts it as a call named `name`. `refused`
    /// decides which answers count as refusals.
    pub(super) async fn txn(
        &self,
        name: &'static str,
        request: Txn,
        refused: fn(&TxnResponse) -> bool,
    ) -> Result<TxnResponse> {
        let kind = Call {
            name,
            attempt_timeout: self.timeouts().request,
            refused,
            hedge: Some(HEDGE),
        };
        self.call(kind, |endpoint| {
            let mut kv = endpoint.kv.clone();
            let request = request.clone();
            async move { kv.txn(request).await }
        })
        .await
    }
}

fn encode(fence: &Fence, transaction: &Transaction) -> Txn {
    let mut holds = vec![
        Compare::create_revision(&*fence.key, CompareOp::Equal, fence.create_revision),
        Compare::lease(&*fence.key, CompareOp::Equal, fence.lease.0),
    ];
    let nested = |(position, op)| TxnOp::txn(guarded(op, transaction.unit_of(position)));
    let mut writes: Vec<TxnOp> = transaction.ops.iter().enumerate().map(nested).collect();
    let mut reads = vec![TxnOp::get(&*fence.key, None)];
    if let Some(checkpoint) = &transaction.checkpoint {
        let key = &*checkpoint.key;
        holds.push(Compare::mod_revision(key, CompareOp::Less, checkpoint.after + 1));
        let options = PutOptions::new().with_lease(checkpoint.lease.0);
        writes.push(TxnOp::put(key, &*checkpoint.value, Some(options)));
        reads.push(TxnOp::get(key, None));
    }
    Txn::new().when(holds).and_then(writes).or_else(reads)
}

/// Encodes `op` with the guards of its whole unit. etcd evaluates all of them before it writes anything, so all ops of
/// a unit have the same result.
fn guarded(op: &Op, unit: &[Op]) -> Txn {
    let key: &str = op.key();
    let write = match op {
        Op::Put { value, lease, .. } => {
            let options = PutOptions::new().with_lease(lease.0);
            TxnOp::put(key, &**value, Some(options))
        }
        Op::Delete { .. } => TxnOp::delete(key, None),
        Op::Check { .. } => TxnOp::get(key, None),
    };
    let guards: Vec<Compare> = unit.iter().map(guard).collect();
    Txn::new()
        .when(guards)
        .and_then([write])
        .or_else([TxnOp::get(key, None)])
}

fn guard(op: &Op) -> Compare {
    let key: &str = op.key();
    match op.expect() {
        Expect::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
        Expect::At(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
    }
}

fn interpret(answer: TxnResponse, fence: &Fence, ops: usize) -> Result<TxnOutcome> {
    if !answer.succeeded() {
        return refusal(answer, fence);
    }
    let header = answer.header().ok_or_else(|| Error::malformed("txn", "no header"))?;
    let revision = header.revision();
    let results = answer.0.responses.into_iter().take(ops).map(result_of);
    let results: Vec<_> = results.collect::<Result<_>>()?;
    if results.len() != ops {
        return Err(Error::malformed(
            "txn",
            "the number of results differs from the number of operations",
        ));
    }
    Ok(TxnOutcome::Applied { revision, results })
}

/// Determines why nothing was written: the fence does not hold, or a newer checkpoint exists.
fn refusal(answer: TxnResponse, fence: &Fence) -> Result<TxnOutcome> {
    let mut found = answer.0.responses.into_iter();
    let mut next_read = || holder("txn", found.next().into_iter().collect());
    let leads = |leader: &KeyValue| leader.create_revision == fence.create_revision && leader.lease == fence.lease;
    if !next_read()?.as_ref().is_some_and(leads) {
        return Ok(TxnOutcome::Fenced);
    }
    match next_read()? {
        Some(checkpoint) => Ok(TxnOutcome::Overtaken {
            at: checkpoint.mod_revision,
        }),
        None => Err(Error::malformed("txn", "the conditions failed, but all of them hold")),
    }
}

fn result_of(response: PbResponseOp) -> Result<OpResult> {
    let Some(PbTxnOpResponse::ResponseTxn(nested)) = response.response else {
        return Err(Error::malformed("txn", "no nested result"));
    };
    if nested.succeeded {
        return Ok(OpResult::Done);
    }
    holder("txn", nested.responses).map(OpResult::Refused)
}

/// Returns the key state read by the failure branch of `call`; `None` if the key does not exist.
pub(super) fn holder(call: &'static str, responses: Vec<PbResponseOp>) -> Result<Option<KeyValue>> {
    match responses.into_iter().next().and_then(|answer| answer.response) {
        Some(PbTxnOpResponse::ResponseRange(mut range)) => Ok(range.kvs.pop().and_then(decode).map(|(_, held)| held)),
        _ => Err(Error::malformed(call, "no key state")),
    }
}
