//! An operator that starts while a RecordFormat is broken or gone knows less than the one before, and loses nothing.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{History, Result};

use crate::support::{API, SOON, operator, pod, registration, wait_condition, wait_in_sync, wait_keys};
use crate::{Turn, wait_leader};

const TTL: u32 = 15;

fn record_format(value: &str) -> Value {
    json!({
        "apiVersion": API, "kind": "RecordFormat", "metadata": {"name": "restarted"},
        "spec": {"records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": value}]},
    })
}

#[tokio::test]
async fn operator_started_with_broken_or_missing_record_format_keeps_its_keys() -> Result<()> {
    let turn = Turn::take("record-formats", 1, TTL).await?;
    turn.bed.objects().apply(record_format("{{ hostPort }}")).await?;
    let custom = json!({"recordFormatRef": {"name": "restarted"}, "prefix": "/custom/restarted"});
    let formats = json!([{"type": "Custom", "custom": custom}]);
    turn.namespace
        .apply(registration("orders", &json!({"formats": formats})))
        .await?;
    turn.namespace.create_pod(&pod("a", "orders")).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    let before = wait_keys(&turn.etcd, "/custom/", &["restarted/a"]).await;
    let objects = turn.namespace.objects();
    wait_in_sync(objects, "orders", 1).await;
    let history = History::watch(&turn.etcd, "/custom/", 0).await?;

    operator.kill().await?;
    turn.bed.objects().apply(record_format("{{ hostPrt }}")).await?;
    operator.restart().await?;
    operator.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    wait_condition(objects, "orders", "Accepted", "False", "RecordFormatUnusable").await;
    turn.bed.objects().delete(API, "RecordFormat", "restarted").await?;
    wait_condition(objects, "orders", "Accepted", "False", "RecordFormatNotFound").await;
    // Not a wait for something to happen: without renewals the keys would be gone by then.
    tokio::time::sleep(Duration::from_secs(u64::from(TTL + 5))).await;
    history.assert_silent().await;

    turn.bed.objects().apply(record_format("{{ hostPort }}")).await?;
    wait_condition(objects, "orders", "Accepted", "True", "Accepted").await;
    wait_in_sync(objects, "orders", 1).await;
    history.assert_silent().await;
    let held = wait_keys(&turn.etcd, "/custom/", &["restarted/a"]).await;
    assert_eq!(held, before, "the same leases, too");
    turn.bed.objects().delete(API, "RecordFormat", "restarted").await
}
