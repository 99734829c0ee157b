//! The readiness gate `leasehold.dev/registered`: a pod becomes ready when its records are in etcd.

use serde_json::{Value, json};
use testbed::{EtcdCluster, EtcdVersion, Namespace, NewPod, Operator, Result, until};

use crate::Turn;
use crate::support::{API, SOON, operator, operator_with_gates, plain_prefix, pod, registration, wait_keys};

const GATE: &str = "leasehold.dev/registered";

/// A pod with the gate.
fn gated(name: &str) -> NewPod {
    pod(name, "orders").with(&json!({"spec": {"readinessGates": [{"conditionType": GATE}]}}))
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

fn status<'a>(pod: &'a Value, kind: &str) -> &'a str {
    condition(pod, kind)
        .and_then(|it| it["status"].as_str())
        .unwrap_or("absent")
}

async fn wait_ready(namespace: &Namespace, name: &str) -> Result<Value> {
    let is_ready = |pod: &Value| status(pod, "Ready") == "True";
    namespace.objects().wait(("v1", "Pod", name), is_ready, SOON).await
}

/// The reasons of the Events about a pod.
async fn events(namespace: &Namespace, name: &str) -> Result<Vec<String>> {
    let events = namespace.objects().list("events.k8s.io/v1", "Event").await?;
    let about = events.iter().filter(|event| {
        event["regarding"]["name"] == name && event["reportingController"].as_str() == Some("leasehold")
    });
    Ok(about
        .filter_map(|event| Some(event["reason"].as_str()?.to_owned()))
        .collect())
}

/// Waits until the containers of the pod are ready and only the gate is closed.
async fn wait_gated(namespace: &Namespace, name: &str) -> Result<()> {
    let is_gated = |pod: &Value| status(pod, "ContainersReady") == "True";
    let pod = namespace.objects().wait(("v1", "Pod", name), is_gated, SOON).await?;
    assert_eq!((status(&pod, GATE), status(&pod, "Ready")), ("absent", "False"));
    Ok(())
}

async fn serve(turn: &Turn, name: &str) -> Result<Operator> {
    let operator = operator_with_gates(turn.bed, name).await?;
    operator.wait_ready(SOON).await?;
    Ok(operator)
}

#[tokio::test]
async fn a_gated_pod_becomes_ready_when_its_records_are_in_etcd() -> Result<()> {
    let turn = Turn::take("gate", 1, 15).await?;
    let (etcd, namespace) = (&turn.etcd, &turn.namespace);
    let operator = serve(&turn, "gates").await?;
    let prefix = plain_prefix(namespace, "orders");
    namespace.apply(registration("orders", &json!({}))).await?;
    namespace.create_pod(&gated("a")).await?;
    let ready = wait_ready(namespace, "a").await?;
    let open = condition(&ready, GATE).expect("the gate is open");
    assert_eq!(
        (open["status"].as_str(), open["reason"].as_str()),
        (Some("True"), Some("Registered"))
    );
    wait_keys(etcd, &prefix, &["a"]).await;

    // Not registered by anything: it is not held up.
    let stranger = NewPod::new("b").with(&json!({"spec": {"readinessGates": [{"conditionType": GATE}]}}));
    namespace.create_pod(&stranger).await?;
    wait_ready(namespace, "b").await?;
    // Other gates count.
    let gates = json!([{"conditionType": GATE}, {"conditionType": "lb.example.com/ready"}]);
    namespace
        .create_pod(&pod("c", "orders").with(&json!({"spec": {"readinessGates": gates}})))
        .await?;
    wait_ready(namespace, "c").await?;
    wait_keys(etcd, &prefix, &["a", "c"]).await;

    // The key follows readiness as of any pod.
    namespace.set_ready("a", false).await?;
    wait_keys(etcd, &prefix, &["c"]).await;
    namespace.set_ready("a", true).await?;
    wait_keys(etcd, &prefix, &["a", "c"]).await;
    namespace.delete_pod("c").await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    assert_eq!(events(namespace, "a").await?, [""; 0]);
    drop(operator);
    Ok(())
}

