//! The types that `plan` and `backend` share: keys as etcd holds them, guarded writes to them, the results of the writes,
//! and the changes that the mirror reports.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::prefix::Prefix;

/// An etcd key. The operator's keys are always UTF-8. Foreign keys that are not UTF-8 are ignored.
pub type Key = Arc<str>;

pub type Value = Arc<[u8]>;

/// A revision of an etcd cluster. All keys share one revision counter.
pub type Revision = i64;

/// The ID of a lease, printed as etcdctl prints it. The operator's IDs are random, positive and 63 bits long.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// The lease ID that etcd reports for a key without a lease.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The value and metadata that etcd holds under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub value: Value,
    /// [`LeaseId::NONE`] for a key without a lease.
    pub lease: LeaseId,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision of the last write to the key.
    pub mod_revision: Revision,
}

/// The guard of a write: the state that its key must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The `mod_revision` of the key is this revision.
    At(Revision),
}

/// One guarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes `value` under `key` on `lease`.
    Put {
        key: Key,
        value: Value,
        lease: LeaseId,
        expect: Expect,
    },
    /// Removes `key` if its last write was at `mod_revision`.
    Delete { key: Key, mod_revision: Revision },
    /// Changes nothing. It is a guard on which the other ops of its unit depend.
    Check { key: Key, expect: Expect },
}

impl Op {
    /// Returns the key that this op writes or checks.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// Whether none of `ops` puts a key.
    pub fn put_nothing(ops: &[Self]) -> bool {
        !ops.iter().any(|op| matches!(op, Self::Put { .. }))
    }

    /// Returns the guard of this op.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Check { expect, .. } => *expect,
            Self::Delete { mod_revision, .. } => Expect::At(*mod_revision),
        }
    }
}

/// The checkpoint that a transaction writes for the next writer. etcd executes the transaction only if there is no
/// later checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointWrite {
    pub key: Key,
    pub value: Value,
    pub lease: LeaseId,
    /// The latest revision at which the previous checkpoint may have been written.
    pub after: Revision,
}

/// Writes that take effect at one revision. Each op has its own guard. A refused op affects only the ops in its unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// No two ops have the same key. The number of ops, plus the number of guards of the largest unit, minus one, is at
    /// most [`Transaction::MAX_OPS`].
    pub ops: Vec<Op>,
    /// Disjoint ranges of `ops` that etcd applies together or not at all: each op depends on the guards of all ops in
    /// its range. An op outside all ranges is independent.
    pub units: Vec<Range<usize>>,
    /// The checkpoint for the next writer. Without a checkpoint, a retry may execute the transaction twice.
    pub checkpoint: Option<CheckpointWrite>,
}

impl Transaction {
    /// etcd's default `--max-txn-ops` is 128. etcd adds the ops of the outer transaction and of the largest nested one,
    /// which leaves 126 independent ops and the checkpoint.
    pub const MAX_OPS: usize = 126;

    /// Returns a transaction of independent ops without a checkpoint.
    pub fn of(ops: Vec<Op>) -> Self {
        Self { ops, ..Self::default() }
    }

    /// Whether the transaction puts no key except the checkpoint.
    pub fn only_removes(&self) -> bool {
        Op::put_nothing(&self.ops)
    }

    /// Appends `ops`. `units` contains the lengths of their consecutive units. A unit of length 1 is an independent op.
    pub(crate) fn add(&mut self, ops: Vec<Op>, units: &[usize]) {
        let mut first = self.ops.len();
        self.ops.extend(ops);
        for length in units {
            if *length > 1 {
                self.units.push(first..first + length);
            }
            first += length;
        }
    }

    /// Returns the unit that contains the op at `position`; for an independent op, only that op.
    pub fn unit_of(&self, position: usize) -> &[Op] {
        let unit = self.units.iter().find(|unit| unit.contains(&position));
        &self.ops[unit.cloned().unwrap_or(position..position + 1)]
    }
}

/// Proof of leadership: the leader key, the revision that created it and its lease. Every write compares the fence, so
/// that a replica that lost the key cannot write, whatever its clock says. The revision alone is not enough: an etcd
/// restored from a snapshot assigns the same revisions again, possibly to another leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The leader key.
    pub key: Key,
    pub create_revision: Revision,
    /// The lease of the leader's session. Its ID is random.
    pub lease: LeaseId,
}

/// The result of one op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// etcd applied the op at the revision of the transaction. For [`Op::Check`]: the guard held.
    Done,
    /// A guard did not hold. Contains what etcd holds under the key.
    Refused(Option<KeyValue>),
}

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// The fence held, and etcd evaluated every op.
    Applied {
        /// The revision at which the applied ops took effect. If none was applied, the revision at which etcd read the
        /// guards.
        revision: Revision,
        /// One result per op, in the order of the ops.
        results: Vec<OpResult>,
    },
    /// Nothing was written: the fence did not hold. The leader key is absent, or another session holds it.
    Fenced,
    /// Nothing was written: a checkpoint later than the expected one exists. A copy of this transaction wrote it, or an
    /// earlier transaction whose answer was lost.
    Overtaken {
        /// The revision of that checkpoint.
        at: Revision,
    },
    /// Nothing was written: the lease of a put, or of the checkpoint, does not exist.
    LeaseGone,
}

/// One report of the mirror of the operator's keys. The reports of one key arrive in the order of revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The complete content of `prefix` at `revision`. A key that is not in `entries` does not exist.
    Snapshot {
        prefix: Prefix,
        revision: Revision,
        /// All UTF-8 keys below `prefix`.
        entries: Vec<(Key, KeyValue)>,
    },
    /// One key was written at `revision`, or removed if `held` is `None`.
    Changed {
        key: Key,
        held: Option<KeyValue>,
        revision: Revision,
    },
    /// etcd denies read access to `prefix`. Its content is unknown until the next snapshot of it.
    Denied { prefix: Prefix },
    /// Every wanted prefix has had its snapshot or is denied, and is watched. Changes follow. Sent after the snapshots of a
    /// start, after those of prefixes that were added later, and when the watches have continued after an interruption: then
    /// the changes since follow, too.
    Complete {
        /// The newest revision that the mirror has received.
        revision: Revision,
    },
    /// The history of the etcd cluster is a different one: the cluster was restored from a snapshot, or it is another
    /// cluster. All earlier reports are void. Snapshots of all prefixes follow.
    Restored,
    /// The mirror lost its watches. The changes since, or snapshots of prefixes, follow when it has them again.
    Interrupted,
}
