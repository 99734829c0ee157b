//! What GitOps tools make of our objects: kstatus, by which Flux and helm wait, the health checks that docs/gitops.md shows
//! for Flux and Argo CD, and the differences that kubectl finds.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use testbed::tools::GoProgram;
use testbed::{Bed, Folder, Objects, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::bed;
use crate::support::{API, SOON, condition, pod, registration, version, wait_condition, wait_in_sync};

/// An object's health as tools see it.
#[derive(Debug, PartialEq)]
struct Health {
    /// By kstatus.
    kstatus: String,
    /// By the documented expressions for Flux, in Flux's own code.
    flux: String,
    /// By the documented health check for Argo CD, in Argo CD's interpreter.
    argocd: String,
}

fn health(kstatus: &str, flux: &str, argocd: &str) -> Health {
    let [kstatus, flux, argocd] = [kstatus, flux, argocd].map(str::to_owned);
    Health { kstatus, flux, argocd }
}

fn program() -> Result<PathBuf> {
    let program = GoProgram {
        module: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operator/health"),
        package: ".",
        name: "health",
        modfile: None,
        tags: "",
    };
    program.binary()
}

/// The YAML on the page that has this word in it.
fn shown(word: &str) -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gitops.md");
    let page = std::fs::read_to_string(page).expect("it can be read");
    let blocks = page.split("```yaml\n").skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap_or_default());
    let block = blocks.find(|block| block.contains(word)).expect("it is shown");
    serde_saphyr::from_str(block).expect("YAML")
}

/// The documented expressions for a kind.
fn expressions(kind: &Value) -> Value {
    let shown = shown("healthCheckExprs");
    let all = shown["spec"]["healthCheckExprs"].as_array().expect("a list");
    let found = all.iter().find(|one| one["apiVersion"] == API && one["kind"] == *kind);
    found.expect("each kind has its own").clone()
}

/// The documented Lua. It is the same for all kinds.
fn script() -> String {
    let check = "resource.customizations.health.leasehold.dev_ServiceRegistration";
    shown(check)["data"][check].as_str().expect("a script").to_owned()
}

async fn run(program: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads its input");
    drop(stdin);
    child.wait_with_output().await.expect("it ends")
}

/// The health of an object as it is, and what kstatus says about it.
async fn judged(object: &Value) -> (Health, String) {
    let program = tokio::task::spawn_blocking(program)
        .await
        .expect("building does not panic");
    let program = program.unwrap_or_else(|error| panic!("{error}"));
    let folder = Folder::new("health").expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        path.into_os_string().into_string().expect("UTF-8")
    };
    let expressions = write("check.json", expressions(&object["kind"]).to_string());
    let script = write("check.lua", script());
    let ask = async |args: &[&str]| -> Value {
        let output = run(&program, args, &object.to_string()).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let kstatus = ask(&["kstatus"]).await;
    let flux = ask(&["flux", &expressions]).await;
    let argocd = ask(&["argocd", &script]).await;
    let status = |found: &Value| found["status"].as_str().expect("a text").to_owned();
    let found = health(&status(&kstatus), &status(&flux), &status(&argocd));
    (found, kstatus["message"].as_str().expect("a text").to_owned())
}

async fn judge(object: &Value) -> Health {
    judged(object).await.0
}

/// Waits until an object that is in no namespace has this status and reason of Ready, and returns it.
async fn wait_ready(objects: &Objects, kind: &str, name: &str, status: &str, reason: &str) -> Value {
    let wanted = (status.to_owned(), reason.to_owned());
    let is_it = |object: &Value| condition(object, "Ready") == wanted;
    let found = objects.wait((API, kind, name), is_it, SOON).await;
    found.unwrap_or_else(|error| panic!("{kind} {name}: {error}"))
}

#[tokio::test]
async fn a_registration_is_current_with_ready_pods_and_without_any() -> Result<()> {
    let namespace = bed().await.namespace("gitops-pods").await?;
    let objects = namespace.objects();
    namespace.apply(registration("orders", &json!({}))).await?;
    let none = wait_condition(objects, "orders", "Ready", "True", "NoPods").await;
    assert_eq!(judge(&none).await, health("Current", "Current", "Healthy"));
    namespace.create_pod(&pod("a", "orders").unready()).await?;
    let unready = wait_condition(objects, "orders", "Ready", "False", "NoReadyPods").await;
    assert_eq!(judge(&unready).await, health("InProgress", "InProgress", "Progressing"));
    namespace.set_ready("a", true).await?;
    let ready = wait_condition(objects, "orders", "Ready", "True", "EndpointsRegistered").await;
    assert_eq!(judge(&ready).await, health("Current", "Current", "Healthy"));
    Ok(())
}

#[tokio::test]
async fn an_edit_is_in_progress_until_the_operator_has_observed_it() -> Result<()> {
    let namespace = bed().await.namespace("gitops-edit").await?;
    // The answers to requests that change the spec: no operator has seen the change when they are made.
    let created = namespace.apply(registration("orders", &json!({}))).await?;
    // To kstatus, an object without status is one whose kind has none. Flux waits for what it cannot evaluate.
    assert_eq!(judge(&created).await, health("Current", "Unknown", "Progressing"));
    wait_condition(namespace.objects(), "orders", "Ready", "True", "NoPods").await;
    let edited = namespace.apply(registration("orders", &json!({"weight": 7}))).await?;
    let (found, message) = judged(&edited).await;
    assert_eq!(found, health("InProgress", "InProgress", "Progressing"));
    assert!(
        message.contains("generation is 2, but latest observed generation is 1"),
        "{message}"
    );
    let observed = |object: &Value| object["status"]["observedGeneration"] == 2;
    let kind = (API, "ServiceRegistration", "orders");
    let observed = namespace.objects().wait(kind, observed, SOON).await?;
    assert_eq!(judge(&observed).await, health("Current", "Current", "Healthy"));
    Ok(())
}

