//! P7: two operators alive at once, one of them paused and resumed: the stale one cannot change a key.

use std::time::Duration;

use testbed::{History, Result, until};

use crate::support::{SOON, operator, wait_count, wait_events};
use crate::{Turn, wait_leader};

#[tokio::test]
async fn p7_a_leader_that_was_paused_and_resumed_changes_nothing_any_more() -> Result<()> {
    let turn = Turn::take("p7", 1, 60).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    let stale = operator(turn.bed, "operator-0");
    stale.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 3, SOON).await;
    let next = operator(turn.bed, "operator-1");
    next.wait_ready(SOON).await?;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;

    stale.stop()?;
    // Both replicas receive this event. The paused one reads it on waking, while it still believes that it leads.
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    wait_leader(&turn, "operator-1", Duration::from_secs(30)).await?;
    wait_events(&history, 1).await;
    turn.namespace.set_ready(&pod, true).await?;
    wait_events(&history, 2).await;
    stale.cont()?;
    until("the stale one to stand by", SOON, || async {
        match stale.metric("leasehold_leader").await {
            Ok(Some(0.0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    assert_eq!(turn.leader().await?.as_deref(), Some("operator-1"));
    let events = history.settled().await?;
    assert_eq!(events.len(), 2, "one delete and one put by the new leader: {events:?}");
    Ok(())
}
