//! `leasehold purge`: what is ours goes at once, and nothing else.

use std::path::Path;

use serde_json::json;
use testbed::{Bed, EtcdCluster, History, Kind, Result, shared};
use tokio::process::Command;

use super::TURN;
use super::helm::delete_registry;
use super::release::{LONG, Release};
use super::support::{SOON, operator, plain_prefix, pod, registration, wait_in_sync, wait_keys};

/// Runs `leasehold purge` with these arguments; an error is what it says on stderr.
async fn purge(kubeconfig: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut purge = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    purge.arg("purge").args(arguments).arg("--kubeconfig").arg(kubeconfig);
    let output = purge
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// Registers a pod in two Registries of one etcd that share a prefix with a stranger's keys.
async fn register(bed: &Bed, etcd: &EtcdCluster, registry: &str) -> Result<testbed::Namespace> {
    bed.create_registry(registry, &etcd.endpoints(), 299).await?;
    let namespace = bed.namespace(registry).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace
        .apply(registration("orders", &json!({"registryRef": {"name": registry}})))
        .await?;
    Ok(namespace)
}

#[tokio::test]
async fn purge_removes_only_own_keys_and_not_while_an_operator_leads() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let etcd = EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    let (ours, other) = (
        register(bed, &etcd, "purged").await?,
        register(bed, &etcd, "not-purged").await?,
    );
    let operator = operator(bed, "purge-me");
    operator.wait_ready(SOON).await?;
    for namespace in [&ours, &other] {
        wait_keys(&etcd, &plain_prefix(namespace, "orders"), &["a"]).await;
        wait_in_sync(namespace.objects(), "orders", 1).await;
    }
    // A foreign key without a lease, beside those of the operator: `purge` must not remove it.
    let prefix = plain_prefix(&ours, "orders");
    let mut client = etcd.client().await?;
    let foreign = format!("{prefix}stranger");
    client.put(foreign.clone(), "10.9.9.9:1", None).await.expect("a put");

    let reported = purge(bed.kubeconfig(), &["--registry", "purged", "--yes"]).await;
    let reported = reported.expect_err("an operator leads");
    assert!(
        reported.contains("the replica purge-me leads") && reported.contains("--force"),
        "{reported}"
    );
    wait_keys(&etcd, &prefix, &["a", "stranger"]).await;
    operator.terminate()?;
    operator.wait_exit(SOON).await?;

    let reported = purge(bed.kubeconfig(), &["--registry", "purged"]).await;
    let reported = reported.expect_err("nobody can be asked");
    assert!(reported.contains("--yes"), "{reported}");
    let reported = purge(bed.kubeconfig(), &["--registry", "purgd", "--yes"]).await;
    assert!(
        reported
            .expect_err("there is none")
            .contains("there is no Registry purgd")
    );
    wait_keys(&etcd, &prefix, &["a", "stranger"]).await;

    let reported = purge(bed.kubeconfig(), &["--registry", "purged", "--yes"]).await;
    assert_eq!(reported.expect("it works"), "Registry purged: 1 keys removed\n");
    wait_keys(&etcd, &prefix, &["stranger"]).await;
    wait_keys(&etcd, &plain_prefix(&other, "orders"), &["a"]).await;
    let left = etcd.dump("/leasehold/").await?;
    assert!(!left.keys().any(|key| key.contains("/registries/purged/")), "{left:?}");
    assert!(
        left.keys().any(|key| key.contains("/registries/not-purged/leases/")),
        "{left:?}"
    );
    let reported = purge(bed.kubeconfig(), &["--registry", "purged", "--yes"]).await;
    assert_eq!(reported.expect("it works"), "Registry purged: nothing to remove\n");
    for registry in ["purged", "not-purged"] {
        delete_registry(bed, registry).await?;
    }
    Ok(())
}

#[tokio::test]
async fn release_with_purge_on_uninstall_removes_its_keys() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let etcd = EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    let release = Release::prepare(bed, "chart-purge", &etcd).await?;
    release
        .apply(
            "install",
            &["purgeOnUninstall=true,registry.spec.defaults.leaseTTLSeconds=299"],
        )
        .await;
    let namespace = bed.namespace("chart-purged").await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace
        .apply(registration(
            "orders",
            &json!({"registryRef": {"name": release.registry}}),
        ))
        .await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    let history = History::watch(&etcd, &prefix, 0).await?;

    // Its lease would have lasted for minutes.
    release.uninstall().await;
    let events = history.wait_for(|events| !events.is_empty(), LONG).await?;
    assert_eq!(events[0].kind, Kind::Delete);
    assert_eq!(
        release.home.objects().get("batch/v1", "Job", "leasehold-purge").await?,
        None
    );
    let role = format!("leasehold-{}-purge", release.home.name());
    let rights = bed
        .objects()
        .get("rbac.authorization.k8s.io/v1", "ClusterRole", &role)
        .await?;
    assert_eq!(rights, None, "nothing stays of what removed the keys");
    delete_registry(bed, &release.registry).await
}
