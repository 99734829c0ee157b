//! What a key could hold by one who saw the objects of a time in another order than they were seen here: a watch of one kind
//! knows nothing of those of other kinds.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::{
    desired::{Desired, State, alive, named},
    record::{Moment, Node, Pod, Span},
    wanted::Registration,
};

/// Whether a value is right in another order of what was seen.
#[derive(Debug, Default)]
pub struct Otherwise {
    /// Whether it is.
    pub is_right: bool,
    /// Since when the pod has been as it must be for that, if what came after that may yet be followed.
    pub since: Option<Moment>,
}

impl Desired {
    /// Whether a key could have this value by one who saw pods, registrations and nodes of this time, but not in the order in
    /// which they were seen here; and who knew what the pod was at `known`. Only a registration that changed or lets pods wait
    /// leaves that open, or a pod and its node that both changed.
    pub fn could_be(&self, key: &str, value: &str, within: Span, known: Moment, well: bool) -> Otherwise {
        let mut otherwise = Otherwise::default();
        let name = named(key);
        let Some(pods) = self.pods.get(name).map(|states| alive(states, within)) else {
            return otherwise;
        };
        for states in self.registrations.values().map(|states| alive(states, within)) {
            let specs = states.iter().filter_map(|state| state.value);
            let specs = specs.filter(|one| one.prefixes().any(|prefix| key.starts_with(prefix)));
            for registration in specs.flat_map(|one| self.by_registry(one, within)) {
                let registration = registration.as_ref();
                for state in pods.iter().filter(|state| state.to > known) {
                    let Some(pod) = state.value else { continue };
                    let keys = self.keys_on_nodes(registration, name, pod, within);
                    if !keys.iter().any(|keys| keys.get(key).is_some_and(|one| one == value)) {
                        continue;
                    }
                    let depends_on_node = keys.windows(2).any(|pair| pair[0] != pair[1]);
                    // When the time of a pod is over depends on which came first, the pod or an edit.
                    let waits = !registration.min_ready().is_zero();
                    otherwise.is_right |= waits;
                    // While not all was well, an earlier state of the pod may be followed after its end.
                    if waits && !well || states.len() > 1 || depends_on_node && pods.len() > 1 {
                        let since = otherwise.since.map_or(state.from, |since| since.min(state.from));
                        otherwise.since = Some(since);
                        otherwise.is_right = true;
                    }
                }
            }
        }
        otherwise
    }

    /// Whether a key could be gone by one who saw pods and nodes of this time in another order: its pod waited for its gate,
    /// and its node was not ready, though not at the same time.
    pub fn could_be_gone(&self, key: &str, within: Span) -> bool {
        let pods = self.pods.get(named(key)).into_iter();
        let pods = pods.flat_map(|states| alive(states, within));
        let mut waiting = pods.filter_map(|state| state.value).filter(|pod| pod.waits);
        waiting.any(|pod| {
            let nodes = self.node_states(pod, within);
            nodes.iter().any(|node| node.value.is_some_and(|node| !node.ready))
        })
    }

    /// The keys of a pod by each state of its node in a span.
    pub fn keys_on_nodes(
        &self,
        registration: &Registration,
        name: &str,
        pod: &Pod,
        within: Span,
    ) -> Vec<BTreeMap<String, String>> {
        let nodes = self.node_states(pod, within).into_iter();
        nodes.map(|node| registration.keys(name, pod, node.value)).collect()
    }

    /// Whether a key of a node or of an address of a Service could have this value, or be gone, by one who saw the objects of
    /// this time in another order. That is open when two of these have changed: the registration, its Registry, its Service,
    /// the node, and the pods that serve. While not all was well it is enough that several pods did, because a list has no
    /// order.
    pub fn service_could_be(&self, key: &str, value: Option<&str>, within: Span, well: bool) -> bool {
        self.registrations
            .values()
            .any(|states| self.could_be_by(&alive(states, within), key, value, within, well))
    }

    /// The same by one registration, which had these states in that time.
    fn could_be_by(
        &self,
        specs: &[State<'_, Registration>],
        key: &str,
        value: Option<&str>,
        within: Span,
        well: bool,
    ) -> bool {
        let known: Vec<&Registration> = specs.iter().filter_map(|state| state.value).collect();
        let is_near = |one: &&&Registration| one.prefixes().any(|prefix| key.starts_with(prefix));
        let of_services = || known.iter().filter(|one| !one.registers().are_pods());
        let Some(near) = of_services().find(is_near) else {
            return false;
        };
        // One for an address, which is on no node.
        let name = Some(named(key)).filter(|name| self.nodes.contains_key(*name));
        let nodes = name.map(|name| self.nodes.get(name).map(|states| alive(states, within)));
        let nodes = nodes.map(Option::unwrap_or_default);
        let services = near.service().and_then(|service| self.services.get(service));
        let services = services.map(|states| alive(states, within)).unwrap_or_default();
        let varies = |range: RangeInclusive<usize>| range.start() != range.end();
        let pods_changed = of_services().any(|one| {
            varies(self.serving(one, None, within)) || name.is_some() && varies(self.serving(one, name, within))
        });
        let node_changed = nodes.as_ref().is_some_and(|nodes| nodes.len() > 1);
        let registry = self.registries.get(near.registry());
        let registry_changed = registry.is_some_and(|states| alive(states, within).len() > 1);
        let none = BTreeSet::new();
        let own: Vec<Option<Registration>> = specs
            .iter()
            .map(|state| state.value.map(|one| one.with_allowed(&none)))
            .collect();
        let edited = own.windows(2).any(|pair| pair[0] != pair[1]);
        let changed = [edited, registry_changed, services.len() > 1, node_changed, pods_changed];
        if changed.iter().filter(|changed| **changed).count() < 2 && (well || !pods_changed) {
            return false;
        }
        if value.is_none() && (known.len() < specs.len() || services.iter().any(|state| state.value.is_none())) {
            return true;
        }
        let nodes: Vec<Option<&Node>> = match &nodes {
            Some(nodes) => nodes.iter().map(|state| state.value).collect(),
            None => vec![None],
        };
        known.iter().flat_map(|one| self.by_registry(one, within)).any(|one| {
            let services = services.iter().filter_map(|state| state.value);
            let mut both = services.flat_map(|service| nodes.iter().map(move |node| (service, *node)));
            both.any(|(service, node)| {
                let mut counts = self.serving(&one, name.filter(|_| service.local), within);
                counts.any(|count| {
                    let keys = match name {
                        Some(name) => node.map(|node| one.node_keys(name, node, service, count)),
                        None => Some(one.address_keys(service, count)),
                    };
                    keys.unwrap_or_default().get(key).map(String::as_str) == value
                })
            })
        })
    }

    /// The least and the greatest number of pods that can have served a registration, of those on a node or of all.
    fn serving(&self, registration: &Registration, node: Option<&str>, within: Span) -> RangeInclusive<usize> {
        let (mut least, mut most) = (0, 0);
        for states in self.pods.values() {
            let states = alive(states, within);
            let serves = |pod: &&Pod| {
                let is_here = node.is_none() || pod.node.as_deref() == node;
                is_here && registration.selects(pod) && pod.serves()
            };
            let was_there = states.first().is_some_and(|first| first.from <= within.from);
            let ever = states.iter().any(|state| state.value.is_some_and(|pod| serves(&pod)));
            let always = was_there && states.iter().all(|state| state.value.is_some_and(|pod| serves(&pod)));
            least += usize::from(always);
            most += usize::from(ever);
        }
        least..=most
    }
}
