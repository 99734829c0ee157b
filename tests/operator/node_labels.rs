//! Attributes from labels of nodes: a Registry decides which labels its registrations may publish.

use serde_json::{Value, json};
use testbed::{History, Kind, Namespace, Result, until};

use crate::bed;
use crate::support::{
    API, SOON, condition, message, plain_prefix, pod, registration, wait_condition, wait_in_sync, wait_keys,
};

const RACK: &str = "example.org/rack";
const COST: &str = "example.org/cost-center";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Applies the Registry `racks`, which allows these labels of nodes, in the etcd of all tests here.
async fn allow(labels: &[&str]) -> Result<()> {
    let bed = bed().await;
    let registry = json!({
        "apiVersion": API, "kind": "Registry", "metadata": {"name": "racks"},
        "spec": {
            "etcd": {"endpoints": bed.registry().endpoints(), "metaPrefix": "/leasehold-racks/"},
            "nodeLabels": labels,
        },
    });
    bed.objects().apply(registry).await?;
    Ok(())
}

/// Sets labels of a node, and keeps the others.
async fn relabel(node: &str, changes: &[(&str, &str)]) -> Result<()> {
    let objects = bed().await.objects();
    let mut labels = objects.get("v1", "Node", node).await?.expect("a node")["metadata"]["labels"].clone();
    for (key, value) in changes {
        labels[*key] = json!(value);
    }
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}});
    objects.apply(node).await?;
    Ok(())
}

/// Waits until the record of `endpoint` has exactly these attributes.
async fn wait_attributes(prefix: &str, endpoint: &str, expected: &Value) -> Result<()> {
    let key = format!("{prefix}{endpoint}");
    until(&format!("{expected} in {key}"), SOON, || async {
        let held = bed().await.registry().dump(&key).await;
        let held = held.map_err(|error| error.to_string())?;
        let value = held.get(&key).map(|held| held.value.clone()).unwrap_or_default();
        let json: Value = serde_json::from_str(&value).unwrap_or_default();
        (json["metadata"] == *expected).then_some(()).ok_or(value)
    })
    .await
}

/// Waits until `Accepted` says that `labels` and nothing else may not be published.
async fn wait_denied(namespace: &Namespace, name: &str, labels: &str) {
    let words = format!("does not allow registrations to publish the labels {labels} of nodes");
    let is_reported = |object: &Value| {
        let reported = message(object, "Accepted");
        condition(object, "Accepted").1 == "AccessDenied"
            && reported.contains(&words)
            && reported.contains("spec.nodeLabels")
    };
    let found = namespace
        .objects()
        .wait((API, "ServiceRegistration", name), is_reported, SOON)
        .await;
    found.unwrap_or_else(|error| panic!("waiting for {words}: {error}"));
}

fn attributes() -> Value {
    json!([
        {"name": "cell", "fromNodeLabel": RACK},
        {"name": "cost", "fromNodeLabel": COST},
        {"name": "place", "fromNodeLabel": ZONE},
    ])
}

#[tokio::test]
async fn labels_of_nodes_are_published_while_the_registry_allows_them() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("node-labels").await?;
    let nodes = bed.objects().list("v1", "Node").await?;
    let node = nodes[0]["metadata"]["name"].as_str().expect("a name");
    let zone = &nodes[0]["metadata"]["labels"][ZONE];
    relabel(node, &[(RACK, "r1"), (COST, "c1")]).await?;
    allow(&[]).await?;
    let spec = json!({
        "registryRef": {"name": "racks"}, "attributes": attributes(),
        "formats": [{"type": "Plain", "plain": {"value": "JSON"}}],
    });
    namespace.apply(registration("orders", &spec)).await?;
    let on_node = pod("a", "orders").with(&json!({"spec": {"nodeName": node}}));
    namespace.create_pod(&on_node).await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_attributes(&prefix, "a", &json!({"place": zone})).await?;
    wait_denied(&namespace, "orders", &format!("{COST} and {RACK}")).await;
    wait_condition(namespace.objects(), "orders", "Synced", "False", "NotAccepted").await;
    wait_condition(namespace.objects(), "orders", "Ready", "True", "EndpointsRegistered").await;

    let history = History::watch(bed.registry(), &prefix, 0).await?;
    allow(&[RACK]).await?;
    wait_attributes(&prefix, "a", &json!({"cell": "r1", "place": zone})).await?;
    wait_denied(&namespace, "orders", COST).await;
    // A label that is not published changes no record.
    relabel(node, &[(COST, "c2")]).await?;
    relabel(node, &[(RACK, "r2")]).await?;
    wait_attributes(&prefix, "a", &json!({"cell": "r2", "place": zone})).await?;
    allow(&[]).await?;
    wait_attributes(&prefix, "a", &json!({"place": zone})).await?;
    let events = history.settled().await?;
    assert!(
        events.iter().all(|event| event.kind != Kind::Delete),
        "records change in place: {events:?}"
    );
    assert_eq!(events.len(), 3, "one write for each change: {events:?}");

    let allowed = json!({
        "registryRef": {"name": "racks"}, "attributes": [{"name": "place", "fromNodeLabel": ZONE}],
        "formats": [{"type": "Plain", "plain": {"value": "JSON"}}],
    });
    namespace.apply(registration("orders", &allowed)).await?;
    wait_condition(namespace.objects(), "orders", "Accepted", "True", "Accepted").await;
    wait_in_sync(namespace.objects(), "orders", 1).await;

    nodes_and_addresses(&namespace, node).await?;
    for name in ["orders", "by-node", "by-address"] {
        namespace.objects().delete(API, "ServiceRegistration", name).await?;
        wait_keys(bed.registry(), &plain_prefix(&namespace, name), &[]).await;
    }
    bed.objects().delete(API, "Registry", "racks").await
}

/// Registers the nodes and the cluster IP of a Service: a node has labels, and an address has none.
async fn nodes_and_addresses(namespace: &Namespace, node: &str) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"},
        "spec": {
            "type": "NodePort", "selector": {"app": "orders"},
            "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc"}],
        },
    });
    let applied = namespace.apply(service).await?;
    allow(&[RACK, COST]).await?;
    for (name, address) in [("by-node", "NodePort"), ("by-address", "ClusterIP")] {
        let spec = json!({
            "registryRef": {"name": "racks"}, "service": {"name": "orders"},
            "address": {"type": address}, "attributes": attributes(),
            "formats": [{"type": "Plain", "plain": {"value": "JSON"}}],
        });
        let mut object = registration(name, &spec);
        let fields = object["spec"].as_object_mut().expect("a spec");
        fields.remove("selector");
        fields.remove("ports");
        namespace.apply(object).await?;
        wait_condition(namespace.objects(), name, "Accepted", "True", "Accepted").await;
    }
    let cluster_ip = applied["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .replace('.', "-");
    wait_attributes(&plain_prefix(namespace, "by-address"), &cluster_ip, &json!(null)).await?;
    wait_keys(
        bed().await.registry(),
        &plain_prefix(namespace, "by-address"),
        &[&cluster_ip],
    )
    .await;
    let object = bed().await.objects().get("v1", "Node", node).await?.expect("a node");
    let zone = &object["metadata"]["labels"][ZONE];
    let prefix = plain_prefix(namespace, "by-node");
    wait_attributes(&prefix, node, &json!({"cell": "r2", "cost": "c2", "place": zone})).await?;
    relabel(node, &[(RACK, "r3")]).await?;
    wait_attributes(&prefix, node, &json!({"cell": "r3", "cost": "c2", "place": zone})).await
}
