//! An edit must not empty a service: what a registration has by the spec before stays, and follows its pods, until the
//! newest spec can be carried out. And an edit must not take what others have.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{EtcdCluster, History, Namespace, Objects, Result, until};

use crate::bed;
use crate::support::{
    API, SOON, assert_never_fewer, condition, message, pod, registration, wait_condition, wait_count, wait_in_sync,
    wait_keys, wait_reported,
};

const PODS: [&str; 3] = ["a", "b", "c"];

/// A namespace with the registration `orders` of three pods, in the Registry `default` below `/moves/NAMESPACE/old`.
async fn orders(name: &str) -> Result<(Namespace, String)> {
    let namespace = bed().await.namespace(name).await?;
    let place = format!("/moves/{}/", namespace.name());
    for name in PODS {
        namespace.create_pod(&pod(name, "orders")).await?;
    }
    namespace.apply(at(&format!("{place}old"))).await?;
    wait_in_sync(namespace.objects(), "orders", 3).await;
    wait_recorded(namespace.objects(), "orders").await?;
    Ok((namespace, place))
}

fn at(prefix: &str) -> Value {
    registration(
        "orders",
        &json!({"formats": [{"type": "Plain", "plain": {"prefix": prefix}}]}),
    )
}

/// Waits until the status records the spec in force as carried out.
async fn wait_recorded(objects: &Objects, name: &str) -> Result<()> {
    let recorded = |object: &Value| object["status"]["lastSynced"]["spec"]["formats"] == object["spec"]["formats"];
    objects
        .wait((API, "ServiceRegistration", name), recorded, SOON)
        .await
        .map(drop)
}

/// Waits until the condition Synced of `orders` is False for this reason, says that the old place is kept, and this.
async fn wait_kept(objects: &Objects, name: &str, reason: &str, words: &[&str]) {
    let reported = |object: &Value| {
        let text = message(object, "Synced");
        condition(object, "Synced") == ("False".to_owned(), reason.to_owned())
            && words.iter().all(|word| text.contains(word))
    };
    let found = objects.wait((API, "ServiceRegistration", name), reported, SOON).await;
    found.unwrap_or_else(|error| panic!("waiting for {name} to tell {reason} and {words:?}: {error}"));
}

#[tokio::test]
async fn a_move_onto_a_place_that_is_taken_keeps_the_service_until_it_is_free() -> Result<()> {
    let (namespace, place) = orders("edit-taken").await?;
    let etcd = bed().await.registry();
    let (old, new) = (format!("{place}old/"), format!("{place}new/"));
    let mut client = etcd.client().await?;
    for name in ["a", "b", "c", "d"] {
        client
            .put(format!("{new}{name}"), "theirs", None)
            .await
            .expect("etcd takes it");
    }
    let history = History::watch(etcd, &place, 0).await?;
    namespace.apply(at(&format!("{place}new"))).await?;
    wait_kept(namespace.objects(), "orders", "KeysHeld", &["3 pods", &old]).await;
    let object = wait_condition(namespace.objects(), "orders", "Ready", "True", "EndpointsRegistered").await;
    assert_eq!(
        object["status"]["endpoints"].as_array().map(Vec::len),
        Some(3),
        "{object}"
    );
    history.assert_silent().await;

    // What is kept follows the pods.
    namespace.set_ready("b", false).await?;
    wait_keys(etcd, &old, &["a", "c"]).await;
    namespace.set_ready("b", true).await?;
    wait_keys(etcd, &old, &["a", "b", "c"]).await;
    namespace.create_pod(&pod("d", "orders")).await?;
    wait_keys(etcd, &old, &["a", "b", "c", "d"]).await;
    namespace.set_pod_ip("a", "10.9.8.7").await?;
    until("the value to follow", SOON, || async {
        let held = etcd.dump(&old).await.map_err(|error| error.to_string())?;
        let value = &held[&format!("{old}a")].value;
        (*value == "10.9.8.7:8080").then_some(()).ok_or_else(|| value.clone())
    })
    .await?;
    namespace.delete_pod("d").await?;
    namespace.wait_pod_gone("d").await?;
    wait_keys(etcd, &old, &["a", "b", "c"]).await;

    // Free, it moves.
    let history = History::watch(etcd, &place, 0).await?;
    for name in ["a", "b", "c", "d"] {
        client
            .delete(format!("{new}{name}"), None)
            .await
            .expect("etcd takes it");
    }
    wait_keys(etcd, &new, &["a", "b", "c"]).await;
    wait_keys(etcd, &old, &[]).await;
    assert_never_fewer(&history, &["old/a", "old/b", "old/c"], "theirs").await?;
    wait_in_sync(namespace.objects(), "orders", 3).await;
    wait_recorded(namespace.objects(), "orders").await?;

    // Deleted while it cannot move, it leaves nothing.
    client
        .put(format!("{old}a"), "theirs", None)
        .await
        .expect("etcd takes it");
    namespace.apply(at(&format!("{place}old"))).await?;
    wait_kept(namespace.objects(), "orders", "KeysHeld", &["1 pods", &new]).await;
    namespace.objects().delete(API, "ServiceRegistration", "orders").await?;
    wait_keys(etcd, &new, &[]).await;
    wait_keys(etcd, &old, &["a"]).await;
    Ok(())
}

