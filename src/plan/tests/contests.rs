//! Which registration has a key that several claim.

use super::*;

#[test]
fn the_older_of_two_registrations_has_the_key_and_the_other_says_so() {
    let mut rig = Rig::new();
    rig.planner.set_settings(&reference("elder"), settings(0));
    rig.want("orders", "p", &["/s/p"], "younger");
    rig.want("elder", "p", &["/s/p"], "elder");
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("elder"));
    let conflict = Conflict {
        key: "/s/p".into(),
        holder: Holder::Registration(reference("elder")),
        along: Vec::new(),
    };
    assert_eq!(rig.report("orders").conflicts, [conflict]);
    assert_eq!(rig.report("elder").conflicts, []);

    rig.planner.remove_registration(&reference("elder"));
    rig.run();
    assert_eq!(
        rig.etcd.value("/s/p").as_deref(),
        Some("younger"),
        "the next in age takes over"
    );
    assert_eq!(rig.report("orders").conflicts, []);
}

#[test]
fn recreated_registration_is_younger_than_before() {
    let mut rig = Rig::new();
    rig.planner.set_settings(&reference("other"), settings(5));
    rig.want("orders", "p", &["/s/p"], "orders");
    rig.want("other", "p", &["/s/p"], "other");
    rig.run();
    rig.planner.set_settings(&reference("orders"), settings(9));
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("other"));
}

#[test]
fn foreign_key_is_left_alone_reported_and_written_when_free() {
    let mut rig = Rig::new();
    rig.etcd.foreign_put("/s/p", "theirs");
    let create_revision = rig.etcd.revision();
    rig.want("orders", "p", &["/s/p"], "ours");
    assert_eq!(rig.run(), []);
    let holder = Holder::OtherClient {
        lease: LeaseId::NONE,
        create_revision,
    };
    let conflict = Conflict {
        key: "/s/p".into(),
        holder,
        along: Vec::new(),
    };
    assert_eq!(rig.report("orders").conflicts, [conflict]);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("theirs"));

    rig.etcd.foreign_delete("/s/p");
    assert_eq!(rig.run().len(), 1);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("ours"));
    assert_eq!(rig.report("orders").conflicts, []);
}

#[test]
fn foreign_key_written_first_is_not_overwritten() {
    let mut rig = Rig::new();
    rig.run();
    rig.want("orders", "p", &["/s/p", "/s/p2"], "ours");
    // The write is planned before the watch event of the foreign key arrives.
    let (record, transaction) = rig.next().expect("a lease to record");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(record, Some(verdict));
    let (ticket, transaction) = rig.next().expect("a write");
    rig.etcd.foreign_put("/s/p", "theirs");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    assert_eq!(rig.report("orders").conflicts.len(), 1, "the answer tells who holds it");
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("theirs"));
    assert_eq!(rig.etcd.value("/s/p2").as_deref(), Some("ours"), "its own guard held");
}

#[test]
fn key_removed_or_overwritten_by_other_client_is_restored_at_once() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "ours");
    rig.run();
    rig.etcd.foreign_delete("/s/p");
    assert_eq!(rig.run().len(), 1);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("ours"));
    rig.etcd.foreign_put("/s/p", "theirs");
    assert_eq!(rig.run().len(), 1);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("ours"));
    assert_ne!(rig.lease_of("/s/p"), LeaseId::NONE);
}

#[test]
fn key_recreated_by_other_client_is_foreign() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "ours");
    rig.run();
    rig.etcd.foreign_delete("/s/p");
    rig.etcd.foreign_put("/s/p", "theirs");
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("theirs"));
    assert_eq!(rig.report("orders").conflicts.len(), 1);
}

#[test]
fn a_contested_key_under_way_does_not_hold_up_the_losers_other_keys() {
    let mut rig = Rig::new();
    rig.planner.set_settings(&reference("elder"), settings(0));
    rig.want("elder", "p", &["/s/p"], "elder");
    let (record, transaction) = rig.next().expect("a lease to record");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(record, Some(verdict));
    let (ticket, transaction) = rig.next().expect("the elder's write");
    rig.want("orders", "p", &["/s/p", "/s/other"], "younger");
    let verdict = rig.commit(&transaction);
    rig.run();
    rig.planner.complete(ticket, Some(verdict));
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("elder"));
    assert_eq!(rig.etcd.value("/s/other").as_deref(), Some("younger"));
}

#[test]
fn an_old_registration_that_comes_to_a_place_later_takes_no_key_there() {
    use crate::plan::Since;

    let mut rig = Rig::new();
    let at = |since: Since| [(Prefix::below("/s/"), since)].into();
    rig.planner.set_since(&reference("orders"), at(Since::Recorded(2000)));
    rig.want("orders", "p", &["/s/p"], "first");
    rig.run();
    rig.planner.set_settings(&reference("old"), settings(0));
    rig.planner.set_since(&reference("old"), at(Since::Asked(3000)));
    rig.want("old", "p", &["/s/p"], "later");
    assert_eq!(rig.run(), []);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("first"));
    // The status becomes known later than the keys.
    rig.planner.set_since(&reference("old"), at(Since::Recorded(1000)));
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("later"));
}
