//! Where a format writes, and where its consumers read: the two are not the same for all of them.

use crate::plan::Prefix;

/// Where a format writes and where its consumers read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatPrefixes {
    /// All keys of the format lie here.
    pub scope: Prefix,
    /// Consumers of this service take every key that starts with this text for one of its records.
    pub reads: Box<str>,
    /// Consumers read every key that starts with this text, and stumble over what is not of this format.
    pub realm: Box<str>,
    /// Consumers tell a sibling's records from those of this service by what is in them.
    pub by_name: bool,
}

impl FormatPrefixes {
    /// Consumers read exactly the scope.
    pub fn exact(scope: Prefix) -> Self {
        let reads: Box<str> = scope.prefix().into();
        Self {
            scope,
            reads: reads.clone(),
            realm: reads,
            by_name: false,
        }
    }

    /// Consumers read everything that starts with `reads`: without a slash at its end, a sibling's records too.
    pub fn reading(scope: Prefix, reads: &str) -> Self {
        Self {
            scope,
            reads: reads.into(),
            realm: reads.into(),
            by_name: false,
        }
    }

    /// Consumers of this service read its scope only, others everything that starts with `realm`.
    pub fn within(scope: Prefix, realm: &str) -> Self {
        let reads = scope.prefix().into();
        Self {
            scope,
            reads,
            realm: realm.into(),
            by_name: false,
        }
    }

    /// Consumers drop the records of a sibling.
    pub fn by_name(self) -> Self {
        Self { by_name: true, ..self }
    }

    /// What the consumers of this read that is written in `other`, if they do. `alike`: it is of the same format.
    pub fn covers(&self, other: &Self, alike: bool) -> Option<&str> {
        let written = other.scope.prefix();
        if written.starts_with(&*self.reads) {
            Some(&self.reads)
        } else if !alike && written.starts_with(&*self.realm) {
            Some(&self.realm)
        } else {
            None
        }
    }
}
