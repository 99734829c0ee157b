//! Registrations of Services: their pods, their EndpointSlices, and the nodes and addresses that lead to them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testbed::{History, Namespace, NewPod, Result, until};

use crate::bed;
use crate::support::{
    API, SOON, condition, message, plain_prefix, pod, registration, wait_condition, wait_events, wait_in_sync,
    wait_keys,
};

/// The Service `orders`, with fields of its spec.
fn service(spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"},
        "spec": {
            "selector": {"app": "orders"},
            "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc", "protocol": "TCP"}],
        },
    });
    for (field, value) in spec.as_object().expect("fields of spec") {
        object["spec"][field] = value.clone();
    }
    object
}

/// A registration of the Service `orders` as Plain text, in as few words as possible.
fn of_service(spec: &Value) -> Value {
    let mut object = registration("orders", spec);
    let fields = object["spec"].as_object_mut().expect("a spec");
    fields.remove("selector");
    if spec["ports"].is_null() {
        fields.remove("ports");
    }
    fields.insert("service".to_owned(), json!({"name": "orders"}));
    object
}

fn address(kind: &str) -> Value {
    of_service(&json!({"address": {"type": kind}}))
}

/// Waits until exactly these keys of `orders` have these values.
async fn wait_values(namespace: &Namespace, expected: &[(&str, &str)]) {
    let prefix = plain_prefix(namespace, "orders");
    let what = format!("{expected:?} below {prefix}");
    let found = until(&what, SOON, || async {
        let held = bed()
            .await
            .registry()
            .dump(&prefix)
            .await
            .map_err(|error| error.to_string())?;
        let found: Vec<(&str, &str)> = held
            .iter()
            .map(|(key, held)| (&key[prefix.len()..], held.value.as_str()))
            .collect();
        (found == expected).then_some(()).ok_or(format!("there are {found:?}"))
    });
    found.await.unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until a condition has this reason and a message with these words.
async fn wait_message(namespace: &Namespace, kind: &str, reason: &str, words: &str) {
    let reported = |object: &Value| condition(object, kind).1 == reason && message(object, kind).contains(words);
    let found = namespace
        .objects()
        .wait((API, "ServiceRegistration", "orders"), reported, SOON)
        .await;
    found.unwrap_or_else(|error| panic!("waiting for {kind} {reason} {words}: {error}"));
}

#[tokio::test]
async fn service_with_a_selector_registers_its_pods_and_follows_its_edits() -> Result<()> {
    let namespace = bed().await.namespace("service").await?;
    namespace.apply(of_service(&json!({}))).await?;
    wait_condition(namespace.objects(), "orders", "Accepted", "False", "ServiceNotFound").await;
    let refused = namespace
        .objects()
        .get(API, "ServiceRegistration", "orders")
        .await?
        .expect("it is there");
    assert_eq!(
        condition(&refused, "Ready"),
        ("False".to_owned(), "NotAccepted".to_owned())
    );
    namespace.apply(service(&json!({}))).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.7.1")).await?;
    namespace.create_pod(&pod("b", "orders").ip("10.9.7.2")).await?;
    namespace.create_pod(&pod("other", "bills").ip("10.9.7.3")).await?;
    wait_values(&namespace, &[("a", "10.9.7.1:8080"), ("b", "10.9.7.2:8080")]).await;
    let status = wait_in_sync(namespace.objects(), "orders", 2).await;
    assert_eq!(status.endpoints[0].port_name, "grpc");
    wait_condition(namespace.objects(), "orders", "Ready", "True", "EndpointsRegistered").await;

    namespace.set_ready("b", false).await?;
    wait_values(&namespace, &[("a", "10.9.7.1:8080")]).await;
    let ports = json!([{"name": "grpc", "port": 80, "targetPort": 9090, "protocol": "TCP"}]);
    namespace.apply(service(&json!({"ports": ports}))).await?;
    wait_values(&namespace, &[("a", "10.9.7.1:9090")]).await;
    namespace.apply(service(&json!({"selector": {"app": "bills"}}))).await?;
    wait_values(&namespace, &[("other", "10.9.7.3:8080")]).await;
    namespace.objects().delete("v1", "Service", "orders").await?;
    wait_values(&namespace, &[]).await;
    wait_condition(namespace.objects(), "orders", "Accepted", "False", "ServiceNotFound").await;
    namespace.apply(service(&json!({}))).await?;
    wait_values(&namespace, &[("a", "10.9.7.1:8080")]).await;
    wait_condition(namespace.objects(), "orders", "Accepted", "True", "Accepted").await;
    Ok(())
}

#[tokio::test]
async fn p1_pod_of_a_service_follows_readiness_without_extra_events() -> Result<()> {
    let namespace = bed().await.namespace("service-p1").await?;
    namespace.apply(service(&json!({"clusterIP": "None"}))).await?;
    namespace.apply(of_service(&json!({}))).await?;
    namespace
        .create_pod(&pod("a", "orders").unready().ip("10.9.7.4"))
        .await?;
    wait_condition(namespace.objects(), "orders", "Ready", "False", "NoReadyPods").await;
    let prefix = plain_prefix(&namespace, "orders");
    let history = History::watch(bed().await.registry(), &prefix, 0).await?;
    for ready in [true, false, true] {
        namespace.set_ready("a", ready).await?;
        let expected: &[&str] = if ready { &["a"] } else { &[] };
        wait_keys(bed().await.registry(), &prefix, expected).await;
    }
    namespace.delete_pod("a").await?;
    wait_keys(bed().await.registry(), &prefix, &[]).await;
    let events = wait_events(&history, 4).await;
    assert_eq!(events.len(), 4, "{events:?}");
    Ok(())
}

#[tokio::test]
async fn p2_unregistered_services_and_their_pods_write_nothing() -> Result<()> {
    let namespace = bed().await.namespace("service-p2").await?;
    namespace.apply(service(&json!({}))).await?;
    namespace.apply(of_service(&json!({}))).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let prefix = plain_prefix(&namespace, "orders");
    let history = History::watch(bed().await.registry(), &prefix, 0).await?;
    let mut other = service(&json!({"selector": {"app": "bills"}}));
    other["metadata"]["name"] = json!("bills");
    namespace.apply(other.clone()).await?;
    namespace.create_pod(&pod("x", "bills")).await?;
    other["spec"]["ports"][0]["targetPort"] = json!(7070);
    namespace.apply(other).await?;
    // What the endpoints do not depend on.
    namespace
        .apply(service(&json!({"sessionAffinity": "ClientIP"})))
        .await?;
    // A change that does write something shows that the operator has seen those before it.
    namespace.create_pod(&pod("b", "orders")).await?;
    let events = wait_events(&history, 1).await;
    assert!(events.len() == 1 && events[0].contains("/b"), "{events:?}");
    Ok(())
}

#[tokio::test]
async fn service_ports_are_chosen_by_name_or_number_and_missing_is_reported() -> Result<()> {
    let namespace = bed().await.namespace("service-ports").await?;
    let ports = json!([
        {"name": "grpc", "port": 80, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c", "protocol": "TCP"},
        {"name": "metrics", "port": 9100, "targetPort": 9101, "protocol": "TCP"},
    ]);
    namespace.apply(service(&json!({"ports": ports}))).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.7.5")).await?;
    namespace.apply(of_service(&json!({}))).await?;
    wait_values(
        &namespace,
        &[("a:grpc", "10.9.7.5:8080"), ("a:metrics", "10.9.7.5:9101")],
    )
    .await;
    let json_of = |ports: Value| {
        let format = json!([{"type": "Plain", "plain": {"value": "JSON"}}]);
        of_service(&json!({"ports": ports, "formats": format}))
    };
    namespace.apply(json_of(json!([{"name": "rpc", "port": 80}]))).await?;
    let prefix = plain_prefix(&namespace, "orders");
    let held = wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    let value: Value = serde_json::from_str(&held[&format!("{prefix}a")].value).expect("JSON");
    assert_eq!(
        (&value["portName"], &value["port"], &value["scheme"]),
        (&json!("rpc"), &json!(8080), &json!("h2c"))
    );
    namespace
        .apply(json_of(json!([{"name": "rpc", "port": 80}, {"name": "admin"}])))
        .await?;
    wait_message(&namespace, "Accepted", "ServiceUnusable", "\"admin\"").await;
    wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    Ok(())
}

#[tokio::test]
async fn publish_not_ready_addresses_registers_unready_pods_while_enabled() -> Result<()> {
    let namespace = bed().await.namespace("service-publish").await?;
    namespace
        .apply(service(&json!({"clusterIP": "None", "publishNotReadyAddresses": true})))
        .await?;
    namespace.apply(of_service(&json!({}))).await?;
    namespace
        .create_pod(&pod("a", "orders").unready().ip("10.9.7.6"))
        .await?;
    wait_values(&namespace, &[("a", "10.9.7.6:8080")]).await;
    namespace
        .apply(service(
            &json!({"clusterIP": "None", "publishNotReadyAddresses": false}),
        ))
        .await?;
    wait_values(&namespace, &[]).await;
    Ok(())
}

#[tokio::test]
async fn a_service_without_a_selector_follows_its_slices_and_mirrored_endpoints() -> Result<()> {
    let namespace = bed().await.namespace("service-slices").await?;
    let mut bare = service(&json!({"ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}));
    bare["spec"].as_object_mut().expect("a spec").remove("selector");
    namespace.apply(bare).await?;
    namespace.apply(of_service(&json!({}))).await?;
    let slice = |ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "orders-1", "labels": {
                    "kubernetes.io/service-name": "orders", "endpointslice.kubernetes.io/managed-by": "tests"
                }
            },
            "endpoints": [
                {"addresses": ["192.0.2.7"], "conditions": {"ready": ready}}, {"addresses": ["192.0.2.8"]}
            ],
            "ports": [{"name": "sql", "port": 15432, "protocol": "TCP"}],
        })
    };
    namespace.apply(slice(true)).await?;
    wait_values(
        &namespace,
        &[("192-0-2-7", "192.0.2.7:15432"), ("192-0-2-8", "192.0.2.8:15432")],
    )
    .await;
    wait_in_sync(namespace.objects(), "orders", 2).await;
    namespace.apply(slice(false)).await?;
    wait_values(&namespace, &[("192-0-2-8", "192.0.2.8:15432")]).await;
    namespace
        .objects()
        .delete("discovery.k8s.io/v1", "EndpointSlice", "orders-1")
        .await?;
    wait_values(&namespace, &[]).await;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "orders"},
        "subsets": [{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}],
    });
    namespace.apply(endpoints).await?;
    wait_values(&namespace, &[("192-0-2-9", "192.0.2.9:5432")]).await;
    Ok(())
}

