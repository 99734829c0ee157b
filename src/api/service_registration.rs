//! `ServiceRegistration`: which pods make up a service, and in which formats it is registered.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Format, ServiceRegistrationStatus, schema};
use crate::model::{Family, Protocol};

/// The pods that make up the service, and how they are registered.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "ServiceRegistration",
    plural = "serviceregistrations",
    shortname = "svcreg",
    namespaced,
    status = "ServiceRegistrationStatus",
    derive = "PartialEq",
    doc = "A ServiceRegistration says which pods of its namespace make up a service, and in which formats its consumers find it in an etcd. Every ready pod is registered; a pod that is no longer ready is gone at once.",
    printcolumn(name = "SERVICE", type_ = "string", json_path = ".status.service"),
    printcolumn(name = "REGISTRY", type_ = "string", json_path = ".spec.registry"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.ready"),
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
    validation = Rule::new(
        "!has(self.formats) || self.formats.all(f, !has(f.ports) || f.ports.all(n, \
         self.ports.exists(p, (has(p.name) ? p.name : type(p.port) == int ? string(int(p.port)) : p.port) in [n])))"
    )
    .message("formats[].ports must name ports of spec.ports; the name of a port without one is its port, so port: 8080 is \"8080\""),
    validation = Rule::new(
        "!has(self.formats) || !has(self.address) || !has(self.address.family) || self.address.family != 'IPv6' \
         || self.formats.all(f, f.type != 'GoFrame')"
    )
    .message("GoFrame's clients panic on IPv6 addresses: use address.family IPv4, and a separate registration for IPv6"),
    validation = Rule::new(
        "!has(self.formats) || self.formats.all(f, f.type != 'GoMicro' || self.ports.all(p, !has(p.scheme) \
         || p.scheme in ['grpc', 'grpcs', 'http', 'https', 'mucp'] \
         || has(f.ports) && !((has(p.name) ? p.name : type(p.port) == int ? string(int(p.port)) : p.port) in f.ports)))"
    )
    .message("go-micro's clients speak grpc, http and mucp: list only ports of these schemes in the ports of the format GoMicro"),
    validation = Rule::new(
        "!has(self.formats) || self.formats.all(f, f.type != 'Traefik' || has(f.protocol) && f.protocol != 'Http' \
         || self.ports.all(p, !has(p.scheme) || p.scheme in ['http', 'https', 'grpc', 'grpcs', 'h2c'] \
         || has(f.ports) && !((has(p.name) ? p.name : type(p.port) == int ? string(int(p.port)) : p.port) in f.ports)))"
    )
    .message("Traefik's HTTP services speak http, https, grpc and h2c: list only ports of these schemes in the ports of the format Traefik, or write protocol: Tcp or Udp"),
    validation = Rule::new(
        "!has(self.formats) || !has(self.serviceName) || !self.serviceName.matches('[A-Z]') \
         || self.formats.all(f, f.type != 'Traefik' || has(f.name))"
    )
    .message("Traefik treats names that differ only in case as equal: give the format Traefik a name in lower case"),
)]
pub struct ServiceRegistrationSpec {
    /// The name of the Registry (the etcd) to register in. Defaults to `default`. It cannot be changed.
    #[serde(default = "default_registry")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("registry cannot be changed: delete this registration and create it again in the other registry"),
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
            .message("registry must be the name of a Registry (kubectl get registries); leave it out for the one named default"),
    )]
    pub registry: String,

    /// The name under which consumers know the service. Defaults to the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && !self.matches('^[.][.]?$')")
            .message("serviceName must be made of letters, digits, dots, hyphens and underscores; leave it out to use the object's name"),
    )]
    pub service_name: Option<String>,

    /// The labels of the pods that make up the service, in this namespace. An empty selector is rejected, because it
    /// would register every pod of the namespace.
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
    pub selector: LabelSelector,

    /// The ports to register, up to 16. Each pod is registered once per port. A pod that lacks one of the ports is
    /// registered with the others, and the condition Synced names it.
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("size(self) > 0")
            .message("name at least one port, such as {port: http} or {port: 8080}"),
        validation = Rule::new(
            "self.all(p, self.exists_one(q, (has(p.name) ? p.name : p.port) in [has(q.name) ? q.name : q.port]))"
        )
        .message("two ports have the same name: give each its own name; the name of a port without one is its port"),
    )]
    pub ports: Vec<Port>,

    /// The address of a pod that consumers connect to. Defaults to its IPv4 address.
    #[serde(default)]
    pub address: Address,

    /// The formats in which the service is written, up to 16. All formats are kept in sync.
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("size(self) > 0")
            .message("name at least one format, such as {type: Plain}"),
        validation = Rule::new(
            "self.all(a, !has(a.prefix) || self.exists_one(b, \
             has(b.prefix) && (a.prefix + '/').startsWith(b.prefix + '/')))"
        )
        .message("the prefix of one format equals that of another or is below it, so the consumers of one would read the other's records: give each its own prefix"),
        validation = Rule::new(
            "self.all(a, has(a.prefix) || has(a.key) || has(a.root) || has(a.domain) \
             || has(a.protocol) || has(a.name) || has(a.deployment) || has(a.__namespace__) || has(a.versionSegment) \
             || self.exists_one(b, b.type == a.type \
             && !(has(b.prefix) || has(b.key) || has(b.root) || has(b.domain) \
             || has(b.protocol) || has(b.name) || has(b.deployment) || has(b.__namespace__) || has(b.versionSegment))))"
        )
        .message("two formats of the same type would use the same default place for their keys: give each its own prefix, key, root, protocol or name"),
        validation = Rule::new(
            "self.all(a, !has(a.key) || self.exists_one(b, has(b.key) && a.key == b.key)) \
             && self.all(a, !has(a.domain) || self.exists_one(b, has(b.domain) && a.domain == b.domain))"
        )
        .message("two formats have the same key or domain and would write the same keys: give each its own"),
    )]
    pub formats: Vec<Format>,

    /// Where to read the version of the software in a pod. If unset, records contain no version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,

    /// The share of traffic for each pod, relative to the others: 0 to 65535. The annotation `leasehold.dev/weight` on
    /// a pod overrides it for that pod. If unset, records contain no weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 65535").message("weight must be 0 to 65535"))]
    pub weight: Option<u32>,

    /// Additional metadata that is published with every endpoint, for consumers that read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,

    /// How long the keys stay registered after the operator and its cluster have died, in seconds: 15 to 299. Defaults
    /// to the Registry's ttlSeconds. Pods that stop being ready are deregistered without waiting for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("self >= 15 && self <= 299")
            .message("ttlSeconds must be 15 to 299: electing a new leader of an etcd cluster can take almost 15 seconds; leave it out for the Registry's"),
    )]
    pub ttl_seconds: Option<u32>,

    /// What to do with the last endpoint when no pod is ready any more. Remove: deregister it like any other. Keep:
    /// keep it until another pod is ready, or until its own pod is deleted or terminates. Defaults to Remove.
    #[serde(default)]
    pub last_endpoint: LastEndpoint,

    /// If true, registered keys are renewed but nothing is changed. Defaults to false.
    #[serde(default)]
    pub suspend: bool,
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

