//! The last endpoint of a registration with `keep_last`.

use super::*;
use crate::plan::{GuardSettings, Moment, PodState, RegistrationSettings};

fn keeping() -> RegistrationSettings {
    RegistrationSettings {
        keep_last: true,
        ..settings(1)
    }
}

/// A rig whose registration has `keep_last` and these pods.
fn registered(pods: &[&str]) -> Rig {
    let mut rig = Rig::new();
    rig.planner.set_settings(&reference("orders"), keeping());
    for pod in pods {
        rig.ready(pod);
    }
    rig.run();
    rig
}

fn at(pod: &str) -> DesiredPod {
    desired(pod, &[&format!("/s/{pod}")], "1")
}

impl Rig {
    fn show(&mut self, pod: &str, pod_state: PodState) {
        self.planner.set_pod_state(&reference("orders"), &pod.into(), pod_state);
    }

    fn ready(&mut self, pod: &str) {
        self.show(pod, PodState::Ready(at(pod)));
    }

    fn unready(&mut self, pod: &str) {
        self.show(pod, PodState::Unready(at(pod)));
    }

    fn there(&self) -> Vec<String> {
        self.etcd.data().map(|(key, _)| key["/s/".len()..].to_owned()).collect()
    }

    fn kept(&self) -> Option<String> {
        self.report("orders").kept.map(ToString::to_string)
    }

    /// Starts a new operator that lists these pods of the registration, none of them ready.
    fn restart_with(&mut self, unready: &[&str]) {
        self.etcd.forget_watches();
        self.fence = self.etcd.elect();
        self.planner = Planner::new(meta(), 256);
        self.planner.set_settings(&reference("orders"), keeping());
        for pod in unready {
            self.unready(pod);
        }
        self.planner.kubernetes_is_complete();
    }
}

#[test]
fn the_endpoint_that_was_lost_last_stays_and_is_no_ready_pod() {
    let mut rig = registered(&["a", "b", "c"]);
    for pod in ["a", "c", "b"] {
        rig.unready(pod);
        rig.run();
    }
    assert_eq!(rig.there(), ["b"]);
    let report = rig.report("orders");
    assert_eq!((report.ready, report.registered, report.endpoints.len()), (0, 0, 1));
    assert_eq!(report.outstanding, 0);
    assert_eq!(rig.kept().as_deref(), Some("b"));
}

#[test]
fn losing_all_pods_at_once_keeps_one_key_without_a_write() {
    let mut rig = registered(&["a", "b", "c"]);
    for pod in ["a", "b", "c"] {
        rig.unready(pod);
    }
    let [transaction] = &rig.run()[..] else {
        panic!("one transaction")
    };
    assert_eq!(keys(transaction), ["/s/a", "/s/b"]);
    assert_eq!(rig.there(), ["c"]);
}

#[test]
fn kept_endpoint_is_replaced_by_a_ready_pod_or_stays_when_ready_again() {
    let mut rig = registered(&["a"]);
    rig.unready("a");
    rig.run();
    rig.ready("a");
    assert!(rig.run().is_empty());
    assert_eq!((rig.kept(), rig.report("orders").ready), (None, 1));
    rig.unready("a");
    rig.ready("b");
    rig.run();
    assert_eq!((rig.there(), rig.kept()), (vec!["b".to_owned()], None));
}

#[test]
fn a_pod_that_is_deleted_or_terminates_goes_though_it_is_the_last() {
    let mut rig = registered(&["a"]);
    rig.unready("a");
    rig.show("a", PodState::Gone(vec!["/s/a".into()]));
    rig.run();
    assert!(rig.there().is_empty());
    rig.ready("a");
    rig.run();
    rig.show("a", PodState::Gone(Vec::new()));
    rig.run();
    assert!(rig.there().is_empty());
    assert_eq!(rig.kept(), None);
}

#[test]
fn a_kept_pod_that_a_list_does_not_name_is_no_longer_kept() {
    let mut rig = registered(&["a"]);
    rig.unready("a");
    rig.show("a", PodState::Missing);
    rig.run();
    assert!(rig.there().is_empty());
}

#[test]
fn a_pod_that_never_had_a_key_is_not_the_last_endpoint() {
    let mut rig = registered(&[]);
    rig.ready("a");
    rig.unready("a");
    assert!(rig.run().is_empty());
    assert!(rig.there().is_empty());
}

#[test]
fn what_is_kept_is_put_back_when_its_lease_lapses() {
    let mut rig = registered(&["a"]);
    rig.unready("a");
    let lease = rig.lease_of("/s/a");
    rig.etcd.expire(lease);
    rig.run();
    assert_eq!(rig.there(), ["a"]);
}

#[test]
fn a_restart_keeps_the_one_that_has_keys_and_writes_nothing() {
    for guard in [GuardSettings::OFF, crate::plan::tests::unconfirmed::guard()] {
        let mut rig = registered(&["a", "b", "c"]);
        for pod in ["c", "a", "b"] {
            rig.unready(pod);
            rig.run();
        }
        rig.restart_with(&["a", "b", "c"]);
        rig.planner.set_guard(guard);
        assert!(rig.run().is_empty());
        let moment = Moment {
            now: std::time::Instant::now(),
            unix: Duration::ZERO,
        };
        rig.planner.decide_removals(moment, None, || "h".to_owned());
        assert!(rig.run().is_empty());
        assert_eq!((rig.there(), rig.kept().as_deref()), (vec!["b".to_owned()], Some("b")));
    }
}

#[test]
fn a_restart_that_finds_several_keeps_the_first_of_them() {
    let mut rig = registered(&["b", "c"]);
    rig.restart_with(&["a", "c", "b"]);
    rig.run();
    assert_eq!(rig.there(), ["b"]);
}

#[test]
fn new_leader_keeps_the_existing_endpoint_over_its_own_choice() {
    let mut rig = registered(&["a", "b"]);
    rig.planner.becomes_standby();
    // The events arrive in another order than on the leader.
    rig.unready("a");
    rig.unready("b");
    rig.etcd.foreign_delete("/s/b");
    rig.listen();
    assert_eq!(rig.kept().as_deref(), Some("b"));
    rig.planner.becomes_leader();
    assert!(rig.run().is_empty());
    assert_eq!((rig.there(), rig.kept().as_deref()), (vec!["a".to_owned()], Some("a")));
}

#[test]
fn a_registration_that_is_changed_to_remove_lets_its_last_endpoint_go() {
    let mut rig = registered(&["a"]);
    rig.unready("a");
    rig.run();
    rig.planner.set_settings(&reference("orders"), settings(1));
    rig.run();
    assert!(rig.there().is_empty());
    assert_eq!(rig.kept(), None);
}

#[test]
fn kept_endpoint_is_updated_when_its_labels_change() {
    let mut rig = registered(&["a"]);
    rig.unready("a");
    rig.show("a", PodState::Unready(desired("a", &["/s/a"], "2")));
    rig.run();
    assert_eq!(rig.etcd.value("/s/a").as_deref(), Some("2"));
}
