//! The cache of namespaces and their labels, for the access rules of Registries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Mark, NamespaceScope, Relists};

/// A namespace with the fields that the operator uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceLabels {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// All known namespaces.
///
/// The deletion of a namespace, or its absence from a list, does not remove its registrations and pods: the watches
/// report those one by one. As long as any of them exists, the namespace keeps its last known labels.
#[derive(Debug, Default)]
pub struct NamespaceCache {
    labels: HashMap<Arc<str>, Known>,
    relists: Relists,
}

#[derive(Debug)]
struct Known {
    labels: BTreeMap<String, String>,
    /// The mark of the last sighting; `None` if the namespace was deleted.
    seen: Option<Mark>,
}

impl NamespaceCache {
    /// Adds or updates a namespace. Returns whether its labels have changed.
    pub fn apply(&mut self, namespace: NamespaceLabels) -> bool {
        let NamespaceLabels { name, labels } = namespace;
        let seen = Some(self.relists.mark());
        if let Some(known) = self.labels.get_mut(&*name) {
            known.seen = seen;
            let is_new = known.labels != labels;
            known.labels = labels;
            return is_new;
        }
        self.labels.insert(name.into(), Known { labels, seen });
        true
    }

    /// Keeps the cached labels of a namespace that exists but cannot be decoded.
    pub fn keep(&mut self, name: &str) {
        let seen = Some(self.relists.mark());
        if let Some(known) = self.labels.get_mut(name) {
            known.seen = seen;
        }
    }

    /// Marks a namespace as deleted. Removes all deleted namespaces except those that are still `in_use`.
    pub fn delete(&mut self, name: &str, in_use: impl Fn(&str) -> bool) {
        if let Some(known) = self.labels.get_mut(name) {
            known.seen = None;
        }
        self.labels.retain(|name, known| known.seen.is_some() || in_use(name));
    }

    /// Begins a complete list of the namespaces of `namespaces`.
    pub fn begin_relist(&mut self, namespaces: &NamespaceScope) {
        self.relists.begin(namespaces);
    }

    /// Ends the list of `namespaces`: marks its unlisted namespaces as deleted. Removes all deleted namespaces except those
    /// that are still `in_use`.
    pub fn end_relist(&mut self, namespaces: &NamespaceScope, in_use: impl Fn(&str) -> bool) {
        let began = self.relists.began(namespaces);
        for (_, known) in self.labels.iter_mut().filter(|(name, _)| namespaces.contains(name)) {
            known.seen.take_if(|seen| seen.is_before(began));
        }
        self.labels.retain(|name, known| known.seen.is_some() || in_use(name));
    }

    /// Whether `namespace` exists, as far as the watches have reported.
    pub fn is_there(&self, namespace: &str) -> bool {
        self.labels.get(namespace).is_some_and(|known| known.seen.is_some())
    }

    /// Returns the last known labels of `namespace`.
    pub fn labels(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.labels.get(namespace).map(|known| &known.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(team: &str) -> NamespaceLabels {
        NamespaceLabels {
            name: "shop".to_owned(),
            labels: BTreeMap::from([("team".to_owned(), team.to_owned())]),
        }
    }

    fn is_known(namespaces: &NamespaceCache) -> bool {
        namespaces.labels("shop").is_some()
    }

    #[test]
    fn only_changed_namespace_labels_are_an_event() {
        let mut namespaces = NamespaceCache::default();
        assert!(namespaces.apply(namespace("a")));
        assert!(!namespaces.apply(namespace("a")));
        assert!(namespaces.apply(namespace("b")));
    }

    #[test]
    fn namespace_missing_from_a_list_is_known_while_it_has_objects() {
        let mut namespaces = NamespaceCache::default();
        namespaces.apply(namespace("a"));
        namespaces.begin_relist(&NamespaceScope::Cluster);
        namespaces.end_relist(&NamespaceScope::Cluster, |_| true);
        assert!(is_known(&namespaces));
        namespaces.begin_relist(&NamespaceScope::Cluster);
        namespaces.keep("shop");
        namespaces.end_relist(&NamespaceScope::Cluster, |_| false);
        assert!(is_known(&namespaces), "it is there");
        namespaces.delete("shop", |_| true);
        assert!(is_known(&namespaces), "something is in it");
        namespaces.delete("other", |_| false);
        assert!(!is_known(&namespaces));
    }
}
