//! What is heard of Kubernetes comes in streams: one for each kind of object, or one for each kind and namespace.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::index::NamespaceScope;

/// One of them: the objects of one kind in one area. In notes it is written as `pods` or `pods/shop`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct WatchTarget {
    /// The name of the kind's resource. No such name has a slash.
    pub kind: Cow<'static, str>,
    /// Where its objects are.
    pub area: NamespaceScope,
}

impl WatchTarget {
    /// The objects of this kind in `area`.
    pub const fn new(kind: &'static str, area: NamespaceScope) -> Self {
        Self {
            kind: Cow::Borrowed(kind),
            area,
        }
    }

    /// The objects of this kind in the whole cluster.
    pub const fn of_cluster(kind: &'static str) -> Self {
        Self::new(kind, NamespaceScope::Cluster)
    }

    /// Whether an object can be told of by both.
    pub fn meets(&self, other: &Self) -> bool {
        self.kind == other.kind && self.area.meets(&other.area)
    }
}

/// For people, such as `pods in shop`.
impl fmt::Display for WatchTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        match self.area.name() {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

impl From<WatchTarget> for String {
    fn from(stream: WatchTarget) -> Self {
        match stream.area.name() {
            Some(namespace) => format!("{}/{namespace}", stream.kind),
            None => stream.kind.into_owned(),
        }
    }
}

impl From<String> for WatchTarget {
    fn from(text: String) -> Self {
        match text.split_once('/') {
            Some((kind, namespace)) => Self {
                kind: kind.to_owned().into(),
                area: NamespaceScope::namespace(namespace),
            },
            None => Self {
                kind: text.into(),
                area: NamespaceScope::Cluster,
            },
        }
    }
}
