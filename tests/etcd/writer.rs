//! Guarded, fenced transactions.

use leasehold::backend::etcd::{Connection, Error};
use leasehold::model::{CheckpointWrite, Expect, Fence, LeaseId, Op, OpResult, Revision, Transaction, TxnOutcome};
use testbed::{EtcdCluster, EtcdConfig, EtcdVersion, Folder, History};

use crate::common::{connect, delete, grant, lead, lead_on, one, put, revoke};

fn write(key: &str, value: &str, lease: LeaseId, expect: Expect) -> Op {
    Op::Put {
        key: key.into(),
        value: value.as_bytes().into(),
        lease,
        expect,
    }
}

fn remove(key: &str, mod_revision: Revision) -> Op {
    Op::Delete {
        key: key.into(),
        mod_revision,
    }
}

fn checkpoint(value: &str, lease: LeaseId, after: Revision) -> CheckpointWrite {
    CheckpointWrite {
        key: "/meta/heard/0".into(),
        value: value.as_bytes().into(),
        lease,
        after,
    }
}

/// Commits a transaction that must be applied.
async fn apply(connection: &Connection, fence: &Fence, ops: Vec<Op>) -> (Revision, Vec<OpResult>) {
    apply_with(connection, fence, ops, None).await
}

/// The same with a checkpoint.
async fn apply_with(
    connection: &Connection,
    fence: &Fence,
    ops: Vec<Op>,
    checkpoint: Option<CheckpointWrite>,
) -> (Revision, Vec<OpResult>) {
    match connection
        .commit(
            fence,
            &Transaction {
                checkpoint,
                ..Transaction::of(ops)
            },
        )
        .await
        .expect("commit")
    {
        TxnOutcome::Applied { revision, results } => (revision, results),
        verdict => panic!("not applied: {verdict:?}"),
    }
}

fn holder(result: &OpResult) -> Option<(String, LeaseId)> {
    let OpResult::Refused(holder) = result else {
        panic!("not refused: {result:?}");
    };
    let held = holder.as_ref()?;
    Some((String::from_utf8_lossy(&held.value).into_owned(), held.lease))
}

#[tokio::test]
async fn a_transaction_creates_updates_and_deletes_at_one_revision() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let history = History::watch(&cluster, "/a/", 0).await.expect("watch");

    let create = ["/a/1", "/a/2"].map(|key| write(key, "one", lease, Expect::Absent));
    let (created, results) = apply(&connection, &fence, create.into()).await;
    assert_eq!(results, [OpResult::Done, OpResult::Done]);
    let change = vec![
        write("/a/1", "two", lease, Expect::At(created)),
        remove("/a/2", created),
        write("/a/3", "new", lease, Expect::Absent),
    ];
    let (changed, results) = apply(&connection, &fence, change).await;
    assert_eq!(results, [OpResult::Done, OpResult::Done, OpResult::Done]);

    let events = history.settled().await.expect("settled");
    let at = |revision| {
        let those = events.iter().filter(|event| event.revision == revision);
        let mut reported: Vec<_> = those.map(ToString::to_string).collect();
        reported.sort();
        reported
    };
    assert_eq!(at(created), ["put /a/1 one", "put /a/2 one"]);
    assert_eq!(at(changed), ["delete /a/2", "put /a/1 two", "put /a/3 new"]);
    assert_eq!(events.len(), 5);
    let held = cluster.dump("/a/").await.expect("dump");
    assert!(held.values().all(|held| held.lease == lease.0), "{held:?}");
}

