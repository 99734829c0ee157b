//! The pods behind the nodes or the addresses of a registration, counted. Pods come and go without any work for the
//! nodes and addresses, until the first one is there or ready, or the last one is not.

use std::collections::HashMap;
use std::sync::Arc;

/// The pods that a registration of nodes or addresses selects.
#[derive(Debug, Default)]
pub(super) struct Behind {
    all: Counts,
    /// By the name of the node. A node without pods has no entry.
    by_node: HashMap<Arc<str>, Counts>,
}

/// The numbers of pods that are not about to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) pods: u32,
    pub(super) ready: u32,
    /// The last pod was missing in a list, and no other watch event shows that it was deleted.
    is_lost: bool,
}

/// A pod as the counts see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodBehind {
    pub(super) node: Option<Arc<str>>,
    pub(super) is_ready: bool,
}

/// What a pod event changed behind a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BehindChange {
    /// Whether there are pods, or ready ones.
    pub(super) is_any: bool,
    /// The nodes with other numbers of pods.
    pub(super) nodes: Vec<Arc<str>>,
}

impl Counts {
    /// Whether there are no pods, and that is certain.
    pub(super) fn is_empty(self) -> bool {
        self.pods == 0 && !self.is_lost
    }

    fn add(&mut self, is_ready: bool) {
        self.pods += 1;
        self.ready += u32::from(is_ready);
        self.is_lost = false;
    }

    fn remove(&mut self, is_ready: bool, is_lost: bool) {
        self.pods -= 1;
        self.ready -= u32::from(is_ready);
        self.is_lost = self.pods == 0 && is_lost;
    }

    /// What the registration sees of all pods.
    fn summary(self) -> (bool, bool) {
        (self.is_empty(), self.ready > 0)
    }
}

impl Behind {
    pub(super) fn all(&self) -> Counts {
        self.all
    }

    pub(super) fn on(&self, node: &str) -> Counts {
        self.by_node.get(node).copied().unwrap_or_default()
    }

    /// The number of nodes with pods.
    pub(super) fn node_count(&self) -> usize {
        self.by_node.len()
    }

    /// Replaces the pod `old` by `new`. `is_lost` means that a list did not contain the pod.
    pub(super) fn replace(&mut self, old: Option<&PodBehind>, new: Option<&PodBehind>, is_lost: bool) -> BehindChange {
        if old == new {
            return BehindChange::default();
        }
        let before = self.all.summary();
        let mut nodes = Vec::new();
        // The new one first, so that the counts are never zero in between.
        if let Some(PodBehind { node, is_ready }) = new {
            self.all.add(*is_ready);
            if let Some(node) = node {
                self.by_node.entry(node.clone()).or_default().add(*is_ready);
                nodes.push(node.clone());
            }
        }
        if let Some(PodBehind { node, is_ready }) = old {
            self.all.remove(*is_ready, is_lost);
            if let Some(node) = node
                && let Some(counts) = self.by_node.get_mut(node)
            {
                counts.remove(*is_ready, is_lost);
                if counts.is_empty() {
                    self.by_node.remove(node);
                }
                if !nodes.contains(node) {
                    nodes.push(node.clone());
                }
            }
        }
        BehindChange {
            is_any: before != self.all.summary(),
            nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: &str, is_ready: bool) -> PodBehind {
        PodBehind {
            node: Some(node.into()),
            is_ready,
        }
    }

    #[test]
    fn only_the_first_and_the_last_ready_pod_concern_all_nodes() {
        let mut behind = Behind::default();
        assert!(behind.replace(None, Some(&pod("n1", false)), false).is_any);
        assert!(
            behind
                .replace(Some(&pod("n1", false)), Some(&pod("n1", true)), false)
                .is_any
        );
        let second = behind.replace(None, Some(&pod("n2", true)), false);
        assert_eq!((second.is_any, second.nodes), (false, vec!["n2".into()]));
        assert_eq!(
            (behind.all().ready, behind.on("n2").ready, behind.node_count()),
            (2, 1, 2)
        );
        assert!(!behind.replace(Some(&pod("n2", true)), None, false).is_any);
        assert!(behind.replace(Some(&pod("n1", true)), None, false).is_any);
        assert!(behind.all().is_empty() && behind.node_count() == 0);
    }

    #[test]
    fn an_unchanged_pod_changes_nothing_and_a_moved_one_both_nodes() {
        let mut behind = Behind::default();
        behind.replace(None, Some(&pod("n1", true)), false);
        let same = behind.replace(Some(&pod("n1", true)), Some(&pod("n1", true)), false);
        assert_eq!(same, BehindChange::default());
        let moved = behind.replace(Some(&pod("n1", true)), Some(&pod("n2", true)), false);
        assert_eq!((moved.is_any, moved.nodes.len()), (false, 2));
    }

    #[test]
    fn pods_missing_from_a_list_leave_emptiness_unknown_until_one_appears() {
        let mut behind = Behind::default();
        behind.replace(None, Some(&pod("n1", true)), false);
        behind.replace(Some(&pod("n1", true)), None, true);
        assert_eq!((behind.all().pods, behind.all().is_empty()), (0, false));
        assert!(!behind.on("n1").is_empty());
        behind.replace(None, Some(&pod("n1", true)), false);
        behind.replace(Some(&pod("n1", true)), None, false);
        assert!(behind.all().is_empty() && behind.on("n1").is_empty());
    }
}
