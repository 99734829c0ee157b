//! How long what has just happened waits behind what was there before, when an operator starts among many keys.

use std::time::{Duration, Instant};

use serde_json::json;
use testbed::{History, Result};

use crate::Turn;
use crate::support::{SOON, operator, registration, wait_count};

const PODS: u32 = 80;
const PORTS: u16 = 16;
const FORMATS: usize = 8;
/// One for each pod, port and format: ten thousand.
const KEYS: usize = 80 * 16 * FORMATS;
/// It is a second or two; the rest is for a busy machine, on which a debug build runs.
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test]
async fn change_during_a_restart_with_10000_keys_is_written_at_once_and_alone() -> Result<()> {
    let turn = Turn::take("latency", 1, 30).await?;
    let ports: Vec<_> = (0..PORTS)
        .map(|i| json!({"name": format!("p{i}"), "port": 9000 + i}))
        .collect();
    let root = format!("/latency/{}/", turn.namespace.name());
    let formats: Vec<_> = (0..FORMATS)
        .map(|i| json!({"type": "Plain", "plain": {"prefix": format!("{root}{i}")}}))
        .collect();
    let spec = json!({"ports": ports, "formats": formats});
    turn.namespace.apply(registration("orders", &spec)).await?;
    turn.deploy(PODS).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, &root, KEYS, Duration::from_mins(1)).await;
    let history = History::watch(&turn.etcd, &root, 0).await?;
    let pod = turn.some_pod().await?;
    operator.terminate()?;
    operator.wait_exit(SOON).await?;
    let begin = Instant::now();
    operator.restart().await?;
    turn.namespace.set_ready(&pod, false).await?;
    history.wait_for(|events| !events.is_empty(), BOUND).await?;
    eprintln!(
        "the first change is out {} ms after the start",
        begin.elapsed().as_millis()
    );
    // Two transactions remove the keys. A pod that is ready again before the second one keeps the rest of them.
    let each = usize::from(PORTS) * FORMATS;
    history.wait_for(|events| events.len() >= each, SOON).await?;
    operator.wait_ready(SOON).await?;
    eprintln!("ready {} ms after the start", begin.elapsed().as_millis());

    let begin = Instant::now();
    turn.namespace.set_ready(&pod, true).await?;
    let enough = each + 1;
    history.wait_for(|events| events.len() >= enough, SOON).await?;
    eprintln!("the next one takes {} ms", begin.elapsed().as_millis());
    // More than one transaction holds.
    history.wait_for(|events| events.len() >= 2 * each, SOON).await?;
    let events = history.settled().await?;
    let of_pod = format!("/{pod}:");
    assert!(
        events.iter().all(|event| event.key.contains(&of_pod)),
        "others were written"
    );
    assert_eq!(events.len(), 2 * each);
    Ok(())
}
