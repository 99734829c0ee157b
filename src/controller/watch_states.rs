//! The state of each watch: whether its first list is complete, how fresh its cache is, and since when it has reported
//! nothing.
//!
//! A configured namespace need not exist. If the operator has no permission to list its objects, its watches report
//! nothing. While the namespace is known not to exist, a watch that was lost is no problem: there are no objects.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;

use crate::controller::worker::Outdated;
use crate::index::NamespaceCache;
use crate::kube::{NAMESPACES, NODES, ObjectEvent, WatchScope};
use crate::model::{Freshness, NamespaceScope, WatchTarget};

/// The state of one watch.
#[derive(Clone, Copy, Debug, Default)]
struct TargetState {
    /// Whether a list of it was complete once.
    listed: bool,
    /// Since when its cache is stale, because the watch has been broken for long.
    lost: Option<Timestamp>,
    /// Whether the watch is lost, and its namespace does not exist or it watches nodes and has never listed any.
    void: bool,
}

/// The states of all watches.
#[derive(Debug)]
pub struct WatchStates {
    states: BTreeMap<WatchTarget, TargetState>,
    /// How fresh the cache of each watch is.
    progress: Freshness,
    /// Whether `progress` has changed since it was last taken.
    progressed: bool,
}

impl WatchStates {
    /// Returns the watches of this scope. None of them is complete yet.
    pub fn new(watch_scope: &WatchScope) -> Self {
        let state = |target| (target, TargetState::default());
        Self {
            states: watch_scope.targets().map(state).collect(),
            progress: Freshness::new(watch_scope.targets()),
            progressed: false,
        }
    }

    /// Records whether the event `seen` starts or ends the time in which the cache is stale.
    pub fn note<T>(&mut self, kind: &'static str, namespaces: &NamespaceScope, seen: &ObjectEvent<T>) {
        let lost = match seen {
            ObjectEvent::Lost(since) => Some(*since),
            ObjectEvent::ListComplete => None,
            ObjectEvent::ListBegins
            | ObjectEvent::Applied(_)
            | ObjectEvent::Deleted { .. }
            | ObjectEvent::Unreadable { .. } => return,
        };
        if let Some(state) = self.states.get_mut(&WatchTarget::new(kind, namespaces.clone())) {
            state.lost = lost;
        }
    }

    /// Records that a complete list has been processed. Returns whether it was the first list of the watch.
    pub fn listed(&mut self, kind: &'static str, namespaces: &NamespaceScope) -> bool {
        let state = self.states.get_mut(&WatchTarget::new(kind, namespaces.clone()));
        state.is_some_and(|state| !std::mem::replace(&mut state.listed, true))
    }

    pub fn is_listed(&self, kind: &'static str, namespaces: &NamespaceScope) -> bool {
        let state = self.states.get(&WatchTarget::new(kind, namespaces.clone()));
        state.is_some_and(|state| state.listed)
    }

    /// Whether the watch of this kind that covers `namespace` has completed a list.
    pub fn is_listed_in(&self, kind: &str, namespace: &str) -> bool {
        let mut states = self.states.iter();
        states.any(|(target, state)| target.kind == kind && state.listed && target.namespaces.contains(namespace))
    }

    /// Whether the nodes cannot be listed, for example because the operator has no permission.
    pub fn are_nodes_unknown(&self) -> bool {
        let nodes = self.states.get(&WatchTarget::of_cluster(NODES));
        nodes.is_some_and(|state| state.void)
    }

    /// Whether each watch has completed a list, or has nothing to report.
    pub fn are_complete(&self) -> bool {
        self.states.values().all(|state| state.listed || state.void)
    }

    /// Returns which caches are stale and since when; none if all are fresh.
    pub fn outdated(&self) -> Option<Outdated> {
        let lost = self.states.iter().filter(|(_, state)| !state.void);
        let lost: Vec<_> = lost.filter_map(|(target, state)| Some((state.lost?, target))).collect();
        let since = lost.iter().map(|(since, _)| *since).min()?;
        let targets = lost.into_iter().map(|(_, target)| target.clone()).collect();
        Some(Outdated { since, targets })
    }

