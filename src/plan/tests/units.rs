//! Keys that are written as one unit.

use super::*;
use crate::plan::testing::whole;

const URL: &str = "/s/1/url";
const WEIGHT: &str = "/s/1/weight";

fn want_whole(rig: &mut Rig, value: &str) {
    let desired = whole("p", &[URL, WEIGHT], value);
    rig.planner
        .set_desired(&reference("orders"), &"p".into(), Some(desired));
}

/// Changes the value of one key and leaves the other.
fn want_weight(rig: &mut Rig, weight: &str) {
    let mut desired = whole("p", &[URL, WEIGHT], "ours");
    desired.by_endpoint[0].records[1].value = weight.as_bytes().into();
    rig.planner
        .set_desired(&reference("orders"), &"p".into(), Some(desired));
}

/// The next transaction that writes data keys; those about leases are carried out on the way.
fn next_write(rig: &mut Rig) -> (crate::plan::Ticket, Transaction) {
    loop {
        let (ticket, transaction) = rig.next().expect("a write");
        if !transaction.ops[0].key().starts_with("/leasehold/") {
            return (ticket, transaction);
        }
        let verdict = rig.commit(&transaction);
        rig.planner.complete(ticket, Some(verdict));
    }
}

fn there(rig: &Rig) -> [Option<String>; 2] {
    [rig.etcd.value(URL), rig.etcd.value(WEIGHT)]
}

#[test]
fn foreign_key_blocks_its_whole_unit_and_both_keys_are_reported() {
    for (theirs, ours) in [(URL, WEIGHT), (WEIGHT, URL)] {
        let mut rig = Rig::new();
        rig.etcd.foreign_put(theirs, "theirs");
        want_whole(&mut rig, "ours");
        assert_eq!(rig.run(), []);
        assert_eq!(rig.etcd.value(ours), None, "half a record");
        let report = rig.report("orders");
        assert_eq!(
            (report.registered, report.outstanding, report.conflicts.len()),
            (0, 0, 1)
        );
        assert_eq!(&*report.conflicts[0].key, theirs);
        assert_eq!(report.conflicts[0].along, [ours.into()]);

        rig.etcd.foreign_delete(theirs);
        assert_eq!(rig.run().len(), 1);
        assert_eq!(there(&rig), [Some("ours".to_owned()), Some("ours".to_owned())]);
        assert_eq!(rig.report("orders").conflicts, []);
    }
}

#[test]
fn foreign_key_written_first_blocks_the_other_key_of_its_unit() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "ours");
    let (ticket, transaction) = next_write(&mut rig);
    assert_eq!(transaction.unit_of(0).len(), 2);
    rig.etcd.foreign_put(WEIGHT, "theirs");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    assert_eq!(there(&rig), [None, Some("theirs".to_owned())]);
    assert_eq!(rig.report("orders").conflicts.len(), 1, "the answer tells who holds it");
    assert_eq!(rig.run(), []);
}

#[test]
fn only_the_changed_key_of_a_unit_is_written_and_the_other_checked() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "ours");
    rig.run();
    let url = rig.etcd.held(URL).cloned();
    want_weight(&mut rig, "7");
    let written = rig.run();
    assert_eq!(written.len(), 1);
    assert!(
        matches!(&written[0].ops[..], [Op::Check { .. }, Op::Put { .. }]),
        "{written:?}"
    );
    assert_eq!(rig.etcd.held(URL).cloned(), url, "consumers see no event of it");
    assert_eq!(rig.etcd.value(WEIGHT).as_deref(), Some("7"));

    want_weight(&mut rig, "8");
    let (ticket, transaction) = next_write(&mut rig);
    rig.etcd.foreign_delete(URL);
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    assert_eq!(
        rig.etcd.value(WEIGHT).as_deref(),
        Some("7"),
        "its url is not what it was"
    );
    rig.run();
    assert_eq!(there(&rig), [Some("ours".to_owned()), Some("8".to_owned())]);
}

#[test]
fn unit_losing_a_key_to_other_client_is_withdrawn_and_restored_whole() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "ours");
    rig.run();
    rig.etcd.foreign_delete(WEIGHT);
    rig.etcd.foreign_put(WEIGHT, "theirs");
    rig.run();
    assert_eq!(there(&rig), [None, Some("theirs".to_owned())]);
    rig.etcd.foreign_delete(WEIGHT);
    rig.run();
    assert_eq!(there(&rig), [Some("ours".to_owned()), Some("ours".to_owned())]);
    assert_eq!(rig.lease_of(URL), rig.lease_of(WEIGHT));
}

