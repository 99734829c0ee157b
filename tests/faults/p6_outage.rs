//! P6: etcd down for long: the process lives, and converges within seconds of its return.

use std::time::{Duration, Instant};

use testbed::{History, Result};
use tokio::time::sleep;

use crate::Scene;
use crate::support::pod;

/// Four TTLs.
const OUTAGE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn p6_etcd_after_a_long_outage_gets_all_changes_at_once_and_no_others() -> Result<()> {
    let scene = Scene::of("p6", 1, 15).await?;
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    let before = scene.wait(&["a", "b", "c"]).await;
    let history = History::watch(etcd, &scene.turn.plain("orders"), 0).await?;
    etcd.member(0).kill().await?;
    let down = Instant::now();
    namespace.set_ready("a", false).await?;
    scene.wait_trouble("Unreachable").await?;
    sleep(OUTAGE / 2).await;
    namespace.create_pod(&pod("d", "orders")).await?;
    // Unready and ready again within the outage: consumers must see no event of this key.
    namespace.set_ready("b", false).await?;
    sleep(OUTAGE.saturating_sub(down.elapsed())).await;
    namespace.set_ready("b", true).await?;
    scene.assert_lives()?;
    etcd.restart(0).await?;
    let repair = Instant::now();
    let after = scene.wait_converged(repair, &["b", "c", "d"]).await?;
    for pod in ["b", "c"] {
        let key = format!("{}{pod}", scene.turn.plain("orders"));
        assert_eq!(after[&key], before[&key]);
    }
    let mut events: Vec<_> = history.settled().await?.iter().map(ToString::to_string).collect();
    events.sort();
    let orders = scene.turn.plain("orders");
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0], format!("delete {orders}a"));
    assert!(events[1].starts_with(&format!("put {orders}d ")), "{events:?}");
    scene.wait_well(3).await
}
