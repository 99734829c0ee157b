//! The scope of one watch (the cluster or one namespace), and the bookkeeping of relists.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceScope {
    /// All namespaces, and cluster-scoped objects.
    #[default]
    Cluster,
    Namespace(Arc<str>),
}

impl NamespaceScope {
    pub fn namespace(name: &str) -> Self {
        Self::Namespace(name.into())
    }

    /// Returns the name of the namespace; `None` for the cluster.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Cluster => None,
            Self::Namespace(name) => Some(name),
        }
    }

    /// Whether objects in `namespace` are in this scope.
    pub fn contains(&self, namespace: &str) -> bool {
        self.name().is_none_or(|name| name == namespace)
    }

    /// Whether an object can be in both scopes.
    pub fn meets(&self, other: &Self) -> bool {
        other.name().is_none_or(|name| self.contains(name))
    }
}

impl fmt::Display for NamespaceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Namespace(name) => write!(f, "the namespace {name}"),
        }
    }
}

/// The time of an object's last sighting, as a count of lists begun until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u32);

/// The complete lists of one kind, each of one scope. Shows which objects a list did not contain. Lists of two scopes
/// may be in progress at the same time.
#[derive(Clone, Debug, Default)]
pub struct Relists {
    latest: Mark,
    began: BTreeMap<NamespaceScope, Mark>,
}

impl Relists {
    /// Begins a complete list of `namespaces`, which replaces an unfinished one.
    pub fn begin(&mut self, namespaces: &NamespaceScope) {
        self.latest = Mark(self.latest.0.wrapping_add(1));
        self.began.insert(namespaces.clone(), self.latest);
    }

    /// Returns the mark for an object that is seen now.
    pub fn mark(&self) -> Mark {
        self.latest
    }

    /// Returns the mark of the latest list of `namespaces`. An object with an earlier mark was not in that list.
    pub fn began(&self, namespaces: &NamespaceScope) -> Mark {
        self.began.get(namespaces).copied().unwrap_or_default()
    }
}

impl Mark {
    pub fn is_before(self, other: Self) -> bool {
        // The count may wrap around, though only after a hundred years.
        let ahead = other.0.wrapping_sub(self.0);
        ahead != 0 && ahead <= u32::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_meets_every_namespace_and_a_namespace_only_itself() {
        let [cluster, shop, bank] = [
            NamespaceScope::Cluster,
            NamespaceScope::namespace("shop"),
            NamespaceScope::namespace("bank"),
        ];
        for (one, other, expected) in [
            (&cluster, &cluster, true),
            (&cluster, &shop, true),
            (&shop, &cluster, true),
            (&shop, &shop, true),
            (&shop, &bank, false),
        ] {
            assert_eq!(one.meets(other), expected, "{one} and {other}");
        }
        assert!(cluster.contains("shop") && shop.contains("shop") && !shop.contains("shops"));
    }

    #[test]
    fn concurrent_relists_of_two_scopes_are_independent() {
        let mut relists = Relists::default();
        let [shop, bank] = [NamespaceScope::namespace("shop"), NamespaceScope::namespace("bank")];
        let before = relists.mark();
        relists.begin(&shop);
        let of_shop = relists.mark();
        relists.begin(&bank);
        let later_of_shop = relists.mark();
        assert!(before.is_before(relists.began(&shop)) && before.is_before(relists.began(&bank)));
        assert!(!of_shop.is_before(relists.began(&shop)));
        assert!(!later_of_shop.is_before(relists.began(&shop)));
    }

    #[test]
    fn relist_counter_may_wrap_around() {
        assert!(Mark(u32::MAX).is_before(Mark(0)) && !Mark(0).is_before(Mark(u32::MAX)));
        assert!(!Mark(7).is_before(Mark(7)));
    }
}
