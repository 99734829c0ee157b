//! Histories made by hand in which pods must have been ready for a while.

use std::time::Duration;

use serde_json::json;

use super::{
    Kind, check, differences,
    tests::{KEY, LEASE, Story, VALUE},
};
use crate::chaos::{
    record::{FaultKind, Pod, Sight},
    wanted::tests::pod,
};

impl Story {
    /// `orders` waits for so many seconds.
    fn patient(at: f64, seconds: u64) -> Self {
        let mut story = Self::new();
        story.wait(at, seconds);
        story
    }

    fn wait(&mut self, at: f64, seconds: u64) {
        self.register(at, &json!({"minReadySeconds": seconds}));
    }

    /// The pod `a` is ready, by Kubernetes since another moment.
    fn ready_since(&mut self, at: f64, since: f64) {
        let pod = Pod {
            since: Some(Duration::from_secs_f64(since)),
            ..pod(true)
        };
        self.sight(at, Sight::Pod("a".to_owned(), Some(pod)));
    }
}

#[test]
fn a_pod_that_has_waited_is_registered_in_time() {
    let mut story = Story::patient(0.0, 3);
    story.ready_since(10.2, 10.0);
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.ours(13.05, VALUE);
    assert_eq!(story.kinds(), []);
    let latencies = check(&story.record, &super::tests::terms()).latencies;
    assert_eq!(latencies.to_key[0].took, Duration::from_millis(50));
}

#[test]
fn a_pod_that_does_not_wait_is_too_early() {
    let mut story = Story::patient(0.0, 3);
    story.ready_since(10.2, 10.0);
    story.ours(12.8, VALUE);
    assert_eq!(story.kinds(), [Kind::Early]);
    // Also after an interruption, seen or not.
    for seen in [true, false] {
        let mut story = Story::patient(0.0, 3);
        story.ready_since(10.2, 10.0);
        story.ours(13.0, VALUE);
        if seen {
            story.ready(30.0, false);
        }
        story.ready_since(30.3, 30.0);
        story.delete(KEY, 30.31);
        story.ours(30.5, VALUE);
        assert_eq!(story.kinds(), [Kind::Early], "{seen}");
    }
}

#[test]
fn an_edit_lets_waiting_pods_in_and_puts_no_registered_one_out() {
    let mut story = Story::patient(0.0, 3);
    story.ready_since(10.2, 10.0);
    story.wait(11.0, 0);
    story.ours(11.1, VALUE);
    story.wait(11.5, 3);
    assert_eq!(story.kinds(), []);
    story.delete(KEY, 20.0);
    story.ours(20.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Flap]);
}

#[test]
fn an_edit_that_moves_a_registered_pod_does_not_make_it_wait() {
    let mut story = Story::patient(0.0, 0);
    story.ready_since(10.2, 10.0);
    story.ours(10.3, VALUE);
    let moved = json!({"minReadySeconds": 3, "formats": [{"type": "Plain", "plain": {"prefix": "/x"}}]});
    story.register(10.5, &moved);
    story.put("/x/a", 10.6, VALUE, LEASE);
    story.delete(KEY, 10.6);
    assert_eq!(story.kinds(), []);
}

#[test]
fn pod_may_be_observed_before_the_edit_that_makes_it_wait() {
    let mut story = Story::patient(0.0, 0);
    story.wait(10.0, 3);
    story.ready_since(10.2, 10.0);
    // By the spec of before.
    story.ours(10.3, VALUE);
    assert_eq!(story.kinds(), []);
    let mut story = Story::patient(0.0, 0);
    story.wait(10.0, 3);
    story.ready_since(20.2, 20.0);
    story.ours(20.3, VALUE);
    assert_eq!(story.kinds(), [Kind::Early]);
}

#[test]
fn paused_leader_may_follow_each_earlier_state_of_a_pod_in_turn() {
    let mut story = Story::patient(0.0, 1);
    story.ready_since(13.6, 13.4);
    story.ready(13.9, false);
    story.ready_since(15.2, 14.4);
    story.fault(FaultKind::OperatorPause, 13.7, 15.8, true);
    // It has waited by the first state, and receives the other two after that.
    story.ours(15.82, VALUE);
    story.delete(KEY, 15.95);
    story.ours(16.43, VALUE);
    assert_eq!(story.kinds(), []);
    story.delete(KEY, 30.0);
    assert_eq!(story.kinds(), [Kind::Flap, Kind::Loss], "no state explains it by then");
}

#[test]
fn registered_pod_that_waited_is_judged_like_any_other_while_all_is_well() {
    let registered = || {
        let mut story = Story::patient(0.0, 1);
        story.ready_since(10.2, 10.0);
        story.ours(11.05, VALUE);
        story
    };
    let mut story = registered();
    story.delete(KEY, 11.5);
    story.ours(11.7, VALUE);
    assert_eq!(story.kinds(), [Kind::Stale], "nothing has changed");
    let mut story = registered();
    story.ready(11.3, false);
    story.delete(KEY, 11.35);
    story.ready_since(11.5, 11.4);
    story.ours(11.6, VALUE);
    assert_eq!(story.kinds(), [Kind::Early], "it has to wait again");
}

#[test]
fn time_goes_on_while_servers_are_away() {
    let mut story = Story::patient(0.0, 3);
    story.ready_since(10.2, 10.0);
    story.fault(FaultKind::ApiserverKill, 10.5, 18.0, false);
    story.ours(13.1, VALUE);
    assert_eq!(story.kinds(), []);
    let mut story = Story::patient(0.0, 3);
    story.ready_since(10.2, 10.0);
    story.fault(FaultKind::OperatorsKill, 10.5, 12.0, true);
    story.ours(12.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Early]);
}

#[test]
fn a_pod_that_waits_is_not_at_rest() {
    let mut story = Story::patient(0.0, 3);
    story.ready_since(99.5, 99.0);
    assert_eq!(differences(&story.record).len(), 1);
    story.ours(102.0, VALUE);
    assert_eq!(differences(&story.record), [""; 0]);
}
