//! What happens to keys when something happens to their lease.

use super::*;
use crate::model::Checkpoint;
use crate::plan::LeaseGroups;

#[test]
fn a_changed_value_is_written_in_place_on_the_same_lease() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let (lease, created) = (rig.lease_of("/s/p"), rig.etcd.revision());
    rig.want("orders", "p", &["/s/p"], "2");
    rig.run();
    let held = rig.etcd.held("/s/p").unwrap();
    assert_eq!(
        (&*held.value, held.lease, held.create_revision),
        (&b"2"[..], lease, created)
    );
}

#[test]
fn a_lapsed_lease_is_replaced_and_only_its_keys_are_written_again() {
    let mut rig = Rig::new();
    rig.planner.leases().set_capacity(1);
    rig.want("orders", "a", &["/s/a"], "1");
    rig.want("orders", "b", &["/s/b"], "1");
    rig.run();
    rig.etcd.expire(rig.lease_of("/s/a"));
    let written = rig.run();
    assert_eq!(written.iter().flat_map(keys).collect::<Vec<_>>(), ["/s/a"]);
}

#[test]
fn keys_keep_their_lease_while_it_is_unconfirmed() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    rig.etcd.foreign_delete(&meta().record_key(lease));
    // The key is queued while the record is being written again.
    rig.want("orders", "p", &["/s/p", "/s/q"], "1");
    rig.run();
    assert_eq!(rig.lease_of("/s/p"), lease);
    assert_eq!(
        rig.etcd.held("/s/p").unwrap().create_revision,
        rig.etcd.held("/s/p").unwrap().mod_revision
    );
    assert!(rig.etcd.recorded().contains(&lease), "its record is there again");
    assert_eq!(rig.etcd.value("/s/q").as_deref(), Some("1"));
}

#[test]
fn overwritten_lease_record_is_repaired_without_touching_its_keys() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    rig.etcd.foreign_put(&meta().record_key(lease), "theirs");
    assert_eq!(rig.run(), []);
    assert_eq!(rig.etcd.recorded(), [lease]);
}

/// A record in a format that this release cannot read.
const NEWER: &str = r#"{"v":2,"life":"30s"}"#;

#[test]
fn lease_recorded_by_newer_release_is_renewed_and_left_unchanged() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.want("orders", "q", &["/s/q"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    let record = meta().record_key(lease);
    rig.etcd.rewrite(&record, NEWER);
    // A new operator that knows only what it reads.
    let revision = rig.etcd.revision();
    rig.planner = Planner::new(meta(), 256);
    rig.planner.set_settings(&reference("orders"), settings(1));
    rig.want("orders", "p", &["/s/p"], "1");
    rig.want("orders", "q", &["/s/q"], "1");
    rig.planner.kubernetes_is_complete();
    rig.etcd.forget_watches();
    assert_eq!(rig.run(), []);
    assert_eq!(rig.etcd.revision(), revision, "nothing is written");
    let renewed = rig.planner.leases().take_changed_renewals().expect("there are some");
    assert!(renewed.contains_key(&lease), "{renewed:?}");
    // After a false report that the lease expired, its record is not overwritten either.
    rig.planner.leases().mark_unconfirmed(lease);
    assert_eq!(rig.run(), []);
    assert_eq!(rig.etcd.value(&record).as_deref(), Some(NEWER));

    // New keys are put on another lease of ours, and confirmed removals are carried out.
    rig.want("orders", "r", &["/s/r"], "1");
    rig.drop_pod("orders", "q");
    rig.run();
    assert_ne!(rig.lease_of("/s/r"), lease);
    assert_eq!(rig.etcd.held("/s/q"), None);
    assert_eq!(rig.lease_of("/s/p"), lease);

    // Once the newer release writes a readable record, the lease is like any other.
    rig.etcd.rewrite(&record, r#"{"v":2,"ttl":30,"life":"30s"}"#);
    rig.listen();
    let renewed = rig.planner.leases().take_changed_renewals().expect("it is known again");
    assert_eq!(renewed.get(&lease), Some(&30));
    assert_eq!(rig.run(), []);
}

#[test]
fn keys_on_a_lease_of_a_newer_release_are_rewritten_when_it_expires() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    rig.etcd.rewrite(&meta().record_key(lease), NEWER);
    rig.listen();
    rig.etcd.expire(lease);
    rig.run();
    assert_ne!(rig.lease_of("/s/p"), lease);
}

#[test]
fn a_lease_said_to_have_lapsed_is_asked_for_by_its_record() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let (lease, revision) = (rig.lease_of("/s/p"), rig.etcd.revision());
    rig.planner.leases().mark_unconfirmed(lease);
    rig.run();
    assert_eq!(
        (rig.lease_of("/s/p"), rig.etcd.revision()),
        (lease, revision),
        "it lives"
    );

    // The lease expires, and the answer to the record's write arrives before the watch events.
    rig.listen();
    rig.etcd.expire(lease);
    rig.planner.leases().mark_unconfirmed(lease);
    let Some(Step::Write(ticket, transaction)) = rig.planner.next(&(), 127) else {
        panic!("the record is to be written");
    };
    let verdict = rig.commit(&transaction);
    assert_eq!(verdict, TxnOutcome::LeaseGone);
    rig.planner.complete(ticket, Some(verdict));
    assert_eq!(
        rig.report("orders").registered,
        0,
        "the key is known to be gone with it"
    );
    rig.run();
    assert_ne!(rig.lease_of("/s/p"), lease);
}

