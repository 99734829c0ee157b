//! What the kubelet writes of a pod into Kubernetes.

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::Context;

/// What there is to say of a pod.
pub(super) struct Status<'a> {
    pub address: &'a str,
    /// Its program is ready.
    pub ready: bool,
    /// All of its readiness gates are True.
    pub gates_open: bool,
    pub restarts: u32,
    pub state: State<'a>,
}

/// How its program is.
pub(super) enum State<'a> {
    /// It cannot be started, for this reason.
    Waiting(&'a str),
    Running,
    /// It has ended with this code and is not started again.
    Ended(i32),
}

/// Whether a pod's program has ended for good.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether all conditions that a pod declares as readiness gates are True.
pub(super) fn are_gates_open(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    gates(pod).all(|gate| conditions.iter().any(|one| one.type_ == gate && one.status == "True"))
}

/// The conditions that a pod declares as readiness gates.
pub(super) fn gates(pod: &Pod) -> impl Iterator<Item = &str> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref());
    gates
        .unwrap_or_default()
        .iter()
        .map(|gate| gate.condition_type.as_str())
}

/// Tells it. The conditions of others stay: those of readiness gates. A pod that is gone wants to know nothing.
pub(super) async fn report(context: &Context, pod: &Pod, status: &Status<'_>) {
    let change = Patch::Strategic(json!({"status": written(pod, status)}));
    let api = Api::<Pod>::namespaced(context.client.clone(), &context.namespace);
    let reported = api
        .patch_status(&pod.name_any(), &PatchParams::default(), &change)
        .await;
    if let Err(error) = reported
        && !matches!(&error, kube::Error::Api(answer) if answer.code == 404)
    {
        eprintln!("testbed: cannot tell the status of {}: {error}", pod.name_any());
    }
}

fn written(pod: &Pod, status: &Status<'_>) -> Value {
    let now = Timestamp::now().to_string();
    let condition = |kind: &str, is: bool| json!({"type": kind, "status": if is { "True" } else { "False" }, "lastTransitionTime": now});
    let (phase, state) = match status.state {
        State::Waiting(why) => (
            "Pending",
            json!({"waiting": {"reason": "CreateContainerConfigError", "message": why}, "running": null, "terminated": null}),
        ),
        State::Running => (
            "Running",
            json!({"running": {"startedAt": now}, "waiting": null, "terminated": null}),
        ),
        State::Ended(code) => (
            if code == 0 { "Succeeded" } else { "Failed" },
            json!({"terminated": {"exitCode": code, "finishedAt": now}, "running": null, "waiting": null}),
        ),
    };
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    json!({
        "phase": phase,
        "startTime": now,
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": status.address,
        "podIPs": [{"ip": status.address}],
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", status.ready),
            condition("Ready", status.ready && status.gates_open),
        ],
        "containerStatuses": [{
            "name": container.map(|container| container.name.as_str()),
            "image": container.and_then(|container| container.image.as_deref()),
            "imageID": "",
            "ready": status.ready,
            "restartCount": status.restarts,
            "state": state,
        }],
    })
}

/// Lets Kubernetes forget a pod whose process has ended.
pub(super) async fn forget(context: &Context, pod: &Pod) {
    let api = Api::<Pod>::namespaced(context.client.clone(), &context.namespace);
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    // It may be gone already.
    let _ = api.delete(&pod.name_any(), &now).await;
}
