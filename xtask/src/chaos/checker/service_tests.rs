//! Histories made by hand of what leads to a Service.

use serde_json::{Value, json};

use super::{
    Kind, differences,
    tests::{LEASE, Story},
};
use crate::chaos::{
    record::{FaultKind, Node, Pod, Service, Sight},
    wanted::tests::{node, pod, service},
};

const KEY: &str = "/services/shop/orders/n1";

impl Story {
    /// The Service `orders` has this traffic policy.
    fn serve(&mut self, at: f64, local: bool) {
        self.sight(at, Sight::Service("orders".to_owned(), Some(service(local))));
    }

    /// The node `n1` is like this.
    fn node(&mut self, at: f64, ready: bool, excluded: bool) {
        let node = Node {
            ready,
            excluded,
            ..node(&[])
        };
        self.sight(at, Sight::Node("n1".to_owned(), Some(node)));
    }

    /// A pod on a node is ready or not.
    fn pod_on(&mut self, at: f64, name: &str, node: &str, ready: bool) {
        let pod = Pod {
            node: Some(node.to_owned()),
            ..pod(ready)
        };
        self.sight(at, Sight::Pod(name.to_owned(), Some(pod)));
    }

    fn put_node(&mut self, at: f64, weight: Option<u64>) {
        self.put(KEY, at, &of_weight(weight), LEASE);
    }
}

fn of_weight(weight: Option<u64>) -> String {
    let mut value = json!({
        "address": "192.0.2.1", "port": 30080, "portName": "grpc", "node": "n1", "pod": "n1", "namespace": "shop",
        "service": "orders",
    });
    if let Some(weight) = weight {
        value["weight"] = json!(weight);
    }
    value.to_string()
}

/// The nodes of the Service `orders` are registered, and `a` on `n1` and `b` on `n2` are ready.
fn story(local: bool) -> Story {
    let mut story = Story::new();
    let json: Value = json!([{"type": "Plain", "plain": {"value": "JSON"}}]);
    let spec = json!({"service": {"name": "orders"}, "address": {"type": "NodePort"}, "formats": json});
    story.register(0.0, &spec);
    story.serve(0.0, local);
    story.node(0.0, true, false);
    story.pod_on(1.0, "a", "n1", true);
    story.pod_on(1.0, "b", "n2", true);
    story.put_node(1.1, local.then_some(1));
    story
}

#[test]
fn a_node_is_registered_until_no_pod_serves() {
    let mut story = story(false);
    story.pod_on(20.0, "a", "n1", false);
    assert_eq!(story.kinds(), []);
    assert_eq!(differences(&story.record), [""; 0]);
    story.pod_on(30.0, "b", "n2", false);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    assert_eq!(differences(&story.record).len(), 1);
    story.delete(KEY, 30.1);
    assert_eq!(story.kinds(), []);
    story.pod_on(50.0, "b", "n2", true);
    assert_eq!(story.kinds(), [Kind::Loss]);
}

#[test]
fn a_node_that_is_not_ready_or_excluded_must_go_and_another_must_not() {
    for (ready, excluded) in [(false, false), (true, true)] {
        let mut story = story(false);
        story.node(20.0, ready, excluded);
        assert_eq!(story.kinds(), [Kind::Ghost]);
        story.delete(KEY, 20.1);
        assert_eq!(story.kinds(), []);
    }
    let mut story = story(false);
    story.delete(KEY, 20.1);
    story.put_node(20.2, None);
    assert_eq!(story.kinds(), [Kind::Flap]);
}

#[test]
fn with_local_traffic_the_weight_is_the_number_of_pods_on_the_node() {
    let mut story = story(true);
    story.pod_on(20.0, "b", "n2", false);
    story.pod_on(20.0, "c", "n1", true);
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.put_node(20.1, Some(2));
    assert_eq!(story.kinds(), []);
    story.put_node(20.2, Some(1));
    story.put_node(20.3, Some(2));
    assert_eq!(story.kinds(), [Kind::Stale]);
    story.put_node(40.0, Some(3));
    story.put_node(40.1, Some(2));
    assert_eq!(story.kinds(), [Kind::Stale, Kind::Unwanted]);
    story.pod_on(60.0, "a", "n1", false);
    story.pod_on(60.0, "c", "n1", false);
    story.delete(KEY, 60.1);
    assert_eq!(story.kinds(), [Kind::Stale, Kind::Unwanted]);
}

#[test]
fn service_and_its_pods_may_be_observed_in_another_order() {
    let mut story = story(true);
    story.serve(20.0, false);
    story.pod_on(20.1, "a", "n1", false);
    // By the pods as they are now and the policy of before; then comes the policy.
    story.delete(KEY, 20.12);
    story.put_node(20.14, None);
    assert_eq!(story.kinds(), []);
    story.delete(KEY, 40.0);
    story.put_node(40.1, None);
    assert_eq!(story.kinds(), [Kind::Flap]);
}

#[test]
fn service_addresses_are_followed_until_the_last_pod_stops_serving() {
    let key = |name: &str| format!("/services/shop/orders/{name}");
    let mut story = Story::new();
    story.register(
        0.0,
        &json!({"service": {"name": "orders"}, "address": {"type": "ExternalIP"}}),
    );
    story.serve(0.0, false);
    story.pod_on(1.0, "a", "n1", true);
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.put(&key("192-0-2-10"), 1.1, "192.0.2.10:80", LEASE);
    assert_eq!(story.kinds(), []);
    let moved = Service {
        external_ips: vec!["192.0.2.11".to_owned()],
        ..service(false)
    };
    story.sight(20.0, Sight::Service("orders".to_owned(), Some(moved)));
    story.put(&key("192-0-2-11"), 20.1, "192.0.2.11:80", LEASE);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    story.delete(&key("192-0-2-10"), 20.2);
    assert_eq!(story.kinds(), []);
    story.pod_on(40.0, "a", "n1", false);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    story.delete(&key("192-0-2-11"), 40.1);
    assert_eq!(story.kinds(), []);
    story.put(&key("192-0-2-11"), 60.0, "192.0.2.11:80", LEASE);
    story.delete(&key("192-0-2-11"), 60.1);
    assert_eq!(story.kinds(), [Kind::Stale]);
}

#[test]
fn a_list_of_pods_has_no_order_but_a_watch_has_one() {
    let mut story = story(true);
    story.pod_on(20.0, "a", "n1", false);
    story.pod_on(20.0, "c", "n1", true);
    story.put_node(20.1, Some(2));
    story.put_node(20.2, Some(1));
    assert_eq!(story.kinds(), [Kind::Unwanted]);
    story.fault(FaultKind::ApiserverKill, 15.0, 19.0, false);
    assert_eq!(story.kinds(), []);
    story.put_node(20.3, Some(3));
    story.put_node(20.4, Some(1));
    assert_eq!(story.kinds(), [Kind::Unwanted]);
}
