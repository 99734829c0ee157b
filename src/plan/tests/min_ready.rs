//! Pods that wait until they have been ready for `minReadySeconds`.

use std::num::{NonZeroU16, NonZeroU32};

use super::*;
use crate::api::GuardMode;
use crate::index::MinReady;
use crate::plan::{DesiredState, GuardSettings, Hold, Moment, PodState, Problem};

/// The time of day when the tests begin.
const DAY: u32 = 1_800_000_000;
const WAIT: u16 = 30;

/// A simulated clock, and the pods that Kubernetes shows.
struct Waiting {
    rig: Rig,
    began: Instant,
    /// Seconds since the test began.
    now: u32,
    pods: Shown,
}

/// The present state of each pod.
#[derive(Default)]
struct Shown(std::collections::BTreeMap<Arc<str>, PodState>);

impl DesiredState for Shown {
    fn selecting(&self, _: &str, _: &str) -> Vec<crate::model::RegistrationRef> {
        Vec::new()
    }

    fn selects(&self, _: &crate::model::RegistrationRef, _: &str) -> bool {
        true
    }

    fn is_alive(&self, _: &str, pod: &str) -> bool {
        self.0.contains_key(pod)
    }

    fn pod_state(&self, _: &crate::model::RegistrationRef, pod: &str) -> Option<PodState> {
        self.0.get(pod).cloned()
    }
}

fn at(pod: &str) -> DesiredPod {
    desired(pod, &[&format!("/s/{pod}")], "1")
}

/// A pod that is ready since this second of the test, in a registration that asks for `seconds`.
fn ready(pod: &str, since: u32, seconds: u16) -> PodState {
    PodState::Ready(DesiredPod {
        min_ready: NonZeroU16::new(seconds).map(|seconds| MinReady {
            since: NonZeroU32::new(DAY + since),
            seconds,
        }),
        ..at(pod)
    })
}

fn gated(pod: &str, since: u32, uid: Option<&str>) -> PodState {
    let PodState::Ready(desired) = ready(pod, since, WAIT) else {
        unreachable!()
    };
    PodState::Ready(DesiredPod {
        gated: uid.map(Into::into),
        ..desired
    })
}

impl Waiting {
    fn new() -> Self {
        let mut waiting = Self {
            rig: Rig::new(),
            began: Instant::now(),
            now: 0,
            pods: Shown::default(),
        };
        waiting.sleep(0);
        waiting.rig.listen();
        waiting
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.began + Duration::from_secs(self.now.into()),
            unix: Duration::from_secs((DAY + self.now).into()),
        }
    }

    /// Lets time pass.
    fn sleep(&mut self, seconds: u32) {
        self.now += seconds;
        let moment = self.moment();
        self.rig.planner.set_time(moment);
    }

    fn show(&mut self, pod: &str, pod_state: PodState) {
        self.pods.0.insert(pod.into(), pod_state.clone());
        self.rig
            .planner
            .set_pod_state(&reference("orders"), &pod.into(), pod_state);
    }

    /// Carries out all steps. Returns the pods that have a key.
    fn there(&mut self) -> Vec<String> {
        self.rig.planner.refresh_all(&self.pods, usize::MAX);
        self.rig.run();
        self.rig.listen();
        let keys = self.rig.etcd.data().map(|(key, _)| key["/s/".len()..].to_owned());
        keys.collect()
    }

    /// How many pods are ready, waiting and registered, as the status says.
    fn counts(&self) -> (usize, usize, usize) {
        let report = self.rig.report("orders");
        (report.ready, report.waiting.len(), report.registered)
    }

    fn waits_until(&self) -> Option<u32> {
        let end = self.rig.planner.next_available_at()?;
        u32::try_from((end - self.began).as_secs()).ok()
    }

    /// Starts another operator at the same etcd. It receives the pods before it reads etcd.
    fn restart(&mut self) {
        self.rig.etcd.forget_watches();
        self.rig.fence = self.rig.etcd.elect();
        self.rig.planner = Planner::new(meta(), 256);
        self.rig.planner.set_settings(&reference("orders"), settings(1));
        self.sleep(0);
        for (pod, pod_state) in &self.pods.0 {
            self.rig
                .planner
                .set_pod_state(&reference("orders"), pod, pod_state.clone());
        }
        self.rig.planner.kubernetes_is_complete();
    }
}

const NONE: [&str; 0] = [];

