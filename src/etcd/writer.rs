//! Carries out a transaction: one etcd transaction, which the fence guards as a whole and whose every write has a
//! nested transaction with its own guard, and those of its unit. The note comes last, and keeps copies of it from being
//! carried out.

use etcd_client::proto::{PbResponseOp, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnResponse};

use super::connection::{Call, Connection};
use super::error::{Error, Result};
use super::requests::decode;
use crate::plan::{Expect, Fence, KeyValue, Op, OpResult, Transaction, TxnOutcome};

impl Connection {
    /// Writes `transaction` if `fence` holds. It takes effect at one revision.
    ///
    /// It may not be empty nor have more than [`Transaction::MAX_OPS`] ops, and all its keys and values together must
    /// stay below etcd's request limit of 1.5 MiB: whoever plans it cuts it, else etcd answers [`Error::TooLarge`].
    ///
    /// When an answer is lost or late, the transaction is sent again. With a note it is carried out once nevertheless: of
    /// the other copies the answer is [`TxnOutcome::Overtaken`]. Without one, puts that got through are then `Refused`, held
    /// by exactly the value and lease that were to be written.
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

    /// Sends `request`, to another member too where the first takes long, and counts it as a call of this `name`; `refused`
    /// tells which answers count as a no.
    pub(super) async fn txn(
        &self,
        name: &'static str,
        request: Txn,
        refused: fn(&TxnResponse) -> bool,
    ) -> Result<TxnResponse> {
        let kind = Call {
            name,
            patience: self.timeouts().request,
            refused,
            hedged: true,
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
    let mut looks = vec![TxnOp::get(&*fence.key, None)];
    if let Some(note) = &transaction.note {
        let key = &*note.key;
        holds.push(Compare::mod_revision(key, CompareOp::Less, note.after + 1));
        let options = PutOptions::new().with_lease(note.lease.0);
        writes.push(TxnOp::put(key, &*note.value, Some(options)));
        looks.push(TxnOp::get(key, None));
    }
    Txn::new().when(holds).and_then(writes).or_else(looks)
}

/// `op`, which depends on the guards of its whole unit: etcd compares them all before it writes anything, so the ops of
/// a unit find the same answer.
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
        return Err(Error::malformed("txn", "not one result per op"));
    }
    Ok(TxnOutcome::Applied { revision, results })
}

/// Why nothing was written: the fence does not hold, or else a note was in the way.
fn refusal(answer: TxnResponse, fence: &Fence) -> Result<TxnOutcome> {
    let mut found = answer.0.responses.into_iter();
    let mut look = || holder("txn", found.next().into_iter().collect());
    let leads = |leader: &KeyValue| leader.create_revision == fence.create_revision && leader.lease == fence.lease;
    if !look()?.as_ref().is_some_and(leads) {
        return Ok(TxnOutcome::Fenced);
    }
    match look()? {
        Some(note) => Ok(TxnOutcome::Overtaken { at: note.mod_revision }),
        None => Err(Error::malformed("txn", "refused, though all that it demands is so")),
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

/// What the single read of a failure branch of `call` found: none if the key does not exist.
pub(super) fn holder(call: &'static str, responses: Vec<PbResponseOp>) -> Result<Option<KeyValue>> {
    match responses.into_iter().next().and_then(|answer| answer.response) {
        Some(PbTxnOpResponse::ResponseRange(mut range)) => Ok(range.kvs.pop().and_then(decode).map(|(_, held)| held)),
        _ => Err(Error::malformed(call, "no holder")),
    }
}
