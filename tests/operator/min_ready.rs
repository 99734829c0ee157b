//! `spec.minReadySeconds`: a pod is registered when it has been ready for so long, and not before.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};
use testbed::{History, Namespace, Result};

use crate::bed;
use crate::support::{
    API, condition, message, plain_prefix, pod, registration, wait_condition, wait_events, wait_in_sync, wait_keys,
};

const WAIT: u64 = 4;
/// How late a pod may be registered on a busy machine.
const LATE: Duration = Duration::from_secs(20);

/// Since when the condition of the pod is as it is.
async fn since(namespace: &Namespace, name: &str, kind: &str) -> Result<SystemTime> {
    let pod = namespace.objects().get("v1", "Pod", name).await?.expect("it is there");
    let conditions = pod["status"]["conditions"].as_array().expect("conditions");
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    let time = found
        .and_then(|found| found["lastTransitionTime"].as_str())
        .expect("a time");
    Ok(time.parse::<Timestamp>().expect("RFC 3339").into())
}

/// What just happened must have happened this long after `since`, and not much later.
fn assert_waited(since: SystemTime) {
    let waited = since.elapsed().expect("one clock");
    let wait = Duration::from_secs(WAIT);
    assert!(waited >= wait && waited < wait + LATE, "{waited:?}");
}

#[tokio::test]
async fn a_pod_is_registered_when_it_has_been_ready_for_min_ready_seconds() -> Result<()> {
    let namespace = bed().await.namespace("min-ready").await?;
    let selector = json!({"matchLabels": {"app": "orders"}});
    let (patient, quick) = (plain_prefix(&namespace, "orders"), plain_prefix(&namespace, "quick"));
    let history = History::watch(bed().await.registry(), &patient, 0).await?;
    let others = History::watch(bed().await.registry(), &quick, 0).await?;
    namespace
        .apply(registration("orders", &json!({"minReadySeconds": WAIT})))
        .await?;
    namespace
        .apply(registration("quick", &json!({"selector": selector})))
        .await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.7.1")).await?;
    let ready = since(&namespace, "a", "Ready").await?;
    wait_events(&others, 1).await;
    wait_events(&history, 1).await;
    assert_waited(ready);

    // The pod was not ready for a moment, and no event shows that.
    namespace.set_ready("a", true).await?;
    let ready = since(&namespace, "a", "Ready").await?;
    wait_events(&history, 2).await;
    wait_events(&history, 3).await;
    assert_waited(ready);

    namespace.set_ready("a", false).await?;
    wait_events(&history, 4).await;
    let (put, delete) = (format!("put {patient}a 10.9.7.1:8080"), format!("delete {patient}a"));
    history.assert_exactly(&[&put, &delete, &put, &delete]).await;
    let (put, delete) = (format!("put {quick}a 10.9.7.1:8080"), format!("delete {quick}a"));
    others.assert_exactly(&[&put, &delete]).await;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_waits_is_no_error_and_an_edit_removes_no_registered_pod() -> Result<()> {
    let namespace = bed().await.namespace("min-ready-edit").await?;
    let (etcd, objects) = (bed().await.registry(), namespace.objects());
    let prefix = plain_prefix(&namespace, "orders");
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.7.2")).await?;
    wait_in_sync(objects, "orders", 1).await;

    let patient = registration("orders", &json!({"minReadySeconds": 3600}));
    namespace.apply(patient).await?;
    namespace.create_pod(&pod("b", "orders").ip("10.9.7.3")).await?;
    let counts = json!({"selected": 2, "ready": 2, "registered": 1});
    let is_counted = |object: &Value| object["status"]["pods"] == counts;
    let object = objects
        .wait((API, "ServiceRegistration", "orders"), is_counted, LATE)
        .await?;
    assert_eq!(condition(&object, "Synced"), ("True".to_owned(), "InSync".to_owned()));
    assert!(
        message(&object, "Synced").contains("spec.minReadySeconds yet: 1"),
        "{object}"
    );
    assert_eq!(condition(&object, "Ready").0, "True");
    wait_keys(etcd, &prefix, &["a"]).await;

    namespace.set_ready("a", false).await?;
    wait_condition(objects, "orders", "Ready", "False", "NoAvailablePods").await;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_keys(etcd, &prefix, &["b"]).await;
    let expected = ["put a 10.9.7.2:8080", "delete a", "put b 10.9.7.3:8080"];
    let expected = expected.map(|event| {
        event
            .replace(" a", &format!(" {prefix}a"))
            .replace(" b", &format!(" {prefix}b"))
    });
    history.assert_exactly(&expected.each_ref().map(String::as_str)).await;
    Ok(())
}
