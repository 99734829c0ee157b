//! The input and the output of every format: an endpoint and its records.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use super::transaction::{Key, Value};

/// One address and port of one pod, with all facts that a format can write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The namespace of the pod and of its registration.
    pub namespace: Arc<str>,
    /// The service's name, as consumers know it.
    pub service: Arc<str>,
    pub pod: Arc<str>,
    pub node: Option<Arc<str>>,
    /// The zone, from the pod's label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    pub address: IpAddr,
    pub port: u16,
    /// The port's name in the registration.
    pub port_name: Arc<str>,
    /// The protocol on the port, such as `grpc` or `http`.
    pub scheme: Option<Arc<str>>,
    /// The version of the software in the pod.
    pub version: Option<Arc<str>>,
    /// The endpoint's share of traffic, relative to the other endpoints of the service.
    pub weight: Option<u32>,
    /// Further facts for consumers, by name.
    pub metadata: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Endpoint {
    /// Returns the address and port as one text: `10.0.0.7:8080` or `[2001:db8::7]:8080`.
    pub fn host_port(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }
}

/// A key that should exist, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    pub value: Value,
}

impl Record {
    /// Returns a record with a text value.
    pub fn new(key: String, value: String) -> Self {
        Self {
            key: key.into(),
            value: value.into_bytes().into(),
        }
    }

    /// Returns a record with a compact JSON value. `value` contains only strings, numbers and maps with string keys.
    pub(crate) fn json(key: String, value: &impl Serialize) -> Self {
        let value = serde_json::to_vec(value).expect("strings, numbers and maps with string keys serialize");
        Self {
            key: key.into(),
            value: value.into(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::Endpoint;

    /// The endpoint of `tests/data/wire-vectors.txt`.
    pub fn orders() -> Endpoint {
        Endpoint {
            namespace: "shop".into(),
            service: "orders".into(),
            pod: "orders-7d9f-abcde".into(),
            node: Some("n1".into()),
            zone: Some("eu-1a".into()),
            address: "10.0.0.7".parse().expect("an address"),
            port: 8080,
            port_name: "grpc".into(),
            scheme: Some("grpc".into()),
            version: Some("1.4.2".into()),
            weight: Some(10),
            metadata: std::sync::Arc::new([("zone".into(), "eu-1a".into())].into()),
        }
    }
}
