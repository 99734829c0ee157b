//! Which keys a registration promises for a pod: written from what its definition says (`kubectl explain svcreg.spec`),
//! not from how the operator does it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    manifests::RACK,
    record::{Node, Pod, Service},
};

/// The label that tells the zone of a node or a pod.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The label that tells the region of a node.
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
    /// Whether a pod is registered with its addresses of both families.
    both: bool,
}

/// What a registration registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    Pods,
    Nodes,
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
            Some("NodePort") => Registers::Nodes,
            Some(_) => return None,
        };
        let families = spec["address"]["ipFamilies"].as_array();
        let families: Option<Vec<_>> = families.map(|families| families.iter().filter_map(Value::as_str).collect());
        let both = match families.as_deref() {
            None | Some(["IPv4"]) => false,
            Some(["IPv4", "IPv6"]) => true,
            Some(_) => return None,
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
            both,
            namespace,
            service,
        })
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
        labels.all(|(label, value)| pod.labels.get(label) == Some(value))
    }

    /// The keys that a pod on a node is to have once it has been ready for long enough, with their values as [`canonical`] has
    /// them.
    pub fn keys(&self, name: &str, pod: &Pod, node: Option<&Node>) -> BTreeMap<String, String> {
        let selected = self.registers == Registers::Pods && self.selects(pod);
        // No kubelet makes a pod ready on a node that is not.
        let lost = pod.waits && node.is_some_and(|node| !node.ready);
        let mut keys = BTreeMap::new();
        if !selected || !pod.ready || lost {
            return keys;
        }
        let label = |label: &str| pod.labels.get(label);
        let first = pod.address.as_ref().map(|address| (name.to_owned(), address.clone()));
        let second = pod.ipv6.as_ref().filter(|_| self.both);
        let second = second.map(|address| (format!("{name}{SECOND}"), format!("[{address}]")));
        let endpoint = |(id, address): (String, String)| Endpoint {
            id,
            name,
            address,
            node: pod.node.as_deref(),
            zone: node.and_then(|node| node.labels.get(ZONE)).or_else(|| label(ZONE)),
            version: self.version.as_deref().and_then(label),
            weight: self.weight,
            metadata: self.attributes(node),
        };
        for one in [first, second].into_iter().flatten() {
            keys.extend(self.records(&endpoint(one), |target| match target {
                Target::Number(number) => Some(*number),
                Target::Named(wanted) => pod.ports.get(wanted).copied().map(u64::from),
            }));
        }
        keys
    }

    /// The keys that a node is to have of a Service that so many pods serve: with local traffic, so many on this node.
    pub fn node_keys(&self, name: &str, node: &Node, service: &Service, serving: usize) -> BTreeMap<String, String> {
        let Some(address) = node
            .address
            .as_ref()
            .filter(|_| node.ready && !node.excluded && serving > 0)
        else {
            return BTreeMap::new();
        };
        let pods = u64::try_from(serving).expect("it fits");
        let endpoint = Endpoint {
            id: name.to_owned(),
            name,
            address: address.clone(),
            node: Some(name),
            zone: node.labels.get(ZONE),
            version: None,
            weight: if service.local {
                Some(pods * self.weight.unwrap_or(1))
            } else {
                self.weight
            },
            metadata: self.attributes(Some(node)),
        };
        self.records(&endpoint, |target| {
            let mut ports = service.ports.iter();
            let port = ports.find(|port| match target {
                Target::Number(number) => port.port == *number,
                Target::Named(name) => port.name == *name,
            });
            port.and_then(|port| port.node_port)
        })
    }

    /// The attributes of an endpoint on a node.
    fn attributes(&self, node: Option<&Node>) -> BTreeMap<String, String> {
        let is_published = |label: &str| matches!(label, ZONE | REGION | RACK);
        let labels = self.node_labels.iter().filter(|(_, label)| is_published(label));
        let of_node = labels.filter_map(|(name, label)| Some((name.clone(), node?.labels.get(label)?.clone())));
        self.metadata.clone().into_iter().chain(of_node).collect()
    }

    /// The keys of an endpoint, whose ports have the numbers that `number` says.
    fn records(&self, endpoint: &Endpoint<'_>, number: impl Fn(&Target) -> Option<u64>) -> BTreeMap<String, String> {
        let Endpoint { id, address, .. } = endpoint;
        let mut keys = BTreeMap::new();
        for port in &self.ports {
            let Some(number) = number(&port.target) else { continue };
            for outlet in &self.outlets {
                let mut key = format!("{}{id}", outlet.prefix);
                if self.ports.len() > 1 {
                    key.push(':');
                    key.push_str(&port.name);
                }
                let host_port = format!("{address}:{number}");
                let value = match outlet.style {
                    Style::HostPort => host_port,
                    Style::EtcdGRPC => json!({"Op": 0, "Addr": host_port, "Metadata": null}).to_string(),
                    Style::Json => self.json(endpoint, &port.name, number).to_string(),
                };
                keys.insert(key, value);
            }
        }
        keys
    }

    fn json(&self, endpoint: &Endpoint<'_>, port_name: &str, port: u64) -> Value {
        let mut json = Map::new();
        let mut tell = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                json.insert(field.to_owned(), value);
            }
        };
        let metadata = &endpoint.metadata;
        let address = endpoint.address.trim_matches(['[', ']']);
        tell("address", Some(json!(address)));
        tell("port", Some(json!(port)));
        tell("portName", Some(json!(port_name)));
        tell("version", endpoint.version.map(|version| json!(version)));
        tell("weight", endpoint.weight.map(|weight| json!(weight)));
        tell("zone", endpoint.zone.map(|zone| json!(zone)));
        tell("node", endpoint.node.map(|node| json!(node)));
        tell("pod", Some(json!(endpoint.name)));
        tell("namespace", Some(json!(self.namespace)));
        tell("service", Some(json!(self.service)));
        tell("metadata", (!metadata.is_empty()).then(|| json!(metadata)));
        Value::Object(json)
    }
}

