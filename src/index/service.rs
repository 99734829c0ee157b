//! Services and EndpointSlices as the watch delivers them: only the facts that can reach a registry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::pod::Addresses;
use crate::model::{Host, Protocol};

/// The facts about one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub kind: ServiceType,
    /// The labels of its pods. Empty if its endpoints come from EndpointSlices that somebody else writes.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    pub ports: Vec<ServicePort>,
    /// Without addresses, the Service is headless.
    pub cluster_ips: Addresses,
    /// `spec.externalIPs`, those that are IP addresses.
    pub external_ips: Vec<IpAddr>,
    /// The addresses and host names of its load balancer.
    pub ingress: Vec<Host>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.externalTrafficPolicy` is `Local`: a node forwards only to its own pods.
    pub local_traffic: bool,
    /// `metadata.uid`.
    pub uid: String,
    /// Whether it has a `metadata.deletionTimestamp`.
    pub is_deleting: bool,
    /// Its annotations whose names begin with [`super::ANNOTATIONS`].
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    /// An alias for a host name; it has no endpoints.
    ExternalName,
}

impl ServiceType {
    /// Returns the type as Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if the Service has one port and that has no name.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub number: u16,
    pub target: TargetPort,
    pub node_port: Option<u16>,
    pub app_protocol: Option<Arc<str>>,
}

/// The port of the pods that a Service's port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    /// The name of a container port.
    Name(Arc<str>),
}

/// The facts about one EndpointSlice that Kubernetes' own controller does not write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    pub namespace: String,
    pub name: String,
    /// The label `kubernetes.io/service-name`.
    pub service: String,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The first address: the further ones are equivalent.
    pub host: Host,
    /// Ready, and not terminating. Unknown counts as ready, as Kubernetes defines it.
    pub ready: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}
