//! A bad network: on the way to etcd, and between its members.

use std::time::{Duration, Instant};

use testbed::{EtcdConfig, History, Link, Network, Result};
use tokio::time::sleep;

use crate::support::SOON;
use crate::{Scene, Turn};

/// Short, to outlast it soon.
const TTL: u32 = 6;
/// Longer than a TTL, and than etcd takes to end leases.
const LONG: Duration = Duration::from_secs(8);

/// A scene whose operator reaches each member over a way of its own.
async fn over_links(name: &str, members: usize) -> Result<(Scene, Vec<Link>)> {
    let config = EtcdConfig {
        members,
        ..EtcdConfig::default()
    };
    let turn = Turn::take_with(name, config, TTL).await?;
    let network = Network::start(turn.bed.logs()).await?;
    let mut links = Vec::new();
    for i in 0..members {
        links.push(network.link(turn.etcd.client_address(i)).await?);
    }
    let endpoints: Vec<_> = links.iter().map(Link::http).collect();
    turn.bed.create_registry("default", &endpoints, TTL).await?;
    Ok((Scene::on(turn).await?, links))
}

/// A scene of three members that reach each other over ways of their own; the one that leads is asked first.
async fn over_peer_links(name: &str) -> Result<(Scene, usize)> {
    let network = Network::temporary().await?;
    let config = EtcdConfig {
        members: 3,
        network: Some(network),
        ..EtcdConfig::default()
    };
    let turn = Turn::take_with(name, config, TTL).await?;
    let leader = turn.etcd.leader().await?;
    let mut endpoints = turn.etcd.endpoints();
    endpoints.swap(0, leader);
    turn.bed.create_registry("default", &endpoints, TTL).await?;
    Ok((Scene::on(turn).await?, leader))
}

#[tokio::test]
async fn slow_narrow_link_loses_no_key_and_delays_changes_little() -> Result<()> {
    let (scene, links) = over_links("slow-way", 1).await?;
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    let history = History::watch(etcd, &scene.turn.plain("orders"), 0).await?;
    links[0].slow(Duration::from_millis(500)).await?;
    // In KiB a second.
    links[0].narrow(8).await?;
    sleep(LONG).await;
    history.assert_silent().await;
    scene.lose_a().await?;
    // Nor does the start need a better one.
    scene.operator.restart().await?;
    scene.operator.wait_ready(SOON).await?;
    namespace.set_ready("a", true).await?;
    scene.wait(&["a", "b", "c"]).await;
    assert_eq!(history.settled().await?.len(), 2, "that delete and that put");
    scene.wait_well(3).await
}

#[tokio::test]
async fn silent_link_to_the_connected_member_beyond_the_ttl_loses_no_key() -> Result<()> {
    let (scene, links) = over_links("dark-way", 3).await?;
    let etcd = &scene.turn.etcd;
    let history = History::watch(etcd, &scene.turn.plain("orders"), 0).await?;
    links[0].dark().await?;
    scene.lose_a().await?;
    sleep(LONG).await;
    scene.wait_well(2).await?;
    links[0].heal().await?;
    scene.regain_a().await?;
    assert_eq!(history.settled().await?.len(), 2, "that delete and that put");
    scene.wait_well(3).await
}

#[tokio::test]
async fn connections_that_are_reset_again_and_again_cost_no_key() -> Result<()> {
    let (scene, links) = over_links("resets", 1).await?;
    let namespace = &scene.turn.namespace;
    let history = History::watch(&scene.turn.etcd, &scene.turn.plain("orders"), 0).await?;
    links[0].reset().await?;
    namespace.set_ready("a", false).await?;
    scene.wait_trouble("Unreachable").await?;
    links[0].heal().await?;
    let repair = Instant::now();
    scene.wait_converged(repair, &["b", "c"]).await?;
    let gone = format!("delete {}a", scene.turn.plain("orders"));
    history.assert_exactly(&[&gone]).await;
    scene.wait_well(2).await
}

#[tokio::test]
async fn connected_member_partitioned_from_its_peers_loses_no_key() -> Result<()> {
    let (scene, cut_off) = over_peer_links("cut-off").await?;
    let etcd = &scene.turn.etcd;
    let from = etcd.revision().await? + 1;
    // It led until now, and still answers us.
    etcd.isolate(cut_off).await?;
    let history = History::watch(etcd, &scene.turn.plain("orders"), from).await?;
    scene.lose_a().await?;
    sleep(LONG).await;
    scene.wait_well(2).await?;
    etcd.heal_peers().await?;
    scene.regain_a().await?;
    assert_eq!(history.settled().await?.len(), 2, "that delete and that put");
    scene.wait_well(3).await
}

#[tokio::test]
async fn slow_links_between_members_delay_etcd_and_lose_no_key() -> Result<()> {
    let (scene, _) = over_peer_links("slow-raft").await?;
    let etcd = &scene.turn.etcd;
    let history = History::watch(etcd, &scene.turn.plain("orders"), 0).await?;
    etcd.slow_peers(Duration::from_millis(500)).await?;
    sleep(LONG).await;
    scene.lose_a().await?;
    etcd.heal_peers().await?;
    scene.regain_a().await?;
    assert_eq!(history.settled().await?.len(), 2, "that delete and that put");
    scene.wait_well(3).await
}
