//! What the other replicas say of a Registry.

use std::sync::Arc;

/// Whether another replica is connected to a Registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// There is evidence that none is.
    Nobody,
    /// This replica states that it is.
    Connected(Arc<str>),
    /// It cannot be found out, for this reason.
    Unknown(Arc<str>),
}
