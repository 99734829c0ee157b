//! The status of a `ServiceRegistration`: what is registered, and what stands in the way.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// What is registered. Written by the operator, only when something changed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRegistrationStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The name under which consumers know the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Registered and ready pods as one text, such as `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// How many of the selected pods are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_endpoints: Option<u32>,
    /// How many of the ready pods are in etcd with all their keys, confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_endpoints: Option<u32>,
    /// The endpoints that are in etcd, confirmed: one for each pod and port, also of a pod that has only some of its
    /// keys yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointStatus>,
    /// How many endpoints are in etcd but not listed here, because the object would become too large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints_omitted: Option<u32>,
    /// The places that the registration has claimed in the registry, one for each format that is carried out. Of two
    /// registrations that would get into each other's consumers, the one that claimed its place first stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<FormatStatus>,
    /// The newest spec that was carried out as a whole. Where a newer one cannot be, pods keep what they have by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_synced: Option<LastSynced>,
    /// Accepted: the spec makes sense and its Registry exists. Synced: etcd holds exactly what the pods say. Ready:
    /// consumers can reach at least one endpoint. Conflict: a key is held by someone else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The place of one format.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FormatStatus {
    /// What consumers of this place read: the format's type and, where it makes a difference to them, what else tells its
    /// records from others: `Plain with JSON`, `Traefik with the root edge`, the name of a RecordFormat.
    pub format: String,
    /// All its keys start with this.
    pub location: String,
    /// When the registration claimed the place.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
}

/// A spec that was carried out as a whole, as far as it decides about keys and values.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastSynced {
    /// `metadata.generation` of the spec.
    pub generation: i64,
    /// serviceName, ports, address, formats, version, weight and metadata, as they were.
    #[schemars(schema_with = "schema::anything")]
    pub spec: serde_json::Map<String, serde_json::Value>,
    /// The specs of the RecordFormats that it names, as they were, by name. More than 16 kB of them are not recorded, and
    /// then this whole field is absent.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "schema::anything")]
    pub record_formats: serde_json::Map<String, serde_json::Value>,
}

/// RecordFormats of more than this, in bytes of JSON, are not recorded: a status is written with every change of a pod.
const MAX_RECORD_FORMATS: usize = 16 * 1024;

impl LastSynced {
    /// Whether it is small enough for a status.
    pub fn is_recordable(&self) -> bool {
        let size = serde_json::to_vec(&self.record_formats).map_or(usize::MAX, |json| json.len());
        size <= MAX_RECORD_FORMATS
    }

    /// Whether both ask for the same keys and values.
    pub fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.record_formats == other.record_formats
    }
}

/// One endpoint in etcd.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The address consumers dial.
    pub address: String,
    /// The port consumers dial.
    pub port: u16,
    /// The port's name in the spec.
    pub port_name: String,
    /// The pod.
    pub pod: String,
    /// The node the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The zone, by the pod's label topology.kubernetes.io/zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The version of what runs in the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its share of traffic, relative to the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its keys in etcd, over all formats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}
