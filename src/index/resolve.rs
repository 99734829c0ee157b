//! Resolves a registration and a pod that it selects into endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::compact::{CompactPod, State, Symbols, Weight};
use super::pod::ZONE_LABEL;
use super::registration::{PortTarget, Registration};
use super::view::{MissingPort, PodView, ReadyPod, Why};
use crate::model::{Endpoint, Family};

/// Returns the view of `registration` on the pod `name`, which it selects.
pub(super) fn resolve(registration: &Registration, name: &Arc<str>, pod: &CompactPod, symbols: &Symbols) -> PodView {
    let why = match pod.state {
        State::Ready => match address(registration.family, pod) {
            Some(address) => return PodView::Ready(ready(registration, name, pod, address, symbols)),
            None => Why::NoAddress(registration.family),
        },
        State::Terminal => Why::Terminal,
        State::Terminating => Why::Terminating,
        State::NotReady => Why::NotReady,
    };
    PodView::Unready { why }
}

/// Returns what [`resolve`] would return for the pod `name` if the pod were ready; `None` if the pod has no address of
/// the wanted family.
pub(super) fn resolve_if_ready(
    registration: &Registration,
    name: &Arc<str>,
    pod: &CompactPod,
    symbols: &Symbols,
) -> Option<ReadyPod> {
    let address = address(registration.family, pod)?;
    Some(ready(registration, name, pod, address, symbols))
}

fn address(family: Family, pod: &CompactPod) -> Option<IpAddr> {
    match family {
        Family::IPv4 => pod.addresses.v4.map(IpAddr::V4),
        Family::IPv6 => pod.addresses.v6.map(IpAddr::V6),
    }
}

fn ready(
    registration: &Registration,
    name: &Arc<str>,
    pod: &CompactPod,
    address: IpAddr,
    symbols: &Symbols,
) -> ReadyPod {
    let label = |key: &str| symbols.label(pod, key).cloned();
    let node = pod.node.map(|node| symbols.string(node).clone());
    let zone = label(ZONE_LABEL);
    let version = registration.version_label.as_deref().and_then(label);
    let (weight, weight_unparsable) = match pod.weight {
        Weight::Set(weight) => (Some(weight), false),
        Weight::Unset => (registration.weight, false),
        Weight::Unparsable => (registration.weight, true),
    };
    let metadata = metadata(registration, pod, symbols);
    let mut endpoints = Vec::with_capacity(registration.ports.len());
    let mut missing_ports = Vec::new();
    for port in &registration.ports {
        let number = match &port.target {
            PortTarget::Number(number) => Ok(*number),
            PortTarget::Name { name, protocol } => symbols.port(pod, name, *protocol).ok_or((name, *protocol)),
        };
        let number = match number {
            Ok(number) => number,
            Err((wanted, protocol)) => {
                missing_ports.push(MissingPort {
                    port_name: port.name.clone(),
                    container_port: wanted.clone(),
                    protocol,
                });
                continue;
            }
        };
        endpoints.push(Endpoint {
            namespace: registration.reference.namespace.clone(),
            service: registration.service.clone(),
            pod: name.clone(),
            node: node.clone(),
            zone: zone.clone(),
            address,
            port: number,
            port_name: port.name.clone(),
            scheme: port.scheme.clone(),
            version: version.clone(),
            weight,
            metadata: metadata.clone(),
        });
    }
    ReadyPod {
        uid: symbols.uid(pod),
        endpoints,
        missing_ports,
        weight_unparsable,
    }
}

fn metadata(registration: &Registration, pod: &CompactPod, symbols: &Symbols) -> Arc<BTreeMap<Arc<str>, Arc<str>>> {
    let mut metadata = registration.metadata.clone();
    for (name, label) in &registration.metadata_labels {
        if let Some(value) = symbols.label(pod, label) {
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
        resolve(registration, &pod.name.as_str().into(), &compact, &symbols)
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
        assert_eq!(&*ready.uid, pod.uid);
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
        assert_eq!(grpc.address, IpAddr::V4(pod.addresses.v4.unwrap()));
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
                container_port: "ops".into(),
                protocol: None,
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
            let missing = ready.missing_ports.first().map(|missing| missing.protocol);
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
    fn the_most_final_reason_against_a_pod_is_told() {
        let registration = registration("orders");
        let mut pod = Pod {
            addresses: crate::index::Addresses::default(),
            ..pod("orders-1")
        };
        assert_eq!(why(&registration, &pod), Why::NoAddress(Family::IPv4));
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
        registration.family = Family::IPv6;
        assert_eq!(why(&registration, &pod), Why::NoAddress(Family::IPv6));
        pod.addresses.v6 = Some("fd00::7".parse().unwrap());
        assert_eq!(ready(&registration, &pod).endpoints[0].address.to_string(), "fd00::7");
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
