//! The words that `plan` and `etcd` share: keys as etcd holds them, and guarded writes to them.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// An etcd key. Ours are always UTF-8; foreign keys that are not are none of our business.
pub type Key = Arc<str>;

/// The bytes under a key.
pub type Value = Arc<[u8]>;

/// A revision of an etcd cluster's whole key space.
pub type Revision = i64;

/// A lease's id, printed as etcdctl prints it. Ours are random, positive and 63 bits long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// What etcd reports for a key that is on no lease.
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

/// What etcd holds under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The bytes.
    pub value: Value,
    /// The lease the key is on, [`LeaseId::NONE`] if none.
    pub lease: LeaseId,
    /// When the key came into being.
    pub create_revision: Revision,
    /// When the key was last written.
    pub mod_revision: Revision,
}

/// A range of keys that is read and watched as a whole: every key that starts with a prefix ending in `/`,
/// so that `orders/` never reaches `orders-v2/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// The scope of all keys below `prefix`; a missing `/` at the end is added.
    pub fn below(prefix: &str) -> Self {
        if prefix.ends_with('/') {
            Self(prefix.into())
        } else {
            Self(format!("{prefix}/").into())
        }
    }

    /// The prefix, which ends with `/`.
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// Whether `key` lies in this scope.
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&*self.0)
    }
}

impl Borrow<str> for Prefix {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What must be true of a key for a write to it to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last written at this revision.
    At(Revision),
}

/// One guarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes `value` under `key` on `lease`.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// Its lease.
        lease: LeaseId,
        /// Its guard.
        expect: Expect,
    },
    /// Removes `key` if it was last written at `mod_revision`.
    Delete {
        /// The key.
        key: Key,
        /// Its guard.
        mod_revision: Revision,
    },
    /// Changes nothing: a guard on which the other ops of its unit depend.
    Check {
        /// The key.
        key: Key,
        /// The guard.
        expect: Expect,
    },
}

impl Op {
    /// The key this writes, or depends on.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What must be true of the key.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Check { expect, .. } => *expect,
            Self::Delete { mod_revision, .. } => Expect::At(*mod_revision),
        }
    }
}

/// What the writer of a transaction leaves for whoever writes next, in the same transaction, which is carried out only if
/// nobody has left another one since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointWrite {
    /// The key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// Its lease.
    pub lease: LeaseId,
    /// The last revision at which the one before may have been left.
    pub after: Revision,
}

/// Writes that reach consumers at one revision. Each op has its own guard: a refused one leaves the others standing,
/// except for those that are of one unit with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Each writes a key of its own. At most [`Transaction::MAX_OPS`] together with the largest unit's guards but one.
    pub ops: Vec<Op>,
    /// Ranges of `ops` that happen together or not at all: each of them depends on the guards of all. Ops in no range
    /// stand alone. No two ranges meet.
    pub units: Vec<Range<usize>>,
    /// What is left for whoever writes next; without it, the transaction may be carried out twice.
    pub note: Option<CheckpointWrite>,
}

impl Transaction {
    /// etcd's default `--max-txn-ops` is 128, counted over the outer transaction and the largest nested one: this many
    /// ops that stand alone, and the note.
    pub const MAX_OPS: usize = 126;

    /// Ops that all stand alone.
    pub fn of(ops: Vec<Op>) -> Self {
        Self { ops, ..Self::default() }
    }

    /// Whether nothing is put, but for the note.
    pub fn only_removes(&self) -> bool {
        !self.ops.iter().any(|op| matches!(op, Op::Put { .. }))
    }

    /// Adds `ops`, which fall into units of these lengths.
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

    /// The unit that the op at `position` is of; only itself where it stands alone.
    pub fn unit_of(&self, position: usize) -> &[Op] {
        let unit = self.units.iter().find(|unit| unit.contains(&position));
        &self.ops[unit.cloned().unwrap_or(position..position + 1)]
    }
}

/// Proof of leadership: the leader key, the revision that created it and the lease it is on. Every write compares it,
/// so that a leader that lost the key cannot write, whatever its clock says. The revision alone would not do: an etcd
/// restored from a snapshot counts the same revisions again, for somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The leader key.
    pub key: Key,
    /// Its `create_revision`.
    pub create_revision: Revision,
    /// The session it is on: a random id.
    pub lease: LeaseId,
}

/// What became of one op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Written, at the transaction's revision.
    Done,
    /// The guard did not hold; this is what the key holds instead.
    Refused(Option<KeyValue>),
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// The fence held; one result per op, in order.
    Applied {
        /// The revision at which the done ops took effect, or at which the guards were read when none was done.
        revision: Revision,
        /// One per op.
        results: Vec<OpResult>,
    },
    /// Somebody else leads: nothing was written.
    Fenced,
    /// A note was left after the one that the transaction follows, at this revision: by a copy of the transaction itself,
    /// or by an earlier one of which nothing had been heard. Nothing was written by this one.
    Overtaken {
        /// When the note was left.
        at: Revision,
    },
    /// A lease named by a put does not exist (any more): nothing was written.
    LeaseGone,
}

/// What the mirror of our keys saw, in the order of revisions per key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Everything `scope` holds at `revision`; what is not among `entries` is not there.
    Snapshot {
        /// The scope read.
        scope: Prefix,
        /// The revision read at.
        revision: Revision,
        /// All its UTF-8 keys.
        entries: Vec<(Key, KeyValue)>,
    },
    /// One key was written or removed (`held` is none) at `revision`.
    Changed {
        /// The key.
        key: Key,
        /// What it holds now.
        held: Option<KeyValue>,
        /// When it changed.
        revision: Revision,
    },
    /// etcd does not let us read `scope`. What it holds is not known any more, until a snapshot of it follows.
    Denied {
        /// The scope.
        scope: Prefix,
    },
    /// Every wanted scope has had its snapshot, or is denied, and changes follow: sent after those of a start or restart,
    /// and after those of scopes added later.
    Complete {
        /// The revision of the last snapshot.
        revision: Revision,
    },
    /// The cluster's history is not the one known so far (restored from a snapshot, or another cluster):
    /// everything learnt before is void. Snapshots of all scopes follow.
    Restored,
    /// The view is no longer live; snapshots of all scopes follow when it is again.
    Interrupted,
}
