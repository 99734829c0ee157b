//! Histories made by hand of pods with two addresses.

use serde_json::json;

use super::{
    Kind,
    tests::{KEY, LEASE, Story, VALUE},
};
use crate::chaos::{
    record::{Pod, Sight},
    wanted::tests::pod,
};

const SECOND: &str = "/services/shop/orders/a_ipv6";

impl Story {
    /// The pod `a` has a second address or not.
    fn second(&mut self, at: f64, address: Option<&str>) {
        let pod = Pod {
            ipv6: address.map(str::to_owned),
            ..pod(true)
        };
        self.sight(at, Sight::Pod("a".to_owned(), Some(pod)));
    }
}

/// The pod `a` is registered with both its addresses.
fn story() -> Story {
    let mut story = Story::new();
    story.register(0.0, &json!({"address": {"ipFamilies": ["IPv4", "IPv6"]}}));
    story.second(1.0, Some("fd00::7"));
    story.ours(1.1, VALUE);
    story.put(SECOND, 1.1, "[fd00::7]:8080", LEASE);
    story
}

#[test]
fn the_second_address_comes_and_goes_alone() {
    let mut story = story();
    story.second(20.0, None);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    story.delete(SECOND, 20.1);
    assert_eq!(story.kinds(), []);
    story.second(40.0, Some("fd00::8"));
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.put(SECOND, 40.1, "[fd00::8]:8080", LEASE);
    assert_eq!(story.kinds(), []);
}

#[test]
fn the_first_address_under_the_second_name_is_wrong() {
    let mut story = story();
    story.put(SECOND, 20.0, VALUE, LEASE);
    story.put(SECOND, 20.1, "[fd00::7]:8080", LEASE);
    assert_eq!(story.kinds(), [Kind::Unwanted]);
    story.delete(KEY, 40.0);
    story.ours(40.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Unwanted, Kind::Flap]);
}
