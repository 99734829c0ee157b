//! `docs/migrating.md`: a service that is on VMs and in Kubernetes at the same time, under one name.

use std::collections::BTreeSet;

use serde_json::json;
use testbed::Result;
use testbed::process::Port;

use crate::programs;
use crate::scene::{Scene, text_prefix};
use crate::support::{API, SOON};

#[tokio::test]
async fn a_service_moves_from_vms_to_pods_and_back_under_one_name() -> Result<()> {
    let scene = Scene::start("migrate").await?;
    let turn = &scene.turn;
    let port = Port::reserve()?;
    let vm = format!("127.64.1.1:{}", port.number());
    let _server = programs::health_server(turn, &vm).await?;
    let pods = scene.serving();
    let both: BTreeSet<String> = pods.iter().cloned().chain([vm.clone()]).collect();
    let readers = [&scene.grpc, &scene.python];

    // A VM registers itself, the way its own library does.
    let mut etcd = turn.etcd.client().await?;
    let keys = [
        format!("{}/orders/vm-1", turn.namespace.name()),
        format!("{}vm-1", text_prefix("orders", turn)),
    ];
    let values = [json!({"Op": 0, "Addr": vm, "Metadata": null}).to_string(), vm.clone()];
    for (key, value) in keys.iter().zip(values) {
        etcd.put(key.as_str(), value, None).await.expect("etcd takes it");
    }
    for reader in readers {
        reader.wait_view(&both).await?;
    }

    // Nothing that happens to the operator or the pods touches it.
    scene.operator.kill().await?;
    scene.operator.restart().await?;
    scene.operator.wait_ready(SOON).await?;
    let all = scene.kubelet.addresses();
    let (pod, address) = all.first_key_value().expect("three pods");
    turn.namespace.set_ready(pod, false).await?;
    let fewer: BTreeSet<String> = both.iter().filter(|other| *other != address).cloned().collect();
    for reader in readers {
        reader.wait_view(&fewer).await?;
    }

    // And back.
    turn.namespace
        .objects()
        .delete(API, "ServiceRegistration", "orders")
        .await?;
    // The guard never holds so few endpoints.
    for reader in readers {
        reader.wait_view(&BTreeSet::from([vm.clone()])).await?;
    }
    assert_eq!(scene.grpc.failures(), Vec::<String>::new());
    for key in &keys {
        let held = turn.etcd.dump(key).await?;
        assert!(held[key].mod_revision == held[key].create_revision, "{held:?}");
    }
    Ok(())
}
