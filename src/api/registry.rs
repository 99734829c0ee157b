//! `Registry`: one etcd to register in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::access::{AuthSpec, TlsSpec};
use super::guard::Guard;
use super::tenancy::Access;

/// The annotation of a Registry by which an admin approves of removals that are held back: the id of the hold.
pub const APPROVE_REMOVALS: &str = "leasehold.dev/approve-removals";

/// Where the etcd is, and how the operator treats it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "Registry",
    plural = "registries",
    status = "RegistryStatus",
    derive = "PartialEq",
    doc = "A Registry is one etcd in which services are registered. The one named `default` is what a ServiceRegistration uses when it names none.",
    printcolumn(name = "ENDPOINTS", type_ = "string", json_path = ".spec.endpoints"),
    printcolumn(
        name = "CONNECTED",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Connected\")].status"
    ),
    printcolumn(name = "VERSION", type_ = "string", json_path = ".status.etcdVersion"),
    printcolumn(name = "LEADER", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "LEASES", type_ = "integer", json_path = ".status.leases"),
    printcolumn(name = "KEYS", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Connected\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.tls) || !self.endpoints.exists(e, e.startsWith('https://'))")
        .message("https needs tls: say in it whom to trust, with caSecret or caConfigMap"),
    validation = Rule::new("!has(self.tls) || self.endpoints.exists(e, e.startsWith('https://'))")
        .message("tls is for https: write https:// in all endpoints, or leave tls out"),
)]
pub struct RegistrySpec {
    /// The members of the etcd cluster, up to 16, each as `http://host:port` or `https://host:port`. Name all of them: the operator goes on
    /// with the others when one is away.
    #[schemars(length(max = 16), inner(length(max = 512)))]
    #[x_kube(
        validation = Rule::new("size(self) > 0")
            .message("name at least one member of the etcd cluster, such as http://etcd-0.example.org:2379"),
        validation = Rule::new("self.all(e, e.startsWith('https://')) || !self.exists(e, e.startsWith('https://'))")
            .message("write http:// or https:// in all endpoints: members of one cluster are entered in one way"),
        validation = Rule::new(
            "self.all(e, e.matches(r'^https?://([a-zA-Z0-9.-]+|\\[[0-9a-fA-F:.]+\\]):[1-9][0-9]{0,4}$') \
             && isURL(e) && int(url(e).getPort()) <= 65535)"
        )
        .message("write each endpoint as http://host:port or https://host:port, without a path, such as http://10.0.0.5:2379 or http://[2001:db8::5]:2379"),
        validation = Rule::new("self.all(a, self.exists_one(b, a == b))")
            .message("an endpoint is named twice: name each member once"),
    )]
    pub endpoints: Vec<String>,

    /// Whom to trust and who the operator is, for endpoints with https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// User and password, for an etcd whose authentication is on. Without TLS they go over the network for all to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,

    /// Below this prefix the operator keeps its own records (the leader, the leases). No consumer may read it and no
    /// registration may write there. It starts and ends with a slash; left out, it is `/leasehold/`. It cannot be
    /// changed: the leases recorded under the old one would be lost.
    #[serde(default = "default_meta_prefix")]
    #[schemars(length(max = 256))]
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("metaPrefix cannot be changed, the leases recorded below it would be lost: create another Registry"),
        validation = Rule::new("size(self) > 2 && self.startsWith('/') && self.endsWith('/')")
            .message("metaPrefix must start and end with a slash and name something between them, such as /leasehold/"),
        validation = Rule::new("!self.contains('//')")
            .message("metaPrefix must not contain an empty segment: write one slash where there are two"),
        validation = Rule::new(r"!self.matches('[\\s\\pZ\\pC]')")
            .message("metaPrefix must not contain spaces or control characters"),
    )]
    pub meta_prefix: String,

    /// How many seconds keys stay after the operator and its cluster have died, for registrations that do not say: 5
    /// to 299; left out, 30. Below 15 only for tests: electing a new leader of an etcd cluster can take longer, and
    /// every key would vanish meanwhile.
    #[serde(default = "default_ttl_seconds")]
    #[x_kube(
        validation = Rule::new("self >= 5 && self <= 299")
            .message("ttlSeconds must be 5 to 299; 30 suits most, below 15 is only for tests"),
    )]
    pub ttl_seconds: u32,

    /// How much the operator may ask of the etcd.
    #[serde(default)]
    pub limits: Limits,

    /// When removals are held back because too many keys would go at once on a mere suspicion: their pods are no longer
    /// ready, or were missing from a list. Pods that were deleted or terminate are facts, and their keys go at once.
    #[serde(default)]
    pub guard: Guard,

    /// Which namespaces may write where. Left out, every registration may write anywhere but below metaPrefix; given,
    /// only what a rule allows is written, and what is no longer allowed is removed at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Access")]
    pub access: Option<Access>,
}

/// How much the operator may ask of the etcd.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// How many keys share one lease: 32 to 1000; left out, 256. More means fewer renewals, and more keys that go at
    /// once should a lease ever lapse.
    #[serde(default = "default_keys_per_lease")]
    #[x_kube(validation = Rule::new("self >= 32 && self <= 1000").message("keysPerLease must be 32 to 1000; 256 suits most"))]
    pub keys_per_lease: u32,

    /// How many keys the operator writes per second at most: 1 to 100000; left out, 5000.
    #[serde(default = "default_keys_per_second")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100000").message("keysPerSecond must be 1 to 100000; 5000 suits most"))]
    pub keys_per_second: u32,

    /// How many write transactions are under way at the same time at most: 1 to 64; left out, 4.
    #[serde(default = "default_transactions_in_flight")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 64").message("transactionsInFlight must be 1 to 64; 4 suits most"))]
    pub transactions_in_flight: u32,

    /// How many changes of its pods a namespace has written per second in the long run, one for each registration that
    /// selects the pod: 1 to 100000; left out, 500. Those of ten seconds may come at once. Of pods that come and go
    /// faster the last state is written, so that nobody else waits for them.
    #[serde(default = "default_changes_per_second_per_namespace")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100000").message("changesPerSecondPerNamespace must be 1 to 100000; 500 suits most"))]
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

fn default_ttl_seconds() -> u32 {
    30
}

fn default_keys_per_lease() -> u32 {
    256
}

fn default_keys_per_second() -> u32 {
    5000
}

fn default_transactions_in_flight() -> u32 {
    4
}

fn default_changes_per_second_per_namespace() -> u32 {
    500
}

/// A replica of the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Its name: that of its pod.
    pub name: String,
    /// Where other replicas reach it, as IP:PORT; none if they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What the operator knows about the etcd.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The replica of the operator that writes to this etcd now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The replicas of the operator that are connected to this etcd, as far as the one that writes this knows: at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub replicas: Vec<ReplicaStatus>,
    /// The endpoints in use: those of spec, or those that worked last while those of spec do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// The id of the etcd cluster in use, in hexadecimal digits, as `etcdctl endpoint status` shows it.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The version of the etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_version: Option<String>,
    /// How many leases the operator keeps alive there. It may lag by ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<u64>,
    /// How many keys the operator keeps there. It may lag by ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Connected: whether the operator reaches the etcd, why not, and which endpoints of spec it does not use. Credentials: whether certificates, user and password
    /// are in use as the Secrets have them now, and why not. Held: whether removals are held back, and how to
    /// approve of them. Informed: whether Kubernetes tells the operator what changes, and since when it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