#[tokio::test]
async fn foreign_key_rejects_only_its_own_write_and_its_holder_is_reported() {
    let (cluster, connection) = one().await;
    let (fence, ours) = (lead(&cluster).await, grant(&connection, 60).await);
    let theirs = grant(&connection, 60).await;
    let foreign = put(&cluster, "/a/1", "theirs", theirs).await;
    let edited = put(&cluster, "/a/2", "ours", ours).await;
    put(&cluster, "/a/2", "edited", LeaseId::NONE).await;

    let ops = vec![
        write("/a/0", "ours", ours, Expect::Absent),
        write("/a/1", "ours", ours, Expect::Absent),
        write("/a/2", "ours", ours, Expect::At(edited)),
        remove("/a/3", 3),
        write("/a/4", "ours", ours, Expect::Absent),
    ];
    let (_, results) = apply(&connection, &fence, ops).await;
    assert_eq!(results[0], OpResult::Done);
    assert_eq!(holder(&results[1]), Some(("theirs".to_owned(), theirs)));
    assert_eq!(holder(&results[2]), Some(("edited".to_owned(), LeaseId::NONE)));
    assert_eq!(holder(&results[3]), None);
    assert_eq!(results[4], OpResult::Done);
    let held = cluster.dump("/a/").await.expect("dump");
    assert_eq!(held["/a/1"].mod_revision, foreign);
    assert_eq!(held["/a/2"].value, "edited");
    assert_eq!(held.len(), 4);
}

#[tokio::test]
async fn ops_of_a_unit_are_atomic_and_do_not_affect_other_ops() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    put(&cluster, "/a/weight", "theirs", LeaseId::NONE).await;
    let known = put(&cluster, "/b/url", "ours", lease).await;
    let check = |expect| Op::Check {
        key: "/b/url".into(),
        expect,
    };
    let transaction = |expect| Transaction {
        ops: vec![
            write("/a/url", "ours", lease, Expect::Absent),
            write("/a/weight", "ours", lease, Expect::Absent),
            write("/alone", "ours", lease, Expect::Absent),
            check(expect),
            write("/b/weight", "ours", lease, Expect::Absent),
        ],
        units: vec![0..2, 3..5],
        checkpoint: None,
    };
    let commit = async |expect| match connection.commit(&fence, &transaction(expect)).await.expect("commit") {
        TxnOutcome::Applied { results, .. } => results,
        verdict => panic!("not applied: {verdict:?}"),
    };
    let results = commit(Expect::At(known + 100)).await;
    assert_eq!(holder(&results[0]), None, "it is free, but useless without its weight");
    assert_eq!(holder(&results[1]), Some(("theirs".to_owned(), LeaseId::NONE)));
    assert_eq!(results[2], OpResult::Done);
    assert_eq!(holder(&results[3]), Some(("ours".to_owned(), lease)));
    assert_eq!(holder(&results[4]), None);

    let results = commit(Expect::At(known)).await;
    assert_eq!(results[3..], [OpResult::Done, OpResult::Done]);
    let held = cluster.dump("/").await.expect("dump");
    assert_eq!(held["/b/url"].mod_revision, known, "checked, not written");
    assert!(
        held.contains_key("/b/weight") && !held.contains_key("/a/url"),
        "{held:?}"
    );
}

#[tokio::test]
async fn etcd_takes_a_transaction_as_full_as_its_largest_unit_allows() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let width = 8;
    let ops = (0..Transaction::MAX_OPS + 1 - width).map(|i| write(&format!("/a/{i}"), "x", lease, Expect::Absent));
    let unit = 0..width;
    let transaction = Transaction {
        ops: ops.collect(),
        units: vec![unit],
        checkpoint: Some(checkpoint("1", lease, fence.create_revision)),
    };
    let TxnOutcome::Applied { results, .. } = connection.commit(&fence, &transaction).await.expect("commit") else {
        panic!("not applied");
    };
    assert!(results.iter().all(|result| *result == OpResult::Done));
}

#[tokio::test]
async fn a_deletion_of_a_key_that_was_written_since_is_refused() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let known = put(&cluster, "/a/1", "one", lease).await;
    put(&cluster, "/a/1", "two", lease).await;
    let (_, results) = apply(&connection, &fence, vec![remove("/a/1", known)]).await;
    assert_eq!(holder(&results[0]), Some(("two".to_owned(), lease)));
}

