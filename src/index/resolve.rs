//! Resolves a registration and one of its pods, nodes or addresses into endpoints.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;

use super::behind::{Behind, Counts};
use super::compact::{CompactPod, State, Symbols, Weight};
use super::gates::Gates;
use super::node::{CachedNode, Nodes};
use super::pod::{Addresses, REGION_LABEL, ZONE_LABEL};
use super::registration::{Address, NodeTarget, PortTarget, Registration, Target};
use super::view::{MinReady, MissingPort, PodView, ReadyPod, Why};
use crate::model::{Endpoint, Families, Family, Host, NodeAddressType};

/// What views depend on apart from registrations and pods.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) symbols: &'a Symbols,
    pub(super) nodes: &'a Nodes,
    pub(super) gates: &'a Gates,
}

impl<'a> Facts<'a> {
    /// Returns the node `name`; none if its name or the node is not known.
    fn node(self, name: Option<&str>) -> Option<&'a CachedNode> {
        self.nodes.get(name?)
    }

    /// Returns the value of a node's label.
    fn node_label(self, node: Option<&CachedNode>, key: &str) -> Option<&'a Arc<str>> {
        node?.label(key, self.symbols)
    }

    /// The same, for a label that every registration may publish, whatever the Registry allows.
    fn topology_label(self, node: Option<&CachedNode>, key: &str) -> Option<&'a Arc<str>> {
        matches!(key, ZONE_LABEL | REGION_LABEL)
            .then(|| self.node_label(node, key))
            .flatten()
    }
}

/// Returns the view of `registration` on the pod `name`, which it selects.
pub(super) fn resolve(registration: &Registration, name: &Arc<str>, pod: &CompactPod, facts: Facts<'_>) -> PodView {
    // The node controller changes only pods that were ready before.
    let is_lost = || !registration.publish_not_ready && is_node_lost(pod, facts);
    let why = match pod.state {
        State::Terminal => Why::Terminal,
        State::Terminating => Why::Terminating,
        State::NotReady if !registration.publish_not_ready => Why::NotReady,
        state if state.awaits_kubelet() && is_lost() => Why::NotReady,
        State::Ready | State::Gated | State::Ungated | State::NotReady => {
            match resolve_if_ready(registration, name, pod, facts) {
                Some(ready) => return PodView::Ready(ready),
                None => Why::NoAddress(registration.families),
            }
        }
    };
    PodView::Unready { why }
}

/// Returns what [`resolve`] would return for the pod `name` if the pod were ready; `None` if the pod has no address of
/// the wanted families.
pub(super) fn resolve_if_ready(
    registration: &Registration,
    name: &Arc<str>,
    pod: &CompactPod,
    facts: Facts<'_>,
) -> Option<ReadyPod> {
    let symbols = facts.symbols;
    let own = pod.addresses;
    let addresses = match registration.target {
        Target::HostPorts => symbols.host_addresses(pod),
        _ => own,
    };
    let hosts = Hosts::of(addresses, registration.families)?;
    // A pod in the network of its node needs no host port.
    let mut registered = addresses.of_all(registration.families);
    let mut is_in_host_network = || registered.any(|(family, address)| own.of(family) == Some(address));
    let uses_host_ports = matches!(registration.target, Target::HostPorts) && !is_in_host_network();
    let label = |key: &str| symbols.label(pod, key).cloned();
    let name_of_node = pod.node.map(|node| symbols.string(node).clone());
    let node = facts.node(name_of_node.as_deref());
    let (weight, weight_unparsable) = match pod.weight {
        Weight::Set(weight) => (Some(weight), false),
        Weight::Unset => (registration.weight, false),
        Weight::Unparsable => (registration.weight, true),
    };
    let common = Common {
        name,
        hosts,
        zone: facts
            .node_label(node, ZONE_LABEL)
            .cloned()
            .or_else(|| label(ZONE_LABEL)),
        version: registration.version_label.as_deref().and_then(label),
        weight,
        metadata: metadata(registration, node, facts, |key| {
            let topology = facts.topology_label(node, key);
            topology.or_else(|| symbols.label(pod, key))
        }),
        node: name_of_node,
    };
    let mut ready = common.ready(registration, |_, target| {
        let port = symbols.port(pod, target);
        match target {
            PortTarget::Number(number) if !uses_host_ports => Some(*number),
            _ if uses_host_ports => port.and_then(|port| port.host_port).map(NonZero::get),
            _ => port.map(|port| port.number),
        }
    });
    ready.weight_unparsable = weight_unparsable;
    // A Service that publishes addresses before they are ready asks for no time of readiness, either.
    let min_ready_seconds = registration
        .min_ready_seconds
        .filter(|_| !registration.publish_not_ready);
    ready.min_ready = min_ready_seconds.map(|seconds| MinReady {
        since: pod.ready_since,
        seconds,
    });
    if pod.state == State::Gated {
        ready.gated = facts.gates.waiting(&registration.reference.namespace, name);
    }
    Some(ready)
}

