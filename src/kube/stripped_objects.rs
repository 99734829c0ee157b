//! Namespaces, Services, EndpointSlices and nodes with only the fields that the operator uses, decoded straight from the
//! watch.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use super::stripped::{Condition, lean_metadata};
use crate::index::{self, Addresses, ServiceType, TargetPort};
use crate::model::{Host, Protocol};

/// The label with the name of an EndpointSlice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label of an EndpointSlice with the name of what writes it.
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// The controller that writes the EndpointSlices of Services with a selector.
pub(super) const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// The label of a node that load balancers must not use.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The taint of a node that the cluster autoscaler is about to delete.
const DELETION_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = Namespace)]
pub(super) struct StrippedNamespace {
    #[serde(deserialize_with = "lean_metadata")]
    metadata: ObjectMeta,
}

impl From<StrippedNamespace> for index::NamespaceLabels {
    fn from(StrippedNamespace { metadata }: StrippedNamespace) -> Self {
        Self {
            name: metadata.name.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = Service)]
pub(super) struct StrippedService {
    #[serde(deserialize_with = "lean_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    selector: Option<BTreeMap<Arc<str>, Arc<str>>>,
    ports: Option<Vec<ServicePort>>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    publish_not_ready_addresses: bool,
    external_traffic_policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    #[serde(default)]
    name: String,
    protocol: Option<String>,
    port: u16,
    target_port: Option<IntOrString>,
    node_port: Option<u16>,
    app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
    hostname: Option<String>,
}

impl From<StrippedService> for index::Service {
    fn from(StrippedService { metadata, spec, status }: StrippedService) -> Self {
        let host = |ingress: Ingress| {
            let texts = [ingress.ip, ingress.hostname].into_iter().flatten();
            texts
                .filter(|text| !text.is_empty())
                .find_map(|text| text.parse::<Host>().ok())
        };
        let ips = spec.external_ips.unwrap_or_default();
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            kind: match spec.kind.as_deref() {
                Some("NodePort") => ServiceType::NodePort,
                Some("LoadBalancer") => ServiceType::LoadBalancer,
                Some("ExternalName") => ServiceType::ExternalName,
                _ => ServiceType::ClusterIP,
            },
            selector: spec.selector.unwrap_or_default(),
            ports: spec.ports.into_iter().flatten().filter_map(service_port).collect(),
            cluster_ips: Addresses::parse(spec.cluster_ips.iter().flatten().map(String::as_str)),
            external_ips: ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).collect(),
            ingress: status
                .load_balancer
                .ingress
                .into_iter()
                .flatten()
                .filter_map(host)
                .collect(),
            publish_not_ready: spec.publish_not_ready_addresses,
            local_traffic: spec.external_traffic_policy.as_deref() == Some("Local"),
            uid: metadata.uid.unwrap_or_default(),
            is_deleting: metadata.deletion_timestamp.is_some(),
            annotations: metadata.annotations.unwrap_or_default(),
        }
    }
}

/// Decodes a port; none if its protocol is one that a later Kubernetes adds.
fn service_port(port: ServicePort) -> Option<index::ServicePort> {
    Some(index::ServicePort {
        name: port.name.into(),
        protocol: Protocol::named(port.protocol.as_deref().unwrap_or("TCP"))?,
        number: port.port,
        target: match port.target_port {
            Some(IntOrString::String(name)) if !name.is_empty() => TargetPort::Name(name.into()),
            Some(IntOrString::Int(number)) if number != 0 => TargetPort::Number(u16::try_from(number).ok()?),
            _ => TargetPort::Number(port.port),
        },
        node_port: port.node_port.filter(|port| *port != 0),
        app_protocol: port.app_protocol.map(Into::into),
    })
}

