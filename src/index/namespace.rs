//! The pods and registrations of one namespace, and which registration selects which pods. Registrations select pods of
//! their own namespace only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::behind::{Behind, BehindChange, PodBehind};
use super::compact::{CompactPod, State, Symbols};
use super::interner::Symbol;
use super::node::Nodes;
use super::registration::{Address, NodeTarget, Registration, Target};
use super::resolve::{
    Facts, address_if_ready, node_if_ready, resolve, resolve_address, resolve_if_ready, resolve_node,
};
use super::selector::Selector;
use super::view::{DirtyMark, PodChange, PodView, ReadyPod};
use crate::model::{Mark, RegistrationRef};

#[derive(Debug, Default)]
pub(super) struct Namespace {
    /// Boxed, because a table that grows exists twice, and then half of its slots are empty.
    pods: HashMap<Arc<str>, Box<PodEntry>>,
    registrations: HashMap<Arc<str>, Selecting>,
    /// Names of registrations that require a certain label (a symbol of [`Symbols`]), each filed under one of its
    /// required labels. A pod event looks only at registrations filed under the pod's own labels, however many others
    /// there are.
    filed: HashMap<Symbol, Vec<Arc<str>>>,
    /// Names of registrations that require no label value. Every pod event looks at all of them.
    unfiled: Vec<Arc<str>>,
    /// The number of registrations of nodes or addresses.
    with_pods_behind: usize,
    /// The number of registrations that publish labels of nodes.
    with_node_labels: usize,
    /// The changes behind registrations of nodes or addresses, until the index takes them.
    changes: Vec<(RegistrationRef, BehindChange)>,
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
    /// Names of the selected pods, if each is an endpoint.
    members: BTreeSet<Arc<str>>,
    /// The selected pods, if they are behind nodes or addresses.
    behind: Behind,
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
                let old = std::mem::replace(&mut entry.pod, new);
                if self.with_pods_behind > 0 {
                    self.replace_behind(name, &old, symbols);
                }
                let was_ending = old.state.is_ending();
                symbols.release(old);
                let entry = &self.pods[name];
                if entry.pod.state.is_ending() && !was_ending {
                    return PodChange::Ending;
                }
                let is_registered = self.registering(&entry.pod, symbols).next().is_some();
                return if is_registered {
                    PodChange::Facts
                } else {
                    PodChange::None
                };
            }
        }
        let (name, old) = match self.pods.remove_entry(name) {
            Some((name, entry)) => (name, Some(entry.pod)),
            None => (name.into(), None),
        };
        let marks = self.replace(&name, [old.as_ref(), Some(&new)], false, symbols);
        if let Some(old) = old {
            symbols.release(old);
        }
        self.pods.insert(name, Box::new(PodEntry { pod: new, seen }));
        PodChange::Selection(marks)
    }

    pub(super) fn delete_pod(&mut self, name: &str, symbols: &mut Symbols) -> Vec<DirtyMark> {
        self.remove_pod(name, false, symbols)
    }

    fn remove_pod(&mut self, name: &str, is_lost: bool, symbols: &mut Symbols) -> Vec<DirtyMark> {
        let Some((name, entry)) = self.pods.remove_entry(name) else {
            return Vec::new();
        };
        let pod = entry.pod;
        let touches = self.replace(&name, [Some(&pod), None], is_lost, symbols);
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
            let deleted = self.remove_pod(&name, true, symbols).into_iter();
            marks.extend(deleted.map(|mark| (mark, is_ending)));
        }
        marks
    }

    /// Updates the registrations for a pod that changes from the first to the second of `versions`. Returns a dirty mark
    /// for each registration that registers or registered the pod.
    fn replace(
        &mut self,
        name: &Arc<str>,
        versions: [Option<&CompactPod>; 2],
        is_lost: bool,
        symbols: &Symbols,
    ) -> Vec<DirtyMark> {
        let mut affected = BTreeMap::<Arc<str>, [Option<&CompactPod>; 2]>::new();
        for (side, pod) in versions.into_iter().enumerate() {
            for registration in pod.iter().flat_map(|pod| self.selecting(pod, symbols)) {
                affected.entry(registration.clone()).or_default()[side] = pod;
            }
        }
        let mut marks = Vec::new();
        for (registration, [old, new]) in affected {
            let Some(selecting) = self.registrations.get_mut(&registration) else {
                continue;
            };
            if !selecting.registration.target.is_pods() {
                let change = selecting.replace_behind([old, new], is_lost, symbols);
                self.changes.push((selecting.registration.reference.clone(), change));
                continue;
            }
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

    /// Updates the registrations of nodes or addresses for the pod `name`, which was `old` and kept its labels.
    fn replace_behind(&mut self, name: &str, old: &CompactPod, symbols: &Symbols) {
        let pod = &self.pods[name].pod;
        let names: Vec<Arc<str>> = self.selecting(pod, symbols).cloned().collect();
        for name_of in names {
            if let Some(selecting) = self.registrations.get_mut(&name_of)
                && !selecting.registration.target.is_pods()
            {
                let change = selecting.replace_behind([Some(old), Some(&self.pods[name].pod)], false, symbols);
                self.changes.push((selecting.registration.reference.clone(), change));
            }
        }
    }

    /// Returns what has changed behind registrations of nodes or addresses.
    pub(super) fn take_changes(&mut self) -> Vec<(RegistrationRef, BehindChange)> {
        std::mem::take(&mut self.changes)
    }

    /// Returns the cached name of the pod `name`.
    pub(super) fn name_of(&self, name: &str) -> Option<&Arc<str>> {
        self.pods.get_key_value(name).map(|(name, _)| name)
    }

    /// Returns the registrations that register the pod `name`.
    pub(super) fn registering_pod(&self, name: &str, symbols: &Symbols) -> Vec<RegistrationRef> {
        let entry = self.pods.get(name);
        entry.map_or_else(Vec::new, |entry| {
            let registering = self.registering(&entry.pod, symbols);
            registering.map(|registration| registration.reference.clone()).collect()
        })
    }

    /// Returns the registrations that register `pod`.
    fn registering<'a>(&'a self, pod: &'a CompactPod, symbols: &'a Symbols) -> impl Iterator<Item = &'a Registration> {
        let selecting = self.selecting(pod, symbols);
        let selecting = selecting.map(|name| &self.registrations[name].registration);
        selecting.filter(|registration| registration.target.is_pods())
    }

    /// Returns the names of the pods on the nodes for which `is_it` is true.
    pub(super) fn pods_where(&self, symbols: &Symbols, is_it: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let on = |pod: &CompactPod| pod.node.is_some_and(|node| is_it(symbols.string(node)));
        let pods = self.pods.iter().filter(|(_, entry)| on(&entry.pod));
        pods.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the pod `name` is on the node `node`.
    pub(super) fn is_on_node(&self, name: &str, node: &str, symbols: &Symbols) -> bool {
        let pod = self.pods.get(name).and_then(|entry| entry.pod.node);
        pod.is_some_and(|on| **symbols.string(on) == *node)
    }

    pub(super) fn is_alive(&self, pod: &str) -> bool {
        let entry = self.pods.get(pod);
        entry.is_some_and(|entry| !entry.pod.state.is_ending())
    }

    pub(super) fn contains_pod(&self, name: &str) -> bool {
        self.pods.contains_key(name)
    }

    /// Whether a registration publishes labels of nodes.
    pub(super) fn publishes_node_labels(&self) -> bool {
        self.with_node_labels > 0
    }

    /// Returns a mark for each registration and pod on the node `node` that publishes one of these labels of the node.
    pub(super) fn marks_of_labels(&self, node: &str, labels: &[Arc<str>], symbols: &Symbols) -> Vec<DirtyMark> {
        if labels.is_empty() || !self.publishes_node_labels() {
            return Vec::new();
        }
        let all = self.registrations.values();
        let publishing = all.filter(|selecting| selecting.registration.publishes(labels));
        let on_node = |selecting: &Selecting| {
            let pods = selecting.members.iter();
            let on = pods.filter(|pod| self.is_on_node(pod, node, symbols));
            on.map(|pod| selecting.touch(pod)).collect::<Vec<_>>()
        };
        publishing.flat_map(on_node).collect()
    }

    /// Returns the registrations that the facts of nodes decide about, or contribute to.
    pub(super) fn node_registrations(&self) -> impl Iterator<Item = &Registration> {
        let all = self.registrations.values().map(|selecting| &selecting.registration);
        all.filter(|registration| !registration.target.is_pods())
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

    pub(super) fn apply_registration(
        &mut self,
        registration: Registration,
        symbols: &mut Symbols,
        nodes: &Nodes,
    ) -> Vec<DirtyMark> {
        let name = registration.reference.name.clone();
        let former = self.take_registration(&name);
        let mut selecting = Selecting {
            registration,
            filed_under: None,
            members: BTreeSet::new(),
            behind: Behind::default(),
        };
        let mut before = BTreeSet::new();
        match former {
            Some(former) if former.registration == selecting.registration => {
                self.put_registration(name, former);
                return Vec::new();
            }
            Some(former) if former.has_same_pods(&selecting.registration) => {
                if let Some(changed) = former.changed_addresses(&selecting.registration) {
                    selecting = Selecting {
                        registration: selecting.registration,
                        ..former
                    };
                    let marks = changed.iter().map(|address| selecting.touch(address)).collect();
                    self.put_registration(name, selecting);
                    return marks;
                }
                // Of pods, there are neither more nor fewer.
                if !former.registration.target.is_pods() {
                    before = former.endpoints(nodes);
                }
                selecting = Selecting {
                    registration: selecting.registration,
                    ..former
                };
            }
            former => {
                if let Some(former) = former {
                    self.unfile(&name, former.filed_under, symbols);
                    before = former.endpoints(nodes);
                }
                selecting.filed_under = self.file(&name, &selecting.registration.selector, symbols);
                self.enlist(&mut selecting, symbols);
            }
        }
        let endpoints = selecting.endpoints(nodes);
        let lost = before.difference(&endpoints);
        let marks = endpoints
            .iter()
            .chain(lost)
            .map(|endpoint| selecting.touch(endpoint))
            .collect();
        self.put_registration(name, selecting);
        marks
    }

    pub(super) fn invalidate(&mut self, name: &str) {
        if let Some(selecting) = self.registrations.get_mut(name) {
            // No object has this generation, so that the next registration differs.
            selecting.registration.generation = i64::MIN;
        }
    }

    pub(super) fn delete_registration(&mut self, name: &str, symbols: &mut Symbols) {
        if let Some(old) = self.take_registration(name) {
            self.unfile(name, old.filed_under, symbols);
        }
    }

    fn put_registration(&mut self, name: Arc<str>, selecting: Selecting) {
        self.with_pods_behind += usize::from(!selecting.registration.target.is_pods());
        self.with_node_labels += usize::from(!selecting.registration.node_labels.is_empty());
        self.registrations.insert(name, selecting);
    }

    fn take_registration(&mut self, name: &str) -> Option<Selecting> {
        let taken = self.registrations.remove(name)?;
        self.with_pods_behind -= usize::from(!taken.registration.target.is_pods());
        self.with_node_labels -= usize::from(!taken.registration.node_labels.is_empty());
        Some(taken)
    }

    /// Finds the selected pods of a registration that has none yet.
    fn enlist(&self, selecting: &mut Selecting, symbols: &Symbols) {
        for (name, entry) in &self.pods {
            let pod = &entry.pod;
            // Most pods fail this cheap test. So one of many registrations costs little for pods that it does not
            // select.
            let candidate = selecting
                .filed_under
                .is_none_or(|pair| symbols.pairs(pod).contains(&pair));
            if !candidate || !selecting.selects(pod, symbols) {
                continue;
            }
            if selecting.registration.target.is_pods() {
                selecting.members.insert(name.clone());
            } else {
                selecting.replace_behind([None, Some(pod)], false, symbols);
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

    pub(super) fn view(&self, registration: &str, endpoint: &str, facts: Facts<'_>) -> PodView {
        let Some(selecting) = self.registrations.get(registration) else {
            return PodView::Gone;
        };
        let Selecting {
            registration, behind, ..
        } = selecting;
        match self.endpoint(selecting, endpoint, facts) {
            None => PodView::Gone,
            Some(Endpoint::Pod(name, pod)) => resolve(registration, name, pod, facts),
            Some(Endpoint::Node(name, target)) => resolve_node(registration, target, &name, behind, facts),
            Some(Endpoint::Address(address)) => resolve_address(registration, address, behind, facts),
        }
    }

    pub(super) fn view_if_ready(&self, registration: &str, endpoint: &str, facts: Facts<'_>) -> Option<ReadyPod> {
        let registration = &self.registrations.get(registration)?.registration;
        self.view_if_ready_as(registration, endpoint, facts)
    }

    pub(super) fn view_if_ready_as(
        &self,
        registration: &Registration,
        endpoint: &str,
        facts: Facts<'_>,
    ) -> Option<ReadyPod> {
        let selecting = self.registrations.get(&registration.reference.name)?;
        // What `registration` registers may not be what the known one does.
        let found = match (&registration.target, self.endpoint(selecting, endpoint, facts)?) {
            (Target::Pods | Target::HostPorts, found @ Endpoint::Pod(..)) => found,
            (Target::Nodes(target), Endpoint::Node(name, _)) => Endpoint::Node(name, target),
            (Target::Addresses(addresses), Endpoint::Address(_)) => {
                Endpoint::Address(find_address(addresses, endpoint)?)
            }
            _ => return None,
        };
        match found {
            Endpoint::Pod(name, pod) => resolve_if_ready(registration, name, pod, facts),
            Endpoint::Node(name, target) => node_if_ready(registration, target, &name, &selecting.behind, facts),
            Endpoint::Address(address) => Some(address_if_ready(registration, address, facts)),
        }
    }

    pub(super) fn contains_registration(&self, name: &str) -> bool {
        self.registrations.contains_key(name)
    }

    pub(super) fn registration(&self, name: &str) -> Option<&Registration> {
        self.registrations.get(name).map(|selecting| &selecting.registration)
    }

    /// Whether the registration registers the pod, node or address, ready or not.
    pub(super) fn registers(&self, registration: &str, endpoint: &str, facts: Facts<'_>) -> bool {
        let selecting = self.registrations.get(registration);
        selecting.is_some_and(|selecting| self.endpoint(selecting, endpoint, facts).is_some())
    }

    /// Returns the pod, node or address `name` if `selecting` registers it.
    fn endpoint<'a>(&'a self, selecting: &'a Selecting, name: &str, facts: Facts<'a>) -> Option<Endpoint<'a>> {
        match &selecting.registration.target {
            Target::Pods | Target::HostPorts => {
                let (name, entry) = self.pods.get_key_value(name)?;
                let selects = selecting.selects(&entry.pod, facts.symbols);
                selects.then_some(Endpoint::Pod(name, &entry.pod))
            }
            Target::Nodes(target) => {
                let node = facts.nodes.name_of(name)?;
                Some(Endpoint::Node(node.clone(), target))
            }
            Target::Addresses(addresses) => Some(Endpoint::Address(find_address(addresses, name)?)),
        }
    }

    /// Returns the number of pods, nodes or addresses that the registration registers, ready or not.
    pub(super) fn selected_count(&self, registration: &str, nodes: &Nodes) -> usize {
        let selecting = self.registrations.get(registration);
        selecting.map_or(0, |selecting| selecting.count(nodes))
    }

    pub(super) fn pod_count(&self) -> usize {
        self.pods.len()
    }
}

fn find_address<'a>(addresses: &'a [Address], name: &str) -> Option<&'a Address> {
    let place = addresses.binary_search_by(|address| (*address.name).cmp(name)).ok()?;
    addresses.get(place)
}

