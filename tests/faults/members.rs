//! Members of which some or all go, or hang.

use std::time::{Duration, Instant};

use testbed::{EtcdConfig, EtcdVersion, Event, History, Kind, Result, until};
use tokio::time::{sleep, sleep_until};

use crate::Scene;
use crate::support::{API, SOON, pod};

#[tokio::test]
async fn the_death_of_the_member_that_leads_etcd_costs_no_key() -> Result<()> {
    let scene = Scene::of("etcd-leader", 3, 15).await?;
    let etcd = &scene.turn.etcd;
    let history = History::watch(etcd, &scene.turn.plain("orders"), 0).await?;
    let leader = etcd.leader().await?;
    etcd.member(leader).kill().await?;
    scene.lose_a().await?;
    etcd.restart(leader).await?;
    scene.regain_a().await?;
    assert_eq!(history.settled().await?.len(), 2, "that delete and that put");
    scene.wait_well(3).await
}

#[tokio::test]
async fn connected_member_hanging_beyond_the_ttl_loses_no_key() -> Result<()> {
    let scene = Scene::of("etcd-hangs", 3, HANG_TTL).await?;
    scene.turn.etcd.make_leader(1).await?;
    let events = hang_first_member(&scene).await?;
    assert_eq!(events.len(), 2, "that delete and that put, not {events:#?}");
    scene.wait_well(3).await
}

/// Replaces the member that leads etcd and is first in the list as etcd recommends it. After each step the operator
/// restarts and a pod goes or comes; after some of them members restart, too.
async fn replace_member(name: &str, version: EtcdVersion) -> Result<()> {
    let config = EtcdConfig {
        version,
        members: 3,
        ..EtcdConfig::default()
    };
    let scene = Scene::with(name, config, 15).await?;
    let (etcd, namespace, orders) = (&scene.turn.etcd, &scene.turn.namespace, scene.turn.plain("orders"));
    etcd.make_leader(0).await?;
    let history = History::watch(etcd, &orders, 0).await?;
    let (all, without) = (["a", "b", "c"].as_slice(), ["b", "c"].as_slice());
    let flip = async |is_ready: bool| {
        namespace.set_ready("a", is_ready).await?;
        scene.wait(if is_ready { all } else { without }).await;
        Ok::<_, testbed::Error>(())
    };
    let restart = async || {
        scene.operator.restart().await?;
        scene.operator.wait_ready(SOON).await
    };

    etcd.remove_member(0).await?;
    flip(false).await?;
    restart().await?;
    flip(true).await?;

    etcd.add_learner(0).await?;
    flip(false).await?;
    restart().await?;
    flip(true).await?;
    wait_message(&scene, "is a learner").await?;
    etcd.member(0).restart().await?;
    etcd.restart(1).await?;
    flip(false).await?;
    restart().await?;

    etcd.promote(0).await?;
    flip(true).await?;
    restart().await?;
    etcd.restart(2).await?;
    flip(false).await?;
    scene.wait_well(2).await?;
    wait_message(&scene, "writes this etcd.").await?;

    let gone = format!("delete {orders}a");
    let back = format!("put {orders}a ");
    let events: Vec<_> = history.settled().await?.iter().map(ToString::to_string).collect();
    let expected = [&gone, &back, &gone, &back, &gone, &back, &gone];
    let is_expected = events.len() == expected.len()
        && events
            .iter()
            .zip(expected)
            .all(|(event, expected)| event.starts_with(expected));
    assert!(is_expected, "{events:#?}");
    Ok(())
}

