//! P9, for a list that names too few objects: absence from a list alone does not prove that an object is deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use testbed::{History, Operator, OperatorConfig, Result, until};
use tokio_util::sync::CancellationToken;

use crate::Turn;
use crate::proxy::{Meddle, between};
use crate::support::{API, SOON, registration, wait_condition, wait_count, wait_events, wait_in_sync};

const PODS: u32 = 20;
/// Lists are passed on unchanged.
const ALL: usize = usize::MAX;

/// What the apiserver says of the objects of a kind.
struct Lists {
    /// Where they are listed.
    path: &'static str,
    /// How many of them a list names.
    named: AtomicUsize,
    /// How many watches are still refused: a client lists again when its watch is refused.
    gone: AtomicUsize,
    /// How many lists have named too few.
    shortened: AtomicUsize,
}

impl Lists {
    /// Starts an operator that lists the objects at `path` through it.
    async fn start(turn: &Turn, name: &str, path: &'static str) -> Result<(Arc<Self>, Operator)> {
        let lists = Arc::new(Self {
            path,
            named: AtomicUsize::new(ALL),
            gone: AtomicUsize::new(0),
            shortened: AtomicUsize::new(0),
        });
        let meddler = lists.clone();
        let never = CancellationToken::new();
        let through = between(turn, name, never, move |uri| meddler.meddle(uri)).await?;
        let mut config = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
        config.kubeconfig = Some(through);
        let operator = Operator::start(turn.bed, config)?;
        operator.wait_ready(SOON).await?;
        wait_count(&turn.etcd, &turn.plain("orders"), PODS as usize, SOON).await;
        wait_in_sync(turn.namespace.objects(), "orders", PODS).await;
        Ok((lists, operator))
    }

    fn list_again(&self, named: usize) {
        self.named.store(named, Ordering::SeqCst);
        self.gone.store(1, Ordering::SeqCst);
    }

    fn meddle(&self, uri: &str) -> Meddle {
        if !uri.starts_with(self.path) {
            return Meddle::Pass;
        }
        if uri.contains("watch=true") {
            let one_less = |left: usize| left.checked_sub(1);
            let refused = self.gone.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            return refused.map_or(Meddle::Pass, |_| Meddle::Refuse(StatusCode::GONE));
        }
        match self.named.load(Ordering::SeqCst) {
            ALL => Meddle::Pass,
            named => {
                self.shortened.fetch_add(1, Ordering::SeqCst);
                Meddle::Only(named)
            }
        }
    }
}

async fn held_until_named_again(name: &str, named: usize) -> Result<()> {
    let turn = Turn::take(name, 1, 30).await?;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    turn.deploy(PODS).await?;
    let (pods, operator) = Lists::start(&turn, name, "/api/v1/pods?").await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;

    pods.list_again(named);
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

    pods.list_again(ALL);
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

#[tokio::test]
async fn p9_a_list_that_names_no_registry_costs_no_key() -> Result<()> {
    const TTL: u32 = 15;
    let turn = Turn::take("p9-no-registry", 1, TTL).await?;
    turn.namespace.apply(registration("orders", &json!({}))).await?;
    turn.deploy(PODS).await?;
    let path = "/apis/leasehold.dev/v1alpha1/registries?";
    let (registries, operator) = Lists::start(&turn, "p9-no-registry", path).await?;
    let history = History::watch(&turn.etcd, &turn.plain("orders"), 0).await?;
    registries.list_again(0);
    until("a list without the Registry", SOON, || async {
        let count = registries.shortened.load(Ordering::SeqCst);
        (count > 0).then_some(()).ok_or("there was none yet".to_owned())
    })
    .await?;
    // Keys whose leases are not renewed any more are gone then.
    tokio::time::sleep(Duration::from_secs(u64::from(TTL) + 2)).await;
    history.assert_silent().await;
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    let deleted = format!("delete {}{pod}", turn.plain("orders"));
    assert_eq!(wait_events(&history, 1).await, [deleted], "pods are followed meanwhile");

    // Its deletion is not in doubt.
    registries.named.store(ALL, Ordering::SeqCst);
    turn.namespace.objects().delete(API, "Registry", "default").await?;
    let gone = Duration::from_secs(u64::from(TTL)) + SOON;
    wait_count(&turn.etcd, &turn.plain("orders"), 0, gone).await;
    operator.process().alive()
}
