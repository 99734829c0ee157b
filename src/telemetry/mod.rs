//! What an operator of the operator sees: metrics, logs, health.
//!
//! Owns names and labels. Knows nothing of what is being counted: names of objects never become labels.

mod calls;

pub use calls::{Calls, Outcome, Peer};
