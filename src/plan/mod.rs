//! What etcd should hold, what it does hold, the writes that lead from one to the other, and what is said about it.
//!
//! Owns the decisions about keys: who may have one, on which lease it goes, when it is written or removed, and when a
//! removal is held back ([`Hold`]); and the
//! words of a registration's status. Must not know connections, tasks or clocks: time is a parameter. Of Kubernetes it
//! knows what a status looks like, nothing else.
//!
//! [`Tenancy`] is where a pod becomes keys; [`Ledger`] holds them against what etcd holds; its `next` says what to
//! write, its `report` how a registration stands, and [`status_of`] puts that into words.

mod denied;
mod domains;
mod doubts;
mod fair;
mod forbidden;
#[cfg(test)]
pub(crate) mod fuzz;
mod guard;
mod heard;
mod in_flight;
mod last;
mod leases;
mod ledger;
mod meta;
mod namesakes;
mod placing;
mod planner;
mod policy;
mod previous;
#[cfg(test)]
mod properties;
mod quota;
mod rejected;
mod report;
mod scopes;
mod settlement;
mod sightings;
mod since;
mod status;
mod stream;
mod tenancy;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod transaction;
mod units;
mod work;
#[cfg(test)]
mod world;

pub use denied::{Right, Suspect};
pub use domains::{Domain, Domains, folders};
pub use fair::FairQueue;
pub use guard::{GuardMode, GuardNews, GuardTerms, Hold, Moment, Release};
pub use heard::{Heard, Progress, Reached};
pub use in_flight::Ticket;
pub use ledger::{Ledger, Terms};
pub use meta::{CandidateRecord, MetaKeys, RECORD_VERSION, newer_version};
pub use planner::Step;
pub use policy::{Charter, Denial, Pass, Policy, Quota, Rule};
pub use rejected::{Narrowed, Objection, Owner, Rejection};
pub use report::{Conflict, Holder, Registered, Report};
pub use since::Since;
pub use status::{Footing, Holding, Subject, keep_times, keep_undecided, refused_status, same_status, status_of};
pub use stream::Stream;
pub use tenancy::{Lodging, Outlet, Presence, Problem, Tenancy};
pub use transaction::{
    Expect, Fence, Held, Key, LeaseId, Note, Observation, Op, OpResult, Revision, Scope, Transaction, Value, Verdict,
};
