//! What an operator finds when it comes back, and puts right.

use std::time::Duration;

use serde_json::json;
use testbed::{History, Result, until};

use crate::support::{API, SOON, operator, pod, registration, wait_count, wait_in_sync, wait_keys};
use crate::{Turn, wait_leader};

#[tokio::test]
async fn changes_missed_while_stopped_are_applied_and_nothing_else() -> Result<()> {
    let turn = Turn::take("differences", 1, 60).await?;
    turn.register(&["orders", "payments"]).await?;
    for name in ["a", "b", "c"] {
        turn.namespace.create_pod(&pod(name, "orders")).await?;
    }
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_keys(&turn.etcd, &turn.plain("orders"), &["a", "b", "c"]).await;
    wait_keys(&turn.etcd, &turn.plain("payments"), &["a", "b", "c"]).await;
    operator.kill().await?;

    let history = History::watch(&turn.etcd, "/services/", 0).await?;
    turn.namespace.set_ready("a", false).await?;
    turn.namespace.create_pod(&pod("d", "orders").ip("10.9.4.1")).await?;
    // After that, no registration leads the operator to the prefix of these keys.
    turn.namespace
        .objects()
        .delete(API, "ServiceRegistration", "payments")
        .await?;
    operator.restart().await?;
    wait_keys(&turn.etcd, &turn.plain("orders"), &["b", "c", "d"]).await;
    wait_keys(&turn.etcd, &turn.plain("payments"), &[]).await;
    let mut events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    events.sort();
    let (orders, payments) = (turn.plain("orders"), turn.plain("payments"));
    let mut expected = vec![format!("delete {orders}a"), format!("put {orders}d 10.9.4.1:8080")];
    expected.extend(["a", "b", "c"].map(|pod| format!("delete {payments}{pod}")));
    expected.sort();
    assert_eq!(events, expected);
    Ok(())
}

#[tokio::test]
async fn registration_deleted_while_etcd_is_down_is_cleaned_after_a_restart() -> Result<()> {
    let turn = Turn::take("deleted-down", 1, 120).await?;
    turn.register(&["orders", "payments"]).await?;
    turn.namespace.create_pod(&pod("a", "orders")).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_keys(&turn.etcd, &turn.plain("orders"), &["a"]).await;
    let kept = wait_keys(&turn.etcd, &turn.plain("payments"), &["a"]).await;

    turn.etcd.member(0).kill().await?;
    let objects = turn.namespace.objects();
    objects.delete(API, "ServiceRegistration", "orders").await?;
    let gone = objects.get(API, "ServiceRegistration", "orders").await?;
    assert_eq!(gone, None, "its deletion does not wait for etcd");
    operator.kill().await?;
    operator.restart().await?;
    turn.etcd.restart(0).await?;
    wait_keys(&turn.etcd, &turn.plain("orders"), &[]).await;
    assert_eq!(turn.etcd.dump(&turn.plain("payments")).await?, kept);
    Ok(())
}

#[tokio::test]
async fn keys_that_lapsed_while_etcd_was_away_are_written_again() -> Result<()> {
    let turn = Turn::take("lapsed", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    let before = wait_count(&turn.etcd, "/services/", 3, SOON).await;
    let lease = before.values().next().expect("three").lease;
    turn.etcd
        .client()
        .await?
        .lease_revoke(lease)
        .await
        .expect("etcd revokes");
    let after = wait_count(&turn.etcd, "/services/", 3, SOON).await;
    assert!(
        after.values().all(|held| held.lease != lease && held.lease != 0),
        "{after:?}"
    );
    Ok(())
}

#[tokio::test]
async fn dead_etcd_member_loses_no_key_and_blocks_no_change() -> Result<()> {
    let turn = Turn::take("member", 3, 15).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(5).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 5, SOON).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;
    turn.etcd.member(0).kill().await?;
    // Longer than the TTL: without renewals by the others the keys would go.
    tokio::time::sleep(Duration::from_secs(20)).await;
    history.assert_silent().await;
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    wait_count(&turn.etcd, "/services/", 4, SOON).await;
    turn.etcd.restart(0).await?;
    turn.namespace.set_ready(&pod, true).await?;
    wait_count(&turn.etcd, "/services/", 5, SOON).await;
    Ok(())
}

#[tokio::test]
async fn an_etcd_that_is_restarted_finds_the_operator_still_there() -> Result<()> {
    let turn = Turn::take("etcd-restart", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    let before = wait_count(&turn.etcd, "/services/", 3, SOON).await;
    let pid = operator.pid();
    turn.etcd.member(0).kill().await?;
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    turn.etcd.restart(0).await?;
    let after = wait_count(&turn.etcd, "/services/", 2, SOON).await;
    assert!(
        after.iter().all(|(key, held)| before[key] == *held),
        "the others are as they were"
    );
    assert_eq!(operator.pid(), pid);
    operator.process().alive()?;
    Ok(())
}

#[tokio::test]
async fn registry_created_again_with_another_etcd_is_followed_there() -> Result<()> {
    let turn = Turn::take("moved", 1, 15).await?;
    turn.namespace.create_pod(&pod("a", "orders")).await?;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_in_sync(turn.namespace.objects(), "orders", 1).await;
    let other = testbed::EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    turn.bed.objects().delete(API, "Registry", "default").await?;
    turn.bed.create_registry("default", &other.endpoints(), 15).await?;
    wait_keys(&other, &turn.plain("orders"), &["a"]).await;
    wait_in_sync(turn.namespace.objects(), "orders", 1).await;
    // The old ones are renewed no more.
    wait_count(&turn.etcd, "/services/", 0, Duration::from_secs(30)).await;
    Ok(())
}

#[tokio::test]
async fn operator_started_before_its_etcd_serves_it_once_available() -> Result<()> {
    let turn = Turn::take("early", 1, 15).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(2).await?;
    turn.etcd.member(0).kill().await?;
    let operator = operator(turn.bed, "operator-0");
    until("the registration to say that etcd is away", SOON, || async {
        let object = turn.namespace.objects().get(API, "ServiceRegistration", "orders").await;
        let object = object.map_err(|error| error.to_string())?.ok_or("it is not there")?;
        let reported = crate::support::condition(&object, "Synced");
        if reported.1 == "RegistryUnreachable" {
            Ok(())
        } else {
            Err(format!("{reported:?}"))
        }
    })
    .await?;
    operator.process().alive()?;
    turn.etcd.restart(0).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    wait_count(&turn.etcd, "/services/", 2, SOON).await;
    wait_in_sync(turn.namespace.objects(), "orders", 2).await;
    Ok(())
}
