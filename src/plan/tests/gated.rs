//! Pods that wait for their readiness gate.

use super::*;
use crate::plan::{GatedPod, Problem};

fn gated(pod: &str, keys: &[&str], value: &str) -> DesiredPod {
    DesiredPod {
        gated: Some("u1".into()),
        ..desired(pod, keys, value)
    }
}

impl Rig {
    fn set_pod(&mut self, pod: DesiredPod) {
        self.planner.set_desired(&reference("orders"), &"p".into(), Some(pod));
    }

    /// Whether all records of `p` are in etcd, each time that it may have changed; none if nothing has changed.
    fn take_gated(&mut self) -> Option<bool> {
        let mut answers = self.planner.take_gated();
        let answer = answers.pop()?;
        assert_eq!(answers, [], "one pod waits");
        let GatedPod {
            registration,
            pod,
            uid,
            is_registered,
        } = answer;
        assert_eq!((registration, &*pod, &*uid), (reference("orders"), "p", "u1"));
        Some(is_registered)
    }
}

#[test]
fn a_gated_pod_is_registered_when_all_its_keys_are_in_etcd() {
    let mut rig = Rig::new();
    rig.set_pod(gated("p", &["/s/p/a", "/s/p/b"], "1"));
    assert_eq!(rig.take_gated(), Some(false));
    assert_eq!(rig.take_gated(), None, "nothing has changed");
    rig.run();
    assert_eq!(rig.take_gated(), Some(true));
    assert_eq!(rig.take_gated(), None);
}

#[test]
fn a_key_that_is_lost_before_the_gate_opens_counts_again() {
    let mut rig = Rig::new();
    rig.set_pod(gated("p", &["/s/p"], "1"));
    rig.run();
    assert_eq!(rig.take_gated(), Some(true));
    rig.etcd.foreign_delete("/s/p");
    rig.listen();
    assert_eq!(rig.take_gated(), Some(false));
    rig.run();
    assert_eq!(rig.take_gated(), Some(true));
}

#[test]
fn a_pod_that_waits_no_longer_is_not_reported() {
    let mut rig = Rig::new();
    rig.set_pod(gated("p", &["/s/p"], "1"));
    rig.set_pod(desired("p", &["/s/p"], "1"));
    rig.run();
    assert_eq!(rig.take_gated(), None);
}

#[test]
fn another_value_counts_only_when_it_is_written() {
    let mut rig = Rig::new();
    rig.set_pod(gated("p", &["/s/p"], "1"));
    rig.run();
    assert_eq!(rig.take_gated(), Some(true));
    rig.set_pod(gated("p", &["/s/p"], "2"));
    assert_eq!(rig.take_gated(), Some(false));
    rig.run();
    assert_eq!(rig.take_gated(), Some(true));
}

#[test]
fn a_pod_with_a_problem_is_never_registered_as_a_whole() {
    let mut rig = Rig::new();
    let pod = DesiredPod {
        problems: [Problem::Refused {
            reason: "no".to_owned(),
        }]
        .into(),
        ..gated("p", &["/s/p"], "1")
    };
    rig.set_pod(pod);
    rig.run();
    assert_eq!(rig.take_gated(), Some(false));
}

#[test]
fn a_marked_pod_is_not_registered_until_it_is_computed_again() {
    let mut rig = Rig::new();
    rig.set_pod(gated("p", &["/s/p"], "1"));
    rig.run();
    rig.planner
        .mark_edited(&reference("orders"), vec!["p".into()], Instant::now());
    rig.set_pod(gated("p", &["/s/p"], "1"));
    assert_eq!(rig.take_gated(), Some(false), "its mark is older than the records");
}

#[test]
fn a_suspended_registration_holds_no_pod_up() {
    let mut rig = Rig::new();
    rig.set_pod(gated("p", &["/s/p"], "1"));
    assert_eq!(rig.take_gated(), Some(false));
    rig.planner.set_settings(&reference("orders"), suspended(1));
    assert_eq!(rig.take_gated(), Some(true));
}
