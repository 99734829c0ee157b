//! Identifies one Kubernetes watch: one kind of object, cluster-wide or in one namespace.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::namespace_scope::NamespaceScope;

/// One kind of object in one area. Checkpoints record it as `pods` or `pods/shop`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct WatchTarget {
    /// The resource name of the kind. It never contains a slash.
    pub kind: Cow<'static, str>,
    pub namespaces: NamespaceScope,
}

impl WatchTarget {
    pub const fn new(kind: &'static str, namespaces: NamespaceScope) -> Self {
        Self {
            kind: Cow::Borrowed(kind),
            namespaces,
        }
    }

    /// Returns the watch of this kind in all namespaces.
    pub const fn of_cluster(kind: &'static str) -> Self {
        Self::new(kind, NamespaceScope::Cluster)
    }

    /// Whether both watches can report the same object.
    pub fn meets(&self, other: &Self) -> bool {
        self.kind == other.kind && self.namespaces.meets(&other.namespaces)
    }
}

/// Formats the target for messages, such as `pods in shop`.
impl fmt::Display for WatchTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        match self.namespaces.name() {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

impl From<WatchTarget> for String {
    fn from(target: WatchTarget) -> Self {
        match target.namespaces.name() {
            Some(namespace) => format!("{}/{namespace}", target.kind),
            None => target.kind.into_owned(),
        }
    }
}

impl From<String> for WatchTarget {
    fn from(text: String) -> Self {
        match text.split_once('/') {
            Some((kind, namespace)) => Self {
                kind: kind.to_owned().into(),
                namespaces: NamespaceScope::namespace(namespace),
            },
            None => Self {
                kind: text.into(),
                namespaces: NamespaceScope::Cluster,
            },
        }
    }
}
