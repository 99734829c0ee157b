//! P5: the kube-apiserver is away: endpoints stay registered, nothing is deleted on uncertainty.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use testbed::{History, Operator, OperatorConfig, Result, until};

use crate::support::{SOON, operator, wait_count, wait_events, wait_in_sync};
use crate::{Turn, bring_back_apiserver, wait_leader};

/// Short enough to wait for several of them.
const TTL: u32 = 15;
const STALE: &str = "leasehold_kubernetes_stale_since_timestamp_seconds";

async fn start(name: &str) -> Result<Turn> {
    let turn = Turn::take(name, 1, TTL).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    Ok(turn)
}

/// A folder for an operator's state, which is not there yet.
fn state_folder(turn: &Turn) -> PathBuf {
    turn.bed
        .folder()
        .path()
        .join(format!("state-{}", turn.namespace.name()))
}

fn operator_with_state(turn: &Turn, folder: &Path) -> Result<Operator> {
    let mut config = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
    config.args = vec!["--state-dir".into(), folder.into()];
    Operator::start(turn.bed, config)
}

/// Waits until one of an operator's metrics is as wanted.
async fn wait_metric(operator: &Operator, name: &str, enough: impl Fn(f64) -> bool) -> Result<()> {
    until(&format!("{name} to be as wanted"), SOON, || async {
        match operator.metric(name).await {
            Ok(Some(value)) if enough(value) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Waits until an operator tells whether its view of Kubernetes is outdated.
async fn wait_stale(operator: &Operator, stale: bool) -> Result<()> {
    wait_metric(operator, STALE, |since| (since > 0.5) == stale).await
}

/// Waits until an operator tells that it reaches the etcds of so many Registries.
async fn wait_connected(operator: &Operator, registries: f64) -> Result<()> {
    let metric = "leasehold_connected";
    wait_metric(operator, metric, |connected| (connected - registries).abs() < 0.5).await
}

/// Makes a change, and checks that it is all that ever happened.
async fn assert_followed_and_nothing_else(turn: &Turn, history: &History) -> Result<()> {
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    wait_events(history, 1).await;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    Ok(())
}

#[tokio::test]
async fn p5_a_dead_apiserver_costs_no_key_and_is_followed_when_it_is_back() -> Result<()> {
    let turn = start("p5-dead").await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 3, SOON).await;
    wait_stale(&operator, false).await?;
    let (history, pid) = (History::watch(&turn.etcd, "/services/", 0).await?, operator.pid());
    turn.bed.control_plane().apiserver().kill().await?;
    tokio::time::sleep(Duration::from_secs(u64::from(2 * TTL + 5))).await;
    history.assert_silent().await;
    wait_stale(&operator, true).await?;
    bring_back_apiserver(turn.bed).await?;
    assert_followed_and_nothing_else(&turn, &history).await?;
    wait_stale(&operator, false).await?;
    operator.process().alive()?;
    assert_eq!(operator.pid(), pid);
    Ok(())
}

#[tokio::test]
async fn p5_operator_started_without_an_apiserver_continues_renewals() -> Result<()> {
    let turn = start("p5-state").await?;
    let folder = state_folder(&turn);
    let operator = operator_with_state(&turn, &folder)?;
    operator.wait_ready(SOON).await?;
    let before = wait_count(&turn.etcd, "/services/", 3, SOON).await;
    wait_in_sync(turn.namespace.objects(), "orders", 3).await;
    assert!(folder.join("state.json").exists());
    let history = History::watch(&turn.etcd, "/services/", 0).await?;

    turn.bed.control_plane().apiserver().kill().await?;
    operator.kill().await?;
    operator.restart().await?;
    tokio::time::sleep(Duration::from_secs(u64::from(3 * TTL + 3))).await;
    history.assert_silent().await;
    assert_eq!(turn.etcd.dump("/services/").await?, before);
    // Who knows nothing of Kubernetes leaves the lead to those that do.
    assert_eq!(turn.leader().await?, None);
    wait_connected(&operator, 1.0).await?;
    wait_stale(&operator, true).await?;

    bring_back_apiserver(turn.bed).await?;
    operator.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    assert_followed_and_nothing_else(&turn, &history).await
}

#[tokio::test]
async fn p5_stored_state_of_another_cluster_is_dropped_when_apiserver_answers() -> Result<()> {
    let turn = start("p5-other").await?;
    let folder = state_folder(&turn);
    let spec = json!({"etcd": {"endpoints": turn.etcd.endpoints()}, "defaults": {"leaseTTLSeconds": TTL}});
    let registry = json!({"generation": 1, "spec": spec});
    let state = json!({"version": 1, "clusterId": "another", "registries": {"default": registry, "gone": registry}});
    DirBuilder::new().mode(0o700).create(&folder).expect("a new folder");
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join("state.json"));
    file.and_then(|mut file| file.write_all(state.to_string().as_bytes()))
        .expect("writable");
    let history = History::watch(&turn.etcd, "/leasehold/another/", 0).await?;

    let apiserver = turn.bed.control_plane().apiserver();
    apiserver.stop()?;
    let operator = operator_with_state(&turn, &folder)?;
    wait_connected(&operator, 2.0).await?;
    apiserver.cont()?;
    operator.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    wait_count(&turn.etcd, "/services/", 3, SOON).await;
    history.assert_silent().await;
    wait_connected(&operator, 1.0).await
}

#[tokio::test]
async fn p5_hanging_apiserver_loses_no_key_and_is_followed_when_it_is_back() -> Result<()> {
    let turn = start("p5-hangs").await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 3, SOON).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;
    let apiserver = turn.bed.control_plane().apiserver();
    apiserver.stop()?;
    tokio::time::sleep(Duration::from_secs(u64::from(TTL + 5))).await;
    history.assert_silent().await;
    apiserver.cont()?;
    assert_followed_and_nothing_else(&turn, &history).await
}

#[tokio::test]
async fn definitions_that_are_removed_take_their_keys_along_and_bring_them_back() -> Result<()> {
    let turn = start("p5-crds").await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 3, SOON).await;
    let pid = operator.pid();

    // Every registration is really deleted.
    remove_definition(&turn, "serviceregistrations").await?;
    wait_count(&turn.etcd, "/services/", 0, SOON).await;
    // Longer than it takes to see that this is no short trouble.
    wait_stale(&operator, true).await?;
    turn.bed.apply_crds().await?;
    turn.register(&["orders"]).await?;
    wait_count(&turn.etcd, "/services/", 3, SOON).await;

    // The Registry is really deleted: the operator may not write to its etcd any more, so the keys expire.
    remove_definition(&turn, "registries").await?;
    wait_count(&turn.etcd, "/services/", 0, Duration::from_secs(u64::from(TTL)) + SOON).await;
    turn.bed.apply_crds().await?;
    turn.bed.create_registry("default", &turn.etcd.endpoints(), TTL).await?;
    wait_count(&turn.etcd, "/services/", 3, SOON).await;
    wait_in_sync(turn.namespace.objects(), "orders", 3).await;
    wait_stale(&operator, false).await?;
    operator.process().alive()?;
    assert_eq!(operator.pid(), pid);
    Ok(())
}

async fn remove_definition(turn: &Turn, plural: &str) -> Result<()> {
    let (version, kind) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let name = format!("{plural}.leasehold.dev");
    let objects = turn.bed.objects();
    objects.delete(version, kind, &name).await?;
    until(&format!("{name} to be gone"), SOON, || async {
        match objects.get(version, kind, &name).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("it is still there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}
