//! An edit must not empty a service: a pod keeps the keys of the previous spec until the newest one can be carried out.

use super::unconfirmed::{PODS as PODS_IN_ALL, UNIX, guard, key, pod, registered};
use super::*;
use crate::index::PortTarget;
use crate::plan::guard::Cause;
use crate::plan::{GuardEvent, Moment, PodState, Problem};

/// `pod` with a key below `/t/` by the newest spec, and below `/s/` by the previous one.
fn moved(pod: &str, value: &str, problems: Vec<Problem>) -> DesiredPod {
    let (before, now) = (format!("/s/{pod}"), format!("/t/{pod}"));
    let keys: &[&str] = if problems.is_empty() { &[&now] } else { &[] };
    let newest = DesiredPod {
        problems: problems.into(),
        ..desired(pod, keys, value)
    };
    keeping(newest, desired(pod, &[&before], value))
}

fn keeping(newest: DesiredPod, before: DesiredPod) -> DesiredPod {
    match PodState::Ready(newest).keeping(|| Some(before), false) {
        PodState::Ready(desired) => desired,
        other => panic!("{other:?}"),
    }
}

fn missing() -> Vec<Problem> {
    vec![Problem::PortMissing {
        target: PortTarget::Name {
            name: "grcp".into(),
            protocol: None,
        },
        is_host_port: false,
    }]
}

const PODS: [&str; 3] = ["a", "b", "c"];

impl Rig {
    /// A rig in which `orders` has three pods below `/s/`.
    fn with_three() -> Self {
        let mut rig = Self::new();
        for pod in PODS {
            rig.want("orders", pod, &[&format!("/s/{pod}")], "1");
        }
        rig.run();
        assert_eq!(rig.data(), ["/s/a", "/s/b", "/s/c"]);
        rig
    }

    /// Moves `orders` to `/t/`. With `problems` the new spec yields no keys.
    fn move_all(&mut self, problems: &[Problem]) {
        let settings = RegistrationSettings {
            prefixes: vec![Prefix::below("/t/"), Prefix::below("/s/")],
            ..settings(1)
        };
        self.planner.set_settings(&reference("orders"), settings);
        for pod in PODS {
            self.set(pod, moved(pod, "1", problems.to_vec()));
        }
    }

    fn set(&mut self, pod: &str, desired: DesiredPod) {
        self.planner
            .set_desired(&reference("orders"), &pod.into(), Some(desired));
    }

    fn take_places(&mut self) {
        for pod in PODS.iter().chain(&["d"]) {
            self.etcd.foreign_put(&format!("/t/{pod}"), "theirs");
        }
    }

    fn data(&self) -> Vec<String> {
        self.etcd.data().map(|(key, _)| key.to_string()).collect()
    }

    /// The data keys that are not foreign.
    fn ours(&self) -> Vec<String> {
        let keys = self.data().into_iter();
        keys.filter(|key| !self.etcd.is_foreign(key)).collect()
    }

    /// Carries out all steps; no pod may be without a record at any time.
    fn run_without_gap(&mut self) {
        while let Some((ticket, transaction)) = self.next() {
            let verdict = self.commit(&transaction);
            self.planner.complete(ticket, Some(verdict));
            for pod in PODS {
                let ours = self.ours();
                assert!(ours.iter().any(|key| key.ends_with(pod)), "{pod} is not in {ours:?}");
            }
        }
    }

    /// Lets the guard decide while the hold `approved` is approved; a new hold would have the id `new`.
    fn approve(&mut self, now: Instant, approved: &str, new: &str) {
        self.listen();
        let moment = Moment { now, unix: UNIX };
        self.planner.decide_removals(moment, Some(approved), || new.to_owned());
    }

    /// Another process takes over. It knows the current spec and the one carried out last.
    fn take_over(&mut self) {
        self.fence = self.etcd.elect();
        self.planner = Planner::new(meta(), 256);
        self.etcd.forget_watches();
    }
}

