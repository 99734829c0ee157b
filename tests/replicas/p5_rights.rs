//! P5, for an apiserver that answers and refuses: the right to see pods is withdrawn and given back.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Entrance, History, Operator, OperatorConfig, Result, until};

use crate::Turn;
use crate::support::{API, SOON, condition, wait_count, wait_events, wait_in_sync};

const STALE: &str = "leasehold_kubernetes_stale_since_timestamp_seconds{kind=\"pods\"}";
const BINDING: &str = "rbac.authorization.k8s.io/v1";

/// A right to do something, and who has it.
async fn grant(turn: &Turn, name: &str, rules: &Value) -> Result<()> {
    let objects = turn.bed.objects();
    let role = json!({"apiVersion": BINDING, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    objects.apply(role).await?;
    let account = json!({"kind": "ServiceAccount", "name": "operator", "namespace": turn.namespace.name()});
    let binding = json!({
        "apiVersion": BINDING,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [account],
    });
    objects.apply(binding).await.map(drop)
}

/// Waits until the view of pods is told as outdated, or not. Rights are asked for when a watch begins, which is every
/// few seconds.
async fn wait_stale(operator: &Operator, stale: bool) -> Result<()> {
    until("the view of pods to be told so", Duration::from_mins(1), || async {
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

/// Waits until the Registry says whether Kubernetes tells the operator what changes.
async fn wait_informed(turn: &Turn, status: &str, reason: &str) -> Result<()> {
    let wanted = (status.to_owned(), reason.to_owned());
    let registry = (API, "Registry", "default");
    let told = |object: &Value| condition(object, "Informed") == wanted;
    turn.bed.objects().wait(registry, told, SOON).await.map(drop)
}

#[tokio::test]
async fn p5_the_right_to_see_pods_withdrawn_costs_no_key_and_is_told_until_it_is_given_back() -> Result<()> {
    let turn = Turn::take("p5-rights", 1, 15).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let rest = json!([
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["leasehold.dev"], "resources": ["*"], "verbs": ["get", "list", "watch", "patch", "update"]},
    ]);
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]);
    grant(&turn, "turn-rest", &rest).await?;
    grant(&turn, "turn-pods", &pods).await?;
    let entrance = Entrance {
        token: Some(turn.namespace.create_account("operator").await?),
        address: None,
    };
    let mut config = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(turn.bed.kubeconfig_by("p5-rights", &entrance)?);
    let operator = Operator::start(turn.bed, config)?;
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 3, SOON).await;
    wait_in_sync(turn.namespace.objects(), "orders", 3).await;
    wait_stale(&operator, false).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;

    let objects = turn.bed.objects();
    objects.delete(BINDING, "ClusterRoleBinding", "turn-pods").await?;
    wait_stale(&operator, true).await?;
    wait_informed(&turn, "False", "KubernetesSilent").await?;
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    history.assert_silent().await;
    let log = std::fs::read_to_string(operator.process().log()).expect("it is there");
    assert!(log.contains("pods is forbidden"), "its log does not say why");

    grant(&turn, "turn-pods", &pods).await?;
    wait_events(&history, 1).await;
    wait_stale(&operator, false).await?;
    wait_informed(&turn, "True", "Watching").await?;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    operator.process().alive()
}
