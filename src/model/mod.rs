//! The types that all modules share: keys, leases, transactions, endpoints, records and names.
//!
//! Depends on no other module of the crate. Pure: no clients, no clock.

mod backoff;
mod checkpoint;
mod counts;
mod elsewhere;
mod endpoint;
mod fair_queue;
mod hash;
mod leader_flag;
mod list;
mod namespace_scope;
mod network;
mod pod_ref;
mod prefix;
mod registration_ref;
mod transaction;
mod watch_target;

pub use backoff::Backoff;
pub use checkpoint::{Checkpoint, Freshness, TargetFreshness};
pub use counts::Counts;
pub use elsewhere::Elsewhere;
#[cfg(test)]
pub use endpoint::tests as endpoints;
pub use endpoint::{Endpoint, Host, Record};
pub use fair_queue::{FairQueue, QUANTUM};
pub use hash::fnv64;
pub use leader_flag::LeaderFlag;
pub use list::listed;
pub use namespace_scope::{Mark, NamespaceScope, Relists};
pub use network::{Families, Family, NodeAddressType, Protocol};
pub use pod_ref::PodRef;
pub use prefix::{Prefix, PrefixChanges, elements_below, entries_below, prefixes_around};
pub use registration_ref::RegistrationRef;
pub use transaction::{
    CheckpointWrite, Expect, Fence, Key, KeyValue, LeaseId, Observation, Op, OpResult, Revision, Transaction,
    TxnOutcome, Value,
};
pub use watch_target::WatchTarget;

/// The format version of the records that this release writes.
pub const RECORD_VERSION: u32 = 1;
