//! A registration's life: created, changed, frozen, deleted; and what its status tells meanwhile.

use serde_json::{Value, json};
use testbed::{History, Result};

use crate::bed;
use crate::support::{
    API, SOON, condition, message, plain_prefix, pod, registration, wait_condition, wait_in_sync, wait_keys,
};

#[tokio::test]
async fn status_lists_every_registered_endpoint_with_its_keys() -> Result<()> {
    let namespace = bed().await.namespace("status").await?;
    let spec = json!({
        "serviceName": "orders-v2",
        "formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}],
        "version": {"fromLabel": "app.kubernetes.io/version"},
        "weight": 10,
    });
    namespace.apply(registration("orders", &spec)).await?;
    let labelled = pod("a", "orders")
        .ip("10.9.1.1")
        .label("app.kubernetes.io/version", "1.4.2");
    namespace.create_pod(&labelled).await?;
    let status = wait_in_sync(namespace.objects(), "orders", 1).await;
    assert_eq!(
        (status.observed_generation, status.service_name.as_deref()),
        (Some(1), Some("orders-v2"))
    );
    let mut status = serde_json::to_value(&status).expect("JSON");
    let one = json!({"selected": 1, "ready": 1, "registered": 1});
    assert_eq!(status["pods"], one);
    let name = namespace.name();
    let keys = [format!("/services/{name}/orders-v2/a"), format!("{name}/orders-v2/a")];
    let endpoint = json!({"pod": "a", "address": "10.9.1.1", "port": 8080, "portName": "grpc", "keys": keys});
    assert_eq!(status["endpoints"], json!([endpoint]));
    for format in status["formats"].as_array_mut().expect("formats") {
        let claimed = format["claimedAt"].take();
        let claimed = claimed.as_str().unwrap_or_default().parse::<jiff::Timestamp>();
        assert!(claimed.is_ok(), "{claimed:?}");
    }
    assert_eq!(
        status["formats"],
        json!([
            {"type": "Plain", "location": format!("/services/{name}/orders-v2/"), "records": 1, "claimedAt": null},
            {"type": "EtcdGRPC", "location": format!("{name}/orders-v2/"), "records": 1, "claimedAt": null},
        ])
    );
    let held = bed().await.registry().dump(&format!("/services/{name}/")).await?;
    assert_eq!(held.len(), 1);

    let object = wait_condition(namespace.objects(), "orders", "Ready", "True", "EndpointsRegistered").await;
    for kind in ["Accepted", "Synced"] {
        assert_eq!(condition(&object, kind).0, "True", "{kind}");
    }
    namespace.set_ready("a", false).await?;
    wait_condition(namespace.objects(), "orders", "Ready", "False", "NoReadyPods").await;
    Ok(())
}

#[tokio::test]
async fn a_registration_without_pods_is_ready_and_one_without_ready_pods_is_not() -> Result<()> {
    let namespace = bed().await.namespace("nobody").await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    // What `kubectl wait`, Flux and `helm --wait` take for done.
    let object = wait_condition(namespace.objects(), "orders", "Ready", "True", "NoPods").await;
    let none = json!({"selected": 0, "ready": 0, "registered": 0});
    assert_eq!(object["status"]["pods"], none);
    assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"]);
    assert!(message(&object, "Ready").contains("scaled to zero"), "{object}");
    let bed = bed().await;
    let waited = tokio::process::Command::new(bed.kubectl())
        .args([
            "wait",
            "svcreg/orders",
            "--for=condition=Ready",
            "--timeout=20s",
            "--namespace",
        ])
        .arg(namespace.name())
        .arg("--kubeconfig")
        .arg(bed.kubeconfig())
        .output()
        .await
        .expect("kubectl runs");
    assert!(waited.status.success(), "{waited:?}");
    namespace.create_pod(&pod("a", "orders").unready()).await?;
    let object = wait_condition(namespace.objects(), "orders", "Ready", "False", "NoReadyPods").await;
    let one = json!({"selected": 1, "ready": 0, "registered": 0});
    assert_eq!(object["status"]["pods"], one);
    namespace.delete_pod("a").await?;
    wait_condition(namespace.objects(), "orders", "Ready", "True", "NoPods").await;
    Ok(())
}

