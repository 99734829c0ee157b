//! The compact form of a pod: values that pods have in common are stored once.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use super::interner::{Acquired, Interner, Symbol};
use super::pod::{Addresses, Pod};
use super::registration::PortTarget;
use crate::model::Protocol;

/// The facts of one pod that can reach etcd. Equal facts give equal views, so [`PartialEq`] decides whether an event
/// changes anything. Holds one use of each of its symbols, see [`Symbols::release`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CompactPod {
    /// A symbol of [`Symbols::label_sets`].
    pub(super) labels: Symbol,
    /// A symbol of [`Symbols::port_lists`].
    pub(super) ports: Symbol,
    /// A symbol of [`Symbols::strings`].
    pub(super) node: Option<Symbol>,
    pub(super) weight: Weight,
    pub(super) addresses: Addresses,
    /// The addresses of the node: a symbol of [`Symbols::host_addresses`].
    pub(super) host_addresses: Option<Symbol>,
    pub(super) state: State,
    /// [`Pod::ready_since`] of a pod that is ready, also if it is ready only apart from the operator's readiness gate.
    pub(super) ready_since: Option<NonZeroU32>,
}

/// The lifecycle state of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The phase is `Succeeded` or `Failed`.
    Terminal,
    /// Being deleted.
    Terminating,
    NotReady,
    /// Ready apart from the operator's readiness gate, which is closed.
    Gated,
    /// The gate is open, and the kubelet has not reported the pod as ready yet.
    Ungated,
    Ready,
}

impl State {
    /// Whether the pod is terminating or has ended.
    pub(super) fn is_ending(self) -> bool {
        matches!(self, Self::Terminal | Self::Terminating)
    }

    /// Whether the kubelet has not reported the pod as ready yet, only because of the operator's readiness gate.
    pub(super) fn awaits_kubelet(self) -> bool {
        matches!(self, Self::Gated | Self::Ungated)
    }
}

/// The value of the weight annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// The annotation is absent.
    Unset,
    Set(u32),
    /// The annotation is not a whole number from 0 to 65535.
    Unparsable,
}

/// A container port. Its name is a symbol of [`Symbols::strings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ContainerPort {
    name: Symbol,
    pub(super) number: u16,
    protocol: Protocol,
    pub(super) host_port: Option<NonZeroU16>,
}

/// The values that the pods of all namespaces and the nodes share. A stored value holds one use of each symbol in it, until the last
/// use of the value itself is released.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    strings: Interner<Arc<str>>,
    /// Labels of pods and nodes: key and value, symbols of [`Self::strings`].
    pairs: Interner<(Symbol, Symbol)>,
    /// The label sets of pods, made of symbols of [`Self::pairs`]. Most pods share theirs with the other pods of their
    /// ReplicaSet.
    label_sets: Interner<Arc<[Symbol]>>,
    port_lists: Interner<Arc<[ContainerPort]>>,
    /// The addresses of nodes.
    host_addresses: Interner<Addresses>,
}

impl Symbols {
    pub(super) fn compact(&mut self, pod: &Pod) -> CompactPod {
        CompactPod {
            labels: self.acquire_labels(pod),
            ports: self.acquire_ports(pod),
            node: pod.node.as_deref().map(|node| self.acquire_string(node)),
            weight: match pod.weight.as_deref().map(|text| text.trim().parse::<u16>()) {
                None => Weight::Unset,
                Some(Ok(weight)) => Weight::Set(weight.into()),
                Some(Err(_)) => Weight::Unparsable,
            },
            addresses: pod.addresses,
            host_addresses: self.acquire_host(pod.host_addresses),
            state: match pod {
                Pod { terminal: true, .. } => State::Terminal,
                Pod { terminating: true, .. } => State::Terminating,
                Pod { ready: true, .. } => State::Ready,
                Pod { gate: None, .. } => State::NotReady,
                Pod { gate: Some(gate), .. } if gate.is_open => State::Ungated,
                Pod { .. } => State::Gated,
            },
            ready_since: pod.ready_since,
        }
    }

