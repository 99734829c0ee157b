//! Histories made by hand of a namespace that may have two keys.

use std::time::Duration;

use super::{
    Kind, check, differences,
    tests::{LEASE, Story, VALUE, terms},
};
use crate::chaos::{
    record::{Registry, Sight},
    wanted::tests::pod,
};

impl Story {
    fn pod_of_name(&mut self, at: f64, name: &str, ready: bool) {
        self.sight(at, Sight::Pod(name.to_owned(), Some(pod(ready))));
    }
}

fn key(name: &str) -> String {
    format!("/services/shop/orders/{name}")
}

/// Three pods are ready, and two of them have keys.
fn story() -> Story {
    let mut story = Story::new();
    let registry = Registry {
        keys_per_namespace: Some(2),
        ..Registry::default()
    };
    story.sight(0.0, Sight::Registry("default".to_owned(), Some(registry)));
    for name in ["a", "b", "c"] {
        story.pod_of_name(1.0, name, true);
    }
    story.put(&key("a"), 1.1, VALUE, LEASE);
    story.put(&key("b"), 1.1, VALUE, LEASE);
    story
}

#[test]
fn a_key_above_the_quota_may_be_missing_until_there_is_room() {
    let mut story = story();
    assert_eq!(story.kinds(), []);
    assert_eq!(differences(&story.record), [""; 0]);
    let verdict = check(&story.record, &terms());
    assert_eq!(verdict.latencies.to_key, []);
    assert_eq!(verdict.quota_used_up, Duration::from_secs_f64(100.0 - 1.1));
    // There is room when one of the others is gone.
    story.pod_of_name(40.0, "a", false);
    story.delete(&key("a"), 40.1);
    assert_eq!(story.kinds(), [Kind::Loss]);
    assert_eq!(differences(&story.record).len(), 1);
    story.put(&key("c"), 40.2, VALUE, LEASE);
    assert_eq!(story.kinds(), []);
    // A pod that has a key keeps it.
    story.delete(&key("b"), 60.0);
    story.pod_of_name(60.0, "a", true);
    story.put(&key("a"), 60.1, VALUE, LEASE);
    assert_eq!(story.kinds(), [Kind::Flap]);
}

#[test]
fn more_keys_than_the_quota_allows_are_found() {
    let mut story = story();
    // A key may come a moment before another one goes.
    story.put(&key("c"), 30.0, VALUE, LEASE);
    story.pod_of_name(35.0, "a", false);
    story.delete(&key("a"), 35.1);
    assert_eq!(story.kinds(), []);
    story.pod_of_name(50.0, "a", true);
    story.put(&key("a"), 50.1, VALUE, LEASE);
    assert_eq!(story.kinds(), [Kind::Quota]);
    assert_eq!(differences(&story.record).len(), 1);
    story.record.end = Duration::from_secs(55);
    assert_eq!(story.kinds(), []);
}
