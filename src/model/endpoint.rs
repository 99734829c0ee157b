//! The input and the output of every format: an endpoint and its records.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::network::Family;
use super::transaction::{Key, Value};

/// What a client connects to: an IP address, or a host name that the client resolves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Ip(IpAddr),
    /// Such as the host name of a load balancer.
    Name(Arc<str>),
}

impl Host {
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) => None,
        }
    }

    pub fn is_ipv6(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_ipv6())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

/// Takes text that is no IP address for a host name.
impl FromStr for Host {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.into()), Self::Ip))
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One address and port that clients connect to, with all facts that a format can write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The namespace of the pod and of its registration.
    pub namespace: Arc<str>,
    /// The service's name, as consumers know it.
    pub service: Arc<str>,
    /// The name of the pod. For an endpoint that is not a pod: the name of its node, or its address with dashes in place
    /// of dots and colons.
    pub pod: Arc<str>,
    pub node: Option<Arc<str>>,
    /// The zone, from the node's label `topology.kubernetes.io/zone`, or from the pod's if the node has none.
    pub zone: Option<Arc<str>>,
    pub address: Host,
    /// The family of the address, if the registration has both families and prefers the other one. Part of the endpoint's
    /// name, since both endpoints belong to the same pod or node.
    pub second_family: Option<Family>,
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
    /// Returns what distinguishes the endpoint from those of other pods, nodes and addresses of the registration: the
    /// name of the pod, with `_ipv4` or `_ipv6` behind it for the second family. No
    /// name of a pod or node contains an underscore.
    pub fn name(&self) -> Cow<'_, str> {
        match self.second_family {
            None => Cow::Borrowed(&self.pod),
            Some(Family::IPv4) => Cow::Owned(format!("{}_ipv4", self.pod)),
            Some(Family::IPv6) => Cow::Owned(format!("{}_ipv6", self.pod)),
        }
    }

    /// Returns the address and port as one text: `10.0.0.7:8080`, `[2001:db8::7]:8080` or `lb.example.com:8080`.
    pub fn host_port(&self) -> String {
        match &self.address {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).to_string(),
            Host::Name(name) => format!("{name}:{}", self.port),
        }
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
            second_family: None,
            port: 8080,
            port_name: "grpc".into(),
            scheme: Some("grpc".into()),
            version: Some("1.4.2".into()),
            weight: Some(10),
            metadata: std::sync::Arc::new([("zone".into(), "eu-1a".into())].into()),
        }
    }
}
