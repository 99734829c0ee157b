//! P10: keys that others keep below a registration's prefix cost the operator nothing that grows with them.

use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use serde_json::json;
use testbed::{Operator, Result};

use crate::Turn;
use crate::support::{SOON, operator, registration, wait_count};

/// For the keys of others to be read or seen.
const LONG: Duration = Duration::from_mins(1);
const KEYS: usize = 20_000;
const VALUE: usize = 5_000;
const IN_TRANSACTION: usize = 100;
/// How much more memory the operator may use with the keys of others, in bytes: half of their values.
const ALLOWED: u64 = (KEYS * VALUE / 2) as u64;

/// The resident memory of the operator in bytes.
fn memory(operator: &Operator) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.expect("a number of kB") * 1024
}

#[tokio::test]
async fn p10_keys_of_others_below_a_prefix_cost_no_memory() -> Result<()> {
    let turn = Turn::take("p10-strangers", 1, 30).await?;
    let prefixed = json!({"formats": [{"type": "Plain", "plain": {"prefix": "/big"}}]});
    turn.namespace.apply(registration("orders", &prefixed)).await?;
    turn.deploy(1).await?;
    let operator = operator(turn.bed, "operator-0");
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/big/", 1, SOON).await;
    let before = memory(&operator);

    let mut client = turn.etcd.client().await?;
    for batch in 0..KEYS / IN_TRANSACTION {
        let put = |i: usize| TxnOp::put(format!("/big/others/{batch}-{i}"), vec![b'x'; VALUE], None);
        let puts: Vec<TxnOp> = (0..IN_TRANSACTION).map(put).collect();
        client.txn(Txn::new().and_then(puts)).await.expect("etcd takes it");
    }
    // Behind the keys of others in the watch.
    turn.namespace.scale("orders", 2).await?;
    wait_count(&turn.etcd, "/big/orders-", 2, LONG).await;
    let seen = memory(&operator);

    operator.kill().await?;
    operator.restart().await?;
    operator.wait_ready(LONG).await?;
    turn.namespace.scale("orders", 3).await?;
    wait_count(&turn.etcd, "/big/orders-", 3, LONG).await;
    let read = memory(&operator);
    println!("memory: {before} bytes alone, {seen} after the keys were watched, {read} after they were listed");
    assert!(seen.max(read) < before + ALLOWED, "{before}, {seen}, {read}");
    Ok(())
}
