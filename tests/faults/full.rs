//! A database that is full: etcd refuses writes until it is compacted and defragmented and its alarm is disarmed.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions};
use serde_json::json;
use testbed::{EtcdConfig, Result, until};
use tokio::time::sleep;

use crate::Scene;
use crate::support::{SOON, message, pod, registration, wait_condition, wait_in_sync};

const TTL: u32 = 5;
const QUOTA: &str = "--quota-backend-bytes=8388608";
/// The keys of a foreign client that fills the database.
const JUNK: &str = "/junk";

/// Fills it until etcd raises the alarm.
async fn fill(client: &mut Client) -> Result<()> {
    let value = vec![b'x'; 512 << 10];
    for _ in 0..64 {
        if let Err(error) = client.put(JUNK, value.clone(), None).await {
            assert!(error.to_string().contains("space exceeded"), "{error}");
            break;
        }
    }
    until("the alarm", SOON, || async {
        let mut client = client.clone();
        let status = client.status().await.map_err(|error| error.to_string())?;
        if status.errors().iter().any(|error| error.contains("NOSPACE")) {
            Ok(())
        } else {
            Err(format!("{:?}", status.errors()))
        }
    })
    .await
}

/// What its admin does about it.
async fn free(client: &mut Client) -> std::result::Result<(), etcd_client::Error> {
    let deleted = client.delete(JUNK, None).await?;
    let revision = deleted.header().expect("a header").revision();
    let physical = CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await?;
    client.defragment().await?;
    let member = client.status().await?.header().expect("a header").member_id();
    let mut of_member = AlarmOptions::new();
    of_member.with_member(member);
    client
        .alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of_member))
        .await
        .map(drop)
}

#[tokio::test]
async fn full_database_is_reported_loses_no_key_and_writes_resume_when_freed() -> Result<()> {
    let config = EtcdConfig {
        args: vec![QUOTA.to_owned()],
        ..EtcdConfig::default()
    };
    let scene = Scene::with("full", config, TTL).await?;
    let namespace = &scene.turn.namespace;
    let before = scene.wait(&["a", "b", "c"]).await;
    let mut client = scene.turn.etcd.client().await?;
    fill(&mut client).await?;

    // Before anything of ours fails.
    scene.wait_registry("False", "NoSpace").await?;
    scene.wait_connected(false).await?;
    sleep(Duration::from_secs(u64::from(TTL) + 3)).await;
    assert_eq!(scene.wait(&["a", "b", "c"]).await, before, "renewed, and not written");
    // A key that there is no space for delays no removal.
    namespace.create_pod(&pod("d", "orders")).await?;
    until("the new pod to wait for space", SOON, || async {
        match scene.operator.metric("leasehold_backlog").await {
            Ok(Some(backlog)) if backlog > 0.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    namespace.set_ready("a", false).await?;
    scene.wait(&["b", "c"]).await;

    // Another TTL takes another lease, for which there is no space.
    let spec = json!({"selector": {"matchLabels": {"app": "orders"}}, "leaseTTLSeconds": 20});
    namespace.apply(registration("payments", &spec)).await?;
    let objects = namespace.objects();
    let reported = wait_condition(objects, "payments", "Synced", "Unknown", "RegistryUnreachable").await;
    let text = message(&reported, "Synced");
    assert!(text.contains("disarm the alarm"), "{text}");
    scene.assert_lives()?;

    free(&mut client).await.expect("etcd obeys");
    let repair = Instant::now();
    wait_in_sync(objects, "payments", 3).await;
    let took = repair.elapsed();
    assert!(took < crate::scene::CONVERGED, "{took:?}");
    scene.wait(&["b", "c", "d"]).await;
    scene.wait_well(3).await
}
