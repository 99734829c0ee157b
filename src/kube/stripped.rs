//! Pods with only the fields that the operator uses, decoded straight from the watch. A whole `Pod` takes 42 KB of memory
//! and six times as long to decode. [`super::stripped_objects`] decodes the other kinds.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::index::{self, ANNOTATIONS, Addresses, PodPort, READINESS_GATE, ReadinessGate, WEIGHT_ANNOTATION};
use crate::model::Protocol;

#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = Pod)]
pub(super) struct StrippedPod {
    #[serde(deserialize_with = "lean_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    readiness_gates: Vec<Gate>,
}

#[derive(Clone, Debug, Deserialize)]
struct Gate {
    #[serde(rename = "conditionType")]
    condition: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Vec<ContainerPort>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ContainerPort {
    name: Option<String>,
    #[serde(rename = "containerPort")]
    number: u16,
    protocol: Option<String>,
    #[serde(rename = "hostPort", default)]
    host_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "hostIPs")]
    host_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    ip: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    last_transition_time: Seconds,
}

/// A time in seconds since 1970; none if it is missing or cannot be read. No pod is unreadable because of it.
#[derive(Clone, Copy, Debug, Default)]
struct Seconds(Option<NonZeroU32>);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as RFC 3339 writes it")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                let time = text.parse::<Timestamp>().ok();
                let seconds = time.and_then(|time| u32::try_from(time.as_second()).ok());
                Ok(Seconds(seconds.and_then(NonZeroU32::new)))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Seconds::default())
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl Condition {
    /// Whether the condition `Ready` is `True`.
    pub(super) fn is_ready(&self) -> bool {
        self.is_true("Ready")
    }

    fn is_true(&self, kind: &str) -> bool {
        self.kind == kind && self.status == "True"
    }
}

/// The kubelet's reason for a pod that is not ready only because of its readiness gates.
const GATES_NOT_READY: &str = "ReadinessGatesNotReady";

/// Returns the operator's readiness gate of a pod that is ready apart from it.
fn gate(uid: Option<&str>, gates: &[Gate], conditions: &[Condition]) -> Option<ReadinessGate> {
    let is_true = |kind: &str| conditions.iter().any(|condition| condition.is_true(kind));
    let is_ours = |gate: &&Gate| gate.condition == READINESS_GATE;
    gates.iter().find(is_ours)?;
    let others_are_true = gates.iter().all(|gate| is_ours(&gate) || is_true(&gate.condition));
    if is_true("Ready") || !is_true("ContainersReady") || !others_are_true {
        return None;
    }
    let is_open = is_true(READINESS_GATE);
    // The kubelet makes the pod ready a moment after the gate has opened. Another reason says that the pod was ready
    // before: its node is lost.
    let is_lost =
        |condition: &Condition| condition.kind == "Ready" && condition.reason.as_deref() != Some(GATES_NOT_READY);
    (!is_open || !conditions.iter().any(is_lost)).then(|| ReadinessGate {
        uid: Arc::from(uid.unwrap_or_default()),
        is_open,
    })
}

