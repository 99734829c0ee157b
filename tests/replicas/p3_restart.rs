//! P3: restart, upgrade, crash or failover of the operator: consumers' watches see 0 events.

use std::collections::BTreeMap;
use std::time::Duration;

use testbed::{Held, History, Result};

use crate::support::{SOON, operator, wait_count, wait_events};
use crate::{Turn, support, wait_leader};

/// 125 pods under two services in two formats each.
const PODS: u32 = 125;
const KEYS: usize = 500;
const SERVICES: [&str; 2] = ["orders", "payments"];
const PATIENCE: Duration = Duration::from_mins(2);

/// All data keys, by both formats' prefixes.
async fn keys(turn: &Turn) -> BTreeMap<String, Held> {
    let mut all = turn.etcd.dump("").await.expect("etcd answers");
    all.retain(|key, _| !key.starts_with("/leasehold/"));
    all
}

async fn consumers(turn: &Turn) -> Result<[History; 2]> {
    let plain = History::watch(&turn.etcd, "/services/", 0).await?;
    Ok([plain, History::watch(&turn.etcd, turn.namespace.name(), 0).await?])
}

async fn start(name: &str) -> Result<Turn> {
    let turn = Turn::take(name, 1, 30).await?;
    turn.register(&SERVICES).await?;
    turn.deploy(PODS).await?;
    Ok(turn)
}

/// Makes a change and waits until it is the only thing that ever happened: an operator that follows it has done
/// whatever it had to do before.
async fn assert_only_this_change(turn: &Turn, histories: &[History; 2]) -> Result<()> {
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    for (history, prefix) in histories.iter().zip(["/services/", ""]) {
        wait_events(history, SERVICES.len()).await;
        let mut events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
        events.sort();
        let name = turn.namespace.name();
        let expected = SERVICES.map(|service| format!("delete {prefix}{name}/{service}/{pod}"));
        assert_eq!(events, expected);
    }
    turn.namespace.set_ready(&pod, true).await.map(drop)
}

#[tokio::test]
async fn p3_a_killed_operator_that_is_started_again_makes_no_event() -> Result<()> {
    let turn = start("p3-kill").await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", KEYS / 2, PATIENCE).await;
    wait_count(&turn.etcd, turn.namespace.name(), KEYS / 2, PATIENCE).await;
    for service in SERVICES {
        support::wait_in_sync(turn.namespace.objects(), service, PODS).await;
    }
    let (before, histories) = (keys(&turn).await, consumers(&turn).await?);
    let mut versions = Vec::new();
    for service in SERVICES {
        versions.push(support::version(turn.namespace.objects(), "ServiceRegistration", service).await);
    }
    operator.kill().await?;
    operator.restart().await?;
    operator.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    assert_eq!(keys(&turn).await, before, "same values, same leases, same revisions");
    assert_only_this_change(&turn, &histories).await?;
    for (service, before) in SERVICES.into_iter().zip(versions) {
        // One more write at most: that of the change just made.
        let object = turn
            .namespace
            .objects()
            .get(support::API, "ServiceRegistration", service)
            .await?;
        let object = object.expect("it is there");
        let now = &object["metadata"]["resourceVersion"];
        assert!(
            *now == before || !support::is_reported(&object, PODS, PODS),
            "rewritten: {now}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn p3_a_rolling_replacement_makes_no_event_and_the_next_one_leads_at_once() -> Result<()> {
    let turn = start("p3-roll").await?;
    let old = operator(turn.bed, "operator-0");
    old.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", KEYS / 2, PATIENCE).await;
    wait_count(&turn.etcd, turn.namespace.name(), KEYS / 2, PATIENCE).await;
    let (before, histories) = (keys(&turn).await, consumers(&turn).await?);
    let new = operator(turn.bed, "operator-1");
    new.wait_ready(SOON).await?;
    assert_eq!(turn.leader().await?.as_deref(), Some("operator-0"), "it stands by");
    old.terminate()?;
    assert!(old.wait_exit(SOON).await?.success());
    // The session's TTL is 10 s: sooner than that only because the leader key was given back.
    wait_leader(&turn, "operator-1", Duration::from_secs(5)).await?;
    assert_eq!(keys(&turn).await, before);
    assert_only_this_change(&turn, &histories).await
}

#[tokio::test]
async fn p3_a_standby_takes_over_from_a_dead_leader_without_an_event() -> Result<()> {
    let turn = start("p3-standby").await?;
    let leader = operator(turn.bed, "operator-0");
    leader.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", KEYS / 2, PATIENCE).await;
    wait_count(&turn.etcd, turn.namespace.name(), KEYS / 2, PATIENCE).await;
    let standby = operator(turn.bed, "operator-1");
    standby.wait_ready(SOON).await?;
    let (before, histories) = (keys(&turn).await, consumers(&turn).await?);
    leader.kill().await?;
    wait_leader(&turn, "operator-1", Duration::from_secs(30)).await?;
    assert_eq!(keys(&turn).await, before);
    assert_only_this_change(&turn, &histories).await
}
