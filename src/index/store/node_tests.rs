//! Registrations of nodes and addresses, and the pods behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::index::testing::{apply, pod, registration};
use crate::index::{Address, Addresses, NodeTarget, Port, PortTarget, Why};
use crate::model::{Endpoint, Families, Family, Host, NodeAddressType};

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn zone(zone: &str) -> BTreeMap<String, String> {
    labels([("topology.kubernetes.io/zone", zone)])
}

fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        labels: zone("a"),
        internal: Addresses::parse(["10.1.0.1"]),
        ready: true,
        ..Node::default()
    }
}

fn of_nodes(local: bool) -> Registration {
    Registration {
        target: Target::Nodes(NodeTarget {
            local,
            address_types: vec![NodeAddressType::ExternalIP, NodeAddressType::InternalIP],
            ready: None,
        }),
        ports: vec![Port {
            name: "grpc".into(),
            target: PortTarget::Number(30_080),
            scheme: None,
        }],
        ..registration("orders")
    }
}

fn on(name: &str, node: &str, ready: bool) -> Pod {
    Pod {
        node: Some(node.to_owned()),
        ready,
        ..pod(name)
    }
}

/// Applies a pod. Returns the names of the marked endpoints.
fn marks(index: &mut Index, pod: &Pod) -> Vec<String> {
    assert_eq!(apply(index, pod), [], "no registration registers the pod itself");
    taken(index)
}

fn taken(index: &mut Index) -> Vec<String> {
    let marks: BTreeSet<DirtyMark> = index.take_marks().into_iter().collect();
    marks.into_iter().map(|mark| mark.pod.to_string()).collect()
}

fn with_nodes(local: bool) -> Index {
    let mut index = Index::new();
    for name in ["n1", "n2"] {
        index.apply_node(&node(name));
    }
    index.apply_registration(of_nodes(local));
    index
}

fn ready(index: &Index, name: &str) -> Option<ReadyPod> {
    match index.view(&orders(), name) {
        PodView::Ready(ready) => Some(ready),
        _ => None,
    }
}

#[test]
fn all_nodes_lead_to_a_service_while_it_has_a_ready_pod() {
    let mut index = with_nodes(false);
    assert_eq!(
        (index.view(&orders(), "n1"), index.selected_count(&orders())),
        (PodView::Gone, 0)
    );
    assert_eq!(marks(&mut index, &on("a", "n1", false)), ["n1", "n2"]);
    let unready = PodView::Unready { why: Why::NotReady };
    assert_eq!(
        (index.view(&orders(), "n2"), index.selected_count(&orders())),
        (unready.clone(), 2)
    );
    assert_eq!(marks(&mut index, &on("a", "n1", true)), ["n1", "n2"]);
    let endpoint = &ready(&index, "n2").expect("a ready node").endpoints[0];
    assert_eq!(endpoint.host_port(), "10.1.0.1:30080");
    assert_eq!(
        (&*endpoint.pod, endpoint.zone.as_deref(), endpoint.weight),
        ("n2", Some("a"), None)
    );
    assert_eq!(
        marks(&mut index, &on("b", "n2", true)),
        [""; 0],
        "one more changes nothing"
    );
    assert_eq!(marks(&mut index, &on("a", "n1", false)), [""; 0]);
    assert_eq!(index.delete_pod("shop", "b"), []);
    assert_eq!(taken(&mut index), ["n1", "n2"]);
    assert_eq!(index.view(&orders(), "n1"), unready);
    index.delete_pod("shop", "a");
    assert_eq!(
        (taken(&mut index).len(), index.view(&orders(), "n1")),
        (2, PodView::Gone)
    );
}

#[test]
fn local_service_is_on_nodes_of_its_pods_weighted_by_pod_count() {
    let mut index = with_nodes(true);
    assert_eq!(marks(&mut index, &on("a", "n1", true)), ["n1"]);
    assert_eq!(marks(&mut index, &on("b", "n1", true)), ["n1"]);
    let weight = |index: &Index| ready(index, "n1").map(|ready| ready.endpoints[0].weight);
    assert_eq!((weight(&index), ready(&index, "n2")), (Some(Some(2)), None));
    assert_eq!(index.selected_count(&orders()), 1);
    assert_eq!(marks(&mut index, &on("b", "n2", true)), ["n1", "n2"], "the pod moved");
    assert_eq!((weight(&index), index.selected_count(&orders())), (Some(Some(1)), 2));
    index.apply_registration(Registration {
        weight: Some(10),
        ..of_nodes(true)
    });
    assert_eq!(weight(&index), Some(Some(10)));
}

