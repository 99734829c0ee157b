//! Bad input affects itself only, and is answered with what to do. Malformed pods, which no apiserver takes, are tested
//! where they are decoded (`cluster`).

use serde_json::json;
use testbed::{History, NewPod, Result};

use crate::bed;
use crate::support::{API, message, plain_prefix, pod, registration, wait_condition, wait_in_sync, wait_keys};

#[tokio::test]
async fn a_missing_registry_is_named_and_used_as_soon_as_it_is_there() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("no-registry").await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace
        .apply(registration("orders", &json!({"registryRef": {"name": "late"}})))
        .await?;
    let object = wait_condition(namespace.objects(), "orders", "Accepted", "False", "RegistryNotFound").await;
    assert!(message(&object, "Accepted").contains("create it"), "{object:#}");
    bed.create_registry("late", &bed.registry().endpoints(), 30).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;

    bed.objects().delete(API, "Registry", "late").await?;
    wait_condition(namespace.objects(), "orders", "Accepted", "False", "RegistryNotFound").await;
    Ok(())
}

#[tokio::test]
async fn port_missing_on_some_pods_is_reported_and_others_are_registered() -> Result<()> {
    let namespace = bed().await.namespace("no-port").await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    namespace.create_pod(&pod("with", "orders")).await?;
    namespace
        .create_pod(&NewPod::new("without").label("app", "orders"))
        .await?;
    let object = wait_condition(namespace.objects(), "orders", "Synced", "False", "EndpointsRefused").await;
    let text = message(&object, "Synced");
    assert!(text.contains("\"grpc\"") && text.contains("without"), "{text}");
    wait_keys(bed().await.registry(), &plain_prefix(&namespace, "orders"), &["with"]).await;
    Ok(())
}

#[tokio::test]
async fn port_missing_on_all_pods_is_reported() -> Result<()> {
    let namespace = bed().await.namespace("nobodys-port").await?;
    namespace
        .apply(registration("orders", &json!({"ports": [{"name": "nope"}]})))
        .await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    let object = wait_condition(namespace.objects(), "orders", "Ready", "False", "NothingRegistered").await;
    assert!(message(&object, "Synced").contains("\"nope\""), "{object:#}");
    Ok(())
}

#[tokio::test]
async fn prefix_overlapping_the_bookkeeping_is_rejected_and_old_keys_stay() -> Result<()> {
    let namespace = bed().await.namespace("reserved").await?;
    let etcd = bed().await.registry();
    let reserved = json!({"formats": [{"type": "Plain", "plain": {"prefix": "/leasehold/mine"}}]});
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("fresh", &reserved)).await?;
    let object = wait_condition(namespace.objects(), "fresh", "Accepted", "False", "PrefixReserved").await;
    assert!(message(&object, "Accepted").contains("/leasehold/"), "{object:#}");
    assert!(etcd.dump("/leasehold/mine").await?.is_empty());

    let prefix = plain_prefix(&namespace, "orders");
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.apply(registration("orders", &reserved)).await?;
    let object = wait_condition(namespace.objects(), "orders", "Accepted", "False", "PrefixReserved").await;
    assert!(message(&object, "Accepted").contains("stays in force"), "{object:#}");
    history.assert_silent().await;
    // It still follows its pods by the spec that was good.
    namespace.set_ready("a", false).await?;
    wait_keys(etcd, &prefix, &[]).await;
    Ok(())
}

#[tokio::test]
async fn a_name_of_no_length_is_refused_at_the_door() -> Result<()> {
    let namespace = bed().await.namespace("no-name").await?;
    let error = namespace
        .apply(registration("orders", &json!({"serviceName": ""})))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("serviceName"), "{error}");
    let error = namespace
        .apply(registration("orders", &json!({"registryRef": {"name": ""}})))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("spec.registryRef.name"), "{error}");
    Ok(())
}