#[tokio::test]
async fn a_leader_that_slept_through_the_loss_of_its_key_changes_nothing() {
    let (cluster, connection) = one().await;
    let (stale, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let known = put(&cluster, "/a/1", "one", lease).await;
    let ops = || {
        Transaction::of(vec![
            write("/a/1", "stale", lease, Expect::At(known)),
            write("/a/2", "stale", lease, Expect::Absent),
            remove("/a/1", known),
        ])
    };
    let one_op = |i: usize| Transaction::of(vec![ops().ops.swap_remove(i)]);

    delete(&cluster, "/meta/leader").await;
    let before = cluster.revision().await.expect("revision");
    for i in 0..3 {
        let verdict = connection.commit(&stale, &one_op(i)).await.expect("commit");
        assert_eq!(verdict, TxnOutcome::Fenced, "without a leader");
    }
    assert_eq!(cluster.revision().await.expect("revision"), before);

    let fresh = lead(&cluster).await;
    for i in 0..3 {
        let verdict = connection.commit(&stale, &one_op(i)).await.expect("commit");
        assert_eq!(verdict, TxnOutcome::Fenced, "under another leader");
    }
    assert_eq!(cluster.revision().await.expect("revision"), before + 1);
    apply(&connection, &fresh, vec![remove("/a/1", known)]).await;
}

#[tokio::test]
async fn a_put_on_a_dead_lease_writes_nothing_and_says_so() {
    let (cluster, connection) = one().await;
    let (fence, alive) = (lead(&cluster).await, grant(&connection, 60).await);
    let dead = grant(&connection, 60).await;
    revoke(&cluster, dead).await;
    let before = cluster.revision().await.expect("revision");
    let ops = vec![
        write("/a/1", "one", alive, Expect::Absent),
        write("/a/2", "two", dead, Expect::Absent),
    ];
    let verdict = connection.commit(&fence, &Transaction::of(ops)).await.expect("commit");
    assert_eq!(verdict, TxnOutcome::LeaseGone);
    assert_eq!(cluster.revision().await.expect("revision"), before);
}

#[tokio::test]
async fn a_transaction_sent_again_finds_its_own_values() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let ops = vec![write("/a/1", "one", lease, Expect::Absent)];
    apply(&connection, &fence, ops.clone()).await;
    let before = cluster.revision().await.expect("revision");
    let (_, results) = apply(&connection, &fence, ops).await;
    assert_eq!(holder(&results[0]), Some(("one".to_owned(), lease)));
    assert_eq!(cluster.revision().await.expect("revision"), before);
}

#[tokio::test]
async fn full_size_transaction_fits_the_default_limits_of_every_release() {
    for version in EtcdVersion::ALL {
        let cluster = EtcdCluster::temporary(version, 1).await.expect("etcd starts");
        let connection = connect(cluster.endpoints()).await;
        let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
        let key = |i: usize| format!("/a/{i}");
        let ops = (0..Transaction::MAX_OPS).map(|i| write(&key(i), "one", lease, Expect::Absent));
        let (revision, results) = apply_with(
            &connection,
            &fence,
            ops.collect(),
            Some(checkpoint("1", lease, fence.create_revision)),
        )
        .await;
        assert!(results.iter().all(|result| *result == OpResult::Done), "{version}");
        let ops = (0..Transaction::MAX_OPS).map(|i| remove(&key(i), revision));
        apply_with(
            &connection,
            &fence,
            ops.collect(),
            Some(checkpoint("2", lease, revision)),
        )
        .await;
        assert_eq!(cluster.dump("/a/").await.expect("dump").len(), 0, "{version}");
    }
}

