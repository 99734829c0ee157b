//! The gravest faults once more, on the oldest and on the newest etcd that is supported.

use std::time::{Duration, Instant};

use testbed::{EtcdConfig, EtcdVersion, History, Result};
use tokio::time::sleep;

use crate::Scene;

/// Its leader dies, then most of its members for longer than the TTL, then all of them.
async fn story(name: &str, version: EtcdVersion) -> Result<()> {
    let config = EtcdConfig {
        version,
        members: 3,
        ..EtcdConfig::default()
    };
    let scene = Scene::with(name, config, 5).await?;
    let (etcd, namespace, orders) = (&scene.turn.etcd, &scene.turn.namespace, scene.turn.plain("orders"));
    let from = etcd.revision().await? + 1;

    let leader = etcd.leader().await?;
    etcd.member(leader).kill().await?;
    scene.lose_a().await?;
    etcd.restart(leader).await?;

    for member in [1, 2] {
        etcd.member(member).kill().await?;
    }
    namespace.set_ready("a", true).await?;
    scene.wait_trouble("NoLeader").await?;
    sleep(Duration::from_secs(7)).await;
    for member in [1, 2] {
        etcd.member(member).restart().await?;
    }
    etcd.wait_serving(0, Duration::from_secs(30)).await?;
    let repair = Instant::now();
    scene.wait_converged(repair, &["a", "b", "c"]).await?;

    etcd.restart_all().await?;
    let repair = Instant::now();
    namespace.set_ready("b", false).await?;
    scene.wait_converged(repair, &["a", "c"]).await?;
    scene.wait_well(2).await?;

    // A pod that stayed ready was never missed.
    let history = History::watch(etcd, &orders, from).await?;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(events[0], format!("delete {orders}a"));
    assert!(events[1].starts_with(&format!("put {orders}a ")), "{events:?}");
    assert_eq!(events[2], format!("delete {orders}b"));
    Ok(())
}

#[tokio::test]
async fn on_etcd_3_5_the_loss_of_members_costs_no_key() -> Result<()> {
    story("etcd-3-5", EtcdVersion::V3_5).await
}

#[tokio::test]
async fn on_etcd_3_7_the_loss_of_members_costs_no_key() -> Result<()> {
    story("etcd-3-7", EtcdVersion::V3_7).await
}
