//! The etcd part of the bed, against real etcds.

use std::time::Duration;

use etcd_client::{Client, PutOptions};
use testbed::{EtcdCluster, EtcdVersion, Event, Kind};

const SOON: Duration = Duration::from_secs(20);

async fn cluster(version: EtcdVersion, members: usize) -> (EtcdCluster, Client) {
    let cluster = EtcdCluster::temporary(version, members).await.expect("etcd starts");
    let client = cluster.client().await.expect("etcd answers");
    (cluster, client)
}

async fn put(client: &mut Client, key: &str, value: &str) {
    client.put(key, value, None).await.expect("put");
}

#[tokio::test]
async fn every_etcd_release_serves_and_reports_its_history() {
    for version in EtcdVersion::ALL {
        let (cluster, mut client) = cluster(version, 1).await;
        put(&mut client, "/a/before", "x").await;
        let history = History::watch(&cluster, "/a/").await;
        history.assert_silent().await;
        let lease = client.lease_grant(60, None).await.expect("grant").id();
        put(&mut client, "/b/elsewhere", "x").await;
        client
            .put("/a/1", "one", Some(PutOptions::new().with_lease(lease)))
            .await
            .expect("put");
        client.delete("/a/before", None).await.expect("delete");
        history.assert_exactly(&["put /a/1 one", "delete /a/before"]).await;
        let Event { kind, .. } = &history.events()[0];
        assert_eq!(
            kind,
            &Kind::Put {
                value: "one".into(),
                lease
            }
        );
        assert_eq!(cluster.dump("/a/").await.expect("dump")["/a/1"].lease, lease);

        let status = client.status().await.expect("status");
        assert!(
            status.version().starts_with(&version.to_string()),
            "{version} calls itself {}",
            status.version()
        );
    }
}

#[tokio::test]
async fn a_history_from_a_past_revision_begins_there() {
    let (cluster, mut client) = cluster(EtcdVersion::default(), 1).await;
    put(&mut client, "/a/1", "one").await;
    let from = cluster.revision().await.expect("revision") + 1;
    for i in 0..1500 {
        put(&mut client, "/a/2", &i.to_string()).await;
    }
    let history = testbed::History::watch(&cluster, "/a/", from).await.expect("watch");
    let events = history.settled().await.expect("settled");
    assert_eq!((events.len(), events[0].revision), (1500, from));
}

#[tokio::test]
async fn a_compacted_revision_is_a_hole_and_not_a_silence() {
    let (cluster, mut client) = cluster(EtcdVersion::default(), 1).await;
    for value in ["one", "two", "three"] {
        put(&mut client, "/a/1", value).await;
    }
    client
        .compact(cluster.revision().await.expect("revision"), None)
        .await
        .expect("compact");
    let history = testbed::History::watch(&cluster, "/a/", 2).await.expect("watch");
    let error = history.settled().await.expect_err("events are lost");
    assert!(error.to_string().contains("hole"), "{error}");
}

#[tokio::test]
#[should_panic(expected = "put /a/1 one")]
async fn an_event_is_not_silence() {
    let (cluster, mut client) = cluster(EtcdVersion::default(), 1).await;
    let history = History::watch(&cluster, "/a/").await;
    put(&mut client, "/a/1", "one").await;
    history.assert_silent().await;
}

#[tokio::test]
async fn a_killed_etcd_restarts_on_its_data_and_histories_go_on() {
    let (cluster, mut client) = cluster(EtcdVersion::default(), 1).await;
    let history = History::watch(&cluster, "/a/").await;
    put(&mut client, "/a/1", "one").await;
    let (endpoints, pid) = (cluster.endpoints(), cluster.member(0).pid());

    cluster.member(0).kill().await.expect("kill");
    assert!(cluster.member(0).alive().is_err());
    cluster.restart(0).await.expect("restart");

    assert_eq!(cluster.endpoints(), endpoints);
    assert_ne!(cluster.member(0).pid(), pid);
    assert_eq!(cluster.dump("/a/").await.expect("dump")["/a/1"].value, "one");
    put(&mut cluster.client().await.expect("connect"), "/a/2", "two").await;
    history.assert_exactly(&["put /a/1 one", "put /a/2 two"]).await;
}

#[tokio::test]
async fn a_stopped_etcd_answers_nothing_until_it_continues() {
    let (cluster, mut client) = cluster(EtcdVersion::default(), 1).await;
    cluster.member(0).stop().expect("stop");
    let answer = tokio::time::timeout(Duration::from_secs(1), client.put("/a/1", "one", None)).await;
    assert!(answer.is_err(), "a stopped etcd answered");
    cluster.member(0).cont().expect("cont");
    cluster.wait_serving(0, SOON).await.expect("it serves again");
    put(&mut client, "/a/1", "two").await;
}

#[tokio::test]
async fn a_terminated_etcd_ends_by_itself() {
    let (cluster, _client) = cluster(EtcdVersion::default(), 1).await;
    cluster.member(0).terminate().expect("terminate");
    cluster.member(0).wait_exit(SOON).await.expect("it ends");
}

#[tokio::test]
async fn three_members_survive_the_death_of_any_one() {
    let (cluster, mut client) = cluster(EtcdVersion::default(), 3).await;
    assert_eq!(client.member_list().await.expect("list").members().len(), 3);
    for i in 0..3 {
        cluster.member(i).kill().await.expect("kill");
        cluster
            .wait_serving((i + 1) % 3, SOON)
            .await
            .expect("two of three elect a leader");
        let mut survivor = Client::connect([&cluster.endpoints()[(i + 1) % 3]], None)
            .await
            .expect("connect");
        put(&mut survivor, "/a/1", &i.to_string()).await;
        cluster.restart(i).await.expect("it comes back");
    }
    assert_eq!(cluster.dump("/a/").await.expect("dump")["/a/1"].value, "2");
}

#[tokio::test]
async fn a_replaced_member_refuses_requests_until_it_is_promoted() {
    let (cluster, mut client) = cluster(EtcdVersion::default(), 3).await;
    put(&mut client, "/a/1", "one").await;
    // The member that leads is the hardest to replace.
    let replaced = cluster.leader().await.expect("a leader");
    cluster.remove_member(replaced).await.expect("remove");
    assert!(cluster.member(replaced).alive().is_err());
    cluster.add_learner(replaced).await.expect("add");
    let url = &cluster.endpoints()[replaced];
    let mut learner = Client::connect([url], None).await.expect("connect");
    let refused = learner.get("/a/1", None).await.expect_err("it is a learner");
    assert!(refused.to_string().contains("learner"), "{refused}");
    assert_eq!(
        cluster.dump("/a/").await.expect("dump").len(),
        1,
        "the bed asks the others"
    );
    cluster.promote(replaced).await.expect("promote");
    let answer = learner.get("/a/1", None).await.expect("it serves");
    assert_eq!(answer.kvs().len(), 1);
    // It is a member as any other.
    cluster.restart(replaced).await.expect("restart");
}

/// Only shortens the common case: everything from now on.
struct History;

impl History {
    async fn watch(cluster: &EtcdCluster, prefix: &str) -> testbed::History {
        testbed::History::watch(cluster, prefix, 0).await.expect("watch")
    }
}
