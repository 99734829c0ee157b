//! The pods and registrations of one namespace, and which registration selects which pods. Registrations select pods of
//! their own namespace only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::compact::{CompactPod, Symbols};
use super::interner::Symbol;
use super::registration::Registration;
use super::resolve::{resolve, resolve_if_ready};
use super::selector::Selector;
use super::view::{DirtyMark, PodChange, PodView, ReadyPod};
use crate::model::Mark;

#[derive(Debug, Default)]
pub(super) struct Namespace {
    pods: HashMap<Arc<str>, PodEntry>,
    registrations: HashMap<Arc<str>, Selecting>,
    /// Names of registrations that require a certain label (a symbol of [`Symbols`]), each filed under one of its
    /// required labels. A pod event looks only at registrations filed under the pod's own labels, however many others
    /// there are.
    filed: HashMap<Symbol, Vec<Arc<str>>>,
    /// Names of registrations that require no label value. Every pod event looks at all of them.
    unfiled: Vec<Arc<str>>,
}

#[derive(Debug)]
struct PodEntry {
    pod: CompactPod,
    seen: Mark,
}

#[derive(Debug)]
struct Selecting {
    registration: Registration,
    filed_under: Option<Symbol>,
    /// Names of the selected pods.
    members: BTreeSet<Arc<str>>,
}

