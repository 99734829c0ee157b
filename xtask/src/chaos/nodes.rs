//! What the workload does to nodes.

use k8s_openapi::{
    api::core::v1::{Node, NodeAddress},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    manifests::{COST, EXCLUDE, RACK, TO_BE_DELETED},
    rng::index,
    scene::Scene,
    wanted::ZONE,
};
use crate::error::Result;

/// The name of a node of the bed.
fn name(number: usize) -> String {
    format!("node-{number}")
}

/// From now on only the workload says whether a node is ready.
pub async fn take_over(scene: &Scene, number: usize) -> Result<()> {
    let annotations = json!({"testbed.leasehold.dev/readiness": "manual"});
    change(scene, number, &json!({"metadata": {"annotations": annotations}})).await
}

/// Merges a change (RFC 7386) into a node.
async fn change(scene: &Scene, number: usize, change: &Value) -> Result<()> {
    let nodes = Api::<Node>::all(scene.bed.client());
    nodes
        .patch(&name(number), &PatchParams::default(), &Patch::Merge(change))
        .await?;
    Ok(())
}

/// Gives a node another label, or takes it away.
pub async fn relabel(scene: &Scene, number: usize, pick: u64) -> Result<()> {
    change(scene, number, &node_labels(pick)).await
}

/// Excludes a node from load balancers, or the like, or undoes that. Pods can always run on the first node.
pub async fn reserve(scene: &Scene, number: usize, pick: u64) -> Result<()> {
    let is_label = pick.is_multiple_of(3);
    let number = if is_label { number } else { number.max(1) };
    change(scene, number, &node_use(pick)).await
}

/// Gives a node an address that is reached from outside, or takes it away.
pub async fn reach(scene: &Scene, number: usize, pick: u64) -> Result<()> {
    let nodes = Api::<Node>::all(scene.bed.client());
    let node = nodes.get(&name(number)).await?;
    let mut addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    addresses.retain(|one| one.type_ != "ExternalIP");
    if pick.is_multiple_of(2) {
        addresses.push(NodeAddress {
            type_: "ExternalIP".to_owned(),
            address: format!("198.51.100.{}", 1 + (pick >> 8) % 200),
        });
    }
    let change = Patch::Merge(json!({"status": {"addresses": addresses}}));
    nodes
        .patch_status(&name(number), &PatchParams::default(), &change)
        .await?;
    Ok(())
}

/// Makes a node ready, or unready, whichever it is not. The first node stays ready, so that pods can run.
pub async fn toggle(scene: &Scene, number: usize) -> Result<()> {
    let name = name(number.max(1));
    let Some(node) = scene.recorder.nodes().remove(&name) else {
        return Ok(());
    };
    let status = if node.ready { "False" } else { "True" };
    let condition = json!({"type": "Ready", "status": status, "lastTransitionTime": Timestamp::now().to_string()});
    let change = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let nodes = Api::<Node>::all(scene.bed.client());
    nodes.patch_status(&name, &PatchParams::default(), &change).await?;
    Ok(())
}

/// Sets the label of a node that `pick` falls to, or removes it.
fn node_labels(pick: u64) -> Value {
    let label = [ZONE, RACK, COST][index(pick, 3)];
    let value = [Some("a"), Some("b"), Some("c"), None][index(pick >> 8, 4)];
    json!({"metadata": {"labels": {label: value}}})
}

/// Excludes a node from load balancers, marks it for removal or makes it unschedulable, or undoes that.
fn node_use(pick: u64) -> Value {
    let undo = (pick >> 8) & 1 == 1;
    match pick % 3 {
        0 => json!({"metadata": {"labels": {EXCLUDE: if undo { Value::Null } else { json!("") }}}}),
        1 => {
            let taint = json!([{"key": TO_BE_DELETED, "value": "1", "effect": "NoSchedule"}]);
            json!({"spec": {"taints": if undo { Value::Null } else { taint }}})
        }
        _ => json!({"spec": {"unschedulable": !undo}}),
    }
}