/// Returns since when a ready pod, or a pod that is ready apart from the operator's readiness gate, has been so.
fn ready_since(gates: &[Gate], conditions: &[Condition]) -> Option<NonZeroU32> {
    let since = |kind: &str| {
        let condition = conditions.iter().find(|condition| condition.is_true(kind))?;
        condition.last_transition_time.0
    };
    let is_ours = |gate: &Gate| gate.condition == READINESS_GATE;
    if !gates.iter().any(is_ours) {
        return since("Ready");
    }
    // `Ready` becomes true again after the pod was registered, because the gate opens then.
    let others = gates.iter().filter(|gate| !is_ours(gate));
    let others = others.filter_map(|gate| since(&gate.condition)).max();
    since("ContainersReady").map(|containers| others.map_or(containers, |others| containers.max(others)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StrippedMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: OurAnnotations,
    deletion_timestamp: Option<Time>,
}

/// The annotations that the operator reads. All others are skipped while decoding.
#[derive(Default)]
struct OurAnnotations(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for OurAnnotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ours;
        impl<'de> Visitor<'de> for Ours {
            type Value = OurAnnotations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut ours = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name.starts_with(ANNOTATIONS) {
                        ours.insert(name, map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(OurAnnotations(ours))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(OurAnnotations::default())
            }
        }
        deserializer.deserialize_any(Ours)
    }
}

pub(super) fn lean_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let lean = StrippedMetadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        labels: lean.labels,
        annotations: Some(lean.annotations.0),
        deletion_timestamp: lean.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

impl From<StrippedPod> for index::Pod {
    fn from(pod: StrippedPod) -> Self {
        let StrippedPod { metadata, spec, status } = pod;
        let addresses = |all: &[PodIp], first: Option<&str>| match all {
            [] => Addresses::parse(first),
            all => Addresses::parse(all.iter().map(|address| address.ip.as_str())),
        };
        // An init container with this restart policy is a sidecar: it runs as long as the pod.
        let sidecars = spec
            .init_containers
            .into_iter()
            .filter(|init| init.restart_policy.as_deref() == Some("Always"));
        // Kubernetes resolves port names in this order: application containers first, sidecars after them.
        let containers = spec.containers.into_iter().chain(sidecars);
        let ports = containers.flat_map(|container| container.ports);
        let useful = |port: ContainerPort| {
            let host_port = NonZeroU16::new(port.host_port);
            if port.name.is_none() && host_port.is_none() {
                return None;
            }
            Some(PodPort {
                name: port.name.unwrap_or_default(),
                number: port.number,
                // A registration cannot ask for a protocol that a later Kubernetes adds.
                protocol: Protocol::named(port.protocol.as_deref().unwrap_or("TCP"))?,
                host_port,
            })
        };
        let gate = gate(metadata.uid.as_deref(), &spec.readiness_gates, &status.conditions);
        let ready = status.conditions.iter().any(Condition::is_ready);
        let ready_since = (ready || gate.is_some()).then(|| ready_since(&spec.readiness_gates, &status.conditions));
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            weight: metadata.annotations.and_then(|mut ours| ours.remove(WEIGHT_ANNOTATION)),
            addresses: addresses(&status.pod_ips, status.pod_ip.as_deref()),
            host_addresses: addresses(&status.host_ips, status.host_ip.as_deref()),
            node: spec.node_name,
            ports: ports.filter_map(useful).collect(),
            terminal: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: metadata.deletion_timestamp.is_some(),
            ready,
            ready_since: ready_since.flatten(),
            gate,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decode(pod: Value) -> index::Pod {
        serde_json::from_value::<StrippedPod>(pod).expect("decodes").into()
    }

    fn recorded() -> Value {
        json!({
            "metadata": {
                "name": "orders-7d9f-abcde", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                "labels": {"app": "orders"},
                "annotations": {"leasehold.dev/weight": "5", "kubernetes.io/psp": "x"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
                "unknownToThisVersion": {"a": [1]}
            },
            "spec": {
                "nodeName": "n1",
                "initContainers": [
                    {"name": "setup", "ports": [{"name": "grpc", "containerPort": 1}]},
                    {"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]}
                ],
                "containers": [{"name": "app", "ports": [{"name": "grpc", "containerPort": 8080}, {"containerPort": 9}]}]
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
            }
        })
    }

    #[test]
    fn a_recorded_pod_keeps_the_fields_that_matter() {
        let pod = decode(recorded());
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("shop", "orders-7d9f-abcde")
        );
        assert_eq!(pod.labels.get("app").map(String::as_str), Some("orders"));
        assert_eq!(pod.weight.as_deref(), Some("5"));
        assert_eq!(pod.node.as_deref(), Some("n1"));
        assert_eq!(pod.addresses, Addresses::parse(["10.0.0.7", "fd00::7"]));
        assert!(pod.ready && !pod.terminal && !pod.terminating);
    }

    #[test]
    fn ports_of_sidecars_count_and_those_of_init_containers_do_not() {
        let ports = decode(recorded()).ports;
        let named: Vec<_> = ports.iter().map(|port| (port.name.as_str(), port.number)).collect();
        assert_eq!(named, [("grpc", 8080), ("proxy", 15001)]);
    }

    #[test]
    fn a_port_without_a_protocol_is_tcp() {
        let mut pod = recorded();
        pod["spec"]["containers"][0]["ports"] = json!([
            {"name": "a", "containerPort": 1}, {"name": "b", "containerPort": 2, "protocol": "UDP"},
            {"name": "c", "containerPort": 3, "protocol": "SCTP"}, {"name": "d", "containerPort": 4, "protocol": "QUIC"},
        ]);
        let ports = decode(pod).ports;
        let ports: Vec<_> = ports.iter().map(|port| (port.number, port.protocol)).collect();
        let expected = [
            (1, Protocol::Tcp),
            (2, Protocol::Udp),
            (3, Protocol::Sctp),
            (15001, Protocol::Tcp),
        ];
        assert_eq!(ports, expected);
    }

    #[test]
    fn a_pod_that_is_barely_there_decodes() {
        let pod = decode(json!({"metadata": {"name": "p", "namespace": "n", "annotations": null}}));
        assert!(!pod.ready && pod.addresses == Addresses::default() && pod.labels.is_empty());
    }

    #[test]
    fn a_pod_on_its_way_out_is_terminating_and_a_finished_one_terminal() {
        let mut leaving = recorded();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-11-21T07:00:00Z");
        assert!(decode(leaving).terminating);
        for phase in ["Succeeded", "Failed"] {
            let mut finished = recorded();
            finished["status"]["phase"] = json!(phase);
            assert!(decode(finished).terminal, "{phase}");
        }
    }

    /// The recorded pod with the operator's gate, another gate, and these conditions of type, status and reason.
    fn gated(conditions: &[(&str, &str, &str)]) -> Option<ReadinessGate> {
        let mut pod = recorded();
        pod["spec"]["readinessGates"] =
            json!([{"conditionType": "lb.example.com/ready"}, {"conditionType": READINESS_GATE}]);
        let conditions = conditions.iter().map(|(kind, status, reason)| match *reason {
            "" => json!({"type": kind, "status": status}),
            reason => json!({"type": kind, "status": status, "reason": reason}),
        });
        pod["status"]["conditions"] = conditions.collect();
        decode(pod).gate
    }

    #[test]
    fn a_pod_waits_for_its_gate_when_it_is_ready_apart_from_it() {
        let waiting = ("Ready", "False", GATES_NOT_READY);
        let (containers, other) = (("ContainersReady", "True", ""), ("lb.example.com/ready", "True", ""));
        let gate = |is_open| {
            Some(ReadinessGate {
                uid: "u1".into(),
                is_open,
            })
        };
        assert_eq!(gated(&[waiting, containers, other]), gate(false));
        assert_eq!(
            gated(&[containers, other]),
            gate(false),
            "the kubelet may write Ready later"
        );
        assert_eq!(gated(&[waiting, other, ("ContainersReady", "False", "")]), None);
        assert_eq!(gated(&[waiting, containers]), None, "the other gate is closed");
        assert_eq!(gated(&[("Ready", "True", ""), containers, other]), None);
        let open = (READINESS_GATE, "True", "");
        assert_eq!(gated(&[waiting, containers, other, open]), gate(true));
        assert_eq!(gated(&[containers, other, open]), gate(true));
        let lost = ("Ready", "False", "");
        assert_eq!(
            gated(&[lost, containers, other, open]),
            None,
            "the node controller says so"
        );
    }

    #[test]
    fn a_pod_without_the_gate_does_not_wait_for_it() {
        let mut pod = recorded();
        pod["status"]["conditions"] = json!([{"type": "ContainersReady", "status": "True"}]);
        assert_eq!(decode(pod).gate, None);
    }

    fn since(gates: &[&str], conditions: &[(&str, &str, Value)]) -> Option<u32> {
        let mut pod = recorded();
        let gates = gates.iter().map(|gate| json!({"conditionType": gate}));
        pod["spec"]["readinessGates"] = gates.collect();
        let conditions = conditions
            .iter()
            .map(|(kind, status, time)| json!({"type": kind, "status": status, "reason": GATES_NOT_READY, "lastTransitionTime": time}));
        pod["status"]["conditions"] = conditions.collect();
        decode(pod).ready_since.map(NonZeroU32::get)
    }

    fn at(seconds: i64) -> Value {
        json!(Timestamp::from_second(seconds).expect("a time").to_string())
    }

    #[test]
    fn a_pod_is_ready_since_its_condition_ready_is_true() {
        let containers = ("ContainersReady", "True", at(100));
        assert_eq!(since(&[], &[("Ready", "True", at(107)), containers.clone()]), Some(107));
        assert_eq!(since(&[], &[("Ready", "False", at(107)), containers.clone()]), None);
        for unknown in [json!(null), json!("yesterday"), json!("1969-12-31T23:59:59Z")] {
            assert_eq!(since(&[], &[("Ready", "True", unknown), containers.clone()]), None);
        }
    }

    #[test]
    fn the_opening_of_the_gate_does_not_change_since_when_a_pod_is_ready() {
        let gates = [READINESS_GATE, "lb.example.com/ready"];
        let (containers, other) = (
            ("ContainersReady", "True", at(100)),
            ("lb.example.com/ready", "True", at(105)),
        );
        let closed = [("Ready", "False", at(90)), containers.clone(), other.clone()];
        let open = (READINESS_GATE, "True", at(200));
        let opened = [closed.clone().to_vec(), vec![open.clone()]].concat();
        let ready = [("Ready", "True", at(201)), containers.clone(), other, open.clone()];
        for conditions in [&closed[..], &opened, &ready] {
            let conditions: Vec<_> = conditions.to_vec();
            assert_eq!(since(&gates, &conditions), Some(105), "{conditions:?}");
        }
        let timeless = ("lb.example.com/ready", "True", json!(null));
        assert_eq!(
            since(&gates, &[("Ready", "True", at(201)), containers, timeless, open]),
            Some(100)
        );
    }

    #[test]
    fn three_hundred_ports_decode() {
        let mut pod = recorded();
        let ports: Vec<Value> = (1..=300)
            .map(|n| json!({"name": format!("p{n}"), "containerPort": n}))
            .collect();
        pod["spec"]["containers"][0]["ports"] = json!(ports);
        assert_eq!(decode(pod).ports.len(), 301);
    }

    #[test]
    fn invalid_pod_keeps_its_name() {
        let mut pod = recorded();
        pod["spec"]["containers"] = json!("not a list");
        let guarded: kube::core::DeserializeGuard<StrippedPod> =
            serde_json::from_value(pod).expect("the guard accepts every object");
        let invalid = guarded.0.expect_err("does not parse");
        assert_eq!(invalid.metadata.name.as_deref(), Some("orders-7d9f-abcde"));
    }
}
