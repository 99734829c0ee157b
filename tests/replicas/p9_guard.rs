//! P9: a burst that would empty a Registry by mistake is held back and shown; pods really deleted leave at once.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use kube::Api;
use kube::api::{Patch, PatchParams};
use leasehold::api::{APPROVE_REMOVALS, Registry};
use serde_json::{Value, json};
use testbed::{History, Kind, Objects, Operator, Result, until};

use crate::support::{
    API, SOON, condition, message, operator, plain_prefix, pod, registration, wait_condition, wait_count, wait_event,
    wait_keys,
};
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
        condition(object, "RemovalsHeld") == ("True".to_owned(), "LossAboveLimit".to_owned())
            && object["status"]["pods"]["ready"] == 0
    };
    let orders = (API, "ServiceRegistration", "orders");
    let object = turn.namespace.objects().wait(orders, seen, SOON).await?;
    let reported = message(&object, "RemovalsHeld");
    let reported: usize = reported
        .split(' ')
        .next()
        .and_then(|count| count.parse().ok())
        .expect(&reported);
    let kept = wait_count(&turn.etcd, &turn.plain("orders"), reported, SOON)
        .await
        .len();
    assert!((KEPT_AT_LEAST..=20).contains(&kept), "{kept}");
    Ok(kept)
}

/// The id of the hold that the Registry reports.
async fn hold_id(turn: &Turn) -> Result<String> {
    let registry = (API, "Registry", "default");
    let held = |object: &Value| condition(object, "RemovalsHeld").1 == "LossAboveLimit";
    let object = turn.namespace.objects().wait(registry, held, SOON).await?;
    let reported = message(&object, "RemovalsHeld");
    let (_, id) = reported.split_once(&format!("{APPROVE_REMOVALS}=")).expect(&reported);
    Ok(id.to_owned())
}

/// Waits until an operator goes on with the hold `id`, of so many keys.
async fn wait_goes_on(turn: &Turn, operator: &Operator, id: &str, keys: usize) -> Result<()> {
    wait_metric(operator, "leasehold_held_keys", keys).await?;
    assert_eq!(hold_id(turn).await?, id);
    Ok(())
}