#[test]
fn a_move_onto_a_taken_place_keeps_the_old_records_until_it_is_free() {
    let mut rig = Rig::with_three();
    rig.take_places();
    rig.move_all(&[]);
    rig.run_without_gap();
    assert_eq!(rig.ours(), ["/s/a", "/s/b", "/s/c"]);
    let report = rig.report("orders");
    assert_eq!(
        (report.retained, report.endpoints.len(), report.carried_out),
        (3, 3, false)
    );
    assert_eq!(
        report.retained_at.iter().map(|folder| &**folder).collect::<Vec<_>>(),
        ["/s/"]
    );
    assert_eq!(report.outstanding, 0);

    // The kept keys follow the pods.
    rig.set("b", moved("b", "2", Vec::new()));
    rig.run_without_gap();
    assert_eq!(rig.etcd.value("/s/b").as_deref(), Some("2"));
    rig.set("d", moved("d", "1", Vec::new()));
    rig.planner.set_pod_state(
        &reference("orders"),
        &"c".into(),
        PodState::Unready(moved("c", "1", Vec::new())),
    );
    rig.drop_pod("orders", "a");
    rig.run();
    assert_eq!(rig.ours(), ["/s/b", "/s/d"]);

    // The new key becomes free, for one pod first.
    rig.etcd.foreign_delete("/t/b");
    let written = rig.run();
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(
        keys(&written[0]),
        ["/t/b", "/s/b"],
        "in one transaction, the new record first"
    );
    assert_eq!(rig.ours(), ["/s/d", "/t/b"]);
    let report = rig.report("orders");
    assert_eq!((report.retained, report.carried_out), (1, false));
    rig.etcd.foreign_delete("/t/d");
    rig.run();
    assert_eq!(rig.ours(), ["/t/b", "/t/d"]);
    assert!(rig.report("orders").carried_out);
}

#[test]
fn a_move_onto_a_free_place_is_one_transaction_as_ever() {
    let mut rig = Rig::with_three();
    rig.move_all(&[]);
    let written = rig.run();
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(rig.data(), ["/t/a", "/t/b", "/t/c"]);
    let report = rig.report("orders");
    assert_eq!((report.retained, report.registered, report.carried_out), (0, 3, true));
    rig.planner.forget_previous(&reference("orders"));
    assert_eq!(rig.run(), [], "nothing is left to do");
    assert_eq!(rig.data(), ["/t/a", "/t/b", "/t/c"]);
    assert!(
        rig.planner.keys.below("/s/").next().is_none(),
        "no key state is left behind"
    );
}

#[test]
fn what_is_taken_while_the_move_is_under_way_is_put_back_where_it_was() {
    let mut rig = Rig::with_three();
    rig.move_all(&[]);
    let (ticket, transaction) = rig.next().expect("the move");
    rig.etcd.foreign_put("/t/a", "theirs");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    rig.run();
    assert_eq!(rig.ours(), ["/s/a", "/t/b", "/t/c"]);
}

#[test]
fn a_place_that_etcd_denies_keeps_the_old_records_until_it_is_granted() {
    let mut rig = Rig::with_three();
    rig.move_all(&[]);
    rig.listen();
    rig.planner.writing_denied(&Prefix::below("/t/"), &"/t/a".into());
    rig.run_without_gap();
    assert_eq!(rig.data(), ["/s/a", "/s/b", "/s/c"]);
    assert_eq!(rig.report("orders").retained, 3);
    rig.set("d", moved("d", "1", Vec::new()));
    rig.run_without_gap();
    assert_eq!(rig.data(), ["/s/a", "/s/b", "/s/c", "/s/d"]);
    rig.planner.writing_allowed(&Prefix::below("/t/"));
    rig.run_without_gap();
    assert_eq!(rig.data(), ["/t/a", "/t/b", "/t/c", "/t/d"]);
}

#[test]
fn a_spec_that_leaves_nothing_to_write_keeps_the_old_records() {
    let mut rig = Rig::with_three();
    rig.move_all(&missing());
    rig.run_without_gap();
    assert_eq!(rig.data(), ["/s/a", "/s/b", "/s/c"]);
    let report = rig.report("orders");
    assert_eq!((report.retained, report.registered, report.problems.len()), (3, 0, 1));
    // The spec is corrected.
    rig.move_all(&[]);
    rig.run_without_gap();
    assert_eq!(rig.data(), ["/t/a", "/t/b", "/t/c"]);
}

#[test]
fn what_was_wrong_before_is_no_reason_to_keep_anything() {
    let mut rig = Rig::with_three();
    let settings = RegistrationSettings {
        prefixes: vec![Prefix::below("/t/"), Prefix::below("/s/")],
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), settings);
    for pod in PODS {
        let at = |place: &str| DesiredPod {
            problems: missing().into(),
            ..desired(pod, &[&format!("{place}{pod}")], "1")
        };
        rig.set(pod, keeping(at("/t/"), at("/s/")));
    }
    rig.run_without_gap();
    assert_eq!(rig.data(), ["/t/a", "/t/b", "/t/c"]);
}

