//! A hold outlives its leader: its record in etcd, and what a successor does with it.

use super::unconfirmed::{PODS, UNIX, guard, key, pod, registered};
use super::*;
use crate::plan::{GuardEvent, Moment, PodState, Release};

const RECORD: &str = "/leasehold/c1/hold";

/// A rig in which all pods are unready and a hold with the id `first` is recorded.
fn held(now: Instant) -> Rig {
    let mut rig = registered();
    for number in 0..PODS {
        rig.present(number, PodState::Unready(desired(&pod(number), &[&key(number)], "1")));
    }
    assert_eq!(rig.judge_by(now, "first"), Some(GuardEvent::Held));
    rig.run();
    rig
}

#[test]
fn a_hold_is_recorded_once_on_the_lease_of_a_key_that_it_holds() {
    let mut rig = held(Instant::now());
    let lease = rig.lease_of(RECORD);
    assert_eq!(lease, rig.lease_of(&key(0)));
    let reported = rig.etcd.value(RECORD).expect("it is there");
    assert_eq!(
        reported,
        r#"{"v":1,"id":"first","until":1800000301,"lost":20,"of":20,"released":0,"endpoints":true,"namespaces":["shop"]}"#
    );
    let revision = rig.etcd.revision();
    rig.judge(Instant::now());
    rig.run();
    assert_eq!(rig.etcd.revision(), revision);
}

#[test]
fn a_restart_goes_on_with_the_hold_that_was_there_and_its_end() {
    let now = Instant::now();
    let mut rig = held(now);
    let before = rig.planner.hold().expect("a hold").clone();
    rig.restart(15);
    assert!(rig.run().is_empty());
    assert_eq!(
        rig.judge_by(now, "second"),
        Some(GuardEvent::Resumed),
        "5 of 20 would be no hold of their own"
    );
    let hold = rig.planner.hold().expect("a hold").clone();
    assert_eq!(
        (&*hold.id, hold.until_unix, hold.lost, hold.of),
        ("first", before.until_unix, 20, 20)
    );
    assert_eq!((hold.until, hold.len()), (now + guard().hold, 5));
    assert!(rig.run().is_empty(), "nothing is written");
}

#[test]
fn a_standby_that_takes_over_goes_on_with_the_hold() {
    let now = Instant::now();
    let mut rig = held(now);
    rig.planner.becomes_standby();
    rig.planner.look(now);
    assert_eq!(rig.planner.hold(), None, "it is the other one's");
    assert!(rig.run().is_empty(), "and nothing goes");
    rig.planner.becomes_leader();
    assert_eq!(rig.judge_by(now, "second"), Some(GuardEvent::Resumed));
    let hold = rig.planner.hold().expect("a hold");
    assert_eq!((&*hold.id, hold.len()), ("first", PODS));
}

#[test]
fn what_a_leader_let_go_counts_for_its_successor_too() {
    let (mut rig, now) = (registered(), Instant::now());
    rig.planner.becomes_standby();
    let revision = rig.etcd.revision();
    for number in 0..10 {
        rig.present(number, PodState::Missing);
        rig.etcd.foreign_delete(&key(number));
    }
    rig.listen();
    assert!(rig.etcd.revision() > revision);
    rig.planner.look(now);
    rig.planner.becomes_leader();
    rig.present(10, PodState::Missing);
    assert_eq!(rig.judge(now), Some(GuardEvent::Held));
    let hold = rig.planner.hold().expect("a hold");
    assert_eq!((hold.lost, hold.of, hold.len()), (11, 20, 1));
}

#[test]
fn the_record_of_a_hold_that_is_over_goes_after_what_it_held() {
    let now = Instant::now();
    let mut rig = held(now);
    let moment = Moment { now, unix: UNIX };
    let end = rig
        .planner
        .decide_removals(moment, Some("first"), || unreachable!("it goes on"));
    assert!(
        matches!(
            end,
            Some(GuardEvent::Released {
                why: Release::Approved,
                ..
            })
        ),
        "{end:?}"
    );
    let (ticket, keys) = rig.next().expect("the keys go");
    assert_eq!(keys.ops.len(), PODS);
    assert!(keys.ops.iter().all(|op| &**op.key() != RECORD));
    let verdict = rig.commit(&keys);
    rig.planner.complete(ticket, Some(verdict));
    rig.run();
    assert_eq!(rig.etcd.value(RECORD), None);
    assert_eq!(rig.left(), 0);
}

#[test]
fn a_successor_finishes_what_was_approved() {
    let now = Instant::now();
    let mut rig = held(now);
    rig.planner
        .decide_removals(Moment { now, unix: UNIX }, Some("first"), || unreachable!("it goes on"));
    // The leader dies after the approval, before it has written anything.
    rig.restart(0);
    rig.run();
    let end = rig
        .planner
        .decide_removals(Moment { now, unix: UNIX }, Some("first"), || unreachable!("it goes on"));
    assert!(
        matches!(
            end,
            Some(GuardEvent::Released {
                why: Release::Approved,
                ..
            })
        ),
        "{end:?}"
    );
    rig.run();
    assert_eq!((rig.left(), rig.etcd.value(RECORD)), (0, None));
}

#[test]
fn a_restart_after_the_end_of_a_hold_releases_it() {
    let now = Instant::now();
    let mut rig = held(now);
    rig.restart(0);
    rig.run();
    let late = Moment {
        now,
        unix: UNIX + guard().hold,
    };
    let end = rig.planner.decide_removals(late, None, || unreachable!("it goes on"));
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
}

#[test]
fn the_record_of_a_hold_of_another_time_releases_nothing_and_is_replaced() {
    let now = Instant::now();
    let mut rig = held(now);
    rig.restart(0);
    rig.run();
    let late = Moment {
        now,
        unix: UNIX + 3 * guard().hold,
    };
    assert_eq!(
        rig.planner.decide_removals(late, None, || "second".to_owned()),
        Some(GuardEvent::Held)
    );
    rig.run();
    let reported = rig.etcd.value(RECORD).expect("it is there");
    assert!(reported.contains(r#""id":"second""#), "{reported}");
    assert_eq!(rig.left(), PODS);
}

#[test]
fn hold_of_a_newer_release_keeps_its_version_until_approved() {
    const NEWER: &str = r#"{"v":2,"holds":["second"]}"#;
    let now = Instant::now();
    let mut rig = held(now);
    rig.etcd.rewrite(RECORD, NEWER);
    rig.restart(0);
    rig.run();
    rig.judge(now);
    rig.run();
    assert_eq!(rig.planner.hold().map(|hold| hold.id.as_str()), Some("v2"));
    assert_eq!(rig.left(), PODS);
    assert_eq!(
        rig.etcd.value(RECORD).as_deref(),
        Some(NEWER),
        "it is not ours to write"
    );
    let moment = Moment { now, unix: UNIX };
    rig.planner.decide_removals(moment, Some("v2"), || "second".to_owned());
    rig.run();
    assert_eq!(rig.left(), 0);
    assert_eq!(rig.etcd.value(RECORD), None);
}

#[test]
fn a_record_that_makes_no_sense_is_removed() {
    let (mut rig, now) = (registered(), Instant::now());
    rig.etcd.foreign_put(RECORD, "what?");
    rig.listen();
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!(rig.etcd.value(RECORD), None);
    assert_eq!(rig.left(), PODS);
}
