//! Tests of the dirty marks that each event returns, and of the views afterwards.

use std::num::{NonZeroU16, NonZeroU32};

use super::*;
use crate::index::testing::{apply, pod, registration, selector};
use crate::index::{MinReady, Operator, PodView, ReadinessGate, Requirement, Selector, Why};
use crate::model::{Family, NamespaceScope};

fn index() -> Index {
    let mut index = Index::new();
    index.apply_registration(registration("orders"));
    index
}

fn touch(registration: &str, pod: &str) -> DirtyMark {
    DirtyMark {
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
    assert_eq!(apply(&mut index, &pod("a")), [touch("orders", "a")]);
    assert!(matches!(index.view(&orders(), "a"), PodView::Ready(_)));
    assert_eq!(index.view(&RegistrationRef::new("shop", "billing"), "a"), PodView::Gone);
}

#[test]
fn a_pod_that_says_the_same_again_touches_nothing() {
    let mut index = index();
    apply(&mut index, &pod("a"));
    assert_eq!(apply(&mut index, &pod("a")), []);
}

#[test]
fn pod_that_no_registration_selects_touches_nothing_when_its_facts_change() {
    let mut index = index();
    let mut other = pod("a");
    other.labels.insert("app".to_owned(), "billing".to_owned());
    assert_eq!(apply(&mut index, &other), []);
    other.ready = false;
    assert_eq!(index.apply_pod(&other), PodChange::None);
}

#[test]
fn pod_with_unchanged_labels_is_one_change_for_all_registrations() {
    let mut index = index();
    index.apply_registration(registration("more"));
    apply(&mut index, &pod("a"));
    let unready = Pod {
        ready: false,
        ..pod("a")
    };
    assert_eq!(index.apply_pod(&unready), PodChange::Facts);
    let selecting: Vec<String> = index.registering("shop", "a").iter().map(ToString::to_string).collect();
    assert_eq!(selecting.len(), 2, "{selecting:?}");
}

#[test]
fn a_pod_that_leaves_a_selector_is_touched() {
    let mut index = index();
    apply(&mut index, &pod("a"));
    let mut left = pod("a");
    left.labels.insert("app".to_owned(), "billing".to_owned());
    assert_eq!(apply(&mut index, &left), [touch("orders", "a")]);
    assert_eq!(index.view(&orders(), "a"), PodView::Gone);
}

#[test]
fn a_pod_that_is_no_longer_ready_is_touched_and_says_why() {
    let mut index = index();
    apply(&mut index, &pod("a"));
    let unready = Pod {
        ready: false,
        ..pod("a")
    };
    assert_eq!(apply(&mut index, &unready), [touch("orders", "a")]);
    assert_eq!(index.view(&orders(), "a"), PodView::Unready { why: Why::NotReady });
}

#[test]
fn a_deleted_pod_is_touched_and_gone() {
    let mut index = index();
    apply(&mut index, &pod("a"));
    assert_eq!(index.delete_pod("shop", "a"), [touch("orders", "a")]);
    assert_eq!(index.view(&orders(), "a"), PodView::Gone);
}

#[test]
fn selected_pods_are_counted_whether_ready_or_not() {
    let mut index = index();
    assert_eq!(index.selected_count(&orders()), 0);
    apply(&mut index, &pod("a"));
    apply(
        &mut index,
        &Pod {
            ready: false,
            ..pod("b")
        },
    );
    assert_eq!(index.selected_count(&orders()), 2);
    let mut left = pod("a");
    left.labels.insert("app".to_owned(), "billing".to_owned());
    apply(&mut index, &left);
    assert_eq!(index.selected_count(&orders()), 1, "a pod left the selector");
    index.apply_registration(Registration {
        selector: selector("app", "billing"),
        ..registration("billing")
    });
    assert_eq!(
        index.selected_count(&RegistrationRef::new("shop", "billing")),
        1,
        "the pod was there before the registration"
    );
    index.delete_pod("shop", "b");
    assert_eq!(index.selected_count(&orders()), 0);
    index.delete_registration(&RegistrationRef::new("shop", "billing"));
    assert_eq!(index.selected_count(&RegistrationRef::new("shop", "billing")), 0);
    assert_eq!(index.selected_count(&RegistrationRef::new("nowhere", "orders")), 0);
}

#[test]
fn a_pod_of_another_namespace_is_not_selected() {
    let mut index = index();
    assert_eq!(
        apply(
            &mut index,
            &Pod {
                namespace: "elsewhere".to_owned(),
                ..pod("a")
            }
        ),
        []
    );
    assert_eq!(index.view(&orders(), "a"), PodView::Gone);
}

#[test]
fn an_unknown_pod_is_deleted_without_a_touch() {
    let mut index = index();
    assert_eq!(index.delete_pod("shop", "a"), []);
    assert_eq!(index.delete_pod("nowhere", "a"), []);
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
        apply(
            &mut index,
            &Pod {
                labels: BTreeMap::default(),
                ..pod("a")
            }
        ),
        [touch("orders", "a")]
    );
    let mut canary = pod("a");
    canary.labels.insert("canary".to_owned(), String::new());
    assert_eq!(apply(&mut index, &canary), [touch("orders", "a")]);
    assert_eq!(index.view(&orders(), "a"), PodView::Gone);
}

