//! Which keys a registration promises for a pod: written from what its definition says (`kubectl explain svcreg.spec`),
//! not from how the operator does it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::record::Pod;

/// The label that tells the zone of a pod.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What matters of a registration.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    namespace: String,
    service: String,
    labels: BTreeMap<String, String>,
    ports: Vec<Port>,
    outlets: Vec<Outlet>,
    metadata: BTreeMap<String, String>,
    weight: Option<u64>,
    version: Option<String>,
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
        Some(Self {
            // A Service selects the pods of the app of its name.
            labels: match text(&spec["service"]["name"]) {
                Some(app) => BTreeMap::from([("app".to_owned(), app)]),
                None => texts(&spec["selector"]["matchLabels"]),
            },
            ports,
            outlets,
            metadata: attributes(&spec["attributes"])?,
            weight: spec["weight"].as_u64(),
            version: text(&spec["version"]["fromLabel"]),
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

    /// The keys that a pod is to have, with their values as [`canonical`] has them.
    pub fn keys(&self, name: &str, pod: &Pod) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        let selected = self
            .labels
            .iter()
            .all(|(label, value)| pod.labels.get(label) == Some(value));
        let Some(address) = pod.address.as_ref().filter(|_| selected && pod.ready) else {
            return keys;
        };
        for port in &self.ports {
            let number = match &port.target {
                Target::Number(number) => Some(*number),
                Target::Named(wanted) => pod.ports.get(wanted).copied().map(u64::from),
            };
            let Some(number) = number else { continue };
            for outlet in &self.outlets {
                let mut key = format!("{}{name}", outlet.prefix);
                if self.ports.len() > 1 {
                    key.push(':');
                    key.push_str(&port.name);
                }
                let host_port = format!("{address}:{number}");
                let value = match outlet.style {
                    Style::HostPort => host_port,
                    Style::EtcdGRPC => json!({"Op": 0, "Addr": host_port, "Metadata": null}).to_string(),
                    Style::Json => self.json(name, pod, address, &port.name, number).to_string(),
                };
                keys.insert(key, value);
            }
        }
        keys
    }

    fn json(&self, name: &str, pod: &Pod, address: &str, port_name: &str, port: u64) -> Value {
        let mut json = Map::new();
        let mut tell = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                json.insert(field.to_owned(), value);
            }
        };
        let label = |label: &str| pod.labels.get(label).map(|value| json!(value));
        tell("address", Some(json!(address)));
        tell("port", Some(json!(port)));
        tell("portName", Some(json!(port_name)));
        tell("version", self.version.as_deref().and_then(label));
        tell("weight", self.weight.map(|weight| json!(weight)));
        tell("zone", label(ZONE));
        tell("node", pod.node.as_ref().map(|node| json!(node)));
        tell("pod", Some(json!(name)));
        tell("namespace", Some(json!(self.namespace)));
        tell("service", Some(json!(self.service)));
        tell("metadata", (!self.metadata.is_empty()).then(|| json!(self.metadata)));
        Value::Object(json)
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

fn attributes(list: &Value) -> Option<BTreeMap<String, String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let attributes = list.as_array().into_iter().flatten();
    attributes
        .map(|attribute| Some((text(&attribute["name"])?, text(&attribute["value"])?)))
        .collect()
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
            gate: None,
            address: Some("10.0.0.7".to_owned()),
            node: Some("n1".to_owned()),
            ports: BTreeMap::from([("grpc".to_owned(), 8080)]),
        }
    }

    #[test]
    fn a_ready_pod_that_is_selected_has_the_documented_keys() {
        let keys = registration(&json!({"formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}]})).keys("a", &pod(true));
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
        let keys = registration(&spec).keys("a", &pod(true));
        let written = r#"{"address":"10.0.0.7","port":80,"portName":"web","weight":10,"node":"n1","pod":"a","namespace":"shop","service":"orders","metadata":{"region":"eu"}}"#;
        assert_eq!(keys["/x/a:web"], canonical(written));
        assert_eq!(keys.len(), 2);
    }

    #[test]
    fn who_is_not_ready_or_not_selected_has_none() {
        let registration = registration(&json!({}));
        assert_eq!(registration.keys("a", &pod(false)).len(), 0);
        let stranger = Pod {
            labels: BTreeMap::new(),
            ..pod(true)
        };
        assert_eq!(registration.keys("a", &stranger).len(), 0);
    }
}
