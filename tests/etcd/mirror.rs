//! The mirror of a healthy etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::PutOptions;
use leasehold::model::LeaseId;
use testbed::{EtcdCluster, EtcdVersion};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::common::{SOON, connect, delete, grant, one, put};
use crate::view::View;

/// Writes as fast as etcd allows. Each task counts up on one key, and puts and deletes others.
struct Hammer {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    written: Arc<AtomicU64>,
}

impl Hammer {
    async fn start<const N: usize>(cluster: &EtcdCluster, keys: [&str; N]) -> Self {
        let (stop, written) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for key in keys.map(str::to_owned) {
            let mut client = cluster.client().await.expect("connect");
            let (stop, written) = (stop.clone(), written.clone());
            // Lists contain no values of keys without a lease.
            let lease = client.lease_grant(600, None).await.expect("grant").id();
            let leased = PutOptions::new().with_lease(lease);
            tasks.spawn(async move {
                for i in 0_u64.. {
                    client
                        .put(key.as_str(), i.to_string(), Some(leased.clone()))
                        .await
                        .expect("put");
                    let other = format!("{key}-{}", i / 2 % 10);
                    if i % 2 == 0 {
                        client.put(other, "there", None).await.expect("put");
                    } else {
                        client.delete(other, None).await.expect("delete");
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                    if stop.is_cancelled() {
                        return;
                    }
                }
            });
        }
        Self { stop, tasks, written }
    }

    /// Waits until `count` more rounds have been written.
    async fn more(&self, count: u64) {
        let goal = self.written.load(Ordering::Relaxed) + count;
        testbed::until("writers to go on", SOON, || async {
            let written = self.written.load(Ordering::Relaxed);
            if written >= goal {
                Ok(())
            } else {
                Err(written.to_string())
            }
        })
        .await
        .expect("they go on");
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("it does not panic");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_and_the_changes_after_it_have_no_gap_and_no_repetition() {
    let (cluster, connection) = one().await;
    let hammer = Hammer::start(&cluster, ["/a/1", "/a/2", "/b/1", "/c/d/1"]).await;
    hammer.more(100).await;
    // The view checks each observation. Many starts hit the transition from snapshot to watch at different moments.
    for _ in 0..10 {
        let mut view = View::start(&connection, ["/a", "/b", "/c"]);
        view.until("changes", |view| {
            let number = |key: &str| {
                std::str::from_utf8(&view.content.get(key)?.value)
                    .ok()?
                    .parse::<u64>()
                    .ok()
            };
            view.milestones.ends_with("complete ") && number("/c/d/1") > number("/a/1").map(|_| 100)
        })
        .await;
        hammer.more(20).await;
    }
    let mut view = View::start(&connection, ["/a", "/b", "/c"]);
    view.until_milestones("snapshot /a/ snapshot /b/ snapshot /c/ complete ")
        .await;
    hammer.more(200).await;
    hammer.stop().await;
    view.until_equal(&cluster, "/").await;
    assert_eq!(view.milestones, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_come_and_go_under_load_without_a_gap_or_a_repetition() {
    let (cluster, connection) = one().await;
    let hammer = Hammer::start(&cluster, ["/a/1", "/a/b/1", "/c/1"]).await;
    let mut view = View::start(&connection, ["/a/b"]);
    view.until_milestones("snapshot /a/b/ complete ").await;
    // One more prefix beside it.
    view.want(["/a/b", "/c"]);
    view.until_milestones("snapshot /c/ complete ").await;
    hammer.more(50).await;
    // A prefix that contains another.
    view.want(["/a", "/a/b", "/c"]);
    view.until_milestones("snapshot /a/b/ snapshot /a/ complete ").await;
    hammer.more(50).await;
    // The outer prefix is removed, the inner one stays.
    view.want(["/a/b", "/c"]);
    view.until_milestones("snapshot /a/b/ complete ").await;
    hammer.more(50).await;
    // A prefix inside one that is watched already.
    view.want(["/a", "/c"]);
    view.until_milestones("snapshot /a/ complete ").await;
    view.want(["/a", "/a/b", "/c"]);
    view.until_milestones("snapshot /a/b/ snapshot /a/ complete ").await;
    hammer.more(50).await;
    hammer.stop().await;
    view.until_equal(&cluster, "/").await;
}

#[tokio::test]
async fn a_scope_that_was_removed_is_no_longer_shown() {
    let (cluster, connection) = one().await;
    let mut view = View::start(&connection, ["/a", "/b"]);
    view.until_milestones("complete ").await;
    view.want(["/a"]);
    // The snapshot of the new prefix shows that the mirror has handled the removal.
    view.want(["/a", "/c"]);
    view.until_milestones("snapshot /c/ complete ").await;
    put(&cluster, "/b/1", "x", LeaseId::NONE).await;
    put(&cluster, "/a/1", "x", LeaseId::NONE).await;
    view.until_equal(&cluster, "/a/").await;
    assert_eq!(view.content.len(), 1);
    view.assert_quiet(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn prefix_removed_and_requested_again_is_listed_again() {
    let (cluster, connection) = one().await;
    put(&cluster, "/b/1", "x", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/a", "/b"]);
    view.until_milestones("snapshot /a/ snapshot /b/ complete ").await;
    view.want(["/a"]);
    view.want(["/a", "/b"]);
    view.until_milestones("snapshot /b/ complete ").await;
    put(&cluster, "/b/2", "x", LeaseId::NONE).await;
    view.until_equal(&cluster, "/b/").await;
}

#[tokio::test]
async fn without_scopes_there_is_nothing_to_show_until_there_are_some() {
    let (cluster, connection) = one().await;
    let mut view = View::start(&connection, []);
    put(&cluster, "/a/1", "x", LeaseId::NONE).await;
    view.assert_quiet(Duration::from_millis(300)).await;
    view.want(["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    view.want([]);
    view.want(["/b"]);
    view.until_milestones("snapshot /b/ complete ").await;
    put(&cluster, "/b/1", "x", LeaseId::NONE).await;
    view.until_equal(&cluster, "/b/").await;
}

#[tokio::test]
async fn an_etcd_in_which_nothing_happens_is_no_trouble_in_any_release() {
    let mut views = Vec::new();
    for version in EtcdVersion::ALL {
        let cluster = EtcdCluster::temporary(version, 1).await.expect("etcd starts");
        let connection = connect(cluster.endpoints()).await;
        let mut view = View::start(&connection, ["/a"]);
        view.until_milestones("snapshot /a/ complete ").await;
        views.push((cluster, view));
    }
    // Longer than a stream may be silent.
    futures::future::join_all(
        views
            .iter_mut()
            .map(|(_, view)| view.assert_quiet(Duration::from_secs(28))),
    )
    .await;
    for (cluster, view) in &mut views {
        put(cluster, "/a/1", "x", LeaseId::NONE).await;
        view.until_equal(cluster, "/a/").await;
        assert_eq!(view.milestones, "");
    }
}

#[tokio::test]
async fn a_scope_ends_where_a_longer_name_begins() {
    let (cluster, connection) = one().await;
    for key in ["/a", "/a-b/1", "/a/1", "/a0", "/a/b/1"] {
        put(&cluster, key, "x", LeaseId::NONE).await;
    }
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    for key in ["/a", "/a-b/1", "/a/1", "/a0", "/a/b/1"] {
        delete(&cluster, key).await;
    }
    assert_eq!(
        view.content.keys().map(|key| &**key).collect::<Vec<_>>(),
        ["/a/1", "/a/b/1"]
    );
    view.until("both to go", |view| view.content.is_empty()).await;
    view.assert_quiet(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_lease_that_expires_shows_as_the_removal_of_its_keys() {
    let (cluster, connection) = one().await;
    let lease = grant(&connection, 2).await;
    for key in ["/a/1", "/a/2"] {
        put(&cluster, key, "x", lease).await;
    }
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    assert!(view.content.values().all(|held| held.lease == lease));
    assert_eq!(view.content.len(), 2);
    view.until("both to go", |view| view.content.is_empty()).await;
}

#[tokio::test]
async fn a_scope_of_many_fat_keys_is_read_in_pages_at_one_revision() {
    let (cluster, connection) = one().await;
    let mut client = cluster.client().await.expect("connect");
    // 80 MiB in total: more than one answer may have, so the page size must shrink.
    let fat = "x".repeat(1 << 20);
    for i in 0..80 {
        client.put(format!("/a/{i}"), fat.as_str(), None).await.expect("put");
    }
    let mut view = View::start(&connection, ["/a"]);
    view.until_milestones("snapshot /a/ complete ").await;
    assert_eq!(view.content.len(), 80);
    view.until_equal(&cluster, "/a/77").await;
}
