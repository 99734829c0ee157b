//! The etcd layer: connection, election, renewal, the mirror of the operator's keys and the fenced writer.
//!
//! Owns every call to etcd, each with a time-out and a counted outcome. Decides nothing about keys: that is the task of
//! `plan`.

mod backend;
mod connection;
mod election;
mod endpoint;
mod error;
mod examine;
mod keep_alive;
mod mirror;
mod pause;
mod pulse;
mod renewal;
mod requests;
mod role;
mod session;
mod stream_pool;
mod suitability;
mod tls;
mod trial;
mod watches;
mod web;
mod writer;

pub use connection::Connection;
pub use election::campaign;
pub use error::{Error, Result};
pub use mirror::mirror;
pub use renewal::renew;
pub use requests::{LeaseState, Snapshot, Status, lease_id};
pub use role::{Role, role};
pub use suitability::EndpointFault;
pub use tls::Fault;
