//! An edit must not empty a service or take keys of other owners, whichever replica leads.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{History, Result};

use crate::scene::{Scene, etcd};
use crate::support::{
    API, SOON, assert_never_fewer, condition, message, pod, registration, wait_condition, wait_in_sync, wait_keys,
};

const PODS: [&str; 3] = ["a", "b", "c"];

fn orders(registry: &str, prefix: &str) -> Value {
    let formats = json!([{"type": "Plain", "plain": {"prefix": prefix}}]);
    registration(
        "orders",
        &json!({"registryRef": {"name": registry}, "formats": formats}),
    )
}

#[tokio::test]
async fn denied_move_keeps_old_keys_across_a_restart_until_granted() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-edits").await?;
    etcd.add_user("leasehold", "pw-of-edits", &["/leasehold/", "/old/"])
        .await?;
    let user = [("username", "leasehold"), ("password", "pw-of-edits")];
    scene.secret("move-denied-user", &user).await?;
    let auth = json!({"etcd": {"auth": {"secretRef": {"name": "move-denied-user"}}}, "guard": {"mode": "Hold"}});
    scene.registry("move-denied", &etcd.endpoints(), &auth).await?;
    let namespace = scene.bed.namespace("move-denied").await?;
    for name in PODS {
        namespace.create_pod(&pod(name, "orders")).await?;
    }
    namespace.apply(orders("move-denied", "/old/orders")).await?;
    let operator = scene.operator("move-denied-1").await?;
    wait_in_sync(namespace.objects(), "orders", 3).await;
    let recorded = |object: &Value| object["status"]["lastSynced"].is_object();
    namespace
        .objects()
        .wait((API, "ServiceRegistration", "orders"), recorded, SOON)
        .await?;

    let history = History::watch(&etcd, "/", 0).await?;
    namespace.apply(orders("move-denied", "/new/orders")).await?;
    let reported = wait_condition(namespace.objects(), "orders", "Synced", "False", "PermissionDenied").await;
    let reported = message(&reported, "Synced");
    assert!(
        reported.contains("3 pods") && reported.contains("/old/orders/"),
        "{reported}"
    );
    wait_keys(&etcd, "/old/orders/", &PODS).await;

    // A successor knows nothing but the specs and what the status records.
    operator.kill().await?;
    namespace.create_pod(&pod("d", "orders")).await?;
    let successor = scene.operator("move-denied-2").await?;
    wait_keys(&etcd, "/old/orders/", &["a", "b", "c", "d"]).await;
    namespace.set_ready("d", false).await?;
    wait_keys(&etcd, "/old/orders/", &PODS).await;
    namespace.set_ready("d", true).await?;
    wait_keys(&etcd, "/old/orders/", &["a", "b", "c", "d"]).await;
    etcd.grant_prefix("leasehold", "/new/").await?;
    let in_sync = |object: &Value| {
        condition(object, "Synced").1 == "InSync"
            && object["status"]["pods"] == json!({"selected": 4, "ready": 4, "registered": 4})
    };
    let registration = (API, "ServiceRegistration", "orders");
    namespace
        .objects()
        .wait(registration, in_sync, Duration::from_secs(45))
        .await?;
    wait_keys(&etcd, "/new/orders/", &["a", "b", "c", "d"]).await;
    wait_keys(&etcd, "/old/orders/", &[]).await;
    assert_never_fewer(&history, &["/old/orders/a", "/old/orders/b", "/old/orders/c"], "theirs").await?;
    drop(successor);
    Ok(())
}

#[tokio::test]
async fn first_claim_of_a_prefix_stays_first_after_a_restart() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    scene.registry("move-ranks", &etcd.endpoints(), &json!({})).await?;
    let namespace = scene.bed.namespace("move-ranks").await?;
    let plain = |name: &str, prefix: &str| {
        let formats = json!([{"type": "Plain", "plain": {"prefix": prefix}}]);
        let selector = json!({"matchLabels": {"app": "web"}});
        registration(
            name,
            &json!({"registryRef": {"name": "move-ranks"}, "formats": formats, "selector": selector}),
        )
    };
    namespace.create_pod(&pod("a", "web")).await?;
    // Its creation counts for nothing any more once it is edited.
    namespace.apply(plain("old", "/elsewhere")).await?;
    let operator = scene.operator("move-ranks-1").await?;
    wait_in_sync(namespace.objects(), "old", 1).await;
    namespace.apply(plain("web", "/place/web")).await?;
    wait_in_sync(namespace.objects(), "web", 1).await;
    namespace.apply(plain("old", "/place")).await?;
    wait_condition(namespace.objects(), "old", "Conflict", "True", "FormatsClash").await;
    let history = History::watch(&etcd, "/", 0).await?;
    operator.kill().await?;
    let successor = scene.operator("move-ranks-2").await?;
    wait_condition(namespace.objects(), "old", "Conflict", "True", "FormatsClash").await;
    wait_in_sync(namespace.objects(), "web", 1).await;
    namespace.create_pod(&pod("b", "web")).await?;
    wait_keys(&etcd, "/place/", &["web/a", "web/b"]).await;
    wait_keys(&etcd, "/elsewhere/", &["a", "b"]).await;
    let deleted = history
        .settled()
        .await?
        .into_iter()
        .filter(|event| event.kind == testbed::Kind::Delete);
    let deleted: Vec<String> = deleted
        .map(|event| event.key)
        .filter(|key| !key.starts_with("/leasehold/"))
        .collect();
    assert_eq!(deleted, [""; 0], "nobody's key was taken away");
    // And the later one has its turn when the first one is gone.
    namespace.objects().delete(API, "ServiceRegistration", "web").await?;
    wait_keys(&etcd, "/place/", &["a", "b"]).await;
    wait_keys(&etcd, "/elsewhere/", &[]).await;
    drop(successor);
    Ok(())
}
