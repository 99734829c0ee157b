//! What one registration's format means to another registration's: where it writes, and what its consumers read.

use std::sync::Arc;

use super::format_prefixes::FormatPrefixes;

/// Where a format writes, what its consumers read, and in which dialect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reading {
    /// What consumers understand: records of the same dialect below the same prefix are one service on purpose.
    pub dialect: Arc<str>,
    /// All its keys start with this, which ends with `/`.
    pub written: Arc<str>,
    /// Consumers take every key that starts with this for one of its records.
    pub reads: Arc<str>,
    /// Consumers stumble over keys that start with this and are of another dialect.
    pub realm: Arc<str>,
    /// Consumers tell records of the same dialect, but of another service, by what is in them.
    pub by_name: bool,
}

impl Reading {
    /// Whether consumers tell records of the same dialect that lie at `place`, or are read from there, from those of this
    /// service by what is in them: the service's name, which is the last segment of either. A service of the same name
    /// is the same service to them.
    pub fn tells_apart(&self, place: &str) -> bool {
        self.by_name && last_segment(&self.written) != last_segment(place)
    }

    pub(super) fn of(dialect: &str, reach: &FormatPrefixes) -> Self {
        Self {
            dialect: dialect.into(),
            written: reach.scope.prefix().into(),
            reads: (*reach.reads).into(),
            realm: (*reach.realm).into(),
            by_name: reach.by_name,
        }
    }
}

fn last_segment(place: &str) -> Option<&str> {
    place.trim_end_matches('/').rsplit('/').next()
}
