//! The cache of nodes, with the few facts that endpoints need.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pod::Addresses;
use crate::model::{Mark, NamespaceScope, Relists};

/// The facts about one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// The label `topology.kubernetes.io/region`.
    pub region: Option<Arc<str>>,
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

/// All known nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    by_name: BTreeMap<Arc<str>, (Node, Mark)>,
    /// The number of nodes that are not excluded.
    eligible: usize,
    relists: Relists,
    /// Whether a list of the nodes was complete once.
    listed: bool,
}

/// What a node event changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeChange {
    /// What registrations of nodes see.
    pub(super) is_any: bool,
    /// The zone or the region.
    pub(super) is_topology: bool,
    /// Whether the node is ready. Pods that wait for their readiness gate depend on it.
    pub(super) is_readiness: bool,
}

impl Nodes {
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
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

    pub(super) fn apply(&mut self, node: Node) -> NodeChange {
        let seen = self.relists.mark();
        let topology = |node: &Node| (node.zone.clone(), node.region.clone());
        let Some((known, mark)) = self.by_name.get_mut(&*node.name) else {
            self.eligible += usize::from(!node.excluded);
            let is_topology = topology(&node) != (None, None);
            self.by_name.insert(node.name.as_str().into(), (node, seen));
            return NodeChange {
                is_any: true,
                is_topology,
                is_readiness: true,
            };
        };
        *mark = seen;
        let change = NodeChange {
            is_any: *known != node,
            is_topology: topology(known) != topology(&node),
            is_readiness: known.ready != node.ready,
        };
        self.eligible -= usize::from(!known.excluded);
        self.eligible += usize::from(!node.excluded);
        *known = node;
        change
    }

    /// Keeps the cached facts, if any, of a node that exists but cannot be decoded.
    pub(super) fn keep(&mut self, name: &str) {
        let seen = self.relists.mark();
        if let Some((_, mark)) = self.by_name.get_mut(name) {
            *mark = seen;
        }
    }

    /// Whether the node was known.
    pub(super) fn delete(&mut self, name: &str) -> bool {
        let Some((node, _)) = self.by_name.remove(name) else {
            return false;
        };
        self.eligible -= usize::from(!node.excluded);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node {
            name: name.to_owned(),
            zone: Some("a".into()),
            ready: true,
            ..Node::default()
        }
    }

    #[test]
    fn only_changed_facts_are_a_change_and_eligible_nodes_are_counted() {
        let mut nodes = Nodes::default();
        assert!(nodes.apply(node("n1")).is_topology);
        assert_eq!(nodes.apply(node("n1")), NodeChange::default());
        let excluded = Node {
            excluded: true,
            ..node("n1")
        };
        let change = nodes.apply(excluded);
        assert_eq!((change.is_any, change.is_topology, nodes.eligible()), (true, false, 0));
        let moved = Node {
            zone: Some("b".into()),
            ..node("n1")
        };
        assert!(nodes.apply(moved).is_topology && nodes.eligible() == 1);
        assert!(nodes.delete("n1") && !nodes.delete("n1") && nodes.eligible() == 0);
    }

    #[test]
    fn a_list_shows_which_nodes_it_lacks() {
        let mut nodes = Nodes::default();
        nodes.apply(node("n1"));
        nodes.apply(node("n2"));
        nodes.apply(node("n3"));
        assert!(!nodes.are_listed());
        nodes.begin_relist();
        nodes.apply(node("n1"));
        nodes.keep("n2");
        assert_eq!(nodes.end_relist(), ["n3".into()]);
        assert!(nodes.are_listed());
    }
}
