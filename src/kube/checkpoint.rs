//! How far each stream is being heard, known from the moment at which news comes in: nothing was ever done by newer news.

use std::sync::{Arc, Mutex, PoisonError};

use super::watch_scope::WatchScope;
use crate::plan::{Checkpoint, WatchTarget};

/// How far each stream of a territory is being heard, shared by the watches that hear and by those who write by it.
#[derive(Clone, Debug, Default)]
pub struct SharedCheckpoint {
    watch_scope: WatchScope,
    heard: Arc<Mutex<Checkpoint>>,
}

impl SharedCheckpoint {
    /// Nothing has been heard of `watch_scope` yet.
    pub fn new(watch_scope: WatchScope) -> Self {
        Self {
            watch_scope,
            heard: Arc::default(),
        }
    }

    /// What is watched.
    pub fn watch_scope(&self) -> &WatchScope {
        &self.watch_scope
    }

    /// How far it is now.
    pub fn now(&self) -> Checkpoint {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An object of this version is about to be told of. One whose version is no number is not counted.
    pub(super) fn hear(&self, stream: &WatchTarget, version: Option<&str>) -> Option<u64> {
        let version = version?.parse().ok()?;
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(stream, version);
        Some(version)
    }

    /// The versions of this stream are counted anew.
    pub(super) fn forget(&self, stream: &WatchTarget) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).forget(stream);
    }
}
