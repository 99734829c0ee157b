//! Which pods and which ports are meant: what Kubernetes itself and kubectl say about the same words.

use serde_json::{Value, json};
use testbed::{Namespace, NewPod, Result, until};

use crate::bed;
use crate::support::{plain_prefix, pod, registration, wait_keys};

/// Container ports, each a name, a number and a protocol.
fn ports(ports: &[(&str, u16, &str)]) -> Value {
    let port = |(name, number, protocol): &(&str, u16, &str)| json!({"name": name, "containerPort": number, "protocol": protocol});
    ports.iter().map(port).collect()
}

fn container(name: &str, listed: &[(&str, u16, &str)]) -> Value {
    json!({"name": name, "image": "none", "ports": ports(listed)})
}

fn sidecar(name: &str, listed: &[(&str, u16, &str)]) -> Value {
    json!({"name": name, "image": "none", "restartPolicy": "Always", "ports": ports(listed)})
}

/// What the EndpointSlice controller makes of a Service; none while it has no port for it.
async fn in_slices(namespace: &Namespace, service: &str) -> Option<u64> {
    let slices = namespace.objects().list("discovery.k8s.io/v1", "EndpointSlice").await;
    let slices = slices.expect("the apiserver answers");
    let of_service = |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service;
    let mut ports = slices
        .iter()
        .filter(of_service)
        .filter_map(|slice| slice["ports"][0]["port"].as_u64());
    ports.next()
}

#[tokio::test]
async fn a_port_name_means_the_port_that_the_endpoint_slice_controller_finds() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("ports").await?;
    let tcp = |number| ("http", number, "TCP");
    let cases = [
        (
            "sidecar",
            "TCP",
            json!({"initContainers": [sidecar("proxy", &[tcp(15080)])], "containers": [container("app", &[tcp(8080)])]}),
            8080,
        ),
        (
            "two-sidecars",
            "TCP",
            json!({
                "initContainers": [sidecar("proxy", &[tcp(15080)]), sidecar("other", &[tcp(15081)])],
                "containers": [container("app", &[("else", 8080, "TCP")])],
            }),
            15080,
        ),
        (
            "two-containers",
            "TCP",
            json!({"containers": [container("app", &[tcp(8080)]), container("other", &[tcp(9090)])]}),
            8080,
        ),
        (
            "by-protocol",
            "UDP",
            json!({
                "initContainers": [sidecar("proxy", &[("http", 15080, "UDP")])],
                "containers": [container("app", &[tcp(8080)]), container("other", &[("http", 5353, "UDP")])],
            }),
            5353,
        ),
        (
            "sidecar-by-protocol",
            "UDP",
            json!({
                "initContainers": [sidecar("proxy", &[("http", 15080, "UDP")])],
                "containers": [container("app", &[tcp(8080)])],
            }),
            15080,
        ),
    ];
    for (name, protocol, spec, _) in &cases {
        namespace
            .apply(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {
                    "selector": {"app": name},
                    "ports": [{"port": 80, "targetPort": "http", "protocol": protocol}],
                },
            }))
            .await?;
        let port = json!([{"name": "http", "protocol": protocol}]);
        namespace.apply(registration(name, &json!({"ports": port}))).await?;
        namespace
            .create_pod(&NewPod::new(name).with(&json!({"spec": spec})))
            .await?;
    }
    for (name, _, _, expected) in &cases {
        let found = until("the Service to have an endpoint", crate::support::SOON, || async {
            in_slices(&namespace, name).await.ok_or("it has no port")
        })
        .await?;
        let keys = wait_keys(bed.registry(), &plain_prefix(&namespace, name), &[name]).await;
        let value = &keys.values().next().expect("one key").value;
        let registered = value.rsplit(':').next().and_then(|port| port.parse::<u64>().ok());
        assert_eq!((registered, found), (Some(*expected), *expected), "{name}: {value}");
    }
    Ok(())
}

#[tokio::test]
async fn a_selector_means_the_pods_that_kubectl_lists() -> Result<()> {
    let bed = bed().await;
    let namespace = bed.namespace("selectors").await?;
    let selectors = [
        (
            "empty",
            json!({"matchLabels": {"app": "emp", "tier": ""}}),
            "app=emp,tier=",
        ),
        ("in-empty", expression("In", &[""]), "app=emp,tier in ()"),
        ("in", expression("In", &["x", "y"]), "app=emp,tier in (x,y)"),
        ("not-in", expression("NotIn", &["x"]), "app=emp,tier notin (x)"),
        ("not-in-empty", expression("NotIn", &[""]), "app=emp,tier notin ()"),
        ("exists", expression("Exists", &[]), "app=emp,tier"),
        ("not-there", expression("DoesNotExist", &[]), "app=emp,!tier"),
    ];
    for (name, selector, _) in &selectors {
        namespace
            .apply(registration(name, &json!({"selector": selector})))
            .await?;
    }
    namespace.create_pod(&pod("e1", "emp").label("tier", "")).await?;
    namespace.create_pod(&pod("e2", "emp")).await?;
    namespace.create_pod(&pod("e3", "emp").label("tier", "x")).await?;
    for (name, _, words) in &selectors {
        let listed = tokio::process::Command::new(bed.kubectl())
            .args([
                "get",
                "pods",
                "--namespace",
                namespace.name(),
                "--output",
                "jsonpath={.items[*].metadata.name}",
            ])
            .args(["--selector", words])
            .arg("--kubeconfig")
            .arg(bed.kubeconfig())
            .output()
            .await
            .expect("kubectl runs");
        assert!(listed.status.success(), "{words}: {listed:?}");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let listed: Vec<&str> = listed.split_whitespace().collect();
        assert!(!listed.is_empty() && listed.len() < 3, "{words}: {listed:?}");
        wait_keys(bed.registry(), &plain_prefix(&namespace, name), &listed).await;
    }
    Ok(())
}

fn expression(operator: &str, values: &[&str]) -> Value {
    let mut requirement = json!({"key": "tier", "operator": operator});
    if !values.is_empty() {
        requirement["values"] = json!(values);
    }
    json!({"matchLabels": {"app": "emp"}, "matchExpressions": [requirement]})
}
