//! The cache of nodes, with the few facts that endpoints need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compact::Symbols;
use super::interner::Symbol;
use super::pod::{Addresses, REGION_LABEL, ZONE_LABEL};
use crate::model::{Mark, NamespaceScope, Relists};

/// The facts about one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// The addresses of the type `ExternalIP`.
    pub external: Addresses,
    /// The addresses of the type `InternalIP`.
    pub internal: Addresses,
    /// The condition `Ready` is `True`.
    pub ready: bool,
    /// No load balancer sends traffic to the node: it has the label
    /// `node.kubernetes.io/exclude-from-external-load-balancers`, is being deleted, or has the taint with which the
    /// cluster autoscaler announces its deletion. Kubernetes' service controller uses the same conditions.
    pub excluded: bool,
}

/// What the index keeps of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CachedNode {
    /// All labels, because any of them may be published later: pairs of [`Symbols`], of which this holds one use each.
    labels: Box<[Symbol]>,
    pub(super) facts: NodeFacts,
}

/// What endpoints need of a node, apart from its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) external: Addresses,
    pub(super) internal: Addresses,
    pub(super) ready: bool,
    pub(super) excluded: bool,
}

impl CachedNode {
    /// Returns the value of the label `key`.
    pub(super) fn label<'a>(&self, key: &str, symbols: &'a Symbols) -> Option<&'a Arc<str>> {
        symbols.value(&self.labels, key)
    }
}

/// All known nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    by_name: BTreeMap<Arc<str>, (CachedNode, Mark)>,
    /// The number of nodes that are not excluded.
    eligible: usize,
    relists: Relists,
    /// Whether a list of the nodes was complete once.
    listed: bool,
}

/// What a node event changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeChange {
    /// What all registrations of nodes see: anything but other labels than zone and region.
    pub(super) is_any: bool,
    /// The zone or the region, or the node is new.
    pub(super) is_topology: bool,
    /// Whether the node is ready. Pods that wait for their readiness gate depend on it.
    pub(super) is_readiness: bool,
    /// The keys of all labels with another value than before.
    pub(super) labels: Vec<Arc<str>>,
}

impl NodeChange {
    pub(super) fn is_none(&self) -> bool {
        !self.is_any && self.labels.is_empty()
    }
}

impl Nodes {
    pub(super) fn get(&self, name: &str) -> Option<&CachedNode> {
        self.by_name.get(name).map(|(node, _)| node)
    }

    pub(super) fn name_of(&self, name: &str) -> Option<&Arc<str>> {
        self.by_name.get_key_value(name).map(|(name, _)| name)
    }

    /// Whether the nodes were ever listed: before that, a missing node may exist.
    pub fn are_listed(&self) -> bool {
        self.listed
    }

