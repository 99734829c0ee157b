//! The cache of pods, nodes, Services and registrations: every pod in a compact form, and which registration selects it.
//!
//! Owns the view of a registration on a pod, a node or an address ([`Index::view`]). Each event returns what may have changed ([`PodChange`],
//! [`DirtyMark`]); an event that changes nothing returns nothing. The deletion of a registration returns none either: the
//! caller knows that all of its views are void.
//!
//! Must not know how an endpoint is written, what etcd holds, or where the facts come from. Plain data in ([`Pod`],
//! [`Registration`]), plain data out: no clock, no task, no client.

mod behind;
mod compact;
mod gates;
mod interner;
mod namespace;
mod namespace_labels;
mod node;
mod object_cache;
mod pod;
#[cfg(test)]
mod properties;
mod registration;
mod resolve;
mod selector;
mod service;
mod store;
#[cfg(test)]
mod testing;
mod view;

pub use gates::GateChange;
pub use namespace_labels::{NamespaceCache, NamespaceLabels};
pub use node::{Node, Nodes};
pub use object_cache::ObjectCache;
pub use pod::{
    ANNOTATIONS, Addresses, Pod, PodPort, READINESS_GATE, REGION_LABEL, ReadinessGate, WEIGHT_ANNOTATION, ZONE_LABEL,
};
pub use registration::{Address, NodeTarget, Port, PortTarget, Registration, Target};
pub use selector::{Operator, Requirement, Selector};
pub use service::{EndpointSlice, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, TargetPort};
pub use store::Index;
pub use view::{DirtyMark, MinReady, MissingPort, PodChange, PodView, ReadyPod, Why};
