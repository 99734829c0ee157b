//! The part of a pod's status that the operator writes: the condition of its readiness gate.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use serde::Serialize;

use super::status_writer::Reported;
use crate::model::PodRef;

/// The condition of a pod's readiness gate. Server-side apply leaves all other parts of the status as they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateStatus {
    conditions: Vec<Condition>,
}

impl GateStatus {
    pub fn open(condition: Condition) -> Self {
        Self {
            conditions: vec![condition],
        }
    }
}

impl Reported for Pod {
    type Name = PodRef;
    type Status = GateStatus;

    fn locate(client: &Client, name: &PodRef) -> (Api<PartialObjectMeta<Self>>, String) {
        (Api::namespaced(client.clone(), &name.namespace), name.name.to_string())
    }

    fn uid(name: &PodRef) -> Option<&str> {
        Some(&name.uid)
    }

    fn namespace(name: &PodRef) -> &Arc<str> {
        &name.namespace
    }

    fn conditions(status: &mut GateStatus) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}