#[tokio::test]
async fn a_move_into_the_way_of_another_registration_keeps_both_services() -> Result<()> {
    let (namespace, place) = orders("edit-overlap").await?;
    let etcd = bed().await.registry();
    let other = json!({
        "selector": {"matchLabels": {"app": "orders"}},
        "formats": [{"type": "Plain", "plain": {"prefix": format!("{place}other")}}],
    });
    namespace.apply(registration("other", &other)).await?;
    wait_in_sync(namespace.objects(), "other", 3).await;
    let history = History::watch(etcd, &place, 0).await?;
    namespace.apply(at(&format!("{place}other/below"))).await?;
    let old = format!("{place}old/");
    wait_kept(namespace.objects(), "orders", "FormatsClash", &["3 pods", &old]).await;
    history.assert_silent().await;
    namespace.objects().delete(API, "ServiceRegistration", "other").await?;
    wait_keys(etcd, &place, &["other/below/a", "other/below/b", "other/below/c"]).await;
    assert_never_fewer(&history, &["old/a", "old/b", "old/c"], "theirs").await?;
    wait_in_sync(namespace.objects(), "orders", 3).await;
    Ok(())
}

#[tokio::test]
async fn an_edit_that_leaves_nothing_to_write_keeps_the_service() -> Result<()> {
    let (namespace, place) = orders("edit-empty").await?;
    let (etcd, objects) = (bed().await.registry(), namespace.objects());
    let old = format!("{place}old/");
    let prefix = format!("{place}old");
    // The sample has what the pods have not.
    let template = |value: &str| {
        json!({
            "apiVersion": API, "kind": "RecordFormat", "metadata": {"name": namespace.name()},
            "spec": {
                "records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": value}],
                "sample": {"attributes": [{"name": "team", "value": "x"}]}
            },
        })
    };
    let history = History::watch(etcd, &place, 0).await?;
    let plain = || json!({"formats": [{"type": "Plain", "plain": {"prefix": prefix}}], "ports": [{"name": "grpc"}]});
    let domain = format!("{}.example.org", namespace.name());
    let cases = [
        (json!({"ports": [{"name": "grcp"}]}), "grcp"),
        (json!({"address": {"ipFamilies": ["IPv6"]}}), "IPv6"),
        (
            json!({"weight": 0, "formats": [{"type": "CoreDNS", "coreDNS": {"domain": domain}}]}),
            "weight 0",
        ),
    ];
    for (edit, reported) in cases {
        let mut spec = plain();
        for (field, value) in edit.as_object().expect("fields") {
            spec[field] = value.clone();
        }
        namespace.apply(registration("orders", &spec)).await?;
        wait_kept(objects, "orders", "EndpointsRefused", &["3 pods", &old, reported]).await;
    }
    namespace.apply(registration("orders", &plain())).await?;
    wait_in_sync(objects, "orders", 3).await;
    history.assert_silent().await;

    // A RecordFormat that comes to fail for each pod, of a registration that stays as it is.
    bed()
        .await
        .objects()
        .apply(template(r#"{"at": {{ address }}}"#))
        .await?;
    let custom = json!({"recordFormatRef": {"name": namespace.name()}, "prefix": prefix});
    let custom = json!({"formats": [{"type": "Custom", "custom": custom}]});
    namespace.apply(registration("orders", &custom)).await?;
    wait_in_sync(objects, "orders", 3).await;
    until("the RecordFormat to be recorded", SOON, || async {
        let object = objects
            .get(API, "ServiceRegistration", "orders")
            .await
            .map_err(|error| error.to_string())?;
        let recorded = object.unwrap_or_default()["status"]["lastSynced"]["recordFormats"].clone();
        recorded.is_object().then_some(()).ok_or_else(|| recorded.to_string())
    })
    .await?;
    let history = History::watch(etcd, &place, 0).await?;
    bed()
        .await
        .objects()
        .apply(template(r#"{"at": {{ metadata.team }}}"#))
        .await?;
    wait_kept(objects, "orders", "EndpointsRefused", &["3 pods", &old]).await;
    history.assert_silent().await;
    // What is kept follows by the templates before.
    namespace.set_ready("a", false).await?;
    wait_keys(etcd, &old, &["b", "c"]).await;
    namespace.set_ready("a", true).await?;
    wait_keys(etcd, &old, &["a", "b", "c"]).await;
    bed()
        .await
        .objects()
        .apply(template(r#"{"is": {{ address }}}"#))
        .await?;
    wait_in_sync(objects, "orders", 3).await;
    let held = etcd.dump(&old).await?;
    assert!(held.values().all(|held| held.value.contains("is")), "{held:?}");
    Ok(())
}

/// Waits until etcd holds `count` keys that are not the operator's own.
async fn wait_data(etcd: &EtcdCluster, count: usize) -> Result<()> {
    let is_data = |key: &String| !key.starts_with("/leasehold/");
    until(&format!("{count} keys"), Duration::from_mins(1), || async {
        let held = etcd.dump("").await.map_err(|error| error.to_string())?;
        let found = held.keys().filter(|key| is_data(key)).count();
        (found == count)
            .then_some(())
            .ok_or_else(|| format!("there are {found}"))
    })
    .await
}

#[tokio::test]
async fn registration_edited_onto_a_shared_root_removes_no_key_of_others() -> Result<()> {
    const TENANTS: usize = 30;
    let etcd = EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    let prefixes = [
        "/services/{{namespace}}",
        "/skydns/org/example/{{namespace}}",
        "traefik/http/services",
    ];
    let rules = json!([{"name": "tenants", "namespaceSelector": {}, "prefixes": prefixes}]);
    let registry = json!({
        "apiVersion": API, "kind": "Registry", "metadata": {"name": "edit-root"},
        "spec": {"etcd": {"endpoints": etcd.endpoints()}, "access": {"rules": rules}},
    });
    bed().await.objects().apply(registry).await?;
    let (mine, others) = (
        bed().await.namespace("edit-a").await?,
        bed().await.namespace("edit-b").await?,
    );
    let of_here = |name: &str, spec: Value| {
        let mut object = registration(name, &spec);
        object["spec"]["registryRef"] = json!({"name": "edit-root"});
        object
    };
    mine.apply(of_here("old", json!({}))).await?;
    wait_condition(mine.objects(), "old", "Synced", "True", "InSync").await;
    for name in PODS {
        others.create_pod(&pod(name, "web")).await?;
    }
    let ports = json!([{"name": "grpc", "appProtocol": "http"}]);
    let selector = json!({"matchLabels": {"app": "web"}});
    for tenant in 0..TENANTS {
        let name = format!("t{tenant}");
        let mut formats = vec![json!({"type": "Traefik"})];
        if tenant == 0 {
            let domain = format!("web.{}.example.org", others.name());
            formats.push(json!({"type": "CoreDNS", "coreDNS": {"domain": domain}}));
        }
        let spec = json!({"ports": ports, "selector": selector, "formats": formats});
        others.apply(of_here(&name, spec)).await?;
    }
    wait_data(&etcd, 3 * TENANTS + 3).await?;
    for tenant in 0..TENANTS {
        wait_in_sync(others.objects(), &format!("t{tenant}"), 3).await;
    }
    let history = History::watch(&etcd, "", 0).await?;
    let edit = json!([
        {"type": "Plain", "plain": {"prefix": "traefik/http/services/mine"}},
        {"type": "Plain", "plain": {"prefix": format!("/skydns/org/example/{}", mine.name())}},
    ]);
    mine.apply(of_here("old", json!({"formats": edit}))).await?;
    wait_condition(mine.objects(), "old", "Conflict", "True", "FormatsClash").await;
    // A root inside of the one that others read, in the format that they write.
    let inside = json!([{"type": "Traefik", "traefik": {"root": "traefik/http/services/mine", "serviceName": "yy"}}]);
    let inside = json!({"ports": ports, "selector": {"matchLabels": {"app": "mine"}}, "formats": inside});
    mine.create_pod(&pod("p", "mine")).await?;
    mine.apply(of_here("inside", inside)).await?;
    let object = wait_condition(mine.objects(), "inside", "Conflict", "True", "FormatsClash").await;
    let reported = message(&object, "Conflict");
    assert!(
        reported.contains("consumers of Traefik") && reported.contains("traefik/"),
        "{reported}"
    );
    let data: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    let data: Vec<&String> = data.iter().filter(|event| !event.contains(" /leasehold/")).collect();
    assert!(data.is_empty(), "{data:?}");
    wait_reported(others.objects(), "t0", "InSync", (3, 3)).await;
    wait_count(&etcd, "traefik/", 3 * TENANTS, SOON).await;
    bed().await.objects().delete(API, "Registry", "edit-root").await
}

#[tokio::test]
async fn denied_edit_keeps_old_keys_and_a_withdrawn_prefix_removes_them() -> Result<()> {
    let etcd = EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    let rule = async |prefixes: &[&str]| {
        let rules = json!([{"name": "tenants", "namespaceSelector": {}, "prefixes": prefixes}]);
        let registry = json!({
            "apiVersion": API, "kind": "Registry", "metadata": {"name": "edit-rules"},
            "spec": {"etcd": {"endpoints": etcd.endpoints()}, "access": {"rules": rules}},
        });
        bed().await.objects().apply(registry).await.map(drop)
    };
    rule(&["/one"]).await?;
    let namespace = bed().await.namespace("edit-rules").await?;
    for name in PODS {
        namespace.create_pod(&pod(name, "orders")).await?;
    }
    let at = |prefix: &str| {
        let formats = json!([{"type": "Plain", "plain": {"prefix": prefix}}]);
        registration(
            "orders",
            &json!({"registryRef": {"name": "edit-rules"}, "formats": formats}),
        )
    };
    namespace.apply(at("/one/orders")).await?;
    wait_in_sync(namespace.objects(), "orders", 3).await;
    wait_recorded(namespace.objects(), "orders").await?;
    let history = History::watch(&etcd, "/", 0).await?;
    namespace.apply(at("/two/orders")).await?;
    wait_condition(namespace.objects(), "orders", "Accepted", "False", "AccessDenied").await;
    wait_kept(
        namespace.objects(),
        "orders",
        "AccessDenied",
        &["3 pods", "/one/orders/"],
    )
    .await;
    wait_keys(&etcd, "/one/", &["orders/a", "orders/b", "orders/c"]).await;
    namespace.set_ready("a", false).await?;
    wait_keys(&etcd, "/one/", &["orders/b", "orders/c"]).await;
    namespace.set_ready("a", true).await?;
    wait_keys(&etcd, "/one/", &["orders/a", "orders/b", "orders/c"]).await;
    // Allowed, it moves; and back it may not.
    rule(&["/one", "/two"]).await?;
    wait_keys(&etcd, "/two/", &["orders/a", "orders/b", "orders/c"]).await;
    wait_keys(&etcd, "/one/", &[]).await;
    wait_in_sync(namespace.objects(), "orders", 3).await;
    wait_recorded(namespace.objects(), "orders").await?;
    assert_never_fewer(&history, &["one/orders/b", "one/orders/c"], "theirs").await?;
    rule(&["/two"]).await?;
    namespace.apply(at("/one/orders")).await?;
    wait_kept(
        namespace.objects(),
        "orders",
        "AccessDenied",
        &["3 pods", "/two/orders/"],
    )
    .await;
    // An admin takes back the place that is kept.
    rule(&["/three"]).await?;
    wait_keys(&etcd, "/two/", &[]).await;
    wait_keys(&etcd, "/one/", &[]).await;
    bed().await.objects().delete(API, "Registry", "edit-rules").await
}
