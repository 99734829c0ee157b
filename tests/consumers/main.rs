//! Consumers as they are: programs in their own languages, with the clients of their own ecosystems, of which none knows
//! leasehold. They are in `programs`, each with its own pins, and print a line of JSON for every change of what their
//! client library tells them.
//!
//! One control plane, one test at a time, as in `tests/replicas`; each test brings its own etcd.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/turn.rs"]
mod turn;

mod consumer;
mod kubelet;
mod life;
mod load;
mod migrating;
mod p11_rollouts;
mod pages;
mod plan;
mod programs;
mod rolling;
mod rollouts;
mod scene;

use self::turn::Turn;
