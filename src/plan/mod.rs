//! What etcd should hold, what it does hold, and the writes that lead from one to the other.
//!
//! Owns the decisions about keys: who may have one, on which lease it goes, when it is written or removed.
//! Knows nothing of Kubernetes objects, connections or clocks.
//!
//! [`Tenancy`] is where a pod becomes keys; [`Ledger`] holds them against what etcd holds; its `next` says what to write.

mod leases;
mod ledger;
mod meta;
mod planner;
#[cfg(test)]
mod properties;
mod report;
mod scopes;
mod settlement;
mod sightings;
mod status;
mod tenancy;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod transaction;
mod work;
#[cfg(test)]
mod world;

pub use ledger::{Ledger, Terms};
pub use meta::MetaKeys;
pub use planner::{Step, Ticket};
pub use report::{Conflict, Holder, Registered, Report};
pub use status::{Footing, Subject, keep_times, refused_status, same_status, status_of};
pub use tenancy::{Lodging, Outlet, Problem, Tenancy};
pub use transaction::{
    Expect, Fence, Held, Key, LeaseId, Observation, Op, OpResult, Revision, Scope, Transaction, Value, Verdict,
};
