//! The mirror while etcd is down, loses history or is replaced.

use std::time::Duration;

use leasehold::model::LeaseId;
use testbed::{EtcdCluster, EtcdVersion, Folder, Network};

use crate::common::{SOON, connect, delete, grant, one, put, start};
use crate::view::View;

/// A client of the second member, once the members without the first one serve.
async fn another_member(cluster: &EtcdCluster) -> etcd_client::Client {
    cluster.wait_serving(1, SOON).await.expect("two of three serve");
    etcd_client::Client::connect([&cluster.endpoints()[1]], None)
        .await
        .expect("connect")
}

#[tokio::test]
async fn restarted_etcd_is_watched_on_without_another_list() {
    let (cluster, connection) = one().await;
    put(&cluster, "/a/1", "x", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/a", "/b"]);
    view.until_milestones("snapshot /a/ snapshot /b/ complete ").await;
    let lease = grant(&connection, 600).await;
    put(&cluster, "/a/2", "x", lease).await;
    view.until_equal(&cluster, "/").await;
    for round in 0..3 {
        cluster.member(0).kill().await.expect("kill");
        view.until_milestones("interrupted ").await;
        cluster.restart(0).await.expect("restart");
        delete(&cluster, &format!("/a/{round}")).await;
        put(&cluster, "/b/1", &round.to_string(), lease).await;
        view.until("the end of the outage", |view| view.milestones == "complete ")
            .await;
        view.until_equal(&cluster, "/").await;
        assert_eq!(std::mem::take(&mut view.milestones), "complete ");
    }
}

#[tokio::test]
async fn changes_of_an_outage_are_shown_without_another_list() {
    let cluster = start(3).await;
    // Knows one member only, so that the mirror is interrupted while the others accept writes.
    let connection = connect(cluster.endpoints()[..1].to_vec()).await;
    for key in ["/a/1", "/a/2"] {
        put(&cluster, key, "x", LeaseId::NONE).await;
    }
    let mut view = View::start(&connection, ["/a", "/b"]);
    view.until_milestones("snapshot /a/ snapshot /b/ complete ").await;
    put(&cluster, "/b/1", "x", grant(&connection, 600).await).await;
    view.until_equal(&cluster, "/").await;
    cluster.member(0).kill().await.expect("kill");
    view.until_milestones("interrupted ").await;
    let mut other = another_member(&cluster).await;
    other.delete("/a/1", None).await.expect("delete");
    other.put("/a/3", "x", None).await.expect("put");
    // The newest write that the mirror knows is no longer the newest one of its key.
    other.put("/b/1", "y", None).await.expect("put");
    // A prefix that was removed and added again is listed, whatever is known of it.
    view.want(["/a"]);
    view.want(["/a", "/b"]);
    cluster.restart(0).await.expect("restart");
    view.until_milestones("snapshot /b/ complete ").await;
    view.until_equal(&cluster, "/").await;
    assert_eq!(view.content.len(), 3);
}

#[tokio::test]
async fn scopes_that_change_while_etcd_is_away_are_shown_when_it_is_back() {
    let (cluster, connection) = one().await;
    put(&cluster, "/b/1", "x", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    cluster.member(0).kill().await.expect("kill");
    view.until_milestones("interrupted ").await;
    view.want(["/a", "/b"]);
    view.want(["/b"]);
    cluster.restart(0).await.expect("restart");
    view.until_milestones("snapshot /b/ complete ").await;
    view.until_equal(&cluster, "/b/").await;
}

#[tokio::test]
async fn a_mirror_that_starts_before_its_etcd_shows_it_once_it_is_there() {
    let (cluster, connection) = one().await;
    put(&cluster, "/a/1", "x", LeaseId::NONE).await;
    cluster.member(0).kill().await.expect("kill");
    let mut view = View::start(&connection, ["/a"]);
    view.assert_quiet(Duration::from_millis(500)).await;
    cluster.restart(0).await.expect("restart");
    view.until_milestones("snapshot /a/ complete ").await;
    view.until_equal(&cluster, "/a/").await;
}

#[tokio::test]
async fn a_member_that_hangs_is_left_for_another_one() {
    let cluster = start(3).await;
    let connection = connect(cluster.endpoints()).await;
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    cluster.member(0).stop().expect("stop");
    view.until_milestones("interrupted ").await;
    let mut other = another_member(&cluster).await;
    other.put("/a/1", "x", None).await.expect("put");
    view.until("the change", |view| view.content.contains_key("/a/1")).await;
    cluster.member(0).cont().expect("cont");
}

#[tokio::test]
async fn changes_compacted_while_the_member_was_down_are_in_the_snapshot() {
    let cluster = start(3).await;
    // Knows one member only, so that the mirror is interrupted while the others accept writes.
    let connection = connect(cluster.endpoints()[..1].to_vec()).await;
    let lease = grant(&connection, 600).await;
    for key in ["/a/1", "/a/2"] {
        put(&cluster, key, "x", lease).await;
    }
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    cluster.member(0).kill().await.expect("kill");
    view.until_milestones("interrupted ").await;
    let mut other = another_member(&cluster).await;
    other.delete("/a/1", None).await.expect("delete");
    let answer = other.put("/a/3", "x", None).await.expect("put");
    let revision = answer.header().expect("header").revision();
    other.compact(revision, None).await.expect("compact");
    cluster.restart(0).await.expect("restart");
    view.until_milestones("snapshot /a/ complete ").await;
    view.until_equal(&cluster, "/a/").await;
    assert_eq!(view.content.len(), 2);
}

#[tokio::test]
async fn view_behind_a_compaction_is_rebuilt() {
    let (cluster, connection) = one().await;
    put(&cluster, "/a/0", "x", grant(&connection, 600).await).await;
    let mut view = View::with_room(&connection, ["/a"], 1);
    view.until_milestones("snapshot /a/ complete ").await;
    // More than all buffers hold while the view takes no observation.
    let mut client = cluster.client().await.expect("connect");
    let fat = "x".repeat(30_000);
    for i in 0..1500 {
        let key = format!("/a/{}", i % 50);
        client.put(key, fat.as_str(), None).await.expect("put");
    }
    delete(&cluster, "/a/7").await;
    let revision = cluster.revision().await.expect("revision");
    client.compact(revision, None).await.expect("compact");
    view.until_milestones("interrupted snapshot /a/ complete ").await;
    view.until_equal(&cluster, "/a/").await;
    assert_eq!(view.content.len(), 49);
}

#[tokio::test]
async fn prefix_that_changed_after_the_last_write_on_a_lease_is_listed() {
    let (cluster, connection) = one().await;
    put(&cluster, "/b/1", "x", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/a", "/b"]);
    view.until_milestones("snapshot /a/ snapshot /b/ complete ").await;
    put(&cluster, "/a/1", "x", grant(&connection, 600).await).await;
    delete(&cluster, "/b/1").await;
    view.until_equal(&cluster, "/").await;
    cluster.member(0).kill().await.expect("kill");
    view.until_milestones("interrupted ").await;
    cluster.restart(0).await.expect("restart");
    // No write of ours proves that the deletion is part of the history of this etcd.
    view.until_milestones("snapshot /b/ complete ").await;
    put(&cluster, "/b/2", "x", LeaseId::NONE).await;
    view.until_equal(&cluster, "/").await;
}

#[tokio::test]
async fn after_a_compaction_only_prefixes_without_later_changes_are_listed() {
    let cluster = start(3).await;
    let connection = connect(cluster.endpoints()[..1].to_vec()).await;
    put(&cluster, "/old/1", "x", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/busy", "/old"]);
    view.until_milestones("snapshot /busy/ snapshot /old/ complete ").await;
    let lease = grant(&connection, 600).await;
    for number in 0..3 {
        put(&cluster, &format!("/busy/{number}"), "x", lease).await;
    }
    view.until_equal(&cluster, "/").await;
    let revision = cluster.revision().await.expect("revision");
    cluster.member(0).kill().await.expect("kill");
    view.until_milestones("interrupted ").await;
    let mut other = another_member(&cluster).await;
    other.compact(revision, None).await.expect("compact");
    other.delete("/busy/0", None).await.expect("delete");
    other.delete("/old/1", None).await.expect("delete");
    cluster.restart(0).await.expect("restart");
    view.until_milestones("snapshot /old/ complete ").await;
    view.until_equal(&cluster, "/").await;
    assert_eq!(view.content.len(), 2);
}

/// An etcd whose data can be deleted.
struct Replaceable {
    cluster: EtcdCluster,
    folder: Folder,
}

impl Replaceable {
    async fn start() -> Self {
        let folder = Folder::new("etcd").expect("a folder");
        let cluster = EtcdCluster::start(EtcdVersion::default(), 1, folder.path())
            .await
            .expect("etcd starts");
        Self { cluster, folder }
    }

    /// Replaces the etcd by an empty one with the same name and address.
    async fn replace(&self) {
        self.cluster.member(0).kill().await.expect("kill");
        std::fs::remove_dir_all(self.folder.path().join("etcd-0.data")).expect("its data is there");
        self.cluster.restart(0).await.expect("restart");
    }
}

#[tokio::test]
async fn etcd_with_a_shorter_history_is_reported_as_restored() {
    let etcd = Replaceable::start().await;
    let connection = connect(etcd.cluster.endpoints()).await;
    let lease = grant(&connection, 600).await;
    for _ in 0..5 {
        put(&etcd.cluster, "/a/1", "x", lease).await;
    }
    let mut view = View::start(&connection, ["/a", "/b"]);
    view.until_milestones("snapshot /a/ snapshot /b/ complete ").await;
    etcd.replace().await;
    view.until_milestones("restored snapshot /a/ snapshot /b/ complete ")
        .await;
    assert_eq!(view.content.len(), 0);
    put(&etcd.cluster, "/a/2", "x", LeaseId::NONE).await;
    view.until_equal(&etcd.cluster, "/").await;
}

#[tokio::test]
async fn longer_history_of_a_restored_etcd_is_not_continued() {
    let etcd = Replaceable::start().await;
    let network = Network::temporary().await.expect("toxiproxy starts");
    let member = etcd.cluster.endpoints()[0].replace("http://", "");
    let link = network.link(member.parse().expect("an address")).await.expect("a link");
    let connection = connect(vec![link.http()]).await;
    put(&etcd.cluster, "/a/1", "x", LeaseId::NONE).await;
    put(&etcd.cluster, "/b/1", "x", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/a", "/b"]);
    view.until_milestones("snapshot /a/ snapshot /b/ complete ").await;
    put(&etcd.cluster, "/a/1", "x", grant(&connection, 600).await).await;
    view.until_equal(&etcd.cluster, "/").await;
    // The mirror reaches etcd again only when etcd has more revisions than before, and the same value of the key that was
    // written last, in each of them.
    link.reset().await.expect("reset");
    etcd.replace().await;
    let other = grant(&connect(etcd.cluster.endpoints()).await, 600).await;
    for _ in 0..10 {
        put(&etcd.cluster, "/a/1", "x", other).await;
    }
    view.until_milestones("interrupted ").await;
    link.heal().await.expect("heal");
    view.until("the new history", |view| {
        view.milestones.ends_with("snapshot /b/ complete ")
    })
    .await;
    view.until_equal(&etcd.cluster, "/").await;
    assert_eq!(view.content.len(), 1);
}

#[tokio::test]
async fn an_etcd_that_is_restored_between_snapshot_and_watch_is_noticed() {
    let etcd = Replaceable::start().await;
    let connection = connect(etcd.cluster.endpoints()).await;
    for _ in 0..5 {
        put(&etcd.cluster, "/a/1", "x", LeaseId::NONE).await;
    }
    // There is room for the snapshot, but not for the observation between it and the watch.
    let mut view = View::with_room(&connection, ["/a"], 1);
    testbed::until("the snapshot", SOON, || async {
        let reads = crate::common::metric(&etcd.cluster, "grpc_server_handled_total", "\"Range\"").await;
        if reads > 0 { Ok(()) } else { Err("not read") }
    })
    .await
    .expect("it is read");
    etcd.replace().await;
    view.until_milestones("snapshot /a/ complete restored snapshot /a/ complete ")
        .await;
    put(&etcd.cluster, "/a/2", "x", LeaseId::NONE).await;
    view.until_equal(&etcd.cluster, "/").await;
}
