//! What consumers read, end to end.

use serde_json::{Value, json};
use testbed::{NewPod, Result};

use crate::bed;
use crate::support::{pod, registration, wait_in_sync, wait_keys};

#[tokio::test]
async fn plain_json_tells_all_that_is_known_of_an_endpoint() -> Result<()> {
    let namespace = bed().await.namespace("json").await?;
    let prefix = format!("/json/{}/", namespace.name());
    let spec = json!({
        "ports": [{"name": "api", "port": 9090, "scheme": "http"}],
        "formats": [{"type": "Plain", "value": "Json", "prefix": prefix.trim_end_matches('/')}],
        "version": {"fromLabel": "version"},
        "weight": 10,
        "metadata": {"static": {"region": "eu", "zone": "unknown"}, "fromLabels": ["zone"]},
    });
    namespace.apply(registration("orders", &spec)).await?;
    let labelled = NewPod::new("a")
        .label("app", "orders")
        .label("version", "2.0")
        .label("zone", "eu-1a")
        .ip("10.9.2.1");
    namespace
        .create_pod(&labelled.annotation("leasehold.dev/weight", "3"))
        .await?;
    let held = wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    let value: Value = serde_json::from_str(&held[&format!("{prefix}a")].value).expect("JSON");
    assert_eq!((&value["address"], &value["port"]), (&json!("10.9.2.1"), &json!(9090)));
    assert_eq!((&value["version"], &value["weight"]), (&json!("2.0"), &json!(3)));
    assert_eq!((&value["portName"], &value["scheme"]), (&json!("api"), &json!("http")));
    assert_eq!(
        value["metadata"],
        json!({"region": "eu", "zone": "eu-1a"}),
        "a label wins"
    );
    assert_eq!(
        (&value["namespace"], &value["service"]),
        (&json!(namespace.name()), &json!("orders"))
    );
    Ok(())
}

#[tokio::test]
async fn each_port_has_a_key_of_its_own_and_a_format_may_carry_some_of_them() -> Result<()> {
    let namespace = bed().await.namespace("ports").await?;
    let plain = format!("/ports/{}/", namespace.name());
    let grpc = format!("ports/{}/", namespace.name());
    let spec = json!({
        "ports": [{"port": "grpc"}, {"name": "web", "port": 8081}],
        "formats": [
            {"type": "Plain", "prefix": plain.trim_end_matches('/')},
            {"type": "EtcdGrpc", "prefix": grpc.trim_end_matches('/'), "ports": ["grpc"]},
        ],
    });
    namespace.apply(registration("orders", &spec)).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.2.2")).await?;
    let etcd = bed().await.registry();
    let held = wait_keys(etcd, &plain, &["a:grpc", "a:web"]).await;
    let values: Vec<&str> = held.values().map(|held| held.value.as_str()).collect();
    assert_eq!(values, ["10.9.2.2:8080", "10.9.2.2:8081"]);
    let held = wait_keys(etcd, &grpc, &["a"]).await;
    let value: Value = serde_json::from_str(&held[&format!("{grpc}a")].value).expect("JSON");
    assert_eq!(value["Addr"], "10.9.2.2:8080");
    let status = wait_in_sync(namespace.objects(), "orders", 1).await;
    assert_eq!(
        (status.ready_endpoints, status.endpoints.len()),
        (Some(1), 2),
        "one pod, two endpoints"
    );
    Ok(())
}

#[tokio::test]
async fn a_named_port_is_looked_up_in_each_pod() -> Result<()> {
    let namespace = bed().await.namespace("named").await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    let old = NewPod::new("old")
        .label("app", "orders")
        .ip("10.9.2.3")
        .port("grpc", 8080);
    let new = NewPod::new("new")
        .label("app", "orders")
        .ip("10.9.2.4")
        .port("grpc", 9090);
    namespace.create_pod(&old).await?;
    namespace.create_pod(&new).await?;
    let prefix = crate::support::plain_prefix(&namespace, "orders");
    let held = wait_keys(bed().await.registry(), &prefix, &["new", "old"]).await;
    let values: Vec<&str> = held.values().map(|held| held.value.as_str()).collect();
    assert_eq!(values, ["10.9.2.4:9090", "10.9.2.3:8080"]);
    Ok(())
}
