//! A registration as the index needs it: whom it selects and what it says about each pod, in no particular format.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Protocol, Selector};

/// Names a registration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistrationRef {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl RegistrationRef {
    /// The registration `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for RegistrationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a registration wants, formats left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its namespace and name.
    pub reference: RegistrationRef,
    /// `metadata.uid`: tells a registration from its successor of the same name.
    pub uid: Arc<str>,
    /// When it was created, in seconds since the Unix epoch: the older of two claimants has the key.
    pub created: i64,
    /// `metadata.generation`: moves with every change of the spec, also of the parts not known here.
    pub generation: i64,
    /// Whom it selects, among the pods of its own namespace.
    pub selector: Selector,
    /// The name of the Registry it registers in.
    pub registry: Arc<str>,
    /// The service's name, as consumers know it.
    pub service: Arc<str>,
    /// The ports of each pod to register.
    pub ports: Vec<Port>,
    /// The family of the address to register.
    pub family: Family,
    /// The weight of a pod that does not say its own.
    pub weight: Option<u32>,
    /// The pod label whose value is the version.
    pub version_label: Option<Arc<str>>,
    /// Metadata that is the same for every pod.
    pub metadata: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// Pod labels that become metadata under their own name. A label the pod has wins over [`Self::metadata`] of the
    /// same name; one it has not is left out.
    pub metadata_labels: Vec<Arc<str>>,
}

/// One port of every pod of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the registration.
    pub name: Arc<str>,
    /// How to find it in the pod.
    pub target: PortTarget,
    /// The protocol spoken on it, such as `grpc`.
    pub scheme: Option<Arc<str>>,
}

/// How a port is found in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortTarget {
    /// By number, whether or not a container declares it: Kubernetes lets containers listen where they like.
    Number(u16),
    /// By the name a container declares it under: application containers first and sidecars after them, each in the order
    /// of the pod's spec, as Kubernetes resolves the target ports of Services.
    Name {
        /// The name.
        name: Arc<str>,
        /// Only a port of this protocol. If none is given, a TCP port, or where the pod has none of that name a port of
        /// another protocol.
        protocol: Option<Protocol>,
    },
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
