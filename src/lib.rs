//! Kubernetes pods, leased into etcd.
//!
//! The way of a pod through the house, room by room:
//!
//! 1. [`cluster`] watches Kubernetes and decodes each pod into the few fields that matter.
//! 2. [`index`] knows what Kubernetes says now, and which registration selects which pod.
//! 3. [`plan`] turns a selected pod into the keys etcd should hold (through [`mod@format`]), compares
//!    them with the keys etcd does hold, and says what to write.
//! 4. [`etcd`] elects a leader, keeps leases alive, watches our keys and carries out the writes, fenced.
//! 5. [`cluster`] writes what is registered back into the registration's status.
//!
//! [`operator`] wires the rooms together and supervises them; [`peer`] connects the replicas with each other; [`api`] is
//! what users write; [`telemetry`] is what they see of the process; [`cli`] is how they start it; [`hidden`] is what nobody
//! sees; [`listen`] opens the sockets on which others reach it.
//!
//! `index`, `plan` and `format` are pure: plain data in, plain data out, time as a parameter.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod etcd;
pub mod format;
#[cfg(test)]
mod fuzz;
pub mod hidden;
pub mod index;
pub mod listen;
pub mod operator;
pub mod peer;
pub mod plan;
pub mod telemetry;
