//! Metrics, logs and health of the operator.
//!
//! Owns names, labels and help texts, and the HTTP server that serves them. Must not know what it counts. A Registry's
//! name is the only object name that becomes a label, because a cluster has only a handful of Registries.

mod calls;
mod connections;
mod gate;
mod health;
mod http;
mod logs;
mod metrics;
mod staleness;

pub use calls::{Calls, Outcome, Peer};
pub use gate::{Gate, Judge, Judgement};
pub use health::{Health, RegistryHealth};
pub use http::serve;
pub use logs::{InvalidFilter, LogFilter, LogFormat, init};
pub use metrics::{Exposition, KeyWrite, Metrics, RegistryMetrics};
pub use staleness::Staleness;
