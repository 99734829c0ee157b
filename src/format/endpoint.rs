//! What every format starts from and what it makes of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::plan::{Key, Value};

/// One address and port of one pod, with all that a format may tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The namespace of the pod and of its registration.
    pub namespace: Arc<str>,
    /// The service's name, as consumers know it.
    pub service: Arc<str>,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The node the pod runs on.
    pub node: Option<Arc<str>>,
    /// The zone, by the pod's label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// The address consumers dial.
    pub address: IpAddr,
    /// The port consumers dial.
    pub port: u16,
    /// The port's name in the registration.
    pub port_name: Arc<str>,
    /// The protocol spoken on the port, such as `grpc` or `http`.
    pub scheme: Option<Arc<str>>,
    /// The version of what runs in the pod.
    pub version: Option<Arc<str>>,
    /// The share of traffic this endpoint should get, relative to its siblings.
    pub weight: Option<u32>,
    /// Further facts for consumers, by name.
    pub metadata: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Endpoint {
    /// What consumers dial, as one text: `10.0.0.7:8080` or `[2001:db8::7]:8080`.
    pub fn host_port(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }
}

/// One key that should exist, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Value,
}

impl Record {
    /// A record of plain text.
    pub fn new(key: String, value: String) -> Self {
        Self {
            key: key.into(),
            value: value.into_bytes().into(),
        }
    }

    /// A record of JSON, without spaces. `value` holds texts, numbers and maps with text for keys.
    pub(super) fn json(key: String, value: &impl Serialize) -> Self {
        let value = serde_json::to_vec(value).expect("texts, numbers and maps with text for keys");
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