/// Whether the node of `pod` is known not to be ready. Kubernetes deletes the pods of a deleted node.
fn is_node_lost(pod: &CompactPod, facts: Facts<'_>) -> bool {
    let node = pod.node.and_then(|node| facts.nodes.get(facts.symbols.string(node)));
    node.is_some_and(|node| !node.facts.ready)
}

/// Returns the view of `registration`, whose target are `target` nodes, on the node `name`.
pub(super) fn resolve_node(
    registration: &Registration,
    target: &NodeTarget,
    name: &Arc<str>,
    behind: &Behind,
    facts: Facts<'_>,
) -> PodView {
    let Some(node) = facts.nodes.get(name).filter(|node| !node.facts.excluded) else {
        return PodView::Gone;
    };
    let counts = if target.local { behind.on(name) } else { behind.all() };
    match is_ready(target.ready, counts) {
        None => PodView::Gone,
        Some(true) if node.facts.ready => node_if_ready(registration, target, name, behind, facts).map_or(
            PodView::Unready {
                why: Why::NoAddress(registration.families),
            },
            PodView::Ready,
        ),
        Some(_) => PodView::Unready { why: Why::NotReady },
    }
}

/// Returns what [`resolve_node`] would return if the node were ready, and a pod behind it.
pub(super) fn node_if_ready(
    registration: &Registration,
    target: &NodeTarget,
    name: &Arc<str>,
    behind: &Behind,
    facts: Facts<'_>,
) -> Option<ReadyPod> {
    let node = facts.nodes.get(name).filter(|node| !node.facts.excluded)?;
    let hosts = Hosts::of(node_addresses(node, target), registration.families)?;
    let weight = match registration.weight {
        // Each of these nodes gets as much traffic as there are pods on it.
        weight if target.local => Some((behind.on(name).ready.max(1) * weight.unwrap_or(1)).min(MAX_WEIGHT)),
        weight => weight,
    };
    let common = Common {
        name,
        hosts,
        node: Some(name.clone()),
        zone: facts.node_label(Some(node), ZONE_LABEL).cloned(),
        version: None,
        weight,
        metadata: metadata(registration, Some(node), facts, |key| {
            facts.topology_label(Some(node), key)
        }),
    };
    Some(common.ready(registration, |_, target| number(target)))
}

/// The maximum weight of an endpoint.
const MAX_WEIGHT: u32 = 65_535;

/// Returns the node's address of each family, of the most preferred type that it has.
fn node_addresses(node: &CachedNode, target: &NodeTarget) -> Addresses {
    let of = |kind: &NodeAddressType| match kind {
        NodeAddressType::ExternalIP => node.facts.external,
        NodeAddressType::InternalIP => node.facts.internal,
    };
    let all = target.address_types.iter().map(of);
    all.fold(Addresses::default(), |first, other| Addresses {
        v4: first.v4.or(other.v4),
        v6: first.v6.or(other.v6),
    })
}

/// Returns the view of `registration` on one of its addresses.
pub(super) fn resolve_address(
    registration: &Registration,
    address: &Address,
    behind: &Behind,
    facts: Facts<'_>,
) -> PodView {
    match is_ready(address.ready, behind.all()) {
        None => PodView::Gone,
        Some(true) => PodView::Ready(address_if_ready(registration, address, facts)),
        Some(false) => PodView::Unready { why: Why::NotReady },
    }
}

/// Returns what [`resolve_address`] would return if the address were ready.
pub(super) fn address_if_ready(registration: &Registration, address: &Address, facts: Facts<'_>) -> ReadyPod {
    let node = facts.node(address.node.as_deref());
    let common = Common {
        name: &address.name,
        hosts: Hosts {
            first: (address.host.clone(), None),
            second: None,
        },
        node: address.node.clone(),
        zone: facts.node_label(node, ZONE_LABEL).or(address.zone.as_ref()).cloned(),
        version: None,
        weight: registration.weight,
        metadata: metadata(registration, node, facts, |key| {
            let zone = address.zone.as_ref().filter(|_| key == ZONE_LABEL);
            facts.topology_label(node, key).or(zone)
        }),
    };
    common.ready(registration, |place, target| match &address.ports {
        Some(ports) => ports.get(place).copied().flatten(),
        None => number(target),
    })
}

