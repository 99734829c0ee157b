//! P5, for an apiserver that is restored to an earlier state: its resource versions continue from there. A watch from
//! the last version that the operator has seen would receive no event until they pass that version.

use serde_json::json;
use testbed::{Folder, History, Result};

use crate::support::{SOON, operator, pod, wait_events, wait_keys};
use crate::{Turn, bring_back_apiserver};

/// How many changes the backup knows nothing of: more than follow while the test looks.
const CHANGES: u32 = 2000;

#[tokio::test]
async fn p5_apiserver_restored_from_a_backup_loses_no_key_and_is_followed() -> Result<()> {
    let turn = Turn::take("p5-restored", 1, 60).await?;
    turn.register(&["orders"]).await?;
    for name in ["a", "b", "c"] {
        turn.namespace.create_pod(&pod(name, "orders")).await?;
    }
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    let orders = turn.plain("orders");
    wait_keys(&turn.etcd, &orders, &["a", "b", "c"]).await;
    let folder = Folder::new("snapshot")?;
    let snapshot = folder.path().join("snapshot.db");
    let kubernetes_etcd = turn.bed.control_plane().etcd();
    kubernetes_etcd.save(&snapshot).await?;

    turn.namespace.create_pod(&pod("d", "orders")).await?;
    wait_keys(&turn.etcd, &orders, &["a", "b", "c", "d"]).await;
    let mut client = kubernetes_etcd.client().await?;
    for i in 0..CHANGES {
        client
            .put("/elsewhere", i.to_string(), None)
            .await
            .expect("etcd takes it");
    }
    // Keys that follow prove that the operator's watch is past those resource versions.
    turn.namespace.set_ready("a", false).await?;
    wait_keys(&turn.etcd, &orders, &["b", "c", "d"]).await;
    turn.namespace.set_ready("a", true).await?;
    wait_keys(&turn.etcd, &orders, &["a", "b", "c", "d"]).await;

    let history = History::watch(&turn.etcd, &orders, 0).await?;
    // So that it is away for no longer than a moment, for all that the operator knows.
    operator.stop()?;
    turn.bed.control_plane().apiserver().kill().await?;
    kubernetes_etcd.restore(&snapshot).await?;
    bring_back_apiserver(turn.bed).await?;
    operator.cont()?;
    // Kubernetes knows nothing of this pod any more.
    wait_events(&history, 1).await;
    turn.namespace.set_ready("b", false).await?;
    wait_events(&history, 2).await;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {orders}d"), format!("delete {orders}b")]);
    let pods = json!({"selected": 3, "ready": 2, "registered": 2});
    let reported = |object: &serde_json::Value| object["status"]["pods"] == pods;
    let registration = (crate::support::API, "ServiceRegistration", "orders");
    turn.namespace.objects().wait(registration, reported, SOON).await?;
    operator.process().alive()
}
