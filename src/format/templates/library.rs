//! The record formats there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{TemplateError, Templates};
use crate::api::RecordFormat;
use crate::format::FormatError;

/// The record formats there are, by the names of their `RecordFormat`s, those that cannot be used too.
#[derive(Clone, Debug, Default)]
pub struct RecordFormats(BTreeMap<Arc<str>, Result<Arc<Templates>, TemplateError>>);

impl RecordFormats {
    /// None.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// There is one that goes by `name`. Returns whether that is news.
    pub fn set(&mut self, name: &str, templates: Result<Templates, TemplateError>) -> bool {
        let templates = templates.map(Arc::new);
        if self.0.get(name) == Some(&templates) {
            return false;
        }
        self.0.insert(name.into(), templates);
        true
    }

    /// There are these, in the place of those of the same names.
    pub fn add(&mut self, objects: &[RecordFormat]) {
        for object in objects {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            self.set(name, Templates::compile(name, &object.spec));
        }
    }

    /// There is none that goes by `name` any more.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The one that goes by `name`.
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
