//! The interface of the index: takes events, returns dirty marks, and answers views.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::behind::BehindChange;
use super::compact::{State, Symbols};
use super::gates::{GateChange, Gates};
use super::namespace::Namespace;
use super::node::{Node, NodeChange, Nodes};
use super::pod::Pod;
use super::registration::{Registration, Target};
use super::resolve::Facts;
use super::view::{DirtyMark, PodChange, PodView, ReadyPod};
use crate::model::{NamespaceScope, RegistrationRef, Relists};

/// Every pod, node and registration of the cluster, and which registration selects which pods.
///
/// The cost of a pod event does not depend on the number of pods. A new registration or selector looks at every pod of
/// its namespace. The end of a relist looks at every pod of the listed scope. A node that gets another zone or region
/// looks at every pod; one that gets another label looks at the pods of the registrations that publish the label.
#[derive(Debug, Default)]
pub struct Index {
    symbols: Symbols,
    nodes: Nodes,
    gates: Gates,
    /// Whether a pod that only waits for its readiness gate stays unregistered, because the operator opens no gates.
    ignores_gates: bool,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pod_relists: Relists,
    /// Nodes and addresses whose pods have changed, until [`Self::take_marks`].
    marks: Vec<DirtyMark>,
}

impl Index {
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves pods unregistered that only wait for their readiness gate: the operator opens no gates, so that Kubernetes never
    /// regards them as ready.
    pub fn ignore_gates(&mut self) {
        self.ignores_gates = true;
    }

    /// Adds or updates a pod. Returns what may have changed for the registrations that register it. While its labels stay
    /// the same, the cost does not depend on how many these are. For the registrations of nodes and addresses that it is
    /// behind, call [`Self::take_marks`] afterwards.
    pub fn apply_pod(&mut self, pod: &Pod) -> PodChange {
        let gate = pod.gate.as_ref().filter(|_| !pod.terminating && !pod.terminal);
        let is_other_gate = self.gates.set(&pod.namespace, &pod.name, gate);
        let mut compact = self.symbols.compact(pod);
        if self.ignores_gates && compact.state.awaits_kubelet() {
            compact.state = State::NotReady;
        }
        let namespace = namespace(&mut self.namespaces, &pod.namespace);
        let change = namespace.apply_pod(&pod.name, compact, self.pod_relists.mark(), &mut self.symbols);
        let changes = namespace.take_changes();
        self.mark_behind(changes);
        match change {
            PodChange::Selection(_) => self.gates.selection_changed(&pod.namespace, &pod.name),
            // Another pod of the same name may have the same facts.
            PodChange::None if is_other_gate => return PodChange::Facts,
            _ => {}
        }
        change
    }

    pub fn delete_pod(&mut self, namespace: &str, name: &str) -> Vec<DirtyMark> {
        self.gates.remove(namespace, name);
        self.at(namespace, |namespace, symbols| namespace.delete_pod(name, symbols))
            .unwrap_or_default()
    }

    /// Returns the nodes and addresses whose view may have changed because of the pods behind them, since the last call.
    pub fn take_marks(&mut self) -> Vec<DirtyMark> {
        std::mem::take(&mut self.marks)
    }

    /// Returns what has changed for pods that wait for their readiness gate, since the last call.
    pub fn take_gate_changes(&mut self) -> Vec<GateChange> {
        self.gates.take_changes()
    }

    fn mark_behind(&mut self, changes: Vec<(RegistrationRef, BehindChange)>) {
        for (registration, BehindChange { is_any, nodes }) in changes {
            let mark = |pod: &Arc<str>| DirtyMark {
                registration: registration.clone(),
                pod: pod.clone(),
            };
            match self
                .registration(&registration)
                .map(|registration| &registration.target)
            {
                Some(Target::Nodes(target)) if target.local => self.marks.extend(nodes.iter().map(mark)),
                Some(Target::Nodes(_)) if is_any => self.marks.extend(self.nodes.names().map(mark)),
                Some(Target::Addresses(addresses)) if is_any => {
                    let marks: Vec<DirtyMark> = addresses.iter().map(|address| mark(&address.name)).collect();
                    self.marks.extend(marks);
                }
                _ => {}
            }
        }
    }

