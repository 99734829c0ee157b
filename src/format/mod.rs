//! How an endpoint is written for a consumer: one file per ecosystem.
//!
//! Owns the wire formats and the rules for prefixes. Knows nothing of pods, leases or servers.
//!
//! A new ecosystem is one file with a struct that has `compile`, `scope` and `records`, and one line for it in each
//! `match` of `compiled.rs`.

mod compiled;
mod endpoint;
mod etcd_grpc;
mod plain;
mod prefix;
#[cfg(test)]
mod properties;

pub use compiled::{Format, FormatError, Refusal};
pub use endpoint::{Endpoint, Record};
