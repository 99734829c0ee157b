//! Unconfirmed removals: the guard judges them together before any key is removed.

use super::*;
use crate::api::GuardMode;
use crate::model::{Key, KeyValue};
use crate::plan::{GuardEvent, GuardSettings, Moment, PodState, Release};

pub(super) const PODS: usize = 20;
/// The wall clock, which does not advance here.
pub(super) const UNIX: Duration = Duration::from_secs(1_800_000_001);

pub(super) fn guard() -> GuardSettings {
    GuardSettings {
        mode: GuardMode::Hold,
        window: Duration::from_mins(1),
        max_loss_percent: 50,
        min_endpoints: 10,
        hold: Duration::from_mins(5),
    }
}

pub(super) fn pod(number: usize) -> Arc<str> {
    format!("p{number:02}").into()
}

pub(super) fn key(number: usize) -> Key {
    format!("/s/p{number:02}").into()
}

/// A rig with a guard, in which every pod has its key.
pub(super) fn registered() -> Rig {
    let mut rig = Rig::new();
    rig.planner.set_guard(guard());
    for number in 0..PODS {
        rig.want("orders", &pod(number), &[&key(number)], "1");
    }
    rig.run();
    rig.judge(Instant::now());
    rig
}

impl Rig {
    pub(super) fn present(&mut self, number: usize, pod_state: PodState) {
        self.planner
            .set_pod_state(&reference("orders"), &pod(number), pod_state);
    }

    pub(super) fn judge(&mut self, now: Instant) -> Option<GuardEvent> {
        self.judge_by(now, "h")
    }

    /// Lets the guard decide; a new hold would have this id.
    pub(super) fn judge_by(&mut self, now: Instant, id: &str) -> Option<GuardEvent> {
        self.listen();
        let moment = Moment { now, unix: UNIX };
        self.planner.decide_removals(moment, None, || id.to_owned())
    }

    fn register_at(&mut self, registration: &str, prefix: &str) {
        let settings = RegistrationSettings {
            prefixes: vec![Prefix::below(prefix)],
            ..settings(1)
        };
        self.planner.set_settings(&reference(registration), settings);
    }

    pub(super) fn left(&self) -> usize {
        self.etcd.data().count()
    }
}

#[test]
fn keys_of_pods_missing_from_a_list_stay_until_the_hold_ends() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..PODS {
        rig.present(number, PodState::Missing);
    }
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    assert!(rig.run().is_empty());
    let report = rig.report("orders");
    assert_eq!((report.ready, report.held, report.outstanding), (0, PODS, 0));
    let end = rig.judge(now + guard().hold);
    assert!(
        matches!(
            end,
            Some(GuardEvent::Released {
                why: Release::Expired,
                ..
            })
        ),
        "{end:?}"
    );
    rig.run();
    assert_eq!(rig.left(), 0);
}

#[test]
fn a_suspicion_that_was_not_judged_yet_changes_nothing() {
    let mut rig = registered();
    rig.present(0, PodState::Missing);
    assert!(rig.run().is_empty());
    rig.judge(Instant::now());
    rig.run();
    assert_eq!(rig.left(), PODS - 1);
}

#[test]
fn deleted_pods_leave_at_once_though_they_are_all_there_is() {
    let mut rig = registered();
    for number in 0..PODS {
        rig.present(number, PodState::Gone(Vec::new()));
    }
    assert_eq!(rig.judge(Instant::now()), None);
    rig.run();
    assert_eq!(rig.left(), 0);
}

#[test]
fn a_held_pod_that_is_back_has_the_same_key_and_nothing_is_written() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..PODS {
        rig.present(number, PodState::Missing);
    }
    rig.judge(now);
    for number in 0..PODS {
        let ready = desired(&pod(number), &[&key(number)], "1");
        rig.present(number, PodState::Ready(ready));
    }
    let end = rig.judge(now);
    assert!(matches!(end, Some(GuardEvent::Released { keys: 0, .. })), "{end:?}");
    assert!(rig.run().is_empty());
    assert_eq!(rig.report("orders").registered, PODS);
}

