//! What is written when, and which writes share a transaction.

use super::*;

#[test]
fn what_replaces_a_pods_key_is_written_with_the_removal_of_the_old_one() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/old"], "1");
    rig.run();
    rig.want("orders", "p", &["/s/new"], "1");
    let written = rig.run();
    assert_eq!(written.len(), 1);
    assert_eq!(keys(&written[0]), ["/s/new", "/s/old"]);
    assert!(matches!(written[0].ops[1], Op::Delete { .. }));
}

#[test]
fn suspended_registration_writes_nothing_and_catches_up_on_resume() {
    let mut rig = Rig::new();
    for pod in ["a", "b"] {
        rig.want("orders", pod, &[&format!("/s/{pod}")], "1");
    }
    rig.run();
    let revision = rig.etcd.revision();
    rig.planner.set_settings(&reference("orders"), suspended(1));
    rig.want("orders", "a", &["/s/a"], "2");
    rig.drop_pod("orders", "b");
    rig.want("orders", "c", &["/s/c"], "1");
    assert_eq!(rig.run(), []);
    assert_eq!(rig.etcd.revision(), revision);

    rig.planner.set_settings(&reference("orders"), settings(1));
    rig.run();
    let values = ["/s/a", "/s/b", "/s/c"].map(|key| rig.etcd.value(key));
    assert_eq!(values, [Some("2".to_owned()), None, Some("1".to_owned())]);
}

#[test]
fn keys_of_suspended_registration_survive_a_restart_without_pods() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.planner = Planner::new(meta(), 256);
    rig.etcd.forget_watches();
    rig.planner.set_settings(&reference("orders"), suspended(1));
    rig.planner.kubernetes_is_complete();
    assert_eq!(rig.run(), []);
    rig.planner.set_settings(&reference("orders"), settings(1));
    assert_eq!(keys(&rig.run()[0]), ["/s/p"]);
    assert_eq!(rig.etcd.held("/s/p"), None);
}

#[test]
fn nothing_is_written_before_kubernetes_lists_are_complete() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.planner = Planner::new(meta(), 256);
    rig.etcd.forget_watches();
    rig.planner.set_settings(&reference("orders"), settings(1));
    rig.want("orders", "new", &["/s/new"], "1");
    assert_eq!(rig.run(), []);
    rig.planner.kubernetes_is_complete();
    rig.run();
    assert_eq!(
        (rig.etcd.value("/s/p"), rig.etcd.value("/s/new").as_deref()),
        (None, Some("1"))
    );
}

#[test]
fn work_that_meets_a_write_under_way_is_done_when_that_has_ended() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/old"], "1");
    rig.run();
    rig.drop_pod("orders", "p");
    let (ticket, transaction) = rig.next().expect("a removal");
    // The pod returns with another key while its old one is still being removed.
    rig.want("orders", "p", &["/s/old", "/s/new"], "1");
    assert_eq!(rig.next(), None);
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    rig.run();
    assert!(["/s/old", "/s/new"].iter().all(|key| rig.etcd.held(key).is_some()));
}

#[test]
fn a_key_is_written_once_in_a_transaction_though_two_things_ask_for_it() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.drop_pod("orders", "p");
    rig.planner.remove_registration(&reference("orders"));
    rig.planner.set_settings(&reference("orders"), settings(2));
    rig.want("orders", "q", &["/s/q"], "1");
    let written = rig.run();
    assert_eq!(written.iter().flat_map(keys).filter(|key| *key == "/s/p").count(), 1);
}

#[test]
fn keys_on_their_way_out_leave_though_their_registration_leaves_first() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let elsewhere = RegistrationSettings {
        keep_last: false,
        prefixes: vec![Prefix::below("/t/")],
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), elsewhere);
    rig.want("orders", "p", &["/t/p"], "1");
    rig.planner.remove_registration(&reference("orders"));
    rig.run();
    assert_eq!(rig.etcd.data().count(), 0);
}

#[test]
fn an_answer_from_before_a_restore_is_not_believed() {
    let mut rig = Rig::new();
    rig.run();
    let restore = rig.etcd.save();
    rig.want("orders", "p", &["/s/p"], "1");
    let (record, transaction) = rig.next().expect("a lease to record");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(record, Some(verdict));
    let (ticket, transaction) = rig.next().expect("the write");
    let verdict = rig.commit(&transaction);
    restore(&mut rig.etcd);
    rig.fence = rig.etcd.elect();
    rig.listen();
    rig.planner.complete(ticket, Some(verdict));
    assert_eq!(rig.report("orders").registered, 0);
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("1"));
}

