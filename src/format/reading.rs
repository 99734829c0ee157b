//! What the overlap check between registrations needs to know about a format: where the format writes, and what its
//! consumers read.

use std::fmt;
use std::sync::Arc;

use super::format_prefixes::FormatPrefixes;
use crate::api::FormatType;

/// The kind of records that a format writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dialect {
    pub kind: FormatType,
    /// What distinguishes the records from others of the type, if it matters to consumers.
    pub variant: Option<Arc<str>>,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str();
        match (self.kind, &self.variant) {
            (FormatType::Custom, Some(name)) => f.write_str(name),
            (FormatType::Traefik, Some(root)) => write!(f, "{kind} with the root {root}"),
            (_, Some(variant)) => write!(f, "{kind} with {variant}"),
            (_, None) => f.write_str(kind),
        }
    }
}

/// Where a format writes, what its consumers read, and in which dialect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reading {
    /// Records of the same dialect below the same prefix are one service on purpose.
    pub dialect: Dialect,
    /// The prefix of all keys of the format, with a slash at its end.
    pub written: Arc<str>,
    /// Consumers take every key that starts with this text as a record of the service.
    pub reads: Arc<str>,
    /// Consumers fail on keys of another dialect that start with this text.
    pub realm: Arc<str>,
    /// Consumers distinguish records of the same dialect, but of another service, by their content.
    pub by_name: bool,
}

impl Reading {
    /// Whether consumers distinguish this service's records from records of the same dialect that are written to or
    /// read from `place`. They compare the service's name, which is the last segment of both prefixes. A service of the
    /// same name is the same service to them.
    pub fn tells_apart(&self, place: &str) -> bool {
        self.by_name && last_segment(&self.written) != last_segment(place)
    }

    pub(super) fn of(dialect: Dialect, reach: &FormatPrefixes) -> Self {
        Self {
            dialect,
            written: reach.prefix.as_str().into(),
            reads: (*reach.reads).into(),
            realm: (*reach.realm).into(),
            by_name: reach.by_name,
        }
    }
}

fn last_segment(place: &str) -> Option<&str> {
    place.trim_end_matches('/').rsplit('/').next()
}
