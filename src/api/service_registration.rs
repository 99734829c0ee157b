//! `ServiceRegistration`: which pods or which Service to register, and in which formats.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Format, ObjectReference, ServiceRegistrationStatus, schema};
use crate::model::{Families, Family, NodeAddressType, Protocol};

/// Whether the format `f` sets a prefix, as a CEL expression.
macro_rules! has_prefix {
    ($f:literal) => {
        concat!(
            "(has(",
            $f,
            ".plain) && has(",
            $f,
            ".plain.prefix) \
             || has(",
            $f,
            ".etcdGRPC) && has(",
            $f,
            ".etcdGRPC.prefix) \
             || has(",
            $f,
            ".custom) && has(",
            $f,
            ".custom.prefix))"
        )
    };
}

/// The prefix that the format `f` sets, as a CEL expression.
macro_rules! prefix {
    ($f:literal) => {
        concat!(
            "(has(",
            $f,
            ".plain) ? ",
            $f,
            ".plain.prefix : has(",
            $f,
            ".etcdGRPC) ? ",
            $f,
            ".etcdGRPC.prefix : ",
            $f,
            ".custom.prefix)"
        )
    };
}

/// Whether the format `f` sets where its keys are written, as a CEL expression.
macro_rules! has_place {
    ($f:literal) => {
        concat!(
            "(",
            has_prefix!($f),
            " || has(",
            $f,
            ".goZero) && has(",
            $f,
            ".goZero.key) \
             || has(",
            $f,
            ".kratos) && has(",
            $f,
            ".kratos.root) || has(",
            $f,
            ".kitex) && has(",
            $f,
            ".kitex.root) \
             || has(",
            $f,
            ".goFrame) && (has(",
            $f,
            ".goFrame.root) || has(",
            $f,
            ".goFrame.deployment) \
             || has(",
            $f,
            ".goFrame.__namespace__) || has(",
            $f,
            ".goFrame.version)) || has(",
            $f,
            ".coreDNS) \
             || has(",
            $f,
            ".traefik) && (has(",
            $f,
            ".traefik.root) || has(",
            $f,
            ".traefik.protocol) \
             || has(",
            $f,
            ".traefik.serviceName)))"
        )
    };
}

