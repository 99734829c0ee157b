//! Errors of a store, classified by what the worker does about them.

use crate::plan::Objection;

/// An error of a request to a store. The message says what a user can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    /// A CamelCase word for conditions, Events and metric labels.
    pub reason: &'static str,
    pub message: String,
}

/// What the worker distinguishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store is unreachable, does not answer, or answers with an error that no other kind covers.
    Unavailable,
    /// The store does not accept the identity of this client, or the TLS connection fails.
    Unauthenticated,
    /// The user lacks a permission.
    Denied,
    /// The store has no space. Deletions still work.
    Full,
    /// The store rejects the content of the request. The same request fails every time; another request may succeed.
    Rejected {
        objection: Objection,
        /// The store's message without advice.
        cause: String,
        /// The store may have executed the request, and only the answer could not be received.
        may_be_done: bool,
    },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the error concerns credentials or permissions. A retry cannot succeed until a user changes them.
    pub fn is_access(&self) -> bool {
        matches!(self.kind, ErrorKind::Denied | ErrorKind::Unauthenticated)
    }
}