#[test]
fn a_changed_ttl_moves_the_keys_and_the_empty_lease_is_let_go() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let before = rig.lease_of("/s/p");
    rig.planner
        .set_settings(&reference("orders"), RegistrationSettings { ttl: 60, ..settings(1) });
    assert_eq!(rig.run().len(), 1);
    assert_ne!(rig.lease_of("/s/p"), before);

    let start = Instant::now();
    assert_eq!(
        rig.planner.retire_leases(start),
        None,
        "it is only now seen to be empty"
    );
    let Some(Step::Write(ticket, transaction)) = rig.planner.retire_leases(start + Duration::from_mins(10)) else {
        panic!("the lease has been empty for long");
    };
    assert_eq!(keys(&transaction), [&*meta().record_key(before)]);
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    assert_eq!(rig.planner.lease_ids(), [rig.lease_of("/s/p")], "it is renewed no more");
}

#[test]
fn checkpoint_uses_the_lease_of_a_written_or_removed_key() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    let observed = Checkpoint::default().value();
    let lease_of_checkpoint = |rig: &mut Rig| {
        let (ticket, transaction) = rig.next().expect("there is something to do");
        let checkpoint = rig.planner.checkpoint(&transaction, 3, 7, observed.clone());
        rig.planner.complete(ticket, None);
        checkpoint.map(|checkpoint| (checkpoint.key, checkpoint.lease))
    };
    let expected = Some(("/leasehold/c1/heard/3".into(), lease));
    rig.want("orders", "p", &["/s/p"], "2");
    assert_eq!(lease_of_checkpoint(&mut rig), expected, "of a put");
    rig.run();
    rig.drop_pod("orders", "p");
    assert_eq!(lease_of_checkpoint(&mut rig), expected, "of a removal");
}

#[test]
fn removal_with_an_expired_checkpoint_lease_is_not_retried_in_a_loop() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.drop_pod("orders", "p");
    let (ticket, transaction) = rig.next().expect("a removal");
    rig.etcd.expire(rig.lease_of("/s/p"));
    // The watch event has not arrived yet.
    rig.planner.complete(ticket, Some(TxnOutcome::LeaseGone));
    assert_eq!(keys(&transaction), ["/s/p"]);
    assert_eq!(rig.planner.next(&(), Transaction::MAX_OPS), None);
}

#[test]
fn pod_with_keys_of_two_groups_gets_a_second_lease_although_one_is_free() {
    let mut rig = Rig::new();
    let mut groups = LeaseGroups::default();
    let prefixes = ["/s/", "/t/"].map(Prefix::below);
    for prefix in &prefixes {
        groups.add(prefix.clone());
    }
    rig.planner.set_lease_groups(groups);
    let settings = RegistrationSettings {
        prefixes: prefixes.into(),
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), settings);
    rig.want("orders", "p", &["/s/p", "/t/p"], "1");
    rig.listen();
    for free in 0..2 {
        while let Some(Step::Write(ticket, transaction)) = rig.planner.next(&(), Transaction::MAX_OPS) {
            let verdict = rig.commit(&transaction);
            rig.planner.complete(ticket, Some(verdict));
        }
        rig.planner.offer_room();
        assert_eq!(rig.planner.grant_due(&[].into()), Some(30), "with {free} free leases");
        let lease = rig.etcd.grant();
        rig.planner.granted(lease, 30);
    }
    rig.run();
    assert_ne!(rig.lease_of("/s/p"), rig.lease_of("/t/p"));
}