impl Namespace {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.registrations.is_empty()
    }

    pub(super) fn apply_pod(&mut self, name: &str, new: CompactPod, seen: Mark, symbols: &mut Symbols) -> PodChange {
        if let Some(entry) = self.pods.get_mut(name) {
            entry.seen = seen;
            if entry.pod == new {
                symbols.release(new);
                return PodChange::None;
            }
            if entry.pod.labels == new.labels {
                symbols.release(std::mem::replace(&mut entry.pod, new));
                let entry = &self.pods[name];
                let is_selected = self.selecting(&entry.pod, symbols).next().is_some();
                return match is_selected {
                    true if entry.pod.state.is_ending() => PodChange::Ending,
                    true => PodChange::Facts,
                    false => PodChange::None,
                };
            }
        }
        let (name, old) = match self.pods.remove_entry(name) {
            Some((name, entry)) => (name, Some(entry.pod)),
            None => (name.into(), None),
        };
        let marks = self.replace(&name, old.as_ref(), Some(&new), symbols);
        if let Some(old) = old {
            symbols.release(old);
        }
        self.pods.insert(name, PodEntry { pod: new, seen });
        PodChange::Selection(marks)
    }

    pub(super) fn delete_pod(&mut self, name: &str, symbols: &mut Symbols) -> Vec<DirtyMark> {
        let Some((name, PodEntry { pod, .. })) = self.pods.remove_entry(name) else {
            return Vec::new();
        };
        let touches = self.replace(&name, Some(&pod), None, symbols);
        symbols.release(pod);
        touches
    }

    /// Marks the pod `name`, if known, as last seen at `seen`.
    pub(super) fn keep_pod(&mut self, name: &str, seen: Mark) {
        if let Some(entry) = self.pods.get_mut(name) {
            entry.seen = seen;
        }
    }

    /// Deletes the pods not seen since a list of them `began`.
    pub(super) fn delete_unseen_pods(&mut self, began: Mark, symbols: &mut Symbols) -> Vec<(DirtyMark, bool)> {
        let unseen = self
            .pods
            .iter()
            .filter(|(_, entry)| entry.seen.is_before(began))
            .map(|(name, entry)| (name.clone(), entry.pod.state.is_ending()));
        let mut marks = Vec::new();
        for (name, is_ending) in unseen.collect::<Vec<_>>() {
            let deleted = self.delete_pod(&name, symbols).into_iter();
            marks.extend(deleted.map(|mark| (mark, is_ending)));
        }
        marks
    }

    /// Updates the registrations for a pod that changes from `old` to `new`. Returns a dirty mark for each registration
    /// that selects or selected the pod.
    fn replace(
        &mut self,
        name: &Arc<str>,
        old: Option<&CompactPod>,
        new: Option<&CompactPod>,
        symbols: &Symbols,
    ) -> Vec<DirtyMark> {
        let mut affected = BTreeMap::<Arc<str>, [Option<&CompactPod>; 2]>::new();
        for (side, pod) in [old, new].into_iter().enumerate() {
            for registration in pod.iter().flat_map(|pod| self.selecting(pod, symbols)) {
                affected.entry(registration.clone()).or_default()[side] = pod;
            }
        }
        let mut marks = Vec::new();
        for (registration, [old, new]) in affected {
            let Some(selecting) = self.registrations.get_mut(&registration) else {
                continue;
            };
            match (old, new) {
                (None, Some(_)) => {
                    selecting.members.insert(name.clone());
                }
                (Some(_), None) => {
                    selecting.members.remove(name);
                }
                _ => {}
            }
            marks.push(selecting.touch(name));
        }
        marks
    }

    /// Returns the names of the registrations that select the pod `name`.
    pub(super) fn selecting_pod(&self, name: &str, symbols: &Symbols) -> Vec<Arc<str>> {
        let entry = self.pods.get(name);
        entry.map_or_else(Vec::new, |entry| self.selecting(&entry.pod, symbols).cloned().collect())
    }

    /// Returns the names of the registrations that select `pod`.
    fn selecting<'a>(&'a self, pod: &'a CompactPod, symbols: &'a Symbols) -> impl Iterator<Item = &'a Arc<str>> {
        let filed = symbols
            .pairs(pod)
            .iter()
            .filter_map(|pair| self.filed.get(pair))
            .flatten();
        filed.chain(&self.unfiled).filter(move |name| {
            self.registrations
                .get(*name)
                .is_some_and(|selecting| selecting.selects(pod, symbols))
        })
    }

    pub(super) fn apply_registration(&mut self, registration: Registration, symbols: &mut Symbols) -> Vec<DirtyMark> {
        let name = registration.reference.name.clone();
        let mut before = BTreeSet::new();
        let mut selecting = Selecting {
            registration,
            filed_under: None,
            members: BTreeSet::new(),
        };
        match self.registrations.remove(&name) {
            Some(old) if old.registration == selecting.registration => {
                self.registrations.insert(name, old);
                return Vec::new();
            }
            Some(old) if old.registration.selector == selecting.registration.selector => {
                selecting = Selecting {
                    registration: selecting.registration,
                    ..old
                };
            }
            old => {
                if let Some(old) = old {
                    self.unfile(&name, old.filed_under, symbols);
                    before = old.members;
                }
                selecting.filed_under = self.file(&name, &selecting.registration.selector, symbols);
                self.enlist(&mut selecting, symbols);
            }
        }
        let touches = before
            .union(&selecting.members)
            .map(|pod| selecting.touch(pod))
            .collect();
        self.registrations.insert(name, selecting);
        touches
    }

    pub(super) fn delete_registration(&mut self, name: &str, symbols: &mut Symbols) {
        if let Some(old) = self.registrations.remove(name) {
            self.unfile(name, old.filed_under, symbols);
        }
    }

    /// Finds the selected pods of a registration that has none yet.
    fn enlist(&self, selecting: &mut Selecting, symbols: &Symbols) {
        for (name, PodEntry { pod, .. }) in &self.pods {
            // Most pods fail this cheap test. So one of many registrations costs little for pods that it does not
            // select.
            let candidate = selecting
                .filed_under
                .is_none_or(|pair| symbols.pairs(pod).contains(&pair));
            if candidate && selecting.selects(pod, symbols) {
                selecting.members.insert(name.clone());
            }
        }
    }

    /// Files the registration `name` under that required label which has the fewest other registrations.
    fn file(&mut self, name: &Arc<str>, selector: &Selector, symbols: &mut Symbols) -> Option<Symbol> {
        let pairs = selector
            .match_labels
            .iter()
            .map(|(key, value)| symbols.acquire_pair(key, value));
        let pairs: Vec<_> = pairs.collect();
        let chosen = pairs
            .iter()
            .copied()
            .min_by_key(|pair| self.filed.get(pair).map_or(0, Vec::len));
        for pair in pairs.into_iter().filter(|pair| Some(*pair) != chosen) {
            symbols.release_pair(pair);
        }
        match chosen {
            Some(pair) => self.filed.entry(pair).or_default().push(name.clone()),
            None => self.unfiled.push(name.clone()),
        }
        chosen
    }

    fn unfile(&mut self, name: &str, filed_under: Option<Symbol>, symbols: &mut Symbols) {
        let Some(pair) = filed_under else {
            self.unfiled.retain(|other| **other != *name);
            return;
        };
        if let Some(names) = self.filed.get_mut(&pair) {
            names.retain(|other| **other != *name);
            if names.is_empty() {
                self.filed.remove(&pair);
            }
        }
        symbols.release_pair(pair);
    }

    pub(super) fn view(&self, registration: &str, pod: &str, symbols: &Symbols) -> PodView {
        let selected = self.selected(registration, pod, symbols);
        selected.map_or(PodView::Gone, |(selecting, name, pod)| {
            selecting.view(name, pod, symbols)
        })
    }

    pub(super) fn view_if_ready(&self, registration: &str, pod: &str, symbols: &Symbols) -> Option<ReadyPod> {
        let (selecting, name, pod) = self.selected(registration, pod, symbols)?;
        resolve_if_ready(&selecting.registration, name, pod, symbols)
    }

    pub(super) fn view_if_ready_as(
        &self,
        registration: &Registration,
        pod: &str,
        symbols: &Symbols,
    ) -> Option<ReadyPod> {
        let (_, name, pod) = self.selected(&registration.reference.name, pod, symbols)?;
        resolve_if_ready(registration, name, pod, symbols)
    }

    pub(super) fn contains_registration(&self, name: &str) -> bool {
        self.registrations.contains_key(name)
    }

    pub(super) fn selects(&self, registration: &str, pod: &str, symbols: &Symbols) -> bool {
        self.selected(registration, pod, symbols).is_some()
    }

    fn selected(
        &self,
        registration: &str,
        pod: &str,
        symbols: &Symbols,
    ) -> Option<(&Selecting, &Arc<str>, &CompactPod)> {
        let selecting = self.registrations.get(registration)?;
        let (name, entry) = self.pods.get_key_value(pod)?;
        let selects = selecting.selects(&entry.pod, symbols);
        selects.then_some((selecting, name, &entry.pod))
    }

    /// Returns the number of pods that the registration selects.
    pub(super) fn selected_count(&self, registration: &str) -> usize {
        self.registrations
            .get(registration)
            .map_or(0, |selecting| selecting.members.len())
    }

    pub(super) fn pod_count(&self) -> usize {
        self.pods.len()
    }
}

impl Selecting {
    fn selects(&self, pod: &CompactPod, symbols: &Symbols) -> bool {
        self.registration
            .selector
            .matches(|key| symbols.label(pod, key).map(|value| &**value))
    }

    fn view(&self, name: &Arc<str>, pod: &CompactPod, symbols: &Symbols) -> PodView {
        resolve(&self.registration, name, pod, symbols)
    }

    fn touch(&self, pod: &Arc<str>) -> DirtyMark {
        DirtyMark {
            registration: self.registration.reference.clone(),
            pod: pod.clone(),
        }
    }
}
