//! The status of a `ServiceRegistration`: what is registered, and what prevents the rest.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{FormatType, schema};
use crate::model::Protocol;

/// The registered state. The operator writes it, and only when something has changed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRegistrationStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The name under which consumers know the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The numbers of pods. With an address type that registers nodes or addresses of a Service: their numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodCounts")]
    pub pods: Option<PodCounts>,
    /// The endpoints that are in etcd, confirmed: one per pod and port. A pod that so far has only some of its keys is
    /// listed too. At most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
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
    /// Ready: at least one ready pod is registered, or the selector matches no pod. Accepted: the spec is valid and its
    /// Registry exists. Synced: the keys in etcd match the pods exactly. Conflict, normally False: another owner holds a
    /// key. RemovalsHeld, normally False: keys are kept because too many endpoints would lose keys at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The numbers of pods of a registration.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// The number of pods that the selector matches, or of nodes or addresses that lead to the Service.
    pub selected: u32,
    /// The number of them that are ready.
    pub ready: u32,
    /// The number of ready pods whose keys are all in etcd, confirmed.
    pub registered: u32,
}

/// The claimed location of one format.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FormatStatus {
    /// The type of the format.
    #[serde(rename = "type")]
    pub kind: FormatType,
    /// What distinguishes the records from others of this type, if it matters to consumers: `JSON` for Plain with JSON,
    /// the root for Traefik with another than `traefik`, the name of the RecordFormat for Custom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The common prefix of all keys of this format.
    pub location: String,
    /// The number of records of this format that are in etcd, confirmed. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u32>,
    /// When the registration claimed the location.
    #[schemars(extend("format" = "date-time"))]
    pub claimed_at: String,
}

impl FormatStatus {
    /// Returns the claim without the number of records.
    #[must_use]
    pub fn uncounted(self) -> Self {
        Self { records: None, ..self }
    }
}

/// A spec that was fully applied, reduced to the fields that determine keys and values.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastSynced {
    /// The `metadata.generation` of the spec.
    pub generation: i64,
    /// A copy of serviceName, ports, address, formats, version, weight and attributes.
    #[schemars(schema_with = "schema::anything")]
    pub spec: serde_json::Map<String, serde_json::Value>,
    /// The ports as they were found in the Service that the spec names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SERVICE_PORTS))]
    pub service_ports: Vec<LastPort>,
    /// Copies of the specs of the RecordFormats that the spec names, by name. If they exceed 16 kB, lastSynced is
    /// absent.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "schema::anything")]
    pub record_formats: serde_json::Map<String, serde_json::Value>,
}

/// The maximum number of recorded ports of a Service.
const MAX_SERVICE_PORTS: usize = 100;

/// The maximum size of recorded RecordFormats, in bytes of JSON. The limit exists because a status is written with
/// every change of a pod.
const MAX_RECORD_FORMATS: usize = 16 * 1024;

impl LastSynced {
    /// Whether the RecordFormats and the ports are small enough to be recorded in a status.
    pub fn is_recordable(&self) -> bool {
        let size = serde_json::to_vec(&self.record_formats).map_or(usize::MAX, |json| json.len());
        size <= MAX_RECORD_FORMATS && self.service_ports.len() <= MAX_SERVICE_PORTS
    }

    /// Whether both specs produce the same keys and values.
    pub fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.record_formats == other.record_formats
            && self.service_ports == other.service_ports
    }
}

/// A port that was found in a Service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LastPort {
    /// The port's name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The container port's name, or the number of the port that consumers connect to.
    #[schemars(schema_with = "schema::found_port")]
    pub port: IntOrString,
    /// The protocol of the container port.
    pub protocol: Protocol,
    /// The application protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub app_protocol: Option<String>,
}

/// One endpoint in etcd.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The pod's name; for an endpoint that is no pod, the name of the node, or the address with dashes.
    pub pod: String,
    /// The address that consumers connect to.
    pub address: String,
    /// The port that consumers connect to.
    pub port: u16,
    /// The port's name in the spec.
    pub port_name: String,
    /// The keys of this endpoint in etcd, over all formats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}
