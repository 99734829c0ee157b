//! P9, for a list that names too few: nobody has said that the pods it leaves out are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use serde_json::json;
use testbed::{History, Operator, OperatorConfig, Result, until};
use tokio_util::sync::CancellationToken;

use crate::Turn;
use crate::proxy::{Meddle, between};
use crate::support::{SOON, registration, wait_condition, wait_count, wait_events, wait_in_sync};

const PODS: u32 = 20;
/// Lists are told as they are.
const ALL: usize = usize::MAX;

/// What the apiserver says of pods.
struct Pods {
    /// How many of them a list names.
    named: AtomicUsize,
    /// How many watches are refused yet: who is refused lists anew.
    gone: AtomicUsize,
}

impl Pods {
    fn list_anew(&self, named: usize) {
        self.named.store(named, Ordering::SeqCst);
        self.gone.store(1, Ordering::SeqCst);
    }

    fn meddle(&self, uri: &str) -> Meddle {
        if !uri.starts_with("/api/v1/pods?") {
            return Meddle::Pass;
        }
        if uri.contains("watch=true") {
            let one_less = |left: usize| left.checked_sub(1);
            let refused = self.gone.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            return refused.map_or(Meddle::Pass, |_| Meddle::Refuse(StatusCode::GONE));
        }
        match self.named.load(Ordering::SeqCst) {
            ALL => Meddle::Pass,
            named => Meddle::Only(named),
        }
    }
}

async fn held_until_named_again(name: &str, named: usize) -> Result<()> {
    let turn = Turn::take(name, 1, 30).await?;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    turn.deploy(PODS).await?;
    let pods = Arc::new(Pods {
        named: AtomicUsize::new(ALL),
        gone: AtomicUsize::new(0),
    });
    let meddler = pods.clone();
    let never = CancellationToken::new();
    let through = between(&turn, name, never, move |uri| meddler.meddle(uri)).await?;
    let mut config = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(through);
    let operator = Operator::start(turn.bed, config)?;
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 20, SOON).await;
    wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;

    pods.list_anew(named);
    wait_condition(
        turn.namespace.objects(),
        "orders",
        "RemovalsHeld",
        "True",
        "LossAboveLimit",
    )
    .await;
    until("the keys to be held", SOON, || async {
        match operator.metric("leasehold_held_keys").await {
            Ok(Some(held)) if held > 0.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    history.assert_silent().await;

    pods.list_anew(ALL);
    wait_condition(
        turn.namespace.objects(),
        "orders",
        "RemovalsHeld",
        "False",
        "NothingHeld",
    )
    .await;
    wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
    history.assert_silent().await;

    // It is followed as before.
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    let deleted = format!("delete {}{pod}", turn.plain("orders"));
    assert_eq!(wait_events(&history, 1).await, [deleted]);
    operator.process().alive()
}

#[tokio::test]
async fn p9_a_list_that_names_no_pod_at_all_costs_no_key() -> Result<()> {
    held_until_named_again("p9-empty-list", 0).await
}

#[tokio::test]
async fn p9_a_list_that_names_a_few_of_the_pods_only_costs_no_key() -> Result<()> {
    held_until_named_again("p9-partial-list", 5).await
}
