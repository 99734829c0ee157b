//! The keys of pods, nodes and addresses.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{NodeAddress, REGION, Registers, Registration, SECOND, Style, Target, ZONE};
use crate::chaos::record::{Node, Pod, Service, ServicePort};

impl Registration {
    /// The keys that a pod on a node is to have once it has been ready for long enough, with their values as
    /// [`canonical`](super::canonical) has them.
    pub fn keys(&self, name: &str, pod: &Pod, node: Option<&Node>) -> BTreeMap<String, String> {
        let selected = self.registers.are_pods() && self.selects(pod);
        let at_node = self.registers == Registers::HostPorts;
        // No kubelet makes a pod ready on a node that is not.
        let lost = pod.waits && node.is_some_and(|node| !node.ready);
        let mut keys = BTreeMap::new();
        if !selected || !pod.ready || lost {
            return keys;
        }
        let label = |label: &str| pod.labels.get(label);
        let first = if at_node { &pod.host } else { &pod.address };
        let first = first.as_ref().map(|address| (name.to_owned(), address.clone()));
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
                Target::Named(wanted) if at_node => pod.host_ports.get(wanted).copied().map(u64::from),
                Target::Named(wanted) => pod.ports.get(wanted).copied().map(u64::from),
                Target::Number(number) => (!at_node).then_some(*number),
            }));
        }
        keys
    }

    /// Whether a pod that it registers does not have one of the ports that it asks for.
    pub fn lacks_port(&self, pod: &Pod) -> bool {
        let lacks = |target: &Target| match target {
            Target::Named(wanted) if self.registers == Registers::HostPorts => !pod.host_ports.contains_key(wanted),
            Target::Named(wanted) => !pod.ports.contains_key(wanted),
            Target::Number(_) => self.registers == Registers::HostPorts,
        };
        self.registers.are_pods() && self.selects(pod) && self.ports.iter().any(|port| lacks(&port.target))
    }

    /// The keys that a node is to have of a Service that so many pods serve: with local traffic, so many on this node.
    pub fn node_keys(&self, name: &str, node: &Node, service: &Service, serving: usize) -> BTreeMap<String, String> {
        let mut addresses = self.node_addresses.iter().filter_map(|kind| match kind {
            NodeAddress::External => node.external.as_ref(),
            NodeAddress::Internal => node.internal.as_ref(),
        });
        let is_used = self.registers == Registers::Nodes && node.ready && !node.excluded && serving > 0;
        let Some(address) = addresses.next().filter(|_| is_used) else {
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
        self.records(&endpoint, |target| of_service(service, target)?.node_port)
    }

    /// The keys that the addresses of a Service are to have that so many pods serve.
    pub fn address_keys(&self, service: &Service, serving: usize) -> BTreeMap<String, String> {
        let addresses: Vec<&String> = match self.registers {
            _ if serving == 0 => Vec::new(),
            Registers::ClusterIPs => service.cluster_ip.iter().collect(),
            Registers::ExternalIPs => service.external_ips.iter().collect(),
            Registers::LoadBalancers => service.ingress.iter().collect(),
            Registers::Pods | Registers::HostPorts | Registers::Nodes => Vec::new(),
        };
        let mut keys = BTreeMap::new();
        for address in addresses {
            let name = address.replace(['.', ':'], "-");
            let endpoint = Endpoint {
                id: name.clone(),
                name: &name,
                address: address.clone(),
                node: None,
                zone: None,
                version: None,
                weight: self.weight,
                metadata: self.attributes(None),
            };
            keys.extend(self.records(&endpoint, |target| of_service(service, target).map(|port| port.port)));
        }
        keys
    }

    /// The attributes of an endpoint on a node.
    fn attributes(&self, node: Option<&Node>) -> BTreeMap<String, String> {
        let is_published = |label: &str| matches!(label, ZONE | REGION) || self.allowed.contains(label);
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
        let mut report = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                json.insert(field.to_owned(), value);
            }
        };
        let metadata = &endpoint.metadata;
        let address = endpoint.address.trim_matches(['[', ']']);
        report("address", Some(json!(address)));
        report("port", Some(json!(port)));
        report("portName", Some(json!(port_name)));
        report("version", endpoint.version.map(|version| json!(version)));
        report("weight", endpoint.weight.map(|weight| json!(weight)));
        report("zone", endpoint.zone.map(|zone| json!(zone)));
        report("node", endpoint.node.map(|node| json!(node)));
        report("pod", Some(json!(endpoint.name)));
        report("namespace", Some(json!(self.namespace)));
        report("service", Some(json!(self.service)));
        report("metadata", (!metadata.is_empty()).then(|| json!(metadata)));
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