#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = EndpointSlice)]
pub(super) struct StrippedSlice {
    #[serde(deserialize_with = "lean_metadata")]
    metadata: ObjectMeta,
    endpoints: Option<Vec<SliceEndpoint>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: SliceConditions,
    node_name: Option<Arc<str>>,
    zone: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SliceConditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlicePort {
    name: Option<Arc<str>>,
    protocol: Option<String>,
    port: Option<u16>,
}

impl From<StrippedSlice> for index::EndpointSlice {
    fn from(slice: StrippedSlice) -> Self {
        let StrippedSlice {
            metadata,
            endpoints,
            ports,
        } = slice;
        let service = metadata.labels.and_then(|mut labels| labels.remove(SERVICE_LABEL));
        let endpoint = |endpoint: SliceEndpoint| {
            let Ok(host) = endpoint.addresses.first()?.parse();
            let terminating = endpoint.conditions.terminating.unwrap_or_default();
            Some(index::SliceEndpoint {
                host,
                ready: endpoint.conditions.ready.unwrap_or(true) && !terminating,
                terminating,
                node: endpoint.node_name,
                zone: endpoint.zone,
            })
        };
        let port = |port: SlicePort| {
            Some(index::SlicePort {
                name: port.name.unwrap_or_default(),
                protocol: Protocol::named(port.protocol.as_deref().unwrap_or("TCP"))?,
                number: port.port?,
            })
        };
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            service: service.unwrap_or_default(),
            ports: ports.into_iter().flatten().filter_map(port).collect(),
            endpoints: endpoints.into_iter().flatten().filter_map(endpoint).collect(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = Node)]
pub(super) struct StrippedNode {
    #[serde(deserialize_with = "lean_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Option<Vec<Taint>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Taint {
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl From<StrippedNode> for index::Node {
    fn from(StrippedNode { metadata, spec, status }: StrippedNode) -> Self {
        let labels = metadata.labels.unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        let of = |kind: &str| {
            let texts = addresses.iter().filter(|address| address.kind == kind);
            Addresses::parse(texts.map(|address| address.address.as_str()))
        };
        let mut taints = spec.taints.iter().flatten();
        Self {
            name: metadata.name.unwrap_or_default(),
            external: of("ExternalIP"),
            internal: of("InternalIP"),
            ready: status.conditions.iter().flatten().any(Condition::is_ready),
            excluded: labels.contains_key(EXCLUDE_LABEL)
                || metadata.deletion_timestamp.is_some()
                || taints.any(|taint| taint.key == DELETION_TAINT),
            labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value, status: &Value) -> index::Service {
        let object = json!({"metadata": {"name": "orders", "namespace": "shop"}, "spec": spec, "status": status});
        serde_json::from_value::<StrippedService>(object)
            .expect("decodes")
            .into()
    }

    #[test]
    fn a_recorded_namespace_keeps_its_name_and_its_labels() {
        let recorded = json!({
            "metadata": {
                "name": "shop", "uid": "u", "labels": {"team": "shop"}, "annotations": {"owner": "x"},
                "managedFields": [{"manager": "kubectl"}]
            },
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}
        });
        let namespace = serde_json::from_value::<StrippedNamespace>(recorded).expect("decodes");
        let expected = index::NamespaceLabels {
            name: "shop".to_owned(),
            labels: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
        };
        assert_eq!(index::NamespaceLabels::from(namespace), expected);
    }

    #[test]
    fn a_service_keeps_its_ports_addresses_and_policies() {
        let spec = json!({
            "type": "LoadBalancer", "selector": {"app": "orders"}, "clusterIP": "10.96.0.9",
            "clusterIPs": ["10.96.0.9", "fd00::9"], "externalIPs": ["192.0.2.1", "odd"],
            "externalTrafficPolicy": "Local", "publishNotReadyAddresses": true,
            "ports": [
                {"name": "grpc", "protocol": "TCP", "port": 80, "targetPort": "grpc", "nodePort": 30080,
                 "appProtocol": "kubernetes.io/h2c"},
                {"name": "udp", "protocol": "UDP", "port": 53, "targetPort": 5353},
                {"name": "same", "port": 99}
            ]
        });
        let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7", "ipMode": "VIP"}, {"hostname": "lb.example.com"}]}});
        let service = service(&spec, &status);
        assert_eq!(service.kind, ServiceType::LoadBalancer);
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|port| {
                (
                    &*port.name,
                    port.protocol,
                    port.number,
                    port.target.clone(),
                    port.node_port,
                )
            })
            .collect();
        let expected = [
            ("grpc", Protocol::Tcp, 80, TargetPort::Name("grpc".into()), Some(30080)),
            ("udp", Protocol::Udp, 53, TargetPort::Number(5353), None),
            ("same", Protocol::Tcp, 99, TargetPort::Number(99), None),
        ];
        assert_eq!(ports, expected);
        assert_eq!(service.cluster_ips, Addresses::parse(["10.96.0.9", "fd00::9"]));
        assert_eq!(
            service.external_ips,
            ["192.0.2.1".parse::<IpAddr>().expect("an address")]
        );
        let ingress: Vec<String> = service.ingress.iter().map(ToString::to_string).collect();
        assert_eq!(ingress, ["203.0.113.7", "lb.example.com"]);
        assert!(service.publish_not_ready && service.local_traffic);
    }