/// What is registered, and how.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "ServiceRegistration",
    plural = "serviceregistrations",
    shortname = "svcreg",
    category = "leasehold",
    namespaced,
    status = "ServiceRegistrationStatus",
    derive = "PartialEq",
    doc = "A ServiceRegistration says which pods or which Service of its namespace to register, and in which formats its consumers find it in an etcd. Every ready endpoint is registered; an endpoint that is no longer ready is gone at once.",
    selectable = ".spec.registryRef.name",
    selectable = ".spec.serviceName",
    printcolumn(name = "SERVICE", type_ = "string", json_path = ".status.serviceName"),
    printcolumn(name = "REGISTRY", type_ = "string", json_path = ".spec.registryRef.name"),
    printcolumn(name = "PODS", type_ = "integer", json_path = ".status.pods.selected"),
    printcolumn(name = "READY", type_ = "integer", json_path = ".status.pods.ready"),
    printcolumn(name = "REGISTERED", type_ = "integer", json_path = ".status.pods.registered"),
    printcolumn(
        name = "SYNCED",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Synced\")].status"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Synced\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Synced\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.selector) != has(self.service)")
        .message("write either selector, with the labels of the pods, or service, with the name of a Service"),
    validation = Rule::new("has(self.service) || has(self.ports)")
        .message("ports is missing: list the ports of the pods to register; with service, the default is all ports of the Service"),
    validation = Rule::new("has(self.service) || !has(self.address) || self.address.type in ['PodIP', 'HostIP']")
        .message("this address.type belongs to a Service: write service instead of selector, or use the type PodIP or HostIP"),
    validation = Rule::new("!has(self.minReadySeconds) || self.minReadySeconds == 0 || !has(self.address) || self.address.type in ['PodIP', 'HostIP']")
        .message("minReadySeconds needs an address.type that registers pods: Kubernetes sends traffic for the other types to every ready pod at once. Leave it out, or use the type PodIP or HostIP"),
    validation = Rule::new(
        "!has(self.formats) || !has(self.ports) \
         || self.formats.all(f, !has(f.ports) || f.ports.all(n, self.ports.exists(p, p.name == n)))"
    )
    .message("formats[].ports must hold names of spec.ports"),
    validation = Rule::new(
        "!has(self.formats) || !has(self.address) || !has(self.address.ipFamilies) \
         || !('IPv6' in self.address.ipFamilies) || self.formats.all(f, f.type != 'GoFrame')"
    )
    .message("GoFrame's clients panic on IPv6 addresses: use address.ipFamilies [IPv4], and a separate registration for IPv6"),
    validation = Rule::new(
        "!has(self.formats) || !has(self.ports) || self.formats.all(f, f.type != 'GoMicro' || self.ports.all(p, !has(p.appProtocol) \
         || p.appProtocol in ['grpc', 'grpcs', 'http', 'https', 'mucp'] || has(f.ports) && !(p.name in f.ports)))"
    )
    .message("go-micro's clients speak grpc, http and mucp: list only ports with one of these in appProtocol in the ports of the format GoMicro"),
    validation = Rule::new(
        "!has(self.formats) || !has(self.ports) || self.formats.all(f, f.type != 'Traefik' \
         || has(f.traefik) && has(f.traefik.protocol) && f.traefik.protocol != 'HTTP' \
         || self.ports.all(p, !has(p.appProtocol) || p.appProtocol in ['http', 'https', 'grpc', 'grpcs', 'h2c'] \
         || has(f.ports) && !(p.name in f.ports)))"
    )
    .message("Traefik's HTTP services speak http, https, grpc and h2c: list only ports with one of these in appProtocol in the ports of the format Traefik, or write traefik: {protocol: TCP} or UDP"),
    validation = Rule::new(
        "!has(self.formats) || !has(self.serviceName) || !self.serviceName.matches('[A-Z]') \
         || self.formats.all(f, f.type != 'Traefik' || has(f.traefik) && has(f.traefik.serviceName))"
    )
    .message("Traefik treats names that differ only in case as equal: give the format Traefik a name in lower case, as traefik: {serviceName: ...}"),
)]
pub struct ServiceRegistrationSpec {
    /// The Registry (the etcd) to register in. Defaults to the one named `default`. It cannot be changed.
    #[serde(default = "default_registry")]
    #[x_kube(
        validation = Rule::new("self.name == oldSelf.name")
            .message("registryRef cannot be changed: delete this registration and create it again in the other registry"),
    )]
    pub registry_ref: ObjectReference,

    /// The name under which consumers know the service. Defaults to the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && !self.matches('^[.][.]?$')")
            .message("serviceName must be made of letters, digits, dots, hyphens and underscores; leave it out to use the object's name"),
    )]
    pub service_name: Option<String>,

    /// The labels of the pods to register, in this namespace. An empty selector is rejected, because it would register
    /// every pod of the namespace. Exactly one of selector and service is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    #[x_kube(
        validation = Rule::new(
            "(has(self.matchLabels) && size(self.matchLabels) > 0) \
             || (has(self.matchExpressions) && size(self.matchExpressions) > 0)"
        )
        .message("an empty selector would register every pod of the namespace: name at least one label in matchLabels"),
        validation = Rule::new(
            "!has(self.matchLabels) || self.matchLabels.all(k, size(k) <= 317 && \
             k.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$'))"
        )
        .message("a key in matchLabels is not a valid label key: write it as it is on the pods, such as app.kubernetes.io/name"),
        validation = Rule::new(
            "!has(self.matchLabels) || self.matchLabels.all(k, \
             self.matchLabels[k].matches('^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$'))"
        )
        .message("no label can have that value: matchLabels takes letters, digits, hyphens, dots and underscores, as on the pods"),
    )]
    pub selector: Option<LabelSelector>,

    /// The Service of this namespace whose endpoints to register. Exactly one of selector and service is set. A Service
    /// with a selector is resolved on its pods directly; publishNotReadyAddresses is honored. A Service without one is
    /// followed through its EndpointSlices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ObjectReference")]
    pub service: Option<ObjectReference>,

    /// The ports to register, up to 16. Each pod is registered once per port. A pod that lacks one of the ports is
    /// registered with the others, and the condition Synced names it. With service, the ports are ports of the Service,
    /// and default to all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub ports: Vec<Port>,

    /// The address that consumers connect to. Defaults to the IPv4 addresses of the pods.
    #[serde(default)]
    pub address: Address,

    /// The formats in which the service is written, up to 16. All formats are kept in sync. Defaults to the Registry's
    /// `defaults.formats`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        validation = Rule::new(concat!(
            "self.all(a, !", has_prefix!("a"), " || self.exists_one(b, ", has_prefix!("b"),
            " && (", prefix!("a"), " + '/').startsWith(", prefix!("b"), " + '/')))"
        ))
        .message("the prefix of one format equals that of another or is below it, so the consumers of one would read the other's records: give each its own prefix"),
        validation = Rule::new(concat!(
            "self.all(a, ", has_place!("a"), " || self.exists_one(b, b.type == a.type && !", has_place!("b"), "))"
        ))
        .message("two formats of the same type would use the same default place for their keys: give each its own prefix, key, root, protocol or serviceName"),
        validation = Rule::new(
            "self.all(a, !has(a.goZero) || !has(a.goZero.key) \
             || self.exists_one(b, has(b.goZero) && has(b.goZero.key) && a.goZero.key == b.goZero.key)) \
             && self.all(a, !has(a.coreDNS) || self.exists_one(b, has(b.coreDNS) && a.coreDNS.domain == b.coreDNS.domain))"
        )
        .message("two formats have the same key or domain and would write the same keys: give each its own"),
    )]
    pub formats: Vec<Format>,

    /// Where to read the version of the software in a pod. If unset, records contain no version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,

    /// The share of traffic for each pod, relative to the others. The annotation `leasehold.dev/weight` on a pod
    /// overrides it for that pod. If unset, records contain no weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65_535))]
    pub weight: Option<u32>,

    /// Additional attributes that are published with every endpoint, for consumers that read them, up to 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub attributes: Vec<Attribute>,

    /// How long the keys stay registered after the operator and its cluster have died, in seconds: the TTL of their
    /// leases. Defaults to the Registry's `defaults.leaseTTLSeconds`. Pods that stop being ready are deregistered
    /// without waiting for it. At least 15, because electing a new leader of an etcd cluster can take almost that long.
    #[serde(default, rename = "leaseTTLSeconds", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 15, max = 299))]
    pub lease_ttl_seconds: Option<u32>,

    /// How long a pod must have been ready without interruption before it is registered, in seconds, as in a Deployment.
    /// Defaults to 0: a pod is registered as soon as it is ready. A pod that stops being ready is deregistered at once.
    /// Only for the address types PodIP and HostIP. It has no effect on the endpoints of a Service without a selector, and
    /// of a Service with publishNotReadyAddresses.
    #[serde(default)]
    #[schemars(range(max = 3600))]
    pub min_ready_seconds: u16,

    /// What to do with the last endpoint when no pod is ready any more. Remove: deregister it like any other. Keep:
    /// keep it until another pod is ready, or until its own pod is deleted or terminates. Defaults to Remove.
    #[serde(default)]
    pub last_endpoint: LastEndpoint,

    /// Which changes the operator makes. Sync: it registers and deregisters pods as they change. Frozen: it renews what
    /// is registered and changes nothing, so that keys of pods that are gone stay, too. Defaults to Sync.
    #[serde(default)]
    pub update_policy: UpdatePolicy,
}