#[test]
fn a_held_pod_that_is_deleted_or_terminates_leaves_at_once() {
    let mut rig = registered();
    for number in 0..PODS {
        rig.present(number, PodState::Unready(desired(&pod(number), &[&key(number)], "1")));
    }
    rig.judge(Instant::now());
    rig.present(0, PodState::Gone(Vec::new()));
    rig.present(1, PodState::Gone(vec![key(1)]));
    rig.run();
    assert_eq!(rig.left(), PODS - 2);
    assert_eq!(rig.report("orders").held, PODS - 2);
}

#[test]
fn held_keys_of_a_registration_that_is_deleted_stay_held() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..PODS {
        rig.present(number, PodState::Missing);
    }
    rig.judge(now);
    rig.planner.remove_registration(&reference("orders"));
    assert!(rig.run().is_empty());
    rig.judge(now + guard().hold);
    rig.run();
    assert_eq!(rig.left(), 0);
}

#[test]
fn keys_of_a_deleted_registration_are_held_except_those_of_pods_that_end() {
    let (mut rig, now) = (registered(), Instant::now());
    rig.planner.remove_registration(&reference("orders"));
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    assert!(rig.run().is_empty());
    let namespace = reference("orders").namespace.clone();
    rig.planner.end_pod(&namespace, &pod(3));
    rig.planner.mark_pod(&namespace, &pod(4), true, now);
    rig.run();
    assert_eq!(rig.left(), PODS - 2);
    assert_eq!(rig.judge(now), None);
    rig.judge(now + guard().hold);
    rig.run();
    assert_eq!(rig.left(), 0);
}

#[test]
fn registration_that_is_created_again_has_its_held_keys_without_a_write() {
    let (mut rig, now) = (registered(), Instant::now());
    rig.planner.remove_registration(&reference("orders"));
    rig.judge(now);
    rig.planner.set_settings(&reference("orders"), settings(1));
    for number in 0..PODS {
        rig.present(number, PodState::Ready(desired(&pod(number), &[&key(number)], "1")));
    }
    let end = rig.judge(now);
    assert!(matches!(end, Some(GuardEvent::Released { keys: 0, .. })), "{end:?}");
    assert!(rig.run().is_empty());
    assert_eq!(rig.report("orders").registered, PODS);
}

/// The pods of these numbers are alive.
struct Alive(std::ops::Range<usize>);

impl crate::plan::DesiredState for Alive {
    fn selecting(&self, _: &str, _: &str) -> Vec<crate::model::RegistrationRef> {
        Vec::new()
    }

    fn selects(&self, _: &crate::model::RegistrationRef, _: &str) -> bool {
        false
    }

    fn is_alive(&self, _: &str, name: &str) -> bool {
        self.0.clone().any(|number| *pod(number) == *name)
    }

    fn pod_state(&self, _: &crate::model::RegistrationRef, _: &str) -> Option<PodState> {
        None
    }
}

#[test]
fn registration_that_is_deleted_after_its_pods_leaves_at_once() {
    let mut rig = registered();
    let namespace = reference("orders").namespace.clone();
    rig.planner.mark_pod(&namespace, &pod(0), true, Instant::now());
    rig.planner.remove_registration(&reference("orders"));
    // Of those that have ended, some were reported and some were not.
    rig.planner.end_left(&Alive(5..PODS));
    assert_eq!(rig.judge(Instant::now()), Some(GuardEvent::Held));
    rig.run();
    assert_eq!(rig.left(), PODS - 5);
}

#[test]
fn keys_of_others_are_no_loss_when_a_registration_is_deleted() {
    let mut rig = registered();
    rig.register_at("queues", "/q/");
    for number in 0..40 {
        let name = format!("q{number}");
        let place = format!("/q/{name}");
        rig.etcd.foreign_put(&place, "theirs");
        rig.want("queues", &name, &[&place], "1");
    }
    rig.run();
    rig.planner.remove_registration(&reference("queues"));
    assert_eq!(rig.judge(Instant::now()), None);
    assert!(rig.run().is_empty());
}

