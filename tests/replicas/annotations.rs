//! Annotated Services while operators take over from one another and stop.

use serde_json::{Value, json};
use testbed::{History, Result};

use crate::support::{API, SOON, operator, plain_prefix, pod, wait_in_sync, wait_keys};
use crate::{Turn, wait_leader};

/// The Service `orders` with this weight in its annotations.
fn service(weight: u32) -> Value {
    let annotations = json!({
        "leasehold.dev/register": "", "leasehold.dev/formats": "Plain", "leasehold.dev/weight": weight.to_string(),
    });
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders", "annotations": annotations},
        "spec": {
            "selector": {"app": "orders"},
            "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc", "protocol": "TCP"}],
        },
    })
}

#[tokio::test]
async fn annotated_service_survives_takeovers_and_missed_edits_are_applied() -> Result<()> {
    let turn = Turn::take("annotations", 1, 15).await?;
    let objects = turn.namespace.objects();
    let kept = (API, "ServiceRegistration", "orders");
    turn.namespace.create_pod(&pod("a", "orders")).await?;
    let first = operator(turn.bed, "operator-0");
    first.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    turn.namespace.apply(service(1)).await?;
    wait_in_sync(objects, "orders", 1).await;
    let prefix = plain_prefix(&turn.namespace, "orders");
    let before = wait_keys(&turn.etcd, &prefix, &["a"]).await;
    let history = History::watch(&turn.etcd, &prefix, 0).await?;
    let created = objects.get(kept.0, kept.1, kept.2).await?.expect("it is there");

    let second = operator(turn.bed, "operator-1");
    second.wait_ready(SOON).await?;
    first.kill().await?;
    wait_leader(&turn, "operator-1", SOON).await?;
    // The new leader acts: this edit is written once.
    turn.namespace.apply(service(2)).await?;
    let is_edited = |object: &Value| object["spec"]["weight"] == 2;
    let edited = objects.wait(kept, is_edited, SOON).await?;
    assert_eq!(edited["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!(edited["metadata"]["generation"], 2, "nothing but the edit was written");

    // Without an operator, an edit waits for the next one.
    second.kill().await?;
    turn.namespace.apply(service(3)).await?;
    first.restart().await?;
    let edited = objects.wait(kept, |object| object["spec"]["weight"] == 3, SOON).await?;
    assert_eq!(edited["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!(edited["metadata"]["generation"], 3);
    history.assert_silent().await;
    assert_eq!(wait_keys(&turn.etcd, &prefix, &["a"]).await, before);

    // An annotation that is removed without an operator, too.
    first.kill().await?;
    let mut plain = service(3);
    plain["metadata"]["annotations"] = json!({});
    turn.namespace.apply(plain).await?;
    first.restart().await?;
    wait_keys(&turn.etcd, &prefix, &[]).await;
    assert_eq!(objects.get(kept.0, kept.1, kept.2).await?, None);
    Ok(())
}
