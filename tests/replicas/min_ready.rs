//! `spec.minReadySeconds` across restarts, and for pods with the readiness gate.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};
use testbed::{History, Result};

use crate::support::{
    API, SOON, operator, operator_with_gates, plain_prefix, pod, registration, wait_condition, wait_events,
    wait_in_sync, wait_keys,
};
use crate::{Turn, wait_leader};

const WAIT: u64 = 4;

#[tokio::test]
async fn p3_a_restart_removes_no_registered_pod_that_would_have_to_wait_now() -> Result<()> {
    let turn = Turn::take("min-ready", 1, 15).await?;
    let (etcd, namespace) = (&turn.etcd, &turn.namespace);
    let objects = namespace.objects();
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    let prefix = plain_prefix(namespace, "orders");
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.1")).await?;
    wait_in_sync(objects, "orders", 1).await;

    operator.kill().await?;
    namespace
        .apply(registration("orders", &json!({"minReadySeconds": 3600})))
        .await?;
    namespace.create_pod(&pod("b", "orders").ip("10.9.8.2")).await?;
    operator.restart().await?;
    operator.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    let counts = json!({"selected": 2, "ready": 2, "registered": 1});
    let is_counted = |object: &Value| object["status"]["pods"] == counts;
    objects
        .wait((API, "ServiceRegistration", "orders"), is_counted, SOON)
        .await?;
    wait_condition(objects, "orders", "Synced", "True", "InSync").await;
    wait_keys(etcd, &prefix, &["a"]).await;
    history.assert_exactly(&[&format!("put {prefix}a 10.9.8.1:8080")]).await;
    Ok(())
}

#[tokio::test]
async fn gated_pod_waits_for_min_ready_seconds_once_before_its_gate_opens() -> Result<()> {
    let turn = Turn::take("min-ready-gate", 1, 15).await?;
    let (etcd, namespace) = (&turn.etcd, &turn.namespace);
    let operator = operator_with_gates(turn.bed, "gates").await?;
    operator.wait_ready(SOON).await?;
    let prefix = plain_prefix(namespace, "orders");
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace
        .apply(registration("orders", &json!({"minReadySeconds": WAIT})))
        .await?;
    let gates = json!({"spec": {"readinessGates": [{"conditionType": "leasehold.dev/registered"}]}});
    namespace
        .create_pod(&pod("a", "orders").ip("10.9.8.3").with(&gates))
        .await?;
    wait_events(&history, 1).await;
    let registered = SystemTime::now();
    let find = |pod: &Value, kind: &str| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == kind)
    };
    let is_ready = |pod: &Value| find(pod, "Ready").is_some_and(|ready| ready["status"] == "True");
    let pod = namespace.objects().wait(("v1", "Pod", "a"), is_ready, SOON).await?;
    assert_eq!(
        find(&pod, "leasehold.dev/registered").expect("it is open")["reason"],
        "Registered"
    );
    let containers = find(&pod, "ContainersReady").expect("it is there");
    let containers: Timestamp = containers["lastTransitionTime"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("RFC 3339");
    let waited = registered.duration_since(containers.into()).expect("one clock");
    assert!(waited >= Duration::from_secs(WAIT), "{waited:?}");

    // The operator handles the readiness of the pod before its next change.
    namespace.set_pod_ip("a", "10.9.8.4").await?;
    wait_events(&history, 2).await;
    let expected = ["10.9.8.3", "10.9.8.4"].map(|address| format!("put {prefix}a {address}:8080"));
    history.assert_exactly(&expected.each_ref().map(String::as_str)).await;
    Ok(())
}
