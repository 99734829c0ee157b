//! The index as the rest of the house sees it: events in, touches out, views on demand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compact::Symbols;
use super::namespace::Namespace;
use super::namespace_scope::{NamespaceScope, Relists};
use super::pod::Pod;
use super::registration::{Registration, RegistrationRef};
use super::view::{DirtyMark, PodView, ReadyPod};

/// Every pod and every registration of the cluster, and who selects whom.
///
/// An event of a pod costs the same whatever the number of pods. A registration that is new or changes its selector
/// looks at every pod of its namespace, the end of a relist at every pod.
#[derive(Debug, Default)]
pub struct Index {
    symbols: Symbols,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pod_relists: Relists,
}

impl Index {
    /// An index of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pod is there, new or changed. Touches exactly the registrations whose view of it differs from before.
    pub fn apply_pod(&mut self, pod: &Pod) -> Vec<DirtyMark> {
        let compact = self.symbols.compact(pod);
        let namespace = namespace(&mut self.namespaces, &pod.namespace);
        namespace.apply_pod(&pod.name, compact, self.pod_relists.mark(), &mut self.symbols)
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, namespace: &str, name: &str) -> Vec<DirtyMark> {
        self.at(namespace, |namespace, symbols| namespace.delete_pod(name, symbols))
            .unwrap_or_default()
    }

    /// A complete list of the pods of `area` begins: [`Self::apply_pod`] or [`Self::keep_pod`] for each, then
    /// [`Self::end_pod_relist`]. Until then no pod is taken to be gone. A list that breaks off is simply begun again.
    pub fn begin_pod_relist(&mut self, area: &NamespaceScope) {
        self.pod_relists.begin(area);
    }

    /// A pod is there, but what it says cannot be read: what is known of it, if anything, stays.
    pub fn keep_pod(&mut self, namespace: &str, name: &str) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.keep_pod(name, self.pod_relists.mark());
        }
    }

    /// The list of the pods of `area` is complete: those of it neither applied nor kept since it began are gone.
    pub fn end_pod_relist(&mut self, area: &NamespaceScope) -> Vec<DirtyMark> {
        let (began, symbols) = (self.pod_relists.began(area), &mut self.symbols);
        let listed = self.namespaces.iter_mut().filter(|(name, _)| area.contains(name));
        let touches = listed
            .flat_map(|(_, namespace)| namespace.delete_unseen_pods(began, symbols))
            .collect();
        self.namespaces.retain(|_, namespace| !namespace.is_empty());
        touches
    }

    /// A registration is there, new or changed. Touches every pod it selects or selected, unless nothing changed:
    /// what changed may be a part of the spec not known here, such as its formats, told by the generation.
    pub fn apply_registration(&mut self, registration: Registration) -> Vec<DirtyMark> {
        let namespace = namespace(&mut self.namespaces, &registration.reference.namespace);
        namespace.apply_registration(registration, &mut self.symbols)
    }

    /// A registration is gone: every view of it is [`PodView::Gone`] from now on, without a touch.
    pub fn delete_registration(&mut self, registration: &RegistrationRef) {
        self.at(&registration.namespace, |namespace, symbols| {
            namespace.delete_registration(&registration.name, symbols);
        });
    }

    /// What `registration` says about the pod named `pod` in its namespace.
    pub fn view(&self, registration: &RegistrationRef, pod: &str) -> PodView {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(PodView::Gone, |namespace| {
            namespace.view(&registration.name, pod, &self.symbols)
        })
    }

    /// What `registration` would say about a pod that it selects if that were ready; none when it has no such pod, or
    /// one without an address.
    pub fn view_if_ready(&self, registration: &RegistrationRef, pod: &str) -> Option<ReadyPod> {
        let namespace = self.namespaces.get(&registration.namespace)?;
        namespace.view_if_ready(&registration.name, pod, &self.symbols)
    }

    /// The same as if `registration`, which selects by what the one of its name here says, were what is given.
    pub fn view_if_ready_as(&self, registration: &Registration, pod: &str) -> Option<ReadyPod> {
        let namespace = self.namespaces.get(&registration.reference.namespace)?;
        namespace.view_if_ready_as(registration, pod, &self.symbols)
    }

    /// How many pods `registration` selects, ready or not. Costs the same however many they are.
    pub fn selected_count(&self, registration: &RegistrationRef) -> usize {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(0, |namespace| namespace.selected_count(&registration.name))
    }

    /// How many pods there are, selected or not.
    pub fn pod_count(&self) -> usize {
        self.namespaces.values().map(Namespace::pod_count).sum()
    }

    /// Does something in a namespace, and forgets the namespace if that leaves it empty.
    fn at<T>(&mut self, name: &str, act: impl FnOnce(&mut Namespace, &mut Symbols) -> T) -> Option<T> {
        let namespace = self.namespaces.get_mut(name)?;
        let result = act(namespace, &mut self.symbols);
        if namespace.is_empty() {
            self.namespaces.remove(name);
        }
        Some(result)
    }

    /// What is stored of everything that pods share.
    #[cfg(test)]
    pub(super) fn symbols(&self) -> &Symbols {
        &self.symbols
    }
}

fn namespace<'a>(namespaces: &'a mut BTreeMap<Arc<str>, Namespace>, name: &str) -> &'a mut Namespace {
    if !namespaces.contains_key(name) {
        namespaces.insert(name.into(), Namespace::default());
    }
    namespaces.get_mut(name).expect("it is there by now")
}

#[cfg(test)]
mod tests;