#[tokio::test]
async fn a_changed_prefix_moves_the_keys() -> Result<()> {
    let namespace = bed().await.namespace("moving").await?;
    let etcd = bed().await.registry();
    let (here, there) = (
        format!("/moving/{}/here/", namespace.name()),
        format!("/moving/{}/there/", namespace.name()),
    );
    let below =
        |prefix: &str| json!({"formats": [{"type": "Plain", "plain": {"prefix": prefix.trim_end_matches('/')}}]});
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("orders", &below(&here))).await?;
    wait_keys(etcd, &here, &["a"]).await;
    namespace.apply(registration("orders", &below(&there))).await?;
    wait_keys(etcd, &there, &["a"]).await;
    wait_keys(etcd, &here, &[]).await;
    // In sync it was before, too: a status comes once a second at most.
    let moved = |object: &Value| object["status"]["endpoints"][0]["keys"] == json!([format!("{there}a")]);
    let registration = (API, "ServiceRegistration", "orders");
    namespace.objects().wait(registration, moved, SOON).await.map(drop)
}

#[tokio::test]
async fn a_deleted_registration_takes_its_keys_with_it() -> Result<()> {
    let namespace = bed().await.namespace("deleted").await?;
    let etcd = bed().await.registry();
    let prefix = plain_prefix(&namespace, "orders");
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.create_pod(&pod("b", "orders")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_keys(etcd, &prefix, &["a", "b"]).await;
    namespace.objects().delete(API, "ServiceRegistration", "orders").await?;
    wait_keys(etcd, &prefix, &[]).await;
    Ok(())
}

#[tokio::test]
async fn a_namespace_is_deleted_without_waiting_for_us() -> Result<()> {
    let namespace = bed().await.namespace("gone").await?;
    let etcd = bed().await.registry();
    let prefix = plain_prefix(&namespace, "orders");
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    bed()
        .await
        .objects()
        .delete("v1", "Namespace", namespace.name())
        .await?;
    wait_keys(etcd, &prefix, &[]).await;
    Ok(())
}

#[tokio::test]
async fn a_frozen_registration_changes_nothing_until_it_is_in_sync_again() -> Result<()> {
    let namespace = bed().await.namespace("frozen").await?;
    let etcd = bed().await.registry();
    let prefix = plain_prefix(&namespace, "orders");
    namespace.create_pod(&pod("a", "orders").ip("10.9.1.2")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    namespace
        .apply(registration("orders", &json!({"updatePolicy": "Frozen"})))
        .await?;
    wait_condition(namespace.objects(), "orders", "Synced", "False", "Frozen").await;
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.set_ready("a", false).await?;
    namespace.create_pod(&pod("b", "orders").ip("10.9.1.3")).await?;
    // The status follows the pods, so the operator has seen both: what it leaves undone is left on purpose.
    let wanted = json!({"selected": 2, "ready": 1, "registered": 0});
    let pending = |object: &serde_json::Value| object["status"]["pods"] == wanted;
    namespace
        .objects()
        .wait((API, "ServiceRegistration", "orders"), pending, SOON)
        .await?;
    history.assert_silent().await;

    namespace
        .apply(registration("orders", &json!({"updatePolicy": "Sync"})))
        .await?;
    wait_keys(etcd, &prefix, &["b"]).await;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    Ok(())
}

#[tokio::test]
async fn a_registry_says_that_it_is_connected_and_to_what() -> Result<()> {
    let objects = bed().await.objects();
    let connected = |object: &serde_json::Value| condition(object, "Connected").0 == "True";
    let object = objects.wait((API, "Registry", "default"), connected, SOON).await?;
    assert_eq!(condition(&object, "Ready"), ("True".into(), "Connected".into()));
    let status = &object["status"];
    assert_eq!(status["leader"], "operator-0");
    assert!(
        status["etcdVersion"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.")),
        "{status}"
    );
    Ok(())
}

#[tokio::test]
async fn unreachable_registry_is_reported_by_it_and_its_registrations() -> Result<()> {
    let bed = bed().await;
    // Reserved, so that no server listens there.
    let port = testbed::process::Port::reserve()?;
    bed.create_registry("nobody-there", &[port.http()], 30).await?;
    let namespace = bed.namespace("nobody-there").await?;
    namespace
        .apply(registration(
            "orders",
            &json!({"registryRef": {"name": "nobody-there"}}),
        ))
        .await?;
    let object = wait_condition(
        namespace.objects(),
        "orders",
        "Synced",
        "Unknown",
        "RegistryUnreachable",
    )
    .await;
    assert!(message(&object, "Synced").contains(&port.http()), "{object:#}");
    let disconnected =
        |object: &serde_json::Value| condition(object, "Connected") == ("False".into(), "Unreachable".into());
    let object = bed
        .objects()
        .wait((API, "Registry", "nobody-there"), disconnected, SOON)
        .await?;
    assert!(message(&object, "Connected").contains(&port.http()), "{object:#}");
    assert_eq!(condition(&object, "Ready"), ("False".into(), "Unreachable".into()));
    assert_eq!(message(&object, "Ready"), message(&object, "Connected"));
    bed.objects().delete(API, "Registry", "nobody-there").await
}
