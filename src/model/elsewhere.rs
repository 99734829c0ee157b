//! What the other replicas report about a Registry.

use std::sync::Arc;

/// Whether another replica is connected to a Registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// There is evidence that none is.
    NoReplica,
    /// This replica states that it is.
    Connected(Arc<str>),
    /// Unknown, for this reason.
    Unknown(Arc<str>),
}
