//! What outlives the process: enough to connect to every Registry, so that a replica that starts while the
//! kube-apiserver is away renews the leases that are recorded there.
//!
//! One JSON file in a folder of its own, replaced as a whole or not at all. Whatever is wrong with it, the replica does
//! without: it then waits for the apiserver, as it does on its first start.

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
use crate::etcd::Access;

/// The form of the file. Another one is not read: what it means is not known.
const VERSION: u64 = 1;
/// The file, and the one that is about to replace it.
const FILE: &str = "state.json";
const NEXT: &str = "state.json.new";
/// Before a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What is needed to connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The UID that names the Kubernetes cluster: our records lie below it.
    pub cluster_id: String,
    /// The Registries by their names.
    pub registries: BTreeMap<String, StoredRegistry>,
}

/// A Registry as it was last heard of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRegistry {
    /// `metadata.uid`; empty if it was kept by a release that did not keep it.
    #[serde(default)]
    pub uid: String,
    /// `metadata.generation` of its spec.
    pub generation: i64,
    /// Its spec.
    pub spec: RegistrySpec,
    /// The endpoints and credentials that last let us in. Those of spec may not work, and the Secrets cannot be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

impl StoredRegistry {
    /// The way in; none if that takes credentials which were not kept.
    pub fn access(&self) -> Option<Access> {
        let is_open = self.spec.tls.is_none() && self.spec.auth.is_none();
        let open = || is_open.then(|| Access::open(self.spec.endpoints.clone()));
        self.access.clone().or_else(open)
    }
}

/// The file's content.
#[derive(Serialize)]
struct Document<'a> {
    version: u64,
    #[serde(flatten)]
    state: &'a State,
}

/// Why there is nothing to start from, or nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read or written.
    #[error("cannot use {path}: {cause}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system says.
        cause: io::Error,
    },
    /// It is something else.
    #[error("{path} is not a {wanted}; remove it, or name another folder with --state-dir")]
    OtherKind {
        /// The file or folder.
        path: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Somebody else may have written what is in it.
    #[error(
        "{path} belongs to user {owner} and this process runs as user {user}; remove it, or name with --state-dir a \
         folder that does not exist yet"
    )]
    OtherOwner {
        /// The file or folder.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others may write or read what is in it.
    #[error(
        "{path} has mode {mode:04o}, open to others; take their rights away (chmod go= {path}), or name with \
         --state-dir a folder that does not exist yet"
    )]
    OpenToOthers {
        /// The file or folder.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It is half a file, or none of ours.
    #[error("what is in it is no state of leasehold: {0}")]
    Content(String),
    /// It was written by another release.
    #[error("it has version {found} and this release reads version {VERSION}")]
    OtherVersion {
        /// Its version.
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
            return Err(Unusable::Content("its clusterId names no cluster".to_owned()));
        }
        Ok(state)
    }
}

/// The folder in which the state is kept.
#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

impl StateFolder {
    /// The folder at `path`, which is created when there is something to keep.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What was kept, if that is there and can be trusted; what speaks against it is logged.
    pub fn load(&self) -> Option<State> {
        let folder = self.0.display();
        match self.read() {
            Ok(state) => {
                tracing::info!(%folder, registries = state.registries.len(), "read the state folder");
                Some(state)
            }
            Err(Unusable::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                tracing::info!(%folder, "nothing is in the state folder yet");
                None
            }
            Err(error) => {
                tracing::warn!(%folder, %error, "doing without what is in the state folder");
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

    /// Puts `state` in the place of what was kept. Whenever this is interrupted, either is there as a whole.
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

/// Keeps the newest of `states` in `folder` until `shutdown`. A folder that cannot be written to is tried again: the
/// operator does its work without.
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
                        tracing::warn!(%error, "cannot keep the state: without it a replica that starts while the apiserver is away renews nothing");
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
