//! A standby replica that receives events of Kubernetes later than the leader, and takes over before it has them.

use std::time::Duration;

use testbed::{History, Network, Operator, OperatorConfig, Result};

use crate::support::{SOON, operator, pod, registration, wait_in_sync, wait_keys};
use crate::{Turn, wait_leader};

#[tokio::test]
async fn new_leader_behind_its_predecessor_undoes_nothing() -> Result<()> {
    let turn = Turn::take("behind", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.namespace.create_pod(&pod("a", "orders").ip("10.9.1.1")).await?;
    let first = operator(turn.bed, "operator-0");
    first.wait_ready(SOON).await?;
    wait_leader(&turn, "operator-0", SOON).await?;
    let network = Network::start(turn.bed.logs()).await?;
    let link = network.link(turn.bed.control_plane().address()).await?;
    let server = format!("https://{}", link.address());
    let mut config = OperatorConfig::new("operator-1", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(turn.bed.operator_kubeconfig_by("behind", &server)?);
    let second = Operator::start(turn.bed, config)?;
    second.wait_ready(SOON).await?;
    let (plain, moved) = (turn.plain("orders"), "/services/moved/");
    wait_keys(&turn.etcd, &plain, &["a"]).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;

    // The second replica receives all events that follow seconds later than the first one.
    link.slow(Duration::from_secs(4)).await?;
    turn.namespace.create_pod(&pod("b", "orders").ip("10.9.1.2")).await?;
    wait_keys(&turn.etcd, &plain, &["a", "b"]).await;
    turn.namespace.set_ready("a", false).await?;
    wait_keys(&turn.etcd, &plain, &["b"]).await;
    let spec = serde_json::json!({
        "selector": {"matchLabels": {"app": "orders"}},
        "formats": [{"type": "Plain", "plain": {"prefix": "/services/moved"}}],
    });
    turn.namespace.apply(registration("orders", &spec)).await?;
    wait_keys(&turn.etcd, moved, &["b"]).await;
    first.terminate()?;
    wait_leader(&turn, "operator-1", SOON).await?;
    // The new leader writes when it has received the events.
    turn.namespace.set_ready("a", true).await?;
    wait_keys(&turn.etcd, moved, &["a", "b"]).await;
    link.heal().await?;
    wait_in_sync(turn.namespace.objects(), "orders", 2).await;

    let events = history.settled().await?;
    let reported: Vec<String> = events.iter().map(ToString::to_string).collect();
    assert_eq!(
        reported,
        [
            format!("put {plain}b 10.9.1.2:8080"),
            format!("delete {plain}a"),
            format!("put {moved}b 10.9.1.2:8080"),
            format!("delete {plain}b"),
            format!("put {moved}a 10.9.1.1:8080"),
        ]
    );
    second.process().alive()
}