/// Whether there is a ready endpoint behind a node or an address; none if there is no endpoint at all.
fn is_ready(known: Option<bool>, counts: Counts) -> Option<bool> {
    known.or_else(|| (!counts.is_empty()).then_some(counts.ready > 0))
}

fn number(target: &PortTarget) -> Option<u16> {
    match target {
        PortTarget::Number(number) => Some(*number),
        PortTarget::Name { .. } => None,
    }
}

/// The addresses of a pod or node, or one address. With the second family if it is not the preferred one.
struct Hosts {
    first: (Host, Option<Family>),
    second: Option<(Host, Option<Family>)>,
}

impl Hosts {
    /// Returns those of `addresses` that are of `families`; `None` if there are none.
    fn of(addresses: Addresses, families: Families) -> Option<Self> {
        let hosts = addresses.of_all(families);
        let mut hosts = hosts.map(|(family, address)| (Host::Ip(address), families.second(family)));
        Some(Self {
            first: hosts.next()?,
            second: hosts.next(),
        })
    }
}

/// What all endpoints of a pod, a node or an address have in common.
struct Common<'a> {
    name: &'a Arc<str>,
    hosts: Hosts,
    node: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    version: Option<Arc<str>>,
    weight: Option<u32>,
    metadata: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Common<'_> {
    /// Returns one endpoint for each port of the registration and each host. `number` returns the number of a port by its place and
    /// target.
    fn ready(self, registration: &Registration, number: impl Fn(usize, &PortTarget) -> Option<u16>) -> ReadyPod {
        let mut endpoints = Vec::with_capacity(registration.ports.len());
        let mut missing_ports = Vec::new();
        for (place, port) in registration.ports.iter().enumerate() {
            let Some(number) = number(place, &port.target) else {
                missing_ports.push(MissingPort {
                    port_name: port.name.clone(),
                    target: port.target.clone(),
                    is_host_port: matches!(registration.target, Target::HostPorts),
                });
                continue;
            };
            let hosts = [&self.hosts.first].into_iter().chain(&self.hosts.second);
            endpoints.extend(hosts.map(|(host, second_family)| Endpoint {
                namespace: registration.reference.namespace.clone(),
                service: registration.service.clone(),
                pod: self.name.clone(),
                node: self.node.clone(),
                zone: self.zone.clone(),
                address: host.clone(),
                second_family: *second_family,
                port: number,
                port_name: port.name.clone(),
                scheme: port.scheme.clone(),
                version: self.version.clone(),
                weight: self.weight,
                metadata: self.metadata.clone(),
            }));
        }
        ReadyPod {
            endpoints,
            missing_ports,
            weight_unparsable: false,
            gated: None,
            min_ready: None,
        }
    }
}

