//! A status that no replica confirms any more says so, and only then: replicas that do not get into the etcd look for the
//! Secrets of the Registry in a namespace where there are others, as one that a firewall keeps out of it.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Namespace, Operator, OperatorConfig, Result};

use crate::scene::{Scene, etcd};
use crate::support::{API, SOON, condition, message, plain_prefix, wait_in_sync, wait_keys};

const NAME: &str = "confirmed";
/// Twice the time that a leader has to answer, and what a busy machine adds.
const BOUND: Duration = Duration::from_mins(1);
const ASKED: &str = "asking through the status whether the leader is alive";

fn start(scene: &Scene, name: &str, namespace: &Namespace) -> Result<Operator> {
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    let args = ["--namespace", namespace.name(), "--log", "debug", "--session-ttl=2"];
    config.args = args.map(Into::into).to_vec();
    Operator::start(scene.bed, config)
}

async fn registry(scene: &Scene) -> Result<Value> {
    let object = scene.bed.objects().get(API, "Registry", NAME).await?;
    Ok(object.expect("it is there"))
}

/// When each condition last changed.
fn transitions(object: &Value) -> Vec<(String, String, String)> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    conditions
        .iter()
        .map(|one| {
            (
                text(&one["type"]),
                text(&one["status"]),
                text(&one["lastTransitionTime"]),
            )
        })
        .collect()
}

#[tokio::test]
async fn status_that_no_replica_confirms_becomes_unknown_and_true_again() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-confirmed").await?;
    etcd.add_user("leasehold", "pw-of-confirmed", &["/leasehold/", "/services/"])
        .await?;
    let user = |password: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "confirmed-user"},
            "stringData": {"username": "leasehold", "password": password},
        })
    };
    scene.ops.apply(user("pw-of-confirmed")).await?;
    let (refused, without) = (
        scene.bed.namespace("confirmed-refused").await?,
        scene.bed.namespace("confirmed-without").await?,
    );
    refused.apply(user("another")).await?;
    // Where the operator may read Secrets.
    for object in [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "secrets"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "secrets"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "secrets"},
            "subjects": [{"kind": "ServiceAccount", "name": "leasehold", "namespace": scene.ops.name()}],
        }),
    ] {
        refused.apply(object).await?;
    }
    let spec = json!({
        "etcd": {"auth": {"secretRef": {"name": "confirmed-user"}}},
        "defaults": {"leaseTTLSeconds": 15},
    });
    scene.registry(NAME, &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant(NAME).await?;
    let objects = namespace.objects();

    let cases = [
        ("refused", &refused, "LoginRefused"),
        ("without", &without, "CredentialsMissing"),
    ];
    for (name, place, reason) in cases {
        let connected = format!("connected-{name}");
        let first = start(&scene, &connected, &scene.ops)?;
        first.wait_ready(SOON).await?;
        wait_keys(&etcd, &plain_prefix(&namespace, "orders"), &["a"]).await;
        scene.wait(NAME, "Connected", "True", "Connected").await;
        wait_in_sync(objects, "orders", 1).await;
        let before = transitions(&registry(&scene).await?);

        // While a leader lives, it answers, and no condition changes.
        let cut_off = start(&scene, name, place)?;
        scene.wait_log(name, |line| line.contains(ASKED)).await?;
        let led = |object: &Value| object["status"]["leader"] == json!(connected);
        scene.bed.objects().wait((API, "Registry", NAME), led, SOON).await?;
        assert_eq!(transitions(&registry(&scene).await?), before);

        // When it has ended, the one that is left says so.
        first.terminate()?;
        first.wait_exit(SOON).await?;
        let not = ("False".to_owned(), reason.to_owned());
        let is_said = |object: &Value| ["Connected", "Ready"].iter().all(|kind| condition(object, kind) == not);
        let said = scene
            .bed
            .objects()
            .wait((API, "Registry", NAME), is_said, BOUND)
            .await?;
        assert!(said["status"]["leader"].is_null(), "{said}");
        let words = message(&said, "Connected");
        assert!(words.contains("No other replica confirms"), "{words}");
        let is_unknown = |object: &Value| {
            ["Synced", "Ready"]
                .iter()
                .all(|kind| condition(object, kind) == ("Unknown".to_owned(), "NotConfirmed".to_owned()))
        };
        let reported = objects
            .wait((API, "ServiceRegistration", "orders"), is_unknown, BOUND)
            .await?;
        let endpoints = reported["status"]["endpoints"].as_array().map(Vec::len);
        assert_eq!(endpoints, Some(1), "what was known stays");

        // One that gets in again knows better, and the other one leaves it at that.
        let second = start(&scene, &connected, &scene.ops)?;
        scene.wait(NAME, "Connected", "True", "Connected").await;
        wait_in_sync(objects, "orders", 1).await;
        let is_ready = |object: &Value| condition(object, "Ready").0 == "True";
        objects
            .wait((API, "ServiceRegistration", "orders"), is_ready, SOON)
            .await?;
        for operator in [second, cut_off] {
            operator.terminate()?;
            operator.wait_exit(SOON).await?;
        }
    }
    Ok(())
}
