//! A rolling update whose new replicas cannot reach an etcd that the old ones reach.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use testbed::{Crossing, History, Operator, Result};

use crate::Turn;
use crate::support::{API, SOON, operator, wait_count, wait_unready};

/// Longer than a replica takes to find that an etcd does not answer.
const SETTLED: Duration = Duration::from_secs(8);

/// An operator that reaches the etcd by the crossing.
fn start(turn: &Turn, name: &str, crossing: &Crossing, etcd: SocketAddr) -> Operator {
    let operator = operator(turn.bed, name);
    crossing.also_lead(operator.pid(), etcd);
    operator
}

async fn serve_by(turn: &Turn, crossing: &Crossing) -> Result<SocketAddr> {
    let etcd = turn.etcd.endpoints()[0].trim_start_matches("http://").parse();
    turn.bed.create_registry("default", &[crossing.http()], 15).await?;
    Ok(etcd.expect("an address"))
}

#[tokio::test]
async fn a_rollout_to_replicas_that_cannot_reach_etcd_stops_and_no_key_is_lost() -> Result<()> {
    let turn = Turn::take("rollout", 1, 15).await?;
    let crossing = Crossing::open().await?;
    let etcd = serve_by(&turn, &crossing).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let old = [
        start(&turn, "operator-0", &crossing, etcd),
        start(&turn, "operator-1", &crossing, etcd),
    ];
    for operator in &old {
        operator.wait_ready(SOON).await?;
    }
    wait_count(&turn.etcd, "/services/", 3, SOON).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;

    // As a Deployment does it: an old one ends only when the new one is ready.
    let new = operator(turn.bed, "operator-2");
    wait_unready(
        &new,
        "Registry \"default\": its etcd does not answer this replica, but replica operator-",
        SOON,
    )
    .await?;
    // Longer than the TTL: the old ones renew.
    tokio::time::sleep(Duration::from_secs(16)).await;
    wait_unready(&new, "is connected to it", SOON).await?;
    history.assert_silent().await;

    // The same for one that is alone and is replaced by one of another name.
    old[0].terminate()?;
    old[0].wait_exit(SOON).await?;
    wait_unready(&new, "but replica operator-1", SOON).await?;

    // As soon as the etcd answers it, it is ready.
    crossing.also_lead(new.pid(), etcd);
    new.wait_ready(SOON).await?;
    history.assert_silent().await;
    Ok(())
}

#[tokio::test]
async fn an_etcd_that_answers_no_replica_holds_up_no_rollout() -> Result<()> {
    let turn = Turn::take("rollout-dead", 1, 15).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(1).await?;
    // One tenant's etcd, which no replica reaches.
    let dead = testbed::EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    turn.bed.create_registry("rollout-dead", &dead.endpoints(), 15).await?;
    let old = operator(turn.bed, "operator-0");
    old.wait_ready(SOON).await?;
    let listed =
        |object: &serde_json::Value| object["status"]["replicas"][0]["address"] == json!(old.peers().to_string());
    turn.bed
        .objects()
        .wait((API, "Registry", "rollout-dead"), listed, SOON)
        .await?;
    dead.member(0).kill().await?;
    let new = operator(turn.bed, "operator-1");
    // It asks the old one, which says that it is not connected either.
    new.wait_ready(SOON + SETTLED).await?;
    // And the same when the old one is gone: nothing listens at its address.
    old.kill().await?;
    new.kill().await?;
    let next = operator(turn.bed, "operator-2");
    next.wait_ready(SOON + SETTLED).await?;
    turn.bed.objects().delete(API, "Registry", "rollout-dead").await
}
