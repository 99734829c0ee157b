//! The direct connections between the replicas of one installation.
//!
//! Each replica listens on a port of its own and dials the addresses of the others, which stand in etcd and in the
//! status of each Registry. Over such a connection a replica states whether its view of Kubernetes is fresh, to which
//! Registries it is connected and which it leads; the end of the connection is how the death of a leader is noticed
//! within milliseconds.
//!
//! Nothing that is learned here can make a write wrong: every write is fenced in etcd. It decides when to try to take the
//! lead, and when a replica is ready. Both sides prove with an HMAC over nonces that they know the installation's key
//! ([`PeerKey`]), and every message carries its own HMAC.
//!
//! [`link`] is pure: what follows from what happened on the connections to one address.

mod dial;
mod key;
mod link;
mod listen;
mod peers;
mod wire;

pub use key::PeerKey;
pub use link::{Elsewhere, Hint, PeerStatus, PeerStatuses, Replica, Term};
pub use listen::listen;
pub use peers::{KeyState, PeerOptions, Peers};
pub use wire::{RegistryState, ReplicaState};