/// A port to register.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The name by which formats and records refer to this port. Defaults to the text of `port`. At most 15 characters:
    /// lower-case letters, digits and hyphens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && self.matches('[a-z]')")
            .message("a port's name is made of lower-case letters, digits and hyphens, with at least one letter, such as http or grpc-2"),
    )]
    pub name: Option<String>,

    /// The port of the pod: the name of a container port, or a number from 1 to 65535. With a name, the number may
    /// differ from pod to pod. As for the target port of a Service, containers are searched first, in their order, and
    /// then init containers with restartPolicy Always (native sidecars).
    #[schemars(schema_with = "schema::port")]
    #[x_kube(
        validation = Rule::new("type(self) == string || int(self) >= 1 && int(self) <= 65535")
            .message("write the name of a container port (lower-case letters, digits and hyphens, with at least one letter) or a number from 1 to 65535 without quotes"),
    )]
    pub port: IntOrString,

    /// TCP, UDP or SCTP: selects the container port if a pod has several ports with this name. Defaults to the TCP
    /// port, or to the port of another protocol if the pod has no TCP port with that name. Not needed for a port given
    /// by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,

    /// The application protocol of the port, such as `grpc` or `http`, for formats that contain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z][a-z0-9+.-]*$')")
            .message("scheme must start with a lower-case letter, followed by lower-case letters, digits, '+', '.' and '-', such as grpc or http"),
    )]
    pub scheme: Option<String>,
}

impl Port {
    /// Returns the name by which formats and records refer to this port.
    pub fn effective_name(&self) -> String {
        match (&self.name, &self.port) {
            (Some(name), _) | (None, IntOrString::String(name)) => name.clone(),
            (None, IntOrString::Int(number)) => number.to_string(),
        }
    }
}

/// The address of a pod that consumers connect to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// PodIP (the default): the pod's own address, which consumers must be able to route to.
    #[serde(default, rename = "type")]
    pub kind: AddressType,
    /// IPv4 (the default) or IPv6. A pod without an address of this family is not registered.
    #[serde(default)]
    pub family: Family,
}

/// The type of address that consumers connect to.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// The pod's own address.
    #[default]
    PodIP,
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

/// Additional metadata of the endpoints.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Entries that are the same for every endpoint. At most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", rename = "static")]
    #[schemars(schema_with = "schema::string_map")]
    #[x_kube(
        validation = Rule::new("self.all(k, size(k) > 0 && size(k) <= 256)")
            .message("a key in metadata.static is empty or longer than 256 characters: shorten it"),
    )]
    pub fixed: BTreeMap<String, String>,

    /// Keys of pod labels to publish, each under the label's own key. A label overrides an entry of `static` with the
    /// same key; a label that a pod does not have is omitted. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 317)))]
    #[x_kube(
        validation = Rule::new(
            "self.all(k, k.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$'))"
        )
        .message("metadata.fromLabels must hold keys of pod labels, such as topology.kubernetes.io/zone"),
    )]
    pub from_labels: Vec<String>,
}

/// The Registry of registrations that name none.
pub const DEFAULT_REGISTRY: &str = "default";

fn default_registry() -> String {
    DEFAULT_REGISTRY.to_owned()
}