#[tokio::test]
async fn the_cluster_ip_and_external_ips_are_registered_while_a_pod_is_ready() -> Result<()> {
    let namespace = bed().await.namespace("service-addresses").await?;
    let applied = namespace
        .apply(service(&json!({"externalIPs": ["192.0.2.10", "192.0.2.11"]})))
        .await?;
    let cluster_ip = applied["spec"]["clusterIP"].as_str().expect("a cluster IP").to_owned();
    let name = cluster_ip.replace('.', "-");
    namespace.apply(address("ClusterIP")).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    wait_values(&namespace, &[(&name, &format!("{cluster_ip}:80"))]).await;
    namespace.set_ready("a", false).await?;
    wait_values(&namespace, &[]).await;
    wait_condition(namespace.objects(), "orders", "Ready", "False", "NoReadyPods").await;
    namespace.set_ready("a", true).await?;
    namespace.apply(address("ExternalIP")).await?;
    wait_values(
        &namespace,
        &[("192-0-2-10", "192.0.2.10:80"), ("192-0-2-11", "192.0.2.11:80")],
    )
    .await;
    let status = wait_in_sync(namespace.objects(), "orders", 2).await;
    assert_eq!(status.endpoints[0].pod, "192-0-2-10");
    namespace.delete_pod("a").await?;
    wait_values(&namespace, &[]).await;
    wait_condition(namespace.objects(), "orders", "Ready", "True", "NoPods").await;
    Ok(())
}

