//! History that is compacted away before we have read it.

use std::time::Instant;

use etcd_client::CompactionOptions;
use testbed::Result;

use crate::Scene;

/// More than what etcd and the connection hold back for a watcher that does not read.
const PUTS: usize = 2000;
const VALUE: usize = 4 << 10;

#[tokio::test]
async fn changes_compacted_before_they_were_read_are_found_by_a_new_list() -> Result<()> {
    let scene = Scene::of("compacted", 1, 30).await?;
    let (etcd, orders) = (&scene.turn.etcd, scene.turn.plain("orders"));
    let mut client = etcd.client().await?;
    scene.operator.stop()?;
    // Below our prefix, so that we watch it.
    let stranger = format!("{orders}zz-stranger");
    let value = vec![b'x'; VALUE];
    for _ in 0..PUTS {
        let put = client.put(stranger.as_str(), value.clone(), None).await;
        put.expect("etcd takes it");
    }
    client.delete(stranger.as_str(), None).await.expect("etcd takes it");
    // The last thing that happens: nothing but a new reading shows it.
    let key = format!("{orders}a");
    let deleted = client.delete(key, None).await.expect("etcd takes it");
    let revision = deleted.header().expect("a header").revision();
    let physical = CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await.expect("etcd obeys");
    scene.operator.cont()?;
    let repair = Instant::now();
    scene.wait_converged(repair, &["a", "b", "c"]).await?;
    let log = std::fs::read_to_string(scene.operator.process().log()).expect("it is there");
    assert!(log.contains("was compacted away"), "its watch was not cancelled");
    scene.wait_well(3).await
}