    /// Releases the symbols of `pod`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a pod whose symbols were released must not be used again"
    )]
    pub(super) fn release(&mut self, pod: CompactPod) {
        let CompactPod {
            labels,
            ports,
            node,
            weight: _,
            addresses: _,
            host_addresses,
            state: _,
            ready_since: _,
        } = pod;
        if let Some(set) = self.label_sets.release(labels) {
            for &pair in set.iter() {
                self.release_pair(pair);
            }
        }
        if let Some(list) = self.port_lists.release(ports) {
            for port in list.iter() {
                self.release_string(port.name);
            }
        }
        if let Some(host) = host_addresses {
            self.host_addresses.release(host);
        }
        if let Some(node) = node {
            self.release_string(node);
        }
    }

    /// Returns the text of a symbol of `strings`.
    pub(super) fn string(&self, symbol: Symbol) -> &Arc<str> {
        self.strings.get(symbol)
    }

    pub(super) fn pairs(&self, pod: &CompactPod) -> &[Symbol] {
        self.label_sets.get(pod.labels)
    }

    pub(super) fn label(&self, pod: &CompactPod, key: &str) -> Option<&Arc<str>> {
        self.value(self.pairs(pod), key)
    }

    /// Returns the value of the label `key` among `pairs`.
    pub(super) fn value(&self, pairs: &[Symbol], key: &str) -> Option<&Arc<str>> {
        let mut pairs = pairs.iter().map(|&pair| self.pairs.get(pair));
        pairs
            .find(|(other, _)| &**self.string(*other) == key)
            .map(|(_, value)| self.string(*value))
    }

    /// Returns the key of a label.
    pub(super) fn key(&self, pair: Symbol) -> &Arc<str> {
        self.string(self.pairs.get(pair).0)
    }

    /// Returns the port of `pod` that `target` means: the first with its protocol. Without a protocol: the first TCP
    /// port, else the first UDP port, else the first SCTP port. A number is found only if the port has a name or a host
    /// port.
    pub(super) fn port(&self, pod: &CompactPod, target: &PortTarget) -> Option<ContainerPort> {
        let is_it = |port: &&ContainerPort| match target {
            PortTarget::Number(number) => port.number == *number && port.host_port.is_some(),
            PortTarget::Name { name, protocol } => {
                **self.string(port.name) == **name && protocol.is_none_or(|wanted| wanted == port.protocol)
            }
        };
        let ports = self.port_lists.get(pod.ports).iter();
        // `min_by_key` returns the first of several equal ones.
        ports.filter(is_it).min_by_key(|port| port.protocol).copied()
    }

    pub(super) fn host_addresses(&self, pod: &CompactPod) -> Addresses {
        pod.host_addresses
            .map(|host| *self.host_addresses.get(host))
            .unwrap_or_default()
    }

    /// Adds a use to the label `key`: `value`.
    pub(super) fn acquire_pair(&mut self, key: &str, value: &str) -> Symbol {
        let pair = (self.acquire_string(key), self.acquire_string(value));
        let Acquired { symbol, fresh } = self.pairs.acquire(&pair, || pair);
        if !fresh {
            self.release_string(pair.0);
            self.release_string(pair.1);
        }
        symbol
    }

    /// Adds a use to each of these labels.
    pub(super) fn acquire_pairs(&mut self, labels: &BTreeMap<String, String>) -> Vec<Symbol> {
        let labels = labels.iter();
        labels.map(|(key, value)| self.acquire_pair(key, value)).collect()
    }

    /// Releases one use of a label.
    pub(super) fn release_pair(&mut self, pair: Symbol) {
        if let Some((key, value)) = self.pairs.release(pair) {
            self.release_string(key);
            self.release_string(value);
        }
    }

    fn acquire_labels(&mut self, pod: &Pod) -> Symbol {
        let pairs = self.acquire_pairs(&pod.labels);
        let Acquired { symbol, fresh } = self.label_sets.acquire(&pairs[..], || pairs.as_slice().into());
        if !fresh {
            for pair in pairs {
                self.release_pair(pair);
            }
        }
        symbol
    }

    fn acquire_ports(&mut self, pod: &Pod) -> Symbol {
        let ports: Vec<_> = pod
            .ports
            .iter()
            .map(|port| ContainerPort {
                name: self.acquire_string(&port.name),
                number: port.number,
                protocol: port.protocol,
                host_port: port.host_port,
            })
            .collect();
        let Acquired { symbol, fresh } = self.port_lists.acquire(&ports[..], || ports.as_slice().into());
        if !fresh {
            for port in ports {
                self.release_string(port.name);
            }
        }
        symbol
    }

    fn acquire_host(&mut self, addresses: Addresses) -> Option<Symbol> {
        (!addresses.is_empty()).then(|| self.host_addresses.acquire(&addresses, || addresses).symbol)
    }

    fn acquire_string(&mut self, text: &str) -> Symbol {
        self.strings.acquire(text, || text.into()).symbol
    }

    fn release_string(&mut self, symbol: Symbol) {
        self.strings.release(symbol);
    }

    /// Returns the number of values in use, of each kind.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> [usize; 5] {
        [
            self.strings.len(),
            self.pairs.len(),
            self.label_sets.len(),
            self.port_lists.len(),
            self.host_addresses.len(),
        ]
    }

    /// Returns the number of allocated slots, of each kind.
    #[cfg(test)]
    pub(super) fn room(&self) -> [usize; 5] {
        [
            self.strings.room(),
            self.pairs.room(),
            self.label_sets.room(),
            self.port_lists.room(),
            self.host_addresses.room(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::PodPort;

    fn pod(name: &str) -> Pod {
        Pod {
            name: name.to_owned(),
            labels: BTreeMap::from([
                ("app".to_owned(), "orders".to_owned()),
                ("pod-template-hash".to_owned(), "7d9f".to_owned()),
            ]),
            node: Some("n1".to_owned()),
            ports: vec![PodPort {
                name: "grpc".to_owned(),
                number: 8080,
                protocol: Protocol::Tcp,
                host_port: None,
            }],
            host_addresses: Addresses::parse(["192.0.2.1"]),
            ..Pod::default()
        }
    }

    #[test]
    fn pods_of_one_template_share_labels_and_ports() {
        let mut symbols = Symbols::default();
        let (first, second) = (symbols.compact(&pod("a")), symbols.compact(&pod("b")));
        assert_eq!((first.labels, first.ports), (second.labels, second.ports));
        assert_eq!(symbols.label(&first, "app").map(|value| &**value), Some("orders"));
        let grpc = PortTarget::Name {
            name: "grpc".into(),
            protocol: None,
        };
        assert_eq!(symbols.port(&second, &grpc).map(|port| port.number), Some(8080));
        assert_eq!(symbols.host_addresses(&first), symbols.host_addresses(&second));
    }

    #[test]
    fn the_last_pod_takes_all_symbols_with_it() {
        let mut symbols = Symbols::default();
        let (first, second) = (symbols.compact(&pod("a")), symbols.compact(&pod("b")));
        symbols.release(first);
        assert_eq!(symbols.label(&second, "app").map(|value| &**value), Some("orders"));
        symbols.release(second);
        assert_eq!(symbols.in_use(), [0; 5]);
    }
}
