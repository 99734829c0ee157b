//! The index as the rest of the house sees it: events in, touches out, views on demand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compact::Symbols;
use super::namespace::{Namespace, Relist};
use super::pod::Pod;
use super::registration::{Registration, RegistrationRef};
use super::view::PodView;

/// One registration's view of one pod may have changed: ask [`Index::view`] again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Touch {
    /// The registration.
    pub registration: RegistrationRef,
    /// The pod's name, in the registration's namespace.
    pub pod: Arc<str>,
}

/// What a relist of registrations found to be gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removals {
    /// The registrations that are gone.
    pub registrations: Vec<RegistrationRef>,
    /// The pods they selected.
    pub touches: Vec<Touch>,
}

/// Every pod and every registration of the cluster, and who selects whom.
///
/// An event costs the same whatever the number of pods; one of a registration that changes its selector looks at
/// the pods of its namespace.
#[derive(Debug, Default)]
pub struct Index {
    symbols: Symbols,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pod_relist: Relist,
    registration_relist: Relist,
}

impl Index {
    /// An index of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pod is there, new or changed. Touches exactly the registrations whose view of it differs from before.
    pub fn apply_pod(&mut self, pod: &Pod) -> Vec<Touch> {
        let compact = self.symbols.compact(pod);
        let namespace = namespace(&mut self.namespaces, &pod.namespace);
        namespace.apply_pod(&pod.name, compact, self.pod_relist, &mut self.symbols)
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, namespace: &str, name: &str) -> Vec<Touch> {
        self.at(namespace, |namespace, symbols| namespace.delete_pod(name, symbols))
            .unwrap_or_default()
    }

    /// A complete list of the pods begins: [`Self::apply_pod`] for each, then [`Self::end_pod_relist`]. Until then
    /// no pod is taken to be gone. A list that breaks off is simply begun again.
    pub fn begin_pod_relist(&mut self) {
        self.pod_relist = self.pod_relist.wrapping_add(1);
    }

    /// The list of the pods is complete: those not applied since it began are gone.
    pub fn end_pod_relist(&mut self) -> Vec<Touch> {
        let (current, symbols) = (self.pod_relist, &mut self.symbols);
        let namespaces = self.namespaces.values_mut();
        let touches = namespaces
            .flat_map(|namespace| namespace.delete_unseen_pods(current, symbols))
            .collect();
        self.namespaces.retain(|_, namespace| !namespace.is_empty());
        touches
    }

    /// A registration is there, new or changed. Touches every pod it selects or selected, unless nothing changed:
    /// what changed may be a part of the spec not known here, such as its formats, told by the generation.
    pub fn apply_registration(&mut self, registration: Registration) -> Vec<Touch> {
        let namespace = namespace(&mut self.namespaces, &registration.reference.namespace);
        namespace.apply_registration(registration, self.registration_relist, &mut self.symbols)
    }

    /// A registration is gone. Touches every pod it selected.
    pub fn delete_registration(&mut self, registration: &RegistrationRef) -> Vec<Touch> {
        let name = &registration.name;
        self.at(&registration.namespace, |namespace, symbols| {
            namespace.delete_registration(name, symbols)
        })
        .unwrap_or_default()
    }

    /// A complete list of the registrations begins; see [`Self::begin_pod_relist`].
    pub fn begin_registration_relist(&mut self) {
        self.registration_relist = self.registration_relist.wrapping_add(1);
    }

    /// The list of the registrations is complete: those not applied since it began are gone, and told.
    pub fn end_registration_relist(&mut self) -> Removals {
        let current = self.registration_relist;
        let unseen = self
            .namespaces
            .values()
            .flat_map(|namespace| namespace.unseen_registrations(current));
        let registrations: Vec<_> = unseen.map(|registration| registration.reference.clone()).collect();
        let touches = registrations
            .iter()
            .flat_map(|gone| self.delete_registration(gone))
            .collect();
        Removals { registrations, touches }
    }

    /// What `registration` says about the pod named `pod` in its namespace.
    pub fn view(&self, registration: &RegistrationRef, pod: &str) -> PodView {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(PodView::Gone, |namespace| {
            namespace.view(&registration.name, pod, &self.symbols)
        })
    }

    /// The names of the pods that `registration` selects, ready or not, in order.
    pub fn pods_of(&self, registration: &RegistrationRef) -> impl Iterator<Item = &Arc<str>> {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace
            .and_then(|namespace| namespace.members(&registration.name))
            .into_iter()
            .flatten()
    }

    /// How many pods of `registration` are ready: alive, with the condition `Ready` and an address of any family.
    pub fn ready_count(&self, registration: &RegistrationRef) -> usize {
        let namespace = self.namespaces.get(&registration.namespace);
        namespace.map_or(0, |namespace| namespace.ready_count(&registration.name))
    }

