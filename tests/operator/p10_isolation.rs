//! P10: one bad object, value or credential affects itself only: nothing else stops.

use serde_json::json;
use testbed::{EtcdCluster, EtcdVersion, History, Result};

use crate::bed;
use crate::support::{API, plain_prefix, pod, registration, wait_condition, wait_in_sync, wait_keys, wait_told};

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
    wait_told(namespace.objects(), "orders", "KeysHeld", "5/10").await;
    Ok(())
}

#[tokio::test]
async fn p10_two_registries_of_one_etcd_leave_each_other_alone() -> Result<()> {
    let bed = bed().await;
    let etcd = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    let namespace = bed.namespace("p10-twins").await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    let at = |service: &str, registry: &str| {
        let selector = json!({"matchLabels": {"app": "orders"}});
        registration(service, &json!({"registry": registry, "selector": selector}))
    };
    bed.create_registry("twin-1", &etcd.endpoints(), 30).await?;
    namespace.apply(at("first", "twin-1")).await?;
    wait_in_sync(namespace.objects(), "first", 1).await;
    let history = History::watch(&etcd, &plain_prefix(&namespace, "first"), 0).await?;
    bed.create_registry("twin-2", &etcd.endpoints(), 15).await?;
    namespace.apply(at("second", "twin-2")).await?;
    wait_in_sync(namespace.objects(), "second", 1).await;
    wait_keys(&etcd, &plain_prefix(&namespace, "second"), &["a"]).await;
    history.assert_silent().await;
    // The first one still leads its own.
    namespace.set_ready("a", false).await?;
    for service in ["first", "second"] {
        wait_keys(&etcd, &plain_prefix(&namespace, service), &[]).await;
    }
    for registry in ["twin-1", "twin-2"] {
        bed.objects().delete(API, "Registry", registry).await?;
    }
    Ok(())
}