/// Waits until the Registry is connected with a message that ends in, or contains, these words.
async fn wait_message(scene: &Scene, words: &str) -> Result<()> {
    until(&format!("Connected to say {words:?}"), SOON, || async {
        let registry = scene.turn.bed.objects().get(API, "Registry", "default").await;
        let registry = registry.map_err(|error| error.to_string())?.unwrap_or_default();
        let conditions = registry["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let connected = conditions.iter().find(|one| one["type"] == "Connected").cloned();
        let connected = connected.unwrap_or_default();
        let message = connected["message"].as_str().unwrap_or_default();
        let is_said = if words.ends_with('.') {
            message.ends_with(words)
        } else {
            message.contains(words)
        };
        if connected["status"] == "True" && is_said {
            Ok(())
        } else {
            Err(connected.to_string())
        }
    })
    .await
}

#[tokio::test]
async fn a_member_replaced_through_a_learner_under_restarts_costs_no_key() -> Result<()> {
    Box::pin(replace_member("replaced", EtcdVersion::default())).await
}

#[tokio::test]
async fn a_member_of_etcd_3_5_replaced_under_restarts_costs_no_key() -> Result<()> {
    Box::pin(replace_member("replaced-3-5", EtcdVersion::V3_5)).await
}

/// When it wakes, a leader of etcd that has slept through its own replacement may revoke what others have renewed: it
/// asks whether it still leads only if it has not ticked of late, and it has just ticked (seen with 3.6.15).
#[tokio::test]
async fn keys_revoked_by_a_hanging_etcd_leader_are_restored_at_once() -> Result<()> {
    let scene = Scene::of("etcd-leader-hangs", 3, HANG_TTL).await?;
    scene.turn.etcd.make_leader(0).await?;
    let events = hang_first_member(&scene).await?;
    eprintln!(
        "etcd revoked {}",
        if events.len() > 2 {
            "what was renewed"
        } else {
            "nothing"
        }
    );
    for pod in ["a", "b", "c"] {
        let key = format!("{}{pod}", scene.turn.plain("orders"));
        let of_key: Vec<_> = events.iter().filter(|event| event.key == key).collect();
        let deletes = of_key.iter().filter(|event| event.kind == Kind::Delete).count();
        assert!(deletes * 2 == of_key.len() && deletes <= 2, "{events:#?}");
    }
    scene.wait_well(3).await
}

/// The TTL of those through whose end a member hangs, in seconds.
const HANG_TTL: u32 = 8;

/// Lets the first member hang for longer than [`HANG_TTL`] while `a` goes, and `a` come back when it goes on: what
/// consumers have seen.
async fn hang_first_member(scene: &Scene) -> Result<Vec<Event>> {
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    let history = History::watch(etcd, &scene.turn.plain("orders"), 0).await?;
    // The first endpoint is the one that is asked first.
    etcd.member(0).stop()?;
    let begin = Instant::now();
    namespace.set_ready("a", false).await?;
    scene.wait(&["b", "c"]).await;
    eprintln!("{} ms to go on with another member", begin.elapsed().as_millis());
    sleep_until((begin + Duration::from_secs(HANG_TTL.into()) + Duration::from_secs(3)).into()).await;
    etcd.member(0).cont()?;
    scene.regain_a().await?;
    history.settled().await
}

#[tokio::test]
async fn a_quorum_lost_for_longer_than_the_ttl_costs_no_key_when_it_is_back() -> Result<()> {
    let scene = Scene::of("quorum", 3, 5).await?;
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    let before = scene.wait(&["a", "b", "c"]).await;
    for member in [1, 2] {
        etcd.member(member).kill().await?;
    }
    namespace.set_ready("a", false).await?;
    namespace.create_pod(&pod("d", "orders")).await?;
    scene.wait_trouble("NoLeader").await?;
    sleep(Duration::from_secs(10)).await;
    scene.assert_lives()?;
    for member in [1, 2] {
        etcd.member(member).restart().await?;
    }
    etcd.wait_serving(0, Duration::from_secs(30)).await?;
    let repair = Instant::now();
    let after = scene.wait_converged(repair, &["b", "c", "d"]).await?;
    for pod in ["b", "c"] {
        let key = format!("{}{pod}", scene.turn.plain("orders"));
        assert_eq!(after[&key], before[&key], "etcd extended its lease, nobody wrote it");
    }
    scene.wait_well(3).await
}

#[tokio::test]
async fn all_members_restarted_at_once_cost_no_key() -> Result<()> {
    let scene = Scene::of("etcd-restart", 3, 15).await?;
    let history = History::watch(&scene.turn.etcd, &scene.turn.plain("orders"), 0).await?;
    scene.turn.etcd.restart_all().await?;
    scene.lose_a().await?;
    let gone = format!("delete {}a", scene.turn.plain("orders"));
    history.assert_exactly(&[&gone]).await;
    scene.wait_well(2).await
}

#[tokio::test]
async fn etcd_hanging_beyond_the_ttl_has_every_key_when_it_continues() -> Result<()> {
    let scene = Scene::of("etcd-paused", 1, 5).await?;
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    etcd.member(0).stop()?;
    namespace.set_ready("a", false).await?;
    namespace.create_pod(&pod("d", "orders")).await?;
    scene.wait_trouble("Unreachable").await?;
    sleep(Duration::from_secs(5)).await;
    scene.assert_lives()?;
    etcd.member(0).cont()?;
    let repair = Instant::now();
    // Leases may have ended on waking, for it was not restarted: then their keys are written again.
    scene.wait_converged(repair, &["b", "c", "d"]).await?;
    scene.wait_well(3).await
}