#[test]
fn small_registration_that_is_deleted_leaves_at_once() {
    let (mut rig, now) = (registered(), Instant::now());
    rig.register_at("carts", "/c/");
    rig.want("carts", &pod(0), &["/c/p"], "1");
    rig.run();
    assert_eq!(rig.left(), PODS + 1);
    rig.planner.remove_registration(&reference("carts"));
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!(rig.left(), PODS);
}

/// A rig after a restart: the first `ready` pods of `registered` are ready.
fn restarted(ready: usize) -> Rig {
    let mut rig = registered();
    rig.restart(ready);
    rig
}

impl Rig {
    /// Starts a new operator; the first `ready` pods are ready.
    pub(super) fn restart(&mut self, ready: usize) {
        self.etcd.forget_watches();
        self.fence = self.etcd.elect();
        self.planner = Planner::new(meta(), 256);
        self.planner.set_guard(guard());
        self.planner.set_settings(&reference("orders"), settings(1));
        for number in 0..PODS {
            let pod_state = if number < ready {
                PodState::Ready(desired(&pod(number), &[&key(number)], "1"))
            } else {
                PodState::Unready(desired(&pod(number), &[&key(number)], "1"))
            };
            self.present(number, pod_state);
        }
        self.planner.kubernetes_is_complete();
    }
}

#[test]
fn a_start_that_finds_most_keys_without_a_ready_pod_holds_them() {
    let mut rig = restarted(5);
    assert!(rig.run().is_empty(), "nothing goes before it was judged");
    assert_eq!(rig.judge(Instant::now()), Some(GuardEvent::Held));
    assert!(rig.run().is_empty());
    assert_eq!(rig.report("orders").held, PODS - 5);
    // A pod that is deleted from here on is a confirmed removal, even if a predecessor wrote its keys.
    rig.present(10, PodState::Gone(Vec::new()));
    rig.run();
    assert_eq!(rig.left(), PODS - 1);
}

#[test]
fn a_start_that_finds_few_keys_without_a_ready_pod_removes_them() {
    let mut rig = restarted(15);
    rig.run();
    assert_eq!(rig.judge(Instant::now()), None);
    rig.run();
    assert_eq!(rig.left(), 15);
}

#[test]
fn a_start_lets_go_of_pods_that_terminate() {
    let mut rig = restarted(5);
    for number in 5..PODS {
        rig.present(number, PodState::Gone(vec![key(number)]));
    }
    rig.run();
    rig.judge(Instant::now());
    rig.run();
    assert_eq!(rig.left(), 5);
}

#[test]
fn a_guard_that_is_off_lets_go_without_being_asked() {
    let mut rig = registered();
    rig.planner.set_guard(GuardSettings::OFF);
    for number in 0..PODS {
        rig.present(number, PodState::Missing);
    }
    rig.run();
    assert_eq!(rig.left(), 0);
}

#[test]
fn key_read_too_late_by_orphan_collection_is_not_unconfirmed() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..9 {
        rig.present(number, PodState::Missing);
    }
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!(rig.left(), PODS - 9);
    // These keys were on our leases when etcd was asked, and are gone when they are read.
    for number in 0..9 {
        rig.planner.find_stray(&key(number), None, rig.etcd.revision());
    }
    rig.present(9, PodState::Missing);
    assert_eq!(rig.judge(now), None, "10 of 20, each counted once");
    rig.run();
    assert_eq!(rig.left(), PODS - 10);
}

#[test]
fn strays_that_are_many_are_held() {
    let (mut rig, now) = (registered(), Instant::now());
    let lease = rig.lease_of(&key(0));
    let written = |revision| KeyValue {
        value: b"1".as_slice().into(),
        lease,
        create_revision: revision,
        mod_revision: revision,
    };
    for number in 0..2 * PODS {
        let revision = rig.etcd.revision();
        let stray = format!("/gone/p{number:02}").into();
        rig.planner.find_stray(&stray, Some(written(revision)), revision);
    }
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    let hold = rig.planner.hold().expect("a hold");
    assert_eq!((hold.lost, hold.of), (2 * PODS, 3 * PODS));
}

