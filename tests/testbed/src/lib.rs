//! A real control plane on this machine: kube-apiserver and its controllers, simulated nodes, etcd clusters.
//!
//! A test starts a [`Bed`] of its own when it breaks servers, or uses the one that its binary [shares](shared()) and keeps
//! to a [`Namespace`] and a key prefix. Nothing outlives its owner: not after a panic, Ctrl-C or SIGKILL.
//!
//! - [`bed`]: all parts put together, the definitions and the `Registry` of leasehold applied.
//! - [`kubernetes`]: the control plane, and hands to move pods and any other object.
//! - [`etcd`]: clusters of etcd, usable alone, and the history of what happened in them.
//! - [`kubelet`]: the pods of leasehold's chart, and those that a test wants, run as processes.
//! - [`network`]: a bad network between any two of them.
//! - [`operator`]: the operator itself, started against a bed.
//! - [`process`]: what everything here is made of: processes that tests can pause and kill.
//! - [`tools`]: where the programs come from.

pub mod bed;
mod error;
pub mod etcd;
pub mod kubelet;
pub mod kubernetes;
pub mod network;
pub mod operator;
pub mod process;
mod rights;
mod shared;
pub mod tools;
mod wait;

pub use bed::{Bed, BedConfig};
pub use error::{Error, Result};
pub use etcd::certificates::{Authority, Pair, Validity, self_signed};
pub use etcd::{ClientCertificates, EtcdCluster, EtcdConfig, Event, Held, History, Kind, Security};
pub use kubelet::{Image, Kubelet};
pub use kubernetes::{Account, ControlPlane, Namespace, NewPod, Objects};
pub use network::{Balancer, Crossing, Link, Network, Web, WebServer};
pub use operator::{Operator, OperatorConfig, build_operator, build_released_operator};
pub use process::{Folder, Process};
pub use shared::shared;
pub use tools::{EtcdVersion, Tool};
pub use wait::until;
