//! P10: one bad object, value or credential affects itself only: nothing else stops.

use serde_json::{Value, json};
use testbed::{EtcdCluster, EtcdConfig, EtcdVersion, History, Namespace, Result};

use crate::bed;
use crate::support::{
    API, SOON, condition, message, plain_prefix, pod, registration, wait_condition, wait_count, wait_event,
    wait_in_sync, wait_keys, wait_reported,
};

#[tokio::test]
async fn p10_hanging_or_dead_etcd_does_not_block_other_registries() -> Result<()> {
    let bed = bed().await;
    let hanging = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    bed.create_registry("p10-hanging", &hanging.endpoints(), 30).await?;
    let namespace = bed.namespace("p10-hanging").await?;
    namespace
        .apply(registration("theirs", &json!({"registryRef": {"name": "p10-hanging"}})))
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
    wait_reported(namespace.objects(), "orders", "KeysHeld", (5, 10)).await;
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
        registration(
            service,
            &json!({"registryRef": {"name": registry}, "selector": selector}),
        )
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

/// A Registry that keeps its bookkeeping below `meta_prefix` of `etcd`.
fn registry_at(name: &str, etcd: &EtcdCluster, meta_prefix: &str) -> Value {
    json!({
        "apiVersion": API, "kind": "Registry", "metadata": {"name": name},
        "spec": {"etcd": {"endpoints": etcd.endpoints(), "metaPrefix": meta_prefix}, "guard": {"mode": "Off"}},
    })
}

#[tokio::test]
async fn p10_no_registration_takes_the_leader_key_of_any_registry() -> Result<()> {
    let bed = bed().await;
    let etcd = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    let namespace = bed.namespace("p10-meta").await?;
    let uid = bed
        .objects()
        .get("v1", "Namespace", "kube-system")
        .await?
        .expect("it is there");
    let uid = uid["metadata"]["uid"].as_str().expect("a uid");
    let folder = |registry: &str| format!("/meta-{registry}/{uid}/registries/{registry}");
    let at = |name: &str, registry: &str| {
        let formats = json!([{"type": "Plain", "plain": {"prefix": folder(registry)}}]);
        let selector = json!({"matchLabels": {"app": "thief"}});
        registration(
            name,
            &json!({"registryRef": {"name": "p10-mine"}, "formats": formats, "selector": selector}),
        )
    };
    namespace.create_pod(&pod("leader", "thief")).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    bed.objects()
        .apply(registry_at("p10-mine", &etcd, "/meta-mine/"))
        .await?;
    bed.objects()
        .apply(registry_at("p10-first", &etcd, "/meta-p10-first/"))
        .await?;
    namespace
        .apply(registration("orders", &json!({"registryRef": {"name": "p10-first"}})))
        .await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;

    // In the bookkeeping of a Registry that is there.
    namespace.apply(at("thief", "p10-first")).await?;
    let object = wait_condition(namespace.objects(), "thief", "Accepted", "False", "PrefixReserved").await;
    let reported = message(&object, "Accepted");
    assert!(
        reported.contains("the metaPrefix /meta-p10-first/ of the Registry \"p10-first\" overlap"),
        "{reported}"
    );

    // In that of one that comes later: its leader key is taken when it does.
    namespace.apply(at("early", "p10-later")).await?;
    wait_keys(&etcd, &format!("{}/", folder("p10-later")), &["leader"]).await;
    bed.objects()
        .apply(registry_at("p10-later", &etcd, "/meta-p10-later/"))
        .await?;
    wait_condition(namespace.objects(), "early", "Accepted", "False", "PrefixReserved").await;
    let selector = json!({"matchLabels": {"app": "orders"}});
    namespace
        .apply(registration(
            "late",
            &json!({"registryRef": {"name": "p10-later"}, "selector": selector}),
        ))
        .await?;
    wait_in_sync(namespace.objects(), "late", 1).await;
    wait_keys(&etcd, &plain_prefix(&namespace, "late"), &["a"]).await;
    for registry in ["p10-first", "p10-later", "p10-mine"] {
        bed.objects().delete(API, "Registry", registry).await?;
    }
    Ok(())
}

/// Eight records of the longest values there are, for each pod.
fn huge() -> Value {
    let value = format!("{{% for i in range(1024) %}}{}{{% endfor %}}", "x".repeat(64));
    let records: Vec<Value> = (0..8)
        .map(|record| {
            let key = format!("{{{{ prefix }}}}/{{{{ id }}}}/{record}");
            json!({"name": record.to_string(), "key": key, "value": value})
        })
        .collect();
    json!({
        "apiVersion": API, "kind": "RecordFormat", "metadata": {"name": "p10-huge"},
        "spec": {"records": records, "escaping": "None"},
    })
}

/// Pods `p0`, `p1`, ... of a registration `huge` that writes [`huge`] records.
async fn register_huge(namespace: &Namespace, registry: &str, pods: usize) -> Result<String> {
    let prefix = format!("/huge/{}", namespace.name());
    let formats = json!([{"type": "Custom", "custom": {"recordFormatRef": {"name": "p10-huge"}, "prefix": prefix}}]);
    for i in 0..pods {
        namespace.create_pod(&pod(&format!("p{i}"), "huge")).await?;
    }
    namespace
        .apply(registration(
            "huge",
            &json!({"registryRef": {"name": registry}, "formats": formats}),
        ))
        .await?;
    Ok(format!("{prefix}/"))
}

#[tokio::test]
async fn p10_the_largest_record_sets_are_written_and_hold_up_no_other() -> Result<()> {
    let bed = bed().await;
    bed.objects().apply(huge()).await?;
    let theirs = bed.namespace("p10-huge").await?;
    let prefix = register_huge(&theirs, "default", 6).await?;
    let namespace = bed.namespace("p10-beside-huge").await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_keys(bed.registry(), &plain_prefix(&namespace, "orders"), &["a"]).await;
    wait_count(bed.registry(), &prefix, 48, SOON).await;
    wait_in_sync(theirs.objects(), "huge", 6).await;
    theirs.objects().delete(API, "ServiceRegistration", "huge").await?;
    wait_count(bed.registry(), &prefix, 0, SOON).await;
    Ok(())
}

#[tokio::test]
async fn p10_rejected_record_sets_are_reported_with_sizes_and_block_no_other() -> Result<()> {
    let bed = bed().await;
    bed.objects().apply(huge()).await?;
    // Less than the records of one pod have, and less than the operator otherwise writes at a time.
    let config = EtcdConfig {
        args: vec!["--max-request-bytes=262144".to_owned(), "--max-txn-ops=64".to_owned()],
        ..EtcdConfig::default()
    };
    let etcd = EtcdCluster::temporary_with(config).await?;
    bed.create_registry("p10-rejecting", &etcd.endpoints(), 30).await?;
    let namespace = bed.namespace("p10-rejecting").await?;
    let prefix = register_huge(&namespace, "p10-rejecting", 6).await?;
    wait_condition(namespace.objects(), "huge", "Synced", "False", "RecordsRejected").await;
    // The first status may know of some of the pods only.
    let parts = [
        "0 of 6 ready pods",
        "request is too large",
        "8 records",
        "--max-request-bytes",
        "p0",
    ];
    let tells_all = |object: &Value| parts.iter().all(|part| message(object, "Synced").contains(part));
    let huge = (API, "ServiceRegistration", "huge");
    namespace.objects().wait(huge, tells_all, SOON).await?;
    wait_event(
        namespace.objects(),
        ("ServiceRegistration", "huge"),
        "RecordsRejected",
        "too large",
    )
    .await?;

    // Others go on at once, in as many keys as etcd takes at a time.
    let spec = json!({"registryRef": {"name": "p10-rejecting"}});
    namespace.apply(registration("orders", &spec)).await?;
    for name in ["a", "b"] {
        namespace.create_pod(&pod(name, "orders")).await?;
    }
    let orders = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &orders, &["a", "b"]).await;
    for ready in [false, true, false] {
        namespace.set_ready("a", ready).await?;
        let wanted: &[&str] = if ready { &["a", "b"] } else { &["b"] };
        wait_keys(&etcd, &orders, wanted).await;
    }
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let registry = bed
        .objects()
        .get(API, "Registry", "p10-rejecting")
        .await?
        .expect("it is there");
    assert_eq!(
        condition(&registry, "Connected").0,
        "True",
        "it is nobody else's trouble"
    );
    wait_count(&etcd, &prefix, 0, SOON).await;

    // Records that etcd takes are written at once.
    let small = json!({
        "apiVersion": API, "kind": "RecordFormat", "metadata": {"name": "p10-small"},
        "spec": {"records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": "{{ hostPort }}"}]},
    });
    bed.objects().apply(small).await?;
    let custom = json!({"recordFormatRef": {"name": "p10-small"}, "prefix": prefix.trim_end_matches('/')});
    let formats = json!([{"type": "Custom", "custom": custom}]);
    namespace
        .apply(registration(
            "huge",
            &json!({"registryRef": {"name": "p10-rejecting"}, "formats": formats}),
        ))
        .await?;
    wait_in_sync(namespace.objects(), "huge", 6).await;
    bed.objects().delete(API, "Registry", "p10-rejecting").await
}
