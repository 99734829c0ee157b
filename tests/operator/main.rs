//! The running operator, end to end: real pods of a real control plane, real keys in a real etcd.
//!
//! All tests here share one control plane and one operator, and keep to a namespace each. Tests that end an operator
//! are in `tests/replicas`.

#[path = "../support/mod.rs"]
mod support;

mod annotations;
mod bad_input;
mod custom;
mod doctor;
mod edits;
mod formats;
mod gitops;
mod lifecycle;
mod min_ready;
mod node_labels;
mod p10_isolation;
mod p10_tenancy;
mod p1_readiness;
mod p2_silence;
mod p8_foreign_keys;
mod reaching;
mod resolving;
mod services;

use serde_json::{Value, json};
use testbed::{Bed, Operator, shared};
use tokio::sync::OnceCell;

/// The bed with one operator that serves the Registry `default`, whose TTL is 30 s.
pub async fn bed() -> &'static Bed {
    static OPERATOR: OnceCell<Operator> = OnceCell::const_new();
    let bed = shared().await.expect("a bed starts");
    OPERATOR
        .get_or_init(async || {
            bed.apply_crds().await.expect("the CRDs are taken");
            bed.objects().apply(registry(bed)).await.expect("the Registry is taken");
            let operator = support::operator(bed, "operator-0");
            operator
                .wait_ready(support::SOON)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            operator
        })
        .await;
    bed
}

/// What all tests register in. To its guard, what they do at the same time would look like a mistake.
fn registry(bed: &Bed) -> Value {
    json!({
        "apiVersion": support::API,
        "kind": "Registry",
        "metadata": {"name": "default"},
        "spec": {
            "etcd": {"endpoints": bed.registry().endpoints()},
            "defaults": {"leaseTTLSeconds": 30},
            "guard": {"mode": "Off"},
        },
    })
}
