//! A registration as the index needs it: which pods it selects and what it registers for each, independent of formats.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::Selector;
use crate::model::{Families, Host, NodeAddressType, Protocol, RegistrationRef};

/// A registration without its formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub reference: RegistrationRef,
    /// `metadata.uid`: distinguishes a registration from its successor of the same name.
    pub uid: Arc<str>,
    /// The creation time, in seconds since the Unix epoch. Of two registrations that claim a key, the older one gets
    /// the key.
    pub created: i64,
    /// `metadata.generation`: changes with every change of the spec, including the parts that the index does not know.
    pub generation: i64,
    /// Selects pods of the registration's own namespace.
    pub selector: Selector,
    /// Pods count as ready before they are, as `publishNotReadyAddresses` of a Service asks for.
    pub publish_not_ready: bool,
    /// How long a pod must have been ready before it is registered, in seconds; none if it is registered at once.
    pub min_ready_seconds: Option<NonZeroU16>,
    /// What is registered.
    pub target: Target,
    /// The name of the Registry.
    pub registry: Arc<str>,
    /// The service's name, as consumers know it.
    pub service: Arc<str>,
    /// The ports to register for each pod.
    pub ports: Vec<Port>,
    /// The address families to register.
    pub families: Families,
    /// The weight of a pod that does not set one.
    pub weight: Option<u32>,
    /// The pod label whose value is the version.
    pub version_label: Option<Arc<str>>,
    /// The metadata of all endpoints.
    pub metadata: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// Names of further metadata, each with the pod label that holds its value. A label that the pod does not have adds
    /// nothing.
    pub metadata_labels: Vec<(Arc<str>, Arc<str>)>,
    /// The same with labels of the endpoint's node: only those that the Registry allows.
    pub node_labels: Vec<(Arc<str>, Arc<str>)>,
}

impl Registration {
    /// Whether it publishes one of these labels of nodes by `node_labels`.
    pub(super) fn publishes(&self, labels: &[Arc<str>]) -> bool {
        self.node_labels.iter().any(|(_, key)| labels.contains(key))
    }
}

/// What a registration registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Each selected pod, at its own address.
    #[default]
    Pods,
    /// Each selected pod, at its host ports on the address of its node.
    HostPorts,
    /// Each node that forwards a port to the selected pods.
    Nodes(NodeTarget),
    /// Addresses that lead to the selected pods, in the order of their names.
    Addresses(Arc<[Address]>),
}

impl Target {
    /// Whether each selected pod is an endpoint. Otherwise pods are behind the endpoints.
    pub fn is_pods(&self) -> bool {
        matches!(self, Self::Pods | Self::HostPorts)
    }
}

/// The nodes that a registration registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTarget {
    /// Only nodes that have a selected pod, because each forwards only to its own pods.
    pub local: bool,
    /// The types of addresses, in order of preference.
    pub address_types: Vec<NodeAddressType>,
    /// Whether there is a ready endpoint behind the nodes; none if the selected pods decide that.
    pub ready: Option<bool>,
}

/// An address that does not belong to a pod that Kubernetes knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Identifies the endpoint within the registration.
    pub name: Arc<str>,
    pub host: Host,
    /// Whether it is ready; none if the selected pods decide that.
    pub ready: Option<bool>,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// The number of each port of the registration, none for a port that the address does not have. Without a list, the
    /// ports of the registration have numbers.
    pub ports: Option<Arc<[Option<u16>]>>,
}

/// One port of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port's name in the registration.
    pub name: Arc<str>,
    pub target: PortTarget,
    /// The protocol on the port, such as `grpc`.
    pub scheme: Option<Arc<str>>,
}

/// How a port is found in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortTarget {
    /// By number, whether or not a container declares the port: Kubernetes does not require a declaration.
    Number(u16),
    /// By the name of a declared container port. Application containers come first and sidecars after them, each in the
    /// order of the pod's spec, as Kubernetes resolves the target ports of Services.
    Name {
        name: Arc<str>,
        /// Restricts the search to this protocol. Without it, a TCP port is preferred, and a port of another protocol
        /// is used if the pod has no TCP port of that name.
        protocol: Option<Protocol>,
    },
}
