//! Several installations in one cluster, each with a class of its own.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{History, NewPod, Operator, OperatorConfig, Result};

use crate::support::{API, SOON, pod, registration, wait_count, wait_events, wait_in_sync, wait_keys};
use crate::{Turn, wait_leader};

const TTL: u32 = 15;
const GATE: &str = "leasehold.dev/registered";

/// An installation of one replica; without a class if `class` is none.
async fn install(turn: &Turn, name: &str, class: Option<&str>, args: &[&str]) -> Result<Operator> {
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    let class = class.iter().flat_map(|class| ["--class", class]);
    config.args = class.chain(args.iter().copied()).map(Into::into).collect();
    let operator = Operator::start(turn.bed, config)?;
    operator.wait_ready(SOON).await?;
    Ok(operator)
}

/// Applies a Registry of the class `edge` in the etcd of the test.
async fn edge_registry(turn: &Turn, name: &str) -> Result<()> {
    let registry = json!({
        "apiVersion": API, "kind": "Registry", "metadata": {"name": name},
        "spec": {
            "class": "edge", "etcd": {"endpoints": turn.etcd.endpoints()}, "defaults": {"leaseTTLSeconds": TTL},
        },
    });
    turn.bed.objects().apply(registry).await.map(drop)
}

/// The pods `app: APP`, registered in `registry`.
fn registered_in(registry: &str, name: &str, app: &str) -> Value {
    let selector = json!({"matchLabels": {"app": app}});
    registration(name, &json!({"registryRef": {"name": registry}, "selector": selector}))
}

/// A Service whose annotation asks for a registration in `registry`.
fn annotated(name: &str, registry: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name,
            "annotations": {"leasehold.dev/register": registry, "leasehold.dev/formats": "Plain"},
        },
        "spec": {
            "selector": {"app": "orders"},
            "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc", "protocol": "TCP"}],
        },
    })
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

async fn wait_pod_ready(turn: &Turn, name: &str) -> Result<Value> {
    let is_ready = |pod: &Value| condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True");
    turn.namespace.objects().wait(("v1", "Pod", name), is_ready, SOON).await
}

#[tokio::test]
async fn installations_of_two_classes_leave_each_others_registries_alone() -> Result<()> {
    let turn = Turn::take("classes", 1, TTL).await?;
    let (bed, objects) = (turn.bed, turn.namespace.objects());
    edge_registry(&turn, "edge").await?;
    turn.namespace.create_pod(&pod("a", "orders")).await?;
    turn.namespace.apply(registered_in("edge", "theirs", "orders")).await?;
    let custom = json!({"type": "Custom", "custom": {"prefix": "/refused", "recordFormatRef": {"name": "none"}}});
    let refused = json!({"registryRef": {"name": "edge"}, "formats": [custom]});
    turn.namespace.apply(registration("refused", &refused)).await?;
    turn.namespace.apply(annotated("theirs-too", "edge")).await?;
    turn.namespace.apply(annotated("ours-too", "default")).await?;
    let plain = install(&turn, "operator-plain", None, &[]).await?;
    wait_in_sync(objects, "ours-too", 1).await;
    turn.namespace.apply(registered_in("default", "ours", "orders")).await?;
    wait_in_sync(objects, "ours", 1).await;

    // Everything of the other class was there before, and is as it was.
    let registry = bed.objects().get(API, "Registry", "edge").await?.expect("it is there");
    assert_eq!(registry["status"], Value::Null);
    for name in ["theirs", "refused"] {
        let theirs = objects
            .get(API, "ServiceRegistration", name)
            .await?
            .expect("it is there");
        assert_eq!(theirs["status"], Value::Null, "{name}");
    }
    assert_eq!(objects.get(API, "ServiceRegistration", "theirs-too").await?, None);
    let keys = turn.etcd.dump("").await?;
    let is_foreign = |key: &String| key.contains("theirs") || key.contains("/registries/");
    assert!(!keys.keys().any(is_foreign), "{:?}", keys.keys());

    let edge = install(&turn, "operator-edge", Some("edge"), &[]).await?;
    wait_in_sync(objects, "theirs", 1).await;
    wait_in_sync(objects, "theirs-too", 1).await;
    let is_refused = |object: &Value| crate::support::condition(object, "Accepted").1 == "RecordFormatNotFound";
    objects
        .wait((API, "ServiceRegistration", "refused"), is_refused, SOON)
        .await?;
    for (registry, leader) in [("default", "operator-plain"), ("edge", "operator-edge")] {
        let is_led = |object: &Value| object["status"]["leader"] == leader;
        bed.objects().wait((API, "Registry", registry), is_led, SOON).await?;
    }

    // The keys of one that has ended expire, because the other one does not renew their leases.
    let ours = History::watch(&turn.etcd, &turn.plain("ours"), 0).await?;
    edge.terminate()?;
    edge.wait_exit(SOON).await?;
    wait_keys(&turn.etcd, &turn.plain("theirs"), &["a"]).await;
    wait_count(&turn.etcd, &turn.plain("theirs"), 0, SOON).await;
    edge.restart().await?;
    wait_keys(&turn.etcd, &turn.plain("theirs"), &["a"]).await;

    // The same the other way round.
    let theirs = History::watch(&turn.etcd, &turn.plain("theirs"), 0).await?;
    ours.assert_silent().await;
    plain.terminate()?;
    plain.wait_exit(SOON).await?;
    wait_count(&turn.etcd, &turn.plain("ours"), 0, SOON).await;
    theirs.assert_silent().await;
    bed.objects().delete(API, "Registry", "edge").await
}

