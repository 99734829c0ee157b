//! What each key should have held at each time, by what was seen in Kubernetes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    cluster::{Cluster, Subject},
    record::{Moment, Node, Pod, Registry, Service, Sight, Sighting, Span},
    wanted::{Registration, SECOND},
};

/// The value that a key should have from a moment on; none when it should not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredValue {
    /// Since when.
    pub from: Moment,
    /// The value.
    pub value: Option<String>,
}

/// The desired values of all keys.
#[derive(Debug, Default)]
pub struct Desired {
    keys: BTreeMap<String, Vec<DesiredValue>>,
    pub(super) pods: Timelines<Pod>,
    pub(super) registrations: Timelines<Registration>,
    pub(super) nodes: Timelines<Node>,
    pub(super) services: Timelines<Service>,
    pub(super) registries: Timelines<Registry>,
}

/// What objects were, by their names, each state with its begin.
type Timelines<T> = BTreeMap<String, Vec<(Moment, Option<T>)>>;

/// Before anything was seen nothing should be there.
static NOTHING: [DesiredValue; 1] = [DesiredValue {
    from: Moment::ZERO,
    value: None,
}];

/// The desired values in the making.
#[derive(Default)]
struct Derivation {
    desired: Desired,
    cluster: Cluster,
    /// What is wanted for now.
    pairs: BTreeMap<Pair, DesiredKeys>,
    /// When pods will have been ready for long enough.
    due: BTreeSet<(Moment, Pair)>,
}

/// A registration and what it has keys for.
type Pair = (String, Subject);

#[derive(Default)]
struct DesiredKeys {
    keys: BTreeMap<String, String>,
    /// Since when the pod was ready when it was registered.
    since: Option<Moment>,
}

impl Derivation {
    fn see(&mut self, at: Moment, sight: &Sight) {
        self.pass(at);
        if !self.cluster.take(sight) {
            return;
        }
        self.desired.remember(at, sight, &self.cluster);
        let mut touched = self.cluster.touched(sight);
        if let Sight::Registration(name, _) = sight {
            touched.extend(self.pairs.keys().filter(|(one, _)| one == name).cloned());
        }
        for pair in touched {
            self.derive(at, pair);
        }
    }

    /// Lets time pass.
    fn pass(&mut self, until: Moment) {
        while self.due.first().is_some_and(|(at, _)| *at <= until) {
            let (at, pair) = self.due.pop_first().expect("there is one");
            self.derive(at, pair);
        }
    }

    fn derive(&mut self, at: Moment, pair: Pair) {
        let DesiredKeys { keys: before, since } = self.pairs.remove(&pair).unwrap_or_default();
        let now = self.cluster.keys(&pair.0, &pair.1);
        let ready = self.cluster.ready_since(&pair.1);
        let min_ready = self.cluster.min_ready(&pair.0);
        let is_same = !before.is_empty() && since == ready;
        if !now.is_empty() && !is_same && !min_ready.is_zero() {
            // The pod was not ready in between, even if the recorder has not seen that.
            self.desired.change(at, &before, &BTreeMap::new());
            let available = ready.unwrap_or_default() + min_ready;
            if available > at {
                self.due.insert((available, pair));
                return;
            }
        }
        self.desired.change(at, &before, &now);
        if !now.is_empty() {
            let wanted = DesiredKeys {
                keys: now,
                since: ready,
            };
            self.pairs.insert(pair, wanted);
        }
    }
}

impl Desired {
    /// From the sightings, in their order.
    pub fn of(sightings: &[Sighting]) -> Self {
        let mut derivation = Derivation::default();
        for Sighting { at, sight } in sightings {
            derivation.see(*at, sight);
        }
        derivation.pass(Moment::MAX);
        derivation.desired
    }

    fn remember(&mut self, at: Moment, sight: &Sight, cluster: &Cluster) {
        match sight {
            Sight::Pod(name, pod) => add(&mut self.pods, name, at, pod.as_ref()),
            Sight::Registration(name, _) => {
                add(&mut self.registrations, name, at, cluster.registrations.get(name));
            }
            Sight::Node(name, node) => add(&mut self.nodes, name, at, node.as_ref()),
            Sight::Service(name, service) => add(&mut self.services, name, at, service.as_ref()),
            Sight::Registry(name, registry) => {
                add(&mut self.registries, name, at, registry.as_ref());
                // Each of its registrations may be another one by that.
                for (one, registration) in &cluster.registrations {
                    let last = self.registrations.get(one).and_then(|states| states.last());
                    if last.is_none_or(|(_, last)| last.as_ref() != Some(registration)) {
                        add(&mut self.registrations, one, at, Some(registration));
                    }
                }
            }
        }
    }

