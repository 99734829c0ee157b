//! `leasehold doctor` against a real cluster and real etcds.

use std::process::Command;

use serde_json::{Value, json};
use testbed::{Bed, EtcdCluster, EtcdVersion, Result, Web, WebServer, until};

use crate::support::{API, SOON};

/// What it finds: its exit code, and the grade and text of each finding about Kubernetes and about the Registry.
fn doctor(bed: &Bed, registry: &str, more: &[&str]) -> (Option<i32>, Vec<(String, String)>) {
    let kubeconfig = bed.kubeconfig().to_str().expect("UTF-8");
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args([
            "doctor",
            "--kubeconfig",
            kubeconfig,
            "--registry",
            registry,
            "-o",
            "json",
        ])
        .args(more)
        .output()
        .expect("leasehold is there");
    let reported: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let chapters = reported["chapters"].as_array().expect("chapters").iter();
    let findings = chapters.flat_map(|chapter| chapter["findings"].as_array().expect("findings"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = findings.map(|finding| (text(&finding["grade"]), text(&finding["what"])));
    (output.status.code(), findings.collect())
}

/// Those that are not as they should be.
fn complaints(findings: &[(String, String)]) -> Vec<&(String, String)> {
    findings.iter().filter(|(grade, _)| grade != "well").collect()
}

#[tokio::test]
async fn the_doctor_finds_nothing_where_all_is_well_and_names_what_is_not() -> Result<()> {
    let bed = crate::bed().await;
    let etcd = EtcdCluster::temporary(EtcdVersion::default(), 3).await?;
    bed.create_registry("doctored", &etcd.endpoints(), 15).await?;
    // As soon as the operator has said something of it.
    let (code, findings) = until("the doctor to find nothing", SOON, || async {
        let (code, findings) = doctor(bed, "doctored", &[]);
        match complaints(&findings) {
            bad if bad.is_empty() => Ok((code, findings.clone())),
            bad => Err(format!("{bad:?}")),
        }
    })
    .await?;
    assert_eq!(code, Some(0));
    for reported in [
        "kube-apiserver v1.",
        "serviceregistrations.leasehold.dev is defined",
        "leases of 15 s are granted",
    ] {
        assert!(
            findings.iter().any(|(_, what)| what.contains(reported)),
            "{reported}: {findings:?}"
        );
    }

    etcd.member(2).kill().await?;
    // The others carry on, as soon as they have elected a leader where it was that of etcd.
    until("the doctor to warn of one member only", SOON, || async {
        let (code, findings) = doctor(bed, "doctored", &[]);
        match (code, &complaints(&findings)[..]) {
            (Some(0), [(grade, what)]) if grade == "warning" && what.contains("is unreachable") => Ok(()),
            (code, bad) => Err(format!("{code:?}: {bad:?}")),
        }
    })
    .await?;

    let account = [
        "--service-account",
        "default/nobody",
        "--metrics-auth",
        "--readiness-gate-max-wait=60",
    ];
    let (code, findings) = doctor(bed, "doctored", &account);
    assert_eq!(code, Some(2));
    for right in [
        "list pods",
        "watch pods",
        "patch registries/status",
        "get namespaces kube-system",
        "create events",
        "patch pods/status",
        "create tokenreviews",
        "create subjectaccessreviews",
    ] {
        let reported = format!("system:serviceaccount:default:nobody may not {right}:");
        assert!(
            findings.iter().any(|(_, what)| what.contains(&reported)),
            "{reported}: {findings:?}"
        );
    }

    let (code, findings) = doctor(bed, "forgotten", &[]);
    assert_eq!(code, Some(2));
    assert!(
        findings
            .iter()
            .any(|(_, what)| what.contains("there is no Registry \"forgotten\"")),
        "{findings:?}"
    );
    bed.objects().delete(API, "Registry", "doctored").await
}

// The web server answers while the doctor is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_cannot_be_used_are_named_by_the_doctor_and_connected() -> Result<()> {
    let bed = crate::bed().await;
    let config = testbed::EtcdConfig {
        members: 3,
        ..testbed::EtcdConfig::default()
    };
    let etcd = EtcdCluster::temporary_with(config).await?;
    etcd.remove_member(0).await?;
    etcd.add_learner(0).await?;
    let other = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    let web = WebServer::start(Web::Http1).await?;
    let mut endpoints = vec![web.http()];
    endpoints.extend(other.endpoints());
    endpoints.extend(etcd.endpoints());
    bed.create_registry("mixed", &endpoints, 15).await?;
    let said = [
        format!("{} is not an etcd server", endpoints[0]),
        format!("{} belongs to another etcd cluster", endpoints[1]),
        format!("{} is a learner", endpoints[2]),
    ];
    let names_all = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array();
        let connected = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Connected"));
        connected.is_some_and(|connected| {
            let message = connected["message"].as_str().unwrap_or_default();
            connected["status"] == "True" && said.iter().all(|words| message.contains(words.as_str()))
        })
    };
    bed.objects().wait((API, "Registry", "mixed"), names_all, SOON).await?;

    let (code, findings) = doctor(bed, "mixed", &[]);
    assert_eq!(code, Some(2), "two clusters are a problem");
    let reported = |words: &str| findings.iter().any(|(_, what)| what.contains(words));
    assert!(reported(&said[0]) && reported(&said[2]), "{findings:?}");
    assert!(reported("2 different etcd clusters"), "{findings:?}");
    assert!(reported("leases of 15 s are granted"), "{findings:?}");
    bed.objects().delete(API, "Registry", "mixed").await
}

#[tokio::test]
async fn unreachable_etcd_is_a_problem_and_rejected_registration_a_warning() -> Result<()> {
    let bed = crate::bed().await;
    let namespace = bed.namespace("doctor").await?;
    bed.create_registry("gone", &["http://127.0.0.1:1".to_owned()], 15)
        .await?;
    let refused = json!({
        "registryRef": {"name": "gone"},
        "formats": [{"type": "Plain", "plain": {"prefix": "/leasehold/x"}}],
    });
    namespace
        .apply(crate::support::registration("greedy", &refused))
        .await?;
    until("the doctor to tell of both", SOON, || async {
        let (code, findings) = doctor(bed, "gone", &[]);
        let reports = |grade: &str, text: &str| findings.iter().any(|(g, what)| g == grade && what.contains(text));
        let both = reports("problem", "etcd is unreachable at http://127.0.0.1:1")
            && reports("warning", "/greedy: The prefix /leasehold/x/");
        if both && code == Some(2) {
            Ok(())
        } else {
            Err(format!("{code:?} {findings:?}"))
        }
    })
    .await?;
    bed.objects().delete(API, "Registry", "gone").await
}