#[test]
fn a_pod_is_registered_when_it_has_been_ready_for_long_enough() {
    let mut waiting = Waiting::new();
    waiting.sleep(10);
    waiting.show("a", ready("a", 5, WAIT));
    assert_eq!(waiting.there(), NONE);
    assert_eq!((waiting.counts(), waiting.waits_until()), ((1, 1, 0), Some(35)));
    waiting.sleep(24);
    assert_eq!(waiting.there(), NONE);
    waiting.sleep(1);
    assert_eq!(waiting.there(), ["a"]);
    assert_eq!((waiting.counts(), waiting.waits_until()), ((1, 0, 1), None));
}

#[test]
fn a_pod_that_is_ready_for_long_or_needs_no_time_does_not_wait() {
    let mut waiting = Waiting::new();
    waiting.sleep(40);
    waiting.show("a", ready("a", 10, WAIT));
    waiting.show("b", ready("b", 40, 0));
    assert_eq!(waiting.there(), ["a", "b"]);
    assert_eq!(waiting.waits_until(), None);
}

#[test]
fn a_pod_that_stops_being_ready_or_is_gone_waits_no_longer() {
    let mut waiting = Waiting::new();
    waiting.show("a", ready("a", 0, WAIT));
    waiting.show("b", ready("b", 0, WAIT));
    waiting.show("c", ready("c", 0, WAIT));
    assert_eq!(waiting.counts(), (3, 3, 0));
    waiting.show("a", PodState::Unready(at("a")));
    waiting.show("b", PodState::Gone(Vec::new()));
    waiting.show("c", PodState::Missing);
    assert_eq!((waiting.counts(), waiting.waits_until()), ((0, 0, 0), None));
    waiting.sleep(60);
    assert_eq!(waiting.there(), NONE);
}

#[test]
fn a_deleted_registration_has_no_waiting_pods() {
    let mut waiting = Waiting::new();
    waiting.show("a", ready("a", 0, WAIT));
    waiting.rig.planner.remove_registration(&reference("orders"));
    assert_eq!(waiting.waits_until(), None);
}

#[test]
fn interruption_restarts_the_wait_even_if_only_ready_since_shows_it() {
    let mut waiting = Waiting::new();
    waiting.show("a", ready("a", 0, WAIT));
    waiting.sleep(20);
    waiting.show("a", ready("a", 15, WAIT));
    waiting.sleep(24);
    assert_eq!(waiting.there(), NONE);
    waiting.sleep(1);
    assert_eq!(waiting.there(), ["a"]);
    waiting.sleep(60);
    waiting.show("a", ready("a", 100, WAIT));
    assert_eq!((waiting.there(), waiting.counts()), (Vec::new(), (1, 1, 0)));
    waiting.sleep(25);
    assert_eq!(waiting.there(), ["a"]);
}

#[test]
fn an_interrupted_pod_waits_while_its_key_is_still_being_removed() {
    let mut waiting = Waiting::new();
    waiting.sleep(60);
    waiting.show("a", ready("a", 0, WAIT));
    assert_eq!(waiting.there(), ["a"]);
    waiting.show("a", PodState::Unready(at("a")));
    waiting.show("a", ready("a", 59, WAIT));
    waiting.show("a", ready("a", 59, WAIT));
    assert_eq!(waiting.there(), NONE);
}

#[test]
fn another_pod_of_the_same_name_waits() {
    let mut waiting = Waiting::new();
    waiting.sleep(60);
    waiting.show("a", ready("a", 0, WAIT));
    assert_eq!(waiting.there(), ["a"]);
    waiting.show("a", PodState::Gone(Vec::new()));
    waiting.show("a", ready("a", 60, WAIT));
    assert_eq!(waiting.there(), NONE);
    waiting.sleep(30);
    assert_eq!(waiting.there(), ["a"]);
}

#[test]
fn edit_of_the_wait_keeps_registered_pods_and_reschedules_others() {
    let mut waiting = Waiting::new();
    waiting.sleep(10);
    waiting.show("a", ready("a", 5, 0));
    assert_eq!(waiting.there(), ["a"]);
    waiting.show("a", ready("a", 5, WAIT));
    waiting.show("b", ready("b", 10, WAIT));
    assert_eq!(waiting.there(), ["a"]);
    waiting.show("a", ready("a", 5, 600));
    waiting.show("b", ready("b", 10, 600));
    assert_eq!(
        (waiting.there(), waiting.waits_until()),
        (vec!["a".to_owned()], Some(610))
    );
    waiting.show("b", ready("b", 10, 5));
    assert_eq!(waiting.waits_until(), Some(15));
    waiting.show("b", ready("b", 10, 0));
    assert_eq!(waiting.there(), ["a", "b"]);
}

