//! A foreign client that changes the operator's data: leases revoked, records removed, keys overwritten.

use std::time::Instant;

use serde_json::json;
use testbed::{History, Result};

use crate::Scene;
use crate::support::{pod, registration, wait_in_sync, wait_keys};

#[tokio::test]
async fn revoked_leases_are_replaced_at_once_and_no_other_key_is_touched() -> Result<()> {
    let scene = Scene::of("revoked", 1, 30).await?;
    let namespace = &scene.turn.namespace;
    // Another TTL, hence another lease.
    let spec = json!({"selector": {"matchLabels": {"app": "orders"}}, "leaseTTLSeconds": 60});
    namespace.apply(registration("payments", &spec)).await?;
    wait_in_sync(namespace.objects(), "payments", 3).await;
    let (orders, payments) = (scene.turn.plain("orders"), scene.turn.plain("payments"));
    let before = wait_keys(&scene.turn.etcd, &orders, &["a", "b", "c"]).await;
    let others = wait_keys(&scene.turn.etcd, &payments, &["a", "b", "c"]).await;
    let lease = before[&format!("{orders}a")].lease;
    assert_ne!(lease, others[&format!("{payments}a")].lease);
    let history = History::watch(&scene.turn.etcd, &payments, 0).await?;

    let mut client = scene.turn.etcd.client().await?;
    client.lease_revoke(lease).await.expect("etcd obeys");
    let begin = Instant::now();
    let after = wait_keys(&scene.turn.etcd, &orders, &["a", "b", "c"]).await;
    eprintln!("back {} ms after the revocation", begin.elapsed().as_millis());
    assert!(after.values().all(|held| held.lease != lease && held.lease != 0));
    history.assert_silent().await;
    scene.wait_well(3).await?;

    // The same with the lease of the leadership: it is won again.
    let history = History::watch(&scene.turn.etcd, "/services/", 0).await?;
    let etcd = &scene.turn.etcd;
    let held = etcd.dump("/leasehold/").await?;
    let (_, leader) = held
        .iter()
        .find(|(key, _)| key.ends_with("/leader"))
        .expect("somebody leads");
    client.lease_revoke(leader.lease).await.expect("etcd obeys");
    let begin = Instant::now();
    namespace.set_ready("a", false).await?;
    wait_in_sync(namespace.objects(), "payments", 2).await;
    scene.wait(&["b", "c"]).await;
    eprintln!("written {} ms after the loss of the lead", begin.elapsed().as_millis());
    let mut events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    events.sort();
    assert_eq!(events, [format!("delete {orders}a"), format!("delete {payments}a")]);
    scene.assert_lives()?;
    scene.wait_well(2).await
}

#[tokio::test]
async fn removed_bookkeeping_is_restored_and_loses_no_key() -> Result<()> {
    let scene = Scene::of("records", 1, 5).await?;
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    let mut client = etcd.client().await?;
    let records = etcd.dump("/leasehold/").await?;
    for key in records.keys().filter(|key| key.contains("/leases/")) {
        client.delete(key.as_str(), None).await.expect("etcd takes it");
    }
    // Longer than the TTL: keys on a lease that is not renewed would be gone.
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    scene.wait(&["a", "b", "c"]).await;
    // A stranger overwrites a key, which takes it off our lease.
    let key = format!("{}a", scene.turn.plain("orders"));
    client.put(key.as_str(), "stranger", None).await.expect("etcd takes it");
    let begin = Instant::now();
    namespace.create_pod(&pod("d", "orders")).await?;
    let after = scene.wait_converged(begin, &["a", "b", "c", "d"]).await?;
    assert_ne!(after[&key].value, "stranger");
    scene.wait_well(4).await
}
