//! What a newer release has recorded in a form that this one cannot read.

use std::time::Duration;

use etcd_client::PutOptions;
use testbed::{History, Result};

use crate::support::{SOON, operator, wait_count, wait_events};
use crate::turn::Turn;

const TTL: u32 = 10;
const NEWER: &str = r#"{"v":2,"life":"10s"}"#;

#[tokio::test]
async fn leases_of_newer_release_are_renewed_and_unready_pods_are_removed() -> Result<()> {
    let turn = Turn::take("newer", 1, TTL).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let before = operator(turn.bed, "operator-0");
    before.wait_ready(SOON).await?;
    let keys = wait_count(&turn.etcd, &turn.plain("orders"), 3, SOON).await;
    before.terminate()?;
    before.wait_exit(SOON).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    let mut client = turn.etcd.client().await?;
    let mut rewritten = Vec::new();
    for (key, held) in turn.etcd.dump("/leasehold/").await? {
        if key.contains("/leases/") {
            let on_it = PutOptions::new().with_lease(held.lease);
            client
                .put(key.as_str(), NEWER, Some(on_it))
                .await
                .expect("etcd takes it");
            rewritten.push(key);
        }
    }
    assert!(!rewritten.is_empty());

    let after = operator(turn.bed, "operator-1");
    after.wait_ready(SOON).await?;
    // Longer than a lease lasts that is not renewed.
    tokio::time::sleep(Duration::from_secs(u64::from(TTL) + 5)).await;
    history.assert_silent().await;
    assert_eq!(turn.etcd.dump(&turn.plain("orders")).await?, keys);
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    let events = wait_events(&history, 1).await;
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    let records = turn.etcd.dump("/leasehold/").await?;
    for key in rewritten {
        assert_eq!(records[&key].value, NEWER, "{key} is not ours to write");
    }
    let log = std::fs::read_to_string(after.process().log()).expect("it is there");
    assert!(log.contains("a newer release wrote this record"), "{log}");
    Ok(())
}
