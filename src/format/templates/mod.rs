//! The templates of a `RecordFormat`: compiled once, tried with sample endpoints, and rendered for real ones.
//!
//! Owns the template language and its limits, the facts that a template can print, and the checks of keys and values.
//! Knows nothing of registrations: the caller passes the prefix for each endpoint.

mod context;
mod engine;
mod error;
mod library;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod trial;

use std::fmt;
use std::sync::Arc;

use self::context::context;
use self::engine::Engine;
use self::error::{Part, TemplateLocation};
use crate::api::{Escaping, RecordFormatSpec, RecordPreview};
use crate::model::{Endpoint, Prefix, Record};

pub use error::TemplateError;
pub use library::RecordFormats;
pub use trial::shared_by_ports;

/// The templates of a `RecordFormat` that passed the trial.
pub struct Templates {
    name: Arc<str>,
    spec: RecordFormatSpec,
    engine: Engine,
    preview: Vec<RecordPreview>,
}

impl Templates {
    /// Returns the spec that the templates were compiled from.
    pub fn spec(&self) -> &RecordFormatSpec {
        &self.spec
    }

    /// Compiles the templates of the `RecordFormat` `name`, and tries them with sample endpoints.
    pub fn compile(name: &str, spec: &RecordFormatSpec) -> Result<Self, TemplateError> {
        let mut templates = Self {
            name: name.into(),
            engine: Engine::new(spec)?,
            spec: spec.clone(),
            preview: Vec::new(),
        };
        templates.preview = trial::preview(&templates)?;
        Ok(templates)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the records of the sample endpoint.
    pub fn preview(&self) -> &[RecordPreview] {
        &self.preview
    }

    /// Returns the records of `endpoint` below `prefix`. `id` distinguishes the endpoint from the others of the service.
    pub fn print(&self, endpoint: &Endpoint, id: &str, prefix: &Prefix) -> Result<Vec<Record>, TemplateError> {
        let context = context(endpoint, id, prefix);
        let mut records: Vec<Record> = Vec::with_capacity(self.spec.records.len());
        for record in 0..self.spec.records.len() {
            let place = |part| TemplateLocation::new(&self.spec, record, part);
            let key = self.engine.print(&place(Part::Key), &context)?;
            check_key(&key, prefix).map_err(|wrong| wrong(place(Part::Key), &key))?;
            if let Some(first) = records.iter().position(|earlier| *earlier.key == *key) {
                return Err(TemplateError::SharedKey {
                    first: TemplateLocation::new(&self.spec, first, Part::Key),
                    second: place(Part::Key),
                    key,
                });
            }
            let value = self.engine.print(&place(Part::Value), &context)?;
            if self.spec.escaping == Escaping::JSON
                && let Err(cause) = serde_json::from_str::<serde::de::IgnoredAny>(&value)
            {
                return Err(TemplateError::not_json(place(Part::Value), &value, &cause));
            }
            records.push(Record::new(key, value));
        }
        Ok(records)
    }
}

/// Checks that a key is below `prefix` and that consumers can read it. The error is a function that makes the
/// [`TemplateError`].
fn check_key(key: &str, prefix: &Prefix) -> Result<(), impl FnOnce(TemplateLocation, &str) -> TemplateError + use<>> {
    let prefix = prefix.as_str().to_owned();
    let rest = key.strip_prefix(&*prefix);
    let problem = match rest {
        None => None,
        Some(rest) if rest.split('/').any(str::is_empty) => {
            Some("has an empty segment: write one slash where there are two, and none at its end")
        }
        Some(rest) if rest.split('/').any(super::prefix::is_dots) => {
            Some("has a segment of dots only, which consumers that clean paths never read")
        }
        Some(rest) if super::prefix::has_blank(rest) => {
            Some("has spaces or control characters, which keys may not have")
        }
        Some(_) => return Ok(()),
    };
    Err(move |place, key: &str| {
        let key = key.to_owned();
        match problem {
            Some(problem) => TemplateError::Key { place, key, problem },
            None => TemplateError::Outside { place, key, prefix },
        }
    })
}

/// Templates are equal if they write the same records. The sample matters only to their author.
impl PartialEq for Templates {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.spec.records == other.spec.records && self.spec.escaping == other.spec.escaping
    }
}

impl Eq for Templates {}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates")
            .field("name", &self.name)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}
