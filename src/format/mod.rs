//! How an endpoint is written for a consumer: one file per ecosystem.
//!
//! Owns the wire formats. Knows nothing of pods, leases or servers.

mod endpoint;

pub use endpoint::{Endpoint, Record};
