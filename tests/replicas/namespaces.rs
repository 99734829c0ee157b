//! Replicas of one class that watch different namespaces: each would remove the keys of the other.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{History, Namespace, Operator, OperatorConfig, Result};

use crate::support::{API, SOON, message, plain_prefix, pod, registration, wait_event, wait_events, wait_keys};
use crate::{Turn, wait_leader};

/// Starts a replica that watches these namespaces.
async fn start(turn: &Turn, name: &str, namespaces: &[&str], session_ttl: Option<u32>) -> Result<Operator> {
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    config.args = ["--watch-namespaces", &namespaces.join(",")].map(Into::into).to_vec();
    config.session_ttl = session_ttl;
    let operator = Operator::start(turn.bed, config)?;
    // Also one that stands by because of its namespaces: otherwise a rollout would wait for it.
    operator.wait_ready(SOON).await?;
    Ok(operator)
}

async fn register(namespace: &Namespace) -> Result<String> {
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    Ok(plain_prefix(namespace, "orders"))
}

#[tokio::test]
async fn installations_with_different_namespaces_do_not_remove_each_others_keys() -> Result<()> {
    let turn = Turn::take("namespaces", 1, 15).await?;
    let other = turn.bed.namespace("turn-namespaces-other").await?;
    let (mine, theirs) = (register(&turn.namespace).await?, register(&other).await?);
    let first = start(&turn, "operator-0", &[turn.namespace.name()], None).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    wait_keys(&turn.etcd, &mine, &["a"]).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;

    let second = start(&turn, "operator-1", &[other.name()], None).await?;
    let note = format!("operator-0 watches {}", turn.namespace.name());
    let registries = turn.bed.objects();
    wait_event(&registries, ("Registry", "default"), "OtherNamespacesWatched", &note).await?;
    let named = format!("operator-1 ({})", other.name());
    let is_named = |object: &Value| message(object, "WatchesHealthy").contains(&named);
    registries.wait((API, "Registry", "default"), is_named, SOON).await?;

    // The leader crashes, and comes back within its session.
    first.restart().await?;
    first.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    turn.namespace.create_pod(&pod("b", "orders")).await?;
    wait_keys(&turn.etcd, &mine, &["a", "b"]).await;

    // It is replaced by a replica that watches the same, as in a rollout.
    let next = start(&turn, "operator-2", &[turn.namespace.name()], None).await?;
    first.terminate()?;
    first.wait_exit(SOON).await?;
    wait_leader(&turn, "operator-2", SOON).await?;
    turn.namespace.create_pod(&pod("c", "orders")).await?;
    wait_keys(&turn.etcd, &mine, &["a", "b", "c"]).await;
    let events = wait_events(&history, 2).await;
    assert!(events.iter().all(|event| event.starts_with("put ")), "{events:?}");

    // The first installation ends for good.
    next.terminate()?;
    next.wait_exit(SOON).await?;
    wait_leader(&turn, "operator-1", SOON).await?;
    wait_keys(&turn.etcd, &theirs, &["a"]).await;
    drop(second);
    Ok(())
}

#[tokio::test]
async fn rollout_that_changes_the_namespaces_hands_over_at_once() -> Result<()> {
    let turn = Turn::take("namespaces", 1, 60).await?;
    let other = turn.bed.namespace("turn-namespaces-other").await?;
    let (before, added) = (register(&turn.namespace).await?, register(&other).await?);
    // Longer than the waits below: nothing but the end of the old replicas hands over.
    let session_ttl = Some(60);
    let old = start(&turn, "operator-0", &[turn.namespace.name()], session_ttl).await?;
    wait_keys(&turn.etcd, &before, &["a"]).await;
    let history = History::watch(&turn.etcd, &before, 0).await?;
    let both = [turn.namespace.name(), other.name()];
    let new = start(&turn, "operator-1", &both, session_ttl).await?;
    old.terminate()?;
    old.wait_exit(SOON).await?;
    wait_leader(&turn, "operator-1", Duration::from_secs(30)).await?;
    wait_keys(&turn.etcd, &added, &["a"]).await;
    history.assert_silent().await;
    drop(new);
    Ok(())
}

#[tokio::test]
async fn leader_with_fewer_namespaces_does_not_wait_for_idle_watches() -> Result<()> {
    let turn = Turn::take("namespaces", 1, 60).await?;
    let idle = turn.bed.namespace("turn-namespaces-idle").await?;
    let (busy, still) = (register(&turn.namespace).await?, register(&idle).await?);
    let whole_cluster = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
    let old = Operator::start(turn.bed, whole_cluster)?;
    old.wait_ready(SOON).await?;
    for prefix in [&busy, &still] {
        wait_keys(&turn.etcd, prefix, &["a"]).await;
    }
    let new = start(&turn, "operator-1", &[turn.namespace.name(), idle.name()], None).await?;
    // The predecessor has observed pods of the whole cluster up to here; the watch of the idle namespace delivers nothing.
    turn.namespace.create_pod(&pod("b", "orders")).await?;
    wait_keys(&turn.etcd, &busy, &["a", "b"]).await;
    old.terminate()?;
    old.wait_exit(SOON).await?;
    wait_leader(&turn, "operator-1", SOON).await?;
    let history = History::watch(&turn.etcd, &busy, 0).await?;
    turn.namespace.set_ready("b", false).await?;
    // A watch lasts a minute, and that of the idle namespace began when the replica started.
    let is_gone = |events: &[testbed::Event]| !events.is_empty();
    history.wait_for(is_gone, Duration::from_secs(30)).await?;
    wait_keys(&turn.etcd, &busy, &["a"]).await;
    drop(new);
    Ok(())
}
