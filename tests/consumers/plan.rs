//! `leasehold plan` against a real cluster and a real etcd, and the operator that then does what was planned.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use testbed::Result;

use crate::Turn;
use crate::support::{API, operator, pod, registration, wait_keys};

/// Runs `leasehold plan` with these arguments.
pub fn plan(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_leasehold");
    let output = Command::new(program).arg("plan").args(args).output();
    output.expect("leasehold is there")
}

/// The plan for `object` in the turn's cluster: the exit code, and what was printed or why not.
fn planned(turn: &Turn, object: &Value) -> (Option<i32>, Value) {
    let path = turn.bed.logs().join(format!("{}.json", turn.namespace.name()));
    std::fs::write(&path, object.to_string()).expect("the bed's folder can be written to");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (file, kubeconfig) = (text(&path), text(turn.bed.kubeconfig()));
    let namespace = turn.namespace.name();
    let output = plan(&["-f", &file, "--kubeconfig", &kubeconfig, "-n", namespace, "-o", "json"]);
    let reported = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&output.stderr).into_owned()));
    (output.status.code(), reported)
}

/// Of each key that is in the plan: what becomes of it, its name below `prefix` and its value in the end.
fn changes(plan: &Value, prefix: &str) -> Vec<String> {
    let keys = plan["registrations"][0]["keys"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let change = |key: &Value| {
        let name = text(&key["key"]);
        let name = name.strip_prefix(prefix).expect("below the prefix");
        format!("{} {name} {}", text(&key["action"]), text(&key["after"]))
    };
    keys.iter().map(change).collect()
}

#[tokio::test]
async fn a_plan_says_beforehand_what_the_operator_then_does() -> Result<()> {
    let turn = Turn::take("plan", 1, 30).await?;
    let _operator = operator(turn.bed, "operator-0");
    let prefix = format!("/plan/{}/", turn.namespace.name());
    let below = |port: u16| {
        let format = json!({"type": "Plain", "plain": {"prefix": prefix.trim_end_matches('/')}});
        registration(
            "orders",
            &json!({"ports": [{"name": "grpc", "port": port}], "formats": [format]}),
        )
    };
    for (name, ip) in [("a", "10.9.7.1"), ("b", "10.9.7.2")] {
        turn.namespace.create_pod(&pod(name, "orders").ip(ip)).await?;
    }
    // One foreign key where the operator would write that of a pod, and one that concerns no pod.
    let mut etcd = turn.etcd.client().await?;
    for name in ["b", "vm-1"] {
        let put = etcd.put(format!("{prefix}{name}"), "somebody else's", None).await;
        put.expect("etcd takes it");
    }

    let history = testbed::History::watch(&turn.etcd, &prefix, 0).await?;
    let (code, first) = planned(&turn, &below(8080));
    assert_eq!(
        (code, changes(&first, &prefix)),
        (Some(2), vec!["create a 10.9.7.1:8080".to_owned()]),
        "{first:#}"
    );
    assert_eq!(first["registrations"][0]["conflicts"][0]["key"], format!("{prefix}b"));
    history.assert_silent().await;

    turn.namespace.apply(below(8080)).await?;
    let held = wait_keys(&turn.etcd, &prefix, &["a", "b", "vm-1"]).await;
    assert_eq!(held[&format!("{prefix}a")].value, "10.9.7.1:8080");
    let (code, again) = planned(&turn, &below(8080));
    assert_eq!(
        (code, changes(&again, &prefix)),
        (Some(0), vec!["keep a 10.9.7.1:8080".to_owned()]),
        "{again:#}"
    );

    let (code, changed) = planned(&turn, &below(9090));
    assert_eq!(
        (code, changes(&changed, &prefix)),
        (Some(2), vec!["replace a 10.9.7.1:9090".to_owned()]),
        "{changed:#}"
    );
    let mut moved = below(8080);
    moved["spec"]["formats"][0]["plain"]["prefix"] = json!(format!("{prefix}deeper"));
    let (code, moved) = planned(&turn, &moved);
    let expected = vec![
        "remove a ".to_owned(),
        "create deeper/a 10.9.7.1:8080".to_owned(),
        "create deeper/b 10.9.7.2:8080".to_owned(),
    ];
    assert_eq!((code, changes(&moved, &prefix)), (Some(2), expected), "{moved:#}");
    history.assert_exactly(&[&format!("put {prefix}a 10.9.7.1:8080")]).await;
    Ok(())
}

#[tokio::test]
async fn what_admission_refuses_has_no_plan() -> Result<()> {
    let turn = Turn::take("unplanned", 1, 30).await?;
    for (spec, words) in [
        (json!({"ports": []}), "ports is missing: list the ports of the pods"),
        (
            json!({"selector": {}}),
            "an empty selector would register every pod of the namespace",
        ),
    ] {
        let (code, reported) = planned(&turn, &registration("orders", &spec));
        let reported = reported.as_str().unwrap_or_default();
        assert!(code == Some(1) && reported.contains(words), "{code:?} {reported}");
    }
    let (code, reported) = planned(
        &turn,
        &registration("orders", &json!({"registryRef": {"name": "nowhere"}})),
    );
    let reported = reported.as_str().unwrap_or_default();
    assert!(
        code == Some(1) && reported.contains("Registry \"nowhere\", which does not exist"),
        "{code:?} {reported}"
    );
    Ok(())
}

#[tokio::test]
async fn plan_of_a_registration_that_corrects_a_rejected_one_shows_its_keys() -> Result<()> {
    let turn = Turn::take("plan-corrected", 1, 30).await?;
    let prefix = format!("/plan/{}", turn.namespace.name());
    let with = |format: Value| {
        registration(
            "orders",
            &json!({"ports": [{"name": "grpc", "port": 8080}], "formats": [format]}),
        )
    };
    let missing = json!({"recordFormatRef": {"name": "missing"}, "prefix": prefix});
    turn.namespace
        .apply(with(json!({"type": "Custom", "custom": missing})))
        .await?;
    turn.namespace.create_pod(&pod("a", "orders").ip("10.9.7.1")).await?;
    let corrected = with(json!({"type": "Plain", "plain": {"prefix": prefix}}));
    let (code, plan) = planned(&turn, &corrected);
    let expected = vec!["create a 10.9.7.1:8080".to_owned()];
    assert_eq!(
        (code, changes(&plan, &format!("{prefix}/"))),
        (Some(2), expected),
        "{plan:#}"
    );
    Ok(())
}

#[tokio::test]
async fn plan_of_a_registry_says_beforehand_which_keys_its_rules_remove() -> Result<()> {
    let turn = Turn::take("plan-rules", 1, 30).await?;
    let _operator = operator(turn.bed, "operator-0");
    let prefix = format!("/plan/{}/", turn.namespace.name());
    let format = json!({"type": "Plain", "plain": {"prefix": prefix.trim_end_matches('/')}});
    let orders = registration(
        "orders",
        &json!({"ports": [{"name": "grpc", "port": 8080}], "formats": [format]}),
    );
    turn.namespace.apply(orders).await?;
    turn.namespace.create_pod(&pod("a", "orders").ip("10.9.7.1")).await?;
    wait_keys(&turn.etcd, &prefix, &["a"]).await;

    let with = |access: Value| {
        let mut spec = json!({
            "etcd": {"endpoints": turn.etcd.endpoints()},
            "defaults": {"leaseTTLSeconds": 30},
        });
        if !access.is_null() {
            spec["access"] = access;
        }
        json!({"apiVersion": API, "kind": "Registry", "metadata": {"name": "default"}, "spec": spec})
    };
    let (code, same) = planned(&turn, &with(Value::Null));
    assert_eq!((code, &same["registrations"]), (Some(0), &json!([])), "{same:#}");
    let elsewhere = json!({"rules": [{"name": "all", "namespaceSelector": {}, "prefixes": ["/elsewhere"]}]});
    let (code, denied) = planned(&turn, &with(elsewhere.clone()));
    assert_eq!(
        (code, changes(&denied, &prefix)),
        (Some(2), vec!["remove a ".to_owned()]),
        "{denied:#}"
    );
    // The keys are in the etcd that is in use, whatever the endpoints are in the file.
    let mut moved = with(elsewhere.clone());
    moved["spec"]["etcd"]["endpoints"] = json!(["http://127.0.0.1:1"]);
    let (code, moved) = planned(&turn, &moved);
    assert_eq!(
        (code, changes(&moved, &prefix)),
        (Some(2), vec!["remove a ".to_owned()]),
        "{moved:#}"
    );
    assert_eq!(
        wait_keys(&turn.etcd, &prefix, &["a"]).await.len(),
        1,
        "a plan changes nothing"
    );
    turn.bed.objects().apply(with(elsewhere)).await?;
    wait_keys(&turn.etcd, &prefix, &[]).await;
    Ok(())
}

#[tokio::test]
async fn plan_counts_overlaps_with_other_namespaces_and_the_used_quota() -> Result<()> {
    let turn = Turn::take("plan-others", 1, 30).await?;
    let _operator = operator(turn.bed, "operator-0");
    let other = turn.bed.namespace("turn-plan-earlier").await?;
    let prefix = format!("/plan/{}", turn.namespace.name());
    let at = |name: &str, prefix: &str| {
        let format = json!({"type": "Plain", "plain": {"prefix": prefix}});
        let selector = json!({"matchLabels": {"app": "orders"}});
        registration(name, &json!({"selector": selector, "formats": [format]}))
    };
    turn.namespace.create_pod(&pod("a", "orders").ip("10.9.7.1")).await?;
    other.create_pod(&pod("b", "orders").ip("10.9.7.2")).await?;
    other.apply(at("ledger", &prefix)).await?;
    wait_keys(&turn.etcd, &format!("{prefix}/"), &["b"]).await;

    let (code, overlapping) = planned(&turn, &at("orders", &format!("{prefix}/eu")));
    let problems = overlapping["registrations"][0]["problems"].to_string();
    assert_eq!(
        (code, &overlapping["registrations"][0]["keys"]),
        (Some(0), &json!([])),
        "{overlapping:#}"
    );
    assert!(problems.contains(&format!("{}/ledger", other.name())), "{problems}");

    let rule = json!({"name": "all", "namespaceSelector": {}, "keysPerNamespace": 1});
    let registry = json!({
        "apiVersion": API, "kind": "Registry", "metadata": {"name": "default"},
        "spec": {
            "etcd": {"endpoints": turn.etcd.endpoints()},
            "defaults": {"leaseTTLSeconds": 30},
            "access": {"rules": [rule]},
        },
    });
    turn.bed.objects().apply(registry).await?;
    let billing = format!("/plan-billing/{}", turn.namespace.name());
    turn.namespace.apply(at("billing", &billing)).await?;
    wait_keys(&turn.etcd, &format!("{billing}/"), &["a"]).await;
    let (code, above) = planned(&turn, &at("orders", &format!("/plan-orders/{}", turn.namespace.name())));
    assert_eq!(
        (code, &above["registrations"][0]["keys"]),
        (Some(0), &json!([])),
        "{above:#}"
    );
    assert_ne!(above["registrations"][0]["problems"], json!([]), "{above:#}");
    Ok(())
}
