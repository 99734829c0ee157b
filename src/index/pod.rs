//! A pod as the watch delivers it: only the facts that can reach etcd.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use crate::model::{Families, Family, Protocol};

/// The pod annotation that overrides the registration's weight.
pub const WEIGHT_ANNOTATION: &str = "leasehold.dev/weight";
/// The beginning of the names of all annotations that the operator reads.
pub const ANNOTATIONS: &str = "leasehold.dev/";

/// The label of a node, and of pods of newer Kubernetes releases, with the node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The same for the region.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";

/// The pod condition, and the readiness gate, that the operator sets to `True` once all records of a pod are in etcd.
pub const READINESS_GATE: &str = "leasehold.dev/registered";

/// The facts about one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// The annotation [`WEIGHT_ANNOTATION`], as written.
    pub weight: Option<String>,
    pub addresses: Addresses,
    /// The addresses of the pod's node, from the pod's status.
    pub host_addresses: Addresses,
    pub node: Option<String>,
    /// The ports with a name or a host port, in the order in which Kubernetes resolves a port name: containers in the
    /// order of the pod's spec, then restartable init containers (sidecars). Other ports are ignored: a port number needs
    /// no declaration in Kubernetes.
    pub ports: Vec<PodPort>,
    /// The phase is `Succeeded` or `Failed`.
    pub terminal: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// The condition `Ready` is `True`.
    pub ready: bool,
    /// Since when the pod has been ready without interruption, in seconds since 1970; none if Kubernetes does not say it.
    /// For a pod with the readiness gate [`READINESS_GATE`]: since when it has been ready apart from it, so that nothing
    /// changes when the gate opens.
    pub ready_since: Option<NonZeroU32>,
    /// The readiness gate [`READINESS_GATE`], if the pod is ready apart from it: its containers are ready and all its
    /// other gates are `True`.
    pub gate: Option<ReadinessGate>,
}

/// The readiness gate of a pod that is ready apart from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadinessGate {
    /// `metadata.uid` of the pod.
    pub uid: Arc<str>,
    /// The condition is `True`: the pod is about to become ready.
    pub is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Empty if the port has no name.
    pub name: String,
    pub number: u16,
    /// One name may name a port of each protocol.
    pub protocol: Protocol,
    /// The port of the node that leads to this port.
    pub host_port: Option<NonZeroU16>,
}

/// The addresses of a pod, a node or a Service: at most one per family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    pub fn of(self, family: Family) -> Option<IpAddr> {
        match family {
            Family::IPv4 => self.v4.map(IpAddr::V4),
            Family::IPv6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Returns the addresses of `families`, the preferred one first.
    pub fn of_all(self, families: Families) -> impl Iterator<Item = (Family, IpAddr)> {
        families
            .iter()
            .filter_map(move |family| Some((family, self.of(family)?)))
    }

    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns the first address of each family among `texts`. The caller passes `status.podIPs`, or `status.podIP` if
    /// that is empty. Texts that are no addresses are skipped.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut addresses = Self::default();
        for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
            match address {
                IpAddr::V4(v4) => addresses.v4 = addresses.v4.or(Some(v4)),
                IpAddr::V6(v6) => addresses.v6 = addresses.v6.or(Some(v6)),
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_each_family_counts() {
        let addresses = Addresses::parse(["fd00::7", "10.0.0.7", "10.0.0.8", "fd00::8"]);
        assert_eq!(addresses.v4, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(addresses.v6, Some("fd00::7".parse().unwrap()));
    }

    #[test]
    fn text_that_is_no_address_is_passed_over() {
        let addresses = Addresses::parse(["", "10.0.0.300", "10.0.0.7"]);
        assert_eq!(addresses.v4, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(Addresses::parse(["nonsense"]), Addresses::default());
    }
}
