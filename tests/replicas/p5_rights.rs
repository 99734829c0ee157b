//! P5, for an apiserver that answers and refuses: the right to see pods is withdrawn and given back.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{History, Operator, Result, until};

use crate::Turn;
use crate::support::{API, SOON, condition, operator, wait_count, wait_events, wait_in_sync};

const STALE: &str = "leasehold_kubernetes_stale_since_timestamp_seconds{kind=\"pods\"}";
const ROLE: (&str, &str, &str) = ("rbac.authorization.k8s.io/v1", "ClusterRole", "leasehold-leasehold");

/// Gives the operator's role these rules and no others.
async fn grant(turn: &Turn, rules: &[Value]) -> Result<()> {
    let (api, kind, name) = ROLE;
    let role = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "rules": rules});
    turn.bed.objects().apply(role).await.map(drop)
}

/// Waits until the operator reports its view of pods as stale, or as current. The apiserver checks a right only when a
/// watch begins, which is once a minute.
async fn wait_stale(operator: &Operator, stale: bool) -> Result<()> {
    until("the view of pods to be told so", Duration::from_mins(2), || async {
        let metrics = operator.metrics().await.map_err(|error| error.to_string())?;
        let line = metrics.lines().find(|line| line.starts_with(STALE));
        let since = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        match since {
            Some(since) if (since > 0.5) == stale => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Waits until the Registry says whether the operator's watches are healthy, and with that whether it is ready.
async fn wait_watches(turn: &Turn, status: &str, reason: &str) -> Result<()> {
    let wanted = (status.to_owned(), reason.to_owned());
    let registry = (API, "Registry", "default");
    let ready = (
        status.to_owned(),
        if status == "True" { "Connected" } else { reason }.to_owned(),
    );
    let reported =
        |object: &Value| condition(object, "WatchesHealthy") == wanted && condition(object, "Ready") == ready;
    turn.bed.objects().wait(registry, reported, SOON).await.map(drop)
}

#[tokio::test]
async fn p5_withdrawn_pod_access_loses_no_key_and_is_reported_until_restored() -> Result<()> {
    let turn = Turn::take("p5-rights", 1, 15).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 3, SOON).await;
    wait_in_sync(turn.namespace.objects(), "orders", 3).await;
    wait_stale(&operator, false).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;

    let (api, kind, name) = ROLE;
    let role = turn
        .bed
        .objects()
        .get(api, kind, name)
        .await?
        .expect("the chart's role");
    let rules = role["rules"].as_array().expect("its rules").clone();
    let of_pods = |rule: &Value| rule["resources"] == json!(["pods"]);
    let rest: Vec<Value> = rules.iter().filter(|rule| !of_pods(rule)).cloned().collect();
    assert_eq!(rest.len() + 1, rules.len(), "{rules:?}");
    grant(&turn, &rest).await?;
    wait_stale(&operator, true).await?;
    wait_watches(&turn, "False", "WatchesStale").await?;
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    history.assert_silent().await;
    let log = std::fs::read_to_string(operator.process().log()).expect("it is there");
    assert!(log.contains("pods is forbidden"), "its log does not say why");

    grant(&turn, &rules).await?;
    wait_events(&history, 1).await;
    wait_stale(&operator, false).await?;
    wait_watches(&turn, "True", "Watching").await?;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    operator.process().alive()
}
