//! The Kubernetes part of the bed: tests that keep to a namespace share one, those that break servers have their own.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use testbed::{Bed, BedConfig, EtcdVersion, NewPod, Result, shared};

const SOON: Duration = Duration::from_secs(30);

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn address(pod: &Pod) -> String {
    pod.status
        .as_ref()
        .and_then(|status| status.pod_ip.clone())
        .unwrap_or_default()
}

fn ready(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| condition.status.clone())
}

#[tokio::test]
async fn a_deployment_becomes_ready_with_addresses_and_endpoint_slices() -> Result<()> {
    let namespace = shared().await?.namespace("deployment").await?;
    namespace
        .create_deployment("orders", &[("app", "orders")], 3, &[("grpc", 8080)])
        .await?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "orders"},
        "spec": {"selector": {"app": "orders"}, "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc"}]},
    });
    namespace.apply(service).await?;
    let pods = namespace.wait_ready_pods("app=orders", 3).await?;
    let addresses: BTreeSet<_> = pods.iter().map(address).collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");

    let in_slices = testbed::until("the EndpointSlice to hold the pods", SOON, || async {
        let slices = namespace.objects().list("discovery.k8s.io/v1", "EndpointSlice").await?;
        let endpoints = slices
            .iter()
            .filter_map(|slice| slice["endpoints"].as_array())
            .flatten();
        let found: BTreeSet<_> = endpoints
            .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
            .collect();
        if found.len() == 3 {
            Ok(found)
        } else {
            Err(testbed::Error::Invalid(format!("{found:?}")))
        }
    });
    assert_eq!(in_slices.await?, addresses);

    namespace.scale("orders", 5).await?;
    namespace.wait_ready_pods("app=orders", 5).await?;
    namespace.scale("orders", 1).await?;
    namespace.wait_ready_pods("app=orders", 1).await?;
    Ok(())
}

#[tokio::test]
async fn readiness_and_addresses_stay_as_a_test_sets_them() -> Result<()> {
    let namespace = shared().await?.namespace("readiness").await?;
    namespace
        .create_pod(&NewPod::new("a").ip("127.64.0.7").port("grpc", 8080))
        .await?;
    let unready = namespace.set_ready("a", false).await?;
    assert_eq!(
        (ready(&unready).as_deref(), address(&unready).as_str()),
        (Some("False"), "127.64.0.7")
    );
    namespace.set_pod_ip("a", "127.64.0.8").await?;

    // Pods that kwok brings up later show that it has seen the changes above and let them be.
    namespace.create_pod(&NewPod::new("b")).await?;
    let pods = namespace.pods("app=a").await?;
    assert_eq!(
        (ready(&pods[0]).as_deref(), address(&pods[0]).as_str()),
        (Some("False"), "127.64.0.8")
    );
    let addresses = pods[0]
        .status
        .as_ref()
        .and_then(|status| status.pod_ips.clone())
        .unwrap_or_default();
    assert_eq!(addresses.len(), 1, "{addresses:?}");

    let again = namespace.set_ready("a", true).await?;
    assert_eq!(ready(&again).as_deref(), Some("True"));
    Ok(())
}

#[tokio::test]
async fn a_pod_can_be_born_unready() -> Result<()> {
    let namespace = shared().await?.namespace("unready").await?;
    let pod = namespace.create_pod(&NewPod::new("a").unready()).await?;
    assert_eq!(ready(&pod).as_deref(), Some("False"));
    assert!(address(&pod).starts_with("10.0."), "{}", address(&pod));
    namespace.set_ready("a", true).await?;
    namespace.wait_ready_pods("app=a", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_pod_goes_at_once_and_a_held_one_stays_terminating() -> Result<()> {
    let namespace = shared().await?.namespace("deletion").await?;
    namespace.create_pod(&NewPod::new("plain")).await?;
    namespace.create_pod(&NewPod::new("held").held_when_deleted()).await?;

    namespace.delete_pod("held").await?;
    let begin = Instant::now();
    namespace.delete_pod("plain").await?;
    namespace.wait_pod_gone("plain").await?;
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begin.elapsed()
    );

    let held = namespace.pods("app=held").await?;
    assert_eq!(name(&held[0]), "held");
    assert!(held[0].metadata.deletion_timestamp.is_some());
    assert_eq!(ready(&held[0]).as_deref(), Some("True"));
    namespace.release("held").await?;
    namespace.wait_pod_gone("held").await?;
    Ok(())
}

#[tokio::test]
async fn namespaces_of_one_name_are_apart_and_go_with_what_is_in_them() -> Result<()> {
    let bed = shared().await?;
    let (one, other) = (bed.namespace("twin").await?, bed.namespace("twin").await?);
    assert_ne!(one.name(), other.name());
    one.create_pod(&NewPod::new("a")).await?;
    assert_eq!(other.pods("").await?.len(), 0);
    bed.objects().delete("v1", "Namespace", one.name()).await?;
    one.wait_pod_gone("a").await
}

#[tokio::test]
async fn definitions_are_served_once_applied_and_kubectl_sees_their_objects() -> Result<()> {
    let bed = shared().await?;
    let folder = testbed::Folder::new("crds")?;
    let crd = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: registries.leasehold.dev}
spec:
  group: leasehold.dev
  scope: Cluster
  names: {kind: Registry, plural: registries, singular: registry}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
    std::fs::write(folder.path().join("registries.yaml"), crd).expect("write");
    bed.apply_crds_of(folder.path()).await?;
    let endpoints = bed.registry().endpoints();
    bed.create_registry("default", &endpoints, 15).await?;

    let mut kubectl = std::process::Command::new(bed.kubectl());
    kubectl.arg("--kubeconfig").arg(bed.kubeconfig()).args([
        "get",
        "registry",
        "default",
        "-o",
        "jsonpath={.spec.etcd.endpoints[0]}",
    ]);
    let output = kubectl.output().expect("kubectl runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        endpoints[0],
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[tokio::test]
async fn an_apiserver_restarts_on_its_data_and_its_address() -> Result<()> {
    let config = BedConfig {
        nodes: 2,
        etcd_members: 3,
        etcd_version: EtcdVersion::V3_5,
        ..BedConfig::default()
    };
    let bed = Bed::start(config).await?;
    let namespace = bed.namespace("restart").await?;
    namespace
        .create_deployment("orders", &[("app", "orders")], 2, &[])
        .await?;
    let before = namespace.wait_ready_pods("app=orders", 2).await?;
    let plane = bed.control_plane();
    let pid = plane.apiserver().pid();

    plane.apiserver().kill().await?;
    assert!(namespace.pods("").await.is_err(), "a dead API server answered");
    plane.restart_apiserver().await?;

    assert_ne!(plane.apiserver().pid(), pid);
    let after = namespace.wait_ready_pods("app=orders", 2).await?;
    assert_eq!(
        before.iter().map(|pod| &pod.metadata.uid).collect::<Vec<_>>(),
        after.iter().map(|pod| &pod.metadata.uid).collect::<Vec<_>>()
    );
    // The controllers, the scheduler and kwok find their way back by themselves.
    namespace.scale("orders", 4).await?;
    namespace.wait_ready_pods("app=orders", 4).await?;
    assert_eq!(bed.registry().endpoints().len(), 3);

    let (logs, pids) = (
        bed.logs().to_owned(),
        [
            plane.kwok().pid(),
            plane.scheduler().pid(),
            plane.controller_manager().pid(),
        ],
    );
    drop(bed);
    assert!(!logs.exists());
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives");
    }
    Ok(())
}
