//! Histories made by hand in which the type of addresses changes, or what the Registry allows.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Kind, differences,
    tests::{KEY, LEASE, Story, VALUE},
};
use crate::chaos::{
    record::{Node, Pod, Registry, Sight},
    wanted::tests::{node, pod, service},
};

const NODE_KEY: &str = "/services/shop/orders/n1";
const RACK: &str = "example.org/rack";

impl Story {
    /// The node `n1` and the Service `orders` are there.
    fn with_node(mut self) -> Self {
        self.outside(0.0, None);
        self.sight(0.0, Sight::Service("orders".to_owned(), Some(service(false))));
        self
    }

    /// The node `n1` has this external address.
    fn outside(&mut self, at: f64, external: Option<&str>) {
        let node = Node {
            external: external.map(str::to_owned),
            ..node(&[(RACK, "r1")])
        };
        self.sight(at, Sight::Node("n1".to_owned(), Some(node)));
    }

    fn of_type(&mut self, at: f64, kind: &str) {
        self.register(at, &json!({"service": {"name": "orders"}, "address": {"type": kind}}));
    }

    /// The pod `a` has a port of its node or not.
    fn at_host(&mut self, at: f64, has_port: bool) {
        let port = ("grpc".to_owned(), 18080);
        let pod = Pod {
            host: Some("192.0.2.1".to_owned()),
            host_ports: has_port.then_some(port).into_iter().collect(),
            ..pod(true)
        };
        self.sight(at, Sight::Pod("a".to_owned(), Some(pod)));
    }

    /// The Registry allows these labels of nodes.
    fn allow(&mut self, at: f64, labels: &[&str]) {
        let registry = Registry {
            keys_per_namespace: None,
            node_labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        };
        self.sight(at, Sight::Registry("default".to_owned(), Some(registry)));
    }
}

