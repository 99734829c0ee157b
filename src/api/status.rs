//! The status of a `ServiceRegistration`: what is registered, and what prevents the rest.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The registered state. The operator writes it, and only when something has changed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRegistrationStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The name under which consumers know the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Registered and ready pods as text, such as `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The number of selected pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_endpoints: Option<u32>,
    /// The number of ready pods whose keys are all in etcd, confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_endpoints: Option<u32>,
    /// The endpoints that are in etcd, confirmed: one per pod and port. A pod that so far has only some of its keys is
    /// listed too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointStatus>,
    /// The number of endpoints that are in etcd but not listed here, because the object would become too large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints_omitted: Option<u32>,
    /// The locations in the registry that the registration has claimed, one per format that is written. If two
    /// registrations would write where the other's consumers read, the one with the older claim keeps its location.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<FormatStatus>,
    /// The newest spec that was fully applied. While a newer spec cannot be applied, pods keep the records of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_synced: Option<LastSynced>,
    /// Accepted: the spec is valid and its Registry exists. Synced: the keys in etcd match the pods exactly. Ready: at
    /// least one endpoint is registered, or there is nothing to register. Conflict: another owner holds a key. Held:
    /// keys are kept because too many would be removed at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The claimed location of one format.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FormatStatus {
    /// What consumers of this location read: the type of the format and, if it matters to consumers, a further
    /// distinction: `Plain with JSON`, `Traefik with the root edge`, or the name of a RecordFormat.
    pub format: String,
    /// The common prefix of all keys of this format.
    pub location: String,
    /// When the registration claimed the location.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
}

/// A spec that was fully applied, reduced to the fields that determine keys and values.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastSynced {
    /// The `metadata.generation` of the spec.
    pub generation: i64,
    /// A copy of serviceName, ports, address, formats, version, weight and metadata.
    #[schemars(schema_with = "schema::anything")]
    pub spec: serde_json::Map<String, serde_json::Value>,
    /// Copies of the specs of the RecordFormats that the spec names, by name. If they exceed 16 kB, lastSynced is
    /// absent.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "schema::anything")]
    pub record_formats: serde_json::Map<String, serde_json::Value>,
}

/// The maximum size of recorded RecordFormats, in bytes of JSON. The limit exists because a status is written with
/// every change of a pod.
const MAX_RECORD_FORMATS: usize = 16 * 1024;

impl LastSynced {
    /// Whether the RecordFormats are small enough to be recorded in a status.
    pub fn is_recordable(&self) -> bool {
        let size = serde_json::to_vec(&self.record_formats).map_or(usize::MAX, |json| json.len());
        size <= MAX_RECORD_FORMATS
    }

    /// Whether both specs produce the same keys and values.
    pub fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.record_formats == other.record_formats
    }
}

/// One endpoint in etcd.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The address that consumers connect to.
    pub address: String,
    /// The port that consumers connect to.
    pub port: u16,
    /// The port's name in the spec.
    pub port_name: String,
    /// The pod's name.
    pub pod: String,
    /// The node that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The zone, from the pod's label topology.kubernetes.io/zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The version of the software in the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The share of traffic of this endpoint, relative to the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The keys of this endpoint in etcd, over all formats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}
