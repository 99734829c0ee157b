//! Pods that come and go leave nothing in memory, neither on the leader nor on a standby replica.

use super::*;
use crate::model::PrefixChanges;

#[test]
fn removed_key_leaves_no_state_despite_late_watch_events() {
    let mut rig = Rig::new();
    for pod in ["a", "b", "c"] {
        rig.want("orders", pod, &[&format!("/s/{pod}")], "1");
        rig.run();
        rig.drop_pod("orders", pod);
        while let Some(Step::Write(ticket, transaction)) = rig.planner.next(&(), Transaction::MAX_OPS) {
            let verdict = rig.commit(&transaction);
            rig.planner.complete(ticket, Some(verdict));
        }
        // Every answer arrives before the watch events.
        rig.run();
    }
    assert_eq!(rig.planner.keys.iter().count(), 0, "{:?}", rig.planner.keys);
}

#[test]
fn a_replica_that_stands_by_forgets_the_pods_that_another_saw_to() {
    let mut rig = Rig::new();
    let mut standby = Planner::new(meta(), 256);
    standby.set_settings(&reference("orders"), settings(1));
    standby.kubernetes_is_complete();
    for pod in ["a", "b", "c"] {
        let key = format!("/s/{pod}");
        standby.set_desired(&reference("orders"), &pod.into(), Some(desired(pod, &[&key], "1")));
        rig.want("orders", pod, &[&key], "1");
        rig.run();
        standby_sees(&mut standby, &rig);
        standby.set_desired(&reference("orders"), &pod.into(), None);
        rig.drop_pod("orders", pod);
        rig.run();
        standby_sees(&mut standby, &rig);
    }
    standby.tidy();
    let state = standby.registrations.get(&reference("orders")).expect("it is known");
    assert_eq!(
        (standby.queued(), standby.keys.iter().count(), state.dropped.len()),
        (0, 0, 0),
        "{standby:?}"
    );
}

#[test]
fn a_replica_that_stands_by_keeps_what_is_still_to_be_done() {
    let mut standby = Planner::new(meta(), 256);
    let rig = Rig::new();
    standby.set_settings(&reference("orders"), settings(1));
    standby.kubernetes_is_complete();
    standby_sees(&mut standby, &rig);
    standby.set_desired(&reference("orders"), &"a".into(), Some(desired("a", &["/s/a"], "1")));
    standby.tidy();
    assert_eq!(standby.next(&(), 127), None);
    assert_eq!(standby.grant_due(&[].into()), Some(30), "it leads now");
}

#[test]
fn prefixes_of_deleted_registrations_are_released_by_a_standby() {
    let mut standby = Planner::new(meta(), 256);
    let rig = Rig::new();
    standby.set_settings(&reference("orders"), settings(1));
    standby.kubernetes_is_complete();
    standby.remove_registration(&reference("orders"));
    let prefix = Prefix::below("/s/");
    let added = PrefixChanges::add([prefix.clone()]);
    assert_eq!(standby.take_changed_prefixes(), Some(added), "not read yet");
    standby_sees(&mut standby, &rig);
    standby.tidy();
    let changes = standby.take_changed_prefixes().expect("changed");
    assert_eq!((changes.added, changes.removed), (vec![], vec![prefix]));
}

fn standby_sees(standby: &mut Planner, rig: &Rig) {
    standby.take_changed_prefixes();
    for prefix in [meta().prefix().clone(), Prefix::below("/s/")] {
        standby.observe(rig.etcd.snapshot(prefix));
    }
}

#[test]
fn a_write_that_lands_after_its_registration_is_gone_is_found_and_undone() {
    let mut rig = Rig::new();
    rig.want("orders", "a", &["/s/a"], "1");
    let late = loop {
        let (ticket, transaction) = rig.next().expect("a key is to be written");
        if transaction.ops[0].key().starts_with("/s/") {
            // No answer: the transaction may have been carried out, or may still be.
            rig.planner.complete(ticket, None);
            break transaction;
        }
        let verdict = rig.commit(&transaction);
        rig.planner.complete(ticket, Some(verdict));
    };
    rig.planner.remove_registration(&reference("orders"));
    rig.run();
    rig.planner.tidy();
    rig.run();
    rig.commit(&late);
    rig.run();
    assert_eq!(rig.etcd.value("/s/a"), None);
}
