//! What each key should have held at each time, by what was seen in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    record::{Moment, Pod, Sight, Sighting, Span},
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
}

/// Before anything was seen nothing should be there.
static NOTHING: [Wish; 1] = [Wish {
    from: Moment::ZERO,
    value: None,
}];

impl Wishes {
    /// From the sightings, in their order.
    pub fn of(sightings: &[Sighting]) -> Self {
        let mut wishes = Self::default();
        let (mut pods, mut registrations) = (BTreeMap::new(), BTreeMap::new());
        let mut pairs: BTreeMap<(String, String), BTreeMap<String, String>> = BTreeMap::new();
        for Sighting { at, sight } in sightings {
            let changed: Vec<(String, String)> = match sight {
                Sight::Pod(name, pod) => {
                    if pods.get(name) == pod.as_ref() {
                        continue;
                    }
                    put(&mut pods, name, pod.as_ref());
                    wishes.pods.entry(name.clone()).or_default().push((*at, pod.clone()));
                    registrations
                        .keys()
                        .map(|one: &String| (one.clone(), name.clone()))
                        .collect()
                }
                Sight::Registration(name, registration) => {
                    if registrations.get(name) == registration.as_ref() {
                        continue;
                    }
                    let known = pairs.keys().filter(|(one, _)| one == name);
                    let changed = known
                        .cloned()
                        .chain(pods.keys().map(|pod| (name.clone(), pod.clone())))
                        .collect();
                    put(&mut registrations, name, registration.as_ref());
                    let states = wishes.registrations.entry(name.clone()).or_default();
                    states.push((*at, registration.clone()));
                    changed
                }
            };
            for pair in changed {
                let now = match (registrations.get(&pair.0), pods.get(&pair.1)) {
                    (Some(registration), Some(pod)) => registration.keys(&pair.1, pod),
                    _ => BTreeMap::new(),
                };
                let before = pairs.remove(&pair).unwrap_or_default();
                wishes.change(*at, &before, &now);
                if !now.is_empty() {
                    pairs.insert(pair, now);
                }
            }
        }
        wishes
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

    /// Since when its pod has been as it must be for a key to have this value by one who saw pods and registrations of this
    /// time, but not in the order in which they were seen here; and who knew what the pod was at `known`. Only a registration
    /// that changed leaves that open.
    pub fn could_be(&self, key: &str, value: &str, within: Span, known: Moment) -> Option<Moment> {
        let changed = self.registrations.values().map(|states| alive(states, within));
        let changed = changed.filter(|states| states.len() > 1).flatten();
        let changed: Vec<&Registration> = changed.filter_map(|state| state.value).collect();
        let pods = self.pods.iter().filter(|(name, _)| key.contains(name.as_str()));
        let pods = pods.flat_map(|(name, states)| alive(states, within).into_iter().map(move |state| (name, state)));
        let right = pods.filter(|(name, state)| {
            let Some(pod) = state.value.filter(|_| state.to > known) else {
                return false;
            };
            let of =
                |registration: &&Registration| registration.keys(name, pod).get(key).is_some_and(|one| one == value);
            changed.iter().any(of)
        });
        right.map(|(_, state)| state.from).min()
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

fn put<T: Clone>(all: &mut BTreeMap<String, T>, name: &str, value: Option<&T>) {
    match value {
        Some(value) => all.insert(name.to_owned(), value.clone()),
        None => all.remove(name),
    };
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
