//! `Registry`: one etcd cluster to register services in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::access::{AuthSpec, TlsSpec};
use super::format::Format;
use super::guard::Guard;
use super::schema;
use super::tenancy::Access;

/// The annotation of a Registry with which an admin approves held removals. Its value is the id of the hold.
pub const APPROVE_REMOVALS: &str = "leasehold.dev/approve-removals";

/// The location of the registry, and how the operator uses it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "Registry",
    plural = "registries",
    shortname = "lreg",
    category = "leasehold",
    status = "RegistryStatus",
    derive = "PartialEq",
    doc = "A Registry is one etcd in which services are registered. The one named `default` is what a ServiceRegistration uses when it names none.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "VERSION", type_ = "string", json_path = ".status.etcdVersion"),
    printcolumn(name = "LEADER", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "KEYS", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "ENDPOINTS",
        type_ = "string",
        json_path = ".spec.etcd.endpoints",
        priority = 1
    ),
    printcolumn(name = "CLASS", type_ = "string", json_path = ".spec.class", priority = 1),
    printcolumn(name = "LEASES", type_ = "integer", json_path = ".status.leases", priority = 1),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.class) == has(oldSelf.class) && (!has(self.class) || self.class == oldSelf.class)")
        .message("class cannot be changed, because the keys would expire if no installation had the new class: delete the Registry and create it again with the other class"),
)]
pub struct RegistrySpec {
    /// Which installation of the operator serves this Registry: the one whose flag `--class` has this value; if unset, the
    /// one without the flag. All other installations leave the Registry and its registrations alone. It cannot be changed,
    /// not even from or to unset: if no installation had the new class, no replica would renew the leases, and all keys
    /// would expire. To move the Registry to another installation, delete it and create it again within the TTL of its
    /// leases: the other installation adopts the keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
            .message("class must be made of lower-case letters, digits and hyphens, and begin and end with a letter or digit"),
    )]
    pub class: Option<String>,

    /// The etcd cluster.
    pub etcd: EtcdSpec,

    /// What registrations have that do not say otherwise.
    #[serde(default)]
    pub defaults: Defaults,

    /// Rate and concurrency limits for writes to this etcd.
    #[serde(default)]
    pub limits: Limits,

    /// Mass-removal protection: when to hold removals because too many endpoints would lose keys at once though the end of
    /// their pods is not confirmed: pods that are no longer ready or were missing from a list, and pods that lose keys
    /// to an edit: of their registration (it was deleted, does not select them any more, or has other prefixes or formats),
    /// of access rules, of labels of namespaces or of quotas. Keys of pods that were deleted or are terminating are always
    /// removed at once. While an edit is held, so are those of pods that are no longer ready, unless these are too many.
    #[serde(default)]
    pub guard: Guard,

    /// Which namespaces may write which keys. If unset, every registration may write everywhere except below
    /// metaPrefix. If set, only keys that a rule allows are written, and keys that are no longer allowed are removed,
    /// subject to `guard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Access")]
    pub access: Option<Access>,

    /// The keys of the labels of nodes that registrations may publish as attributes with `fromNodeLabel`, up to 32. Every
    /// namespace that may write to this Registry can read the values of these labels on all nodes.
    /// `topology.kubernetes.io/zone` and `topology.kubernetes.io/region` may always be published. A label that is removed
    /// from the list is removed from the records, except from those of registrations with `updatePolicy: Frozen`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 317)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(
            "self.all(k, k.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$'))"
        )
        .message("nodeLabels must hold keys of labels of nodes, such as node.kubernetes.io/instance-type"),
    )]
    pub node_labels: Vec<String>,
}

/// The location of an etcd cluster, and how the operator connects to it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.tls) || !self.endpoints.exists(e, e.startsWith('https://'))")
        .message("https needs tls: name in tls.caRef the Secret or ConfigMap with the CA to trust"),
    validation = Rule::new("!has(self.tls) || self.endpoints.exists(e, e.startsWith('https://'))")
        .message("tls is for https: write https:// in all endpoints, or leave tls out"),
)]
pub struct EtcdSpec {
    /// The members of the etcd cluster, up to 16, each as `http://host:port` or `https://host:port`. List all members:
    /// when one is down, the operator continues with the others.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(e, e.startsWith('https://')) || !self.exists(e, e.startsWith('https://'))")
            .message("write http:// or https:// in all endpoints: all members of a cluster must use the same scheme"),
        validation = Rule::new(
            "self.all(e, e.matches(r'^https?://([a-zA-Z0-9.-]+|\\[[0-9a-fA-F:.]+\\]):[1-9][0-9]{0,4}$') \
             && isURL(e) && int(url(e).getPort()) <= 65535)"
        )
        .message("write each endpoint as http://host:port or https://host:port, without a path, such as http://10.0.0.5:2379 or http://[2001:db8::5]:2379"),
    )]
    pub endpoints: Vec<String>,

    /// CA and client certificates for https endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// User and password for an etcd with authentication enabled. Without TLS they are sent over the network
    /// unencrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,

    /// The prefix below which the operator keeps its own records, such as the leader and the leases. No consumer may
    /// read it and no registration may write there. It starts and ends with a slash. Defaults to `/leasehold/`. It
    /// cannot be changed: the leases recorded under the old prefix would be lost.
    #[serde(default = "default_meta_prefix")]
    #[schemars(length(max = 256))]
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("metaPrefix cannot be changed, because the leases recorded below it would be lost: create another Registry"),
        validation = Rule::new("size(self) > 2 && self.startsWith('/') && self.endsWith('/')")
            .message("metaPrefix must start and end with a slash and name something between them, such as /leasehold/"),
        validation = Rule::new("!self.contains('//')")
            .message("metaPrefix must not contain an empty segment: write one slash where there are two"),
        validation = Rule::new(r"!self.matches('[\\s\\pZ\\pC]')")
            .message("metaPrefix must not contain spaces or control characters"),
    )]
    pub meta_prefix: String,
}