#[tokio::test]
async fn non_ascii_labels_are_rejected_and_unusual_attributes_are_preserved() -> Result<()> {
    let namespace = bed().await.namespace("unicode").await?;
    let selector = json!({"selector": {"matchLabels": {"app": "überraschung"}}});
    let error = namespace
        .apply(registration("orders", &selector))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no label can have that value"), "{error}");

    let facts = [("ключ", "значение"), ("emoji", "🦀"), ("quote", "\"\\"), ("empty", "")];
    let attributes = facts.map(|(name, value)| json!({"name": name, "value": value}));
    let prefix = format!("/unicode/{}/", namespace.name());
    let spec = json!({
        "attributes": attributes,
        "formats": [{"type": "Plain", "plain": {"value": "JSON", "prefix": prefix.trim_end_matches('/')}}],
    });
    namespace.apply(registration("orders", &spec)).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    let held = wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    let value: serde_json::Value = serde_json::from_str(&held[&format!("{prefix}a")].value).expect("JSON");
    assert_eq!(value["metadata"], json!(std::collections::BTreeMap::from(facts)));
    Ok(())
}

#[tokio::test]
async fn pod_without_labels_is_ignored_and_pod_with_300_ports_is_registered() -> Result<()> {
    let namespace = bed().await.namespace("odd-pods").await?;
    namespace
        .apply(registration("orders", &json!({"ports": [{"name": "p299"}]})))
        .await?;
    namespace
        .create_pod(&NewPod::new("bare").with(&json!({"metadata": {"labels": null}})))
        .await?;
    let many = (0..300).fold(NewPod::new("many").label("app", "orders").ip("10.9.3.1"), |pod, i| {
        pod.port(&format!("p{i}"), 10_000 + i)
    });
    namespace.create_pod(&many).await?;
    let held = wait_keys(bed().await.registry(), &plain_prefix(&namespace, "orders"), &["many"]).await;
    assert_eq!(held.values().next().expect("one").value, "10.9.3.1:10299");
    Ok(())
}

#[tokio::test]
async fn non_numeric_weight_is_reported_and_registration_weight_is_used() -> Result<()> {
    let namespace = bed().await.namespace("weight").await?;
    let prefix = format!("/weight/{}/", namespace.name());
    let formats = json!([{"type": "Plain", "plain": {"value": "JSON", "prefix": prefix.trim_end_matches('/')}}]);
    namespace
        .apply(registration("orders", &json!({"weight": 7, "formats": formats})))
        .await?;
    namespace
        .create_pod(&pod("a", "orders").annotation("leasehold.dev/weight", "heavy"))
        .await?;
    let object = wait_condition(namespace.objects(), "orders", "Synced", "False", "EndpointsRefused").await;
    assert!(
        message(&object, "Synced").contains("leasehold.dev/weight"),
        "{object:#}"
    );
    assert_eq!(object["status"]["endpoints"][0]["keys"], json!([format!("{prefix}a")]));
    let held = wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    let value: serde_json::Value = serde_json::from_str(&held[&format!("{prefix}a")].value).expect("JSON");
    assert_eq!(value["weight"], 7);
    Ok(())
}

#[tokio::test]
async fn a_refused_spec_stays_refused_when_its_registry_changes() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("still-refused").await?;
    bed.create_registry("changing", &bed.registry().endpoints(), 30).await?;
    let spec = |prefix: &str| {
        let formats = json!([{"type": "Plain", "plain": {"prefix": prefix}}]);
        json!({"registryRef": {"name": "changing"}, "formats": formats})
    };
    let good = format!("/refused/{}", namespace.name());
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("orders", &spec(&good))).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    namespace
        .apply(registration("orders", &spec("/leasehold/mine")))
        .await?;
    wait_condition(namespace.objects(), "orders", "Accepted", "False", "PrefixReserved").await;
    let etcd = bed.registry();
    let before = etcd.dump(&format!("{good}/")).await?;
    bed.create_registry("changing", &bed.registry().endpoints(), 45).await?;
    // Other terms mean another lease: then the change has been taken in.
    let what = "the key on a lease of the new TTL";
    testbed::until(what, crate::support::SOON, || async {
        let now = etcd
            .dump(&format!("{good}/"))
            .await
            .map_err(|error| error.to_string())?;
        if now.len() == 1 && now != before {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await?;
    namespace.set_ready("a", false).await?;
    wait_condition(namespace.objects(), "orders", "Ready", "False", "NoReadyPods").await;
    let object = wait_condition(namespace.objects(), "orders", "Accepted", "False", "PrefixReserved").await;
    assert_eq!(object["status"]["observedGeneration"], 2);
    bed.objects().delete(API, "Registry", "changing").await
}
