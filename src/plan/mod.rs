//! Compares the desired keys with the observed keys in etcd, and plans the writes. Owns the decisions about keys: which
//! registration may have a key, its lease, when it is written or removed, and when a removal is held back ([`Hold`]).
//! Also owns the wording of a registration's status. Must not know connections, tasks or clocks: time is a parameter.
//! Of Kubernetes it knows only API types, such as the status.
//!
//! [`DesiredPod`] computes the records of a pod. [`Planner`] compares them with etcd: its `next` returns the next step,
//! its `report` the state of a registration, and [`status_of`] turns that report into a status.

mod actions;
mod by_prefix;
mod checkpoint;
mod complete;
mod desired;
mod duplicate_keys;
mod edits;
#[cfg(test)]
pub(crate) mod fuzz;
mod gated;
mod guard;
mod in_flight;
mod key_table;
mod last_endpoint;
mod lease_groups;
mod lease_placement;
mod lease_pool;
mod meta;
mod min_ready;
mod observe;
mod permissions;
mod planner;
mod policy;
mod prefixes;
mod previous;
#[cfg(test)]
mod properties;
mod quota;
mod rate_limit;
mod refresh;
mod registrations;
mod rejected;
mod report;
mod since;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unconfirmed;
mod units;
mod work;
#[cfg(test)]
mod world;

pub use actions::Step;
pub use desired::{DesiredPod, EndpointAddress, EndpointRecords, FormatBinding, PodState, Problem};
pub use gated::GatedPod;
pub use guard::{GuardEvent, GuardSettings, Hold, Moment, Release};
pub use in_flight::Ticket;
pub use lease_groups::{LeaseGroup, LeaseGroups};
pub use meta::{CandidateRecord, MetaKeys, in_the_way, newer_version};
pub use permissions::{ProbeCandidate, Right};
pub use planner::Planner;
pub use policy::{Denial, NamespacePolicy, Policy, PrefixGrant, Quota, Rule};
pub use refresh::DesiredState;
pub use registrations::RegistrationSettings;
pub use rejected::{Narrowed, Objection, Owner, Rejection};
pub use report::{Conflict, Holder, Registered, Report};
pub use since::Since;
pub use status::{EndpointKind, Holding, Readiness, Subject, count, refused_status, status_of};
pub use work::Served;