/// The port of a Service that a registration asks for.
fn of_service<'a>(service: &'a Service, target: &Target) -> Option<&'a ServicePort> {
    let mut ports = service.ports.iter();
    ports.find(|port| match target {
        Target::Number(number) => port.port == *number,
        Target::Named(name) => port.name == *name,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{node, pod, registration, service},
        *,
    };

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
    fn a_node_is_registered_with_the_preferred_address_that_it_has() {
        let address = |types: Value, external: Option<&str>| {
            let spec =
                json!({"service": {"name": "orders"}, "address": {"type": "NodePort", "nodeAddressTypes": types}});
            let node = Node {
                external: external.map(str::to_owned),
                ..node(&[])
            };
            let mut keys = registration(&spec)
                .node_keys("n1", &node, &service(false), 1)
                .into_values();
            keys.next()
        };
        let (inside, outside) = (
            Some("192.0.2.1:30080".to_owned()),
            Some("198.51.100.1:30080".to_owned()),
        );
        let external = Some("198.51.100.1");
        assert_eq!(address(Value::Null, external), outside);
        assert_eq!(address(Value::Null, None), inside);
        assert_eq!(address(json!(["InternalIP", "ExternalIP"]), external), inside);
        assert_eq!(address(json!(["ExternalIP"]), None), None);
    }

    #[test]
    fn attributes_are_from_labels_of_nodes_that_the_registry_allows() {
        let from = |name: &str, label: &str| json!({"name": name, "fromNodeLabel": label});
        let registration = registration(&json!({
            "formats": [{"type": "Plain", "plain": {"value": "JSON"}}],
            "attributes": [from("place", ZONE), from("cell", "example.org/rack"), from("cost", "example.org/cost"), from("area", REGION)],
        }));
        let registration = registration.with_allowed(&["example.org/rack".to_owned()].into());
        let metadata = |node: Option<&Node>| {
            let keys = registration.keys("a", &pod(true), node);
            let value: Value = serde_json::from_str(&keys["/services/shop/orders/a"]).expect("JSON");
            (value["zone"].clone(), value["metadata"].clone())
        };
        let labels = [(ZONE, "z1"), ("example.org/rack", "r1"), ("example.org/cost", "c1")];
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
    fn addresses_of_a_service_have_keys_while_pods_serve() {
        let keys = |kind: &str, serving: usize| {
            let spec = json!({"service": {"name": "orders"}, "address": {"type": kind}});
            registration(&spec).address_keys(&service(false), serving)
        };
        let expected = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            let key = |name: &str| format!("/services/shop/orders/{name}");
            all.iter()
                .map(|(name, value)| (key(name), (*value).to_owned()))
                .collect()
        };
        assert_eq!(keys("ClusterIP", 1), expected(&[("10-96-0-9", "10.96.0.9:80")]));
        assert_eq!(keys("ExternalIP", 1), expected(&[("192-0-2-10", "192.0.2.10:80")]));
        let both = [
            ("203-0-113-7", "203.0.113.7:80"),
            ("lb-example-com", "lb.example.com:80"),
        ];
        assert_eq!(keys("LoadBalancer", 2), expected(&both));
        assert_eq!(keys("LoadBalancer", 0), expected(&[]));
    }

    #[test]
    fn a_host_port_is_registered_at_the_address_of_the_node() {
        let registration = registration(&json!({"address": {"type": "HostIP"}}));
        assert_eq!(registration.keys("a", &pod(true), None).len(), 0);
        let on_host = Pod {
            host: Some("192.0.2.1".to_owned()),
            host_ports: BTreeMap::from([("grpc".to_owned(), 18080)]),
            ..pod(true)
        };
        let keys = registration.keys("a", &on_host, None);
        let expected = ("/services/shop/orders/a".to_owned(), "192.0.2.1:18080".to_owned());
        assert_eq!(keys, [expected].into());
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
