//! P11: a rolling update of a registered workload fails no call when the rollout support is on.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use testbed::{Result, until};

use crate::load::Counts;
use crate::rollouts::{Rollouts, Shape};
use crate::support::SOON;

const ROUNDS: u32 = 2;
/// The clients that learn seconds later that a pod has gone. The others lose only calls that are under way when it ends.
const POLLING: [&str; 2] = ["kitex", "http"];
/// How long a rollout without an operator is watched.
const WATCHED: Duration = Duration::from_secs(5);
/// How long an operator stays dead in `cargo xtask rollouts`.
const DEAD: Duration = Duration::from_secs(1);
/// A killed operator is killed this long into a rolling update, or a multiple of it: at another point each time.
const KILLED: Duration = Duration::from_millis(600);

#[tokio::test]
async fn p11_a_rolling_update_with_gate_and_drain_fails_no_call() -> Result<()> {
    let shape = Shape {
        gate: true,
        traefik: false,
        operators: 1,
    };
    let mut scene = Rollouts::start("p11", shape).await?;
    for _ in 0..ROUNDS {
        scene.round().await?;
    }
    let counts = scene.end().await?;
    assert_no_failure(&counts);
    // Three pods of each rolling update, two more of each scaling and one or two of each drained node.
    let waits = scene.kubelet.gate_waits().len();
    assert!(waits >= 6 * ROUNDS as usize, "{waits} pods waited for the gate");
    Ok(())
}

#[tokio::test]
async fn a_rolling_update_without_gate_and_drain_fails_calls() -> Result<()> {
    let shape = Shape {
        gate: false,
        traefik: false,
        operators: 1,
    };
    let mut scene = Rollouts::start("ungated", shape).await?;
    for _ in 0..ROUNDS {
        scene.round().await?;
    }
    let counts = scene.end().await?;
    let polling = counts.iter().filter(|counts| POLLING.contains(&counts.client));
    assert!(polling.clone().count() == POLLING.len(), "{counts:?}");
    assert!(polling.clone().all(|counts| counts.failed > 0), "{counts:?}");
    assert!(counts.iter().all(|counts| counts.calls > 100), "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn a_rollout_while_no_operator_lives_waits_with_the_gate() -> Result<()> {
    let shape = Shape {
        gate: true,
        traefik: false,
        operators: 1,
    };
    let mut scene = Rollouts::start("alone", shape).await?;
    let before = names(&scene.living().await?);
    scene.operators[0].kill().await?;
    scene.update().await?;
    until("a new pod to have a server that is ready", SOON, || async {
        let pods = scene.living().await.map_err(|error| error.to_string())?;
        let new = pods.iter().filter(|pod| !before.contains(&name(pod)));
        let mut ready = new.filter(|pod| is(pod, "ContainersReady"));
        ready.next().map(drop).ok_or_else(|| format!("{:?}", names(&pods)))
    })
    .await?;
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        let pods = scene.living().await?;
        assert!(before.iter().all(|old| names(&pods).contains(old)), "an old pod goes");
        let ready = |pod: &&Pod| is(pod, "Ready") && !before.contains(&name(pod));
        assert!(!pods.iter().any(|pod| ready(&pod)), "a new pod is ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.operators[0].restart().await?;
    scene.wait_rolled_out(3).await?;
    assert_no_failure(&scene.end().await?);
    Ok(())
}

/// `cargo xtask rollouts`: as many rounds as the environment says, with the operator that leads killed in a tenth of them.
#[tokio::test]
#[ignore = "run by cargo xtask rollouts"]
async fn rounds_of_rollouts_fail_no_call() -> Result<()> {
    let rounds: u32 =
        std::env::var("LEASEHOLD_ROLLOUTS_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let gate = std::env::var_os("LEASEHOLD_ROLLOUTS_WITHOUT").is_none();
    let shape = Shape {
        gate,
        traefik: true,
        operators: 2,
    };
    let mut scene = Rollouts::start("rounds", shape).await?;
    for round in 1..=rounds {
        let begun = Instant::now();
        if round % 10 == 5 {
            scene.update().await?;
            tokio::time::sleep(KILLED * (1 + round / 10 % 6)).await;
            scene.kill_leader(DEAD).await?;
            println!("round {round}: the operator that led was killed and started again");
        }
        scene.round().await?;
        println!("round {round} of {rounds}: {} s", begun.elapsed().as_secs());
    }
    let counts = scene.end().await?;
    println!("\n{:<10} {:>10} {:>8}", "client", "calls", "failed");
    for counts in &counts {
        println!("{counts}");
    }
    let mut waits = scene.kubelet.gate_waits();
    waits.sort();
    if let Some(longest) = waits.last() {
        let median = waits[waits.len() / 2];
        println!(
            "{} pods waited for the gate: median {} ms, longest {} ms",
            waits.len(),
            median.as_millis(),
            longest.as_millis()
        );
    }
    if gate {
        assert_no_failure(&counts);
    }
    Ok(())
}

fn assert_no_failure(counts: &[Counts]) {
    let failed = counts.iter().any(|counts| counts.failed > 0 || counts.calls < 100);
    let lines: Vec<String> = counts.iter().map(ToString::to_string).collect();
    assert!(!failed, "client, calls, failed:\n{}", lines.join("\n"));
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(name).collect()
}

/// Whether a condition of a pod is True.
fn is(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == condition && one.status == "True"))
}
