//! What an operator of the operator sees: metrics, logs, health.
//!
//! Owns names, labels and help texts, and the HTTP server that shows them. Knows nothing of what is being counted. A
//! Registry's name is the only name of an object that becomes a label: a cluster has a handful of them.

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