#[tokio::test]
async fn a_refused_registration_is_not_current() -> Result<()> {
    let namespace = bed().await.namespace("gitops-refused").await?;
    let spec = json!({"registryRef": {"name": "gitops-nowhere"}});
    namespace.apply(registration("orders", &spec)).await?;
    let refused = wait_condition(namespace.objects(), "orders", "Ready", "False", "NotAccepted").await;
    let (found, message) = judged(&refused).await;
    assert_eq!(found, health("InProgress", "Failed", "Degraded"));
    assert!(message.contains("condition Accepted"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_registry_is_current_once_it_is_connected() -> Result<()> {
    let bed = bed().await;
    let connected = wait_ready(&bed.objects(), "Registry", "default", "True", "Connected").await;
    assert_eq!(judge(&connected).await, health("Current", "Current", "Healthy"));
    // Reserved, so that no server listens there.
    let port = testbed::process::Port::reserve()?;
    bed.create_registry("gitops-unreachable", &[port.http()], 30).await?;
    let disconnected = wait_ready(&bed.objects(), "Registry", "gitops-unreachable", "False", "Unreachable").await;
    assert_eq!(
        judge(&disconnected).await,
        health("InProgress", "InProgress", "Progressing")
    );
    bed.objects().delete(API, "Registry", "gitops-unreachable").await
}

fn record_format(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": API, "kind": "RecordFormat", "metadata": {"name": name},
        "spec": {"records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": value}]},
    })
}

#[tokio::test]
async fn a_record_format_is_current_once_it_is_usable() -> Result<()> {
    let objects = bed().await.objects();
    let name = "gitops-usable";
    objects.apply(record_format(name, "{{ hostPort }}")).await?;
    let usable = wait_ready(&objects, "RecordFormat", name, "True", "Accepted").await;
    assert_eq!(judge(&usable).await, health("Current", "Current", "Healthy"));
    objects.apply(record_format(name, "{{ hostPort")).await?;
    let is_unusable = |object: &Value| condition(object, "Ready").0 == "False";
    let unusable = objects.wait((API, "RecordFormat", name), is_unusable, SOON).await?;
    assert_eq!(judge(&unusable).await, health("InProgress", "Failed", "Degraded"));
    objects.delete(API, "RecordFormat", name).await
}

/// Runs kubectl with a manifest as its input.
async fn kubectl(bed: &Bed, args: &[&str], manifest: &str) -> Output {
    let kubeconfig = bed.kubeconfig().to_str().expect("UTF-8");
    let args = [args, &["--filename=-", "--kubeconfig", kubeconfig]].concat();
    run(bed.kubectl(), &args, manifest).await
}

#[tokio::test]
async fn applied_manifest_has_no_diff_and_changes_nothing_when_reapplied() -> Result<()> {
    let bed = bed().await;
    for mode in [&["--server-side"][..], &[]] {
        let namespace = bed.namespace("gitops-diff").await?;
        let name = namespace.name();
        let mut service = registration("orders", &json!({"formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}]}));
        service["metadata"]["namespace"] = json!(name);
        let registry = json!({
            "apiVersion": API, "kind": "Registry", "metadata": {"name": name},
            "spec": {"etcd": {"endpoints": bed.registry().endpoints()}, "access": {"rules": [{
                "name": "shops", "namespaceSelector": {"matchLabels": {"shop": "yes"}}, "formats": ["Plain"],
            }]}},
        });
        let all = json!({
            "apiVersion": "v1", "kind": "List",
            "items": [service, registry, record_format(name, "{{ hostPort }}")],
        });
        let manifest = all.to_string();
        let apply = [&["apply"], mode].concat();
        let applied = kubectl(bed, &apply, &manifest).await;
        assert!(applied.status.success(), "{apply:?}: {applied:?}");
        namespace.create_pod(&pod("a", "orders")).await?;
        wait_in_sync(namespace.objects(), "orders", 1).await;
        wait_ready(&bed.objects(), "Registry", name, "True", "Connected").await;
        wait_ready(&bed.objects(), "RecordFormat", name, "True", "Accepted").await;

        let diff = [&["diff"], mode].concat();
        let shown = kubectl(bed, &diff, &manifest).await;
        let text = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.status.success() && text.is_empty(), "{diff:?}: {shown:?}");

        let kinds = [
            ("ServiceRegistration", "orders"),
            ("Registry", name),
            ("RecordFormat", name),
        ];
        let mut before = Vec::new();
        for (kind, name) in kinds {
            before.push(version(namespace.objects(), kind, name).await);
        }
        let again = kubectl(bed, &apply, &manifest).await;
        assert!(again.status.success(), "{apply:?}: {again:?}");
        for ((kind, name), before) in kinds.into_iter().zip(before) {
            assert_eq!(
                version(namespace.objects(), kind, name).await,
                before,
                "{apply:?} {kind}"
            );
        }
        // kubectl sees what it would do with a manifest that did change.
        let changed = manifest.replace("\"EtcdGRPC\"", "\"Kitex\"");
        let shown = kubectl(bed, &diff, &changed).await;
        let text = String::from_utf8_lossy(&shown.stdout);
        assert!(
            shown.status.code() == Some(1) && text.contains("+  - type: Kitex"),
            "{shown:?}"
        );
        for (kind, name) in [("Registry", name), ("RecordFormat", name)] {
            bed.objects().delete(API, kind, name).await?;
        }
    }
    Ok(())
}
