//! How far each stream is being heard, known from the moment at which news comes in: nothing was ever done by newer news.

use std::sync::{Arc, Mutex, PoisonError};

use crate::plan::{Heard, Stream};

/// How far each stream is being heard, shared by the watches that hear and by those who write by it.
#[derive(Clone, Debug, Default)]
pub struct Hearing(Arc<Mutex<Heard>>);

impl Hearing {
    /// How far it is now.
    pub fn now(&self) -> Heard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An object of this version is about to be told of. One whose version is no number is not counted.
    pub(super) fn hear(&self, stream: &Stream, version: Option<&str>) -> Option<u64> {
        let version = version?.parse().ok()?;
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(stream, version);
        Some(version)
    }

    /// The versions of this stream are counted anew.
    pub(super) fn forget(&self, stream: &Stream) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(stream);
    }
}
