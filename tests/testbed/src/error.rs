//! Errors of building and using a bed, in words that say what to do next.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

/// The test bed's one error.
#[derive(thiserror::Error)]
pub enum Error {
    /// A file, folder, pipe or process call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done, as an infinitive: "create the folder /x".
        doing: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A program that this crate does not build itself is not installed.
    #[error("{tool} is needed to {purpose} and was not found; install it with: {install}")]
    MissingTool {
        /// The program's name.
        tool: &'static str,
        /// What it is needed for.
        purpose: String,
        /// A command that installs it.
        install: &'static str,
    },
    /// A program's build or download failed.
    #[error("cannot get {tool}: `{command}` failed; its last words:\n{output}")]
    Build {
        /// What was wanted.
        tool: String,
        /// The command, to be tried by hand.
        command: String,
        /// The end of its output.
        output: String,
    },
    /// A process of the bed ended although it should run.
    #[error("{name} ended ({status}) although it should run; the end of its log {log}:\n{tail}", log = log.display())]
    Exited {
        /// The process's name in the bed.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log file, gone with the bed unless `TESTBED_KEEP=1`.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
    /// Something did not come true in time.
    #[error("waited {waited:?} in vain for {what}; last seen: {last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last state seen, or the end of a log.
        last: String,
    },
    /// etcd refused or did not answer.
    #[error("etcd: cannot {doing}: {source}")]
    Etcd {
        /// What was being done, as an infinitive.
        doing: String,
        /// The client's error.
        source: Box<etcd_client::Error>,
    },
    /// A watch can never be complete any more.
    #[error("the history of {prefix} has a hole: {why}; start it before the revision is compacted")]
    Hole {
        /// The watched prefix.
        prefix: String,
        /// etcd's reason.
        why: String,
    },
    /// The API server refused or did not answer.
    #[error("Kubernetes: cannot {doing}: {source}")]
    Kube {
        /// What was being done, as an infinitive.
        doing: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// Something handed to the bed, or found in the tree, cannot be used.
    #[error("{0}")]
    Invalid(String),
}

/// The same as its text: tests that return or unwrap it show it to a person.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns foreign errors into ours by saying what was being done, as an infinitive.
pub(crate) trait Doing<T> {
    /// Adds what was being done.
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::Io {
            doing: doing().into(),
            source,
        })
    }
}

impl<T> Doing<T> for Result<T, etcd_client::Error> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::Etcd {
            doing: doing().into(),
            source: Box::new(source),
        })
    }
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::Kube {
            doing: doing().into(),
            source: Box::new(source),
        })
    }
}