#[test]
fn a_node_counts_while_it_is_ready_and_load_balancers_may_use_it() {
    let mut index = with_nodes(false);
    marks(&mut index, &on("a", "n1", true));
    let change = |index: &mut Index, change: fn(&mut Node)| {
        let mut node = node("n1");
        change(&mut node);
        let marks = index.apply_node(&node);
        assert_eq!(marks.len(), 1);
        index.view(&orders(), "n1")
    };
    let unready = PodView::Unready { why: Why::NotReady };
    assert_eq!(change(&mut index, |node| node.ready = false), unready);
    assert_eq!(change(&mut index, |node| node.excluded = true), PodView::Gone);
    assert_eq!(index.selected_count(&orders()), 1);
    let view = change(&mut index, |node| node.external = Addresses::parse(["192.0.2.1"]));
    assert!(matches!(view, PodView::Ready(ready) if ready.endpoints[0].host_port() == "192.0.2.1:30080"));
    index.apply_registration(Registration {
        families: Families::new(&[Family::IPv4, Family::IPv6]),
        ..of_nodes(false)
    });
    let view = change(&mut index, |node| {
        node.external = Addresses::parse(["192.0.2.1"]);
        node.internal = Addresses::parse(["10.1.0.1", "fd00::1"]);
    });
    let PodView::Ready(ready) = view else {
        panic!("{view:?}");
    };
    let named = |one: &Endpoint| format!("{} {}", one.name(), one.host_port());
    let endpoints: Vec<String> = ready.endpoints.iter().map(named).collect();
    assert_eq!(
        endpoints,
        ["n1 192.0.2.1:30080", "n1_ipv6 [fd00::1]:30080"],
        "of each family, the address of the preferred type that the node has"
    );
    let without = change(&mut index, |node| node.internal = Addresses::default());
    assert!(matches!(without, PodView::Unready { why: Why::NoAddress(_) }));
    assert_eq!(index.delete_node("n1").len(), 1);
    assert_eq!(index.view(&orders(), "n1"), PodView::Gone);
    assert_eq!(index.apply_node(&node("n2")), [], "nothing has changed");
}

#[test]
fn p09_pods_missing_from_a_list_leave_their_nodes_unconfirmed() {
    let mut index = with_nodes(false);
    marks(&mut index, &on("a", "n1", true));
    index.begin_pod_relist(&NamespaceScope::Cluster);
    assert_eq!(index.end_pod_relist(&NamespaceScope::Cluster), []);
    assert_eq!(taken(&mut index), ["n1", "n2"]);
    assert_eq!(index.view(&orders(), "n1"), PodView::Unready { why: Why::NotReady });
}

#[test]
fn addresses_lead_to_pods_or_have_a_readiness_of_their_own() {
    let address = |name: &str, ready: Option<bool>| Address {
        name: name.into(),
        host: Host::Name(format!("{name}.example.com").into()),
        ready,
        node: Some("n1".into()),
        zone: Some("z".into()),
        ports: None,
    };
    let addresses: Arc<[Address]> = [address("lb", None), address("own", Some(true))].into();
    let mut index = Index::new();
    let marked = index.apply_registration(Registration {
        target: Target::Addresses(addresses),
        ..of_nodes(false)
    });
    assert_eq!(marked.len(), 2);
    assert_eq!(
        (index.view(&orders(), "lb"), index.selected_count(&orders())),
        (PodView::Gone, 1)
    );
    let zone = |index: &Index| ready(index, "own").and_then(|ready| ready.endpoints[0].zone.clone());
    assert_eq!(zone(&index).as_deref(), Some("z"));
    index.apply_node(&node("n1"));
    assert_eq!(zone(&index).as_deref(), Some("a"));
    assert_eq!(marks(&mut index, &on("a", "n1", true)), ["lb", "own"]);
    let endpoint = &ready(&index, "lb").expect("ready").endpoints[0];
    assert_eq!(endpoint.host_port(), "lb.example.com:30080");
}

