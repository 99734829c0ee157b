//! P2: nothing changed, nothing written.

use std::time::Duration;

use serde_json::json;
use testbed::{EtcdCluster, EtcdVersion, History, Result};

use crate::bed;
use crate::support::{plain_prefix, registration, version, wait_in_sync};

/// Four times the TTL below: without renewals, every key would be gone.
const SILENCE: Duration = Duration::from_mins(1);
const TTL: u32 = 15;

#[tokio::test]
async fn p2_unchanged_state_writes_nothing_and_leases_are_renewed() -> Result<()> {
    let bed = bed().await;
    let etcd = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    bed.create_registry("p2-silence", &etcd.endpoints(), TTL).await?;
    let namespace = bed.namespace("p2-silence").await?;
    namespace
        .create_deployment("orders", &[("app", "orders")], 5, &[("grpc", 8080)])
        .await?;
    namespace.wait_ready_pods("app=orders", 5).await?;
    let record_format = json!({
        "apiVersion": crate::support::API, "kind": "RecordFormat", "metadata": {"name": "p2-silence"},
        "spec": {"records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": "{{ hostPort }}"}]},
    });
    bed.objects().apply(record_format).await?;
    let spec = json!({
        "registryRef": {"name": "p2-silence"},
        "formats": [
            {"type": "Plain"},
            {"type": "EtcdGRPC"},
            {"type": "Custom", "custom": {"recordFormatRef": {"name": "p2-silence"}, "prefix": "/custom/p2-silence"}},
        ],
    });
    namespace.apply(registration("orders", &spec)).await?;
    wait_in_sync(namespace.objects(), "orders", 5).await;
    // The counters of the Registry's status may follow ten seconds later.
    let counted = |registry: &serde_json::Value| registry["status"]["keys"] == 15 && registry["status"]["leases"] == 1;
    let registry = (crate::support::API, "Registry", "p2-silence");
    bed.objects().wait(registry, counted, Duration::from_secs(30)).await?;

    let (revision, keys) = (
        etcd.revision().await?,
        etcd.dump(&plain_prefix(&namespace, "orders")).await?,
    );
    let objects = [
        ("ServiceRegistration", "orders"),
        ("Registry", "p2-silence"),
        ("RecordFormat", "p2-silence"),
    ];
    let mut versions = Vec::new();
    for (kind, name) in objects {
        versions.push(version(namespace.objects(), kind, name).await);
    }
    let history = History::watch(&etcd, "", 0).await?;
    // Not a wait for something to happen: that nothing does is the matter.
    tokio::time::sleep(SILENCE).await;

    history.assert_silent().await;
    assert_eq!(etcd.revision().await?, revision);
    assert_eq!(etcd.dump(&plain_prefix(&namespace, "orders")).await?, keys);
    for ((kind, name), before) in objects.into_iter().zip(versions) {
        assert_eq!(version(namespace.objects(), kind, name).await, before, "{kind} {name}");
    }
    bed.objects()
        .delete(crate::support::API, "Registry", "p2-silence")
        .await
}
