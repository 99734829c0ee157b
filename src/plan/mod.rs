//! What etcd should hold, what it does hold, and the writes that lead from one to the other.
//!
//! Owns the decisions about keys: who may have one, on which lease it goes, when it is written or removed.
//! Knows nothing of Kubernetes objects, connections or clocks.

mod transaction;

pub use transaction::{
    Expect, Fence, Held, Key, LeaseId, Observation, Op, OpResult, Revision, Scope, Transaction, Value, Verdict,
};
