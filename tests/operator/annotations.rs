//! Registrations of Services by annotations.

use std::process::Command;

use serde_json::{Value, json};
use testbed::{EtcdCluster, EtcdVersion, Namespace, Objects, Result, until};

use crate::bed;
use crate::support::{
    API, SOON, condition, message, plain_prefix, pod, registration, wait_condition, wait_event, wait_in_sync, wait_keys,
};

/// The Service `orders` with these annotations, named without `leasehold.dev/`.
fn service(annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<String, Value> = annotations
        .iter()
        .map(|(name, value)| (format!("leasehold.dev/{name}"), json!(value)))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders", "annotations": annotations},
        "spec": {
            "selector": {"app": "orders"},
            "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc", "protocol": "TCP"}],
        },
    })
}

/// Waits until the registration `orders` satisfies `is_it`.
async fn wait_registration(objects: &Objects, is_it: impl Fn(&Value) -> bool) -> Value {
    let found = objects.wait((API, "ServiceRegistration", "orders"), is_it, SOON).await;
    found.unwrap_or_else(|error| panic!("{error}"))
}

async fn wait_no_registration(objects: &Objects) {
    let gone = until("the registration orders to be gone", SOON, || async {
        match objects.get(API, "ServiceRegistration", "orders").await {
            Ok(None) => Ok(()),
            Ok(Some(object)) => Err(object.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    gone.await.unwrap_or_else(|error| panic!("{error}"));
}

async fn wait_registered(namespace: &Namespace, service: &str, pods: &[&str]) {
    wait_keys(bed().await.registry(), &plain_prefix(namespace, service), pods).await;
}

#[tokio::test]
async fn annotated_service_is_registered_and_its_annotations_are_followed() -> Result<()> {
    let namespace = bed().await.namespace("annotated").await?;
    let objects = namespace.objects();
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.1")).await?;
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain")]))
        .await?;
    wait_registered(&namespace, "orders", &["a"]).await;
    wait_in_sync(objects, "orders", 1).await;
    let kept = wait_registration(objects, |_| true).await;
    assert_eq!(kept["spec"]["service"]["name"], "orders");
    assert_eq!(kept["metadata"]["labels"]["app.kubernetes.io/managed-by"], "leasehold");
    let owner = &kept["metadata"]["ownerReferences"][0];
    let annotated = objects.get("v1", "Service", "orders").await?.expect("it is there");
    assert_eq!(
        (
            &owner["kind"],
            &owner["uid"],
            &owner["controller"],
            &owner["blockOwnerDeletion"]
        ),
        (
            &json!("Service"),
            &annotated["metadata"]["uid"],
            &json!(true),
            &json!(false)
        )
    );

    let edited = [
        ("register", ""),
        ("formats", "[{type: Plain, plain: {value: JSON}}]"),
        ("name", "orders-v2"),
        ("weight", "7"),
        ("ports", "80"),
        ("attributes", "team=payments"),
    ];
    namespace.apply(service(&edited)).await?;
    wait_registered(&namespace, "orders-v2", &["a"]).await;
    wait_registered(&namespace, "orders", &[]).await;
    let prefix = plain_prefix(&namespace, "orders-v2");
    let held = wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    let record: Value = serde_json::from_str(&held.values().next().expect("a key").value).expect("JSON");
    assert_eq!(
        (&record["weight"], &record["portName"]),
        (&json!(7), &json!("grpc")),
        "{record}"
    );
    assert_eq!(record["metadata"]["team"], "payments", "{record}");
    // Created and edited once each: what the API server adds as defaults is no reason for another write.
    let kept = wait_registration(objects, |object| condition(object, "Synced").1 == "InSync").await;
    assert_eq!(kept["metadata"]["generation"], 2, "{kept}");

    namespace.apply(service(&[])).await?;
    wait_no_registration(objects).await;
    wait_registered(&namespace, "orders-v2", &[]).await;
    Ok(())
}

#[tokio::test]
async fn registration_of_an_annotated_service_goes_with_the_service() -> Result<()> {
    let namespace = bed().await.namespace("annotated-gone").await?;
    let objects = namespace.objects();
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.2")).await?;
    let annotated = service(&[("register", "default"), ("formats", "Plain")]);
    namespace.apply(annotated.clone()).await?;
    wait_registered(&namespace, "orders", &["a"]).await;
    let former = wait_registration(objects, |_| true).await["metadata"]["uid"].clone();
    objects.delete("v1", "Service", "orders").await?;
    wait_registered(&namespace, "orders", &[]).await;
    wait_no_registration(objects).await;
    // Another Service of the same name has a registration of its own.
    namespace.apply(annotated).await?;
    wait_registered(&namespace, "orders", &["a"]).await;
    let other = wait_registration(objects, |object| object["metadata"]["uid"] != former).await;
    let of = objects.get("v1", "Service", "orders").await?.expect("it is there");
    assert_eq!(other["metadata"]["ownerReferences"][0]["uid"], of["metadata"]["uid"]);
    Ok(())
}

#[tokio::test]
async fn edits_and_deletion_of_the_kept_registration_are_undone() -> Result<()> {
    let namespace = bed().await.namespace("annotated-edited").await?;
    let objects = namespace.objects();
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.3")).await?;
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain")]))
        .await?;
    wait_registered(&namespace, "orders", &["a"]).await;
    let mut edited = registration("orders", &json!({"serviceName": "mine", "weight": 9}));
    let spec = edited["spec"].as_object_mut().expect("a spec");
    spec.remove("selector");
    spec.remove("ports");
    spec.insert("service".to_owned(), json!({"name": "orders"}));
    namespace.apply(edited).await?;
    let is_undone = |object: &Value| {
        object["metadata"]["generation"] == 3
            && object["spec"]["serviceName"].is_null()
            && object["spec"]["weight"].is_null()
    };
    wait_registration(objects, is_undone).await;
    wait_registered(&namespace, "orders", &["a"]).await;
    wait_registered(&namespace, "mine", &[]).await;
    let former = wait_registration(objects, |_| true).await["metadata"]["uid"].clone();
    objects.delete(API, "ServiceRegistration", "orders").await?;
    wait_registration(objects, |object| object["metadata"]["uid"] != former).await;
    wait_registered(&namespace, "orders", &["a"]).await;
    Ok(())
}

#[tokio::test]
async fn registration_of_a_user_is_left_alone_and_the_service_has_an_event() -> Result<()> {
    let namespace = bed().await.namespace("annotated-taken").await?;
    let objects = namespace.objects();
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.4")).await?;
    namespace
        .apply(registration("orders", &json!({"serviceName": "mine"})))
        .await?;
    wait_registered(&namespace, "mine", &["a"]).await;
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain")]))
        .await?;
    wait_event(
        objects,
        ("Service", "orders"),
        "RegistrationExists",
        "belongs to a user",
    )
    .await?;
    let present = wait_registration(objects, |_| true).await;
    assert_eq!(
        (&present["metadata"]["generation"], &present["spec"]["serviceName"]),
        (&json!(1), &json!("mine"))
    );
    namespace.apply(service(&[])).await?;
    objects.delete(API, "ServiceRegistration", "orders").await?;
    wait_registered(&namespace, "mine", &[]).await;
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain")]))
        .await?;
    wait_registered(&namespace, "orders", &["a"]).await;
    Ok(())
}

#[tokio::test]
async fn invalid_annotations_keep_the_registration_and_emit_a_service_event() -> Result<()> {
    let namespace = bed().await.namespace("annotated-wrong").await?;
    let objects = namespace.objects();
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.5")).await?;
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain"), ("weight", "7")]))
        .await?;
    wait_in_sync(objects, "orders", 1).await;
    let about = ("Service", "orders");
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain"), ("weight", "heavy")]))
        .await?;
    let words = "leasehold.dev/weight: \"heavy\" is no weight: write a whole number from 0 to 65535";
    wait_event(objects, about, "InvalidAnnotation", words).await?;
    // What only the API server can refuse.
    let formats = "[{type: Plain, plain: {prefix: /x/}}]";
    namespace
        .apply(service(&[("register", ""), ("formats", formats), ("weight", "7")]))
        .await?;
    wait_event(objects, about, "RegistrationRefused", "prefix").await?;
    namespace
        .apply(service(&[
            ("register", "no-such"),
            ("formats", "Plain"),
            ("weight", "8"),
        ]))
        .await?;
    wait_event(objects, about, "RegistryNotFound", "no-such").await?;
    let present = wait_registration(objects, |_| true).await;
    assert_eq!(
        (&present["metadata"]["generation"], &present["spec"]["weight"]),
        (&json!(1), &json!(7))
    );
    wait_registered(&namespace, "orders", &["a"]).await;
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain"), ("weight", "9")]))
        .await?;
    wait_registration(objects, |object| object["spec"]["weight"] == 9).await;
    Ok(())
}

#[tokio::test]
async fn p10_annotations_reach_only_allowed_prefixes_and_may_change_registry() -> Result<()> {
    let bed = bed().await;
    let etcd = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    let namespace = bed.namespace("annotated-rules").await?;
    let own = format!("/services/{}", namespace.name());
    let rule = json!({"name": "own", "namespaceSelector": {}, "prefixes": ["/services/{{namespace}}"]});
    let spec = json!({"etcd": {"endpoints": etcd.endpoints()}, "access": {"rules": [rule]}, "guard": {"mode": "Off"}});
    let registry = json!({"apiVersion": API, "kind": "Registry", "metadata": {"name": "annotated"}, "spec": spec});
    bed.objects().apply(registry).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.6")).await?;
    let formats = "[{type: Plain, plain: {prefix: /services/another-tenant}}]";
    namespace
        .apply(service(&[("register", "annotated"), ("formats", formats)]))
        .await?;
    let denied = wait_condition(namespace.objects(), "orders", "Accepted", "False", "AccessDenied").await;
    assert!(
        message(&denied, "Accepted").contains("/services/another-tenant"),
        "{denied}"
    );
    namespace
        .apply(service(&[("register", "annotated"), ("formats", "Plain")]))
        .await?;
    wait_keys(&etcd, &format!("{own}/orders/"), &["a"]).await;
    wait_keys(&etcd, "/services/another-tenant", &[]).await;
    // Another Registry: the registration is deleted, and created there.
    namespace
        .apply(service(&[("register", ""), ("formats", "Plain")]))
        .await?;
    wait_registered(&namespace, "orders", &["a"]).await;
    wait_keys(&etcd, &format!("{own}/orders/"), &[]).await;
    namespace.apply(service(&[])).await?;
    wait_no_registration(namespace.objects()).await;
    bed.objects().delete(API, "Registry", "annotated").await
}

/// The exit code of `leasehold plan` for the Service, and what it prints.
async fn planned(namespace: &Namespace, service: &Value) -> (Option<i32>, String) {
    let bed = bed().await;
    let path = bed.logs().join(format!("{}.json", namespace.name()));
    std::fs::write(&path, service.to_string()).expect("the bed's folder can be written to");
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(["plan", "--namespace", namespace.name(), "--kubeconfig"])
        .arg(bed.kubeconfig())
        .arg("--filename")
        .arg(&path)
        .output()
        .expect("leasehold is there");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test]
async fn plan_of_an_annotated_service_is_what_the_operator_then_does() -> Result<()> {
    let namespace = bed().await.namespace("annotated-plan").await?;
    let prefix = plain_prefix(&namespace, "orders");
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.7")).await?;
    let mut annotated = service(&[("register", ""), ("formats", "Plain")]);
    let (code, text) = planned(&namespace, &annotated).await;
    assert!(
        code == Some(2) && text.contains(&format!("{prefix}a")),
        "{code:?} {text}"
    );
    namespace.apply(annotated.clone()).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let (code, text) = planned(&namespace, &annotated).await;
    assert_eq!(code, Some(0), "{text}");
    annotated["metadata"]["annotations"]["leasehold.dev/formats"] = json!("EtcdGRPC");
    let (code, text) = planned(&namespace, &annotated).await;
    assert!(
        code == Some(2) && text.contains(&format!("{prefix}a")),
        "{code:?} {text}"
    );
    // A registration that a user wrote.
    namespace.apply(service(&[])).await?;
    wait_no_registration(namespace.objects()).await;
    namespace.apply(registration("orders", &json!({}))).await?;
    let (code, text) = planned(&namespace, &annotated).await;
    assert!(
        code == Some(1) && text.contains("a user's ServiceRegistration"),
        "{code:?} {text}"
    );
    Ok(())
}
