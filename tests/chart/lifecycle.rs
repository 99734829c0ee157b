//! A release from its installation to its end, with the chart's own pods running as the chart says.

use std::time::Instant;

use serde_json::json;
use testbed::{EtcdCluster, History, Kind, Result, shared};

use super::TURN;
use super::helm::delete_registry;
use super::release::{LONG, ROLLOUT, Release, TTL};
use super::support::{plain_prefix, pod, registration, wait_in_sync, wait_keys};

#[tokio::test]
async fn release_lifecycle_is_invisible_to_consumers_until_keys_expire() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let etcd = EtcdCluster::temporary(testbed::EtcdVersion::default(), 1).await?;
    let release = Release::prepare(bed, "chart-home", &etcd).await?;

    let notes = release.apply("install", &[]).await;
    assert!(
        notes.contains(&format!("kubectl get registries {}", release.registry)),
        "{notes}"
    );
    let first = release.pods(2).await?;
    let leader = release.leader(&first).await?;
    let namespace = bed.namespace("chart-user").await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace
        .apply(registration(
            "orders",
            &json!({"registryRef": {"name": release.registry}}),
        ))
        .await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let uid = release.registry().await?.expect("it is there")["metadata"]["uid"].clone();
    let history = History::watch(&etcd, &prefix, 0).await?;

    release
        .apply("upgrade", &["replicaCount=3,operator.logFormat=text"])
        .await;
    let second = release.pods(3).await?;
    assert!(second.iter().all(|pod| !first.contains(pod)), "{first:?} -> {second:?}");
    assert_ne!(release.leader(&second).await?, leader);
    release
        .helm(&["rollback", "leasehold", "1", "--wait", "--timeout", ROLLOUT])
        .await;
    let third = release.pods(2).await?;
    assert!(third.iter().all(|pod| !second.contains(pod)), "{second:?} -> {third:?}");
    release.leader(&third).await?;
    // The new leader writes this key after anything that it does to the first one: a single event proves silence.
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_keys(&etcd, &prefix, &["a", "b"]).await;
    let events = history.wait_for(|events| !events.is_empty(), LONG).await?;
    assert_eq!(events.len(), 1, "consumers saw {events:?}");
    assert!(events[0].key.ends_with("/b"), "consumers saw {events:?}");

    let begin = Instant::now();
    release.uninstall().await;
    assert_eq!(
        release.home.objects().get("apps/v1", "Deployment", "leasehold").await?,
        None
    );
    let ended = begin.elapsed();
    let events = history.wait_for(|events| events.len() >= 3, LONG).await?;
    assert!(events[1..].iter().all(|event| event.kind == Kind::Delete), "{events:?}");
    let lapsed = history.arrivals()[2].0 - begin;
    // Not removed by those who ended: each key was left to its lease, which is renewed each third of its TTL.
    assert!(lapsed.as_secs() >= TTL / 3, "gone {lapsed:?} after the end began");
    assert!(
        lapsed.as_secs() <= ended.as_secs() + TTL + 2,
        "gone {lapsed:?} after the end began"
    );
    let kept = release.registry().await?.expect("the Registry stays");
    assert_eq!(kept["metadata"]["uid"], uid, "it is still the same");

    // A release of the same name takes it over again.
    release.apply("install", &[]).await;
    wait_keys(&etcd, &prefix, &["a", "b"]).await;
    assert_eq!(release.registry().await?.expect("it is there")["metadata"]["uid"], uid);
    release.uninstall().await;
    delete_registry(bed, &release.registry).await
}
