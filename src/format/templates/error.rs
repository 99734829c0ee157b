//! Why templates, or what they print, cannot be used.

use std::fmt;
use std::sync::Arc;

use super::engine::FUEL;
use crate::api::{Reason, RecordFormatSpec};

/// Which of a record's templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// That of its key.
    Key,
    /// That of its value.
    Value,
}

impl Part {
    /// What it is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Value => "value",
        }
    }
}

/// One template among those of a `RecordFormat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateLocation {
    record: usize,
    name: Option<Arc<str>>,
    part: Part,
}

impl TemplateLocation {
    /// That of the record at `record`, counted from 0.
    pub fn new(spec: &RecordFormatSpec, record: usize, part: Part) -> Self {
        let name = spec.records[record].name.as_deref().map(Into::into);
        Self { record, name, part }
    }

    /// Which of the record's templates.
    pub fn part(&self) -> Part {
        self.part
    }

    /// The name that the template engine knows it by.
    pub fn template(&self) -> String {
        format!("{} {}", self.part.as_str(), self.record)
    }
}

impl fmt::Display for TemplateLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = self.part.as_str();
        match &self.name {
            Some(name) => write!(f, "the {part} of the record {name:?}"),
            None => write!(f, "the {part} of record {}", self.record + 1),
        }
    }
}

/// Why templates, or what they print, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The object is not as the CRD describes it.
    #[error("the object cannot be read: {0}: apply it again as the CRD describes it")]
    Unreadable(String),
    /// A template is no Jinja, or asks for what is not there.
    #[error("{place}, line {line}, column {column}: {cause}")]
    Template {
        /// Which template.
        place: TemplateLocation,
        /// The line, counted from 1.
        line: usize,
        /// The column, in characters counted from 1.
        column: usize,
        /// What is wrong there.
        cause: String,
    },
    /// A template takes too many steps.
    #[error("{place}, line {line}, column {column}: it takes more than {FUEL} steps to print: make it do less")]
    OutOfFuel {
        /// Which template.
        place: TemplateLocation,
        /// The line that was reached, counted from 1.
        line: usize,
        /// The column that was reached, in characters counted from 1.
        column: usize,
    },
    /// A template prints too much.
    #[error("{place} would have more than {max} bytes: make its template print less")]
    TooLong {
        /// Which template.
        place: TemplateLocation,
        /// What is taken, in bytes.
        max: usize,
    },
    /// A key does not lie where the registration wants it.
    #[error("{place} would be {key:?}, which is not below {prefix:?}: begin its template with {{{{ prefix }}}}/")]
    Outside {
        /// Which template.
        place: TemplateLocation,
        /// The key.
        key: String,
        /// What it should lie below.
        prefix: String,
    },
    /// A key is none that consumers can read.
    #[error("{place} would be {key:?}, which {problem}")]
    Key {
        /// Which template.
        place: TemplateLocation,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two records of one endpoint have the same key.
    #[error("{first} and {second} would be the same, {key:?}: tell the records apart, as by a segment of their own")]
    SharedKey {
        /// One template.
        first: TemplateLocation,
        /// The other.
        second: TemplateLocation,
        /// The key.
        key: String,
    },
    /// Two endpoints have the same key.
    #[error("{first} and {second} would share the key {key:?}: put {{{{ id }}}} into its template")]
    SameKey {
        /// One endpoint.
        first: String,
        /// The other.
        second: String,
        /// The key.
        key: String,
    },
    /// A value should be JSON.
    #[error(
        "{place} would be no JSON (line {line}, column {column}: {cause}): expressions print their own quotes, so write \
         {{{{ pod }}}} without any, or escaping: None if it should be none; it begins {beginning:?}"
    )]
    NotJson {
        /// Which template.
        place: TemplateLocation,
        /// The line of what it prints, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What is wrong there.
        cause: String,
        /// The first characters of the value.
        beginning: String,
    },
}

/// How much of a value is quoted in an error, in characters.
const QUOTED: usize = 80;

impl TemplateError {
    /// [`Self::NotJson`] for a value at `place`.
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

    /// What it comes down to, for scripts.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreadable(_) => Reason::InvalidSpec,
            Self::Template { .. } => Reason::InvalidTemplate,
            Self::OutOfFuel { .. } | Self::TooLong { .. } => Reason::TemplateTooCostly,
            Self::Outside { .. } => Reason::KeyOutsidePrefix,
            Self::Key { .. } => Reason::InvalidKey,
            Self::SharedKey { .. } | Self::SameKey { .. } => Reason::KeyNotUnique,
            Self::NotJson { .. } => Reason::ValueNotJson,
        }
    }
}
