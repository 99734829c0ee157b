//! A registration that keeps its last endpoint when none of its pods is ready any more.

use serde_json::json;
use testbed::{History, Result};

use crate::Turn;
use crate::support::{SOON, operator, pod, registration, wait_condition, wait_in_sync, wait_keys};

#[tokio::test]
async fn last_endpoint_survives_restart_until_replaced_or_its_pod_is_deleted() -> Result<()> {
    let turn = Turn::take("last", 1, 30).await?;
    let (namespace, objects, orders) = (&turn.namespace, turn.namespace.objects(), turn.plain("orders"));
    for name in ["a", "b", "c"] {
        namespace.create_pod(&pod(name, "orders")).await?;
    }
    namespace
        .apply(registration("orders", &json!({"lastEndpoint": "Keep"})))
        .await?;
    let first = operator(turn.bed, "operator-0");
    first.wait_ready(SOON).await?;
    wait_keys(&turn.etcd, &orders, &["a", "b", "c"]).await;
    namespace.set_ready("c", false).await?;
    wait_keys(&turn.etcd, &orders, &["a", "b"]).await;
    namespace.set_ready("a", false).await?;
    let before = wait_keys(&turn.etcd, &orders, &["b"]).await;
    namespace.set_ready("b", false).await?;
    let object = wait_condition(objects, "orders", "Ready", "False", "LastEndpointKept").await;
    let status = &object["status"];
    let pods = json!({"selected": 3, "ready": 0, "registered": 0});
    assert_eq!((&status["pods"], &status["endpoints"][0]["pod"]), (&pods, &json!("b")));
    wait_condition(objects, "orders", "Synced", "True", "LastEndpointKept").await;

    let history = History::watch(&turn.etcd, &orders, 0).await?;
    first.kill().await?;
    let second = operator(turn.bed, "operator-1");
    second.wait_ready(SOON).await?;
    crate::wait_leader(&turn, "operator-1", SOON).await?;
    history.assert_silent().await;
    assert_eq!(wait_keys(&turn.etcd, &orders, &["b"]).await, before);

    namespace.set_ready("c", true).await?;
    wait_keys(&turn.etcd, &orders, &["c"]).await;
    wait_in_sync(objects, "orders", 1).await;
    namespace.set_ready("c", false).await?;
    wait_condition(objects, "orders", "Ready", "False", "LastEndpointKept").await;
    namespace.delete_pod("c").await?;
    wait_keys(&turn.etcd, &orders, &[]).await;
    wait_condition(objects, "orders", "Ready", "False", "NoReadyPods").await;
    Ok(())
}