#[test]
fn a_removal_that_is_tried_again_and_again_counts_once() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..9 {
        rig.present(number, PodState::Missing);
    }
    assert_eq!(rig.judge(now), None);
    for _ in 0..3 {
        // etcd does not answer, the watch is interrupted and lists again, and this replica wins the election again.
        let (ticket, _) = rig.next().expect("they are to go");
        rig.planner.complete(ticket, None);
        rig.etcd.interrupt();
        rig.etcd.resume();
        rig.planner.becomes_leader();
        assert_eq!(rig.judge(now), None);
    }
    rig.present(9, PodState::Missing);
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!(rig.left(), PODS - 10);
}

#[test]
fn what_never_came_to_be_in_etcd_is_no_loss() {
    let mut rig = registered();
    for number in PODS..3 * PODS {
        rig.want("orders", &pod(number), &[&key(number)], "1");
        rig.present(number, PodState::Missing);
    }
    assert_eq!(rig.judge(Instant::now()), None);
    rig.run();
    assert_eq!(rig.left(), PODS);
}

#[test]
fn an_etcd_that_was_restored_is_read_before_what_it_lost_counts() {
    let (mut rig, now) = (Rig::new(), Instant::now());
    rig.planner.set_guard(guard());
    let restore = rig.etcd.save();
    for number in 0..PODS {
        rig.want("orders", &pod(number), &[&key(number)], "1");
    }
    rig.run();
    rig.judge(now);
    restore(&mut rig.etcd);
    rig.fence = rig.etcd.elect();
    // The first observation is that etcd was restored.
    rig.planner.observe(rig.etcd.deliver(0).expect("it tells"));
    for number in 0..PODS {
        rig.present(number, PodState::Missing);
    }
    rig.judge(now);
    assert_eq!(
        rig.planner.hold().map_or(0, crate::plan::Hold::len),
        0,
        "nothing is there to be held"
    );
}

#[test]
fn an_endpoint_counts_once_in_however_many_formats_it_is_registered() {
    let (mut rig, now) = (registered(), Instant::now());
    rig.register_at("carts", "/c/");
    let cart = |number: usize| {
        let keys: Vec<String> = (0..10).map(|format| format!("/c/c{number}-{format}")).collect();
        desired(
            &format!("c{number}"),
            &keys.iter().map(String::as_str).collect::<Vec<_>>(),
            "1",
        )
    };
    let set = |rig: &mut Rig, number: usize, state: PodState| {
        let pod = format!("c{number}").as_str().into();
        rig.planner.set_pod_state(&reference("carts"), &pod, state);
    };
    for number in 0..10 {
        set(&mut rig, number, PodState::Ready(cart(number)));
    }
    rig.run();
    assert_eq!(rig.left(), PODS + 100);
    // 90 of 120 keys, and 9 of 30 endpoints.
    for number in 0..9 {
        set(&mut rig, number, PodState::Unready(cart(number)));
    }
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!(rig.left(), PODS + 10);
    // 13 keys, and 7 more endpoints: 16 of 30 are more than half.
    for number in 0..6 {
        rig.present(number, PodState::Missing);
    }
    assert_eq!(rig.judge(now), None);
    rig.present(6, PodState::Missing);
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    let hold = rig.planner.hold().expect("a hold");
    assert_eq!((hold.len(), hold.lost, hold.of), (1, 16, 30));
}

#[test]
fn after_a_restart_the_keys_of_an_unready_pod_count_as_one_endpoint() {
    let mut rig = registered();
    let both = |number: usize| desired(&pod(number), &[&key(number), &format!("/s/x{number:02}")], "1");
    for number in 0..PODS {
        rig.present(number, PodState::Ready(both(number)));
    }
    rig.run();
    rig.restart(0);
    for number in 0..PODS {
        let is_ready = number < 11;
        let state = if is_ready { PodState::Ready } else { PodState::Unready };
        rig.present(number, state(both(number)));
    }
    rig.run();
    assert_eq!(rig.judge(Instant::now()), None, "18 of 40 keys, and 9 of 20 endpoints");
    rig.run();
    assert_eq!(rig.left(), 22);
}
