//! The account of the operator in these tests: it has no rights beyond those of the chart.

use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use testbed::Result;

use crate::Turn;
use crate::support::{SOON, operator};

/// Sends a review to the apiserver with the operator's account, and returns the status of the answer.
async fn ask(client: &kube::Client, group: &str, kind: &str, spec: Value) -> Value {
    let review = json!({"apiVersion": format!("{group}.k8s.io/v1"), "kind": kind, "spec": spec});
    let path = format!("/apis/{group}.k8s.io/v1/{}s", kind.to_lowercase());
    let request = http::Request::post(path).header(CONTENT_TYPE, "application/json");
    let request = request.body(review.to_string().into_bytes()).expect("a valid request");
    let mut answer: Value = client.request(request).await.expect("the apiserver answers");
    answer["status"].take()
}

async fn may(client: &kube::Client, verb: &str, group: &str, resource: &str, namespace: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let asked = json!({
        "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace,
    });
    let spec = json!({"resourceAttributes": asked});
    ask(client, "authorization", "SelfSubjectAccessReview", spec).await["allowed"] == true
}

#[tokio::test]
async fn test_operator_has_exactly_the_permissions_of_the_chart_account() -> Result<()> {
    // One that makes no choice of its own, as all of them.
    let turn = Turn::take("account", 1, 15).await?;
    let one = operator(turn.bed, "operator-0");
    one.wait_ready(SOON).await?;
    let client = leasehold::kube::connect(Some(one.kubeconfig()));
    let client = client.expect("its kubeconfig is usable");
    let reported = ask(&client, "authentication", "SelfSubjectReview", json!({})).await;
    assert_eq!(
        reported["userInfo"]["username"], "system:serviceaccount:leasehold:leasehold",
        "{reported}"
    );
    for (verb, group, resource, namespace) in [
        ("list", "", "pods", ""),
        ("watch", "leasehold.dev", "registries", ""),
        ("patch", "leasehold.dev", "serviceregistrations/status", "shop"),
        ("update", "leasehold.dev", "serviceregistrations", "shop"),
        ("watch", "", "secrets", "leasehold"),
    ] {
        assert!(
            may(&client, verb, group, resource, namespace).await,
            "{verb} {resource}"
        );
    }
    for (verb, group, resource, namespace) in [
        ("delete", "", "pods", "shop"),
        ("get", "", "pods", "shop"),
        ("list", "", "secrets", "shop"),
        ("get", "", "secrets", "leasehold"),
        ("patch", "leasehold.dev", "serviceregistrations", "shop"),
        ("update", "", "services", "shop"),
        ("create", "leasehold.dev", "registries", ""),
        ("escalate", "rbac.authorization.k8s.io", "clusterroles", ""),
    ] {
        assert!(
            !may(&client, verb, group, resource, namespace).await,
            "{verb} {resource}"
        );
    }
    Ok(())
}
