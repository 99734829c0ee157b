//! What each key should have held at each time, by what was seen in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cluster::{Cluster, Subject},
    record::{Moment, Node, Pod, Sight, Sighting, Span},
    wanted::Registration,
};

/// The value that a key should have from a moment on; none when it should not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Since when.
    pub from: Moment,
    /// The value.
    pub value: Option<String>,
}

/// All wishes.
#[derive(Debug, Default)]
pub struct Wishes {
    keys: BTreeMap<String, Vec<Wish>>,
    pods: BTreeMap<String, Vec<(Moment, Option<Pod>)>>,
    registrations: BTreeMap<String, Vec<(Moment, Option<Registration>)>>,
    nodes: BTreeMap<String, Vec<(Moment, Option<Node>)>>,
}

/// Before anything was seen nothing should be there.
static NOTHING: [Wish; 1] = [Wish {
    from: Moment::ZERO,
    value: None,
}];

impl Wishes {
    /// From the sightings, in their order.
    pub fn of(sightings: &[Sighting]) -> Self {
        let (mut wishes, mut cluster) = (Self::default(), Cluster::default());
        let mut pairs: BTreeMap<(String, Subject), BTreeMap<String, String>> = BTreeMap::new();
        for Sighting { at, sight } in sightings {
            if !cluster.take(sight) {
                continue;
            }
            wishes.remember(*at, sight);
            let mut touched = cluster.touched(sight);
            if let Sight::Registration(name, _) = sight {
                touched.extend(pairs.keys().filter(|(one, _)| one == name).cloned());
            }
            for pair in touched {
                let now = cluster.keys(&pair.0, &pair.1);
                let before = pairs.remove(&pair).unwrap_or_default();
                wishes.change(*at, &before, &now);
                if !now.is_empty() {
                    pairs.insert(pair, now);
                }
            }
        }
        wishes
    }

    fn remember(&mut self, at: Moment, sight: &Sight) {
        match sight {
            Sight::Pod(name, pod) => add(&mut self.pods, name, at, pod.as_ref()),
            Sight::Registration(name, registration) => add(&mut self.registrations, name, at, registration.as_ref()),
            Sight::Node(name, node) => add(&mut self.nodes, name, at, node.as_ref()),
        }
    }

    fn change(&mut self, at: Moment, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
        for key in before.keys().chain(now.keys()) {
            let value = now.get(key);
            let wishes = self.keys.entry(key.clone()).or_insert_with(|| NOTHING.to_vec());
            if wishes.last().is_none_or(|last| last.value.as_ref() != value) {
                wishes.push(Wish {
                    from: at,
                    value: value.cloned(),
                });
            }
        }
    }

    /// All keys that were ever wanted.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.keys.keys()
    }

    /// A key's wishes, each good until the next; the first is from the beginning.
    pub fn of_key(&self, key: &str) -> &[Wish] {
        self.keys.get(key).map_or(&NOTHING, Vec::as_slice)
    }

    /// The wish at the end.
    pub fn last(&self, key: &str) -> Option<&str> {
        self.of_key(key).last()?.value.as_deref()
    }

    /// Since when its pod has been as it must be for a key to have this value by one who saw pods, registrations and nodes of
    /// this time, but not in the order in which they were seen here; and who knew what the pod was at `known`. Only a
    /// registration that changed leaves that open, or a pod and its node that both did.
    pub fn could_be(&self, key: &str, value: &str, within: Span, known: Moment) -> Option<Moment> {
        let pods = self.pods.iter().filter(|(name, _)| key.contains(name.as_str()));
        let pods: Vec<_> = pods.map(|(name, states)| (name, alive(states, within))).collect();
        let registrations = self.registrations.values().map(|states| alive(states, within));
        let mut since: Option<Moment> = None;
        for states in registrations {
            let specs = states.iter().filter_map(|state| state.value);
            for registration in specs.filter(|one| one.prefixes().any(|prefix| key.starts_with(prefix))) {
                for (name, pods) in &pods {
                    for state in pods.iter().filter(|state| state.to > known) {
                        let Some(pod) = state.value else { continue };
                        let keys = self.keys_on_nodes(registration, name, pod, within);
                        let depends_on_node = keys.windows(2).any(|pair| pair[0] != pair[1]);
                        let is_open = states.len() > 1 || depends_on_node && pods.len() > 1;
                        if is_open && keys.iter().any(|keys| keys.get(key).is_some_and(|one| one == value)) {
                            since = Some(since.map_or(state.from, |since| since.min(state.from)));
                        }
                    }
                }
            }
        }
        since
    }

    /// Whether a key could be gone by one who saw pods and nodes of this time in another order: its pod waited for its gate,
    /// and its node was not ready, though not at the same time.
    pub fn could_be_gone(&self, key: &str, within: Span) -> bool {
        let pods = self.pods.iter().filter(|(name, _)| key.contains(name.as_str()));
        let pods = pods.flat_map(|(_, states)| alive(states, within));
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

    /// What the node of a pod was at some time of a span; unknown all the time if it was never seen.
    pub fn node_states(&self, pod: &Pod, within: Span) -> Vec<State<'_, Node>> {
        let states = pod.node.as_ref().and_then(|node| self.nodes.get(node));
        let known = states.map(|states| alive(states, within)).unwrap_or_default();
        if known.is_empty() {
            return vec![State {
                from: Moment::ZERO,
                to: Moment::MAX,
                value: None,
            }];
        }
        known
    }

    /// What each registration was, one state after the other.
    pub fn registration_states(&self) -> impl Iterator<Item = Vec<State<'_, Registration>>> {
        let ever = Span {
            from: Moment::ZERO,
            to: Moment::MAX,
        };
        self.registrations.values().map(move |states| alive(states, ever))
    }

    /// What each pod was at some time of a span.
    pub fn pod_states(&self, within: Span) -> impl Iterator<Item = (&str, State<'_, Pod>)> {
        self.pods.iter().flat_map(move |(name, states)| {
            let states = alive(states, within);
            states.into_iter().map(move |state| (name.as_str(), state))
        })
    }

    /// The pod that a key is about, if there was one: the longest name in its last segment.
    pub fn pod_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let names: BTreeSet<&str> = self.pods.keys().map(String::as_str).collect();
        let last = key.rsplit('/').next()?;
        let name = last.split(':').next()?;
        names.contains(name).then_some(name)
    }
}

fn add<T: Clone>(all: &mut BTreeMap<String, Vec<(Moment, Option<T>)>>, name: &str, at: Moment, value: Option<&T>) {
    all.entry(name.to_owned()).or_default().push((at, value.cloned()));
}

/// What an object was for a while; none while it was not there.
pub struct State<'a, T> {
    from: Moment,
    to: Moment,
    /// What it was.
    pub value: Option<&'a T>,
}

impl<T> State<'_, T> {
    /// From when until when.
    pub fn span(&self) -> Span {
        let (from, to) = (self.from, self.to);
        Span { from, to }
    }
}

/// The states that were true at some time of a span.
fn alive<T>(states: &[(Moment, Option<T>)], within: Span) -> Vec<State<'_, T>> {
    let ends = states.iter().skip(1).map(|(from, _)| *from).chain([Moment::MAX]);
    let all = states.iter().zip(ends).map(|((from, value), to)| State {
        from: *from,
        to,
        value: value.as_ref(),
    });
    all.filter(|state| state.from <= within.to && state.to >= within.from)
        .collect()
}
