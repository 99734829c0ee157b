//! P4: operator and its cluster dead for good: every key is gone within one TTL (+1 s).

use std::time::{Duration, Instant};

use testbed::Result;

use crate::Turn;
use crate::support::{SOON, operator, wait_count};

/// The shortest that a Registry takes.
const TTL: u32 = 5;

#[tokio::test]
async fn p4_when_the_operator_is_dead_for_good_every_key_goes_within_one_ttl() -> Result<()> {
    let turn = Turn::take("p4", 1, TTL).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(10).await?;
    let operator = operator(turn.bed, "operator-0");
    wait_count(&turn.etcd, "/services/", 10, SOON).await;
    // Beyond the first TTL, so that it is renewals that keep the keys there.
    tokio::time::sleep(Duration::from_secs(u64::from(TTL) + 2)).await;
    wait_count(&turn.etcd, "/services/", 10, Duration::from_secs(1)).await;

    operator.kill().await?;
    let begin = Instant::now();
    wait_count(&turn.etcd, "/services/", 0, SOON).await;
    let took = begin.elapsed();
    // Promised is the TTL and a second; the rest is for a busy machine.
    assert!(took <= Duration::from_secs(u64::from(TTL) + 3), "{took:?}");
    // Nothing at all is left behind: our own records go with their leases.
    wait_count(&turn.etcd, "", 0, SOON).await;
    Ok(())
}
