//! Property tests: after any order of events, the index equals one built from the final state only, and every changed
//! view was marked dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::testing::{apply, pod, registration};
use super::{DirtyMark, Index, Operator, Pod, PodView, Port, PortTarget, Registration, Requirement, Selector};
use crate::model::{Families, Family, NamespaceScope, RegistrationRef};

/// The expected state after the events so far, as plain lists (the oracle).
#[derive(Clone, Debug, Default)]
struct World {
    pods: BTreeMap<(String, String), Pod>,
    registrations: BTreeMap<RegistrationRef, Registration>,
}

#[derive(Clone, Debug)]
enum Event {
    Pod(Pod),
    DeletePod(String, String),
    RelistPods {
        /// All namespaces, or one.
        namespaces: NamespaceScope,
        broken_off: Vec<Pod>,
        /// The fate of each pod known before, in order.
        fates: Vec<Fate>,
        list: Vec<Pod>,
    },
    Registration(Registration),
    DeleteRegistration(RegistrationRef),
}

/// What a relist says about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Gone,
    Listed,
    Unreadable,
}

const NAMESPACES: [&str; 2] = ["shop", "lab"];
const PODS: [&str; 4] = ["a", "b", "c", "d"];
const REGISTRATIONS: [&str; 3] = ["r", "s", "t"];
const KEYS: [&str; 3] = ["app", "tier", "topology.kubernetes.io/zone"];
const VALUES: [&str; 2] = ["x", "y"];

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(texts).prop_map(str::to_owned)
}

fn shared(texts: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(texts).prop_map(Arc::from)
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let labels = btree_map(one_of(&KEYS), one_of(&VALUES), 0..3);
    let states = (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.8),
    );
    let weight = option::weighted(0.2, one_of(&["1", "2", "heavy"]));
    let network = (
        any::<bool>(),
        option::weighted(0.8, Just("10.0.0.7")),
        option::weighted(0.2, Just("fd00::7")),
    );
    (one_of(&NAMESPACES), one_of(&PODS), labels, weight, states, network).prop_map(
        |(namespace, name, labels, weight, (terminal, terminating, ready), (declares, v4, v6))| {
            let mut pod = Pod {
                namespace,
                name,
                labels,
                weight,
                terminal,
                terminating,
                ready,
                ..pod("")
            };
            pod.addresses.v4 = v4.map(|text| text.parse().unwrap());
            pod.addresses.v6 = v6.map(|text| text.parse().unwrap());
            pod.ports.truncate(usize::from(declares));
            pod
        },
    )
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let operator = prop_oneof![
        btree_set(shared(&VALUES), 1..3).prop_map(Operator::In),
        btree_set(shared(&VALUES), 1..3).prop_map(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
    ];
    let requirement = (shared(&KEYS), operator).prop_map(|(key, operator)| Requirement { key, operator });
    (btree_map(shared(&KEYS), shared(&VALUES), 0..3), vec(requirement, 0..2)).prop_map(
        |(match_labels, match_expressions)| Selector {
            match_labels,
            match_expressions,
        },
    )
}

fn any_reference() -> impl Strategy<Value = RegistrationRef> {
    (shared(&NAMESPACES), shared(&REGISTRATIONS)).prop_map(|(namespace, name)| RegistrationRef::new(namespace, name))
}

fn any_registration() -> impl Strategy<Value = Registration> {
    let families = prop_oneof![
        3 => Just(vec![Family::IPv4]),
        1 => Just(vec![Family::IPv6]),
        1 => Just(vec![Family::IPv4, Family::IPv6]),
    ];
    let families = families.prop_map(|list| Families::new(&list));
    let labels = (option::of(shared(&KEYS)), vec((shared(&KEYS), shared(&KEYS)), 0..2));
    (
        any_reference(),
        any_selector(),
        families,
        any::<bool>(),
        option::of(0..2u32),
        labels,
        1..3i64,
    )
        .prop_map(
            |(reference, selector, families, numbered, weight, (version_label, metadata_labels), generation)| {
                let mut registration = Registration {
                    reference,
                    generation,
                    selector,
                    families,
                    weight,
                    version_label,
                    ..registration("r")
                };
                registration.metadata_labels = metadata_labels;
                if numbered {
                    registration.ports.push(Port {
                        name: "n".into(),
                        target: PortTarget::Number(9),
                        scheme: None,
                    });
                }
                registration
            },
        )
}

fn any_event() -> impl Strategy<Value = Event> {
    let fate = prop_oneof![3 => Just(Fate::Gone), 4 => Just(Fate::Listed), 3 => Just(Fate::Unreadable)];
    let known = NAMESPACES.len() * PODS.len();
    prop_oneof![
        8 => any_pod().prop_map(Event::Pod),
        3 => (one_of(&NAMESPACES), one_of(&PODS)).prop_map(|(namespace, name)| Event::DeletePod(namespace, name)),
        2 => (any_area(), vec(any_pod(), 0..3), vec(fate, known), vec(any_pod(), 0..3))
            .prop_map(|(namespaces, broken_off, fates, list)| Event::RelistPods { namespaces, broken_off, fates, list }),
        4 => any_registration().prop_map(Event::Registration),
        1 => any_reference().prop_map(Event::DeleteRegistration),
    ]
}

fn any_area() -> impl Strategy<Value = NamespaceScope> {
    option::of(one_of(&NAMESPACES))
        .prop_map(|name| name.map_or(NamespaceScope::Cluster, |name| NamespaceScope::namespace(&name)))
}

