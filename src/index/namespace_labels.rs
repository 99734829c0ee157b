//! The namespaces with their labels, as a Registry's rules about them need them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::namespace_scope::{Mark, NamespaceScope, Relists};

/// A namespace in the few fields that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceLabels {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// All namespaces that are known.
///
/// One that is gone, or missing from a list, takes nothing away: its registrations and pods are told of one by one, and
/// as long as any is there its labels are what they last were.
#[derive(Debug, Default)]
pub struct NamespaceCache {
    labels: HashMap<Arc<str>, Known>,
    relists: Relists,
}

#[derive(Debug)]
struct Known {
    labels: BTreeMap<String, String>,
    /// When it was last seen; none if it was deleted.
    seen: Option<Mark>,
}

impl NamespaceCache {
    /// A namespace is there; returns whether its labels are news.
    pub fn apply(&mut self, tenant: NamespaceLabels) -> bool {
        let NamespaceLabels { name, labels } = tenant;
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

    /// A namespace is there, and what it says of itself cannot be read.
    pub fn keep(&mut self, name: &str) {
        let seen = Some(self.relists.mark());
        if let Some(known) = self.labels.get_mut(name) {
            known.seen = seen;
        }
    }

    /// A namespace was deleted. Of those that were, all are forgotten but those that something is `in_use` of.
    pub fn delete(&mut self, name: &str, in_use: impl Fn(&str) -> bool) {
        if let Some(known) = self.labels.get_mut(name) {
            known.seen = None;
        }
        self.labels.retain(|name, known| known.seen.is_some() || in_use(name));
    }

    /// A complete list of the namespaces of `area` begins.
    pub fn begin_relist(&mut self, area: &NamespaceScope) {
        self.relists.begin(area);
    }

    /// The list of `area` is complete: of those that are gone, all are forgotten but those that something is `in_use` of.
    pub fn end_relist(&mut self, area: &NamespaceScope, in_use: impl Fn(&str) -> bool) {
        let began = self.relists.began(area);
        for (_, known) in self.labels.iter_mut().filter(|(name, _)| area.contains(name)) {
            known.seen.take_if(|seen| seen.is_before(began));
        }
        self.labels.retain(|name, known| known.seen.is_some() || in_use(name));
    }

    /// Whether `namespace` is there, as far as has been told.
    pub fn is_there(&self, namespace: &str) -> bool {
        self.labels.get(namespace).is_some_and(|known| known.seen.is_some())
    }

    /// The labels of `namespace`, if they are known.
    pub fn labels(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.labels.get(namespace).map(|known| &known.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(team: &str) -> NamespaceLabels {
        NamespaceLabels {
            name: "shop".to_owned(),
            labels: BTreeMap::from([("team".to_owned(), team.to_owned())]),
        }
    }

    fn is_known(tenants: &NamespaceCache) -> bool {
        tenants.labels("shop").is_some()
    }

    #[test]
    fn only_other_labels_are_news() {
        let mut tenants = NamespaceCache::default();
        assert!(tenants.apply(tenant("a")));
        assert!(!tenants.apply(tenant("a")));
        assert!(tenants.apply(tenant("b")));
    }

    #[test]
    fn a_namespace_that_a_list_leaves_out_is_known_as_long_as_something_is_in_it() {
        let mut tenants = NamespaceCache::default();
        tenants.apply(tenant("a"));
        tenants.begin_relist(&NamespaceScope::Cluster);
        tenants.end_relist(&NamespaceScope::Cluster, |_| true);
        assert!(is_known(&tenants));
        tenants.begin_relist(&NamespaceScope::Cluster);
        tenants.keep("shop");
        tenants.end_relist(&NamespaceScope::Cluster, |_| false);
        assert!(is_known(&tenants), "it is there");
        tenants.delete("shop", |_| true);
        assert!(is_known(&tenants), "something is in it");
        tenants.delete("other", |_| false);
        assert!(!is_known(&tenants));
    }
}
