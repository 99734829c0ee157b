use std::sync::atomic::{AtomicU32, Ordering};

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::kube::answering::{Arrived, answering};

fn orders() -> ServiceRegistration {
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": "shop", "resourceVersion": "1"},
        "spec": {"registryRef": {"name": "main"}},
    });
    serde_json::from_value(object).expect("decodes")
}

fn conflict() -> (u16, Value) {
    (
        409,
        json!({"kind": "Status", "status": "Failure", "message": "modified", "reason": "Conflict", "code": 409}),
    )
}

fn stored(version: u32) -> (u16, Value) {
    let mut object = serde_json::to_value(orders()).expect("encodes");
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    (200, object)
}

/// The method of each request, with the resourceVersion of those that carry one.
fn requests(arrived: &Arrived) -> Vec<String> {
    let arrived = arrived.lock().expect("no panic");
    let text = |(method, _, body): &(Method, String, Value)| {
        let version = body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        format!("{method} {version}").trim_end().to_owned()
    };
    arrived.iter().map(text).collect()
}

#[tokio::test]
async fn dry_run_is_repeated_when_the_object_was_written_meanwhile() {
    let reads = AtomicU32::new(0);
    let (client, arrived) = answering(move |method, _| match *method {
        Method::GET => stored(7 + reads.fetch_add(1, Ordering::Relaxed)),
        _ if reads.load(Ordering::Relaxed) < 3 => conflict(),
        _ => stored(9),
    });
    let admitted = Listing::new(client)
        .admitted(&orders())
        .await
        .expect("admitted at last");
    assert_eq!(admitted.name_any(), "orders");
    assert_eq!(requests(&arrived), ["GET", "PUT 7", "GET", "PUT 8", "GET", "PUT 9"]);
}

#[tokio::test]
async fn dry_run_of_an_object_that_never_rests_ends_with_the_conflict() {
    let (client, arrived) = answering(|method, _| if *method == Method::GET { stored(7) } else { conflict() });
    let refused = Listing::new(client)
        .admitted(&orders())
        .await
        .expect_err("never admitted");
    assert!(refused.to_string().contains("shop/orders by a dry run"), "{refused}");
    assert_eq!(requests(&arrived).len(), 2 * DRY_RUN_ATTEMPTS as usize);
}
