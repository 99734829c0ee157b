//! The pods that are ready apart from the operator's readiness gate, which is closed. A pod is one of them for the short
//! time between the readiness of its containers and the commit of its records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pod::ReadinessGate;
use crate::model::{NamespaceScope, PodRef};

/// The waiting pods of all namespaces, and what has changed since the last [`Self::take_changes`].
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// By namespace and name: the UID.
    waiting: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>,
    changes: Vec<GateChange>,
}

/// A change that a decision about readiness gates may depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateChange {
    /// The pod waits for its readiness gate.
    Waits(PodRef),
    /// The pod waits no longer: its gate is open, it is not ready for other reasons, or it is gone.
    WaitsNoLonger(PodRef),
    /// A registration was added, edited or deleted in a namespace that has waiting pods.
    Registrations(Arc<str>),
}

impl Gates {
    /// Sets the readiness gate of a pod that is ready apart from it.
    pub(super) fn set(&mut self, namespace: &str, name: &str, gate: Option<&ReadinessGate>) {
        let gate = gate.filter(|gate| !gate.is_open);
        let known = self.waiting.get(namespace).and_then(|pods| pods.get(name));
        if known == gate.map(|gate| &gate.uid) {
            return;
        }
        self.remove(namespace, name);
        if let Some(gate) = gate {
            let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), name.into());
            let uid = gate.uid.clone();
            let pods = self.waiting.entry(namespace.clone()).or_default();
            pods.insert(name.clone(), uid.clone());
            self.changes.push(GateChange::Waits(PodRef { namespace, name, uid }));
        }
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) {
        let Some((namespace, mut pods)) = self.waiting.remove_entry(namespace) else {
            return;
        };
        if let Some((name, uid)) = pods.remove_entry(name) {
            let namespace = namespace.clone();
            let pod = PodRef { namespace, name, uid };
            self.changes.push(GateChange::WaitsNoLonger(pod));
        }
        if !pods.is_empty() {
            self.waiting.insert(namespace, pods);
        }
    }

    /// Removes the pods of `area` that do not exist.
    pub(super) fn retain(&mut self, area: &NamespaceScope, exists: impl Fn(&str, &str) -> bool) {
        let pods = self.waiting.iter().filter(|(namespace, _)| area.contains(namespace));
        let pods = pods.flat_map(|(namespace, pods)| pods.keys().map(move |name| (namespace.clone(), name.clone())));
        let gone: BTreeSet<_> = pods.filter(|(namespace, name)| !exists(namespace, name)).collect();
        for (namespace, name) in gone {
            self.remove(&namespace, &name);
        }
    }

    /// Records that a registration of `namespace` has changed.
    pub(super) fn registration_changed(&mut self, namespace: &str) {
        if let Some((namespace, _)) = self.waiting.get_key_value(namespace) {
            let change = GateChange::Registrations(namespace.clone());
            if self.changes.last() != Some(&change) {
                self.changes.push(change);
            }
        }
    }

    /// Returns the UID of a waiting pod.
    pub(super) fn waiting(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        self.waiting.get(namespace)?.get(name).cloned()
    }

    /// Returns the names of the waiting pods of `namespace`.
    pub(super) fn names(&self, namespace: &str) -> impl Iterator<Item = &Arc<str>> {
        self.waiting.get(namespace).into_iter().flat_map(BTreeMap::keys)
    }

    pub(super) fn take_changes(&mut self) -> Vec<GateChange> {
        std::mem::take(&mut self.changes)
    }
}
