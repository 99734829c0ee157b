//! Pods that wait for their readiness gate.

use super::*;
use crate::index::testing::{apply, pod, registration};
use crate::index::{PodView, ReadinessGate, Why};
use crate::model::PodRef;

fn gated(name: &str, is_open: bool) -> Pod {
    Pod {
        ready: false,
        gate: Some(ReadinessGate {
            uid: "u1".into(),
            is_open,
        }),
        ..pod(name)
    }
}

fn index() -> Index {
    let mut index = Index::new();
    index.apply_registration(registration("orders"));
    index
}

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

fn pod_ref() -> PodRef {
    PodRef {
        namespace: "shop".into(),
        name: "a".into(),
        uid: "u1".into(),
    }
}

/// The UID of the pod that waits, as its view says; an error if it is not registered.
fn gate(index: &Index) -> Result<Option<Arc<str>>, PodView> {
    match index.view(&orders(), "a") {
        PodView::Ready(ready) => Ok(ready.gated),
        other => Err(other),
    }
}

#[test]
fn a_gated_pod_is_registered_and_its_view_names_it_until_the_gate_is_open() {
    let mut index = index();
    apply(&mut index, &gated("a", false));
    assert_eq!(gate(&index), Ok(Some("u1".into())));
    let waits = GateChange::Waits(pod_ref());
    assert_eq!(
        index.take_gate_changes(),
        [waits.clone(), waits.clone()],
        "it is new, and it is selected"
    );
    apply(&mut index, &gated("a", false));
    assert_eq!(index.take_gate_changes(), []);
    let mut relabelled = gated("a", false);
    relabelled.labels.insert("tier".to_owned(), "gold".to_owned());
    index.apply_pod(&relabelled);
    assert_eq!(index.take_gate_changes(), [waits], "other registrations may select it");
    index.apply_pod(&gated("a", false));
    index.take_gate_changes();
    assert_eq!(index.apply_pod(&gated("a", true)), PodChange::Facts);
    assert_eq!(gate(&index), Ok(None));
    assert_eq!(index.take_gate_changes(), [GateChange::WaitsNoLonger(pod_ref())]);
    apply(&mut index, &pod("a"));
    assert_eq!((gate(&index), index.take_gate_changes()), (Ok(None), Vec::new()));
}

#[test]
fn another_pod_of_the_same_name_waits_by_itself() {
    let mut index = index();
    apply(&mut index, &gated("a", false));
    let mut other = gated("a", false);
    other.gate = Some(ReadinessGate {
        uid: "u2".into(),
        is_open: false,
    });
    index.take_gate_changes();
    assert_eq!(
        index.apply_pod(&other),
        PodChange::Facts,
        "its records are to be reported"
    );
    let next = PodRef {
        uid: "u2".into(),
        ..pod_ref()
    };
    assert_eq!(
        index.take_gate_changes(),
        [GateChange::WaitsNoLonger(pod_ref()), GateChange::Waits(next)]
    );
}

#[test]
fn a_pod_that_ends_or_is_gone_waits_no_longer() {
    let no_longer = [GateChange::WaitsNoLonger(pod_ref())];
    let mut index = index();
    apply(&mut index, &gated("a", false));
    index.take_gate_changes();
    let terminating = Pod {
        terminating: true,
        ..gated("a", false)
    };
    index.apply_pod(&terminating);
    assert_eq!(index.take_gate_changes(), no_longer);
    apply(&mut index, &gated("a", false));
    index.take_gate_changes();
    index.delete_pod("shop", "a");
    assert_eq!(index.take_gate_changes(), no_longer);
    apply(&mut index, &gated("a", false));
    index.take_gate_changes();
    index.begin_pod_relist(&NamespaceScope::Cluster);
    index.end_pod_relist(&NamespaceScope::Cluster);
    assert_eq!(index.take_gate_changes(), no_longer);
}

#[test]
fn a_registration_that_changes_concerns_the_waiting_pods_of_its_namespace() {
    let mut index = index();
    index.take_gate_changes();
    index.apply_registration(registration("more"));
    assert_eq!(index.take_gate_changes(), [], "no pod waits");
    apply(&mut index, &gated("a", false));
    index.take_gate_changes();
    index.apply_registration(registration("other"));
    index.delete_registration(&orders());
    assert_eq!(
        index.take_gate_changes(),
        [GateChange::Registrations("shop".into())],
        "once is enough"
    );
}

#[test]
fn a_gated_pod_on_a_lost_node_is_not_registered() {
    let mut index = index();
    let node = |ready| Node {
        name: "n1".to_owned(),
        ready,
        ..Node::default()
    };
    apply(&mut index, &gated("a", false));
    assert!(gate(&index).is_ok(), "the nodes are not known yet");
    index.begin_node_relist();
    index.apply_node(&node(true));
    index.end_node_relist();
    let marked = [DirtyMark {
        registration: orders(),
        pod: "a".into(),
    }];
    assert_eq!(index.apply_node(&node(false)), marked);
    let lost = PodView::Unready { why: Why::NotReady };
    assert_eq!(gate(&index), Err(lost.clone()));
    assert_eq!(index.apply_node(&node(true)), marked);
    assert!(gate(&index).is_ok());
    // The kubelet died before it reported that the open gate made the pod ready.
    apply(&mut index, &gated("a", true));
    assert_eq!(index.apply_node(&node(false)), marked);
    assert_eq!(gate(&index), Err(lost));
    assert_eq!(index.apply_node(&node(true)), marked);
    // A pod that the kubelet has reported as ready depends on no node: the node controller changes its condition.
    apply(&mut index, &pod("a"));
    assert!(gate(&index).is_ok());
    assert_eq!(index.apply_node(&node(false)), []);
}

#[test]
fn where_no_gates_are_opened_a_gated_pod_is_not_ready() {
    let mut index = index();
    index.ignore_gates();
    apply(&mut index, &gated("a", false));
    assert_eq!(gate(&index), Err(PodView::Unready { why: Why::NotReady }));
    assert!(!index.take_gate_changes().is_empty(), "an Event says so");
}
