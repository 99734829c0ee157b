//! The cache of pods and registrations: every pod in a compact form, every registration, and which selects which.
//!
//! Owns the view of a registration on a pod ([`Index::view`]). Each event returns what may have changed ([`PodChange`],
//! [`DirtyMark`]); an event that changes nothing returns nothing. The deletion of a registration returns none either: the
//! caller knows that all of its views are void.
//!
//! Must not know how an endpoint is written, what etcd holds, or where the facts come from. Plain data in ([`Pod`],
//! [`Registration`]), plain data out: no clock, no task, no client.

mod compact;
mod interner;
mod namespace;
mod namespace_labels;
mod pod;
#[cfg(test)]
mod properties;
mod registration;
mod resolve;
mod selector;
mod store;
#[cfg(test)]
mod testing;
mod view;

pub use namespace_labels::{NamespaceCache, NamespaceLabels};
pub use pod::{Addresses, Pod, PodPort, WEIGHT_ANNOTATION};
pub use registration::{Port, PortTarget, Registration};
pub use selector::{Operator, Requirement, Selector};
pub use store::Index;
pub use view::{DirtyMark, MissingPort, PodChange, PodView, ReadyPod, Why};