#[test]
fn a_clock_that_is_behind_keeps_a_pod_out_for_no_longer_than_it_must_wait() {
    let mut waiting = Waiting::new();
    let timeless = PodState::Ready(DesiredPod {
        min_ready: NonZeroU16::new(WAIT).map(|seconds| MinReady { since: None, seconds }),
        ..at("b")
    });
    for _ in 0..2 {
        waiting.show("a", ready("a", 1000, WAIT));
        waiting.show("b", timeless.clone());
        // Another event of a waiting pod does not begin the wait again.
        assert_eq!(waiting.waits_until(), Some(30));
        waiting.sleep(15);
    }
    assert_eq!(waiting.there(), ["a", "b"]);
    waiting.show("a", ready("a", 1000, WAIT));
    assert_eq!(waiting.there(), ["a", "b"], "its time is still to come");
}

#[test]
fn a_restart_removes_no_registered_pod_and_registers_no_waiting_one() {
    let mut waiting = Waiting::new();
    waiting.show("a", ready("a", 0, 0));
    assert_eq!(waiting.there(), ["a"]);
    let before = waiting.rig.etcd.held("/s/a").cloned();
    waiting.show("a", ready("a", 0, WAIT));
    waiting.show("b", ready("b", 0, WAIT));
    waiting.sleep(10);
    waiting.restart();
    assert_eq!(waiting.there(), ["a"]);
    assert_eq!(waiting.rig.etcd.held("/s/a").cloned(), before);
    assert_eq!((waiting.counts(), waiting.waits_until()), ((2, 1, 1), Some(30)));
    waiting.sleep(20);
    assert_eq!(waiting.there(), ["a", "b"]);
}

#[test]
fn a_new_leader_keeps_what_another_one_has_registered_sooner_by_its_clock() {
    let mut waiting = Waiting::new();
    waiting.show("b", ready("b", 0, 0));
    assert_eq!(waiting.there(), ["b"]);
    waiting.show("a", ready("a", 0, WAIT));
    assert_eq!(waiting.there(), ["b"]);
    // The other leader writes the key, and this replica only watches.
    let lease = waiting.rig.lease_of("/s/b");
    let put = Op::Put {
        key: "/s/a".into(),
        value: b"1".as_slice().into(),
        lease,
        expect: Expect::Absent,
    };
    waiting.rig.commit(&Transaction::of(vec![put]));
    waiting.rig.listen();
    let revision = waiting.rig.etcd.revision();
    waiting.rig.planner.becomes_leader();
    assert_eq!(waiting.there(), ["a", "b"]);
    assert_eq!(waiting.rig.etcd.revision(), revision, "the key was never removed");
    assert_eq!((waiting.counts(), waiting.waits_until()), ((2, 0, 2), None));
}

#[test]
fn a_gated_pod_waits_before_its_gate_opens_and_not_afterwards() {
    let mut waiting = Waiting::new();
    let gate = |waiting: &mut Waiting| {
        let answers = waiting.rig.planner.take_gated();
        answers.last().map(|answer| answer.is_registered)
    };
    waiting.show("a", gated("a", 0, Some("u1")));
    assert_eq!((waiting.there(), gate(&mut waiting)), (Vec::new(), Some(false)));
    waiting.sleep(30);
    assert_eq!(waiting.there(), ["a"]);
    assert_eq!(gate(&mut waiting), Some(true));
    let revision = waiting.rig.etcd.revision();
    waiting.show("a", gated("a", 0, None));
    assert_eq!(waiting.there(), ["a"]);
    assert_eq!(waiting.rig.etcd.revision(), revision, "the open gate changes nothing");
}

#[test]
fn an_interrupted_pod_is_not_reported_as_registered_to_its_gate() {
    let mut waiting = Waiting::new();
    waiting.sleep(60);
    waiting.show("a", gated("a", 0, Some("u1")));
    assert_eq!(waiting.there(), ["a"]);
    waiting.rig.planner.take_gated();
    waiting.show("a", gated("a", 60, Some("u1")));
    let answers = waiting.rig.planner.take_gated();
    assert_eq!(answers.iter().map(|it| it.is_registered).collect::<Vec<_>>(), [false]);
}

#[test]
fn a_suspended_registration_keeps_no_gate_closed_though_its_pods_wait() {
    let mut waiting = Waiting::new();
    waiting.rig.planner.set_settings(&reference("orders"), suspended(1));
    waiting.show("a", gated("a", 0, Some("u1")));
    let answers = waiting.rig.planner.take_gated();
    assert_eq!(answers.iter().map(|it| it.is_registered).collect::<Vec<_>>(), [true]);
    waiting.rig.planner.set_settings(&reference("orders"), settings(1));
    assert_eq!(waiting.there(), NONE, "it is not registered before its time");
}

