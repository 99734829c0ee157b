//! Keys that etcd denies are left alone and do not block others.

use super::*;
use crate::model::Observation;
use crate::model::PrefixChanges;
use crate::plan::{LeaseGroup, LeaseGroups, Right};

/// A rig with the registrations `orders` below `/s/` and `carts` below `/t/`, which have separate permissions.
fn rig() -> Rig {
    let mut rig = Rig::new();
    let elsewhere = RegistrationSettings {
        prefixes: vec![Prefix::below("/t/")],
        ..settings(2)
    };
    rig.planner.set_settings(&reference("carts"), elsewhere);
    rig.planner.set_lease_groups(lease_groups());
    rig
}

fn lease_groups() -> LeaseGroups {
    let mut lease_groups = LeaseGroups::default();
    lease_groups.add(Prefix::below("/s/"));
    lease_groups.add(Prefix::below("/t/"));
    lease_groups
}

fn deny(rig: &mut Rig, prefix: &str) {
    rig.planner.observe(Observation::Denied {
        prefix: Prefix::below(prefix),
    });
}

fn written(rig: &mut Rig) -> Vec<String> {
    let written = rig.run();
    written.iter().flat_map(keys).map(str::to_owned).collect()
}

#[test]
fn keys_of_different_grants_never_share_a_lease_and_move_together() {
    let mut rig = rig();
    let both = RegistrationSettings {
        prefixes: ["/s/", "/t/"].map(Prefix::below).into(),
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), both);
    rig.want("orders", "p", &["/s/p", "/t/p"], "1");
    rig.want("carts", "q", &["/t/q"], "1");
    let transactions = rig.run();
    assert!(
        transactions
            .iter()
            .any(|sent| keys(sent).starts_with(&["/s/p", "/t/p"])),
        "{transactions:?}"
    );
    assert_ne!(rig.lease_of("/s/p"), rig.lease_of("/t/p"));
    assert_eq!(rig.lease_of("/t/q"), rig.lease_of("/t/p"));
    assert_eq!(rig.planner.leases().len(), 2);
}

#[test]
fn before_it_is_known_what_is_granted_together_nothing_is_put_anywhere() {
    let mut rig = Rig::new();
    rig.planner.await_lease_groups();
    rig.want("orders", "p", &["/s/p"], "1");
    assert_eq!(written(&mut rig), [""; 0]);
    assert_eq!(
        *rig.planner.prefixes_without_lease_group(),
        [Prefix::below("/s/")].into()
    );
    rig.planner.set_lease_groups(lease_groups());
    assert_eq!(written(&mut rig), ["/s/p"]);
}

#[test]
fn keys_that_share_a_lease_from_before_stay_there_and_no_other_joins_them() {
    let mut rig = rig();
    rig.planner.set_lease_groups(LeaseGroups::everything());
    rig.want("orders", "p", &["/s/p"], "1");
    rig.want("carts", "q", &["/t/q"], "1");
    rig.run();
    let (shared, revision) = (rig.lease_of("/s/p"), rig.etcd.revision());
    assert_eq!(rig.lease_of("/t/q"), shared);
    rig.planner.set_lease_groups(lease_groups());
    rig.run();
    assert_eq!(rig.etcd.revision(), revision, "an upgrade is no event");
    rig.want("orders", "p", &["/s/p"], "2");
    rig.want("orders", "r", &["/s/r"], "1");
    rig.run();
    assert_eq!(rig.lease_of("/s/p"), shared, "a changed value stays");
    assert_ne!(rig.lease_of("/s/r"), shared);
    rig.drop_pod("carts", "q");
    rig.run();
    rig.drop_pod("orders", "p");
    rig.run();
    assert_eq!(rig.planner.leases().len(), 2, "an empty one is anyone's");
}

