//! What Kubernetes says now: every pod in a compact form, every registration, and who selects whom.
//!
//! Owns the answer to "what should this registration say about this pod" ([`Index::view`]), and says after each
//! event which of these answers may have changed ([`Touch`]). An event that changes none is swallowed here. Only the
//! end of a registration touches nothing: whoever tells of it knows that all of its answers are void.
//!
//! Must not know how an endpoint is written, what etcd holds, or where the facts come from: plain data in
//! ([`Pod`], [`Registration`]), plain data out. No clock, no task, no client.

mod area;
mod compact;
mod interner;
mod namespace;
mod pod;
#[cfg(test)]
mod properties;
mod registration;
mod resolve;
mod selector;
mod store;
mod tenants;
#[cfg(test)]
mod testing;
mod view;

pub use area::{Area, Mark, Relists};
pub use pod::{Addresses, Pod, PodPort, Protocol, WEIGHT_ANNOTATION};
pub use registration::{Family, Port, PortTarget, Registration, RegistrationRef};
pub use selector::{Operator, Requirement, Selector};
pub use store::Index;
pub use tenants::{Tenant, Tenants};
pub use view::{MissingPort, PodView, ReadyPod, Touch, Why};