/// What clients connect to, and what is known of it.
struct Endpoint<'a> {
    /// Its name in keys.
    id: String,
    /// The name of its pod or node.
    name: &'a str,
    /// As it is before a port.
    address: String,
    node: Option<&'a str>,
    zone: Option<&'a String>,
    version: Option<&'a String>,
    weight: Option<u64>,
    metadata: BTreeMap<String, String>,
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
    use super::*;
    use crate::chaos::record::ServicePort;

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
            labels: BTreeMap::from([("app".to_owned(), "orders".to_owned())]),
            ready,
            waits: false,
            since: None,
            gate: None,
            address: Some("10.0.0.7".to_owned()),
            ipv6: None,
            node: Some("n1".to_owned()),
            ports: BTreeMap::from([("grpc".to_owned(), 8080)]),
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
    fn json_tells_what_the_definition_says() {
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
    fn who_is_not_ready_or_not_selected_has_none() {
        let registration = registration(&json!({}));
        assert_eq!(registration.keys("a", &pod(false), None).len(), 0);
        let stranger = Pod {
            labels: BTreeMap::new(),
            ..pod(true)
        };
        assert_eq!(registration.keys("a", &stranger, None).len(), 0);
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
            address: Some("192.0.2.1".to_owned()),
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
            ports: vec![grpc],
        }
    }

    #[test]
    fn a_node_that_load_balancers_may_use_has_keys_while_pods_serve() {
        let json = json!([{"type": "Plain", "plain": {"value": "JSON"}}]);
        let spec = json!({
            "service": {"name": "orders"}, "address": {"type": "NodePort"}, "formats": json, "weight": 3,
            "attributes": [{"name": "place", "fromNodeLabel": ZONE}],
        });
        let registration = registration(&spec);
        let value = |local: bool, serving: usize, node: &Node| {
            let keys = registration.node_keys("n1", node, &service(local), serving);
            keys.get("/services/shop/orders/n1").cloned()
        };
        let expected = |weight: u64| {
            let node = json!({
                "address": "192.0.2.1", "port": 30080, "portName": "grpc", "weight": weight, "zone": "z1", "node": "n1",
                "pod": "n1", "namespace": "shop", "service": "orders", "metadata": {"place": "z1"},
            });
            Some(node.to_string())
        };
        let node = node(&[(ZONE, "z1")]);
        assert_eq!(value(false, 2, &node), expected(3));
        assert_eq!(value(true, 2, &node), expected(6));
        assert_eq!(value(false, 0, &node), None);
        for (ready, excluded) in [(false, false), (true, true)] {
            let unfit = Node {
                ready,
                excluded,
                ..node.clone()
            };
            assert_eq!(value(false, 2, &unfit), None);
        }
        assert_eq!(registration.keys("a", &pod(true), Some(&node)).len(), 0);
    }

    #[test]
    fn attributes_are_from_labels_of_nodes_that_the_registry_allows() {
        let from = |name: &str, label: &str| json!({"name": name, "fromNodeLabel": label});
        let registration = registration(&json!({
            "formats": [{"type": "Plain", "plain": {"value": "JSON"}}],
            "attributes": [from("place", ZONE), from("cell", RACK), from("cost", "example.org/cost"), from("area", REGION)],
        }));
        let metadata = |node: Option<&Node>| {
            let keys = registration.keys("a", &pod(true), node);
            let value: Value = serde_json::from_str(&keys["/services/shop/orders/a"]).expect("JSON");
            (value["zone"].clone(), value["metadata"].clone())
        };
        let labels = [(ZONE, "z1"), (RACK, "r1"), ("example.org/cost", "c1")];
        let expected = (json!("z1"), json!({"place": "z1", "cell": "r1"}));
        assert_eq!(metadata(Some(&node(&labels))), expected);
        assert_eq!(metadata(Some(&node(&[]))), (Value::Null, Value::Null));
        assert_eq!(metadata(None), (Value::Null, Value::Null));
    }

    #[test]
    fn of_both_families_the_second_has_a_name_of_its_own() {
        let dual = Pod {
            ipv6: Some("fd00::7".to_owned()),
            ..pod(true)
        };
        let both = json!({"ipFamilies": ["IPv4", "IPv6"]});
        let text = registration(&json!({"address": both}));
        let first = ("/services/shop/orders/a".to_owned(), "10.0.0.7:8080".to_owned());
        let second = ("/services/shop/orders/a_ipv6".to_owned(), "[fd00::7]:8080".to_owned());
        assert_eq!(text.keys("a", &dual, None), [first.clone(), second.clone()].into());
        assert_eq!(text.keys("a", &pod(true), None), [first.clone()].into());
        assert_eq!(registration(&json!({})).keys("a", &dual, None), [first].into());
        let only = Pod {
            address: None,
            ..dual.clone()
        };
        assert_eq!(text.keys("a", &only, None), [second].into());
        let formats = json!([{"type": "Plain", "plain": {"value": "JSON"}}]);
        let json = registration(&json!({"address": both, "formats": formats})).keys("a", &dual, None);
        let value: Value = serde_json::from_str(&json["/services/shop/orders/a_ipv6"]).expect("JSON");
        assert_eq!((&value["address"], &value["pod"]), (&json!("fd00::7"), &json!("a")));
    }

    #[test]
    fn the_zone_is_that_of_the_node_or_else_of_the_pod() {
        let registration = registration(&json!({"formats": [{"type": "Plain", "plain": {"value": "JSON"}}]}));
        let mut pod = pod(true);
        pod.labels.insert(ZONE.to_owned(), "of-pod".to_owned());
        let zone = |node: &Node| {
            let keys = registration.keys("a", &pod, Some(node));
            serde_json::from_str::<Value>(&keys["/services/shop/orders/a"]).expect("JSON")["zone"].clone()
        };
        assert_eq!(zone(&node(&[(ZONE, "of-node")])), "of-node");
        assert_eq!(zone(&node(&[])), "of-pod");
    }

    #[test]
    fn a_pod_that_waits_for_its_gate_has_no_keys_on_a_node_that_is_not_ready() {
        let registration = registration(&json!({}));
        let lost = Node {
            ready: false,
            ..node(&[])
        };
        let waiting = Pod {
            waits: true,
            ..pod(true)
        };
        assert_eq!(registration.keys("a", &waiting, Some(&lost)).len(), 0);
        assert_eq!(registration.keys("a", &waiting, Some(&node(&[]))).len(), 1);
        assert_eq!(registration.keys("a", &pod(true), Some(&lost)).len(), 1);
    }
}