#[tokio::test]
async fn a_copy_of_a_transaction_that_comes_late_brings_no_key_back() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let create = Transaction {
        checkpoint: Some(checkpoint("1", lease, fence.create_revision)),
        ..Transaction::of(vec![write("/a/1", "x", lease, Expect::Absent)])
    };
    let verdict = connection.commit(&fence, &create).await.expect("commit");
    let TxnOutcome::Applied { revision: created, .. } = verdict else {
        panic!("not applied: {verdict:?}");
    };
    assert_eq!(
        cluster.dump("/meta/heard/0").await.expect("dump")["/meta/heard/0"].value,
        "1"
    );
    // A transaction without this checkpoint.
    apply(&connection, &fence, vec![remove("/a/1", created)]).await;
    let before = cluster.revision().await.expect("revision");
    let late = connection.commit(&fence, &create).await.expect("commit");
    assert_eq!(late, TxnOutcome::Overtaken { at: created });
    assert_eq!(cluster.revision().await.expect("revision"), before);

    // The next transaction of the write slot knows the revision of the previous one.
    let ops = vec![write("/a/2", "x", lease, Expect::Absent)];
    let (revision, results) = apply_with(&connection, &fence, ops, Some(checkpoint("2", lease, created))).await;
    assert_eq!(results, [OpResult::Done]);
    // A transaction that missed the previous answer does not know it. It is refused with the revision, and then
    // executed.
    let unaware = Transaction {
        checkpoint: Some(checkpoint("3", lease, created)),
        ..Transaction::of(vec![write("/a/3", "x", lease, Expect::Absent)])
    };
    let verdict = connection.commit(&fence, &unaware).await.expect("commit");
    assert_eq!(verdict, TxnOutcome::Overtaken { at: revision });
    let (_, results) = apply_with(&connection, &fence, unaware.ops, Some(checkpoint("3", lease, revision))).await;
    assert_eq!(results, [OpResult::Done]);

    delete(&cluster, "/meta/leader").await;
    let late = connection.commit(&fence, &create).await.expect("commit");
    assert_eq!(
        late,
        TxnOutcome::Fenced,
        "who leads no more is told that and nothing else"
    );
}

#[tokio::test]
async fn p7_leader_from_before_a_restore_is_fenced_despite_equal_revision() {
    let (cluster, connection) = one().await;
    let folder = Folder::new("snapshot").expect("a folder");
    let snapshot = folder.path().join("snapshot.db");
    cluster.save(&snapshot).await.expect("a snapshot");
    let session = grant(&connection, 60).await;
    let stale = lead_on(&cluster, session).await;

    cluster.restore(&snapshot).await.expect("restored");
    let lease = grant(&connection, 60).await;
    let fresh = lead_on(&cluster, lease).await;
    assert_eq!(fresh.create_revision, stale.create_revision, "else it proves nothing");
    let ops = || vec![write("/a/1", "x", lease, Expect::Absent)];
    let verdict = connection.commit(&stale, &Transaction::of(ops())).await;
    assert_eq!(verdict.expect("commit"), TxnOutcome::Fenced);
    let (_, results) = apply(&connection, &fresh, ops()).await;
    assert_eq!(results, [OpResult::Done]);
}

#[tokio::test]
async fn a_transaction_beyond_the_request_limit_is_refused_as_too_large() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let ops = vec![write("/a/1", &"x".repeat(2 << 20), lease, Expect::Absent)];
    let error = connection
        .commit(&fence, &Transaction::of(ops))
        .await
        .expect_err("larger than 1.5 MiB");
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_database_still_lets_keys_be_deleted_and_says_what_to_do() {
    let folder = Folder::new("etcd").expect("a folder");
    let config = EtcdConfig {
        args: vec!["--quota-backend-bytes=4194304".to_owned()],
        ..EtcdConfig::default()
    };
    let cluster = EtcdCluster::start_with(config, "etcd", folder.path(), folder.path())
        .await
        .expect("etcd starts");
    let connection = connect(cluster.endpoints()).await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let known = put(&cluster, "/a/1", "one", lease).await;
    let mut client = cluster.client().await.expect("connect");
    let mut writes = 0;
    while client.put("/fat", "x".repeat(1 << 20), None).await.is_ok() {
        writes += 1;
        assert!(writes < 100, "the quota holds nothing back");
    }

    let error = connection
        .grant(leasehold::backend::etcd::lease_id(), 60)
        .await
        .expect_err("the database is full");
    assert_eq!(error.reason(), "NoSpace", "{error}");
    let (_, results) = apply(&connection, &fence, vec![remove("/a/1", known)]).await;
    assert_eq!(results, [OpResult::Done]);
}
