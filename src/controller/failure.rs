//! The errors that end the process.

use std::net::SocketAddr;

use crate::kube::ClientError;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kube-apiserver cannot be connected.
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot listen on {address}: {cause}; set another address with --http")]
    Listen {
        /// The value of `--http`.
        address: SocketAddr,
        cause: std::io::Error,
    },
    #[error("cannot listen for other replicas on {address}: {cause}; set another address with --peer-listen")]
    ListenPeers {
        /// The value of `--peer-listen`.
        address: SocketAddr,
        cause: std::io::Error,
    },
    #[error("cannot receive signals: {0}")]
    Signals(std::io::Error),
    /// A task ended that must run until shutdown. The process ends, and restarts in a known state.
    #[error("the task \"{0}\" ended unexpectedly, which is a bug: please report it with the log")]
    PartEnded(&'static str),
}
