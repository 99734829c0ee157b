//! The status of a `ServiceRegistration`: what is registered, and what stands in the way.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

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
    /// Accepted: the spec makes sense and its Registry exists. Synced: etcd holds exactly what the pods say. Ready:
    /// consumers can reach at least one endpoint. Conflict: a key is held by someone else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
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