#[test]
fn the_keys_of_one_pod_too_large_for_a_transaction_are_written_in_parts() {
    let mut rig = Rig::new();
    let large: Arc<[u8]> = vec![b'x'; 60 * 1024].into();
    let record = |number| Record {
        key: format!("/s/p:{number:03}").into(),
        value: large.clone(),
    };
    let endpoint_records = EndpointRecords {
        endpoint: endpoint("p", 1).into(),
        records: (0..30).map(record).collect(),
        units: Box::default(),
    };
    let desired = DesiredPod {
        by_endpoint: [endpoint_records].into(),
        ..DesiredPod::default()
    };
    rig.planner
        .set_desired(&reference("orders"), &"p".into(), Some(desired));
    for transaction in rig.run() {
        let bytes = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } | Op::Check { key, .. } => key.len(),
        };
        assert!(transaction.ops.iter().map(bytes).sum::<usize>() < 1024 * 1024);
    }
    assert_eq!(rig.etcd.data().count(), 30);
}

#[test]
fn a_fenced_write_is_planned_again() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.want("orders", "p", &["/s/p"], "2");
    let (ticket, transaction) = rig.next().expect("a write");
    let stale = std::mem::replace(&mut rig.fence, rig.etcd.elect());
    assert_eq!(rig.etcd.commit(&stale, &transaction), TxnOutcome::Fenced);
    rig.planner.complete(ticket, Some(TxnOutcome::Fenced));
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("1"));
    let written = rig.run();
    assert!(matches!(
        written[0].ops[0],
        Op::Put {
            expect: Expect::At(_),
            ..
        }
    ));
}

#[test]
fn a_prefix_is_watched_until_the_last_key_of_its_registration_has_left() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.planner.remove_registration(&reference("orders"));
    assert_eq!(rig.planner.take_changed_prefixes(), None);
    while let Some(Step::Write(ticket, transaction)) = rig.planner.next(&(), 127) {
        let verdict = rig.commit(&transaction);
        rig.planner.complete(ticket, Some(verdict));
    }
    let changes = rig.planner.take_changed_prefixes().expect("they change");
    assert_eq!((changes.added, changes.removed), (vec![], vec![Prefix::below("/s/")]));
}

#[test]
fn completion_of_an_outstanding_removal_is_reported() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.drop_pod("orders", "p");
    let (ticket, transaction) = rig.next().expect("a removal");
    // A report is made before etcd answers.
    rig.planner.take_changed();
    assert_eq!(rig.report("orders").outstanding, 1);
    let verdict = rig.etcd.commit(&rig.fence, &transaction);
    rig.planner.complete(ticket, Some(verdict));
    assert_eq!(rig.run(), []);
    assert!(rig.planner.take_changed().contains(&reference("orders")));
    assert_eq!(rig.report("orders").outstanding, 0);
}

#[test]
fn keys_of_a_pod_wait_until_all_their_prefixes_are_read() {
    let mut rig = Rig::new();
    let both = RegistrationSettings {
        prefixes: ["/s/", "/t/"].map(Prefix::below).into(),
        ..settings(1)
    };
    rig.planner.set_settings(&reference("orders"), both);
    rig.want("orders", "p", &["/s/p", "/t/p"], "1");
    rig.etcd
        .watch(rig.planner.take_changed_prefixes().expect("they changed"));
    let mut written = Vec::new();
    while let Some(observation) = rig.etcd.deliver(0) {
        rig.planner.observe(observation);
        while let Some(step) = rig.step(&(), Transaction::MAX_OPS) {
            match step {
                Step::Continue => {}
                Step::Write(ticket, transaction) => {
                    let verdict = rig.commit(&transaction);
                    rig.planner.complete(ticket, Some(verdict));
                    written.push(transaction);
                }
            }
        }
    }
    let data = written
        .iter()
        .map(keys)
        .filter(|keys| !keys[0].starts_with("/leasehold/"));
    assert_eq!(data.collect::<Vec<_>>(), [["/s/p", "/t/p"]]);
}

#[test]
fn records_without_space_delay_no_removal() {
    let mut rig = Rig::new();
    rig.want("orders", "a", &["/s/a"], "1");
    rig.want("orders", "b", &["/s/b"], "1");
    rig.run();
    rig.planner.set_full(true);
    rig.want("orders", "c", &["/s/c"], "1");
    rig.want("orders", "b", &["/s/b"], "2");
    rig.drop_pod("orders", "a");
    let written = rig.run();
    assert_eq!(written.iter().flat_map(keys).collect::<Vec<_>>(), ["/s/a"]);
    assert_eq!((rig.etcd.value("/s/a"), rig.planner.queued()), (None, 2));
    assert_eq!(rig.etcd.value("/s/b").as_deref(), Some("1"));
    rig.planner.set_full(false);
    rig.run();
    assert_eq!((rig.report("orders").registered, rig.planner.queued()), (2, 0));
    assert_eq!(rig.etcd.value("/s/b").as_deref(), Some("2"));
}