/// What registrations have that do not say otherwise.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
// KubeSchema copies this attribute to structs of other names, so it names the type.
#[serde(rename_all = "camelCase", default = "Defaults::default")]
pub struct Defaults {
    /// How long keys stay registered after the operator and its cluster have died, in seconds. Defaults to 30. Values
    /// below 15 are only for tests: electing a new leader of an etcd cluster can take longer, and every key would expire
    /// meanwhile.
    #[serde(rename = "leaseTTLSeconds")]
    #[schemars(range(min = 5, max = 299))]
    pub lease_ttl_seconds: u32,

    /// The formats of registrations that list none, up to 16. Each keeps the default location, which contains the name of
    /// the service; options that name one location for all registrations are rejected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, b.type == a.type))")
            .message("a type of format is listed once, because two of one type would write the same keys"),
        validation = Rule::new(
            "self.all(f, !has(f.ports) && f.type != 'CoreDNS' && !(has(f.plain) && has(f.plain.prefix)) \
             && !(has(f.etcdGRPC) && has(f.etcdGRPC.prefix)) && !(has(f.custom) && has(f.custom.prefix)) \
             && !(has(f.goZero) && has(f.goZero.key)) && !(has(f.traefik) && has(f.traefik.serviceName)))"
        )
        .message("ports, prefix, key, domain and serviceName differ from registration to registration: list formats that need them in the registrations"),
    )]
    pub formats: Vec<Format>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            lease_ttl_seconds: 30,
            formats: Vec::new(),
        }
    }
}

/// Rate and concurrency limits for writes to an etcd.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
// KubeSchema copies this attribute to structs of other names, so it names the type.
#[serde(rename_all = "camelCase", default = "Limits::default")]
pub struct Limits {
    /// The number of keys that share one lease. Defaults to 256. A higher number means fewer renewals, but
    /// more keys that are removed together if a lease expires.
    #[schemars(range(min = 32, max = 1000))]
    pub keys_per_lease: u32,

    /// The maximum number of keys that the operator writes per second. Defaults to 5000.
    #[schemars(range(min = 1, max = 100_000))]
    pub keys_per_second: u32,

    /// The maximum number of write transactions in flight. Defaults to 4.
    #[schemars(range(min = 1, max = 64))]
    pub transactions_in_flight: u32,

    /// The pod changes per second up to which a namespace is served in turn with the others, counted once per
    /// registration that selects the pod. Defaults to 500. Bursts may be as large as two seconds of this rate. A
    /// namespace above it is limited to it while other namespaces are active. Deletions of pods are never delayed.
    #[schemars(range(min = 1, max = 100_000))]
    pub changes_per_second_per_namespace: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys_per_lease: 256,
            keys_per_second: 5000,
            transactions_in_flight: 4,
            changes_per_second_per_namespace: 500,
        }
    }
}

fn default_meta_prefix() -> String {
    "/leasehold/".to_owned()
}

/// A replica of the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// The replica's name, which is the name of its pod.
    pub name: String,
    /// The address at which other replicas reach it, as IP:PORT; absent if they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// The observed state of the etcd.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The operator replica that currently writes to this etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The operator replicas that are connected to this etcd, as far as the replica that writes this status knows: at
    /// most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub replicas: Vec<ReplicaStatus>,
    /// The endpoints in use: those of the spec, or the last working ones if those of the spec do not work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// The id of the etcd cluster in use, in hexadecimal, as `etcdctl endpoint status` shows it.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The version of etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_version: Option<String>,
    /// The number of leases that the operator keeps alive in this etcd. It may lag by ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<u64>,
    /// The number of keys that the operator keeps in this etcd. It may lag by ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Ready: Connected is True, and neither CredentialsValid nor WatchesHealthy is False. Connected: whether the operator
    /// can reach the etcd, the reason if not, and which endpoints of the spec it does not use. CredentialsValid: whether
    /// the operator uses the certificates, user and password that the Secrets hold now, and the reason if not.
    /// WatchesHealthy: whether the operator's watches on the kube-apiserver are up to date, and since when they are not.
    /// RemovalsHeld, normally False: whether removals are held, and how to approve them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
