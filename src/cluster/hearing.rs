//! How far each stream is being heard, known from the moment at which news comes in: nothing was ever done by newer news.

use std::sync::{Arc, Mutex, PoisonError};

use super::territory::Territory;
use crate::plan::{Heard, Stream};

/// How far each stream of a territory is being heard, shared by the watches that hear and by those who write by it.
#[derive(Clone, Debug, Default)]
pub struct Hearing {
    territory: Territory,
    heard: Arc<Mutex<Heard>>,
}

impl Hearing {
    /// Nothing has been heard of `territory` yet.
    pub fn new(territory: Territory) -> Self {
        Self {
            territory,
            heard: Arc::default(),
        }
    }

    /// What is watched.
    pub fn territory(&self) -> &Territory {
        &self.territory
    }

    /// How far it is now.
    pub fn now(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An object of this version is about to be told of. One whose version is no number is not counted.
    pub(super) fn hear(&self, stream: &Stream, version: Option<&str>) -> Option<u64> {
        let version = version?.parse().ok()?;
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(stream, version);
        Some(version)
    }

    /// The versions of this stream are counted anew.
    pub(super) fn forget(&self, stream: &Stream) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).forget(stream);
    }
}
