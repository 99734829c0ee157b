//! Why the process ends without being asked to.

use std::net::SocketAddr;

use crate::kube::ClientError;

/// Why the operator ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no way to the kube-apiserver.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The address for metrics and health cannot be used.
    #[error("cannot listen on {address}: {cause}; give another address with --http")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        cause: std::io::Error,
    },
    /// The address for other replicas cannot be used.
    #[error("cannot listen for other replicas on {address}: {cause}; give another address with --peer-listen")]
    ListenPeers {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        cause: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(std::io::Error),
    /// A part ended that never should. The process ends with it, to be started anew in a known state.
    #[error("the part \"{0}\" has ended, which is a bug: please report it with the log")]
    PartEnded(&'static str),
}
