//! The policy by which `kubectl apply` already says no to what a Registry's rules do not allow.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Namespace, Result, shared, until};

use super::TURN;
use super::helm::{chart, helm, kubectl};
use super::support::{API, registration};

/// A policy takes effect a moment after it was applied.
const SOON: Duration = Duration::from_mins(1);

/// Applies a registration in the Registry `charted-access`, and takes it away again if it was taken.
async fn apply(namespace: &Namespace, spec: &Value) -> std::result::Result<(), String> {
    let mut object = registration("orders", spec);
    object["spec"]["registryRef"] = json!({"name": "charted-access"});
    let applied = namespace
        .apply(object)
        .await
        .map(drop)
        .map_err(|error| error.to_string());
    if applied.is_ok() {
        let gone = namespace.objects().delete(API, "ServiceRegistration", "orders").await;
        gone.map_err(|error| error.to_string())?;
    }
    applied
}

/// The Registry `charted-access` and its rules.
fn ruled_registry() -> Value {
    json!({
        "apiVersion": API, "kind": "Registry", "metadata": {"name": "charted-access"},
        "spec": {
            "etcd": {"endpoints": ["http://127.0.0.1:1"]},
            "access": {"rules": [
                {
                    "name": "shops",
                    "namespaceSelector": {
                        "matchLabels": {"team": "shop"},
                        "matchExpressions": [
                            {"key": "stage", "operator": "In", "values": ["test", "live"]},
                            {"key": "blocked", "operator": "DoesNotExist"},
                        ],
                    },
                    "prefixes": ["/services/{{namespace}}", "kitex/registry-etcd/orders", "edge/traefik/http/services/orders"],
                    "leaseTTL": {"minSeconds": 15, "maxSeconds": 60},
                },
                {
                    "name": "zero",
                    "namespaceSelector": {"matchLabels": {"team": "shop"}},
                    "formats": ["GoZero"],
                },
            ]},
        },
    })
}

fn formats(format: &Value) -> Value {
    json!({"formats": [format]})
}

/// What the rules allow the tenant.
fn allowed(tenant: &str) -> Vec<Value> {
    vec![
        json!({}),
        json!({"leaseTTLSeconds": 60}),
        formats(&json!({"type": "Plain", "plain": {"prefix": format!("/services/{}/deeper/down", tenant)}})),
        formats(&json!({"type": "Plain", "plain": {"prefix": "/services"}})),
        formats(&json!({"type": "Kitex"})),
        formats(&json!({"type": "Traefik", "traefik": {"root": "edge/traefik", "serviceName": "orders"}})),
        formats(&json!({"type": "GoZero", "goZero": {"key": "anything"}})),
        json!({"leaseTTLSeconds": 200, "formats": [{"type": "GoZero"}]}),
        formats(&json!({"type": "CoreDNS", "coreDNS": {"domain": "orders.example.org"}})),
    ]
}

/// What they do not, and what is said to it.
fn refused(tenant: &str) -> Vec<(Value, &'static str)> {
    vec![
        (
            formats(&json!({"type": "Plain", "plain": {"prefix": format!("/services/{}-evil", tenant)}})),
            "-evil",
        ),
        (
            formats(&json!({"type": "Plain", "plain": {"prefix": "/services/other/orders"}})),
            "Plain below /services/other/orders",
        ),
        (formats(&json!({"type": "EtcdGRPC"})), "EtcdGRPC below"),
        (
            json!({"serviceName": "billing", "formats": [{"type": "Kitex"}]}),
            "Kitex below kitex/registry-etcd/billing",
        ),
        (
            formats(&json!({"type": "Hertz"})),
            "Hertz below hertz/registry-etcd/orders",
        ),
        (
            formats(&json!({"type": "GoFrame"})),
            "GoFrame below /service/default/default/orders",
        ),
        (
            formats(&json!({"type": "GoMicro"})),
            "GoMicro below /micro/registry/orders",
        ),
        (
            formats(&json!({"type": "Kratos"})),
            "Kratos below /microservices/orders",
        ),
        (
            formats(&json!({"type": "Traefik"})),
            "Traefik below traefik/http/services/",
        ),
        (json!({"leaseTTLSeconds": 61}), "a TTL of 61 s"),
        (
            json!({"leaseTTLSeconds": 61, "formats": [{"type": "CoreDNS", "coreDNS": {"domain": "a.b"}}]}),
            "write CoreDNS with",
        ),
    ]
}

#[tokio::test]
async fn admission_policy_rejects_denied_and_accepts_allowed_registrations() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let home = bed.namespace("chart-access").await?;
    let chart = chart().display().to_string();
    let words = [
        "template",
        "ruled",
        &chart,
        "--namespace",
        home.name(),
        "--show-only",
        "templates/admissionpolicy.yaml",
    ];
    let policy = helm(bed.kubeconfig(), &words).await;
    let policy = policy.unwrap_or_else(|error| panic!("{error}"));
    bed.objects().apply(ruled_registry()).await?;
    kubectl(bed, &["apply", "--filename=-"], &policy)
        .await
        .unwrap_or_else(|error| panic!("{error}"));

    let stranger = bed.namespace("chart-stranger").await?;
    until("the policy to be in force", SOON, || async {
        match apply(&stranger, &json!({})).await {
            Err(reported) if reported.contains("no rule of spec.access of the Registry charted-access") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let tenant = bed.namespace("chart-shop").await?;
    let label = async |labels: Value| {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": tenant.name(), "labels": labels},
        });
        bed.objects().apply(object).await
    };
    label(json!({"team": "shop", "stage": "live"})).await?;
    // The apiserver looks at namespaces through a cache.
    until("the labels to be seen", SOON, || async {
        apply(&tenant, &json!({})).await
    })
    .await?;
    for spec in allowed(tenant.name()) {
        let applied = apply(&tenant, &spec).await;
        assert_eq!(applied, Ok(()), "{spec}");
    }
    for (spec, expected) in refused(tenant.name()) {
        let reported = apply(&tenant, &spec).await.expect_err("it is refused");
        assert!(
            reported.contains(expected) && reported.contains("the rules for it are shops"),
            "{spec}: {reported}"
        );
    }
    // A rule that was stricter when it was made may be labelled and deleted nevertheless.
    namespace_that_was_allowed(
        &tenant,
        label(json!({"team": "shop", "stage": "live", "blocked": "yes"})),
    )
    .await?;
    bed.objects().delete(API, "Registry", "charted-access").await?;
    kubectl(bed, &["delete", "--filename=-"], &policy)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    Ok(())
}

/// What was taken before stays a thing that can be labelled, when the namespace is `blocked` afterwards.
async fn namespace_that_was_allowed(tenant: &Namespace, blocked: impl Future<Output = Result<Value>>) -> Result<()> {
    let mut object = registration("orders", &json!({"registryRef": {"name": "charted-access"}}));
    tenant.apply(object.clone()).await?;
    blocked.await?;
    until("a new spec to be refused", SOON, || async {
        let mut other = object.clone();
        other["spec"]["weight"] = json!(7);
        match tenant.apply(other).await {
            Err(error) if error.to_string().contains("shops") || error.to_string().contains("zero") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    object["metadata"]["labels"] = json!({"a": "b"});
    tenant.apply(object).await.map(drop)
}
