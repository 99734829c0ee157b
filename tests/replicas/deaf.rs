//! A replica whose view of Kubernetes is stale yields to one whose view is fresh; with none anywhere, P5 holds.

use std::time::{Duration, Instant};

use testbed::{Operator, OperatorConfig, Result};

use super::outdated::Way;
use crate::support::{API, SOON, condition, operator, wait_count, wait_unready};
use crate::{Turn, wait_leader};

/// Promised are 30 s; the rest is for a busy machine.
const YIELDS: Duration = Duration::from_secs(45);

fn start_by(turn: &Turn, name: &str, way: &Way) -> Result<Operator> {
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(turn.bed.operator_kubeconfig_by(name, &way.url())?);
    Operator::start(turn.bed, config)
}

#[tokio::test]
async fn a_deaf_leader_yields_to_a_standby_that_follows_kubernetes() -> Result<()> {
    let turn = Turn::take("deaf-leader", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(2).await?;
    let mut way = Way::to(turn.bed.control_plane().address()).await;
    let deaf = start_by(&turn, "operator-0", &way)?;
    deaf.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 2, SOON).await;
    let other = operator(turn.bed, "operator-1");
    other.wait_ready(SOON).await?;

    way.cut().await;
    let cut = Instant::now();
    turn.namespace.scale("orders", 4).await?;
    wait_count(&turn.etcd, "/services/", 4, YIELDS).await;
    println!("a deaf leader: right after {:?}", cut.elapsed());
    wait_leader(&turn, "operator-1", SOON).await?;
    wait_unready(&deaf, "view of Kubernetes is stale", YIELDS).await?;
    let registry = (API, "Registry", "default");
    let is_healthy = |object: &serde_json::Value| condition(object, "WatchesHealthy").0 == "True";
    turn.bed.objects().wait(registry, is_healthy, SOON).await?;

    way.open().await;
    deaf.wait_ready(YIELDS).await?;
    assert_eq!(
        turn.leader().await?.as_deref(),
        Some("operator-1"),
        "the lead is not taken back"
    );
    Ok(())
}

#[tokio::test]
async fn stale_standby_that_had_to_lead_yields_to_the_first_fresh_candidate() -> Result<()> {
    let turn = Turn::take("deaf-standby", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(2).await?;
    let leader = operator(turn.bed, "operator-0");
    leader.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 2, SOON).await;
    let mut way = Way::to(turn.bed.control_plane().address()).await;
    let deaf = start_by(&turn, "operator-1", &way)?;
    deaf.wait_ready(SOON).await?;
    way.cut().await;
    wait_unready(&deaf, "view of Kubernetes is stale", YIELDS).await?;
    // No other replica is left. A leader with a stale view is better than none, because it renews the leases.
    leader.kill().await?;
    wait_leader(&turn, "operator-1", SOON).await?;
    turn.namespace.scale("orders", 3).await?;

    leader.restart().await?;
    let back = Instant::now();
    wait_count(&turn.etcd, "/services/", 3, YIELDS).await;
    println!("a deaf standby that had won: right after {:?}", back.elapsed());
    wait_leader(&turn, "operator-0", SOON).await
}
