//! etcd clusters of one or more members, and what happened in them.
//!
//! Owns the members' processes and data, and the watching of prefixes. Knows nothing of Kubernetes: a cluster can be used alone.

pub mod certificates;
mod cluster;
mod content;
mod history;
mod peers;
mod replacement;
mod security;
mod snapshot;

pub use cluster::{EtcdCluster, EtcdConfig};
pub use content::Held;
pub use history::{Event, History, Kind};
pub use security::{ClientCertificates, Security};
