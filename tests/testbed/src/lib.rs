//! A real control plane on this machine: kube-apiserver and its controllers, simulated nodes, etcd clusters.
//!
//! - [`etcd`]: clusters of etcd, usable alone, and the history of what happened in them.
//! - [`process`]: what everything here is made of: processes that tests can pause and kill and that never outlive their owner.
//! - [`tools`]: where the programs come from.

mod error;
pub mod etcd;
pub mod process;
pub mod tools;

pub use error::{Error, Result};
pub use etcd::{EtcdCluster, EtcdConfig, Event, Held, History, Kind};
pub use process::{Folder, Process};
pub use tools::EtcdVersion;