#[test]
fn another_type_of_address_replaces_pods_by_nodes_and_back() {
    let mut story = Story::registered().with_node();
    story.of_type(20.0, "NodePort");
    let mut kinds = story.kinds();
    kinds.sort_unstable();
    assert_eq!(kinds, [Kind::Ghost, Kind::Loss]);
    assert_eq!(differences(&story.record).len(), 2);
    story.put(NODE_KEY, 20.1, "192.0.2.1:30080", LEASE);
    story.delete(KEY, 20.1);
    assert_eq!(story.kinds(), []);
    story.of_type(40.0, "PodIP");
    story.ours(40.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    story.delete(NODE_KEY, 40.1);
    assert_eq!(story.kinds(), []);
    // By the type that it no longer has.
    story.put(NODE_KEY, 60.0, "192.0.2.1:30080", LEASE);
    story.delete(NODE_KEY, 60.1);
    assert_eq!(story.kinds(), [Kind::Stale]);
}

#[test]
fn a_change_of_type_and_of_pods_may_be_observed_in_another_order() {
    let mut story = Story::registered().with_node();
    story.of_type(10.0, "NodePort");
    story.put(NODE_KEY, 10.1, "192.0.2.1:30080", LEASE);
    story.delete(KEY, 10.1);
    story.ready(19.9, false);
    story.of_type(20.0, "ExternalIP");
    story.delete(NODE_KEY, 20.1);
    story.ready(20.2, true);
    // By the type of before and the pod as it is again; then comes the type.
    story.put(NODE_KEY, 20.3, "192.0.2.1:30080", LEASE);
    story.delete(NODE_KEY, 20.4);
    story.put("/services/shop/orders/192-0-2-10", 20.4, "192.0.2.10:80", LEASE);
    assert_eq!(story.kinds(), []);
    // The type changed long before.
    let mut story = Story::registered().with_node();
    story.of_type(10.0, "NodePort");
    story.put(NODE_KEY, 10.1, "192.0.2.1:30080", LEASE);
    story.delete(KEY, 10.1);
    story.of_type(20.0, "ExternalIP");
    story.put("/services/shop/orders/192-0-2-10", 20.1, "192.0.2.10:80", LEASE);
    story.delete(NODE_KEY, 20.1);
    story.ready(40.0, false);
    story.delete("/services/shop/orders/192-0-2-10", 40.1);
    story.ready(40.2, true);
    story.put("/services/shop/orders/192-0-2-10", 40.3, "192.0.2.10:80", LEASE);
    assert_eq!(story.kinds(), []);
    story.put(NODE_KEY, 40.3, "192.0.2.1:30080", LEASE);
    story.delete(NODE_KEY, 40.4);
    assert_eq!(story.kinds(), [Kind::Stale]);
}

#[test]
fn a_pod_without_a_host_port_may_keep_the_keys_of_the_previous_spec() {
    let edited = |has_port: bool| {
        let mut story = Story::new();
        story.at_host(1.0, has_port);
        story.ours(1.1, VALUE);
        story.of_type(20.0, "HostIP");
        story
    };
    let mut story = edited(false);
    assert_eq!(story.kinds(), []);
    assert_eq!(differences(&story.record), [""; 0]);
    // They follow the pod.
    story.ready(40.0, false);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    story.delete(KEY, 40.1);
    assert_eq!(story.kinds(), []);
    // What can be written replaces them.
    let mut story = edited(true);
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.ours(20.1, "192.0.2.1:18080");
    assert_eq!(story.kinds(), []);
    // No spec asked for a key at the address of the pod.
    let mut story = Story::new();
    story.of_type(0.5, "HostIP");
    story.at_host(1.0, true);
    story.ours(1.1, "192.0.2.1:18080");
    story.at_host(20.0, false);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    story.delete(KEY, 20.1);
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_pod_of_a_registration_of_nodes_waits_when_that_registers_pods() {
    let written = |at: f64| {
        let mut story = Story::new().with_node();
        story.of_type(0.0, "NodePort");
        let pod = Pod {
            since: Some(Duration::from_secs(10)),
            ..pod(true)
        };
        story.sight(10.1, Sight::Pod("a".to_owned(), Some(pod)));
        story.put(NODE_KEY, 10.2, "192.0.2.1:30080", LEASE);
        story.register(11.0, &json!({"minReadySeconds": 3}));
        story.delete(NODE_KEY, 11.1);
        story.ours(at, VALUE);
        story.kinds()
    };
    assert_eq!(written(11.1), [Kind::Early]);
    assert_eq!(written(13.05), []);
}

#[test]
fn a_node_is_registered_at_its_external_address_from_the_time_that_it_has_one() {
    let mut story = Story::registered().with_node();
    story.delete(KEY, 2.0);
    story.of_type(2.0, "NodePort");
    story.put(NODE_KEY, 2.1, "192.0.2.1:30080", LEASE);
    story.outside(20.0, Some("198.51.100.1"));
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.put(NODE_KEY, 20.1, "198.51.100.1:30080", LEASE);
    assert_eq!(story.kinds(), []);
    story.put(NODE_KEY, 40.0, "192.0.2.1:30080", LEASE);
    story.put(NODE_KEY, 40.1, "198.51.100.1:30080", LEASE);
    assert_eq!(story.kinds(), [Kind::Stale]);
}

/// The value of `a` with this rack of its node.
fn in_rack(rack: Option<&str>) -> String {
    let mut value: Value = json!({
        "address": "10.0.0.7", "port": 8080, "portName": "grpc", "node": "n1", "pod": "a", "namespace": "shop",
        "service": "orders",
    });
    if let Some(rack) = rack {
        value["metadata"] = json!({"rack": rack});
    }
    value.to_string()
}

/// The rack of the node of `a` is published, which the Registry allows from the beginning.
fn published() -> Story {
    let mut story = Story::new().with_node();
    story.allow(0.0, &[RACK]);
    story.register(
        0.0,
        &json!({
            "formats": [{"type": "Plain", "plain": {"value": "JSON"}}],
            "attributes": [{"name": "rack", "fromNodeLabel": RACK}],
        }),
    );
    story.ready(1.0, true);
    story.ours(1.1, &in_rack(Some("r1")));
    story
}

#[test]
fn a_label_that_the_registry_no_longer_allows_leaves_the_records() {
    let mut story = published();
    assert_eq!(story.kinds(), []);
    story.allow(20.0, &[]);
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.ours(20.1, &in_rack(None));
    assert_eq!(story.kinds(), []);
    story.ours(40.0, &in_rack(Some("r1")));
    story.ours(40.1, &in_rack(None));
    assert_eq!(story.kinds(), [Kind::Stale]);
    story.allow(60.0, &[RACK, "example.org/other"]);
    story.ours(60.1, &in_rack(Some("r1")));
    assert_eq!(story.kinds(), [Kind::Stale]);
}

#[test]
fn the_registry_and_pods_may_be_observed_in_another_order() {
    let mut story = published();
    story.ready(20.0, false);
    story.delete(KEY, 20.02);
    story.allow(20.1, &[]);
    story.ready(20.2, true);
    story.ours(20.22, &in_rack(Some("r1")));
    story.ours(20.24, &in_rack(None));
    assert_eq!(story.kinds(), []);
    story.ready(40.0, false);
    story.delete(KEY, 40.02);
    story.ready(40.2, true);
    story.ours(40.22, &in_rack(Some("r1")));
    story.ours(40.24, &in_rack(None));
    assert_eq!(story.kinds(), [Kind::Stale]);
}