#[test]
fn a_format_that_is_left_out_on_purpose_goes_though_another_one_is_held() {
    let mut rig = Rig::with_three();
    rig.etcd.foreign_put("/s/b2", "theirs");
    rig.want("orders", "b", &["/s/b", "/s/b2"], "1");
    rig.run();
    let (now, before) = (desired("b", &["/s/b2"], "1"), desired("b", &["/s/b", "/s/b2"], "1"));
    rig.set("b", keeping(now, before));
    rig.run();
    assert_eq!(rig.ours(), ["/s/a", "/s/c"]);
}

#[test]
fn a_successor_keeps_the_old_records_of_a_move_that_cannot_be_carried_out() {
    for taken in [true, false] {
        let mut rig = Rig::with_three();
        if taken {
            rig.take_places();
        }
        rig.take_over();
        rig.planner.set_guard(crate::plan::GuardSettings::EVERYTHING);
        rig.move_all(&[]);
        rig.planner.kubernetes_is_complete();
        rig.run_without_gap();
        rig.judge(Instant::now());
        rig.run_without_gap();
        // The removal of what is not needed any more is held, as it was by the predecessor.
        let places: &[&str] = if taken { &["/s/"] } else { &["/s/", "/t/"] };
        let expected = places.iter().flat_map(|place| PODS.map(|pod| format!("{place}{pod}")));
        assert_eq!(rig.ours(), expected.collect::<Vec<_>>());
    }
}

#[test]
fn spec_in_force_gets_a_key_before_a_previous_spec() {
    let mut rig = Rig::with_three();
    rig.take_places();
    rig.move_all(&[]);
    rig.run();
    rig.planner.set_settings(&reference("younger"), settings(9));
    rig.want("younger", "a", &["/s/a"], "younger");
    rig.run();
    assert_eq!(rig.etcd.value("/s/a").as_deref(), Some("younger"));
    assert_eq!(rig.etcd.value("/s/b").as_deref(), Some("1"));
    // The moved pod gets its new key and leaves the key of the younger registration alone.
    rig.etcd.foreign_delete("/t/a");
    rig.run();
    assert_eq!(rig.etcd.value("/s/a").as_deref(), Some("younger"));
    assert_eq!(rig.etcd.value("/t/a").as_deref(), Some("1"));
}

#[test]
fn a_registration_that_is_deleted_leaves_nothing_of_either_spec() {
    let mut rig = Rig::with_three();
    rig.take_places();
    rig.move_all(&[]);
    rig.run();
    rig.planner.remove_registration(&reference("orders"));
    rig.run();
    assert_eq!(rig.ours(), Vec::<String>::new());
}

#[test]
fn what_the_rules_take_back_of_the_old_place_goes_at_once() {
    let mut rig = Rig::with_three();
    rig.take_places();
    rig.move_all(&[]);
    rig.run();
    for pod in PODS {
        rig.set(pod, desired(pod, &[&format!("/t/{pod}")], "1"));
    }
    rig.run();
    assert_eq!(rig.ours(), Vec::<String>::new());
}

#[test]
fn units_of_the_spec_before_stay_whole_and_go_whole() {
    let mut rig = Rig::new();
    let unit =
        |place: &str| super::super::testing::whole("a", &[&format!("{place}a/url"), &format!("{place}a/weight")], "1");
    rig.set("a", unit("/s/"));
    rig.run();
    let settings = RegistrationSettings {
        prefixes: vec![Prefix::below("/t/"), Prefix::below("/s/")],
        ..settings(1)
    };
    rig.etcd.foreign_put("/t/a/weight", "theirs");
    rig.planner.set_settings(&reference("orders"), settings);
    rig.set("a", keeping(unit("/t/"), unit("/s/")));
    rig.run();
    assert_eq!(rig.ours(), ["/s/a/url", "/s/a/weight"]);
    rig.etcd.foreign_delete("/t/a/weight");
    let written = rig.run();
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(rig.data(), ["/t/a/url", "/t/a/weight"]);
}