    /// Adds or updates a node. Returns a mark for each registration and endpoint whose view may have changed.
    pub fn apply_node(&mut self, node: &Node) -> Vec<DirtyMark> {
        let change = self.nodes.apply(node, &mut self.symbols);
        if change.is_none() {
            return Vec::new();
        }
        self.marks_of_node(&node.name.as_str().into(), &change)
    }

    /// Keeps the cached facts, if any, of a node that exists but cannot be decoded.
    pub fn keep_node(&mut self, name: &str) {
        self.nodes.keep(name);
    }

    /// Deletes a node. Pods on it keep their zone and attributes until they change.
    pub fn delete_node(&mut self, name: &str) -> Vec<DirtyMark> {
        if !self.nodes.delete(name, &mut self.symbols) {
            return Vec::new();
        }
        let change = NodeChange {
            is_any: true,
            is_readiness: true,
            ..NodeChange::default()
        };
        self.marks_of_node(&name.into(), &change)
    }

    /// Begins a complete list of the nodes.
    pub fn begin_node_relist(&mut self) {
        self.nodes.begin_relist();
    }

    /// Ends the list: deletes the nodes that it did not contain. Returns their marks. For the pods whose nodes became
    /// known by the first list, call [`Self::take_marks`] afterwards.
    pub fn end_node_relist(&mut self) -> Vec<DirtyMark> {
        let is_first = !self.nodes.are_listed();
        let unseen = self.nodes.end_relist();
        if is_first {
            let marks = self.marks_of_topology();
            self.marks.extend(marks);
        }
        unseen.iter().flat_map(|name| self.delete_node(name)).collect()
    }

    /// Returns a mark for each registered pod and address on a known node.
    fn marks_of_topology(&self) -> Vec<DirtyMark> {
        let mut marks = Vec::new();
        for (namespace, content) in &self.namespaces {
            for pod in content.pods_where(&self.symbols, |node| self.nodes.get(node).is_some()) {
                let registering = self.registering(namespace, &pod).into_iter();
                marks.extend(registering.map(|registration| DirtyMark {
                    registration,
                    pod: pod.clone(),
                }));
            }
            for registration in content.node_registrations() {
                let Target::Addresses(addresses) = &registration.target else {
                    continue;
                };
                let on_nodes = addresses.iter().filter(|address| address.node.is_some());
                marks.extend(on_nodes.map(|address| DirtyMark {
                    registration: registration.reference.clone(),
                    pod: address.name.clone(),
                }));
            }
        }
        marks
    }

    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Returns a mark for each registration of the node `name`, and for the registered pods on it that depend on what has
    /// changed: all of them, those that wait for their readiness gate, or those with a label of it.
    fn marks_of_node(&self, name: &Arc<str>, change: &NodeChange) -> Vec<DirtyMark> {
        // The end of the first list marks the pods of all nodes: one search for pods instead of one for each node.
        let are_listed = self.nodes.are_listed();
        let is_topology = change.is_topology && are_listed;
        let mut marks = Vec::new();
        for (namespace, content) in &self.namespaces {
            if !change.is_any && !content.publishes_node_labels() {
                continue;
            }
            for registration in content.node_registrations() {
                let publishes = registration.publishes(&change.labels);
                let mark = |pod: &Arc<str>| DirtyMark {
                    registration: registration.reference.clone(),
                    pod: pod.clone(),
                };
                match &registration.target {
                    Target::Nodes(_) if change.is_any || publishes => marks.push(mark(name)),
                    Target::Addresses(addresses) if is_topology || publishes && are_listed => {
                        let on = addresses.iter().filter(|address| address.node.as_ref() == Some(name));
                        marks.extend(on.map(|address| mark(&address.name)));
                    }
                    _ => {}
                }
            }
            let pods = if is_topology {
                content.pods_where(&self.symbols, |node| node == &**name)
            } else if change.is_readiness {
                let waiting = self.gates.names(namespace);
                let on = |pod: &&Arc<str>| content.is_on_node(pod, name, &self.symbols);
                waiting.filter(on).cloned().collect()
            } else {
                Vec::new()
            };
            if are_listed && !is_topology {
                marks.extend(content.marks_of_labels(name, &change.labels, &self.symbols));
            }
            for pod in pods {
                let registering = self.registering(namespace, &pod).into_iter();
                marks.extend(registering.map(|registration| DirtyMark {
                    registration,
                    pod: pod.clone(),
                }));
            }
        }
        marks
    }