/// What a registration registers under one name.
enum Endpoint<'a> {
    Pod(&'a Arc<str>, &'a CompactPod),
    Node(Arc<str>, &'a NodeTarget),
    Address(&'a Address),
}

impl Selecting {
    fn selects(&self, pod: &CompactPod, symbols: &Symbols) -> bool {
        self.registration
            .selector
            .matches(|key| symbols.label(pod, key).map(|value| &**value))
    }

    /// Whether `registration` selects the same pods, and counts them in the same way.
    fn has_same_pods(&self, registration: &Registration) -> bool {
        let what = |of: &Registration| (of.publish_not_ready, of.target.is_pods());
        self.registration.selector == registration.selector && what(&self.registration) == what(registration)
    }

    /// Returns the names of the addresses that differ in `registration`, those that it no longer has last; none if more
    /// differs.
    fn changed_addresses(&self, registration: &Registration) -> Option<Vec<Arc<str>>> {
        let (Target::Addresses(before), Target::Addresses(after)) = (&self.registration.target, &registration.target)
        else {
            return None;
        };
        let with_former = Registration {
            target: self.registration.target.clone(),
            ..registration.clone()
        };
        if with_former != self.registration {
            return None;
        }
        let changed = after
            .iter()
            .filter(|address| find_address(before, &address.name) != Some(address));
        let lost = before
            .iter()
            .filter(|address| find_address(after, &address.name).is_none());
        Some(changed.chain(lost).map(|address| address.name.clone()).collect())
    }

    /// Returns the names of what may be registered.
    fn endpoints(&self, nodes: &Nodes) -> BTreeSet<Arc<str>> {
        match &self.registration.target {
            Target::Pods | Target::HostPorts => self.members.clone(),
            Target::Nodes(_) => nodes.names().cloned().collect(),
            Target::Addresses(addresses) => addresses.iter().map(|address| address.name.clone()).collect(),
        }
    }

    fn count(&self, nodes: &Nodes) -> usize {
        let is_any = |known: Option<bool>| known.is_some() || !self.behind.all().is_empty();
        match &self.registration.target {
            Target::Pods | Target::HostPorts => self.members.len(),
            Target::Nodes(target) if target.local && target.ready.is_none() => self.behind.node_count(),
            Target::Nodes(target) if is_any(target.ready) => nodes.eligible(),
            Target::Addresses(addresses) => addresses.iter().filter(|address| is_any(address.ready)).count(),
            Target::Nodes(_) => 0,
        }
    }

    /// Replaces a pod behind the nodes or addresses, as [`Behind::replace`] does.
    fn replace_behind(&mut self, versions: [Option<&CompactPod>; 2], is_lost: bool, symbols: &Symbols) -> BehindChange {
        let publish_not_ready = self.registration.publish_not_ready;
        let behind = |pod: &CompactPod| {
            (!pod.state.is_ending()).then(|| PodBehind {
                node: pod.node.map(|node| symbols.string(node).clone()),
                is_ready: pod.state == State::Ready || publish_not_ready,
            })
        };
        let [old, new] = versions.map(|pod| pod.and_then(behind));
        self.behind.replace(old.as_ref(), new.as_ref(), is_lost)
    }

    fn touch(&self, pod: &Arc<str>) -> DirtyMark {
        DirtyMark {
            registration: self.registration.reference.clone(),
            pod: pod.clone(),
        }
    }
}
