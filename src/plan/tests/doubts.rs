//! Pods that only seem to be gone: their keys are judged together before any of them goes.

use super::*;
use crate::plan::{GuardMode, GuardNews, GuardTerms, Held, Key, Moment, Presence, Release};

const PODS: usize = 20;
/// What the other clock says, which stands still here.
const UNIX: Duration = Duration::from_secs(1_800_000_000);
const RECORD: &str = "/leasehold/c1/hold";

pub(super) fn guard() -> GuardTerms {
    GuardTerms {
        mode: GuardMode::Hold,
        window: Duration::from_mins(1),
        max_loss_percent: 50,
        min_keys: 10,
        hold: Duration::from_mins(5),
    }
}

fn pod(number: usize) -> Arc<str> {
    format!("p{number:02}").into()
}

fn key(number: usize) -> Key {
    format!("/s/p{number:02}").into()
}

/// A guarded rig in which every pod has its key.
fn registered() -> Rig {
    let mut rig = Rig::new();
    rig.ledger.set_guard(guard());
    for number in 0..PODS {
        rig.want("orders", &pod(number), &[&key(number)], "1");
    }
    rig.run();
    rig.judge(Instant::now());
    rig
}

impl Rig {
    fn present(&mut self, number: usize, presence: Presence) {
        self.ledger.set_presence(&reference("orders"), &pod(number), presence);
    }

    fn judge(&mut self, now: Instant) -> Option<GuardNews> {
        self.judge_by(now, "h")
    }

    /// Where a new hold would have this id.
    fn judge_by(&mut self, now: Instant, id: &str) -> Option<GuardNews> {
        self.listen();
        let moment = Moment { now, unix: UNIX };
        self.ledger.judge(moment, None, || id.to_owned())
    }

    fn left(&self) -> usize {
        self.etcd.data().count()
    }
}

#[test]
fn keys_of_pods_missing_from_a_list_stay_until_the_hold_ends() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..PODS {
        rig.present(number, Presence::Missing);
    }
    assert_eq!(rig.judge(now), Some(GuardNews::Held));
    assert!(rig.run().is_empty());
    let report = rig.report("orders");
    assert_eq!((report.ready, report.held, report.outstanding), (0, PODS, 0));
    let end = rig.judge(now + guard().hold);
    assert!(
        matches!(
            end,
            Some(GuardNews::Released {
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
    rig.present(0, Presence::Missing);
    assert!(rig.run().is_empty());
    rig.judge(Instant::now());
    rig.run();
    assert_eq!(rig.left(), PODS - 1);
}

#[test]
fn deleted_pods_leave_at_once_though_they_are_all_there_is() {
    let mut rig = registered();
    for number in 0..PODS {
        rig.present(number, Presence::Gone(Vec::new()));
    }
    assert_eq!(rig.judge(Instant::now()), None);
    rig.run();
    assert_eq!(rig.left(), 0);
}

#[test]
fn a_held_pod_that_is_back_has_the_same_key_and_nothing_is_written() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..PODS {
        rig.present(number, Presence::Missing);
    }
    rig.judge(now);
    for number in 0..PODS {
        let ready = tenancy(&pod(number), &[&key(number)], "1");
        rig.present(number, Presence::Ready(ready));
    }
    let end = rig.judge(now);
    assert!(matches!(end, Some(GuardNews::Released { keys: 0, .. })), "{end:?}");
    assert!(rig.run().is_empty());
    assert_eq!(rig.report("orders").registered, PODS);
}

#[test]
fn a_held_pod_that_is_deleted_or_terminates_leaves_at_once() {
    let mut rig = registered();
    for number in 0..PODS {
        rig.present(number, Presence::Unready(tenancy(&pod(number), &[&key(number)], "1")));
    }
    rig.judge(Instant::now());
    rig.present(0, Presence::Gone(Vec::new()));
    rig.present(1, Presence::Gone(vec![key(1)]));
    rig.run();
    assert_eq!(rig.left(), PODS - 2);
    assert_eq!(rig.report("orders").held, PODS - 2);
}

#[test]
fn a_registration_that_is_deleted_takes_its_held_keys_with_it() {
    let mut rig = registered();
    for number in 0..PODS {
        rig.present(number, Presence::Missing);
    }
    rig.judge(Instant::now());
    rig.ledger.remove_registration(&reference("orders"));
    rig.run();
    assert_eq!(rig.left(), 0);
}

/// What a new operator finds of `registered` when it starts, with the pods of the first few known to be ready.
fn restarted(ready: usize) -> Rig {
    let mut rig = registered();
    rig.restart(ready);
    rig
}

impl Rig {
    fn restart(&mut self, ready: usize) {
        let rig = self;
        rig.etcd.forget_watches();
        rig.fence = rig.etcd.elect();
        rig.ledger = Ledger::new(meta(), 256);
        rig.ledger.set_guard(guard());
        rig.ledger.set_terms(&reference("orders"), terms(1));
        for number in 0..PODS {
            let presence = if number < ready {
                Presence::Ready(tenancy(&pod(number), &[&key(number)], "1"))
            } else {
                Presence::Unready(tenancy(&pod(number), &[&key(number)], "1"))
            };
            rig.present(number, presence);
        }
        rig.ledger.kubernetes_is_complete();
    }
}

#[test]
fn a_start_that_finds_most_keys_without_a_ready_pod_holds_them() {
    let mut rig = restarted(5);
    assert!(rig.run().is_empty(), "nothing goes before it was judged");
    assert_eq!(rig.judge(Instant::now()), Some(GuardNews::Held));
    assert!(rig.run().is_empty());
    assert_eq!(rig.report("orders").held, PODS - 5);
    // Pods that are deleted from here on are facts, also those whose keys a predecessor wrote.
    rig.present(10, Presence::Gone(Vec::new()));
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
        rig.present(number, Presence::Gone(vec![key(number)]));
    }
    rig.run();
    rig.judge(Instant::now());
    rig.run();
    assert_eq!(rig.left(), 5);
}

#[test]
fn a_guard_that_is_off_lets_go_without_being_asked() {
    let mut rig = registered();
    rig.ledger.set_guard(GuardTerms::OFF);
    for number in 0..PODS {
        rig.present(number, Presence::Missing);
    }
    rig.run();
    assert_eq!(rig.left(), 0);
}

#[test]
fn a_key_that_a_sweep_has_read_too_late_is_in_no_doubt() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..9 {
        rig.present(number, Presence::Missing);
    }
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!(rig.left(), PODS - 9);
    // They were on our leases when etcd was asked, and are not there any more when they are looked at.
    for number in 0..9 {
        rig.ledger.find_stray(&key(number), None, rig.etcd.revision());
    }
    rig.present(9, Presence::Missing);
    assert_eq!(rig.judge(now), None, "10 of 20, each counted once");
    rig.run();
    assert_eq!(rig.left(), PODS - 10);
}