#[test]
fn a_changed_target_marks_what_was_registered_and_what_is() {
    let mut index = Index::new();
    index.apply_node(&node("n1"));
    index.apply_registration(registration("orders"));
    apply(&mut index, &on("a", "n1", true));
    let marked = index.apply_registration(of_nodes(false));
    let names: Vec<&str> = marked.iter().map(|mark| &*mark.pod).collect();
    assert_eq!(names, ["n1", "a"], "what is lost comes last");
    assert_eq!(index.view(&orders(), "a"), PodView::Gone);
    assert!(ready(&index, "n1").is_some());
}

#[test]
fn another_zone_of_a_node_marks_the_pods_on_it() {
    let mut index = Index::new();
    index.begin_node_relist();
    index.apply_node(&node("n1"));
    index.end_node_relist();
    index.apply_registration(registration("orders"));
    apply(&mut index, &on("a", "n1", true));
    apply(&mut index, &on("b", "n2", true));
    let moved = Node {
        labels: zone("b"),
        ..node("n1")
    };
    let marked = index.apply_node(&moved);
    assert_eq!(marked.len(), 1);
    assert_eq!(
        (
            &*marked[0].pod,
            ready(&index, "a").unwrap().endpoints[0].zone.as_deref()
        ),
        ("a", Some("b"))
    );
}

#[test]
fn host_ports_need_a_declaration_except_in_the_network_of_the_node() {
    let mut index = Index::new();
    let by_number = |number: u16| Registration {
        target: Target::HostPorts,
        ports: vec![Port {
            name: "grpc".into(),
            target: PortTarget::Number(number),
            scheme: None,
        }],
        ..registration("orders")
    };
    let mut pod = on("a", "n1", true);
    pod.host_addresses = Addresses::parse(["10.1.0.1"]);
    pod.ports[0].host_port = std::num::NonZeroU16::new(9000);
    index.apply_registration(by_number(8080));
    apply(&mut index, &pod);
    assert_eq!(
        ready(&index, "a").expect("ready").endpoints[0].host_port(),
        "10.1.0.1:9000"
    );
    index.apply_registration(by_number(8081));
    let missing = ready(&index, "a").expect("ready").missing_ports;
    assert!(missing.len() == 1 && missing[0].is_host_port);
    pod.addresses = pod.host_addresses;
    apply(&mut index, &pod);
    assert_eq!(
        ready(&index, "a").expect("ready").endpoints[0].host_port(),
        "10.1.0.1:8081"
    );
}

#[test]
fn only_changed_addresses_are_marked_and_invalidation_marks_all() {
    let address = |name: &str, ready: bool| Address {
        name: name.into(),
        host: Host::Name(name.into()),
        ready: Some(ready),
        node: None,
        zone: None,
        ports: None,
    };
    let of = |addresses: Vec<Address>| Registration {
        target: Target::Addresses(addresses.into()),
        ..of_nodes(false)
    };
    let mut index = Index::new();
    let names = |marks: Vec<DirtyMark>| marks.iter().map(|mark| mark.pod.to_string()).collect::<Vec<_>>();
    index.apply_registration(of(vec![address("a", true), address("b", true), address("c", true)]));
    let changed = of(vec![address("a", true), address("b", false), address("d", true)]);
    assert_eq!(names(index.apply_registration(changed.clone())), ["b", "d", "c"]);
    assert_eq!(index.view(&orders(), "c"), PodView::Gone);
    assert_eq!(index.apply_registration(changed.clone()), []);
    index.invalidate(&orders());
    assert_eq!(names(index.apply_registration(changed)), ["a", "b", "d"]);
}

#[test]
fn the_first_list_of_nodes_marks_the_pods_on_them() {
    let mut index = Index::new();
    index.apply_registration(registration("orders"));
    apply(&mut index, &on("a", "n1", true));
    apply(&mut index, &on("b", "n2", true));
    index.begin_node_relist();
    assert_eq!(index.apply_node(&node("n1")), []);
    assert_eq!(index.end_node_relist(), []);
    assert_eq!(taken(&mut index), ["a"]);
}