    /// The number of nodes that are not excluded.
    pub(super) fn eligible(&self) -> usize {
        self.eligible
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    pub(super) fn apply(&mut self, node: &Node, symbols: &mut Symbols) -> NodeChange {
        let seen = self.relists.mark();
        let new = CachedNode {
            labels: symbols.acquire_pairs(&node.labels).into(),
            facts: NodeFacts {
                external: node.external,
                internal: node.internal,
                ready: node.ready,
                excluded: node.excluded,
            },
        };
        let known = self.by_name.remove_entry(&*node.name);
        let (name, known) = match known {
            Some((name, (known, _))) => (name, Some(known)),
            None => (node.name.as_str().into(), None),
        };
        let labels = changed_labels(known.as_ref().map_or(&[], |known| &known.labels), &new.labels, symbols);
        // Before it was deleted, a node that is created again may have had labels that it has no more.
        let is_new = known.is_none();
        let is_topology = is_new || labels.iter().any(|key| matches!(&**key, ZONE_LABEL | REGION_LABEL));
        let before = known.as_ref().map(|known| known.facts);
        let change = NodeChange {
            is_any: before != Some(new.facts) || is_topology,
            is_topology,
            is_readiness: before.map(|facts| facts.ready) != Some(new.facts.ready),
            labels,
        };
        if let Some(known) = known {
            self.forget(&known, symbols);
        }
        self.eligible += usize::from(!new.facts.excluded);
        self.by_name.insert(name, (new, seen));
        change
    }

    /// Releases what a removed node held.
    fn forget(&mut self, node: &CachedNode, symbols: &mut Symbols) {
        self.eligible -= usize::from(!node.facts.excluded);
        for pair in &node.labels {
            symbols.release_pair(*pair);
        }
    }

    /// Keeps the cached facts, if any, of a node that exists but cannot be decoded.
    pub(super) fn keep(&mut self, name: &str) {
        let seen = self.relists.mark();
        if let Some((_, mark)) = self.by_name.get_mut(name) {
            *mark = seen;
        }
    }

    /// Whether the node was known.
    pub(super) fn delete(&mut self, name: &str, symbols: &mut Symbols) -> bool {
        let Some((node, _)) = self.by_name.remove(name) else {
            return false;
        };
        self.forget(&node, symbols);
        true
    }

    pub(super) fn begin_relist(&mut self) {
        self.relists.begin(&NamespaceScope::Cluster);
    }

    /// Returns the nodes that the list did not contain.
    pub(super) fn end_relist(&mut self) -> Vec<Arc<str>> {
        self.listed = true;
        let began = self.relists.began(&NamespaceScope::Cluster);
        let unseen = self.by_name.iter().filter(|(_, (_, mark))| mark.is_before(began));
        unseen.map(|(name, _)| name.clone()).collect()
    }
}

/// Returns the keys of the labels that only one of the two has, or that differ.
fn changed_labels(before: &[Symbol], after: &[Symbol], symbols: &Symbols) -> Vec<Arc<str>> {
    let lost = before.iter().filter(|pair| !after.contains(pair));
    let gained = after.iter().filter(|pair| !before.contains(pair));
    let keys: BTreeSet<&Arc<str>> = lost.chain(gained).map(|pair| symbols.key(*pair)).collect();
    keys.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(zone: &str) -> BTreeMap<String, String> {
        let labels = [(ZONE_LABEL, zone), ("rack", "r1")];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    fn node(name: &str) -> Node {
        Node {
            name: name.to_owned(),
            labels: labels("a"),
            ready: true,
            ..Node::default()
        }
    }

    #[test]
    fn only_changed_facts_are_a_change_and_eligible_nodes_are_counted() {
        let (mut nodes, mut symbols) = (Nodes::default(), Symbols::default());
        assert!(nodes.apply(&node("n1"), &mut symbols).is_topology);
        assert_eq!(nodes.apply(&node("n1"), &mut symbols), NodeChange::default());
        let excluded = Node {
            excluded: true,
            ..node("n1")
        };
        let change = nodes.apply(&excluded, &mut symbols);
        assert_eq!((change.is_any, change.is_topology, nodes.eligible()), (true, false, 0));
        let moved = Node {
            labels: labels("b"),
            ..node("n1")
        };
        assert!(nodes.apply(&moved, &mut symbols).is_topology && nodes.eligible() == 1);
        assert!(nodes.delete("n1", &mut symbols) && !nodes.delete("n1", &mut symbols) && nodes.eligible() == 0);
        let bare = Node {
            labels: BTreeMap::new(),
            ..node("n1")
        };
        assert!(
            nodes.apply(&bare, &mut symbols).is_topology,
            "its pods may show labels that it had before"
        );
        assert!(nodes.delete("n1", &mut symbols));
        assert_eq!(symbols.in_use(), [0; 5]);
    }

    #[test]
    fn another_label_is_no_change_for_those_that_do_not_publish_it() {
        let (mut nodes, mut symbols) = (Nodes::default(), Symbols::default());
        nodes.apply(&node("n1"), &mut symbols);
        let mut changed = node("n1");
        changed.labels.insert("rack".to_owned(), "r2".to_owned());
        changed.labels.insert("gpu".to_owned(), "none".to_owned());
        let change = nodes.apply(&changed, &mut symbols);
        assert_eq!(change.labels, ["gpu".into(), "rack".into()]);
        assert!(!change.is_any && !change.is_topology && !change.is_none());
        let known = nodes.get("n1").expect("known");
        assert_eq!(known.label("rack", &symbols).map(|rack| &**rack), Some("r2"));
        let change = nodes.apply(&node("n1"), &mut symbols);
        assert_eq!(change.labels, ["gpu".into(), "rack".into()]);
    }

    #[test]
    fn a_list_shows_which_nodes_it_lacks() {
        let (mut nodes, mut symbols) = (Nodes::default(), Symbols::default());
        for name in ["n1", "n2", "n3"] {
            nodes.apply(&node(name), &mut symbols);
        }
        assert!(!nodes.are_listed());
        nodes.begin_relist();
        nodes.apply(&node("n1"), &mut symbols);
        nodes.keep("n2");
        assert_eq!(nodes.end_relist(), ["n3".into()]);
        assert!(nodes.are_listed());
    }
}