    /// Records that everything up to `version` has been processed. `present`: the apiserver's own version, and when the
    /// apiserver was asked for it.
    pub fn reach(&mut self, target: &WatchTarget, version: u64, present: Option<(u64, Instant)>) {
        self.progress.reach(target, version);
        if let Some((present, asked)) = present {
            self.progress.compare(target, present, asked);
        }
        self.progressed = true;
    }

    /// Returns the freshness of all caches, except for watches that have nothing to report.
    pub fn progress(&self) -> Freshness {
        let is_void = |target: &WatchTarget| self.states.get(target).is_some_and(|state| state.void);
        self.progress.without(is_void)
    }

    /// Returns the same if it has changed since the last call.
    pub fn take_progress(&mut self) -> Option<Freshness> {
        std::mem::take(&mut self.progressed).then(|| self.progress())
    }

    /// Finds the lost watches of namespaces that are known not to exist, and that of the nodes if it has never completed
    /// a list: few registrations need nodes, and the others do not wait for them. Returns those that the last call did
    /// not find.
    pub fn find_void(&mut self, known: &NamespaceCache) -> Vec<WatchTarget> {
        let is_absent = |namespaces: &NamespaceScope| {
            let Some(name) = namespaces.name() else { return false };
            let state = self.states.get(&WatchTarget::new(NAMESPACES, namespaces.clone()));
            let is_known = state.is_some_and(|state| state.listed && state.lost.is_none());
            is_known && !known.is_there(name)
        };
        let lost = self.states.iter().filter(|(target, _)| target.kind != NAMESPACES);
        let lost = lost.filter(|(_, state)| state.lost.is_some());
        let is_void = |target: &WatchTarget, state: &TargetState| match &*target.kind {
            NODES => !state.listed,
            _ => is_absent(&target.namespaces),
        };
        let void: Vec<WatchTarget> = lost
            .filter(|(target, state)| is_void(target, state))
            .map(|(target, _)| target.clone())
            .collect();
        let mut found = Vec::new();
        for (target, state) in &mut self.states {
            let is_void = void.contains(target);
            if std::mem::replace(&mut state.void, is_void) != is_void {
                self.progressed = true;
                if is_void {
                    found.push(target.clone());
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::index::NamespaceLabels;
    use crate::kube::{ENDPOINT_SLICES, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, SERVICES};
    use crate::model::Checkpoint;

    const COMPLETE: ObjectEvent<()> = ObjectEvent::ListComplete;

    fn shop() -> NamespaceScope {
        NamespaceScope::namespace("shop")
    }

    fn bank() -> NamespaceScope {
        NamespaceScope::namespace("bank")
    }

    fn states() -> WatchStates {
        WatchStates::new(&WatchScope::of(&["shop".to_owned(), "bank".to_owned()]))
    }

    fn complete(states: &mut WatchStates, kind: &'static str, namespaces: &NamespaceScope) {
        states.note(kind, namespaces, &COMPLETE);
        states.listed(kind, namespaces);
    }

    fn lose(states: &mut WatchStates, kind: &'static str, namespaces: &NamespaceScope, second: i64) {
        let since = Timestamp::from_second(second).expect("a time");
        states.note::<()>(kind, namespaces, &ObjectEvent::Lost(since));
    }

    /// All lists are complete, except those of pods and registrations in the namespace `bank`.
    fn all_but_the_bank() -> WatchStates {
        let mut states = states();
        complete(&mut states, REGISTRIES, &NamespaceScope::Cluster);
        complete(&mut states, RECORD_FORMATS, &NamespaceScope::Cluster);
        for namespaces in [shop(), bank()] {
            for kind in [NAMESPACES, SERVICES, ENDPOINT_SLICES] {
                complete(&mut states, kind, &namespaces);
            }
        }
        complete(&mut states, NODES, &NamespaceScope::Cluster);
        complete(&mut states, PODS, &shop());
        complete(&mut states, REGISTRATIONS, &shop());
        states
    }

    fn namespaces(names: &[&str]) -> NamespaceCache {
        let mut namespaces = NamespaceCache::default();
        for name in names {
            namespaces.apply(NamespaceLabels {
                name: (*name).to_owned(),
                labels: BTreeMap::new(),
            });
        }
        namespaces
    }

    #[test]
    fn streams_are_complete_after_every_list_is_processed() {
        let mut states = all_but_the_bank();
        complete(&mut states, PODS, &bank());
        assert!(!states.are_complete());
        states.note(REGISTRATIONS, &bank(), &COMPLETE);
        assert!(!states.are_complete(), "the list is not processed yet");
        assert!(states.listed(REGISTRATIONS, &bank()));
        assert!(states.are_complete());
        assert!(!states.listed(REGISTRATIONS, &bank()), "only the first list counts");
    }

    #[test]
    fn what_is_outdated_is_so_since_the_oldest_of_its_streams_was_lost() {
        let mut states = all_but_the_bank();
        assert_eq!(states.outdated(), None);
        lose(&mut states, PODS, &shop(), 8);
        lose(&mut states, PODS, &bank(), 7);
        let outdated = states.outdated().expect("stale watches");
        assert_eq!(outdated.since, Timestamp::from_second(7).expect("a time"));
        let state: Vec<String> = outdated.targets.iter().map(ToString::to_string).collect();
        assert_eq!(state, ["pods in bank", "pods in shop"]);
        complete(&mut states, PODS, &bank());
        let outdated = states.outdated().expect("one stale watch");
        assert_eq!(outdated.targets, [WatchTarget::new(PODS, shop())]);
    }

    #[test]
    fn missing_namespace_without_watch_access_is_not_awaited() {
        let mut states = all_but_the_bank();
        let there = namespaces(&["shop"]);
        assert_eq!(states.find_void(&there), [], "the watch is not lost yet");
        lose(&mut states, PODS, &bank(), 7);
        assert_eq!(states.find_void(&there), [WatchTarget::new(PODS, bank())]);
        assert!(!states.are_complete());
        lose(&mut states, REGISTRATIONS, &bank(), 8);
        assert_eq!(states.find_void(&there), [WatchTarget::new(REGISTRATIONS, bank())]);
        assert!(states.are_complete());
        assert_eq!(states.outdated(), None);
        let mut needed = Checkpoint::default();
        needed.add(&WatchTarget::new(PODS, bank()), 7);
        assert_eq!(states.progress().lacks(&needed, Instant::now()), []);

        let created = namespaces(&["shop", "bank"]);
        assert_eq!(states.find_void(&created), []);
        assert!(states.outdated().is_some(), "the namespace exists now");
        assert_eq!(
            states.progress().lacks(&needed, Instant::now()),
            [WatchTarget::new(PODS, bank())]
        );
    }

    #[test]
    fn existing_or_unknown_namespace_is_awaited() {
        let mut states = all_but_the_bank();
        lose(&mut states, PODS, &bank(), 7);
        assert_eq!(states.find_void(&namespaces(&["shop", "bank"])), []);
        lose(&mut states, NAMESPACES, &bank(), 7);
        assert_eq!(
            states.find_void(&namespaces(&["shop"])),
            [],
            "the list of namespaces is stale"
        );
    }

    #[test]
    fn nodes_never_listed_are_not_awaited_and_listed_nodes_are() {
        let nodes = || WatchTarget::of_cluster(NODES);
        let mut states = WatchStates::new(&WatchScope::default());
        lose(&mut states, NODES, &NamespaceScope::Cluster, 7);
        assert_eq!(states.find_void(&NamespaceCache::default()), [nodes()]);
        assert!(states.are_nodes_unknown() && states.outdated().is_none());
        complete(&mut states, NODES, &NamespaceScope::Cluster);
        lose(&mut states, NODES, &NamespaceScope::Cluster, 8);
        assert_eq!(states.find_void(&NamespaceCache::default()), []);
        assert!(!states.are_nodes_unknown());
        assert_eq!(states.outdated().expect("a stale watch").targets, [nodes()]);
    }

    #[test]
    fn nothing_is_ever_void_when_the_cluster_is_watched() {
        let mut states = WatchStates::new(&WatchScope::default());
        complete(&mut states, NAMESPACES, &NamespaceScope::Cluster);
        lose(&mut states, PODS, &NamespaceScope::Cluster, 7);
        assert_eq!(states.find_void(&NamespaceCache::default()), []);
    }
}
