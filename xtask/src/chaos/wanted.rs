//! Which keys a registration promises: written from what its definition says (`kubectl explain svcreg.spec`),
//! not from how the operator does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use super::record::Pod;

mod endpoints;

/// The label with the zone of a node or a pod.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The label with the region of a node.
pub const REGION: &str = "topology.kubernetes.io/region";

/// What the name of a pod's endpoint of the second family ends in.
pub const SECOND: &str = "_ipv6";

/// What matters of a registration.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    namespace: String,
    service: String,
    labels: BTreeMap<String, String>,
    /// The name of the Service that it is of, if it is of one.
    of: Option<String>,
    registers: Registers,
    ports: Vec<Port>,
    outlets: Vec<Outlet>,
    metadata: BTreeMap<String, String>,
    /// The attributes that are from labels of nodes, with these labels.
    node_labels: BTreeMap<String, String>,
    weight: Option<u64>,
    version: Option<String>,
    min_ready: Duration,
    /// The types of addresses of nodes, the preferred one first.
    node_addresses: Vec<NodeAddress>,
    /// The name of its Registry.
    registry: String,
    /// The labels of nodes that its Registry allows, besides those that are always allowed.
    allowed: BTreeSet<String>,
    /// Whether a pod is registered with its addresses of both families.
    both: bool,
}

/// What a registration registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    Pods,
    /// Pods, at the addresses of their nodes.
    HostPorts,
    Nodes,
    ClusterIPs,
    ExternalIPs,
    LoadBalancers,
}

impl Registers {
    /// Whether it is pods that have keys.
    pub fn are_pods(self) -> bool {
        matches!(self, Self::Pods | Self::HostPorts)
    }
}

/// A type of addresses of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeAddress {
    External,
    Internal,
}

#[derive(Clone, Debug, PartialEq)]
struct Port {
    name: String,
    target: Target,
}

#[derive(Clone, Debug, PartialEq)]
enum Target {
    Named(String),
    Number(u64),
}

/// A format and where it writes.
#[derive(Clone, Debug, PartialEq)]
struct Outlet {
    style: Style,
    prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    HostPort,
    Json,
    EtcdGRPC,
}

impl Registration {
    /// Reads the object; none when it says something that the chaos never writes.
    pub fn read(object: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (namespace, name) = (
            text(&object["metadata"]["namespace"])?,
            text(&object["metadata"]["name"])?,
        );
        let spec = &object["spec"];
        let service = text(&spec["serviceName"]).unwrap_or(name);
        let ports = spec["ports"].as_array()?.iter().map(port).collect::<Option<_>>()?;
        let outlets = spec["formats"].as_array()?.iter();
        let outlets = outlets
            .map(|format| outlet(format, &namespace, &service))
            .collect::<Option<_>>()?;
        let (metadata, node_labels) = attributes(&spec["attributes"])?;
        let registers = match spec["address"]["type"].as_str() {
            None | Some("PodIP") => Registers::Pods,
            Some("HostIP") => Registers::HostPorts,
            Some("NodePort") => Registers::Nodes,
            Some("ClusterIP") => Registers::ClusterIPs,
            Some("ExternalIP") => Registers::ExternalIPs,
            Some("LoadBalancer") => Registers::LoadBalancers,
            Some(_) => return None,
        };
        let families = spec["address"]["ipFamilies"].as_array();
        let families: Option<Vec<_>> = families.map(|families| families.iter().filter_map(Value::as_str).collect());
        let both = match families.as_deref() {
            None | Some(["IPv4"]) => false,
            Some(["IPv4", "IPv6"]) => true,
            Some(_) => return None,
        };
        let types = spec["address"]["nodeAddressTypes"].as_array();
        let node_addresses = match types {
            None => vec![NodeAddress::External, NodeAddress::Internal],
            Some(types) => types.iter().map(node_address).collect::<Option<_>>()?,
        };
        let of = text(&spec["service"]["name"]);
        Some(Self {
            // A Service selects the pods of the app of its name.
            labels: match of.clone() {
                Some(app) => BTreeMap::from([("app".to_owned(), app)]),
                None => texts(&spec["selector"]["matchLabels"]),
            },
            of,
            registers,
            ports,
            outlets,
            metadata,
            node_labels,
            weight: spec["weight"].as_u64(),
            version: text(&spec["version"]["fromLabel"]),
            min_ready: Duration::from_secs(spec["minReadySeconds"].as_u64().unwrap_or_default()),
            node_addresses,
            registry: text(&spec["registryRef"]["name"]).unwrap_or_else(|| "default".to_owned()),
            allowed: BTreeSet::new(),
            both,
            namespace,
            service,
        })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of its Registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The labels of nodes that its Registry allows, besides those that are always allowed.
    pub fn allowed(&self) -> &BTreeSet<String> {
        &self.allowed
    }

    /// The same while its Registry allows these labels of nodes.
    pub fn with_allowed(&self, allowed: &BTreeSet<String>) -> Self {
        Self {
            allowed: allowed.clone(),
            ..self.clone()
        }
    }

    /// The prefixes below which it writes, each with its slash.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.outlets.iter().map(|outlet| outlet.prefix.as_str())
    }

    /// The labels of the pods that it selects.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// What it registers.
    pub fn registers(&self) -> Registers {
        self.registers
    }

    /// How long a pod must have been ready before it is registered.
    pub fn min_ready(&self) -> Duration {
        self.min_ready
    }

    /// The name of the Service that it is of, if it is of one.
    pub fn service(&self) -> Option<&str> {
        self.of.as_deref()
    }