#[test]
fn foreign_keys_present_before_an_edit_keep_the_previous_keys() {
    let mut rig = Rig::with_three();
    rig.take_places();
    // The new place is listed before a pod asks for it.
    let settings = RegistrationSettings {
        prefixes: vec![Prefix::below("/t/"), Prefix::below("/s/")],
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), settings);
    rig.run();
    rig.move_all(&[]);
    assert_eq!(
        rig.run(),
        [] as [crate::model::Transaction; 0],
        "nothing can be written, so nothing is removed"
    );
    rig.etcd.foreign_delete("/t/a");
    rig.run();
    assert_eq!(rig.data().iter().filter(|key| key.ends_with("/a")).count(), 1);
    assert_eq!(rig.etcd.value("/t/a").as_deref(), Some("1"));
}

/// Moves the first pods of `registered`, so many, from `/s/` to `/t/`.
fn move_some(rig: &mut Rig, count: usize) {
    let settings = RegistrationSettings {
        prefixes: vec![Prefix::below("/t/"), Prefix::below("/s/")],
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), settings);
    for number in 0..count {
        let name = pod(number);
        rig.set(&name, moved(&name, "1", Vec::new()));
    }
}

fn below(rig: &Rig, place: &str) -> usize {
    rig.data().iter().filter(|key| key.starts_with(place)).count()
}

#[test]
fn a_move_of_all_endpoints_writes_the_new_keys_and_holds_the_old_ones() {
    let (mut rig, now) = (registered(), Instant::now());
    move_some(&mut rig, PODS_IN_ALL);
    rig.run();
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    rig.run();
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (PODS_IN_ALL, PODS_IN_ALL));
    let report = rig.report("orders");
    assert_eq!((report.held, report.registered, report.carried_out), (20, 20, false));
    let hold = rig.planner.hold().expect("a hold");
    assert_eq!((hold.lost, hold.of), (20, 20), "the new keys are no other endpoints");

    // A change of a pod, which stays ready, releases nothing; its end does.
    rig.set(&pod(0), moved(&pod(0), "2", Vec::new()));
    rig.drop_pod("orders", &pod(1));
    rig.judge(now);
    rig.run();
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (19, 19));
    assert_eq!(rig.etcd.value("/t/p00").as_deref(), Some("2"));

    let end = rig.judge(now + guard().hold);
    assert!(matches!(end, Some(GuardEvent::Released { keys: 19, .. })), "{end:?}");
    rig.run();
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (0, 19));
    assert!(rig.report("orders").carried_out);
}

#[test]
fn a_move_of_few_endpoints_is_not_held() {
    let (mut rig, now) = (registered(), Instant::now());
    move_some(&mut rig, 9);
    rig.run();
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (11, 9));
    // The next ones count together with them.
    move_some(&mut rig, PODS_IN_ALL);
    rig.run();
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
}

#[test]
fn a_move_that_is_undone_ends_the_hold_without_a_write_of_the_held_keys() {
    let (mut rig, now) = (registered(), Instant::now());
    move_some(&mut rig, PODS_IN_ALL);
    rig.run();
    rig.judge(now);
    let before: Vec<_> = (0..PODS_IN_ALL)
        .map(|number| rig.etcd.held(&key(number)).cloned())
        .collect();
    rig.planner.forget_previous(&reference("orders"));
    rig.planner.set_settings(&reference("orders"), settings(1));
    for number in 0..PODS_IN_ALL {
        rig.want("orders", &pod(number), &[&key(number)], "1");
    }
    let end = rig.judge(now);
    assert!(matches!(end, Some(GuardEvent::Released { keys: 0, .. })), "{end:?}");
    rig.run();
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (PODS_IN_ALL, 0));
    let after: Vec<_> = (0..PODS_IN_ALL)
        .map(|number| rig.etcd.held(&key(number)).cloned())
        .collect();
    assert_eq!(before, after);
}

#[test]
fn a_format_that_all_endpoints_lose_is_held_though_the_others_stay() {
    let (mut rig, now) = (registered(), Instant::now());
    let with = |number: usize, formats: usize| {
        let keys: Vec<String> = (0..formats).map(|format| format!("{}-{format}", key(number))).collect();
        desired(&pod(number), &keys.iter().map(String::as_str).collect::<Vec<_>>(), "1")
    };
    for number in 0..PODS_IN_ALL {
        rig.set(&pod(number), with(number, 3));
    }
    rig.run();
    assert_eq!(rig.left(), 3 * PODS_IN_ALL);
    for number in 0..PODS_IN_ALL {
        rig.set(&pod(number), keeping(with(number, 2), with(number, 3)));
    }
    rig.run();
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    rig.run();
    assert_eq!(rig.left(), 3 * PODS_IN_ALL);
    let hold = rig.planner.hold().expect("a hold");
    assert_eq!((hold.lost, hold.of, hold.len()), (20, 20, 20));
}

