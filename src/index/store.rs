//! The interface of the index: takes events, returns dirty marks, and answers views.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compact::Symbols;
use super::namespace::Namespace;
use super::pod::Pod;
use super::registration::Registration;
use super::view::{DirtyMark, PodChange, PodView, ReadyPod};
use crate::model::{NamespaceScope, RegistrationRef, Relists};

/// Every pod and every registration of the cluster, and which registration selects which pods.
///
/// The cost of a pod event does not depend on the number of pods. A new registration or selector looks at every pod of
/// its namespace. The end of a relist looks at every pod of the listed scope.
#[derive(Debug, Default)]
pub struct Index {
    symbols: Symbols,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pod_relists: Relists,
}

impl Index {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or updates a pod. Returns what may have changed for the registrations that select it. While its labels stay
    /// the same, the cost does not depend on how many these are.
    pub fn apply_pod(&mut self, pod: &Pod) -> PodChange {
        let compact = self.symbols.compact(pod);
        let namespace = namespace(&mut self.namespaces, &pod.namespace);
        namespace.apply_pod(&pod.name, compact, self.pod_relists.mark(), &mut self.symbols)
    }

    pub fn delete_pod(&mut self, namespace: &str, name: &str) -> Vec<DirtyMark> {
        self.at(namespace, |namespace, symbols| namespace.delete_pod(name, symbols))
            .unwrap_or_default()
    }

    /// Begins a complete list of the pods of `area`. The caller then calls [`Self::apply_pod`] or [`Self::keep_pod`]
    /// for each pod, and [`Self::end_pod_relist`] at the end. No pod is deleted before the end. If a list fails, the
    /// caller simply begins another one.
    pub fn begin_pod_relist(&mut self, area: &NamespaceScope) {
        self.pod_relists.begin(area);
    }

    /// Keeps the cached state, if any, of a pod that exists but cannot be decoded.
    pub fn keep_pod(&mut self, namespace: &str, name: &str) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.keep_pod(name, self.pod_relists.mark());
        }
    }

    /// Ends the list of the pods of `area`: deletes its pods that were neither applied nor kept since the list began.
    /// Returns a mark for each registration that selected one, and whether the pod was terminating or had ended.
    pub fn end_pod_relist(&mut self, area: &NamespaceScope) -> Vec<(DirtyMark, bool)> {
        let (began, symbols) = (self.pod_relists.began(area), &mut self.symbols);
        let listed = self.namespaces.iter_mut().filter(|(name, _)| area.contains(name));
        let touches = listed
            .flat_map(|(_, namespace)| namespace.delete_unseen_pods(began, symbols))
            .collect();
        self.namespaces.retain(|_, namespace| !namespace.is_empty());
        touches
    }

    /// Adds or updates a registration. Returns a dirty mark for every pod that the registration selects or selected,
    /// unless nothing has changed. A new generation counts as a change, since the index does not know all of the spec,
    /// such as the formats.
    pub fn apply_registration(&mut self, registration: Registration) -> Vec<DirtyMark> {
        let namespace = namespace(&mut self.namespaces, &registration.reference.namespace);
        namespace.apply_registration(registration, &mut self.symbols)
    }

    /// Deletes a registration. All of its views are [`PodView::Gone`] from now on; no dirty mark is returned.
    pub fn delete_registration(&mut self, registration: &RegistrationRef) {
        self.at(&registration.namespace, |namespace, symbols| {
            namespace.delete_registration(&registration.name, symbols);
        });
    }

    /// Returns the view of `registration` on the pod named `pod` in its namespace.
    pub fn view(&self, registration: &RegistrationRef, pod: &str) -> PodView {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(PodView::Gone, |namespace| {
            namespace.view(&registration.name, pod, &self.symbols)
        })
    }

    /// Whether `registration` selects the pod named `pod` in its namespace.
    pub fn selects(&self, registration: &RegistrationRef, pod: &str) -> bool {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.is_some_and(|namespace| namespace.selects(&registration.name, pod, &self.symbols))
    }

    pub fn contains_registration(&self, registration: &RegistrationRef) -> bool {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.is_some_and(|namespace| namespace.contains_registration(&registration.name))
    }

    /// Returns the registrations that select a pod.
    pub fn selecting(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef> {
        let Some((namespace, content)) = self.namespaces.get_key_value(namespace) else {
            return Vec::new();
        };
        let names = content.selecting_pod(pod, &self.symbols).into_iter();
        let reference = |name| RegistrationRef {
            namespace: namespace.clone(),
            name,
        };
        names.map(reference).collect()
    }

    /// Returns what `registration` would register for a selected pod if the pod were ready. Returns `None` if it
    /// selects no such pod, or if the pod has no address of the wanted family.
    pub fn view_if_ready(&self, registration: &RegistrationRef, pod: &str) -> Option<ReadyPod> {
        let namespace = self.namespaces.get(&registration.namespace)?;
        namespace.view_if_ready(&registration.name, pod, &self.symbols)
    }

    /// Like [`Self::view_if_ready`], but resolves by the given `registration`. The pod must be selected by the cached
    /// registration of the same name.
    pub fn view_if_ready_as(&self, registration: &Registration, pod: &str) -> Option<ReadyPod> {
        let namespace = self.namespaces.get(&registration.reference.namespace)?;
        namespace.view_if_ready_as(registration, pod, &self.symbols)
    }

    /// Returns the number of pods that `registration` selects, ready or not, in constant time.
    pub fn selected_count(&self, registration: &RegistrationRef) -> usize {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(0, |namespace| namespace.selected_count(&registration.name))
    }

    /// Returns the number of all pods, selected or not.
    pub fn pod_count(&self) -> usize {
        self.namespaces.values().map(Namespace::pod_count).sum()
    }

    /// Calls `act` on a namespace, and removes the namespace if it is empty afterwards.
    fn at<T>(&mut self, name: &str, act: impl FnOnce(&mut Namespace, &mut Symbols) -> T) -> Option<T> {
        let namespace = self.namespaces.get_mut(name)?;
        let result = act(namespace, &mut self.symbols);
        if namespace.is_empty() {
            self.namespaces.remove(name);
        }
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
mod tests;