#[test]
fn the_guard_holds_keys_of_pods_that_are_all_interrupted_at_once() {
    let mut waiting = Waiting::new();
    waiting.rig.planner.set_guard(GuardSettings {
        mode: GuardMode::Hold,
        window: Duration::from_mins(1),
        max_loss_percent: 50,
        min_endpoints: 2,
        hold: Duration::from_mins(5),
    });
    waiting.sleep(60);
    let pods = ["a", "b", "c", "d"];
    for pod in pods {
        waiting.show(pod, ready(pod, 0, WAIT));
    }
    let decide = |waiting: &mut Waiting| {
        let moment = waiting.moment();
        waiting.rig.listen();
        waiting.rig.planner.decide_removals(moment, None, || "h".to_owned());
    };
    decide(&mut waiting);
    assert_eq!(waiting.there(), pods);
    for pod in pods {
        waiting.show(pod, ready(pod, 60, WAIT));
    }
    decide(&mut waiting);
    assert_eq!(waiting.there(), pods);
    assert_eq!(waiting.rig.planner.hold().map(Hold::len), Some(4));
    waiting.sleep(30);
    waiting.there();
    decide(&mut waiting);
    assert_eq!(
        (waiting.there(), waiting.counts()),
        (pods.map(str::to_owned).to_vec(), (4, 0, 4))
    );
    assert!(waiting.rig.planner.hold().is_none());
}

#[test]
fn last_endpoint_is_kept_until_another_pod_is_ready_for_long_enough() {
    let mut waiting = Waiting::new();
    let keeping = RegistrationSettings {
        keep_last: true,
        ..settings(1)
    };
    waiting.rig.planner.set_settings(&reference("orders"), keeping);
    waiting.sleep(60);
    waiting.show("a", ready("a", 0, WAIT));
    assert_eq!(waiting.there(), ["a"]);
    waiting.show("a", PodState::Unready(at("a")));
    waiting.show("b", ready("b", 60, WAIT));
    assert_eq!((waiting.there(), waiting.counts()), (vec!["a".to_owned()], (1, 1, 0)));
    waiting.sleep(30);
    assert_eq!(waiting.there(), ["b"]);
    waiting.show("b", ready("b", 90, WAIT));
    assert_eq!((waiting.there(), waiting.counts()), (vec!["b".to_owned()], (1, 1, 0)));
    waiting.sleep(30);
    assert_eq!((waiting.there(), waiting.counts()), (vec!["b".to_owned()], (1, 0, 1)));
}

#[test]
fn restart_with_longer_wait_removes_no_pod_if_last_endpoint_is_kept() {
    let keeping = RegistrationSettings {
        keep_last: true,
        ..settings(1)
    };
    let mut waiting = Waiting::new();
    waiting.rig.planner.set_settings(&reference("orders"), keeping.clone());
    for pod in ["a", "b"] {
        waiting.show(pod, ready(pod, 0, 0));
    }
    assert_eq!(waiting.there(), ["a", "b"]);
    let revision = waiting.rig.etcd.revision();
    for pod in ["a", "b"] {
        waiting.show(pod, ready(pod, 0, WAIT));
    }
    waiting.rig.etcd.forget_watches();
    waiting.rig.planner = Planner::new(meta(), 256);
    waiting.rig.planner.set_settings(&reference("orders"), keeping);
    waiting.sleep(10);
    // A new worker receives everything at once, and reads the prefix afterwards.
    waiting.rig.planner.kubernetes_is_complete();
    for (pod, pod_state) in &waiting.pods.0 {
        let orders = reference("orders");
        waiting.rig.planner.set_pod_state(&orders, pod, pod_state.clone());
    }
    assert_eq!(waiting.there(), ["a", "b"]);
    assert_eq!((waiting.counts(), waiting.waits_until()), ((2, 0, 2), None));
    assert_eq!(waiting.rig.etcd.revision(), revision, "nothing was written");
}

#[test]
fn problem_of_a_waiting_pod_is_reported_before_its_wait_ends() {
    let mut waiting = Waiting::new();
    let PodState::Ready(mut desired) = ready("a", 0, WAIT) else {
        unreachable!()
    };
    let problem = Problem::Refused {
        reason: "no such port".to_owned(),
    };
    desired.by_endpoint.clear();
    desired.problems = [problem].into();
    waiting.show("a", PodState::Ready(desired));
    assert_eq!(waiting.there(), NONE);
    assert_eq!(waiting.counts(), (1, 1, 0));
    let problems: Vec<String> = waiting.rig.report("orders").problems.into_keys().collect();
    assert_eq!(problems, ["no such port"]);
    waiting.show("a", PodState::Gone(Vec::new()));
    assert!(waiting.rig.report("orders").problems.is_empty());
}