#[test]
fn a_registration_touches_the_pods_it_selects_and_those_it_selected() {
    let mut index = Index::new();
    apply(&mut index, &pod("a"));
    let mut billing = pod("b");
    billing.labels.insert("app".to_owned(), "billing".to_owned());
    apply(&mut index, &billing);
    assert_eq!(index.apply_registration(registration("orders")), [touch("orders", "a")]);
    let moved = Registration {
        selector: selector("app", "billing"),
        ..registration("orders")
    };
    assert_eq!(
        index.apply_registration(moved),
        [touch("orders", "b"), touch("orders", "a")],
        "what is gained comes first"
    );
    assert_eq!(index.view(&orders(), "a"), PodView::Gone);
    assert!(matches!(index.view(&orders(), "b"), PodView::Ready(_)));
}

#[test]
fn a_registration_that_is_gone_says_nothing_about_any_pod() {
    let mut index = index();
    apply(&mut index, &pod("a"));
    index.delete_registration(&orders());
    assert_eq!(index.view(&orders(), "a"), PodView::Gone);
    assert_eq!(
        apply(
            &mut index,
            &Pod {
                ready: false,
                ..pod("a")
            }
        ),
        []
    );
    assert_eq!(
        index.apply_registration(registration("orders")),
        [touch("orders", "a")],
        "it is new again"
    );
}

#[test]
fn a_registration_is_compared_at_the_door() {
    let mut index = index();
    apply(&mut index, &pod("a"));
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
        families: Family::IPv6.into(),
        ..registration("orders")
    });
    assert_eq!(touched, [touch("orders", "a")]);
    assert_eq!(
        index.view(&orders(), "a"),
        PodView::Unready {
            why: Why::NoAddress(Family::IPv6.into())
        }
    );
}

#[test]
fn a_relist_touches_only_what_it_changes() {
    let mut index = index();
    for name in ["a", "b", "c"] {
        apply(&mut index, &pod(name));
    }
    index.begin_pod_relist(&NamespaceScope::Cluster);
    assert_eq!(apply(&mut index, &pod("a")), []);
    assert_eq!(
        apply(
            &mut index,
            &Pod {
                ready: false,
                ..pod("b")
            }
        ),
        [touch("orders", "b")]
    );
    assert!(
        matches!(index.view(&orders(), "c"), PodView::Ready(_)),
        "nothing is gone before the list is complete"
    );
    assert_eq!(
        index.end_pod_relist(&NamespaceScope::Cluster),
        [(touch("orders", "c"), false)]
    );
    assert_eq!(index.pod_count(), 2);
}

#[test]
fn a_relist_that_is_begun_again_forgets_what_the_first_one_saw() {
    let mut index = index();
    index.begin_pod_relist(&NamespaceScope::Cluster);
    apply(&mut index, &pod("a"));
    index.begin_pod_relist(&NamespaceScope::Cluster);
    apply(&mut index, &pod("b"));
    assert_eq!(
        index.end_pod_relist(&NamespaceScope::Cluster),
        [(touch("orders", "a"), false)]
    );
}