    /// All registrations, in order.
    pub fn registrations(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.namespaces.values().flat_map(Namespace::registrations)
    }

    /// The registration of this name.
    pub fn registration(&self, registration: &RegistrationRef) -> Option<&Arc<Registration>> {
        self.namespaces
            .get(&registration.namespace)?
            .registration(&registration.name)
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
mod tests {
    use super::*;
    use crate::index::testing::{pod, registration, selector};
    use crate::index::{Family, Operator, PodView, Requirement, Selector, Why};

    fn index() -> Index {
        let mut index = Index::new();
        index.apply_registration(registration("orders"));
        index
    }

    fn touch(registration: &str, pod: &str) -> Touch {
        Touch {
            registration: RegistrationRef::new("shop", registration),
            pod: pod.into(),
        }
    }

    fn orders() -> RegistrationRef {
        RegistrationRef::new("shop", "orders")
    }

    #[test]
    fn a_pod_touches_the_registrations_that_select_it() {
        let mut index = index();
        index.apply_registration(Registration {
            selector: selector("app", "billing"),
            ..registration("billing")
        });
        assert_eq!(index.apply_pod(&pod("a")), [touch("orders", "a")]);
        assert!(matches!(index.view(&orders(), "a"), PodView::Ready(_)));
        assert_eq!(index.view(&RegistrationRef::new("shop", "billing"), "a"), PodView::Gone);
    }

    #[test]
    fn a_pod_that_says_the_same_again_touches_nothing() {
        let mut index = index();
        index.apply_pod(&pod("a"));
        assert_eq!(index.apply_pod(&pod("a")), []);
    }

    #[test]
    fn a_label_that_nobody_reads_touches_nothing() {
        let mut index = index();
        index.apply_pod(&pod("a"));
        let mut relabelled = pod("a");
        relabelled.labels.insert("note".to_owned(), "x".to_owned());
        assert_eq!(index.apply_pod(&relabelled), []);
    }

    #[test]
    fn a_pod_that_leaves_a_selector_is_touched() {
        let mut index = index();
        index.apply_pod(&pod("a"));
        let mut left = pod("a");
        left.labels.insert("app".to_owned(), "billing".to_owned());
        assert_eq!(index.apply_pod(&left), [touch("orders", "a")]);
        assert_eq!(index.view(&orders(), "a"), PodView::Gone);
        assert_eq!((index.pods_of(&orders()).count(), index.ready_count(&orders())), (0, 0));
    }

    #[test]
    fn readiness_is_counted_as_it_comes_and_goes() {
        let mut index = index();
        index.apply_pod(&pod("a"));
        index.apply_pod(&pod("b"));
        assert_eq!(index.ready_count(&orders()), 2);
        assert_eq!(
            index.apply_pod(&Pod {
                ready: false,
                ..pod("a")
            }),
            [touch("orders", "a")]
        );
        assert_eq!(index.ready_count(&orders()), 1);
        assert_eq!(index.view(&orders(), "a"), PodView::Unready { why: Why::NotReady });
        assert_eq!(index.delete_pod("shop", "b"), [touch("orders", "b")]);
        assert_eq!(index.ready_count(&orders()), 0);
        assert_eq!(index.pods_of(&orders()).map(|name| &**name).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_pod_replaced_under_its_name_is_touched() {
        let mut index = index();
        index.apply_pod(&pod("a"));
        let successor = Pod {
            uid: "11111111-93d4-4c55-8a6b-7c8d9e0f1a2b".to_owned(),
            ..pod("a")
        };
        assert_eq!(index.apply_pod(&successor), [touch("orders", "a")]);
    }

    #[test]
    fn a_pod_of_another_namespace_is_not_selected() {
        let mut index = index();
        assert_eq!(
            index.apply_pod(&Pod {
                namespace: "elsewhere".to_owned(),
                ..pod("a")
            }),
            []
        );
        assert_eq!(index.view(&orders(), "a"), PodView::Gone);
    }

    #[test]
    fn an_unknown_pod_or_registration_is_deleted_without_a_touch() {
        let mut index = index();
        assert_eq!(index.delete_pod("shop", "a"), []);
        assert_eq!(index.delete_pod("nowhere", "a"), []);
        assert_eq!(index.delete_registration(&RegistrationRef::new("shop", "billing")), []);
    }

    #[test]
    fn a_selector_without_labels_sees_every_pod() {
        let exists = Requirement {
            key: "canary".into(),
            operator: Operator::DoesNotExist,
        };
        let selector = Selector {
            match_expressions: vec![exists],
            ..Selector::default()
        };
        let mut index = Index::new();
        index.apply_registration(Registration {
            selector,
            ..registration("orders")
        });
        assert_eq!(
            index.apply_pod(&Pod {
                labels: BTreeMap::default(),
                ..pod("a")
            }),
            [touch("orders", "a")]
        );
        let mut canary = pod("a");
        canary.labels.insert("canary".to_owned(), String::new());
        assert_eq!(index.apply_pod(&canary), [touch("orders", "a")]);
        assert_eq!(index.view(&orders(), "a"), PodView::Gone);
    }

    #[test]
    fn a_registration_touches_the_pods_it_selects_and_those_it_selected() {
        let mut index = Index::new();
        index.apply_pod(&pod("a"));
        let mut billing = pod("b");
        billing.labels.insert("app".to_owned(), "billing".to_owned());
        index.apply_pod(&billing);
        assert_eq!(index.apply_registration(registration("orders")), [touch("orders", "a")]);
        let moved = Registration {
            selector: selector("app", "billing"),
            ..registration("orders")
        };
        assert_eq!(
            index.apply_registration(moved),
            [touch("orders", "a"), touch("orders", "b")]
        );
        assert_eq!(index.pods_of(&orders()).map(|name| &**name).collect::<Vec<_>>(), ["b"]);
        assert_eq!(index.delete_registration(&orders()), [touch("orders", "b")]);
        assert_eq!(index.registrations().count(), 0);
    }

    #[test]
    fn a_registration_is_compared_at_the_door() {
        let mut index = index();
        index.apply_pod(&pod("a"));
        assert_eq!(index.apply_registration(registration("orders")), []);
        let touched = index.apply_registration(Registration {
            generation: 2,
            ..registration("orders")
        });
        assert_eq!(
            touched,
            [touch("orders", "a")],
            "a part of the spec not known here may have changed"
        );
        let touched = index.apply_registration(Registration {
            family: Family::V6,
            ..registration("orders")
        });
        assert_eq!(touched, [touch("orders", "a")]);
        assert_eq!(
            index.view(&orders(), "a"),
            PodView::Unready {
                why: Why::NoAddress(Family::V6)
            }
        );
    }

    #[test]
    fn a_relist_touches_only_what_it_changes() {
        let mut index = index();
        for name in ["a", "b", "c"] {
            index.apply_pod(&pod(name));
        }
        index.begin_pod_relist();
        assert_eq!(index.apply_pod(&pod("a")), []);
        assert_eq!(
            index.apply_pod(&Pod {
                ready: false,
                ..pod("b")
            }),
            [touch("orders", "b")]
        );
        assert!(
            matches!(index.view(&orders(), "c"), PodView::Ready(_)),
            "nothing is gone before the list is complete"
        );
        assert_eq!(index.end_pod_relist(), [touch("orders", "c")]);
        assert_eq!(index.pod_count(), 2);
    }

    #[test]
    fn a_relist_that_is_begun_again_forgets_what_the_first_one_saw() {
        let mut index = index();
        index.begin_pod_relist();
        index.apply_pod(&pod("a"));
        index.begin_pod_relist();
        index.apply_pod(&pod("b"));
        assert_eq!(index.end_pod_relist(), [touch("orders", "a")]);
    }

    #[test]
    fn a_relist_of_registrations_tells_which_are_gone() {
        let mut index = index();
        index.apply_registration(registration("also"));
        index.apply_pod(&pod("a"));
        index.begin_registration_relist();
        assert_eq!(index.apply_registration(registration("also")), []);
        let removals = index.end_registration_relist();
        assert_eq!(removals.registrations, [orders()]);
        assert_eq!(removals.touches, [touch("orders", "a")]);
        assert_eq!(index.view(&orders(), "a"), PodView::Gone);
        assert_eq!(index.registrations().count(), 1);
    }

    #[test]
    fn ten_thousand_relists_of_churning_pods_need_no_more_room_than_the_first_few() {
        let mut index = index();
        let mut room = [0; 4];
        for generation in 0..10_000 {
            index.begin_pod_relist();
            for survivor in [generation, generation + 1, generation + 2] {
                let mut pod = pod(&format!("orders-{survivor}"));
                pod.labels
                    .insert("pod-template-hash".to_owned(), format!("{survivor:08x}"));
                pod.uid = format!("uid {survivor}");
                pod.node = Some(format!("node-{survivor}"));
                index.apply_pod(&pod);
            }
            index.end_pod_relist();
            if generation == 10 {
                room = index.symbols().room();
            }
        }
        assert_eq!(index.symbols().room(), room);
        assert_eq!(index.pod_count(), 3);
    }

    #[test]
    fn an_index_that_has_lost_everything_keeps_nothing() {
        let mut index = index();
        index.apply_pod(&pod("a"));
        index.delete_registration(&orders());
        index.begin_pod_relist();
        index.end_pod_relist();
        assert_eq!(index.symbols().in_use(), [0; 4]);
        assert!(index.namespaces.is_empty());
    }
}