impl ServiceRegistrationSpec {
    /// Whether an attribute is a label of a node.
    pub fn uses_node_labels(&self) -> bool {
        let mut attributes = self.attributes.iter();
        attributes.any(|attribute| attribute.from_node_label.is_some())
    }
}

impl ServiceRegistration {
    /// Returns the name under which consumers know the service.
    pub fn service_name(&self) -> &str {
        self.spec
            .service_name
            .as_deref()
            .or(self.metadata.name.as_deref())
            .unwrap_or_default()
    }
}

/// What to do with the last endpoint when no pod is ready any more.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastEndpoint {
    /// Keep it until another pod is ready, or until its own pod is deleted or terminates.
    Keep,
    /// Deregister it like any other.
    #[default]
    Remove,
}

/// Which changes the operator makes to the keys of a registration.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdatePolicy {
    /// All of them.
    #[default]
    Sync,
    /// None: registered keys are renewed and stay as they are.
    Frozen,
}

/// A port to register.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The name by which formats and records refer to this port. At most 15 characters, as for the name of a container
    /// port: lower-case letters, digits and hyphens.
    #[schemars(length(min = 1, max = 15))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && self.matches('[a-z]') && !self.contains('--')")
            .message("a port's name is made of lower-case letters, digits and single hyphens, with at least one letter, such as http or grpc-2"),
    )]
    pub name: String,

    /// The port of the pod: the name of a container port, or a number from 1 to 65535. Defaults to `name`. With a name,
    /// the number may differ from pod to pod. As for the target port of a Service, containers are searched first, in
    /// their order, and then init containers with restartPolicy Always (native sidecars). With spec.service: the name or
    /// the number of a port of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::port")]
    #[x_kube(
        validation = Rule::new("type(self) == string || int(self) >= 1 && int(self) <= 65535")
            .message("write the name of a container port (lower-case letters, digits and hyphens, with at least one letter) or a number from 1 to 65535 without quotes"),
    )]
    pub port: Option<IntOrString>,

    /// TCP, UDP or SCTP: selects the container port if a pod has several ports with this name. Defaults to the TCP
    /// port, or to the port of another protocol if the pod has no TCP port with that name. Not needed for a port given
    /// by number. With spec.service: selects the port of the Service in the same way.
    // `with`: for an optional enum the derive would print the enum's description instead of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Protocol")]
    pub protocol: Option<Protocol>,

    /// The application protocol of the port, such as `grpc` or `http`, for formats that contain it. With spec.service it
    /// defaults to the appProtocol of the Service's port, without the prefix `kubernetes.io/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z][a-z0-9+.-]*$')")
            .message("appProtocol must start with a lower-case letter, followed by lower-case letters, digits, '+', '.' and '-', such as grpc or http"),
    )]
    pub app_protocol: Option<String>,
}

