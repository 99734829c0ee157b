//! The running operator and real etcds in trouble: the process lives, no key is lost, no ghost stays, and while it
//! lasts the statuses and the metrics say so.
//!
//! One control plane, one test at a time, and an etcd of its own for each.

#[path = "../support/named.rs"]
mod named;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/turn.rs"]
mod turn;

mod compacted;
mod full;
mod handover;
mod members;
mod namesakes;
mod network;
mod p6_outage;
mod p7_rounds;
mod paused;
mod releases;
mod restart_latency;
mod restored;
mod scene;
mod strangers;
mod table;

use self::scene::Scene;
use self::turn::{Turn, wait_leader};
