//! The operator crashes without an event for consumers. Then it ends for good and its keys expire.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;
use testbed::Event;

use super::{
    shop::{NAME, PATIENCE, PREFIXES, SELECTOR, Shop, registration},
    story::Story,
};
use crate::error::Result;

/// The Registry and registration of the last step: their short TTL spares the user a wait of 30 seconds.
const BRIEF: &str = "orders-brief";
const BRIEF_PREFIX: [&str; 1] = ["/services/shop/orders-brief/"];
/// The shortest TTL that a Registry takes.
const BRIEF_TTL: Duration = Duration::from_secs(5);
/// How much longer than its TTL a key may be there.
const GRACE: Duration = Duration::from_secs(1);

/// SIGKILL and restart: consumers see nothing.
pub async fn crash(story: &mut Story, shop: &Shop<'_>) -> Result<()> {
    story.step("The operator is killed (SIGKILL) and started again");
    let before = shop.keys(&PREFIXES).await?;
    let histories = shop.histories().await?;
    let begin = Instant::now();
    let pid = shop.operator.pid();
    shop.operator.kill().await?;
    shop.operator.restart().await?;
    shop.operator.wait_ready(PATIENCE).await?;
    story.show(&format!(
        "pid {pid} is dead, pid {} is ready {:.1} s later",
        shop.operator.pid(),
        begin.elapsed().as_secs_f64()
    ));
    let after = shop.keys(&PREFIXES).await?;
    story.holds(
        after == before,
        &format!("{} keys: same values, same leases, same revisions", after.len()),
    )?;

    // Silence proves nothing while the operator may have yet to write; a change that it makes does.
    let pods = shop.namespace.wait_ready_pods(SELECTOR, 10).await?;
    let pod = pods[0].metadata.name.clone().unwrap_or_default();
    shop.namespace.set_ready(&pod, false).await?;
    let mut events = Vec::new();
    for history in &histories {
        history.wait_for(|events| !events.is_empty(), PATIENCE).await?;
        events.extend(history.settled().await?.iter().map(Event::to_string));
    }
    let expected: Vec<_> = PREFIXES.iter().map(|prefix| format!("delete {prefix}{pod}")).collect();
    if events != expected {
        story.show(&events.join("\n"));
    }
    story.holds(
        events == expected,
        &format!(
            "no watch event by the restart: the first, {:.1} s after the kill, are of a pod that became unready later",
            begin.elapsed().as_secs_f64()
        ),
    )?;
    shop.namespace.set_ready(&pod, true).await?;
    shop.wait_keys(&PREFIXES, 20, PATIENCE).await?;
    Ok(())
}

/// SIGTERM and no restart: the keys go by themselves.
pub async fn end(story: &mut Story, shop: &Shop<'_>) -> Result<()> {
    story.step("The operator ends for good; a second Registry with a TTL of 5 s shows what happens to its keys");
    let registry = json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": BRIEF},
        "spec": {
            "etcd": {"endpoints": shop.bed.registry().endpoints(), "metaPrefix": "/leasehold-brief/"},
            "defaults": {"leaseTTLSeconds": BRIEF_TTL.as_secs()},
        },
    });
    shop.bed.objects().apply(registry).await?;
    shop.namespace.apply(registration(BRIEF, BRIEF, &["Plain"])).await?;
    let keys = shop.wait_keys(&BRIEF_PREFIX, 10, PATIENCE).await?;
    let leases: BTreeSet<_> = keys.values().map(|held| held.lease).collect();
    shop.wait_status(NAME, 10).await?;
    shop.wait_status(BRIEF, 10).await?;
    story.show(&shop.kubectl().await?);

    shop.operator.terminate()?;
    let status = shop.operator.wait_exit(PATIENCE).await?;
    let begin = Instant::now();
    let left = shop.keys(&BRIEF_PREFIX).await?;
    story.holds(
        status.success() && left == keys,
        &format!(
            "the operator ended on SIGTERM ({status}) and kept its {} keys",
            left.len()
        ),
    )?;
    shop.wait_keys(&BRIEF_PREFIX, 0, PATIENCE).await?;
    let took = begin.elapsed();
    story.holds(
        took <= BRIEF_TTL + GRACE,
        &format!(
            "all of them expired {:.1} s later with their {} lease(s), while no operator was running",
            took.as_secs_f64(),
            leases.len()
        ),
    )
}