/// The address that consumers connect to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.nodeAddressTypes) || self.type == 'NodePort'")
        .message("nodeAddressTypes is only for the type NodePort"),
)]
pub struct Address {
    /// PodIP (the default): the pod's own address, which consumers must be able to route to. HostIP: the address of the
    /// pod's node, with the host port of the container port. NodePort: the address of each node that load balancers may
    /// use, with the Service's node port; with externalTrafficPolicy Local only nodes with a ready pod, and the number of
    /// these as the weight. LoadBalancer: the addresses and host names of the Service's load balancer. ClusterIP: the
    /// Service's cluster IP. ExternalIP: the Service's external IPs. The last four need spec.service, and are registered
    /// while the Service has a ready endpoint.
    #[serde(default, rename = "type")]
    pub kind: AddressType,
    /// IPv4 (the default), IPv6, or both with the preferred one first. With both, a pod or node is registered with its
    /// addresses of both families, and the name of the second one ends in _ipv6 or _ipv4. A pod or node without an address
    /// of these families is not registered.
    #[serde(default = "default_families")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, b == a))").message("each IP family is listed once"),
    )]
    pub ip_families: Vec<Family>,
    /// For the type NodePort: the types of node addresses, in order of preference. Defaults to ExternalIP, InternalIP: a
    /// node without an external address is registered with its internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<NodeAddressType>", length(min = 1, max = 2))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, b == a))").message("each type of address is listed once"),
    )]
    pub node_address_types: Option<Vec<NodeAddressType>>,
}

