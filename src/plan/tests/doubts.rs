//! Pods that only seem to be gone: their keys are judged together before any of them goes.

use super::*;
use crate::plan::{GuardMode, GuardNews, GuardTerms, Presence, Release};

const PODS: usize = 20;

fn guard() -> GuardTerms {
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

fn key(number: usize) -> crate::plan::Key {
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
        self.listen();
        self.ledger.judge(now, None, || "h".to_owned())
    }

    fn left(&self) -> usize {
        self.etcd.data().count()
    }
}

#[test]
fn keys_of_pods_missing_from_a_list_stay_until_the_hold_ends() {
    let (mut rig, now) = (registered(), Instant::now());
    for number in 0..PODS {
        rig.present(number, Presence::Doubtful(Vec::new()));
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
    rig.present(0, Presence::Doubtful(Vec::new()));
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
        rig.present(number, Presence::Doubtful(Vec::new()));
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
        rig.present(number, Presence::Doubtful(vec![key(number)]));
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
        rig.present(number, Presence::Doubtful(Vec::new()));
    }
    rig.judge(Instant::now());
    rig.ledger.remove_registration(&reference("orders"));
    rig.run();
    assert_eq!(rig.left(), 0);
}

/// What a new operator finds of `registered` when it starts, with the pods of the first few known to be ready.
fn restarted(ready: usize) -> Rig {
    let mut rig = registered();
    rig.etcd.forget_watches();
    rig.fence = rig.etcd.elect();
    rig.ledger = Ledger::new(meta(), 256);
    rig.ledger.set_guard(guard());
    rig.ledger.set_terms(&reference("orders"), terms(1));
    for number in 0..PODS {
        let presence = if number < ready {
            Presence::Ready(tenancy(&pod(number), &[&key(number)], "1"))
        } else {
            Presence::Doubtful(vec![key(number)])
        };
        rig.present(number, presence);
    }
    rig.ledger.kubernetes_is_complete();
    rig
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
        rig.present(number, Presence::Doubtful(Vec::new()));
    }
    rig.run();
    assert_eq!(rig.left(), 0);
}