#[test]
fn strays_that_are_many_are_held() {
    let (mut rig, now) = (registered(), Instant::now());
    let lease = rig.lease_of(&key(0));
    let held = |revision| Held {
        value: b"1".as_slice().into(),
        lease,
        create_revision: revision,
        mod_revision: revision,
    };
    for number in 0..2 * PODS {
        let revision = rig.etcd.revision();
        let stray = format!("/gone/p{number:02}").into();
        rig.ledger.find_stray(&stray, Some(held(revision)), revision);
    }
    assert_eq!(rig.judge(now), Some(GuardNews::Held));
    let hold = rig.ledger.hold().expect("a hold");
    assert_eq!((hold.lost, hold.of), (2 * PODS, 3 * PODS));
}

#[test]
fn a_removal_that_is_tried_again_and_again_counts_once() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..9 {
        rig.present(number, Presence::Missing);
    }
    assert_eq!(rig.judge(now), None);
    for _ in 0..3 {
        // etcd does not answer, the view is interrupted and told anew, and the election is won again.
        let (ticket, _) = rig.next().expect("they are to go");
        rig.ledger.settle(ticket, None);
        rig.etcd.interrupt();
        rig.etcd.resume();
        rig.ledger.leads_anew();
        assert_eq!(rig.judge(now), None);
    }
    rig.present(9, Presence::Missing);
    assert_eq!(rig.judge(now), None);
    rig.run();
    assert_eq!(rig.left(), PODS - 10);
}

#[test]
fn what_never_came_to_be_in_etcd_is_no_loss() {
    let mut rig = registered();
    for number in PODS..3 * PODS {
        rig.want("orders", &pod(number), &[&key(number)], "1");
        rig.present(number, Presence::Missing);
    }
    assert_eq!(rig.judge(Instant::now()), None);
    rig.run();
    assert_eq!(rig.left(), PODS);
}

