//! RecordFormats, end to end: what they write, and what becomes of it when they change, break and go.

use std::path::Path;

use serde_json::{Value, json};
use testbed::{History, Result};

use crate::bed;
use crate::support::{
    API, SOON, condition, message, pod, registration, wait_condition, wait_event, wait_events, wait_in_sync, wait_keys,
};

fn record_format(name: &str, key: &str, value: &str) -> Value {
    json!({
        "apiVersion": API, "kind": "RecordFormat", "metadata": {"name": name},
        "spec": {"records": [{"name": "endpoint", "key": key, "value": value}]},
    })
}

fn custom(record_format: &str, prefix: &str) -> Value {
    json!({"formats": [{"type": "Custom", "custom": {"recordFormatRef": {"name": record_format}, "prefix": prefix}}]})
}

/// Waits until a RecordFormat's Accepted has this status and reason, and returns the object.
async fn wait_accepted(name: &str, status: &str, reason: &str) -> Value {
    let wanted = (status.to_owned(), reason.to_owned());
    let reported = |object: &Value| {
        condition(object, "Accepted") == wanted
            && object["status"]["observedGeneration"] == object["metadata"]["generation"]
    };
    let found = bed()
        .await
        .objects()
        .wait((API, "RecordFormat", name), reported, SOON)
        .await;
    found.unwrap_or_else(|error| panic!("waiting for {name} to be {status} {reason}: {error}"))
}

/// The RecordFormats that are shipped.
fn shipped() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/record-formats");
    let files = std::fs::read_dir(folder).expect("they are there");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.expect("it can be listed").path()).expect("it can be read");
        serde_saphyr::from_str(&text).expect("YAML")
    };
    files.map(read).collect()
}

#[tokio::test]
async fn the_shipped_record_formats_write_what_their_consumers_read() -> Result<()> {
    let bed = bed().await;
    let shipped = shipped();
    assert_eq!(shipped.len(), 4);
    let namespace = bed.namespace("shipped").await?;
    let place = |name: &str| format!("/custom/{}/{name}", namespace.name());
    let (mut names, mut formats) = (Vec::new(), Vec::new());
    for object in shipped {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        bed.objects().apply(object).await?;
        let reported = wait_accepted(&name, "True", "Accepted").await;
        let preview = &reported["status"]["preview"][0];
        let key = preview["key"].as_str().expect("a key");
        assert!(
            key.starts_with("/services/shop/orders/") && key.ends_with("/orders-7d9f-abcde"),
            "{preview}"
        );
        assert!(
            preview["value"]
                .as_str()
                .is_some_and(|value| value.contains("10.0.0.7")),
            "{preview}"
        );
        let options = json!({"recordFormatRef": {"name": name}, "prefix": place(&name)});
        formats.push(json!({"type": "Custom", "custom": options}));
        names.push(name);
    }
    let spec = json!({
        "formats": formats, "weight": 300,
        "version": {"fromLabel": "version"}, "attributes": [{"name": "note", "value": "say \"hello\"\\\n"}],
    });
    namespace.apply(registration("orders", &spec)).await?;
    let labelled = pod("a", "orders").label("version", "2.0").ip("10.9.7.1");
    namespace.create_pod(&labelled).await?;
    let etcd = bed.registry();
    let value = async |name: &str, key: &str| -> String {
        let prefix = format!("{}/", place(name));
        let held = wait_keys(etcd, &prefix, &[key]).await;
        held[&format!("{prefix}{key}")].value.clone()
    };
    let read = |text: String| -> Value { serde_json::from_str(&text).expect("JSON") };
    assert_eq!(
        read(value("confd-json", "a").await),
        json!({"name": "a", "ip": "10.9.7.1", "port": 8080, "weight": 300})
    );
    assert_eq!(
        read(value("apisix-node", "a").await),
        json!({"host": "10.9.7.1", "port": 8080, "weight": 300})
    );
    let instance = read(value("servicecomb", "a").await);
    assert_eq!(
        (&instance["endpoints"], &instance["version"], &instance["status"]),
        (&json!(["rest://10.9.7.1:8080"]), &json!("2.0"), &json!("UP"))
    );
    assert_eq!(instance["properties"]["note"], "say \"hello\"\\\n");
    let prefix = format!("{}/", place("proxy-list"));
    let held = wait_keys(etcd, &prefix, &["envoy/a", "haproxy/a"]).await;
    assert_eq!(
        held[&format!("{prefix}haproxy/a")].value,
        "server a 10.9.7.1:8080 weight 256 check",
        "HAProxy knows no weight above"
    );
    assert_eq!(
        read(held[&format!("{prefix}envoy/a")].value.clone()),
        json!({
            "endpoint": {"address": {"socket_address": {"address": "10.9.7.1", "port_value": 8080}}},
            "load_balancing_weight": 300,
        })
    );
    let status = wait_in_sync(namespace.objects(), "orders", 1).await;
    let variants: Vec<Option<&str>> = status.formats.iter().map(|format| format.variant.as_deref()).collect();
    let names: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
    assert_eq!(variants, names);
    namespace.set_ready("a", false).await?;
    wait_keys(etcd, &format!("/custom/{}/", namespace.name()), &[]).await;
    Ok(())
}