/// A registration of pods that publishes the label `rack` of nodes.
fn publishing(target: Registration) -> Registration {
    Registration {
        node_labels: vec![("cell".into(), "rack".into())],
        ..target
    }
}

fn in_rack(name: &str, rack: &str) -> Node {
    Node {
        labels: labels([("rack", rack), ("topology.kubernetes.io/zone", "a")]),
        ..node(name)
    }
}

fn cell(index: &Index, name: &str) -> Option<String> {
    let ready = ready(index, name)?;
    ready.endpoints[0].metadata.get("cell").map(ToString::to_string)
}

fn pods_of(marks: &[DirtyMark]) -> Vec<&str> {
    marks.iter().map(|mark| &*mark.pod).collect()
}

/// An index with the listed nodes `n1` and `n2`, and `registration`.
fn with_listed_nodes(registration: Registration) -> Index {
    let mut index = Index::new();
    index.begin_node_relist();
    for name in ["n1", "n2"] {
        index.apply_node(&in_rack(name, "r1"));
    }
    index.end_node_relist();
    index.apply_registration(registration);
    index
}

#[test]
fn a_published_label_marks_the_pods_on_the_node_and_no_other_label_does() {
    let mut index = with_listed_nodes(publishing(registration("orders")));
    index.apply_registration(registration("other"));
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        apply(&mut index, &on(name, node, true));
    }
    assert_eq!(cell(&index, "a").as_deref(), Some("r1"));
    let marked = index.apply_node(&in_rack("n1", "r2"));
    let expected = DirtyMark {
        registration: orders(),
        pod: "a".into(),
    };
    assert_eq!(
        marked,
        [expected],
        "the registration that does not publish it is unaffected"
    );
    assert_eq!(
        (cell(&index, "a").as_deref(), cell(&index, "b").as_deref()),
        (Some("r2"), Some("r1"))
    );
    let mut other = in_rack("n1", "r2");
    other.labels.insert("gpu".to_owned(), "none".to_owned());
    assert_eq!(index.apply_node(&other), []);
    other.labels.remove("rack");
    assert_eq!(pods_of(&index.apply_node(&other)), ["a"]);
    assert_eq!(cell(&index, "a"), None);
    index.apply_registration(registration("orders"));
    assert_eq!(
        index.apply_node(&in_rack("n1", "r3")),
        [],
        "it is not published any more"
    );
    let metadata = ready(&index, "a").expect("ready").endpoints.remove(0).metadata;
    assert!(metadata.is_empty());
}

#[test]
fn a_published_label_of_a_node_that_appears_later_marks_its_pods() {
    let mut index = with_listed_nodes(publishing(registration("orders")));
    apply(&mut index, &on("c", "n3", true));
    assert_eq!(cell(&index, "c"), None);
    let new = Node {
        labels: labels([("rack", "r7")]),
        ..node("n3")
    };
    assert_eq!(pods_of(&index.apply_node(&new)), ["c"]);
    assert_eq!(cell(&index, "c").as_deref(), Some("r7"));
}

#[test]
fn node_labels_are_published_only_for_endpoints_on_nodes() {
    let mut index = with_listed_nodes(publishing(of_nodes(false)));
    marks(&mut index, &on("a", "n1", true));
    assert_eq!(cell(&index, "n2").as_deref(), Some("r1"));
    assert_eq!(pods_of(&index.apply_node(&in_rack("n2", "r2"))), ["n2"]);
    assert_eq!(cell(&index, "n2").as_deref(), Some("r2"));
    let address = |name: &str, node: Option<&str>| Address {
        name: name.into(),
        host: Host::Name(name.into()),
        ready: Some(true),
        node: node.map(Into::into),
        zone: None,
        ports: None,
    };
    let addresses = [address("lb", None), address("vm", Some("n2"))];
    index.apply_registration(Registration {
        target: Target::Addresses(addresses.into()),
        ..publishing(of_nodes(false))
    });
    assert_eq!((cell(&index, "vm").as_deref(), cell(&index, "lb")), (Some("r2"), None));
    assert_eq!(pods_of(&index.apply_node(&in_rack("n2", "r3"))), ["vm"]);
}
