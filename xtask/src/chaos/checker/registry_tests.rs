//! Histories made by hand with two Registries and two namespaces.

use serde_json::json;

use super::{
    Kind,
    tests::{KEY, Story, VALUE},
};
use crate::chaos::{
    record::{FaultKind, Pod, Sight},
    wanted::tests::pod,
};

const EDGE_LEADER: &str = "/leasehold-edge/cluster/registries/edge/leader";
const EDGE_RECORD: &str = "/leasehold-edge/cluster/registries/edge/leases/0000000000000008";
const EDGE_LEASE: i64 = 8;

impl Story {
    /// `orders` is in the Registry `edge`, which has a leader and a lease of its own.
    fn at_the_edge() -> Self {
        let mut story = Self::new();
        story.put(EDGE_LEADER, 0.0, "{}", 3);
        story.put(EDGE_RECORD, 0.0, "{}", EDGE_LEASE);
        story.register(0.0, &json!({"registryRef": {"name": "edge"}}));
        story.ready(1.0, true);
        story
    }

    /// The fault was one of the operators of a Registry.
    fn of_registry(&mut self, registry: &str) {
        let fault = self.record.faults.last_mut().expect("a fault");
        fault.registry = Some(registry.to_owned());
    }
}

#[test]
fn a_key_on_a_lease_of_another_registry_is_unfenced() {
    let mut story = Story::at_the_edge();
    story.put(KEY, 1.1, VALUE, EDGE_LEASE);
    assert_eq!(story.kinds(), []);
    let mut story = Story::at_the_edge();
    story.ours(1.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Unfenced]);
}

#[test]
fn a_write_needs_a_leader_of_its_own_registry() {
    let written = |leader: &str| {
        let mut story = Story::at_the_edge();
        story.put(KEY, 1.1, VALUE, EDGE_LEASE);
        story.delete(leader, 19.0);
        story.ready(20.0, false);
        story.delete(KEY, 20.1);
        story.kinds()
    };
    assert_eq!(written(EDGE_LEADER), [Kind::Unfenced]);
    assert_eq!(written("/leasehold/cluster/leader"), []);
}

#[test]
fn faults_of_the_operators_of_another_registry_excuse_nothing() {
    let ghost = |registry: &str| {
        let mut story = Story::registered();
        story.ready(20.0, false);
        story.fault(FaultKind::OperatorsGone, 19.0, 99.0, true);
        story.of_registry(registry);
        story.kinds()
    };
    assert_eq!(ghost("edge"), [Kind::Ghost]);
    assert_eq!(ghost("default"), []);
    let lapse = |registry: &str| {
        let mut story = Story::registered();
        story.lapse(40.0);
        story.put("/leasehold/cluster/leases/0000000000000007", 40.0, "{}", 7);
        story.ours(40.1, VALUE);
        story.fault(FaultKind::OperatorsGone, 24.0, 42.0, true);
        story.of_registry(registry);
        story.kinds()
    };
    assert_eq!(lapse("edge"), [Kind::Lapse]);
    assert_eq!(lapse("default"), []);
}

#[test]
fn a_pod_of_another_namespace_is_not_registered() {
    let elsewhere = |namespace: &str| {
        let mut story = Story::new();
        let pod = Pod {
            namespace: namespace.to_owned(),
            ..pod(true)
        };
        story.sight(1.0, Sight::Pod("a".to_owned(), Some(pod)));
        story.ours(1.1, VALUE);
        story.kinds()
    };
    assert_eq!(elsewhere("shop"), []);
    assert_eq!(elsewhere("elsewhere"), [Kind::Unwanted, Kind::Ghost]);
}
