//! The pods that are ready apart from the operator's readiness gate, from the readiness of their containers until the
//! kubelet reports them as ready. A pod is one of them for a short time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pod::ReadinessGate;
use crate::model::{NamespaceScope, PodRef};

/// The gated pods of all namespaces, and what has changed since the last [`Self::take_changes`].
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// By namespace and name.
    pods: BTreeMap<Arc<str>, BTreeMap<Arc<str>, ReadinessGate>>,
    changes: Vec<GateChange>,
}

/// A change that a decision about readiness gates may depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateChange {
    /// The pod waits for its readiness gate, or other registrations select the waiting pod.
    Waits(PodRef),
    /// The pod waits no longer: its gate is open, it is not ready for other reasons, or it is gone.
    WaitsNoLonger(PodRef),
    /// A registration was added, edited or deleted in a namespace that has gated pods.
    Registrations(Arc<str>),
}

impl Gates {
    /// Sets the readiness gate of a pod that is ready apart from it. Returns whether it was another one.
    pub(super) fn set(&mut self, namespace: &str, name: &str, gate: Option<&ReadinessGate>) -> bool {
        if self.get(namespace, name) == gate {
            return false;
        }
        self.remove(namespace, name);
        if let Some(gate) = gate {
            let namespace: Arc<str> = namespace.into();
            let pods = self.pods.entry(namespace.clone()).or_default();
            pods.insert(name.into(), gate.clone());
            self.selection_changed(&namespace, name);
        }
        true
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) {
        let Some((namespace, mut pods)) = self.pods.remove_entry(namespace) else {
            return;
        };
        if let Some((name, gate)) = pods.remove_entry(name)
            && !gate.is_open
        {
            let pod = PodRef {
                namespace: namespace.clone(),
                name,
                uid: gate.uid,
            };
            self.changes.push(GateChange::WaitsNoLonger(pod));
        }
        if !pods.is_empty() {
            self.pods.insert(namespace, pods);
        }
    }

    /// Removes the pods of `namespaces` that do not exist.
    pub(super) fn retain(&mut self, namespaces: &NamespaceScope, exists: impl Fn(&str, &str) -> bool) {
        let pods = self.pods.iter().filter(|(namespace, _)| namespaces.contains(namespace));
        let pods = pods.flat_map(|(namespace, pods)| pods.keys().map(move |name| (namespace.clone(), name.clone())));
        let gone: BTreeSet<_> = pods.filter(|(namespace, name)| !exists(namespace, name)).collect();
        for (namespace, name) in gone {
            self.remove(&namespace, &name);
        }
    }

    /// Records that other registrations may select the pod `name`, if it waits for its gate.
    pub(super) fn selection_changed(&mut self, namespace: &str, name: &str) {
        if let Some((namespace, pods)) = self.pods.get_key_value(namespace)
            && let Some((name, gate)) = pods.get_key_value(name)
            && !gate.is_open
        {
            self.changes.push(GateChange::Waits(PodRef {
                namespace: namespace.clone(),
                name: name.clone(),
                uid: gate.uid.clone(),
            }));
        }
    }

    /// Records that a registration of `namespace` has changed.
    pub(super) fn registration_changed(&mut self, namespace: &str) {
        if let Some((namespace, _)) = self.pods.get_key_value(namespace) {
            let change = GateChange::Registrations(namespace.clone());
            if self.changes.last() != Some(&change) {
                self.changes.push(change);
            }
        }
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&ReadinessGate> {
        self.pods.get(namespace)?.get(name)
    }

    /// Returns the UID of a pod whose gate is closed.
    pub(super) fn waiting(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        let gate = self.get(namespace, name).filter(|gate| !gate.is_open)?;
        Some(gate.uid.clone())
    }

    /// Returns the names of the gated pods of `namespace`.
    pub(super) fn names(&self, namespace: &str) -> impl Iterator<Item = &Arc<str>> {
        self.pods.get(namespace).into_iter().flat_map(BTreeMap::keys)
    }

    pub(super) fn take_changes(&mut self) -> Vec<GateChange> {
        std::mem::take(&mut self.changes)
    }
}