#[test]
fn relist_of_a_namespace_keeps_pods_of_another_during_its_relist() {
    let mut index = index();
    let [shop, bank] = [NamespaceScope::namespace("shop"), NamespaceScope::namespace("bank")];
    let of_bank = |name| Pod {
        namespace: "bank".to_owned(),
        ..pod(name)
    };
    for name in ["a", "b"] {
        apply(&mut index, &pod(name));
        apply(&mut index, &of_bank(name));
    }
    index.begin_pod_relist(&shop);
    apply(&mut index, &pod("a"));
    index.begin_pod_relist(&bank);
    assert_eq!(index.end_pod_relist(&shop), [(touch("orders", "b"), false)]);
    assert_eq!(index.pod_count(), 3, "the list of the bank is not complete");
    apply(&mut index, &of_bank("b"));
    index.end_pod_relist(&bank);
    assert_eq!(index.pod_count(), 2);
}

#[test]
fn ten_thousand_relists_of_churning_pods_need_constant_memory() {
    let mut index = index();
    let mut room = [0; 5];
    for generation in 0..10_000 {
        index.begin_pod_relist(&NamespaceScope::Cluster);
        for survivor in [generation, generation + 1, generation + 2] {
            let mut pod = pod(&format!("orders-{survivor}"));
            pod.labels
                .insert("pod-template-hash".to_owned(), format!("{survivor:08x}"));
            pod.node = Some(format!("node-{survivor}"));
            apply(&mut index, &pod);
        }
        index.end_pod_relist(&NamespaceScope::Cluster);
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
    apply(&mut index, &pod("a"));
    index.delete_registration(&orders());
    index.begin_pod_relist(&NamespaceScope::Cluster);
    index.end_pod_relist(&NamespaceScope::Cluster);
    assert_eq!(index.symbols().in_use(), [0; 5]);
    assert!(index.namespaces.is_empty());
}

#[test]
fn a_pod_that_cannot_be_read_survives_a_relist_as_it_was() {
    let mut index = index();
    apply(&mut index, &pod("a"));
    apply(&mut index, &pod("b"));
    let before = index.view(&orders(), "a");
    index.begin_pod_relist(&NamespaceScope::Cluster);
    index.keep_pod("shop", "a");
    assert_eq!(
        index.end_pod_relist(&NamespaceScope::Cluster),
        [(touch("orders", "b"), false)]
    );
    assert_eq!(index.view(&orders(), "a"), before);
}

#[test]
fn keeping_what_was_never_read_makes_nothing_up() {
    let mut index = index();
    index.keep_pod("shop", "a");
    index.keep_pod("nowhere", "a");
    assert_eq!(index.pod_count(), 0);
}

#[test]
fn view_has_ready_since_only_if_registration_has_min_ready_seconds() {
    let seconds = NonZeroU16::new(30);
    let mut index = index();
    index.apply_registration(Registration {
        min_ready_seconds: seconds,
        ..registration("patient")
    });
    index.apply_registration(Registration {
        min_ready_seconds: seconds,
        publish_not_ready: true,
        ..registration("early")
    });
    let min_ready = |index: &Index, name: &str| match index.view(&RegistrationRef::new("shop", name), "a") {
        PodView::Ready(ready) => ready.min_ready,
        other => panic!("{other:?}"),
    };
    for (since, ready) in [(100, true), (120, true), (120, false)] {
        let since = NonZeroU32::new(since);
        let pod = Pod {
            ready,
            ready_since: since,
            gate: (!ready).then(|| ReadinessGate {
                uid: "u1".into(),
                is_open: false,
            }),
            ..pod("a")
        };
        assert!(!apply(&mut index, &pod).is_empty(), "another time is a change");
        assert!(apply(&mut index, &pod).is_empty());
        let seconds = seconds.expect("not zero");
        assert_eq!(min_ready(&index, "patient"), Some(MinReady { since, seconds }));
        assert_eq!((min_ready(&index, "orders"), min_ready(&index, "early")), (None, None));
    }
}