#[test]
fn each_granted_prefix_has_a_lease_and_one_has_as_many_as_it_fills() {
    for (count, leases) in [(1, 40), (50, 50)] {
        let mut rig = Rig::new();
        let mut lease_groups = LeaseGroups::default();
        let mut prefixes = Vec::new();
        for i in 0..count {
            lease_groups.add(Prefix::below(&format!("/p{i}/")));
            prefixes.push(Prefix::below(&format!("/p{i}/")));
        }
        rig.planner.set_lease_groups(lease_groups);
        rig.planner.set_settings(
            &reference("orders"),
            RegistrationSettings {
                prefixes,
                ..settings(1)
            },
        );
        for pod in 0..10_000 {
            let key = format!("/p{}/{pod}", pod % count);
            rig.want("orders", &pod.to_string(), &[&key], "1");
        }
        while let Some((ticket, transaction)) = rig.next() {
            let verdict = rig.commit(&transaction);
            rig.planner.complete(ticket, Some(verdict));
        }
        assert_eq!(rig.planner.key_count(), 10_000);
        assert_eq!(rig.planner.leases().len(), leases);
    }
}

#[test]
fn a_prefix_that_may_not_be_read_waits_alone_and_is_written_once_it_may() {
    let mut rig = rig();
    rig.listen();
    deny(&mut rig, "/t/");
    rig.want("orders", "p", &["/s/p"], "1");
    rig.want("carts", "q", &["/t/q"], "1");
    assert_eq!(written(&mut rig), ["/s/p"]);
    assert_eq!(rig.report("carts").denied, [(Prefix::below("/t/"), Right::Read)]);
    assert_eq!(rig.report("orders").denied, []);
    let seen = rig.etcd.snapshot(Prefix::below("/t/"));
    rig.planner.observe(seen);
    assert_eq!(rig.report("carts").denied, []);
    rig.planner.set_lease_groups(lease_groups());
    assert_eq!(written(&mut rig), ["/t/q"]);
}

#[test]
fn of_a_pod_that_may_be_written_in_one_place_only_that_is_written() {
    let mut rig = rig();
    let both = RegistrationSettings {
        prefixes: ["/s/", "/t/"].map(Prefix::below).into(),
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), both);
    rig.listen();
    rig.planner.writing_denied(&Prefix::below("/t/"), &"/t/p".into());
    rig.want("orders", "p", &["/s/p", "/t/p"], "1");
    assert_eq!(written(&mut rig), ["/s/p"]);
    assert_eq!(rig.report("orders").denied, [(Prefix::below("/t/"), Right::Write)]);
    rig.drop_pod("orders", "p");
    assert_eq!(written(&mut rig), ["/s/p"], "it goes from there as well");
    rig.want("orders", "p", &["/s/p", "/t/p"], "1");
    rig.run();
    rig.planner.writing_allowed(&Prefix::below("/t/"));
    rig.planner.set_lease_groups(lease_groups());
    assert_eq!(written(&mut rig), ["/t/p"]);
    assert_eq!(rig.planner.denied().count(), 0);
}

#[test]
fn a_refused_transaction_names_the_prefixes_and_leases_to_ask_about() {
    let mut rig = rig();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.want("carts", "q", &["/t/q"], "1");
    rig.run();
    let leases = [rig.lease_of("/s/p"), rig.lease_of("/t/q")];
    rig.want("orders", "p", &["/s/p"], "2");
    rig.want("carts", "q", &["/t/q"], "2");
    let (ticket, _) = rig.next().expect("there is something to do");
    let (candidates, unconfirmed) = rig.planner.probe_candidates(ticket);
    let reported: Vec<_> = candidates
        .iter()
        .map(|one| (one.prefix.as_str(), &one.keys[..]))
        .collect();
    assert_eq!(reported, [("/s/", &["/s/p".into()][..]), ("/t/", &["/t/q".into()][..])]);
    assert_eq!(unconfirmed, leases.into());
    // The denied key is known: only the rest of the transaction is sent again.
    rig.planner.writing_denied(&Prefix::below("/t/"), &"/t/q".into());
    rig.planner.complete(ticket, None);
    assert_eq!(written(&mut rig), ["/s/p"]);
    assert_eq!(rig.etcd.value("/t/q").as_deref(), Some("1"));
}

