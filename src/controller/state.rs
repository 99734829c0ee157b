//! The state that survives a restart: what a replica needs to connect to every Registry. A replica that starts while
//! the kube-apiserver is unavailable can then renew the leases that are recorded there.
//!
//! The state is one JSON file in its own folder, which is replaced atomically. If the file is unusable, the replica
//! ignores it and waits for the apiserver, as on its first start.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::RegistrySpec;
use crate::backend::Access;

/// The version of the file format. Files of other versions are not read.
const VERSION: u64 = 1;
/// The file, and the new file that replaces it.
const FILE: &str = "state.json";
const NEXT: &str = "state.json.new";
/// Pause before a failed write is retried.
const AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The UID of the Kubernetes cluster. The operator's records in etcd are below it.
    pub cluster_id: String,
    /// The Registries by name.
    pub registries: BTreeMap<String, StoredRegistry>,
}

/// A Registry as it was last observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRegistry {
    /// `metadata.uid`; empty if the file was written by a release that did not store it.
    #[serde(default)]
    pub uid: String,
    /// `metadata.generation` of the spec.
    pub generation: i64,
    pub spec: RegistrySpec,
    /// The endpoints and credentials that etcd accepted last. Those of the spec may not work, and the Secrets cannot be
    /// read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

impl StoredRegistry {
    /// Returns the stored access; none if the Registry needs credentials that were not stored.
    pub fn access(&self) -> Option<Access> {
        let is_open = self.spec.etcd.tls.is_none() && self.spec.etcd.auth.is_none();
        let open = || is_open.then(|| Access::open(self.spec.etcd.endpoints.clone()));
        self.access.clone().or_else(open)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    version: u64,
    #[serde(flatten)]
    state: &'a State,
}

/// Why stored state cannot be used, or state cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("cannot use {path}: {cause}")]
    Io {
        /// The file or folder.
        path: String,
        cause: io::Error,
    },
    /// The path is not a file or folder as expected.
    #[error("{path} is not a {wanted}; remove it, or set another folder with --state-dir")]
    OtherKind {
        path: String,
        /// `file` or `folder`.
        wanted: &'static str,
    },
    /// Another user owns the path and may have written its content.
    #[error(
        "{path} belongs to user {owner}, but this process runs as user {user}; remove it, or set --state-dir to a \
         folder that does not exist yet"
    )]
    OtherOwner {
        path: String,
        /// UID of the owner.
        owner: u32,
        /// UID of this process.
        user: u32,
    },
    /// Other users may read or write the path.
    #[error(
        "{path} has mode {mode:04o}, which gives other users access; remove that access (chmod go= {path}), or set \
         --state-dir to a folder that does not exist yet"
    )]
    OpenToOthers {
        path: String,
        /// The permission bits.
        mode: u32,
    },
    /// The content is incomplete, or not a state of leasehold.
    #[error("its content is not a state of leasehold: {0}")]
    Content(String),
    #[error("it has version {found}, but this release reads version {VERSION}")]
    OtherVersion {
        /// The version of the file.
        found: u64,
    },
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let document = Document {
            version: VERSION,
            state: self,
        };
        serde_json::to_vec_pretty(&document).expect("maps with string keys encode")
    }

    fn decode(text: &[u8]) -> Result<Self, Unusable> {
        let content = |error: serde_json::Error| Unusable::Content(error.to_string());
        let document: serde_json::Value = serde_json::from_slice(text).map_err(content)?;
        match document["version"].as_u64() {
            Some(VERSION) => {}
            Some(found) => return Err(Unusable::OtherVersion { found }),
            None => return Err(Unusable::Content("it has no version".to_owned())),
        }
        let state: Self = serde_json::from_value(document).map_err(content)?;
        if state.cluster_id.is_empty() || state.cluster_id.contains('/') {
            return Err(Unusable::Content(
                "its clusterId is empty or contains a slash".to_owned(),
            ));
        }
        Ok(state)
    }
}

#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

impl StateFolder {
    /// Returns the folder at `path`. It is created when there is state to store.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Loads the stored state if it exists and can be trusted. Logs why it cannot be used.
    pub fn load(&self) -> Option<State> {
        let folder = self.0.display();
        match self.read() {
            Ok(state) => {
                tracing::info!(%folder, registries = state.registries.len(), "loaded the state folder");
                Some(state)
            }
            Err(Unusable::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                tracing::info!(%folder, "the state folder contains no state yet");
                None
            }
            Err(error) => {
                tracing::warn!(%folder, %error, "ignoring the state folder");
                None
            }
        }
    }

    fn read(&self) -> Result<State, Unusable> {
        self.check()?;
        let path = self.0.join(FILE);
        let metadata = fs::symlink_metadata(&path).map_err(failed(&path))?;
        private(&path, &metadata, "file", metadata.is_file())?;
        State::decode(&fs::read(&path).map_err(failed(&path))?)
    }

    fn check(&self) -> Result<(), Unusable> {
        let metadata = fs::symlink_metadata(&self.0).map_err(failed(&self.0))?;
        private(&self.0, &metadata, "folder", metadata.is_dir())
    }

    /// Replaces the stored state. If the call is interrupted, either the old or the new file is complete.
    fn write(&self, state: &State) -> Result<(), Unusable> {
        let builder = DirBuilder::new().mode(0o700).create(&self.0);
        if let Err(cause) = builder
            && cause.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(failed(&self.0)(cause));
        }
        self.check()?;
        let (path, next) = (self.0.join(FILE), self.0.join(NEXT));
        match fs::remove_file(&next) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(&next)(cause)),
            _ => {}
        }
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next);
        let written = open.and_then(|mut file| {
            file.write_all(&state.encode())?;
            file.sync_all()
        });
        written.map_err(failed(&next))?;
        let replaced = fs::rename(&next, &path).and_then(|()| File::open(&self.0)?.sync_all());
        replaced.map_err(failed(&path))
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Unusable {
    let path = path.display().to_string();
    move |cause| Unusable::Io {
        path: path.clone(),
        cause,
    }
}

fn private(path: &Path, metadata: &Metadata, wanted: &'static str, is_wanted: bool) -> Result<(), Unusable> {
    let path = path.display().to_string();
    if !is_wanted {
        return Err(Unusable::OtherKind { path, wanted });
    }
    let user = rustix::process::geteuid().as_raw();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != user {
        return Err(Unusable::OtherOwner { path, owner, user });
    }
    if mode & 0o077 != 0 {
        return Err(Unusable::OpenToOthers { path, mode });
    }
    Ok(())
}

/// Stores the newest of `states` in `folder` until `shutdown`. Retries if writing fails: the operator works without the
/// folder.
pub async fn keep(folder: StateFolder, mut states: watch::Receiver<Option<State>>, shutdown: CancellationToken) {
    let mut failing = false;
    loop {
        let newest = states.borrow_and_update().clone();
        let mut again = false;
        if let Some(state) = newest {
            let place = folder.clone();
            let written = spawn_blocking(move || place.write(&state)).await;
            again = match written.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Ok(()) => false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(
                            %error,
                            "cannot store the state, trying again; without it, a replica that starts while the \
                             kube-apiserver is unavailable renews no leases"
                        );
                    }
                    true
                }
            };
            failing = again;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            Ok(()) = states.changed() => {}
            () = sleep(AGAIN), if again => {}
        }
    }
}

#[cfg(test)]
mod tests;