    /// Whether it is about a pod, or about what leads to that.
    pub fn selects(&self, pod: &Pod) -> bool {
        let mut labels = self.labels.iter();
        pod.namespace == self.namespace && labels.all(|(label, value)| pod.labels.get(label) == Some(value))
    }
}

/// A value such that two which mean the same are the same: the fields of a JSON object in order of their names.
pub fn canonical(value: &str) -> String {
    match serde_json::from_str::<Value>(value) {
        Ok(object @ Value::Object(_)) => object.to_string(),
        _ => value.to_owned(),
    }
}

fn texts(object: &Value) -> BTreeMap<String, String> {
    let entries = object.as_object().into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The attributes with their values, and those that are from labels of nodes with the labels.
fn attributes(list: &Value) -> Option<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let (mut values, mut labels) = (BTreeMap::new(), BTreeMap::new());
    for attribute in list.as_array().into_iter().flatten() {
        let name = attribute["name"].as_str()?.to_owned();
        match (attribute["value"].as_str(), attribute["fromNodeLabel"].as_str()) {
            (Some(value), None) => values.insert(name, value.to_owned()),
            (None, Some(label)) => labels.insert(name, label.to_owned()),
            _ => return None,
        };
    }
    Some((values, labels))
}

fn node_address(kind: &Value) -> Option<NodeAddress> {
    match kind.as_str()? {
        "ExternalIP" => Some(NodeAddress::External),
        "InternalIP" => Some(NodeAddress::Internal),
        _ => None,
    }
}

fn port(port: &Value) -> Option<Port> {
    let name = port["name"].as_str()?.to_owned();
    let target = match &port["port"] {
        Value::Null => Target::Named(name.clone()),
        Value::String(name) => Target::Named(name.clone()),
        number => Target::Number(number.as_u64()?),
    };
    Some(Port { name, target })
}

fn outlet(format: &Value, namespace: &str, service: &str) -> Option<Outlet> {
    let kind = format["type"].as_str()?;
    let options = match kind {
        "Plain" => &format["plain"],
        _ => &format["etcdGRPC"],
    };
    let (style, default) = match (kind, options["value"].as_str()) {
        ("Plain", None | Some("HostPort")) => (Style::HostPort, format!("/services/{namespace}/{service}")),
        ("Plain", Some("JSON")) => (Style::Json, format!("/services/{namespace}/{service}")),
        ("EtcdGRPC", None) => (Style::EtcdGRPC, format!("{namespace}/{service}")),
        _ => return None,
    };
    let prefix = options["prefix"].as_str().map_or(default, str::to_owned);
    Some(Outlet {
        style,
        prefix: format!("{prefix}/"),
    })
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::chaos::record::{Node, Service, ServicePort};

    /// A registration `orders` in `shop` of the pods `app: orders`.
    pub fn registration(spec: &Value) -> Registration {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"name": "grpc"}],
                "formats": [{"type": "Plain"}],
            },
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        Registration::read(&object).expect("readable")
    }

    /// A pod that it selects.
    pub fn pod(ready: bool) -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "orders".to_owned())]),
            ready,
            address: Some("10.0.0.7".to_owned()),
            node: Some("n1".to_owned()),
            ports: BTreeMap::from([("grpc".to_owned(), 8080)]),
            ..Pod::default()
        }
    }

    #[test]
    fn a_ready_pod_that_is_selected_has_the_documented_keys() {
        let keys =
            registration(&json!({"formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}]})).keys("a", &pod(true), None);
        let expected = [
            ("/services/shop/orders/a", "10.0.0.7:8080".to_owned()),
            (
                "shop/orders/a",
                canonical(r#"{"Op":0,"Addr":"10.0.0.7:8080","Metadata":null}"#),
            ),
        ];
        assert_eq!(keys, expected.map(|(key, value)| (key.to_owned(), value)).into());
    }

    #[test]
    fn wanted_json_matches_the_registration_spec() {
        let spec = json!({
            "formats": [{"type": "Plain", "plain": {"value": "JSON", "prefix": "/x"}}],
            "ports": [{"name": "grpc"}, {"name": "web", "port": 80}],
            "weight": 10,
            "attributes": [{"name": "region", "value": "eu"}],
        });
        let keys = registration(&spec).keys("a", &pod(true), None);
        let written = r#"{"address":"10.0.0.7","port":80,"portName":"web","weight":10,"node":"n1","pod":"a","namespace":"shop","service":"orders","metadata":{"region":"eu"}}"#;
        assert_eq!(keys["/x/a:web"], canonical(written));
        assert_eq!(keys.len(), 2);
    }

    #[test]
    fn unready_or_unselected_pod_has_no_keys() {
        let registration = registration(&json!({}));
        assert_eq!(registration.keys("a", &pod(false), None).len(), 0);
        let unselected = Pod {
            labels: BTreeMap::new(),
            ..pod(true)
        };
        assert_eq!(registration.keys("a", &unselected, None).len(), 0);
    }

    /// The node of [`pod`], with these labels.
    pub fn node(labels: &[(&str, &str)]) -> Node {
        let labels = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        Node {
            labels: labels.collect(),
            ready: true,
            excluded: false,
            external: None,
            internal: Some("192.0.2.1".to_owned()),
        }
    }

    /// The Service `orders`.
    pub fn service(local: bool) -> Service {
        let grpc = ServicePort {
            name: "grpc".to_owned(),
            port: 80,
            node_port: Some(30080),
        };
        Service {
            local,
            cluster_ip: Some("10.96.0.9".to_owned()),
            external_ips: vec!["192.0.2.10".to_owned()],
            ingress: vec!["203.0.113.7".to_owned(), "lb.example.com".to_owned()],
            ports: vec![grpc],
        }
    }
}
