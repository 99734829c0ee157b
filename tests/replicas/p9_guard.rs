//! P9: a burst that would empty a Registry by mistake is held back and shown; pods really deleted leave at once.

use std::time::Duration;

use futures::future::try_join_all;
use kube::Api;
use kube::api::{Patch, PatchParams};
use leasehold::api::{APPROVE_REMOVALS, Registry};
use serde_json::{Value, json};
use testbed::{Operator, Result};

use crate::support::{API, SOON, condition, message, operator, registration, wait_condition, wait_count};
use crate::{Turn, support, wait_leader};

/// For a namespace to go.
const LONG: Duration = Duration::from_mins(1);
const PODS: u32 = 20;
/// Readiness lost by one pod after the other is a burst only when it is seen to be one: so many may go before.
const KEPT_AT_LEAST: usize = 10;

/// A turn with the service `orders` of 20 pods, and an operator that has registered them.
async fn start(name: &str, guard: Value) -> Result<(Turn, Operator)> {
    let turn = Turn::take(name, 1, 30).await?;
    change_registry(&turn, json!({"spec": {"guard": guard}})).await;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    turn.deploy(PODS).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    // Pods of an earlier test that are still on their way out would count.
    wait_count(&turn.etcd, "/services/", 20, LONG).await;
    Ok((turn, operator))
}

async fn change_registry(turn: &Turn, change: Value) {
    let registries = Api::<Registry>::all(turn.namespace.client());
    let (params, patch) = (PatchParams::default(), Patch::Merge(change));
    let changed = registries.patch("default", &params, &patch).await;
    changed.expect("the Registry is changed");
}

async fn set_all_ready(turn: &Turn, ready: bool) -> Result<()> {
    let pods = turn.namespace.pods("app=orders").await?;
    let names = pods.iter().filter_map(|pod| pod.metadata.name.as_deref());
    try_join_all(names.map(|name| turn.namespace.set_ready(name, ready)))
        .await
        .map(drop)
}

/// Takes readiness from all pods, waits until the operator has seen all of it, and returns how many keys are left.
async fn lose_all(turn: &Turn) -> Result<usize> {
    set_all_ready(turn, false).await?;
    let seen = |object: &Value| {
        condition(object, "Held") == ("True".to_owned(), "LossAboveLimit".to_owned())
            && object["status"]["readyEndpoints"] == 0
    };
    let orders = (API, "ServiceRegistration", "orders");
    let object = turn.namespace.objects().wait(orders, seen, SOON).await?;
    let told = message(&object, "Held");
    let told: usize = told
        .split(' ')
        .next()
        .and_then(|count| count.parse().ok())
        .expect(&told);
    let kept = wait_count(&turn.etcd, &turn.plain("orders"), told, SOON).await.len();
    assert!((KEPT_AT_LEAST..=20).contains(&kept), "{kept}");
    Ok(kept)
}

/// The id of the hold that the Registry tells of, once that is another one than `before`.
async fn hold_id(turn: &Turn, before: Option<&str>) -> Result<String> {
    let id = |object: &Value| {
        let told = message(object, "Held");
        let (_, id) = told.split_once(&format!("{APPROVE_REMOVALS}="))?;
        Some(id.to_owned())
    };
    let another = |object: &Value| id(object).is_some_and(|id| Some(&*id) != before);
    let registry = (API, "Registry", "default");
    let object = turn.namespace.objects().wait(registry, another, SOON).await?;
    Ok(id(&object).expect("it is told"))
}

async fn wait_nothing_held(turn: &Turn) -> Result<()> {
    let objects = turn.namespace.objects();
    wait_condition(objects, "orders", "Held", "False", "NothingHeld").await;
    let free = |object: &Value| condition(object, "Held").1 == "NothingHeld";
    let registry = (API, "Registry", "default");
    objects.wait(registry, free, SOON).await.map(drop)
}

#[tokio::test]
async fn p9_readiness_lost_by_all_at_once_is_held_over_a_restart_until_somebody_approves() -> Result<()> {
    let (turn, first) = start("p9-approve", json!({})).await?;
    let kept = lose_all(&turn).await?;
    let before = hold_id(&turn, None).await?;

    first.kill().await?;
    let second = operator(turn.bed, "operator-1");
    second.wait_ready(SOON).await?;
    let id = hold_id(&turn, Some(&before)).await?;
    change_registry(&turn, json!({"metadata": {"annotations": {APPROVE_REMOVALS: before}}})).await;
    let history = testbed::History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    history.assert_silent().await;
    wait_count(&turn.etcd, &turn.plain("orders"), kept, SOON).await;

    change_registry(&turn, json!({"metadata": {"annotations": {APPROVE_REMOVALS: id}}})).await;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    wait_nothing_held(&turn).await
}

#[tokio::test]
async fn p9_pods_that_are_back_end_a_hold() -> Result<()> {
    let (turn, _operator) = start("p9-back", json!({})).await?;
    let kept = lose_all(&turn).await?;
    let history = testbed::History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    set_all_ready(&turn, true).await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    let events = history.settled().await?;
    let puts = events.iter().filter(|event| event.kind != testbed::Kind::Delete);
    assert_eq!(puts.count(), events.len(), "{events:?}");
    assert_eq!(events.len(), 20 - kept, "what was kept is not touched");
    Ok(())
}

#[tokio::test]
async fn p9_a_hold_ends_when_its_time_has_passed() -> Result<()> {
    let (turn, _operator) = start("p9-time", json!({"holdSeconds": 5})).await?;
    let begun = std::time::Instant::now();
    lose_all(&turn).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    wait_nothing_held(&turn).await
}

#[tokio::test]
async fn p9_pods_really_deleted_leave_at_once_even_from_a_hold_and_after_a_restart() -> Result<()> {
    let (turn, first) = start("p9-scale", json!({})).await?;
    turn.namespace.scale("orders", 0).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    wait_nothing_held(&turn).await?;

    turn.deploy(PODS).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 20, SOON).await;
    lose_all(&turn).await?;
    let before = hold_id(&turn, None).await?;
    first.kill().await?;
    let second = operator(turn.bed, "operator-1");
    second.wait_ready(SOON).await?;
    hold_id(&turn, Some(&before)).await?;
    turn.namespace.scale("orders", 0).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    wait_nothing_held(&turn).await
}

#[tokio::test]
async fn p9_a_takeover_by_a_standby_does_not_release_a_hold() -> Result<()> {
    let (turn, leader) = start("p9-standby", json!({})).await?;
    let standby = operator(turn.bed, "operator-1");
    standby.wait_ready(SOON).await?;
    let kept = lose_all(&turn).await?;
    let before = hold_id(&turn, None).await?;
    let history = testbed::History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    leader.kill().await?;
    wait_leader(&turn, "operator-1", Duration::from_secs(30)).await?;
    hold_id(&turn, Some(&before)).await?;
    history.assert_silent().await;
    wait_count(&turn.etcd, &turn.plain("orders"), kept, SOON).await;
    Ok(())
}