    /// Begins a complete list of the pods of `namespaces`. The caller then calls [`Self::apply_pod`] or [`Self::keep_pod`]
    /// for each pod, and [`Self::end_pod_relist`] at the end. No pod is deleted before the end. If a list fails, the
    /// caller simply begins another one.
    pub fn begin_pod_relist(&mut self, namespaces: &NamespaceScope) {
        self.pod_relists.begin(namespaces);
    }

    /// Keeps the cached state, if any, of a pod that exists but cannot be decoded.
    pub fn keep_pod(&mut self, namespace: &str, name: &str) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.keep_pod(name, self.pod_relists.mark());
        }
    }

    /// Ends the list of the pods of `scope`: deletes its pods that were neither applied nor kept since the list began.
    /// Returns a mark for each registration that selected one, and whether the pod was terminating or had ended.
    pub fn end_pod_relist(&mut self, scope: &NamespaceScope) -> Vec<(DirtyMark, bool)> {
        let (began, symbols) = (self.pod_relists.began(scope), &mut self.symbols);
        let (mut touches, mut changes) = (Vec::new(), Vec::new());
        for (_, namespace) in self.namespaces.iter_mut().filter(|(name, _)| scope.contains(name)) {
            touches.extend(namespace.delete_unseen_pods(began, symbols));
            changes.extend(namespace.take_changes());
        }
        self.mark_behind(changes);
        let namespaces = &self.namespaces;
        self.gates.retain(scope, |namespace, pod| {
            namespaces
                .get(namespace)
                .is_some_and(|content| content.contains_pod(pod))
        });
        self.namespaces.retain(|_, namespace| !namespace.is_empty());
        touches
    }

    /// Adds or updates a registration. Returns a dirty mark for every pod, node or address that the registration may
    /// register, and after these for those that only its former version might, unless nothing has changed. A new generation
    /// counts as a change, since the index does not know all of the spec, such as the formats.
    pub fn apply_registration(&mut self, registration: Registration) -> Vec<DirtyMark> {
        self.gates.registration_changed(&registration.reference.namespace);
        let namespace = namespace(&mut self.namespaces, &registration.reference.namespace);
        namespace.apply_registration(registration, &mut self.symbols, &self.nodes)
    }

    /// Deletes a registration. All of its views are [`PodView::Gone`] from now on; no dirty mark is returned.
    pub fn delete_registration(&mut self, registration: &RegistrationRef) {
        self.gates.registration_changed(&registration.namespace);
        self.at(&registration.namespace, |namespace, symbols| {
            namespace.delete_registration(&registration.name, symbols);
        });
    }

    /// Makes the next [`Self::apply_registration`] return all marks, even if nothing has changed.
    pub fn invalidate(&mut self, registration: &RegistrationRef) {
        if let Some(namespace) = self.namespaces.get_mut(&registration.namespace) {
            namespace.invalidate(&registration.name);
        }
    }

    /// Returns the view of `registration` on the pod, node or address named `pod`.
    pub fn view(&self, registration: &RegistrationRef, pod: &str) -> PodView {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(PodView::Gone, |namespace| {
            namespace.view(&registration.name, pod, self.facts())
        })
    }

    /// Whether `registration` registers the pod, node or address named `pod`, ready or not.
    pub fn registers(&self, registration: &RegistrationRef, pod: &str) -> bool {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.is_some_and(|namespace| namespace.registers(&registration.name, pod, self.facts()))
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            symbols: &self.symbols,
            nodes: &self.nodes,
            gates: &self.gates,
        }
    }

    /// Returns the cached registration.
    pub fn registration(&self, registration: &RegistrationRef) -> Option<&Registration> {
        self.namespaces
            .get(&registration.namespace)?
            .registration(&registration.name)
    }

    pub fn contains_registration(&self, registration: &RegistrationRef) -> bool {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.is_some_and(|namespace| namespace.contains_registration(&registration.name))
    }

    /// Returns the cached names of a pod: its namespace and its own.
    pub fn names_of(&self, namespace: &str, pod: &str) -> Option<(&Arc<str>, &Arc<str>)> {
        let (namespace, content) = self.namespaces.get_key_value(namespace)?;
        Some((namespace, content.name_of(pod)?))
    }

    /// Whether there is a pod of this name that is neither terminating nor ended.
    pub fn is_alive(&self, namespace: &str, pod: &str) -> bool {
        let namespace = self.namespaces.get(namespace);
        namespace.is_some_and(|namespace| namespace.is_alive(pod))
    }

    /// Returns the UID of a pod that waits for its readiness gate.
    pub fn waiting(&self, namespace: &str, pod: &str) -> Option<Arc<str>> {
        self.gates.waiting(namespace, pod)
    }

    /// Returns the registrations that register a pod.
    pub fn registering(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef> {
        let namespace = self.namespaces.get(namespace);
        namespace.map_or_else(Vec::new, |content| content.registering_pod(pod, &self.symbols))
    }

    /// Returns what `registration` would register for a pod, node or address if it were ready. Returns `None` if it
    /// registers no such pod, or if that has no address of the wanted family.
    pub fn view_if_ready(&self, registration: &RegistrationRef, pod: &str) -> Option<ReadyPod> {
        let namespace = self.namespaces.get(&registration.namespace)?;
        namespace.view_if_ready(&registration.name, pod, self.facts())
    }

    /// Like [`Self::view_if_ready`], but resolves by the given `registration`. The pod must be selected by the cached
    /// registration of the same name.
    pub fn view_if_ready_as(&self, registration: &Registration, pod: &str) -> Option<ReadyPod> {
        let namespace = self.namespaces.get(&registration.reference.namespace)?;
        namespace.view_if_ready_as(registration, pod, self.facts())
    }

    /// Returns the number of pods, nodes or addresses that `registration` registers, ready or not.
    pub fn selected_count(&self, registration: &RegistrationRef) -> usize {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(0, |namespace| namespace.selected_count(&registration.name, &self.nodes))
    }

    /// Returns the number of all pods, selected or not.
    pub fn pod_count(&self) -> usize {
        self.namespaces.values().map(Namespace::pod_count).sum()
    }

    /// Calls `act` on a namespace, and removes the namespace if it is empty afterwards.
    fn at<T>(&mut self, name: &str, act: impl FnOnce(&mut Namespace, &mut Symbols) -> T) -> Option<T> {
        let namespace = self.namespaces.get_mut(name)?;
        let result = act(namespace, &mut self.symbols);
        let changes = namespace.take_changes();
        if namespace.is_empty() {
            self.namespaces.remove(name);
        }
        self.mark_behind(changes);
        Some(result)
    }

    /// Returns the storage of shared values.
    #[cfg(test)]
    pub(super) fn symbols(&self) -> &Symbols {
        &self.symbols
    }
}

fn namespace<'a>(namespaces: &'a mut BTreeMap<Arc<str>, Namespace>, name: &str) -> &'a mut Namespace {
    if !namespaces.contains_key(name) {
        namespaces.insert(name.into(), Namespace::default());
    }
    namespaces.get_mut(name).expect("inserted if it was absent")
}

#[cfg(test)]
mod gate_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod tests;
