//! P10: one bad object, value or credential affects itself only: nothing else stops.

use serde_json::{Value, json};
use testbed::{EtcdCluster, EtcdVersion, Result};

use crate::bed;
use crate::support::{API, SOON, condition, plain_prefix, pod, registration, wait_condition, wait_in_sync, wait_keys};

#[tokio::test]
async fn p10_an_etcd_that_hangs_or_is_gone_holds_nobody_else_up() -> Result<()> {
    let bed = bed().await;
    let hanging = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    bed.create_registry("p10-hanging", &hanging.endpoints(), 30).await?;
    let namespace = bed.namespace("p10-hanging").await?;
    namespace
        .apply(registration("theirs", &json!({"registry": "p10-hanging"})))
        .await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    namespace.create_pod(&pod("x", "theirs")).await?;
    wait_in_sync(namespace.objects(), "theirs", 1).await;
    let etcd = bed.registry();
    let prefix = plain_prefix(&namespace, "orders");

    hanging.member(0).stop()?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.create_pod(&pod("y", "theirs")).await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    wait_condition(
        namespace.objects(),
        "theirs",
        "Synced",
        "Unknown",
        "RegistryUnreachable",
    )
    .await;
    namespace.set_ready("a", false).await?;
    wait_keys(etcd, &prefix, &[]).await;

    hanging.member(0).cont()?;
    wait_in_sync(namespace.objects(), "theirs", 2).await;
    wait_keys(&hanging, &plain_prefix(&namespace, "theirs"), &["x", "y"]).await;

    hanging.member(0).kill().await?;
    namespace.set_ready("a", true).await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    hanging.restart(0).await?;
    wait_in_sync(namespace.objects(), "theirs", 2).await;
    bed.objects().delete(API, "Registry", "p10-hanging").await
}

#[tokio::test]
async fn p10_a_key_that_cannot_be_had_holds_up_no_other() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("p10-keys").await?;
    let etcd = bed.registry();
    let prefix = plain_prefix(&namespace, "orders");
    let mut client = etcd.client().await?;
    for i in 0..5 {
        client
            .put(format!("{prefix}orders-{i}"), "theirs", None)
            .await
            .expect("etcd takes it");
    }
    namespace.apply(registration("orders", &json!({}))).await?;
    let names: Vec<String> = (0..10).map(|i| format!("orders-{i}")).collect();
    for name in &names {
        namespace.apply(pod(name, "orders").manifest()).await?;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let held = wait_keys(etcd, &prefix, &names).await;
    let theirs = held.values().filter(|held| held.value == "theirs").count();
    assert_eq!(theirs, 5);
    let told = |object: &Value| object["status"]["ready"] == "5/10" && condition(object, "Synced").1 == "KeysHeld";
    let registration = (API, "ServiceRegistration", "orders");
    namespace.objects().wait(registration, told, SOON).await.map(drop)
}