#[tokio::test]
async fn gate_stays_closed_without_etcd_and_opens_after_max_wait_with_event() -> Result<()> {
    let turn = Turn::take("gate", 1, 15).await?;
    let (bed, etcd, namespace) = (turn.bed, &turn.etcd, &turn.namespace);
    bed.allow_pod_status().await?;
    let mut config = testbed::OperatorConfig::new("patient", env!("CARGO_BIN_EXE_leasehold"));
    config.args = vec!["--readiness-gate-max-wait=8".into()];
    let operator = Operator::start(bed, config)?;
    operator.wait_ready(SOON).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    namespace.create_pod(&gated("a")).await?;
    wait_ready(namespace, "a").await?;

    etcd.member(0).stop()?;
    namespace.create_pod(&gated("b")).await?;
    wait_gated(namespace, "b").await?;
    let ready = wait_ready(namespace, "b").await?;
    let open = condition(&ready, GATE).expect("the gate is open");
    assert_eq!(open["reason"], "WaitedTooLong");
    let message = open["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("within 8 s") && message.contains("orders (Registry \"default\")"),
        "{message}"
    );
    until("the Event", SOON, || async {
        let found = events(namespace, "b").await.map_err(|error| error.to_string())?;
        (found == ["RegistrationDelayed"])
            .then_some(())
            .ok_or(format!("{found:?}"))
    })
    .await?;

    etcd.member(0).cont()?;
    wait_keys(etcd, &plain_prefix(namespace, "orders"), &["a", "b"]).await;
    // It waits for etcd, not for the maximum wait.
    namespace.create_pod(&gated("c")).await?;
    let ready = wait_ready(namespace, "c").await?;
    assert_eq!(condition(&ready, GATE).expect("open")["reason"], "Registered");
    Ok(())
}

#[tokio::test]
async fn a_gate_waits_for_every_registry_and_not_for_what_was_deleted() -> Result<()> {
    let turn = Turn::take("gate", 1, 15).await?;
    let (bed, etcd, namespace) = (turn.bed, &turn.etcd, &turn.namespace);
    let edge = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    bed.create_registry("edge", &edge.endpoints(), 15).await?;
    let _operator = serve(&turn, "both").await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    let at_edge = json!({"registryRef": {"name": "edge"}, "selector": {"matchLabels": {"app": "orders"}}});
    namespace.apply(registration("orders-edge", &at_edge)).await?;
    namespace.create_pod(&gated("a")).await?;
    wait_ready(namespace, "a").await?;
    wait_keys(&edge, &plain_prefix(namespace, "orders-edge"), &["a"]).await;

    edge.member(0).stop()?;
    namespace.create_pod(&gated("b")).await?;
    wait_gated(namespace, "b").await?;
    wait_keys(etcd, &plain_prefix(namespace, "orders"), &["a", "b"]).await;
    let held = namespace.objects().get("v1", "Pod", "b").await?.expect("it is there");
    assert_eq!(status(&held, GATE), "absent", "the other Registry does not answer");
    namespace
        .objects()
        .delete(API, "ServiceRegistration", "orders-edge")
        .await?;
    let ready = wait_ready(namespace, "b").await?;
    assert_eq!(condition(&ready, GATE).expect("open")["reason"], "Registered");
    edge.member(0).cont()?;
    bed.objects().delete(API, "Registry", "edge").await
}

#[tokio::test]
async fn an_operator_that_opens_no_gates_says_so_at_the_pod() -> Result<()> {
    let turn = Turn::take("gate", 1, 15).await?;
    let (bed, namespace) = (turn.bed, &turn.namespace);
    let operator = operator(bed, "gateless");
    operator.wait_ready(SOON).await?;
    namespace.create_pod(&gated("a")).await?;
    until("the Event", SOON, || async {
        let found = events(namespace, "a").await.map_err(|error| error.to_string())?;
        (found == ["ReadinessGateNotServed"])
            .then_some(())
            .ok_or(format!("{found:?}"))
    })
    .await?;
    let pod = namespace.objects().get("v1", "Pod", "a").await?.expect("it is there");
    assert_eq!((status(&pod, GATE), status(&pod, "Ready")), ("absent", "False"));
    Ok(())
}

#[tokio::test]
async fn another_replica_opens_the_gate_when_the_leader_is_gone() -> Result<()> {
    let turn = Turn::take("gate", 1, 15).await?;
    let (bed, etcd, namespace) = (turn.bed, &turn.etcd, &turn.namespace);
    let first = serve(&turn, "first").await?;
    let second = operator_with_gates(bed, "second").await?;
    second.wait_ready(SOON).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    namespace.create_pod(&gated("a")).await?;
    wait_ready(namespace, "a").await?;
    first.kill().await?;
    namespace.create_pod(&gated("b")).await?;
    let ready = wait_ready(namespace, "b").await?;
    assert_eq!(condition(&ready, GATE).expect("open")["reason"], "Registered");
    wait_keys(etcd, &plain_prefix(namespace, "orders"), &["a", "b"]).await;
    Ok(())
}
