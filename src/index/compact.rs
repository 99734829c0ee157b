//! The compact form of a pod: values that pods have in common are stored once.

use std::sync::Arc;

use super::interner::{Acquired, Interner, Symbol};
use super::pod::{Addresses, Pod};
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
    pub(super) uid: Uid,
    pub(super) weight: Weight,
    pub(super) addresses: Addresses,
    pub(super) state: State,
}

/// The lifecycle state of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The phase is `Succeeded` or `Failed`.
    Terminal,
    /// Being deleted.
    Terminating,
    NotReady,
    Ready,
}

impl State {
    /// Whether the pod is terminating or has ended.
    pub(super) fn is_ending(self) -> bool {
        matches!(self, Self::Terminal | Self::Terminating)
    }
}

/// A pod's uid in less than half the bytes of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uid {
    /// The bytes of a UUID in canonical text form.
    Uuid([u8; 16]),
    /// Any other text: a symbol of [`Symbols::strings`].
    Text(Symbol),
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

/// A container port: name (a symbol of [`Symbols::strings`]), number and protocol.
type NamedPort = (Symbol, u16, Protocol);

/// The values that the pods of all namespaces share. A stored value holds one use of each symbol in it, until the last
/// use of the value itself is released.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    strings: Interner<Arc<str>>,
    /// Labels: key and value, symbols of [`Self::strings`].
    pairs: Interner<(Symbol, Symbol)>,
    /// The label sets of pods, made of symbols of [`Self::pairs`]. Most pods share theirs with the other pods of their
    /// ReplicaSet.
    label_sets: Interner<Arc<[Symbol]>>,
    port_lists: Interner<Arc<[NamedPort]>>,
}