#[test]
fn unit_is_kept_while_the_record_of_a_lease_is_not_yet_known() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "ours");
    rig.run();
    // Another leader moves the weight to a lease of its own, and the watch event of that lease's record is late.
    let lease = rig.etcd.grant();
    let fence = rig.etcd.elect();
    let weight = rig.etcd.held(WEIGHT).expect("it is there").mod_revision;
    let moved = Transaction::of(vec![
        Op::Put {
            key: meta().record_key(lease),
            value: super::super::MetaKeys::record_value(30),
            lease,
            expect: Expect::Absent,
        },
        Op::Delete {
            key: WEIGHT.into(),
            mod_revision: weight,
        },
    ]);
    rig.etcd.commit(&fence, &moved);
    let back = Op::Put {
        key: WEIGHT.into(),
        value: b"ours".as_slice().into(),
        lease,
        expect: Expect::Absent,
    };
    rig.etcd.commit(&fence, &Transaction::of(vec![back]));
    rig.fence = fence;
    let mut late = Vec::new();
    while let Some(observation) = rig.etcd.deliver(0) {
        match &observation {
            crate::model::Observation::Changed { key, .. } if meta().recorded_lease(key).is_some() => {
                late.push(observation);
            }
            _ => rig.planner.observe(observation),
        }
    }
    assert_eq!(
        rig.report("orders").conflicts.len(),
        1,
        "as far as is known it is a stranger's"
    );
    let url = rig.etcd.held(URL).cloned();
    rig.run();
    assert_eq!(rig.etcd.held(URL).cloned(), url, "etcd knows better");
    assert_eq!(rig.report("orders").conflicts, [], "and has told");
    for observation in late {
        rig.planner.observe(observation);
    }
    rig.run();
    assert_eq!(there(&rig), [Some("ours".to_owned()), Some("ours".to_owned())]);
}

#[test]
fn a_unit_is_removed_whole_or_waits() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "ours");
    rig.run();
    rig.drop_pod("orders", "p");
    let (ticket, transaction) = next_write(&mut rig);
    assert_eq!((transaction.ops.len(), transaction.unit_of(0).len()), (2, 2));
    rig.etcd.foreign_put(URL, "overwritten");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    assert!(
        there(&rig).iter().all(Option::is_some),
        "a weight alone, or a url alone"
    );
    rig.run();
    assert_eq!(there(&rig), [None, None]);
}

#[test]
fn a_registration_that_goes_takes_each_unit_away_as_one() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "ours");
    rig.run();
    rig.planner.remove_registration(&reference("orders"));
    let (_, transaction) = next_write(&mut rig);
    assert_eq!(
        (keys(&transaction), transaction.unit_of(0).len()),
        (vec![URL, WEIGHT], 2)
    );
}

#[test]
fn what_a_predecessor_left_of_a_unit_goes_as_one() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "ours");
    rig.run();
    let mut successor = Rig {
        planner: Planner::new(meta(), 256),
        ..rig
    };
    successor.etcd.forget_watches();
    successor.planner.set_settings(&reference("orders"), settings(1));
    successor.planner.kubernetes_is_complete();
    let (_, transaction) = next_write(&mut successor);
    assert_eq!(
        (keys(&transaction), transaction.unit_of(0).len()),
        (vec![URL, WEIGHT], 2)
    );
}

#[test]
fn younger_registration_writes_no_unit_with_a_key_of_an_older_one() {
    let mut rig = Rig::new();
    want_whole(&mut rig, "younger");
    rig.run();
    rig.planner.set_settings(&reference("elder"), settings(0));
    rig.want("elder", "p", &[WEIGHT], "elder");
    rig.run();
    assert_eq!(there(&rig), [None, Some("elder".to_owned())]);
    let conflicts = &rig.report("orders").conflicts;
    assert_eq!(conflicts[0].holder, Holder::Registration(reference("elder")));
    assert_eq!(conflicts[0].along, [URL.into()]);
    rig.drop_pod("elder", "p");
    rig.run();
    assert_eq!(there(&rig), [Some("younger".to_owned()), Some("younger".to_owned())]);
}

#[test]
fn no_unit_is_split_over_two_transactions_nor_exceeds_etcds_limit() {
    let mut rig = Rig::new();
    for pod in 0..200 {
        let (url, weight) = (format!("/s/{pod}/url"), format!("/s/{pod}/weight"));
        let desired = whole(&format!("p{pod}"), &[&url, &weight], "ours");
        rig.planner
            .set_desired(&reference("orders"), &format!("p{pod}").as_str().into(), Some(desired));
    }
    let written = rig.run();
    assert_eq!(
        written.iter().map(|transaction| transaction.ops.len()).sum::<usize>(),
        400
    );
    for transaction in &written {
        assert!(transaction.ops.len() + 2 <= Transaction::MAX_OPS + 1);
        assert_eq!(transaction.units.len() * 2, transaction.ops.len());
        for unit in &transaction.units {
            let stem = |op: &Op| op.key().rsplit_once('/').map(|(stem, _)| stem.to_owned());
            assert_eq!(stem(&transaction.ops[unit.start]), stem(&transaction.ops[unit.end - 1]));
        }
    }
}
