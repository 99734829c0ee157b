//! Fuzz target for the decoding of pods: the input is bytes from an untrusted sender. See `src/fuzz`.

use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use kube::core::DeserializeGuard;

use super::stripped::StrippedPod;
use crate::index::{self, Index, PodChange};

/// Words from which the fuzzer makes pods.
pub(crate) const WORDS: [&str; 40] = [
    "metadata",
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "labels",
    "annotations",
    "leasehold.dev/weight",
    "deletionTimestamp",
    "2026-01-02T03:04:05Z",
    "spec",
    "nodeName",
    "containers",
    "initContainers",
    "restartPolicy",
    "Always",
    "ports",
    "containerPort",
    "grpc",
    "status",
    "phase",
    "Running",
    "Succeeded",
    "podIP",
    "podIPs",
    "ip",
    "10.0.0.7",
    "fd00::7",
    "::ffff:10.0.0.7",
    "fe80::1%eth0",
    "conditions",
    "type",
    "Ready",
    "True",
    "False",
    "app",
    "orders",
    "topology.kubernetes.io/zone",
    "managedFields",
    "app.kubernetes.io/version",
];

/// Checks three properties. Decoding succeeds or fails for each object separately. A pod that Kubernetes' own type
/// decodes gives the same fields in `StrippedPod`. A decoded pod can be added to the index and deleted again, and
/// leaves nothing behind.
pub(crate) fn pods(input: &[u8]) -> String {
    let guarded = serde_json::from_slice::<DeserializeGuard<StrippedPod>>(input);
    let Ok(decoded) = serde_json::from_slice::<StrippedPod>(input) else {
        // The guard keeps a decoding error to itself, unless the input has no readable metadata.
        return match guarded {
            Ok(DeserializeGuard(decoded)) => format!("guarded {}", decoded.is_ok()),
            Err(error) => format!("{:?}", error.classify()),
        };
    };
    let lean = index::Pod::from(decoded);
    let whole = serde_json::from_slice::<Pod>(input).ok();
    if let Some(whole) = &whole {
        compare(&lean, whole);
    }
    let mut index = Index::new();
    index.apply_pod(&lean);
    assert_eq!(index.pod_count(), 1);
    assert_eq!(
        index.apply_pod(&lean),
        PodChange::None,
        "an unchanged pod leaves no dirty mark"
    );
    index.delete_pod(&lean.namespace, &lean.name);
    assert_eq!(index.pod_count(), 0);
    let index::Pod {
        labels,
        weight,
        addresses,
        node,
        ports,
        terminal,
        terminating,
        ready,
        ..
    } = &lean;
    let counts = [labels.len().min(8), ports.len().min(8)];
    let (v4, v6) = (addresses.v4.is_some(), addresses.v6.is_some());
    let has = [
        weight.is_some(),
        v4,
        v6,
        node.is_some(),
        *terminal,
        *terminating,
        *ready,
        whole.is_some(),
    ];
    format!("{counts:?} {has:?}")
}

/// The fields that both types have must be equal.
fn compare(lean: &index::Pod, whole: &Pod) {
    let metadata = &whole.metadata;
    assert_eq!(Some(&lean.name), metadata.name.as_ref().or(Some(&String::new())));
    assert_eq!(lean.labels, metadata.labels.clone().unwrap_or_default());
    assert_eq!(lean.terminating, metadata.deletion_timestamp.is_some());
    let status = whole.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
    assert_eq!(lean.ready, ready);
    let spec = whole.spec.clone().unwrap_or_default();
    assert_eq!(lean.node, spec.node_name);
    let inits = spec.init_containers.unwrap_or_default().into_iter();
    let sidecars = inits.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.into_iter().chain(sidecars);
    let ports = containers.flat_map(|it| it.ports.unwrap_or_default());
    let known = |port: &ContainerPort| ["TCP", "UDP", "SCTP"].contains(&port.protocol.as_deref().unwrap_or("TCP"));
    let useful: Vec<_> = ports
        .filter(known)
        .filter(|port| port.name.is_some() || port.host_port.is_some_and(|port| port != 0))
        .map(|port| (port.name.unwrap_or_default(), port.container_port))
        .collect();
    let ours = lean
        .ports
        .iter()
        .map(|port| (port.name.clone(), i32::from(port.number)));
    assert_eq!(ours.collect::<Vec<_>>(), useful);
}
