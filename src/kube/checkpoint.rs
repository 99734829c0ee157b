//! The checkpoint that all watches share: the resourceVersion each watch target has reached. A version is recorded
//! before its event is sent, so that nothing is ever done on the basis of an event newer than the checkpoint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::watch_scope::WatchScope;
use crate::model::{Checkpoint, WatchTarget};

/// The checkpoint of all watch targets in a scope, advanced by the watches and read by the workers that write with it.
#[derive(Clone, Debug, Default)]
pub struct SharedCheckpoint {
    watch_scope: WatchScope,
    checkpoint: Arc<Mutex<Checkpoint>>,
    /// Tells the watch of each target to list again.
    relists: Arc<BTreeMap<WatchTarget, Notify>>,
}

impl SharedCheckpoint {
    /// Returns an empty checkpoint for the targets of `watch_scope`.
    pub fn new(watch_scope: WatchScope) -> Self {
        let relists = watch_scope.targets().map(|target| (target, Notify::new()));
        Self {
            relists: Arc::new(relists.collect()),
            watch_scope,
            checkpoint: Arc::default(),
        }
    }

    pub fn watch_scope(&self) -> &WatchScope {
        &self.watch_scope
    }

    /// Returns a copy of the current checkpoint.
    pub fn now(&self) -> Checkpoint {
        self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the watch of `target` list again: a list reaches the present version at once, and an idle watch only when it
    /// ends.
    pub fn relist(&self, target: &WatchTarget) {
        if let Some(relist) = self.relists.get(target) {
            relist.notify_one();
        }
    }

    /// Waits until [`Self::relist`] is called for `target`.
    pub(super) async fn is_to_relist(&self, target: &WatchTarget) {
        match self.relists.get(target) {
            Some(relist) => relist.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Records the version of an object whose event is about to be sent. Ignores a version that is not a number.
    pub(super) fn record(&self, target: &WatchTarget, version: Option<&str>) -> Option<u64> {
        let version = version?.parse().ok()?;
        self.checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(target, version);
        Some(version)
    }

    /// Drops the version of a target: the API server was restored, and its versions start from an older one.
    pub(super) fn forget(&self, target: &WatchTarget) {
        self.checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forget(target);
    }
}