#[tokio::test]
async fn load_balancer_is_registered_by_its_addresses_once_assigned() -> Result<()> {
    let namespace = bed().await.namespace("service-balancer").await?;
    namespace.apply(service(&json!({"type": "LoadBalancer"}))).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(address("LoadBalancer")).await?;
    wait_message(
        &namespace,
        "Accepted",
        "AddressPending",
        "kubectl describe service orders",
    )
    .await;
    let ingress = json!([{"ip": "203.0.113.7"}, {"hostname": "lb.example.com"}]);
    let reported = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    namespace.objects().merge_status(reported).await?;
    wait_values(
        &namespace,
        &[
            ("203-0-113-7", "203.0.113.7:80"),
            ("lb-example-com", "lb.example.com:80"),
        ],
    )
    .await;
    wait_condition(namespace.objects(), "orders", "Accepted", "True", "Accepted").await;
    namespace.apply(address("NodePort")).await?;
    let nodes = eligible_nodes().await?;
    wait_keys(
        bed().await.registry(),
        &plain_prefix(&namespace, "orders"),
        &names(&nodes),
    )
    .await;
    namespace.apply(service(&json!({"type": "ClusterIP"}))).await?;
    wait_message(&namespace, "Accepted", "ServiceUnusable", "give it the type NodePort").await;
    wait_values(&namespace, &[]).await;
    Ok(())
}