    #[test]
    fn a_headless_service_without_a_selector_has_neither_addresses_nor_labels() {
        let service = service(
            &json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": null}),
            &json!({}),
        );
        assert_eq!(service.kind, ServiceType::ClusterIP);
        assert!(service.cluster_ips.is_empty() && service.selector.is_empty() && service.ports.is_empty());
    }

    #[test]
    fn an_endpoint_without_conditions_is_ready_and_a_terminating_one_is_not() {
        let slice = json!({
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {SERVICE_LABEL: "db"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["192.0.2.1"]},
                {"addresses": ["192.0.2.2", "192.0.2.3"], "conditions": {"ready": false}, "zone": "a"},
                {"addresses": ["192.0.2.4"], "conditions": {"ready": true, "terminating": true}, "nodeName": "n1"},
                {"addresses": []}
            ],
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}, {"name": "any", "port": null}]
        });
        let slice: index::EndpointSlice = serde_json::from_value::<StrippedSlice>(slice).expect("decodes").into();
        assert_eq!(slice.service, "db");
        let seen: Vec<_> = slice
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.host.to_string(), endpoint.ready, endpoint.terminating))
            .collect();
        let expected = [
            ("192.0.2.1", true, false),
            ("192.0.2.2", false, false),
            ("192.0.2.4", false, true),
        ];
        assert_eq!(
            seen,
            expected.map(|(host, ready, terminating)| (host.to_owned(), ready, terminating))
        );
        assert_eq!((slice.ports.len(), slice.ports[0].number), (1, 5432));
    }

    #[test]
    fn a_node_is_excluded_as_kubernetes_service_controller_excludes_it() {
        let node = |patch: Value| -> index::Node {
            let mut node = json!({
                "metadata": {"name": "n1", "labels": {"zone": "a", "other": "x"}},
                "spec": {},
                "status": {
                    "addresses": [
                        {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "192.0.2.1"},
                        {"type": "InternalIP", "address": "fd00::1"}, {"type": "Hostname", "address": "n1"}
                    ],
                    "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]
                }
            });
            for (path, value) in patch.as_object().expect("an object") {
                *node.pointer_mut(path).expect("a field") = value.clone();
            }
            serde_json::from_value::<StrippedNode>(node).expect("decodes").into()
        };
        let plain = node(json!({}));
        let labels = [("zone", "a"), ("other", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(plain.labels, labels.into());
        assert_eq!(plain.internal, Addresses::parse(["10.0.0.1", "fd00::1"]));
        assert_eq!(plain.external, Addresses::parse(["192.0.2.1"]));
        assert!(plain.ready && !plain.excluded);
        assert!(node(json!({"/metadata/labels": {EXCLUDE_LABEL: ""}})).excluded);
        assert!(node(json!({"/spec": {"taints": [{"key": DELETION_TAINT, "effect": "NoSchedule"}]}})).excluded);
        assert!(!node(json!({"/spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}})).excluded);
        assert!(!node(json!({"/status/conditions/1/status": "Unknown"})).ready);
        let leaving = json!({"/metadata": {"name": "n1", "deletionTimestamp": "2026-11-29T05:00:00Z"}});
        assert!(node(leaving).excluded);
    }
}
