//! How long changes wait when the leader goes, with a word and without, where replicas are not connected to each other.

use std::time::{Duration, Instant};

use testbed::{History, Operator, OperatorConfig, Result};

use crate::support::{SOON, wait_count, wait_events};
use crate::{Turn, wait_leader};

const SESSION: u32 = 3;

fn start(turn: &Turn, name: &str) -> Result<Operator> {
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    config.session_ttl = Some(SESSION);
    // Without a key replicas do not connect: it is the session that decides. tests/replicas/p12_takeover.rs has the others.
    config.args = vec!["--peer-secret=no-such-secret".into()];
    Operator::start(turn.bed, config)
}

/// Two operators, of which the first leads, and what consumers see from now on.
async fn pair(name: &str) -> Result<(Operator, Operator, History, Turn)> {
    let turn = Turn::take(name, 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let leader = start(&turn, "operator-0")?;
    wait_leader(&turn, "operator-0", SOON).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 3, SOON).await;
    let standby = start(&turn, "operator-1")?;
    standby.wait_ready(SOON).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    Ok((leader, standby, history, turn))
}

#[tokio::test]
async fn terminated_leader_hands_over_at_once() -> Result<()> {
    let (leader, _standby, history, turn) = pair("stopped").await?;
    let election = History::watch(&turn.etcd, "/leasehold/", 0).await?;
    let pod = turn.some_pod().await?;
    let begin = Instant::now();
    leader.terminate()?;
    let handed = |events: &[testbed::Event]| events.iter().filter(|event| event.key.ends_with("/leader")).count() >= 2;
    election.wait_for(handed, SOON).await?;
    let arrivals = election.arrivals();
    let (elected, _) = arrivals
        .iter()
        .rfind(|(_, event)| event.key.ends_with("/leader"))
        .expect("two");
    let handover = elected.duration_since(begin);
    turn.namespace.set_ready(&pod, false).await?;
    wait_events(&history, 1).await;
    let write = history.arrivals()[0].0.duration_since(begin);
    eprintln!(
        "the next one led after {} ms and wrote after {} ms",
        handover.as_millis(),
        write.as_millis()
    );
    assert!(write < Duration::from_secs(2), "{write:?}");
    assert!(leader.wait_exit(SOON).await?.success());
    assert_eq!(turn.leader().await?.as_deref(), Some("operator-1"));
    Ok(())
}

#[tokio::test]
async fn write_after_leader_death_waits_only_for_its_session() -> Result<()> {
    let (leader, _standby, history, turn) = pair("killed").await?;
    let pod = turn.some_pod().await?;
    leader.kill().await?;
    let begin = Instant::now();
    turn.namespace.set_ready(&pod, false).await?;
    wait_events(&history, 1).await;
    let write = history.arrivals()[0].0.duration_since(begin);
    eprintln!("written {} ms after the death", write.as_millis());
    assert!(write <= Duration::from_secs(u64::from(SESSION) + 2), "{write:?}");
    assert_eq!(history.settled().await?.len(), 1, "that change and no other");
    Ok(())
}