impl Address {
    /// Returns the families of the addresses that are registered.
    pub fn families(&self) -> Families {
        Families::new(&self.ip_families)
    }

    /// Returns the types of node addresses, in order of preference.
    pub fn node_address_types(&self) -> Vec<NodeAddressType> {
        let default = || vec![NodeAddressType::ExternalIP, NodeAddressType::InternalIP];
        self.node_address_types.clone().unwrap_or_else(default)
    }
}

impl Default for Address {
    fn default() -> Self {
        Self {
            kind: AddressType::default(),
            ip_families: default_families(),
            node_address_types: None,
        }
    }
}

fn default_families() -> Vec<Family> {
    vec![Family::default()]
}

/// The type of address that consumers connect to.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// The pod's own address.
    #[default]
    PodIP,
    /// The address of the pod's node, with a host port.
    HostIP,
    /// The addresses of nodes, with the Service's node port.
    NodePort,
    /// The addresses and host names of the Service's load balancer.
    LoadBalancer,
    /// The Service's cluster IP.
    ClusterIP,
    /// The Service's external IPs.
    ExternalIP,
}

impl AddressType {
    /// Returns the type as the spec spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodIP => "PodIP",
            Self::HostIP => "HostIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ClusterIP => "ClusterIP",
            Self::ExternalIP => "ExternalIP",
        }
    }
}

/// Where to read the version of the software in a pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The pod label that holds the version, such as `app.kubernetes.io/version`. A pod without the label has no
    /// version.
    #[schemars(length(max = 317))]
    #[x_kube(
        validation = Rule::new(
            "self.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')"
        )
        .message("fromLabel must be the key of a pod's label, such as app.kubernetes.io/version"),
    )]
    pub from_label: String,
}

/// An attribute of the endpoints.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.value), has(self.fromLabel), has(self.fromNodeLabel)].filter(given, given).size() == 1")
        .message("an attribute has exactly one of value, fromLabel, with the key of the pod label that holds the value, and fromNodeLabel, with the key of the label of the pod's node"),
)]
pub struct Attribute {
    /// The name under which consumers find the attribute.
    #[schemars(length(min = 1, max = 317))]
    pub name: String,

    /// The value, which is the same for every endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub value: Option<String>,

    /// The key of the pod label that holds the value, such as `app.kubernetes.io/version`. A pod without the label does
    /// not have the attribute. `topology.kubernetes.io/zone` and `topology.kubernetes.io/region` come from the node if the
    /// node has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    #[x_kube(
        validation = Rule::new(
            "self.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')"
        )
        .message("fromLabel must be the key of a pod's label, such as topology.kubernetes.io/zone"),
    )]
    pub from_label: Option<String>,

    /// The key of the label of the endpoint's node that holds the value, such as `topology.kubernetes.io/region`. An
    /// endpoint whose node does not have the label, or that has no node, does not have the attribute. The Registry decides
    /// in `nodeLabels` which labels of nodes may be published, besides `topology.kubernetes.io/zone` and
    /// `topology.kubernetes.io/region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    #[x_kube(
        validation = Rule::new(
            "self.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')"
        )
        .message("fromNodeLabel must be the key of a node's label, such as topology.kubernetes.io/region"),
    )]
    pub from_node_label: Option<String>,
}

/// An attribute of a sample endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AttributeValue {
    /// The name of the attribute.
    #[schemars(length(min = 1, max = 317))]
    pub name: String,
    /// The value of the attribute.
    #[schemars(length(max = 256))]
    pub value: String,
}

/// The Registry of registrations that name none.
pub const DEFAULT_REGISTRY: &str = "default";

fn default_registry() -> ObjectReference {
    ObjectReference {
        name: DEFAULT_REGISTRY.to_owned(),
    }
}