impl Symbols {
    pub(super) fn compact(&mut self, pod: &Pod) -> CompactPod {
        CompactPod {
            labels: self.acquire_labels(pod),
            ports: self.acquire_ports(pod),
            node: pod.node.as_deref().map(|node| self.acquire_string(node)),
            uid: canonical_uuid(&pod.uid).map_or_else(|| Uid::Text(self.acquire_string(&pod.uid)), Uid::Uuid),
            weight: match pod.weight.as_deref().map(|text| text.trim().parse::<u16>()) {
                None => Weight::Unset,
                Some(Ok(weight)) => Weight::Set(weight.into()),
                Some(Err(_)) => Weight::Unparsable,
            },
            addresses: pod.addresses,
            state: match pod {
                Pod { terminal: true, .. } => State::Terminal,
                Pod { terminating: true, .. } => State::Terminating,
                Pod { ready: false, .. } => State::NotReady,
                Pod { .. } => State::Ready,
            },
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
            uid,
            weight: _,
            addresses: _,
            state: _,
        } = pod;
        if let Some(set) = self.label_sets.release(labels) {
            for &pair in set.iter() {
                self.release_pair(pair);
            }
        }
        if let Some(list) = self.port_lists.release(ports) {
            for &(name, ..) in list.iter() {
                self.release_string(name);
            }
        }
        if let Some(node) = node {
            self.release_string(node);
        }
        if let Uid::Text(text) = uid {
            self.release_string(text);
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
        let mut pairs = self.pairs(pod).iter().map(|&pair| self.pairs.get(pair));
        pairs
            .find(|(other, _)| &**self.string(*other) == key)
            .map(|(_, value)| self.string(*value))
    }

    /// Returns the number of the port `name` of `pod`: the first with this protocol. Without a protocol: the first TCP
    /// port, else the first UDP port, else the first SCTP port.
    pub(super) fn port(&self, pod: &CompactPod, name: &str, protocol: Option<Protocol>) -> Option<u16> {
        let ports = self.port_lists.get(pod.ports).iter();
        let named = ports.filter(|(other, ..)| &**self.string(*other) == name);
        named
            .filter(|(.., own)| protocol.is_none_or(|wanted| wanted == *own))
            // `min_by_key` returns the first of several equal ones.
            .min_by_key(|(.., own)| *own)
            .map(|(_, number, _)| *number)
    }

    pub(super) fn uid(&self, pod: &CompactPod) -> Arc<str> {
        match pod.uid {
            Uid::Text(text) => self.string(text).clone(),
            Uid::Uuid(bytes) => uuid_text(bytes).into(),
        }
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

    /// Releases one use of a label.
    pub(super) fn release_pair(&mut self, pair: Symbol) {
        if let Some((key, value)) = self.pairs.release(pair) {
            self.release_string(key);
            self.release_string(value);
        }
    }

    fn acquire_labels(&mut self, pod: &Pod) -> Symbol {
        let pairs: Vec<_> = pod
            .labels
            .iter()
            .map(|(key, value)| self.acquire_pair(key, value))
            .collect();
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
            .map(|port| (self.acquire_string(&port.name), port.number, port.protocol))
            .collect();
        let Acquired { symbol, fresh } = self.port_lists.acquire(&ports[..], || ports.as_slice().into());
        if !fresh {
            for (name, ..) in ports {
                self.release_string(name);
            }
        }
        symbol
    }

    fn acquire_string(&mut self, text: &str) -> Symbol {
        self.strings.acquire(text, || text.into()).symbol
    }

    fn release_string(&mut self, symbol: Symbol) {
        self.strings.release(symbol);
    }

    /// Returns the number of values in use, of each kind.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> [usize; 4] {
        [
            self.strings.len(),
            self.pairs.len(),
            self.label_sets.len(),
            self.port_lists.len(),
        ]
    }

    /// Returns the number of allocated slots, of each kind.
    #[cfg(test)]
    pub(super) fn room(&self) -> [usize; 4] {
        [
            self.strings.room(),
            self.pairs.room(),
            self.label_sets.room(),
            self.port_lists.room(),
        ]
    }
}

/// Returns the bytes of a UUID, if [`uuid_text`] turns them back into exactly `text`.
fn canonical_uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let (high, low) = (digits.next()?, digits.next()?);
        let digit = |digit: u8| {
            char::from(digit)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    (text.len() == 36 && uuid_text(bytes) == text).then_some(bytes)
}

fn uuid_text(bytes: [u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(36);
    for (position, byte) in bytes.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::index::PodPort;

    fn pod(name: &str) -> Pod {
        Pod {
            name: name.to_owned(),
            uid: format!("not-a-uuid-{name}"),
            labels: BTreeMap::from([
                ("app".to_owned(), "orders".to_owned()),
                ("pod-template-hash".to_owned(), "7d9f".to_owned()),
            ]),
            node: Some("n1".to_owned()),
            ports: vec![PodPort {
                name: "grpc".to_owned(),
                number: 8080,
                protocol: Protocol::Tcp,
            }],
            ..Pod::default()
        }
    }

    #[test]
    fn pods_of_one_template_share_labels_and_ports() {
        let mut symbols = Symbols::default();
        let (first, second) = (symbols.compact(&pod("a")), symbols.compact(&pod("b")));
        assert_eq!((first.labels, first.ports), (second.labels, second.ports));
        assert_eq!(symbols.label(&first, "app").map(|value| &**value), Some("orders"));
        assert_eq!(symbols.port(&second, "grpc", None), Some(8080));
    }

    #[test]
    fn the_last_pod_takes_all_symbols_with_it() {
        let mut symbols = Symbols::default();
        let (first, second) = (symbols.compact(&pod("a")), symbols.compact(&pod("b")));
        symbols.release(first);
        assert_eq!(symbols.label(&second, "app").map(|value| &**value), Some("orders"));
        symbols.release(second);
        assert_eq!(symbols.in_use(), [0; 4]);
    }

    #[test]
    fn a_uid_keeps_its_text_whatever_it_looks_like() {
        let mut symbols = Symbols::default();
        let uuid = "0b0e1f2a-93d4-4c55-8a6b-7c8d9e0f1a2b";
        let texts = [
            uuid,
            &uuid.to_uppercase(),
            &uuid.replace('-', ""),
            "",
            "-",
            "0b0e1f2a-93d4-4c55-8a6b-7c8d9e0f1a2bff",
        ];
        for text in texts {
            let pod = symbols.compact(&Pod {
                uid: text.to_owned(),
                ..Pod::default()
            });
            assert_eq!(&*symbols.uid(&pod), text);
            assert_eq!(matches!(pod.uid, Uid::Uuid(_)), text == uuid);
        }
    }
}