async fn wait_metric(operator: &Operator, name: &str, wanted: usize) -> Result<()> {
    let wanted = wanted.to_string();
    until(&format!("{name} to be {wanted}"), SOON, || async {
        match operator.metric(name).await {
            Ok(Some(reported)) if reported.to_string() == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// What the registration and the Registry say of the hold there is, and since when.
async fn reported_held(turn: &Turn) -> Result<[Value; 2]> {
    let held_by = async |kind, name| {
        let is_held = |object: &Value| condition(object, "RemovalsHeld").1 == "LossAboveLimit";
        let object = turn.namespace.objects().wait((API, kind, name), is_held, SOON).await?;
        let conditions = object["status"]["conditions"].as_array().expect("conditions");
        let held = conditions.iter().find(|condition| condition["type"] == "RemovalsHeld");
        Ok(held.expect("it was just there").clone())
    };
    Ok([
        held_by("ServiceRegistration", "orders").await?,
        held_by("Registry", "default").await?,
    ])
}

/// Waits until nothing is recorded of a hold.
async fn wait_no_record(turn: &Turn) -> Result<()> {
    until("the record of the hold to go", SOON, || async {
        let held = turn.etcd.dump("/leasehold/").await.map_err(|error| error.to_string())?;
        match held.keys().find(|key| key.ends_with("/hold")) {
            None => Ok(()),
            Some(key) => Err(format!("there is {key}")),
        }
    })
    .await
}

async fn wait_nothing_held(turn: &Turn) -> Result<()> {
    let objects = turn.namespace.objects();
    wait_condition(objects, "orders", "RemovalsHeld", "False", "NothingHeld").await;
    let free = |object: &Value| condition(object, "RemovalsHeld").1 == "NothingHeld";
    let registry = (API, "Registry", "default");
    objects.wait(registry, free, SOON).await.map(drop)
}

#[tokio::test]
async fn p9_readiness_lost_by_all_at_once_is_held_and_reported_until_approved() -> Result<()> {
    let (turn, operator) = start("p9-approve", json!({})).await?;
    let kept = lose_all(&turn).await?;
    let id = hold_id(&turn).await?;
    wait_metric(&operator, "leasehold_held_keys", kept).await?;
    wait_metric(&operator, "leasehold_guard_trips_total", 1).await?;
    let registry = turn.namespace.objects().get(API, "Registry", "default").await?;
    let reported = message(&registry.expect("it is there"), "RemovalsHeld");
    let (lost, _) = reported
        .split_once(" of 20 endpoints would have lost keys at once")
        .expect(&reported);
    // News that come together are judged together.
    assert!(
        (11..=20).contains(&lost.parse::<usize>().expect(&reported)),
        "{reported}"
    );
    let orders = turn.namespace.objects().clone();
    let default = Objects::new(turn.namespace.client(), "default");
    wait_event(&orders, ("ServiceRegistration", "orders"), "RemovalsHeld", &id).await?;
    wait_event(&default, ("Registry", "default"), "RemovalsHeld", &id).await?;

    change_registry(
        &turn,
        json!({"metadata": {"annotations": {APPROVE_REMOVALS: "another"}}}),
    )
    .await;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    history.assert_silent().await;
    change_registry(&turn, json!({"metadata": {"annotations": {APPROVE_REMOVALS: id}}})).await;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    wait_nothing_held(&turn).await?;
    wait_event(&orders, ("ServiceRegistration", "orders"), "RemovalsReleased", "").await?;
    wait_event(&default, ("Registry", "default"), "RemovalsReleased", &id).await?;
    wait_metric(&operator, "leasehold_held_keys", 0).await?;
    wait_no_record(&turn).await
}

#[tokio::test]
async fn p9_pods_that_are_back_end_a_hold_and_what_was_kept_is_not_touched() -> Result<()> {
    let (turn, _operator) = start("p9-back", json!({})).await?;
    let kept = lose_all(&turn).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    set_all_ready(&turn, true).await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    let events = history.settled().await?;
    let puts = events.iter().filter(|event| event.kind != Kind::Delete);
    assert_eq!(puts.count(), events.len(), "{events:?}");
    assert_eq!(events.len(), 20 - kept, "those that went before the hold are back");
    wait_no_record(&turn).await
}

#[tokio::test]
async fn p9_a_hold_ends_when_its_time_has_passed() -> Result<()> {
    let (turn, _operator) = start("p9-time", json!({"holdSeconds": 5, "windowSeconds": 5})).await?;
    let begun = Instant::now();
    lose_all(&turn).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    wait_nothing_held(&turn).await
}

#[tokio::test]
async fn p9_start_without_ready_pods_holds_all_keys_and_a_restart_resumes_it() -> Result<()> {
    let (turn, first) = start("p9-start", json!({})).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    first.kill().await?;
    set_all_ready(&turn, false).await?;
    let second = operator(turn.bed, "operator-1");
    second.wait_ready(SOON).await?;
    let id = hold_id(&turn).await?;
    wait_goes_on(&turn, &second, &id, 20).await?;
    let before = reported_held(&turn).await?;
    // Times in conditions are whole seconds: in the one in which the hold began, another change of it would not show.
    let began: jiff::Timestamp = before[1]["lastTransitionTime"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("a time");
    until("that second to be over", SOON, || async {
        let age = jiff::Timestamp::now().duration_since(began);
        (age.as_secs() > 1).then_some(()).ok_or(format!("{age} have passed"))
    })
    .await?;

    second.kill().await?;
    let third = operator(turn.bed, "operator-1");
    third.wait_ready(SOON).await?;
    wait_goes_on(&turn, &third, &id, 20).await?;
    history.assert_silent().await;
    assert_eq!(
        reported_held(&turn).await?,
        before,
        "its end included, and nobody said otherwise between"
    );
    assert_eq!(
        third.metric("leasehold_guard_trips_total").await?,
        Some(0.0),
        "it is no new one"
    );
    set_all_ready(&turn, true).await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    history.assert_silent().await;
    Ok(())
}

#[tokio::test]
async fn p9_deleted_pods_leave_at_once_even_from_a_hold_and_after_a_restart() -> Result<()> {
    let (turn, first) = start("p9-scale", json!({})).await?;
    turn.namespace.scale("orders", 0).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    wait_nothing_held(&turn).await?;
    assert_eq!(first.metric("leasehold_guard_trips_total").await?, Some(0.0));

    turn.deploy(PODS).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 20, SOON).await;
    let kept = lose_all(&turn).await?;
    let id = hold_id(&turn).await?;
    first.kill().await?;
    let second = operator(turn.bed, "operator-1");
    second.wait_ready(SOON).await?;
    wait_goes_on(&turn, &second, &id, kept).await?;
    turn.namespace.scale("orders", 0).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    wait_nothing_held(&turn).await
}

#[tokio::test]
async fn p9_a_standby_that_takes_over_goes_on_with_the_hold() -> Result<()> {
    let (turn, leader) = start("p9-standby", json!({})).await?;
    let standby = operator(turn.bed, "operator-1");
    standby.wait_ready(SOON).await?;
    let kept = lose_all(&turn).await?;
    let id = hold_id(&turn).await?;
    assert_eq!(
        standby.metric("leasehold_held_keys").await?,
        Some(0.0),
        "it decides nothing"
    );
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    leader.kill().await?;
    wait_leader(&turn, "operator-1", Duration::from_secs(30)).await?;
    wait_goes_on(&turn, &standby, &id, kept).await?;
    history.assert_silent().await;
    change_registry(&turn, json!({"metadata": {"annotations": {APPROVE_REMOVALS: id}}})).await;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    wait_nothing_held(&turn).await
}

/// Makes the registration select other pods.
async fn select(turn: &Turn, app: &str) -> Result<()> {
    let selector = json!({"selector": {"matchLabels": {"app": app}}});
    turn.namespace.apply(registration("orders", &selector)).await.map(drop)
}

#[tokio::test]
async fn p9_keys_of_a_deleted_registration_are_held_until_their_pods_end() -> Result<()> {
    let (turn, operator) = start("p9-deleted", json!({})).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    let objects = turn.namespace.objects();
    objects.delete(API, "ServiceRegistration", "orders").await?;
    hold_id(&turn).await?;
    wait_metric(&operator, "leasehold_held_keys", 20).await?;
    history.assert_silent().await;
    turn.namespace.scale("orders", 0).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, SOON).await;
    let free = |object: &Value| condition(object, "RemovalsHeld").1 == "NothingHeld";
    objects.wait((API, "Registry", "default"), free, SOON).await?;
    wait_no_record(&turn).await
}

#[tokio::test]
async fn p9_a_namespace_that_loses_all_of_its_keys_holds_up_no_other() -> Result<()> {
    let (turn, operator) = start("p9-others", json!({})).await?;
    let other = turn.bed.namespace("p9-other").await?;
    for name in ["a", "b", "c"] {
        other.create_pod(&pod(name, "orders")).await?;
    }
    other.apply(registration("orders", &json!({}))).await?;
    let others = plain_prefix(&other, "orders");
    wait_keys(&turn.etcd, &others, &["a", "b", "c"]).await;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    turn.namespace
        .objects()
        .delete(API, "ServiceRegistration", "orders")
        .await?;
    let id = hold_id(&turn).await?;
    wait_metric(&operator, "leasehold_held_keys", 20).await?;
    other.set_ready("a", false).await?;
    wait_keys(&turn.etcd, &others, &["b", "c"]).await;
    assert_eq!(hold_id(&turn).await?, id, "the hold goes on");

    operator.restart().await?;
    operator.wait_ready(SOON).await?;
    wait_goes_on(&turn, &operator, &id, 20).await?;
    other.set_ready("b", false).await?;
    wait_keys(&turn.etcd, &others, &["c"]).await;
    history.assert_silent().await;
    // The pods of the other tests are counted in all namespaces.
    for name in ["a", "b", "c"] {
        other.delete_pod(name).await?;
    }
    wait_count(&turn.etcd, &others, 0, SOON).await;
    Ok(())
}

#[tokio::test]
async fn p9_a_deleted_registration_that_is_applied_again_costs_no_key() -> Result<()> {
    let (turn, operator) = start("p9-again", json!({})).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    turn.namespace
        .objects()
        .delete(API, "ServiceRegistration", "orders")
        .await?;
    wait_metric(&operator, "leasehold_held_keys", 20).await?;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    history.assert_silent().await;
    Ok(())
}

#[tokio::test]
async fn p9_a_selector_that_selects_no_pod_is_held_until_it_is_corrected() -> Result<()> {
    let (turn, _operator) = start("p9-selector", json!({})).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    select(&turn, "order").await?;
    wait_condition(
        turn.namespace.objects(),
        "orders",
        "RemovalsHeld",
        "True",
        "LossAboveLimit",
    )
    .await;
    hold_id(&turn).await?;
    select(&turn, "orders").await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    history.assert_silent().await;
    Ok(())
}

#[tokio::test]
async fn p9_a_switch_to_as_many_other_pods_holds_nothing() -> Result<()> {
    let (turn, operator) = start("p9-switch", json!({})).await?;
    let green = [("app", "green")];
    turn.namespace
        .create_deployment("green", &green, PODS, &[("grpc", 8080)])
        .await?;
    turn.namespace.wait_ready_pods("app=green", PODS as usize).await?;
    select(&turn, "green").await?;
    let switched = |pods: &[String]| pods.len() == 20 && pods.iter().all(|pod| pod.contains("/green-"));
    until("the keys of the other pods alone", SOON, || async {
        let held = turn
            .etcd
            .dump(&turn.plain("orders"))
            .await
            .map_err(|error| error.to_string())?;
        let keys: Vec<String> = held.into_keys().collect();
        if switched(&keys) {
            Ok(())
        } else {
            Err(format!("{keys:?}"))
        }
    })
    .await?;
    assert_eq!(operator.metric("leasehold_guard_trips_total").await?, Some(0.0));
    Ok(())
}

/// Waits until the registration and the Registry report a hold of so many keys, and that etcd still holds them.
async fn wait_held(turn: &Turn, operator: &Operator, keys: usize) -> Result<()> {
    wait_metric(operator, "leasehold_held_keys", keys).await?;
    let objects = turn.namespace.objects();
    wait_condition(objects, "orders", "RemovalsHeld", "True", "LossAboveLimit").await;
    hold_id(turn).await.map(drop)
}

/// Makes the registration write its keys below another prefix.
async fn move_to(turn: &Turn, prefix: &str) -> Result<()> {
    let formats = json!({"formats": [{"type": "Plain", "plain": {"prefix": prefix}}]});
    turn.namespace.apply(registration("orders", &formats)).await.map(drop)
}

#[tokio::test]
async fn p9_a_move_to_another_prefix_writes_the_new_keys_and_holds_the_old_ones() -> Result<()> {
    let (turn, operator) = start("p9-move", json!({})).await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    let (before, after) = (turn.plain("orders"), format!("/moved/{}/", turn.namespace.name()));
    let history = History::watch(&turn.etcd, &before, 0).await?;
    move_to(&turn, after.trim_end_matches('/')).await?;
    wait_count(&turn.etcd, &after, 20, SOON).await;
    wait_held(&turn, &operator, 20).await?;
    let id = hold_id(&turn).await?;
    // A pod that is not ready leaves both places at once: the hold is one of edits.
    let unready = turn.some_pod().await?;
    turn.namespace.set_ready(&unready, false).await?;
    wait_count(&turn.etcd, &after, 19, SOON).await;
    wait_count(&turn.etcd, &before, 19, SOON).await;

    operator.restart().await?;
    operator.wait_ready(SOON).await?;
    wait_goes_on(&turn, &operator, &id, 19).await?;
    wait_held(&turn, &operator, 19).await?;
    let pods = turn.namespace.pods("app=orders").await?;
    let mut names = pods.into_iter().filter_map(|pod| pod.metadata.name);
    let pod = names.find(|pod| *pod != unready).expect("there are others");
    turn.namespace.delete_pod(&pod).await?;
    // The Deployment replaces it, and the new pod has a key below the new prefix only.
    wait_count(&turn.etcd, &before, 18, SOON).await;
    wait_metric(&operator, "leasehold_held_keys", 18).await?;
    let left = [unready, pod].map(|pod| format!("{before}{pod}"));
    let events = history.settled().await?;
    assert!(
        events
            .iter()
            .all(|event| event.kind == Kind::Delete && left.contains(&event.key)),
        "{events:?}"
    );

    change_registry(&turn, json!({"metadata": {"annotations": {APPROVE_REMOVALS: id}}})).await;
    wait_count(&turn.etcd, &before, 0, SOON).await;
    wait_nothing_held(&turn).await?;
    wait_count(&turn.etcd, &after, 19, SOON).await;
    Ok(())
}

#[tokio::test]
async fn p9_reverted_move_keeps_all_old_keys_and_holds_the_new_ones() -> Result<()> {
    let (turn, operator) = start("p9-undone", json!({})).await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    let (before, after) = (turn.plain("orders"), format!("/moved/{}/", turn.namespace.name()));
    let history = History::watch(&turn.etcd, &before, 0).await?;
    move_to(&turn, after.trim_end_matches('/')).await?;
    wait_held(&turn, &operator, 20).await?;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    // Consumers may have followed the edit, so undoing it is an edit like any other.
    until("the hold to concern the new keys", SOON, || async {
        let objects = turn.namespace.objects();
        let found = objects.get(API, "ServiceRegistration", "orders").await;
        let object = found.map_err(|error| error.to_string())?.ok_or("it is missing")?;
        let counts = &object["status"]["pods"];
        let is_undone = object["status"]["formats"][0]["location"] == before.as_str();
        (is_undone && counts["registered"] == PODS)
            .then_some(())
            .ok_or(object["status"].to_string())
    })
    .await?;
    wait_held(&turn, &operator, 20).await?;
    assert_eq!(turn.etcd.dump(&after).await?.len(), 20);
    let id = hold_id(&turn).await?;
    change_registry(&turn, json!({"metadata": {"annotations": {APPROVE_REMOVALS: id}}})).await;
    wait_count(&turn.etcd, &after, 0, SOON).await;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    history.assert_silent().await;
    Ok(())
}

#[tokio::test]
async fn p9_a_format_that_is_left_out_is_held_and_one_of_a_small_service_is_not() -> Result<()> {
    let (turn, operator) = start("p9-format", json!({})).await?;
    let two = |name: &str| {
        let second = json!({"type": "Plain", "plain": {"prefix": format!("/second/{name}")}});
        registration(name, &json!({"formats": [{"type": "Plain"}, second]}))
    };
    for name in ["a", "b", "c"] {
        turn.namespace.create_pod(&pod(name, "few")).await?;
    }
    turn.namespace.apply(two("few")).await?;
    turn.namespace.apply(two("orders")).await?;
    support::wait_in_sync(turn.namespace.objects(), "few", 3).await;
    // Until then, the spec with one format counts as the last one that was applied.
    let is_recorded = |object: &Value| {
        let last = &object["status"]["lastSynced"]["spec"]["formats"];
        last.as_array().is_some_and(|formats| formats.len() == 2)
    };
    let orders = (API, "ServiceRegistration", "orders");
    turn.namespace.objects().wait(orders, is_recorded, SOON).await?;
    let all = turn.etcd.dump("/").await?;
    let data = || all.keys().filter(|key| !key.starts_with("/leasehold/"));
    assert_eq!(data().count(), 46);

    turn.namespace.apply(registration("few", &json!({}))).await?;
    until("the keys of the small service to be gone", SOON, || async {
        let left = turn.etcd.dump("/").await.map_err(|error| error.to_string())?;
        let left = left.keys().filter(|key| !key.starts_with("/leasehold/")).count();
        (left == 43).then_some(()).ok_or(format!("{left} keys are left"))
    })
    .await?;
    assert_eq!(operator.metric("leasehold_guard_trips_total").await?, Some(0.0));
    let history = History::watch(&turn.etcd, "/", 0).await?;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    wait_held(&turn, &operator, 20).await?;
    turn.namespace.apply(two("orders")).await?;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    let events = history.settled().await?;
    let data: Vec<_> = events
        .iter()
        .filter(|event| !event.key.starts_with("/leasehold/"))
        .collect();
    assert!(data.is_empty(), "{data:?}");
    Ok(())
}

/// Access rules that apply to the namespaces with these labels.
fn access(labels: &Value, quota: Option<u32>) -> Value {
    let mut rule = json!({"name": "all", "namespaceSelector": {"matchLabels": labels}});
    if let Some(quota) = quota {
        rule["keysPerNamespace"] = quota.into();
    }
    json!({"spec": {"access": {"rules": [rule]}}})
}

#[tokio::test]
async fn p9_access_that_is_taken_away_is_held_until_it_is_given_back() -> Result<()> {
    let (turn, operator) = start("p9-access", json!({})).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    change_registry(&turn, access(&json!({"tenant": "yes"}), None)).await;
    wait_held(&turn, &operator, 20).await?;
    history.assert_silent().await;
    change_registry(&turn, json!({"spec": {"access": null}})).await;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    history.assert_silent().await;

    // A quota, too: of 20 pods, 3 keep their keys, and then all of them.
    change_registry(&turn, access(&json!({}), Some(3))).await;
    wait_held(&turn, &operator, 17).await?;
    history.assert_silent().await;
    change_registry(&turn, json!({"spec": {"access": null}})).await;
    support::wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    wait_nothing_held(&turn).await?;
    history.assert_silent().await;
    Ok(())
}
