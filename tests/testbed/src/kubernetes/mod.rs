//! The Kubernetes side of a bed: a real control plane, nodes played by kwok, and hands to move its objects.
//!
//! Knows nothing of etcd beyond that the API server needs one, and nothing of leasehold.

mod account;
mod control_plane;
mod credentials;
mod namespace;
mod objects;
mod pod;

pub use account::Account;
pub use control_plane::ControlPlane;
pub use namespace::Namespace;
pub use objects::Objects;
pub use pod::NewPod;

pub(crate) use account::client_by;
pub(crate) use credentials::random_name;
