//! P7, again and again with other timing: whatever a paused leader had in hand, it changes no key when it wakes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use testbed::{Event, History, Kind, Operator, OperatorConfig, Result, until};
use tokio::time::sleep;

use crate::support::{SOON, wait_count};
use crate::{Turn, wait_leader};

const SESSION: u32 = 2;
const PODS: u32 = 6;
/// How many of them change in each round.
const CHANGES: usize = 3;
/// How many rounds, unless this variable says otherwise.
const ROUNDS: usize = 10;
const VARIABLE: &str = "LEASEHOLD_P7_ROUNDS";

fn start(turn: &Turn, name: &str) -> Result<Operator> {
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    config.session_ttl = Some(SESSION);
    Operator::start(turn.bed, config)
}

fn up_to(most: Duration) -> Duration {
    let micros = u64::try_from(most.as_micros()).expect("it fits");
    Duration::from_micros(RandomState::new().hash_one(()) % micros)
}

fn count(pods: u32) -> usize {
    usize::try_from(pods).expect("it fits")
}

async fn wait_metric(operator: &Operator, name: &str, wanted: f64) -> Result<()> {
    until(
        &format!("{name} of {} to be {wanted}", operator.name()),
        SOON,
        || async {
            match operator.metric(name).await {
                Ok(Some(reported)) if (reported - wanted).abs() < 0.5 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await
}

/// Each key goes and comes in turn, from being there at the start to being there at the end.
fn assert_in_turn(events: &[Event]) {
    let mut there: BTreeMap<&str, bool> = BTreeMap::new();
    for event in events {
        let put = matches!(event.kind, Kind::Put { .. });
        let was = there.insert(&event.key, put).unwrap_or(true);
        assert_ne!(was, put, "{event} at {} in {events:?}", event.revision);
    }
    assert!(there.values().all(|there| *there), "{events:?}");
}

#[tokio::test]
async fn p7_whatever_a_paused_leader_had_in_hand_changes_no_key_when_it_wakes() -> Result<()> {
    let rounds = std::env::var(VARIABLE).map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let turn = Turn::take("p7-rounds", 1, 60).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(PODS).await?;
    let operators = [start(&turn, "operator-0")?, start(&turn, "operator-1")?];
    for operator in &operators {
        operator.wait_ready(SOON).await?;
    }
    wait_count(&turn.etcd, &turn.plain("orders"), count(PODS), SOON).await;
    let pods = turn.namespace.pods("app=orders").await?;
    let pods: Vec<String> = pods.into_iter().filter_map(|pod| pod.metadata.name).collect();
    let changing: Vec<&String> = pods.iter().take(CHANGES).collect();
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;

    for round in 1..=rounds {
        let leader = turn.leader().await?.expect("somebody leads");
        let [first, second] = &operators;
        let (stale, next) = if first.name() == leader {
            (first, second)
        } else {
            (second, first)
        };
        // Some of it is written before the pause, some is under way, and some is found on waking.
        let work = async {
            for pod in &changing {
                turn.namespace.set_ready(pod, false).await?;
            }
            Ok(())
        };
        let pause = async {
            sleep(up_to(Duration::from_millis(60))).await;
            stale.stop()
        };
        tokio::try_join!(work, pause)?;
        wait_leader(&turn, next.name(), SOON).await?;
        wait_count(&turn.etcd, &turn.plain("orders"), count(PODS) - CHANGES, SOON).await;
        // From here on every delete that the stale one still has in hand is wrong.
        for pod in &changing {
            turn.namespace.set_ready(pod, true).await?;
        }
        wait_count(&turn.etcd, &turn.plain("orders"), count(PODS), SOON).await;
        sleep(up_to(Duration::from_millis(200))).await;
        stale.cont()?;
        wait_metric(stale, "leasehold_leader", 0.0).await?;
        wait_metric(stale, "leasehold_connected", 1.0).await?;
        let events = history.settled().await?;
        assert_eq!(events.len(), round * 2 * CHANGES, "round {round}: {events:?}");
        assert_eq!(turn.leader().await?.as_deref(), Some(next.name()));
    }
    assert_in_turn(&history.settled().await?);
    let mut fenced = 0.0;
    for operator in &operators {
        fenced += operator
            .metric("leasehold_fenced_transactions_total")
            .await?
            .unwrap_or(0.0);
    }
    eprintln!("{rounds} rounds, {fenced} transactions of a stale leader refused by etcd");
    Ok(())
}
