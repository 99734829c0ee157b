//! Direct connections between the replicas of one installation.
//!
//! Each replica listens on its own port and dials the addresses of the others, which are recorded in etcd and in the
//! status of each Registry. Over such a connection a replica states whether its view of Kubernetes is fresh, to which
//! Registries it is connected, and which of them it leads. The end of the connection reveals the death of a leader
//! within milliseconds.
//!
//! No information from a peer can make a write wrong: every write is fenced in etcd. It only decides when a replica
//! tries to take over, and when a replica is ready. Both sides prove with an HMAC over nonces that they know the
//! installation's key ([`PeerKey`]), and every message carries its own HMAC.
//!
//! [`link`] is pure: it derives the status of a peer from the events on the connections to its address.

mod dial;
mod key;
mod link;
mod listen;
mod peers;
mod wire;

pub use key::PeerKey;
pub use link::{Hint, PeerStatus, PeerStatuses, Replica, Term};
pub use listen::listen;
pub use peers::{KeyState, PeerOptions, Peers};
pub use wire::{RegistryState, ReplicaState};
