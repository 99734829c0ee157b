//! Reasons why templates, or the text that they print, cannot be used.

use std::fmt;
use std::sync::Arc;

use super::engine::FUEL;
use crate::api::{Reason, RecordFormatSpec};

/// One of the two templates of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Key,
    Value,
}

impl Part {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Value => "value",
        }
    }
}

/// One template of a `RecordFormat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateLocation {
    record: usize,
    name: Arc<str>,
    part: Part,
}

impl TemplateLocation {
    /// Returns the location of the template `part` of the record at index `record`.
    pub fn new(spec: &RecordFormatSpec, record: usize, part: Part) -> Self {
        let name = spec.records[record].name.as_str().into();
        Self { record, name, part }
    }

    pub fn part(&self) -> Part {
        self.part
    }

    /// Returns the name of the template in the template engine.
    pub fn template(&self) -> String {
        format!("{} {}", self.part.as_str(), self.record)
    }
}

impl fmt::Display for TemplateLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} of the record {:?}", self.part.as_str(), self.name)
    }
}

/// The reason why templates, or the text that they print, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The object does not match the CRD's schema.
    #[error("the object does not match the CRD: {0}: correct it and apply it again")]
    Unreadable(String),
    /// The template is not valid Jinja, or uses an undefined value.
    #[error("{place}, line {line}, column {column}: {cause}")]
    Template {
        place: TemplateLocation,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        cause: String,
    },
    /// The template takes more than [`FUEL`] steps.
    #[error("{place}, line {line}, column {column}: the template takes more than {FUEL} steps: simplify it")]
    OutOfFuel {
        place: TemplateLocation,
        /// The line reached, counted from 1.
        line: usize,
        /// The column reached, in characters counted from 1.
        column: usize,
    },
    /// The template prints too much.
    #[error("{place} would have more than {max} bytes: make its template print less")]
    TooLong {
        place: TemplateLocation,
        /// The limit, in bytes.
        max: usize,
    },
    /// The key is not below the registration's prefix.
    #[error("{place} would be {key:?}, which is not below {prefix:?}: begin its template with {{{{ prefix }}}}/")]
    Outside {
        place: TemplateLocation,
        key: String,
        /// The prefix that the key must be below.
        prefix: String,
    },
    /// Consumers cannot read the key.
    #[error("{place} would be {key:?}, which {problem}")]
    Key {
        place: TemplateLocation,
        key: String,
        problem: &'static str,
    },
    /// Two records of one endpoint have the same key.
    #[error("{first} and {second} would be equal ({key:?}): give each record a segment that differs")]
    SharedKey {
        first: TemplateLocation,
        second: TemplateLocation,
        key: String,
    },
    /// Two endpoints have the same key.
    #[error("{first} and {second} would share the key {key:?}: put {{{{ id }}}} into its template")]
    SameKey {
        /// The pod and its address, as text.
        first: String,
        second: String,
        key: String,
    },
    /// The value must be JSON and is not.
    #[error(
        "{place} is not JSON (line {line}, column {column}: {cause}): expressions print their own quotes, so write \
         {{{{ pod }}}} without quotes, or set escaping: None for plain text; it begins with {beginning:?}"
    )]
    NotJson {
        place: TemplateLocation,
        /// The line in the printed value, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        cause: String,
        /// The first characters of the value.
        beginning: String,
    },
}

/// Maximum length of a quoted value in an error, in characters.
const QUOTED: usize = 80;

impl TemplateError {
    /// Returns [`Self::NotJson`] for a value at `place`.
    pub fn not_json(place: TemplateLocation, value: &str, cause: &serde_json::Error) -> Self {
        let text = cause.to_string();
        let position = format!(" at line {} column {}", cause.line(), cause.column());
        Self::NotJson {
            place,
            line: cause.line(),
            column: cause.column(),
            cause: text.strip_suffix(&position).unwrap_or(&text).to_owned(),
            beginning: value.chars().take(QUOTED).collect(),
        }
    }

    /// Returns the condition reason of this error.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreadable(_) => Reason::InvalidSpec,
            Self::Template { .. } => Reason::InvalidTemplate,
            Self::OutOfFuel { .. } | Self::TooLong { .. } => Reason::TemplateTooCostly,
            Self::Outside { .. } => Reason::KeyOutsidePrefix,
            Self::Key { .. } => Reason::InvalidKey,
            Self::SharedKey { .. } | Self::SameKey { .. } => Reason::KeyNotUnique,
            Self::NotJson { .. } => Reason::ValueNotJSON,
        }
    }
}
