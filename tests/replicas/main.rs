//! Operators that die, come back and take over from one another: what consumers see of it is nothing.
//!
//! One control plane, one test at a time: operators serve the whole cluster, so those of one test would be replicas of
//! those of another. Each test brings its own etcd, which its last operator leaves behind as it is.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/turn.rs"]
mod turn;

mod account;
mod annotations;
mod behind;
mod classes;
mod deaf;
mod last_endpoint;
mod min_ready;
mod namespaces;
mod outdated;
mod p10_strangers;
mod p12_takeover;
mod p3_restart;
mod p4_death;
mod p5_apiserver;
mod p5_lists;
mod p5_restored;
mod p5_rights;
mod p5_silence;
mod p7_fencing;
mod p9_guard;
mod p9_lists;
mod proxy;
mod readiness_gate;
mod record_formats;
mod rollout;
mod takeover;

use self::turn::{Turn, bring_back_apiserver, wait_leader};