/// Returns the metadata of an endpoint on `node`; `label` returns the value of a label.
fn metadata<'a>(
    registration: &Registration,
    node: Option<&CachedNode>,
    facts: Facts<'_>,
    label: impl Fn(&str) -> Option<&'a Arc<str>>,
) -> Arc<BTreeMap<Arc<str>, Arc<str>>> {
    let mut metadata = registration.metadata.clone();
    for (name, key) in &registration.metadata_labels {
        if let Some(value) = label(key) {
            Arc::make_mut(&mut metadata).insert(name.clone(), value.clone());
        }
    }
    for (name, key) in &registration.node_labels {
        if let Some(value) = facts.node_label(node, key) {
            Arc::make_mut(&mut metadata).insert(name.clone(), value.clone());
        }
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::{pod, registration};
    use crate::index::{Pod, PodPort, Port};
    use crate::model::Protocol;

    fn view(registration: &Registration, pod: &Pod) -> PodView {
        let mut symbols = Symbols::default();
        let compact = symbols.compact(pod);
        let nodes = Nodes::default();
        let facts = Facts {
            symbols: &symbols,
            nodes: &nodes,
            gates: &Gates::default(),
        };
        resolve(registration, &pod.name.as_str().into(), &compact, facts)
    }

    fn ready(registration: &Registration, pod: &Pod) -> ReadyPod {
        match view(registration, pod) {
            PodView::Ready(ready) => ready,
            other => panic!("{other:?} is not ready"),
        }
    }

    fn why(registration: &Registration, pod: &Pod) -> Why {
        match view(registration, pod) {
            PodView::Unready { why } => why,
            other => panic!("{other:?} is not unready"),
        }
    }

    #[test]
    fn a_ready_pod_becomes_one_endpoint_per_port() {
        let mut registration = registration("orders");
        registration.ports.push(Port {
            name: "http".into(),
            target: PortTarget::Number(80),
            scheme: Some("http".into()),
        });
        let mut pod = pod("orders-1");
        pod.labels.insert(ZONE_LABEL.to_owned(), "eu-1a".to_owned());
        let ready = ready(&registration, &pod);
        assert!(ready.missing_ports.is_empty());
        let [grpc, http] = &ready.endpoints[..] else {
            panic!("{:?} is not two endpoints", ready.endpoints)
        };
        assert_eq!(
            (&*grpc.port_name, grpc.port, grpc.scheme.as_deref()),
            ("grpc", 8080, Some("grpc"))
        );
        assert_eq!(
            (&*http.port_name, http.port, http.scheme.as_deref()),
            ("http", 80, Some("http"))
        );
        assert_eq!(
            (&*grpc.namespace, &*grpc.service, &*grpc.pod),
            ("shop", "orders", "orders-1")
        );
        assert_eq!(
            (grpc.node.as_deref(), grpc.zone.as_deref()),
            (Some("n1"), Some("eu-1a"))
        );
        assert_eq!(grpc.address, Host::Ip(pod.addresses.v4.unwrap().into()));
    }

    #[test]
    fn a_port_the_pod_does_not_name_is_missing_and_the_others_stand() {
        let mut registration = registration("orders");
        registration.ports.push(Port {
            name: "admin".into(),
            target: PortTarget::Name {
                name: "ops".into(),
                protocol: None,
            },
            scheme: None,
        });
        let ready = ready(&registration, &pod("orders-1"));
        assert_eq!(ready.endpoints.len(), 1);
        assert_eq!(
            ready.missing_ports,
            [MissingPort {
                port_name: "admin".into(),
                target: PortTarget::Name {
                    name: "ops".into(),
                    protocol: None,
                },
                is_host_port: false,
            }]
        );
    }

    #[test]
    fn the_first_of_two_ports_with_one_name_counts() {
        let mut pod = pod("orders-1");
        pod.ports.push(port("grpc", 9999, Protocol::Tcp));
        assert_eq!(ready(&registration("orders"), &pod).endpoints[0].port, 8080);
    }

    fn port(name: &str, number: u16, protocol: Protocol) -> PodPort {
        PodPort {
            name: name.to_owned(),
            number,
            protocol,
            host_port: None,
        }
    }

    #[test]
    fn a_port_name_is_resolved_by_protocol_and_tcp_comes_first() {
        let (udp, tcp, again) = (
            port("dns", 53, Protocol::Udp),
            port("dns", 1053, Protocol::Tcp),
            port("dns", 2053, Protocol::Udp),
        );
        let resolved = |ports: &[&PodPort], protocol: Option<Protocol>| {
            let mut registration = registration("orders");
            registration.ports[0].target = PortTarget::Name {
                name: "dns".into(),
                protocol,
            };
            let mut pod = pod("orders-1");
            pod.ports = ports.iter().copied().cloned().collect();
            let ready = ready(&registration, &pod);
            let missing = ready.missing_ports.first().map(|missing| match &missing.target {
                PortTarget::Name { protocol, .. } => *protocol,
                PortTarget::Number(_) => None,
            });
            (ready.endpoints.first().map(|endpoint| endpoint.port), missing)
        };
        assert_eq!(resolved(&[&udp, &tcp, &again], None), (Some(1053), None));
        assert_eq!(resolved(&[&udp, &tcp, &again], Some(Protocol::Udp)), (Some(53), None));
        assert_eq!(resolved(&[&udp, &again], None), (Some(53), None));
        assert_eq!(
            resolved(&[&udp], Some(Protocol::Tcp)),
            (None, Some(Some(Protocol::Tcp)))
        );
        assert_eq!(
            resolved(&[&tcp], Some(Protocol::Sctp)),
            (None, Some(Some(Protocol::Sctp)))
        );
    }

    #[test]
    fn most_final_reason_against_a_pod_is_reported() {
        let registration = registration("orders");
        let mut pod = Pod {
            addresses: crate::index::Addresses::default(),
            ..pod("orders-1")
        };
        assert_eq!(why(&registration, &pod), Why::NoAddress(Family::IPv4.into()));
        pod.ready = false;
        assert_eq!(why(&registration, &pod), Why::NotReady);
        pod.terminating = true;
        assert_eq!(why(&registration, &pod), Why::Terminating);
        pod.terminal = true;
        assert_eq!(why(&registration, &pod), Why::Terminal);
    }

    #[test]
    fn an_address_of_the_other_family_does_not_count() {
        let mut registration = registration("orders");
        let mut pod = pod("orders-1");
        registration.families = Family::IPv6.into();
        assert_eq!(why(&registration, &pod), Why::NoAddress(Family::IPv6.into()));
        pod.addresses.v6 = Some("fd00::7".parse().unwrap());
        assert_eq!(ready(&registration, &pod).endpoints[0].address.to_string(), "fd00::7");
    }

    #[test]
    fn of_both_families_the_second_has_a_name_of_its_own() {
        let mut registration = registration("orders");
        let mut pod = pod("orders-1");
        let v4 = pod.addresses.v4;
        let endpoints = |registration: &Registration, pod: &Pod| -> Vec<(String, String)> {
            let endpoints = ready(registration, pod).endpoints;
            let named = endpoints.iter().map(|one| (one.name().into_owned(), one.host_port()));
            named.collect()
        };
        let expected = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter()
                .map(|(name, address)| ((*name).to_owned(), (*address).to_owned()))
                .collect()
        };
        pod.addresses = Addresses::parse(["10.0.0.7", "fd00::7"]);
        registration.families = Families::new(&[Family::IPv4, Family::IPv6]);
        let both = [("orders-1", "10.0.0.7:8080"), ("orders-1_ipv6", "[fd00::7]:8080")];
        assert_eq!(endpoints(&registration, &pod), expected(&both));
        registration.families = Families::new(&[Family::IPv6, Family::IPv4]);
        let both = [("orders-1", "[fd00::7]:8080"), ("orders-1_ipv4", "10.0.0.7:8080")];
        assert_eq!(endpoints(&registration, &pod), expected(&both));
        pod.addresses.v6 = None;
        assert_eq!(
            endpoints(&registration, &pod),
            expected(&both[1..]),
            "the name does not depend on the other family"
        );
        pod.addresses.v4 = None;
        assert_eq!(why(&registration, &pod), Why::NoAddress(registration.families));
        assert_eq!(registration.families.to_string(), "IPv6 or IPv4");
        pod.addresses.v4 = v4;
        registration.ports[0].target = PortTarget::Name {
            name: "nowhere".into(),
            protocol: None,
        };
        pod.addresses.v6 = Some("fd00::7".parse().unwrap());
        assert_eq!(
            ready(&registration, &pod).missing_ports.len(),
            1,
            "once for both families"
        );
    }

    #[test]
    fn the_pods_weight_wins_unless_it_is_no_number() {
        let mut registration = registration("orders");
        registration.weight = Some(10);
        let weighs = |text: Option<&str>| {
            let pod = Pod {
                weight: text.map(str::to_owned),
                ..pod("orders-1")
            };
            let ready = ready(&registration, &pod);
            (ready.endpoints[0].weight, ready.weight_unparsable)
        };
        assert_eq!(weighs(None), (Some(10), false));
        assert_eq!(weighs(Some("0")), (Some(0), false));
        assert_eq!(weighs(Some(" 7 ")), (Some(7), false));
        for wrong in ["heavy", "", "-1", "1.5", "65536"] {
            assert_eq!(weighs(Some(wrong)), (Some(10), true), "{wrong:?}");
        }
    }

    #[test]
    fn version_and_metadata_come_from_labels_where_the_pod_has_them() {
        let mut registration = registration("orders");
        registration.version_label = Some("version".into());
        registration.metadata = Arc::new(BTreeMap::from([("region".into(), "eu".into())]));
        registration.metadata_labels = vec![("owner".into(), "team".into()), ("tier".into(), "tier".into())];
        let mut pod = pod("orders-1");
        let bare = ready(&registration, &pod).endpoints.remove(0);
        assert_eq!(bare.version, None);
        assert_eq!(bare.metadata, registration.metadata);
        pod.labels
            .extend([("version", "1.4.2"), ("team", "checkout")].map(|(key, value)| (key.into(), value.into())));
        let full = ready(&registration, &pod).endpoints.remove(0);
        assert_eq!(full.version.as_deref(), Some("1.4.2"));
        let expected = BTreeMap::from([("region".into(), "eu".into()), ("owner".into(), "checkout".into())]);
        assert_eq!(*full.metadata, expected);
    }
}