#[tokio::test]
async fn registry_recreated_with_class_moves_to_its_installation_silently() -> Result<()> {
    let turn = Turn::take("class-moved", 1, TTL).await?;
    turn.namespace.create_pod(&pod("a", "orders")).await?;
    turn.namespace
        .apply(registered_in("default", "orders", "orders"))
        .await?;
    let plain = install(&turn, "operator-plain", None, &[]).await?;
    wait_in_sync(turn.namespace.objects(), "orders", 1).await;
    let _edge = install(&turn, "operator-edge", Some("edge"), &[]).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;

    turn.bed.objects().delete(API, "Registry", "default").await?;
    edge_registry(&turn, "default").await?;
    wait_leader(&turn, "operator-edge", SOON).await?;
    wait_in_sync(turn.namespace.objects(), "orders", 1).await;
    // Longer than the TTL: the new installation renews.
    tokio::time::sleep(Duration::from_secs(u64::from(TTL) + 3)).await;
    turn.namespace.create_pod(&pod("b", "orders")).await?;
    wait_in_sync(turn.namespace.objects(), "orders", 2).await;
    let events = wait_events(&history, 1).await;
    assert_eq!(events.len(), 1, "nothing but the new pod: {events:?}");
    assert!(events[0].contains(&format!("{}b", turn.plain("orders"))), "{events:?}");
    plain.wait_ready(SOON).await
}

#[tokio::test]
async fn gate_of_a_pod_in_two_classes_opens_when_both_have_its_records() -> Result<()> {
    let turn = Turn::take("class-gates", 1, TTL).await?;
    turn.bed.allow_pod_status().await?;
    edge_registry(&turn, "edge").await?;
    turn.namespace.apply(registered_in("default", "ours", "both")).await?;
    turn.namespace.apply(registered_in("edge", "theirs", "both")).await?;
    turn.namespace
        .apply(registered_in("edge", "only-theirs", "theirs"))
        .await?;
    let gates = ["--readiness-gate-max-wait", "600"];
    let gate = json!({"spec": {"readinessGates": [{"conditionType": GATE}]}});
    let plain = install(&turn, "operator-plain", None, &gates).await?;
    for (name, app) in [("both", "both"), ("theirs", "theirs")] {
        turn.namespace.create_pod(&pod(name, app).with(&gate)).await?;
    }
    wait_keys(&turn.etcd, &turn.plain("ours"), &["both"]).await;
    // This installation opens a gate that it alone has to do with.
    turn.namespace.create_pod(&NewPod::new("neither").with(&gate)).await?;
    wait_pod_ready(&turn, "neither").await?;
    for name in ["both", "theirs"] {
        let pod = turn
            .namespace
            .objects()
            .get("v1", "Pod", name)
            .await?
            .expect("it is there");
        assert_eq!(condition(&pod, GATE), None, "{name}");
    }

    let edge = install(&turn, "operator-edge", Some("edge"), &gates).await?;
    for name in ["both", "theirs"] {
        let pod = wait_pod_ready(&turn, name).await?;
        assert_eq!(
            condition(&pod, GATE).expect("it is open")["reason"],
            "Registered",
            "{name}"
        );
    }
    wait_keys(&turn.etcd, &turn.plain("theirs"), &["both"]).await;
    drop((plain, edge));
    turn.bed.objects().delete(API, "Registry", "edge").await
}
