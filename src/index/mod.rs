//! What Kubernetes says now: every pod in a compact form, every registration, and who selects whom.
//!
//! Owns the answer to "what should this registration say about this pod" ([`Index::view`]), and says after each
//! event which of these answers may have changed ([`DirtyMark`]). An event that changes none is swallowed here. Only the
//! end of a registration touches nothing: whoever tells of it knows that all of its answers are void.
//!
//! Must not know how an endpoint is written, what etcd holds, or where the facts come from: plain data in
//! ([`Pod`], [`Registration`]), plain data out. No clock, no task, no client.

mod compact;
mod interner;
mod namespace;
mod namespace_labels;
mod namespace_scope;
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
pub use namespace_scope::{Mark, NamespaceScope, Relists};
pub use pod::{Addresses, Pod, PodPort, Protocol, WEIGHT_ANNOTATION};
pub use registration::{Family, Port, PortTarget, Registration, RegistrationRef};
pub use selector::{Operator, Requirement, Selector};
pub use store::Index;
pub use view::{DirtyMark, MissingPort, PodView, ReadyPod, Why};