impl World {
    fn put_pod(&mut self, pod: Pod) {
        self.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
    }

    fn put_registration(&mut self, registration: Registration) {
        self.registrations.insert(registration.reference.clone(), registration);
    }

    /// Applies an event here and to `index`. Returns the dirty marks of `index`.
    fn happen(&mut self, event: Event, index: &mut Index) -> Vec<DirtyMark> {
        match event {
            Event::Pod(pod) => {
                let touches = apply(index, &pod);
                self.put_pod(pod);
                touches
            }
            Event::DeletePod(namespace, name) => {
                let touches = index.delete_pod(&namespace, &name);
                self.pods.remove(&(namespace, name));
                touches
            }
            Event::RelistPods {
                namespaces,
                mut broken_off,
                fates,
                mut list,
            } => {
                broken_off.retain(|pod| namespaces.contains(&pod.namespace));
                list.retain(|pod| namespaces.contains(&pod.namespace));
                index.begin_pod_relist(&namespaces);
                let mut touches = Vec::new();
                for pod in broken_off {
                    touches.extend(apply(index, &pod));
                    self.put_pod(pod);
                }
                index.begin_pod_relist(&namespaces);
                for (pod, fate) in std::mem::take(&mut self.pods).into_values().zip(fates) {
                    match fate {
                        _ if !namespaces.contains(&pod.namespace) => {}
                        Fate::Gone => continue,
                        Fate::Listed => assert_eq!(apply(index, &pod), []),
                        Fate::Unreadable => index.keep_pod(&pod.namespace, &pod.name),
                    }
                    self.put_pod(pod);
                }
                for pod in list {
                    touches.extend(apply(index, &pod));
                    self.put_pod(pod);
                }
                touches.extend(index.end_pod_relist(&namespaces).into_iter().map(|(mark, _)| mark));
                touches
            }
            Event::Registration(registration) => {
                self.put_registration(registration.clone());
                index.apply_registration(registration)
            }
            Event::DeleteRegistration(reference) => {
                self.registrations.remove(&reference);
                index.delete_registration(&reference);
                Vec::new()
            }
        }
    }

    /// Returns an index built from the final state only.
    fn index(&self) -> Index {
        let mut index = Index::new();
        for registration in self.registrations.values() {
            index.apply_registration(registration.clone());
        }
        for pod in self.pods.values() {
            apply(&mut index, pod);
        }
        index
    }

    /// Checks the selected pods and the counts against the plain lists.
    fn check(&self, index: &Index) {
        for (reference, registration) in &self.registrations {
            let selected = self.pods.values().filter(|pod| {
                *pod.namespace == *reference.namespace
                    && registration
                        .selector
                        .matches(|key| pod.labels.get(key).map(String::as_str))
            });
            let selected: BTreeSet<_> = selected.map(|pod| &*pod.name).collect();
            assert_eq!(index.selected_count(reference), selected.len());
            for name in PODS {
                let gone = index.view(reference, name) == PodView::Gone;
                assert_eq!(gone, !selected.contains(name));
            }
        }
        assert_eq!(index.pod_count(), self.pods.len());
    }
}

/// Returns every view of every possible pod, present or not.
fn views(index: &Index) -> BTreeMap<DirtyMark, PodView> {
    let mut views = BTreeMap::new();
    for namespace in NAMESPACES {
        for name in REGISTRATIONS {
            for pod in PODS {
                let registration = RegistrationRef::new(namespace, name);
                let view = index.view(&registration, pod);
                views.insert(
                    DirtyMark {
                        registration,
                        pod: pod.into(),
                    },
                    view,
                );
            }
        }
    }
    views
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_gives_the_index_of_the_final_list(events in vec(any_event(), 1..60)) {
        let (mut world, mut index) = (World::default(), Index::new());
        for event in events {
            world.happen(event, &mut index);
        }
        world.check(&index);
        let mut fresh = world.index();
        prop_assert_eq!(views(&index), views(&fresh));

        // Registrations use label symbols. Without them, only the same pods are left, and they need the same symbols.
        for index in [&mut index, &mut fresh] {
            world.registrations.keys().for_each(|gone| index.delete_registration(gone));
        }
        prop_assert_eq!(index.symbols().in_use(), fresh.symbols().in_use());
        world.pods.keys().for_each(|(namespace, name)| drop(index.delete_pod(namespace, name)));
        prop_assert_eq!(index.symbols().in_use(), [0; 5]);
    }

    #[test]
    fn every_view_that_changes_is_touched(events in vec(any_event(), 1..40)) {
        let (mut world, mut index) = (World::default(), Index::new());
        let mut before = views(&index);
        for event in events {
            let is_one_pod = matches!(event, Event::Pod(_) | Event::DeletePod(..));
            let touches = world.happen(event.clone(), &mut index);
            let touched: BTreeSet<_> = touches.iter().cloned().collect();
            let after = views(&index);
            let mut changed: BTreeSet<_> =
                after.iter().filter(|(key, view)| before[key] != **view).map(|(key, _)| key.clone()).collect();
            if let Event::DeleteRegistration(gone) = &event {
                // The caller knows that all views of a deleted registration are void. The index marks none of them
                // dirty, and no other view changes.
                changed.retain(|key| key.registration != *gone || after[key] != PodView::Gone);
            }
            prop_assert!(changed.is_subset(&touched), "{event:?} changed {changed:?} and touched {touched:?}");
            if is_one_pod {
                prop_assert_eq!(touched.len(), touches.len(), "nothing twice");
            }
            before = after;
        }
    }
}