    fn change(&mut self, at: Moment, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
        for key in before.keys().chain(now.keys()) {
            let value = now.get(key);
            let desired = self.keys.entry(key.clone()).or_insert_with(|| NOTHING.to_vec());
            if desired.last().is_none_or(|last| last.value.as_ref() != value) {
                desired.push(DesiredValue {
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

    /// A key's desired values, each good until the next; the first is from the beginning.
    pub fn of_key(&self, key: &str) -> &[DesiredValue] {
        self.keys.get(key).map_or(&NOTHING, Vec::as_slice)
    }

    /// The desired values of a key, each with the span in which it was desired. The last one is desired until `end`.
    pub fn spans(&self, key: &str, end: Moment) -> impl Iterator<Item = (&DesiredValue, Span)> {
        let values = self.of_key(key);
        let ends = values.iter().skip(1).map(|next| next.from).chain([end]);
        let spans = values.iter().zip(ends);
        spans.map(|(value, to)| (value, Span { from: value.from, to }))
    }

    /// The desired value at the end.
    pub fn last(&self, key: &str) -> Option<&str> {
        self.of_key(key).last()?.value.as_deref()
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

    /// A registration by each list of labels of nodes that its Registry allowed at some time of a span.
    pub fn by_registry<'a>(&self, registration: &'a Registration, within: Span) -> Vec<Cow<'a, Registration>> {
        let states = self.registries.get(registration.registry()).into_iter();
        let states = states.flat_map(|states| alive(states, within));
        let lists = states
            .filter_map(|state| state.value)
            .map(|registry| &registry.node_labels);
        let others = lists.filter(|list| *list != registration.allowed());
        let others = others.map(|list| Cow::Owned(registration.with_allowed(list)));
        [Cow::Borrowed(registration)].into_iter().chain(others).collect()
    }

    /// How many keys each namespace may have in a Registry.
    pub fn quota(&self, registry: &str) -> Option<usize> {
        let states = self.registries.get(registry)?;
        let mut states = states.iter().rev().filter_map(|(_, registry)| registry.as_ref());
        states.next()?.keys_per_namespace
    }

    /// The Registry and the namespace of each prefix that a registration ever had.
    pub fn owners_of_prefixes(&self) -> BTreeMap<&str, (&str, &str)> {
        let states = self.registrations.values().flatten();
        let registrations = states.filter_map(|(_, registration)| registration.as_ref());
        registrations
            .flat_map(|one| {
                one.prefixes()
                    .map(move |prefix| (prefix, (one.registry(), one.namespace())))
            })
            .collect()
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

    /// The pod or the node that a key is about, if it was seen.
    pub fn subject_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let name = named(key);
        (self.pods.contains_key(name) || self.nodes.contains_key(name)).then_some(name)
    }
}

/// The name of the pod, node or address in a key.
pub fn named(key: &str) -> &str {
    let last = key.rsplit('/').next().unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    name.strip_suffix(SECOND).unwrap_or(name)
}

fn add<T: Clone>(all: &mut Timelines<T>, name: &str, at: Moment, value: Option<&T>) {
    all.entry(name.to_owned()).or_default().push((at, value.cloned()));
}

/// What an object was for a while; none while it was not there.
pub struct State<'a, T> {
    /// Since when.
    pub from: Moment,
    /// Until when.
    pub to: Moment,
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
pub fn alive<T>(states: &[(Moment, Option<T>)], within: Span) -> Vec<State<'_, T>> {
    let ends = states.iter().skip(1).map(|(from, _)| *from).chain([Moment::MAX]);
    let all = states.iter().zip(ends).map(|((from, value), to)| State {
        from: *from,
        to,
        value: value.as_ref(),
    });
    all.filter(|state| state.from <= within.to && state.to >= within.from)
        .collect()
}
