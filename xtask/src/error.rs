//! Why a command of xtask gave up.

/// The one error of xtask.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bed could not be built, started or used.
    #[error(transparent)]
    Bed(#[from] testbed::Error),
    /// Kubernetes refused or did not answer.
    #[error("Kubernetes: {0}")]
    Kube(#[from] kube::Error),
    /// etcd refused or did not answer.
    #[error("etcd: {0}")]
    Etcd(#[from] etcd_client::Error),
    /// A file, pipe or program of this machine could not be used.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done, as an infinitive.
        doing: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A step of the checks failed.
    #[error("{step} failed: {why}\n  fix: {fix}")]
    Check {
        /// The step's name.
        step: &'static str,
        /// The command that failed, or what was found.
        why: String,
        /// What to do next.
        fix: String,
    },
    /// A step of the demo did not hold.
    #[error("this does not hold: {0}")]
    Broken(String),
    /// SIGINT or SIGTERM came before the end.
    #[error("interrupted")]
    Interrupted,
}

/// A result of xtask.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done, as an infinitive.
pub fn doing(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let doing = doing.into();
    |source| Error::Io { doing, source }
}