#[test]
fn allowed_keys_leave_a_denied_lease_and_the_rest_stays() {
    let mut rig = rig();
    rig.planner.set_lease_groups(LeaseGroups::everything());
    rig.want("orders", "p", &["/s/p"], "1");
    rig.want("carts", "q", &["/t/q"], "1");
    rig.run();
    rig.planner.set_lease_groups(lease_groups());
    let shared = rig.lease_of("/s/p");
    let candidates = rig.planner.probe_candidates_on(shared);
    assert_eq!(candidates.len(), 2, "{candidates:?}");
    rig.planner.writing_denied(&Prefix::below("/t/"), &"/t/q".into());
    rig.planner.set_lease_denied(shared, true);
    assert_eq!(written(&mut rig), ["/s/p"]);
    assert_ne!(rig.lease_of("/s/p"), shared);
    assert_eq!(rig.lease_of("/t/q"), shared);

    // The lease expires; its keys are written again once that is allowed.
    rig.etcd.expire(shared);
    assert_eq!(written(&mut rig), [""; 0]);
    rig.planner.writing_allowed(&Prefix::below("/t/"));
    rig.planner.set_lease_groups(lease_groups());
    assert_eq!(written(&mut rig), ["/t/q"]);
}

#[test]
fn a_lease_that_etcd_allows_again_takes_keys_again() {
    let mut rig = rig();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    rig.planner.writing_denied(&Prefix::below("/s/"), &"/s/p".into());
    rig.planner.set_lease_denied(lease, true);
    rig.want("orders", "q", &["/s/q"], "1");
    assert_eq!(written(&mut rig), [""; 0]);
    rig.planner.set_lease_denied(lease, false);
    rig.planner.writing_allowed(&Prefix::below("/s/"));
    assert_eq!(
        written(&mut rig),
        [""; 0],
        "what it is granted with may be another thing now"
    );
    rig.planner.set_lease_groups(lease_groups());
    assert_eq!(written(&mut rig), ["/s/q"], "what is in place stays there");
    assert_eq!(rig.lease_of("/s/q"), lease);
}

#[test]
fn nested_prefix_is_watched_alone_while_the_outer_one_is_unreadable() {
    let mut rig = Rig::new();
    let inner = RegistrationSettings {
        prefixes: vec![Prefix::below("/s/in/")],
        ..settings(2)
    };
    rig.planner.set_settings(&reference("carts"), inner);
    let (outer, inner) = (Prefix::below("/s/"), Prefix::below("/s/in/"));
    assert_eq!(rig.planner.take_changed_prefixes(), Some(PrefixChanges::add([outer])));
    deny(&mut rig, "/s/");
    let with_inner = PrefixChanges::add([inner.clone()]);
    assert_eq!(rig.planner.take_changed_prefixes(), Some(with_inner));
    let seen = rig.etcd.snapshot(Prefix::below("/s/in/"));
    rig.planner.observe(seen);
    assert_eq!(rig.report("carts").denied, []);
    assert_eq!(rig.report("orders").denied, [(Prefix::below("/s/"), Right::Read)]);
    let seen = rig.etcd.snapshot(Prefix::below("/s/"));
    rig.planner.observe(seen);
    let without_inner = PrefixChanges {
        removed: vec![inner],
        added: Vec::new(),
    };
    assert_eq!(rig.planner.take_changed_prefixes(), Some(without_inner));
    assert_eq!(rig.report("orders").denied, []);
}

#[test]
fn checkpoint_of_a_removal_uses_a_lease_that_is_not_denied() {
    let mut rig = rig();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.want("carts", "q", &["/t/q"], "1");
    rig.run();
    let (denied, sound) = (rig.lease_of("/s/p"), rig.lease_of("/t/q"));
    rig.drop_pod("orders", "p");
    let (ticket, transaction) = rig.next().expect("a removal");
    assert_eq!(rig.planner.lease_of_checkpoint(&transaction.ops), Some(denied));
    rig.planner.set_lease_denied(denied, true);
    assert_eq!(rig.planner.lease_of_checkpoint(&transaction.ops), Some(sound));
    rig.planner.complete(ticket, None);
    assert_eq!(
        rig.planner.leases().group_of("/t/q"),
        Some(LeaseGroup::Below(Prefix::below("/t/")))
    );
}