#[test]
fn pod_that_is_not_ready_leaves_both_places_while_the_move_is_held() {
    let (mut rig, now) = (registered(), Instant::now());
    move_some(&mut rig, PODS_IN_ALL);
    rig.run();
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    rig.run();
    let unready = PodState::Unready(moved(&pod(0), "1", Vec::new()));
    rig.present(0, unready);
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (19, 19));
    // It comes back to the new place only.
    rig.set(&pod(0), moved(&pod(0), "1", Vec::new()));
    rig.judge(now);
    rig.run();
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (19, 20));
    assert_eq!(rig.report("orders").held, 19);
}

#[test]
fn second_edit_before_the_first_is_applied_is_held_like_the_first() {
    let (mut rig, now) = (registered(), Instant::now());
    move_some(&mut rig, PODS_IN_ALL);
    rig.run();
    rig.judge(now);
    rig.run();
    let settings = RegistrationSettings {
        prefixes: ["/u/", "/t/", "/s/"].map(Prefix::below).to_vec(),
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), settings);
    for number in 0..PODS_IN_ALL {
        let name = pod(number);
        let newest = desired(&name, &[&format!("/u/{name}")], "1");
        let state = PodState::Ready(keeping(newest, desired(&name, &[&key(number)], "1")));
        rig.planner
            .change_pod_state(&reference("orders"), &name, state, Cause::Edit);
    }
    rig.run();
    rig.judge(now);
    rig.run();
    let all = ["/s/", "/t/", "/u/"].map(|place| below(&rig, place));
    assert_eq!(all, [PODS_IN_ALL; 3]);
    let end = rig.judge(now + guard().hold);
    assert!(matches!(end, Some(GuardEvent::Released { keys: 40, .. })), "{end:?}");
    rig.run();
    let all = ["/s/", "/t/", "/u/"].map(|place| below(&rig, place));
    assert_eq!(all, [0, 0, PODS_IN_ALL]);
}

#[test]
fn successor_carries_out_the_move_that_was_approved() {
    let (mut rig, now) = (registered(), Instant::now());
    move_some(&mut rig, PODS_IN_ALL);
    rig.run();
    assert_eq!(rig.judge_by(now, "first"), Some(GuardEvent::Held));
    rig.run();
    // The leader releases the hold, and ends before it has removed the keys.
    rig.approve(now, "first", "second");
    assert!(rig.planner.hold().is_none());
    rig.take_over();
    rig.planner.set_guard(guard());
    move_some(&mut rig, PODS_IN_ALL);
    rig.planner.kubernetes_is_complete();
    // It decides before it looks at the first pod.
    for _ in 0..3 {
        rig.approve(now, "first", "second");
        rig.run();
    }
    assert_eq!(rig.planner.hold(), None);
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (0, PODS_IN_ALL));
}

#[test]
fn standby_that_takes_over_carries_out_the_move_that_was_approved() {
    let (mut rig, now) = (registered(), Instant::now());
    // Another replica has started before the edit.
    let leader = std::mem::replace(&mut rig.planner, Planner::new(meta(), 256));
    rig.etcd.forget_watches();
    rig.planner.set_guard(guard());
    rig.planner.set_settings(&reference("orders"), settings(1));
    for number in 0..PODS_IN_ALL {
        rig.want("orders", &pod(number), &[&key(number)], "1");
    }
    rig.planner.kubernetes_is_complete();
    rig.listen();
    rig.planner.look(now);
    assert!(rig.planner.has_decided_leftovers());
    let standby = std::mem::replace(&mut rig.planner, leader);
    rig.etcd.forget_watches();
    move_some(&mut rig, PODS_IN_ALL);
    rig.run();
    assert_eq!(rig.judge_by(now, "first"), Some(GuardEvent::Held));
    rig.run();
    rig.approve(now, "first", "second");

    rig.planner = standby;
    rig.etcd.forget_watches();
    rig.fence = rig.etcd.elect();
    move_some(&mut rig, PODS_IN_ALL);
    rig.planner.becomes_leader();
    for _ in 0..3 {
        rig.approve(now, "first", "second");
        rig.run();
    }
    assert_eq!(rig.planner.hold(), None);
    assert_eq!((below(&rig, "/s/"), below(&rig, "/t/")), (0, PODS_IN_ALL));
}