#[tokio::test]
async fn a_broken_or_deleted_record_format_keeps_what_is_there_and_says_why() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("breaking").await?;
    let prefix = format!("/custom/{}", namespace.name());
    namespace
        .apply(registration("orders", &custom("breaking", &prefix)))
        .await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.7.2")).await?;
    let objects = namespace.objects();
    let reported = wait_condition(objects, "orders", "Accepted", "False", "RecordFormatNotFound").await;
    assert!(message(&reported, "Accepted").contains("there is no RecordFormat \"breaking\": create it"));

    let key = "{{ prefix }}/{{ id }}";
    bed.objects()
        .apply(record_format("breaking", key, "{{ hostPort }}"))
        .await?;
    let below = format!("{prefix}/");
    let held = wait_keys(bed.registry(), &below, &["a"]).await;
    assert_eq!(held[&format!("{below}a")].value, "\"10.9.7.2:8080\"");
    wait_condition(objects, "orders", "Accepted", "True", "Accepted").await;

    let history = History::watch(bed.registry(), &below, 0).await?;
    bed.objects()
        .apply(record_format("breaking", key, "[\n  {{ hostPrt }}]"))
        .await?;
    let mistake = "alue of the record \"endpoint\", line 2, column 6: hostPrt is undefined";
    let reported = wait_accepted("breaking", "False", "InvalidTemplate").await;
    assert!(message(&reported, "Accepted").contains(mistake), "{reported}");
    assert_eq!(reported["status"]["preview"], Value::Null);
    let about = ("RecordFormat", "breaking");
    wait_event(&bed.objects(), about, "InvalidTemplate", mistake).await?;
    let reported = wait_condition(objects, "orders", "Accepted", "False", "RecordFormatUnusable").await;
    assert!(message(&reported, "Accepted").contains(mistake), "{reported}");
    history.assert_silent().await;
    // New pods are written as those before.
    namespace.create_pod(&pod("b", "orders").ip("10.9.7.3")).await?;
    let held = wait_keys(bed.registry(), &below, &["a", "b"]).await;
    assert_eq!(held[&format!("{below}b")].value, "\"10.9.7.3:8080\"");

    let history = History::watch(bed.registry(), &below, 0).await?;
    bed.objects().delete(API, "RecordFormat", "breaking").await?;
    wait_condition(objects, "orders", "Accepted", "False", "RecordFormatNotFound").await;
    history.assert_silent().await;

    // A value changes in place.
    bed.objects()
        .apply(record_format("breaking", key, "{{ port }}"))
        .await?;
    let mut events = wait_events(&history, 2).await;
    events.sort();
    assert_eq!(events, [format!("put {below}a 8080"), format!("put {below}b 8080")]);
    wait_condition(objects, "orders", "Accepted", "True", "Accepted").await;

    // A key comes and the one before goes at the same revision.
    let history = History::watch(bed.registry(), &below, 0).await?;
    bed.objects()
        .apply(record_format("breaking", "{{ prefix }}/x/{{ id }}", "{{ port }}"))
        .await?;
    wait_keys(bed.registry(), &below, &["x/a", "x/b"]).await;
    let events = history.settled().await?;
    for name in ["a", "b"] {
        let of = |key: String| {
            let found = events.iter().find(|event| event.key == key);
            found.unwrap_or_else(|| panic!("nothing of {key}")).revision
        };
        assert_eq!(of(format!("{below}{name}")), of(format!("{below}x/{name}")), "{name}");
    }
    wait_in_sync(objects, "orders", 2).await;
    Ok(())
}

#[tokio::test]
async fn template_leaving_its_prefix_or_sharing_keys_is_rejected_with_cause() -> Result<()> {
    let bed = bed().await;
    for (name, key, reason, cause) in [
        (
            "outside",
            "/leasehold/{{ pod }}{% set p = prefix %}",
            "KeyOutsidePrefix",
            "begin its template with {{ prefix }}/",
        ),
        (
            "shared",
            "{{ prefix }}/{{ service }}",
            "KeyNotUnique",
            "put {{ id }} into its template",
        ),
        (
            "dots",
            "{{ prefix }}/../{{ pod }}",
            "InvalidKey",
            "segment of dots only",
        ),
        (
            "endless",
            "{{ prefix }}/{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "TemplateTooCostly",
            "more than 20000 steps",
        ),
    ] {
        bed.objects().apply(record_format(name, key, "1")).await?;
        let reported = wait_accepted(name, "False", reason).await;
        assert!(message(&reported, "Accepted").contains(cause), "{reported}");
    }
    // The prefix itself may not reach the operator's own records.
    bed.objects()
        .apply(record_format("fine", "{{ prefix }}/{{ id }}", "1"))
        .await?;
    let namespace = bed.namespace("reaching").await?;
    namespace
        .apply(registration("orders", &custom("fine", "/leasehold/x")))
        .await?;
    wait_condition(namespace.objects(), "orders", "Accepted", "False", "PrefixReserved").await;
    Ok(())
}

#[tokio::test]
async fn pods_sharing_a_key_are_a_conflict_and_the_first_one_keeps_it() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("sharing").await?;
    let key = "{{ prefix }}/{{ pod | replace('x', '') }}";
    bed.objects().apply(record_format("sharing", key, "{{ pod }}")).await?;
    let prefix = format!("/custom/{}", namespace.name());
    namespace
        .apply(registration("orders", &custom("sharing", &prefix)))
        .await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.7.4")).await?;
    let below = format!("{prefix}/");
    wait_keys(bed.registry(), &below, &["a"]).await;
    namespace.create_pod(&pod("ax", "orders").ip("10.9.7.5")).await?;
    wait_condition(namespace.objects(), "orders", "Conflict", "True", "HeldByRegistration").await;
    let held = wait_keys(bed.registry(), &below, &["a"]).await;
    assert_eq!(held[&format!("{below}a")].value, "\"a\"");
    Ok(())
}
