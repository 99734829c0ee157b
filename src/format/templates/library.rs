//! The record formats that exist.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{TemplateError, Templates};
use crate::api::RecordFormat;
use crate::format::FormatError;

/// All record formats by the name of their `RecordFormat`, including invalid ones.
#[derive(Clone, Debug, Default)]
pub struct RecordFormats(BTreeMap<Arc<str>, Result<Arc<Templates>, TemplateError>>);

impl RecordFormats {
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds or replaces the record format `name`. Returns whether it has changed.
    pub fn set(&mut self, name: &str, templates: Result<Templates, TemplateError>) -> bool {
        let templates = templates.map(Arc::new);
        if self.0.get(name) == Some(&templates) {
            return false;
        }
        self.0.insert(name.into(), templates);
        true
    }

    /// Adds or replaces the record formats of these objects.
    pub fn add(&mut self, objects: &[RecordFormat]) {
        for object in objects {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            self.set(name, Templates::compile(name, &object.spec));
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Returns the valid record format `name`.
    pub fn get(&self, name: &str) -> Result<&Arc<Templates>, FormatError> {
        match self.0.get(name) {
            Some(Ok(templates)) => Ok(templates),
            Some(Err(cause)) => Err(FormatError::RecordFormatBroken {
                name: name.to_owned(),
                cause: Box::new(cause.clone()),
            }),
            None => Err(FormatError::NoRecordFormat(name.to_owned())),
        }
    }
}
