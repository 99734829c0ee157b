//! The prefixes of a format: where the format writes, and where its consumers read. For some formats the two differ.

use crate::model::Prefix;

/// The prefixes below which a format writes and its consumers read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatPrefixes {
    /// All keys of the format are below this prefix.
    pub prefix: Prefix,
    /// Consumers of this service take every key that starts with this text as a record of the service.
    pub reads: Box<str>,
    /// Consumers read every key that starts with this text, and fail on keys of other formats.
    pub realm: Box<str>,
    /// Consumers distinguish the records of other services from those of this one by their content.
    pub by_name: bool,
}

impl FormatPrefixes {
    /// Consumers read exactly the prefix that the format writes.
    pub fn exact(prefix: Prefix) -> Self {
        let reads: Box<str> = prefix.as_str().into();
        Self {
            prefix,
            reads: reads.clone(),
            realm: reads,
            by_name: false,
        }
    }

    /// Consumers read all keys that start with `reads`. Without a slash at its end, that includes keys whose segment
    /// merely begins in the same way, such as those of `orders-v2` for `orders`.
    pub fn reading(prefix: Prefix, reads: &str) -> Self {
        Self {
            prefix,
            reads: reads.into(),
            realm: reads.into(),
            by_name: false,
        }
    }

    /// Consumers of this service read its own prefix only. Other consumers read all keys that start with `realm`.
    pub fn within(prefix: Prefix, realm: &str) -> Self {
        let reads = prefix.as_str().into();
        Self {
            prefix,
            reads,
            realm: realm.into(),
            by_name: false,
        }
    }

    /// Consumers drop the records of other services.
    pub fn by_name(self) -> Self {
        Self { by_name: true, ..self }
    }

    /// Returns the text by which consumers of this format read what `other` writes; `None` if they do not. `alike`:
    /// both formats have the same dialect.
    pub fn covers(&self, other: &Self, alike: bool) -> Option<&str> {
        let written = other.prefix.as_str();
        if written.starts_with(&*self.reads) {
            Some(&self.reads)
        } else if !alike && written.starts_with(&*self.realm) {
            Some(&self.realm)
        } else {
            None
        }
    }
}
