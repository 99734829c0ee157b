//! Endpoints that answer but cannot be used, or that hang: every call and stream uses another one.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType};
use leasehold::backend::etcd::{Connection, EndpointFault, Error};
use leasehold::backend::{Access, Leadership, Timeouts, User};
use leasehold::model::{Expect, LeaseId, Op, OpResult, Prefix, Transaction, TxnOutcome};
use leasehold::telemetry::Calls;
use testbed::{Balancer, EtcdCluster, EtcdConfig, EtcdVersion, Web, WebServer, until};

use crate::common::{SOON, connect, grant, lead, one, put, start};
use crate::election::Candidate;
use crate::renewal::Renewed;
use crate::view::View;

const TTL: u32 = 6;

/// Waits until the connection reports exactly these faults, each as endpoint and reason.
async fn until_faults(connection: &Connection, expected: &[(&str, &str)]) {
    until("the faults to be reported", SOON, || async {
        let faults = connection.faults();
        let found: Vec<_> = faults
            .iter()
            .map(|(url, fault)| (url.as_str(), fault.reason()))
            .collect();
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
    .expect("they are reported");
}

/// Uses every kind of call and stream once.
async fn use_every_way(cluster: &EtcdCluster, connection: &Connection) {
    let (fence, lease) = (lead(cluster).await, grant(connection, TTL).await);
    let mut renewed = Renewed::start(connection, &[lease], TTL);
    let mut view = View::start(connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    let put = Op::Put {
        key: "/a/1".into(),
        value: b"x".as_slice().into(),
        lease,
        expect: Expect::Absent,
    };
    let verdict = connection.commit(&fence, &Transaction::of(vec![put])).await;
    let Ok(TxnOutcome::Applied { results, .. }) = verdict else {
        panic!("not applied: {verdict:?}");
    };
    assert_eq!(results, [OpResult::Done]);
    view.until_equal(cluster, "/a/").await;
    renewed.all_have(Duration::from_secs(3)).await;
    renewed.assert_none_lapsed();
    assert!(connection.status().await.expect("a status").has_leader);
    assert!(connection.lease(lease, true).await.expect("asked").is_some());
    let below = connection.range(&Prefix::below("/a"), None).await.expect("read");
    assert_eq!(below.entries.len(), 1);
    crate::common::delete(cluster, crate::election::LEADER).await;
    let candidate = Candidate::stand_with(connection.clone(), "a", TTL);
    candidate.until_leading().await;
}

async fn with_learner_first(version: EtcdVersion) -> EtcdCluster {
    let config = EtcdConfig {
        version,
        members: 3,
        ..EtcdConfig::default()
    };
    let cluster = EtcdCluster::temporary_with(config).await.expect("etcd starts");
    cluster.remove_member(0).await.expect("remove");
    cluster.add_learner(0).await.expect("add");
    cluster
}

#[tokio::test]
async fn a_learner_first_in_the_list_hinders_no_way_of_any_release() {
    for version in EtcdVersion::ALL {
        let cluster = with_learner_first(version).await;
        let connection = connect(cluster.endpoints()).await;
        use_every_way(&cluster, &connection).await;
        let learner = cluster.endpoints().swap_remove(0);
        until_faults(&connection, &[(&learner, "Learner")]).await;
        let each = connection.status_of_each().await;
        let learners: Vec<_> = each
            .iter()
            .map(|(_, status)| status.as_ref().map(|status| status.is_learner).ok())
            .collect();
        assert_eq!(learners, [Some(true), Some(false), Some(false)], "{version}");
        cluster.promote(0).await.expect("promote");
        until_faults(&connection, &[]).await;
    }
}

#[tokio::test]
async fn a_login_refused_by_a_learner_is_tried_at_a_member() {
    let config = EtcdConfig {
        members: 3,
        ..EtcdConfig::default()
    };
    let cluster = EtcdCluster::temporary_with(config).await.expect("etcd starts");
    cluster.enable_auth("root-of-learners").await.expect("auth is on");
    cluster
        .add_user("operator", "pw-of-learners", &["/meta/", "/a/"])
        .await
        .expect("a user");
    cluster.remove_member(0).await.expect("remove");
    cluster.add_learner(0).await.expect("add");
    let access = Access {
        user: Some(User {
            name: "operator".to_owned().into(),
            password: "pw-of-learners".to_owned().into(),
        }),
        ..Access::open(cluster.endpoints())
    };
    let connection = Connection::new(&access, Timeouts::default(), Calls::default())
        .await
        .expect("the endpoints are addresses");
    use_every_way(&cluster, &connection).await;
    assert!(!connection.is_open_to_all());
    let learner = cluster.endpoints().swap_remove(0);
    until_faults(&connection, &[(&learner, "Learner")]).await;
    cluster.promote(0).await.expect("promote");
    until_faults(&connection, &[]).await;
}

#[tokio::test]
async fn a_member_of_another_cluster_is_never_written_to_and_named() {
    let (cluster, other) = (start(3).await, start(1).await);
    let mut endpoints = other.endpoints();
    endpoints.extend(cluster.endpoints());
    let before = other.revision().await.expect("revision");
    let connection = connect(endpoints).await;
    use_every_way(&cluster, &connection).await;
    let foreign = other.endpoints().swap_remove(0);
    until_faults(&connection, &[(&foreign, "OtherCluster")]).await;
    let (_, fault) = connection.faults().swap_remove(0);
    let words = fault.describe(&foreign);
    assert!(words.contains("another etcd cluster"), "{words}");
    // Nothing is written to the other cluster even when no other endpoint is left.
    for member in cluster.members() {
        member.kill().await.expect("kill");
    }
    connection
        .grant(LeaseId(4711), TTL)
        .await
        .expect_err("there is nothing of ours left");
    assert_eq!(other.revision().await.expect("revision"), before, "nothing was written");
    let leases = other.client().await.expect("connect").leases().await.expect("leases");
    assert!(leases.leases().is_empty(), "{leases:?}");
}

#[tokio::test]
async fn another_cluster_behind_a_known_address_is_not_written_to() {
    let (cluster, other) = (start(1).await, start(1).await);
    let balancer = Balancer::start(vec![other.client_address(0), cluster.client_address(0)])
        .await
        .expect("a balancer");
    balancer.choose(1);
    let connection = connect(vec![cluster.endpoints().swap_remove(0), balancer.http()]).await;
    grant(&connection, TTL).await;
    // The server behind the second address is replaced by another cluster, and the first address becomes unreachable.
    let before = other.revision().await.expect("revision");
    balancer.choose(0);
    cluster.member(0).kill().await.expect("kill");
    let candidate = Candidate::stand_with(connection.clone(), "a", TTL);
    let url = balancer.http();
    until_faults(
        &connection,
        &[(&cluster.endpoints()[0], "Unreachable"), (&url, "OtherCluster")],
    )
    .await;
    let error = connection
        .grant(LeaseId(4711), TTL)
        .await
        .expect_err("it is another cluster");
    assert!(["OtherCluster", "Unreachable"].contains(&error.reason()), "{error}");
    assert_eq!(*candidate.state.borrow(), Leadership::Seeking);
    assert_eq!(other.revision().await.expect("revision"), before, "nothing was written");
}

#[tokio::test]
async fn web_servers_in_the_list_are_passed_over_and_named() {
    let (cluster, _) = one().await;
    let mut servers = Vec::new();
    for web in [Web::Http1, Web::Http2, Web::Http2Page] {
        servers.push(WebServer::start(web).await.expect("a web server"));
    }
    let mut endpoints: Vec<_> = servers.iter().map(WebServer::http).collect();
    endpoints.extend(cluster.endpoints());
    let connection = connect(endpoints).await;
    use_every_way(&cluster, &connection).await;
    let expected: Vec<_> = servers.iter().map(WebServer::http).collect();
    let expected: Vec<_> = expected.iter().map(|url| (url.as_str(), "NoEtcd")).collect();
    until_faults(&connection, &expected).await;
    for (url, fault) in connection.faults() {
        assert!(fault.describe(&url).contains("is not an etcd server"), "{fault:?}");
    }
    let only = connect(vec![servers[0].http()]).await;
    let error = only.get("/a/1").await.expect_err("a web server");
    assert_eq!(error.reason(), "NoEtcd", "{error}");
}

#[tokio::test]
async fn a_corrupt_cluster_is_called_so_and_written_to_once_it_is_well() {
    let (cluster, connection) = one().await;
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 60).await);
    let mut client = cluster.client().await.expect("connect");
    let mut alarm = etcd_client::AlarmOptions::new();
    let status = client.status().await.expect("status");
    alarm.with_member(status.header().expect("header").member_id());
    client
        .alarm(AlarmAction::Activate, AlarmType::Corrupt, Some(alarm.clone()))
        .await
        .expect("the alarm is raised");
    let put = || {
        Transaction::of(vec![Op::Put {
            key: "/a/1".into(),
            value: b"x".as_slice().into(),
            lease,
            expect: Expect::Absent,
        }])
    };
    let error = connection.commit(&fence, &put()).await.expect_err("it is corrupt");
    assert_eq!(error.reason(), "Corrupt", "{error}");
    assert!(connection.status().await.expect("status").is_corrupt);
    client
        .alarm(AlarmAction::Deactivate, AlarmType::Corrupt, Some(alarm))
        .await
        .expect("the alarm is disarmed");
    until("writes to be taken", SOON, || async {
        match connection.commit(&fence, &put()).await {
            Ok(TxnOutcome::Applied { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("they are taken");
    until_faults(&connection, &[]).await;
}

/// Promised are 3 s; HTTP/2 pings would take 9 s.
const HANG: Duration = Duration::from_secs(7);

#[tokio::test]
async fn a_hung_member_behind_one_address_is_left_within_seconds() {
    let cluster = start(3).await;
    cluster.make_leader(2).await.expect("a leader");
    let servers = (0..3).map(|i| cluster.client_address(i)).collect();
    let balancer = Balancer::start(servers).await.expect("a balancer");
    let connection = connect(vec![balancer.http()]).await;
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    balancer.choose(1);
    cluster.member(0).stop().expect("stop");
    let begin = Instant::now();
    put(&cluster, "/a/1", "x", LeaseId::NONE).await;
    view.until("the key", |view| view.content.contains_key("/a/1")).await;
    let seen = begin.elapsed();
    grant(&connection, TTL).await;
    eprintln!(
        "seen after {} ms, granted after {} ms",
        seen.as_millis(),
        begin.elapsed().as_millis()
    );
    assert!(begin.elapsed() < HANG, "{:?}", begin.elapsed());
    cluster.member(0).cont().expect("cont");
}

#[tokio::test]
async fn a_hung_member_among_others_is_left_by_the_view_within_seconds() {
    let cluster = start(3).await;
    cluster.make_leader(2).await.expect("a leader");
    let connection = connect(cluster.endpoints()).await;
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    cluster.member(0).stop().expect("stop");
    let begin = Instant::now();
    put(&cluster, "/a/1", "x", LeaseId::NONE).await;
    view.until("the key", |view| view.content.contains_key("/a/1")).await;
    eprintln!("seen after {} ms", begin.elapsed().as_millis());
    assert!(begin.elapsed() < HANG, "{:?}", begin.elapsed());
    let hung = cluster.endpoints().swap_remove(0);
    until_faults(&connection, &[(&hung, EndpointFault::NotAnswering.reason())]).await;
    cluster.member(0).cont().expect("cont");
    until_faults(&connection, &[]).await;
}

#[tokio::test]
async fn a_slow_way_to_the_only_endpoint_interrupts_no_view() {
    let cluster = start(1).await;
    let network = testbed::Network::temporary().await.expect("a network");
    let link = network.link(cluster.client_address(0)).await.expect("a link");
    let connection = connect(vec![link.http()]).await;
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    link.slow(Duration::from_millis(1500)).await.expect("slow");
    let begin = Instant::now();
    for i in 0.. {
        let key = format!("/a/{i}");
        put(&cluster, &key, "x", LeaseId::NONE).await;
        view.until("the key", |view| view.content.contains_key(key.as_str()))
            .await;
        if begin.elapsed() > Duration::from_secs(8) {
            break;
        }
    }
    assert_eq!(view.milestones, "", "the stream stayed");
}

#[tokio::test]
async fn endpoints_that_are_all_unusable_are_named_in_the_error() {
    let cluster = with_learner_first(EtcdVersion::default()).await;
    let learner = connect(vec![cluster.endpoints().swap_remove(0)]).await;
    let error: Error = learner.get("/a/1").await.expect_err("a learner");
    assert_eq!(error.reason(), "Learner", "{error}");
    assert!(error.to_string().contains("etcdctl member promote"), "{error}");
}
