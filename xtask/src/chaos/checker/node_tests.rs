//! Histories made by hand in which nodes change.

use serde_json::json;

use super::{
    Kind,
    tests::{KEY, LEASE, Story, VALUE},
};
use crate::chaos::{
    record::{Gate, Node, Sight},
    wanted::{
        REGION,
        tests::{node, pod},
    },
};

impl Story {
    /// The node of the pod `a` has this region from now on.
    fn region(&mut self, at: f64, region: &str) {
        self.sight(at, Sight::Node("n1".to_owned(), Some(node(&[(REGION, region)]))));
    }

    /// The node of the pod `a` is ready or not.
    fn node_ready(&mut self, at: f64, ready: bool) {
        let node = Node { ready, ..node(&[]) };
        self.sight(at, Sight::Node("n1".to_owned(), Some(node)));
    }
}

/// The region of the node of `a` is published; that is `eu` at first.
fn story() -> Story {
    let mut story = Story::new();
    story.region(0.0, "eu");
    story.register(
        0.0,
        &json!({
            "formats": [{"type": "Plain", "plain": {"value": "JSON"}}],
            "attributes": [{"name": "region", "fromNodeLabel": REGION}],
        }),
    );
    story.ready(1.0, true);
    story.ours(1.1, &of_region("eu"));
    story
}

/// The value of the key with this region.
fn of_region(region: &str) -> String {
    let value = json!({
        "address": "10.0.0.7", "port": 8080, "portName": "grpc", "node": "n1", "pod": "a", "namespace": "shop",
        "service": "orders", "metadata": {"region": region},
    });
    value.to_string()
}

#[test]
fn the_label_of_a_node_is_followed_in_place_or_is_a_loss() {
    let mut story = story();
    story.region(20.0, "us");
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.ours(20.1, &of_region("us"));
    assert_eq!(story.kinds(), []);
    story.ours(40.0, &of_region("asia"));
    assert_eq!(story.kinds(), [Kind::Unwanted, Kind::Loss]);
}

#[test]
fn lost_node_label_is_stale_and_a_key_removed_for_it_is_a_flap() {
    let mut story = story();
    story.region(20.0, "us");
    story.ours(20.1, &of_region("us"));
    story.ours(20.3, &of_region("eu"));
    story.ours(20.4, &of_region("us"));
    assert_eq!(story.kinds(), [Kind::Stale]);
    story.delete(KEY, 40.0);
    story.ours(40.1, &of_region("us"));
    assert_eq!(story.kinds(), [Kind::Stale, Kind::Flap]);
}

#[test]
fn pods_and_nodes_may_be_observed_in_another_order() {
    let mut story = story();
    story.ready(20.0, false);
    story.delete(KEY, 20.02);
    story.region(20.1, "us");
    story.ready(20.2, true);
    story.ours(20.22, &of_region("eu"));
    story.ours(20.24, &of_region("us"));
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_pod_that_waits_for_its_gate_on_a_lost_node_is_not_registered() {
    let mut story = Story::new();
    story.node_ready(0.0, true);
    story.gate(1.0, Gate::Closed);
    story.ours(1.1, VALUE);
    story.node_ready(20.0, false);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    story.delete(KEY, 20.1);
    assert_eq!(story.kinds(), []);
    story.ours(40.0, VALUE);
    story.delete(KEY, 40.1);
    assert_eq!(story.kinds(), [Kind::Stale]);
}

#[test]
fn pod_may_vanish_briefly_if_its_gate_opens_just_before_node_loss() {
    let mut story = Story::new();
    story.node_ready(0.0, true);
    story.gate(1.0, Gate::Closed);
    story.put(KEY, 1.1, VALUE, LEASE);
    story.gate(20.0, Gate::Registered);
    story.node_ready(20.1, false);
    story.delete(KEY, 20.12);
    story.ours(20.14, VALUE);
    assert_eq!(story.kinds(), []);
    // A pod that its kubelet has made ready does not depend on its node.
    story.sight(30.0, Sight::Pod("a".to_owned(), Some(pod(true))));
    story.delete(KEY, 40.0);
    story.ours(40.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Flap]);
}
