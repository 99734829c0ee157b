//! A release from its installation to its end.

use serde_json::{Value, json};
use testbed::{EtcdCluster, Operator, OperatorConfig, Result, shared};

use super::helm::{chart, helm, kubeconfig_of};
use super::support::{API, SOON, plain_prefix, pod, registration, wait_in_sync, wait_keys};

#[tokio::test]
async fn a_release_is_installed_upgraded_rolled_back_and_removed_and_no_key_goes_with_it() -> Result<()> {
    let bed = shared().await?;
    bed.apply_crds().await?;
    let etcd = EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    let home = bed.namespace("chart-home").await?;
    let chart = chart().display().to_string();
    let endpoints = format!("registry.endpoints={{{}}}", etcd.endpoints().join(","));
    let release = |command: &'static str, more: &[&str]| {
        let mut words = vec![command, "leasehold", chart.as_str(), "--namespace", home.name()];
        words.extend([
            "--wait",
            "--timeout",
            "2m",
            "--set",
            "registry.create=true,registry.name=charted",
        ]);
        words.extend(["--set", endpoints.as_str(), "--set", "registry.spec.ttlSeconds=15"]);
        words.extend(more);
        words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let run = async |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let told = helm(bed.kubeconfig(), &words).await;
        told.unwrap_or_else(|error| panic!("helm {}: {error}", words.join(" ")))
    };
    let notes = run(release("install", &[])).await;
    assert!(notes.contains("kubectl get registries charted"), "{notes}");
    let account = kubeconfig_of(bed, home.name(), "leasehold").await;
    let deployment = async || {
        let found = home.objects().get("apps/v1", "Deployment", "leasehold").await;
        found.map(|found| found.expect("the Deployment is there"))
    };

    // The operator as the chart runs it, but for what belongs to a container: its port, its folder, where its log goes.
    let mut config = OperatorConfig::new("charted-0", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(account);
    let state = bed.folder().folder("charted-state")?;
    for argument in arguments(&deployment().await?) {
        match argument.split_once('=').map_or(argument.as_str(), |(name, _)| name) {
            "run" | "--http" | "--log-format" => {}
            "--state-dir" => config
                .args
                .push(format!("--state-dir={}", state.join("state").display()).into()),
            _ => config.args.push(argument.into()),
        }
    }
    let operator = Operator::start(bed, config)?;
    operator.wait_ready(SOON).await?;
    let namespace = bed.namespace("chart-user").await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace
        .apply(registration("orders", &json!({"registry": "charted"})))
        .await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    wait_in_sync(namespace.objects(), "orders", 1).await;

    let registry = async || bed.objects().get(API, "Registry", "charted").await;
    let uid = registry().await?.expect("it is there")["metadata"]["uid"].clone();
    run(release("upgrade", &["--set", "replicaCount=3"])).await;
    assert_eq!(deployment().await?["spec"]["replicas"], 3);
    let rollback = [
        "rollback",
        "leasehold",
        "1",
        "--namespace",
        home.name(),
        "--wait",
        "--timeout",
        "2m",
    ];
    run(rollback.map(str::to_owned).to_vec()).await;
    assert_eq!(deployment().await?["spec"]["replicas"], 2);
    run(["uninstall", "leasehold", "--namespace", home.name(), "--wait"]
        .map(str::to_owned)
        .to_vec())
    .await;
    assert_eq!(home.objects().get("apps/v1", "Deployment", "leasehold").await?, None);
    let kept = registry().await?.expect("the Registry stays");
    assert_eq!(kept["metadata"]["uid"], uid, "it is still the same");
    wait_keys(&etcd, &prefix, &["a"]).await;

    // A release of the same name takes it over again.
    run(release("install", &[])).await;
    assert_eq!(registry().await?.expect("it is there")["metadata"]["uid"], uid);
    run(["uninstall", "leasehold", "--namespace", home.name(), "--wait"]
        .map(str::to_owned)
        .to_vec())
    .await;
    drop(operator);
    bed.objects().delete(API, "Registry", "charted").await
}

/// What the Deployment gives the program.
fn arguments(deployment: &Value) -> Vec<String> {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_array().expect("a list");
    arguments
        .iter()
        .map(|argument| argument.as_str().expect("text").to_owned())
        .collect()
}