#[test]
fn an_etcd_that_was_restored_is_read_before_what_it_lost_counts() {
    let (mut rig, now) = (Rig::new(), Instant::now());
    rig.ledger.set_guard(guard());
    let restore = rig.etcd.save();
    for number in 0..PODS {
        rig.want("orders", &pod(number), &[&key(number)], "1");
    }
    rig.run();
    rig.judge(now);
    restore(&mut rig.etcd);
    rig.fence = rig.etcd.elect();
    // Its first word is that all is void.
    rig.ledger.observe(rig.etcd.tell(0).expect("it tells"));
    for number in 0..PODS {
        rig.present(number, Presence::Missing);
    }
    rig.judge(now);
    assert_eq!(
        rig.ledger.hold().map_or(0, crate::plan::Hold::len),
        0,
        "nothing is there to be held"
    );
}

/// All pods are no longer ready, and a hold with the id `first` is recorded.
fn held(now: Instant) -> Rig {
    let mut rig = registered();
    for number in 0..PODS {
        rig.present(number, Presence::Unready(tenancy(&pod(number), &[&key(number)], "1")));
    }
    assert_eq!(rig.judge_by(now, "first"), Some(GuardNews::Held));
    rig.run();
    rig
}

#[test]
fn a_hold_is_recorded_once_on_the_lease_of_a_key_that_it_holds() {
    let mut rig = held(Instant::now());
    let lease = rig.lease_of(RECORD);
    assert_eq!(lease, rig.lease_of(&key(0)));
    let told = rig.etcd.value(RECORD).expect("it is there");
    assert_eq!(told, r#"{"v":1,"id":"first","until":1800000300,"lost":20,"of":20}"#);
    let revision = rig.etcd.revision();
    rig.judge(Instant::now());
    rig.run();
    assert_eq!(rig.etcd.revision(), revision);
}

#[test]
fn a_restart_goes_on_with_the_hold_that_was_there_and_its_end() {
    let now = Instant::now();
    let mut rig = held(now);
    let before = rig.ledger.hold().expect("a hold").clone();
    rig.restart(15);
    assert!(rig.run().is_empty());
    assert_eq!(
        rig.judge_by(now, "second"),
        Some(GuardNews::Resumed),
        "5 of 20 would be no hold of their own"
    );
    let hold = rig.ledger.hold().expect("a hold").clone();
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
    rig.ledger.stands_by();
    rig.ledger.look(now);
    assert_eq!(rig.ledger.hold(), None, "it is the other one's");
    assert!(rig.run().is_empty(), "and nothing goes");
    rig.ledger.leads_anew();
    assert_eq!(rig.judge_by(now, "second"), Some(GuardNews::Resumed));
    let hold = rig.ledger.hold().expect("a hold");
    assert_eq!((&*hold.id, hold.len()), ("first", PODS));
}

#[test]
fn what_a_leader_let_go_counts_for_its_successor_too() {
    let (mut rig, now) = (registered(), Instant::now());
    rig.ledger.stands_by();
    let revision = rig.etcd.revision();
    for number in 0..10 {
        rig.present(number, Presence::Missing);
        rig.etcd.foreign_delete(&key(number));
    }
    rig.listen();
    assert!(rig.etcd.revision() > revision);
    rig.ledger.look(now);
    rig.ledger.leads_anew();
    rig.present(10, Presence::Missing);
    assert_eq!(rig.judge(now), Some(GuardNews::Held));
    let hold = rig.ledger.hold().expect("a hold");
    assert_eq!((hold.lost, hold.of, hold.len()), (11, 20, 1));
}

#[test]
fn the_record_of_a_hold_that_is_over_goes_after_what_it_held() {
    let now = Instant::now();
    let mut rig = held(now);
    let moment = Moment { now, unix: UNIX };
    let end = rig.ledger.judge(moment, Some("first"), || unreachable!("it goes on"));
    assert!(
        matches!(
            end,
            Some(GuardNews::Released {
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
    rig.ledger.settle(ticket, Some(verdict));
    rig.run();
    assert_eq!(rig.etcd.value(RECORD), None);
    assert_eq!(rig.left(), 0);
}

#[test]
fn a_successor_finishes_what_was_approved() {
    let now = Instant::now();
    let mut rig = held(now);
    rig.ledger
        .judge(Moment { now, unix: UNIX }, Some("first"), || unreachable!("it goes on"));
    // Approved, and dead before anything was written.
    rig.restart(0);
    rig.run();
    let end = rig
        .ledger
        .judge(Moment { now, unix: UNIX }, Some("first"), || unreachable!("it goes on"));
    assert!(
        matches!(
            end,
            Some(GuardNews::Released {
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
    let end = rig.ledger.judge(late, None, || unreachable!("it goes on"));
    assert!(
        matches!(
            end,
            Some(GuardNews::Released {
                why: Release::Expired,
                ..
            })
        ),
        "{end:?}"
    );
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