/// The nodes of the bed that load balancers may use.
async fn eligible_nodes() -> Result<BTreeSet<String>> {
    let nodes = bed().await.objects().list("v1", "Node").await?;
    let eligible = nodes
        .iter()
        .filter(|node| node["metadata"]["labels"][EXCLUDE].is_null());
    Ok(eligible
        .map(|node| node["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect())
}

const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn names(nodes: &BTreeSet<String>) -> Vec<&str> {
    nodes.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn a_node_port_is_registered_on_the_nodes_that_load_balancers_may_use() -> Result<()> {
    let namespace = bed().await.namespace("service-nodes").await?;
    let applied = namespace.apply(service(&json!({"type": "NodePort"}))).await?;
    let port = applied["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    let format = json!([{"type": "Plain", "plain": {"value": "JSON"}}]);
    let by_node = of_service(&json!({"address": {"type": "NodePort"}, "formats": format}));
    namespace.apply(by_node).await?;
    let prefix = plain_prefix(&namespace, "orders");
    let etcd = bed().await.registry();
    let nodes = eligible_nodes().await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    let held = wait_keys(etcd, &prefix, &names(&nodes)).await;
    let node = nodes.first().expect("a node");
    let value: Value = serde_json::from_str(&held[&format!("{prefix}{node}")].value).expect("JSON");
    assert_eq!((&value["port"], &value["node"]), (&json!(port), &json!(node)));
    let object = bed().await.objects().get("v1", "Node", node).await?.expect("a node");
    assert_eq!(
        value["zone"],
        object["metadata"]["labels"]["topology.kubernetes.io/zone"]
    );
    let addresses = object["status"]["addresses"].as_array().expect("addresses");
    assert!(
        addresses.iter().any(|address| address["address"] == value["address"]),
        "{value}"
    );
    wait_in_sync(
        namespace.objects(),
        "orders",
        u32::try_from(nodes.len()).expect("few nodes"),
    )
    .await;

    namespace.set_ready("a", false).await?;
    wait_keys(etcd, &prefix, &[]).await;
    wait_condition(namespace.objects(), "orders", "Ready", "False", "NoReadyPods").await;
    namespace.set_ready("a", true).await?;
    wait_keys(etcd, &prefix, &names(&nodes)).await;
    // Another pod of the Service changes nothing.
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.create_pod(&pod("b", "orders")).await?;
    namespace.delete_pod("a").await?;
    namespace.wait_pod_gone("a").await?;
    // Only a node of a pod, with the number of its pods as the weight.
    namespace
        .apply(service(&json!({"type": "NodePort", "externalTrafficPolicy": "Local"})))
        .await?;
    let of_b = namespace.objects().get("v1", "Pod", "b").await?.expect("a pod");
    let of_b = of_b["spec"]["nodeName"].as_str().expect("a node").to_owned();
    // If it is the only node, its key was there before.
    until("the weight of the node", SOON, || async {
        let held = wait_keys(etcd, &prefix, &[&of_b]).await;
        let value = &held[&format!("{prefix}{of_b}")].value;
        let json: Value = serde_json::from_str(value).map_err(|error| error.to_string())?;
        (json["weight"] == 1).then_some(()).ok_or_else(|| value.clone())
    })
    .await?;
    let events = history.settled().await?;
    let of_others = events.iter().filter(|event| !event.key.ends_with(&of_b)).count();
    assert_eq!(of_others, nodes.len() - 1, "each other node left once: {events:?}");
    Ok(())
}

#[tokio::test]
async fn a_host_port_is_registered_at_the_address_of_the_pods_node() -> Result<()> {
    let namespace = bed().await.namespace("host-port").await?;
    namespace
        .apply(registration("orders", &json!({"address": {"type": "HostIP"}})))
        .await?;
    let ports = json!([{"name": "grpc", "containerPort": 8080, "hostPort": 18080}]);
    let with_port = NewPod::new("a")
        .label("app", "orders")
        .with(&json!({"spec": {"containers": [{"name": "app", "image": "app", "ports": ports}]}}));
    namespace.create_pod(&with_port).await?;
    let created = namespace.objects().get("v1", "Pod", "a").await?.expect("a pod");
    let host = created["status"]["hostIP"]
        .as_str()
        .expect("the node's address")
        .to_owned();
    wait_values(&namespace, &[("a", &format!("{host}:18080"))]).await;
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_message(&namespace, "Synced", "EndpointsRefused", "has no hostPort").await;
    wait_values(&namespace, &[("a", &format!("{host}:18080"))]).await;
    Ok(())
}

#[tokio::test]
async fn attributes_from_node_labels_are_limited_to_zone_and_region() -> Result<()> {
    let namespace = bed().await.namespace("node-facts").await?;
    let format = json!([{"type": "Plain", "plain": {"value": "JSON"}}]);
    let attributes = json!([
        {"name": "zone", "fromLabel": "topology.kubernetes.io/zone"},
        {"name": "host", "fromLabel": "kubernetes.io/hostname"},
        {"name": "os", "fromLabel": "kubernetes.io/os"},
    ]);
    let spec = json!({"attributes": attributes, "formats": format});
    namespace.apply(registration("orders", &spec)).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    let prefix = plain_prefix(&namespace, "orders");
    let held = wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    let value: Value = serde_json::from_str(&held[&format!("{prefix}a")].value).expect("JSON");
    let node = value["node"].as_str().expect("a node").to_owned();
    let object = bed().await.objects().get("v1", "Node", &node).await?.expect("a node");
    let zone = &object["metadata"]["labels"]["topology.kubernetes.io/zone"];
    assert_eq!(
        value["metadata"],
        json!({"zone": zone}),
        "other labels of nodes are not for tenants"
    );
    Ok(())
}

#[tokio::test]
async fn minimal_registration_uses_the_default_formats_of_its_registry() -> Result<()> {
    let namespace = bed().await.namespace("service-short").await?;
    let endpoints = bed().await.registry().endpoints();
    let registry = |formats: Value| {
        json!({
            "apiVersion": API, "kind": "Registry", "metadata": {"name": "short"},
            "spec": {
                "etcd": {"endpoints": endpoints, "metaPrefix": "/leasehold-short/"},
                "defaults": {"formats": formats},
            },
        })
    };
    let objects = bed().await.objects();
    objects.apply(registry(json!([{"type": "Plain"}]))).await?;
    namespace.apply(service(&json!({}))).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.7.8")).await?;
    let short = json!({
        "apiVersion": API, "kind": "ServiceRegistration", "metadata": {"name": "orders"},
        "spec": {"registryRef": {"name": "short"}, "service": {"name": "orders"}},
    });
    namespace.apply(short).await?;
    wait_values(&namespace, &[("a", "10.9.7.8:8080")]).await;
    objects.apply(registry(json!([{"type": "EtcdGRPC"}]))).await?;
    let grpc = format!("{}/orders/", namespace.name());
    wait_keys(bed().await.registry(), &grpc, &["a"]).await;
    wait_values(&namespace, &[]).await;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    namespace.objects().delete(API, "ServiceRegistration", "orders").await?;
    wait_keys(bed().await.registry(), &grpc, &[]).await;
    objects.delete(API, "Registry", "short").await
}
