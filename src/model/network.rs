//! Network words that the specs of registrations and pods share.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An IP family.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// Such as 10.0.0.7.
    #[default]
    IPv4,
    /// Such as 2001:db8::7.
    IPv6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::IPv6 } else { Self::IPv4 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        })
    }
}

/// One IP family, or both with the preferred one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Families {
    first: Family,
    second: Option<Family>,
}

impl Families {
    /// Returns the families of a list without duplicates; IPv4 for an empty one.
    pub fn new(list: &[Family]) -> Self {
        let first = list.first().copied().unwrap_or_default();
        Self {
            first,
            second: list.get(1).copied().filter(|second| *second != first),
        }
    }

    pub fn iter(self) -> impl Iterator<Item = Family> {
        [self.first].into_iter().chain(self.second)
    }

    pub fn contains(self, family: Family) -> bool {
        self.iter().any(|one| one == family)
    }

    /// Returns `family` if the endpoint of it needs another name than the one of the preferred family.
    pub fn second(self, family: Family) -> Option<Family> {
        self.second.filter(|second| *second == family)
    }
}

impl From<Family> for Families {
    fn from(first: Family) -> Self {
        Self { first, second: None }
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.second.map_or(Ok(()), |second| write!(f, " or {second}"))
    }
}

/// The type of a node's address.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAddressType {
    /// An address that is reachable from outside the cluster.
    ExternalIP,
    /// An address in the network of the nodes.
    InternalIP,
}

/// A transport protocol.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Returns the protocol with this Kubernetes name; `None` if unknown.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
