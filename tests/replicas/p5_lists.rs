//! P5, for an apiserver that answers with errors: a list that breaks off and a watch that is gone empty nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use testbed::{History, Operator, OperatorConfig, Result, until};
use tokio_util::sync::CancellationToken;

use crate::Turn;
use crate::proxy::{Meddle, between};
use crate::support::{SOON, wait_count, wait_events};

#[derive(Default)]
struct Trouble {
    on: AtomicBool,
    /// Ends the watches that are open when trouble begins.
    cut: CancellationToken,
    broken_lists: AtomicUsize,
    gone_watches: AtomicUsize,
}

impl Trouble {
    fn begin(&self) {
        self.on.store(true, Ordering::SeqCst);
        self.cut.cancel();
    }

    /// Makes every list one of several pages, and what comes after the first an error once trouble is on.
    fn meddle(&self, uri: &str) -> Meddle {
        let (count, status) = if uri.contains("continue=") {
            (&self.broken_lists, StatusCode::INTERNAL_SERVER_ERROR)
        } else if uri.contains("watch=true") {
            (&self.gone_watches, StatusCode::GONE)
        } else {
            return Meddle::Ask(uri.replace("limit=500", "limit=2"));
        };
        if !self.on.load(Ordering::SeqCst) {
            return Meddle::Ask(uri.replace("limit=500", "limit=2"));
        }
        count.fetch_add(1, Ordering::SeqCst);
        Meddle::Refuse(status)
    }
}

#[tokio::test]
async fn p5_interrupted_lists_and_expired_watches_lose_no_key() -> Result<()> {
    let turn = Turn::take("p5-lists", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(5).await?;
    let trouble = Arc::new(Trouble::default());
    let meddler = trouble.clone();
    let through = between(&turn, "p5-lists", trouble.cut.clone(), move |uri| meddler.meddle(uri)).await?;

    let mut config = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(through);
    let operator = Operator::start(turn.bed, config)?;
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 5, SOON).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;

    trouble.begin();
    until(
        "lists to break off and watches to be gone",
        Duration::from_mins(1),
        || async {
            let counts = [&trouble.broken_lists, &trouble.gone_watches].map(|count| count.load(Ordering::SeqCst));
            if counts.iter().all(|count| *count >= 5) {
                Ok(())
            } else {
                Err(format!("{counts:?}"))
            }
        },
    )
    .await?;
    history.assert_silent().await;
    trouble.on.store(false, Ordering::SeqCst);
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    wait_events(&history, 1).await;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    operator.process().alive()
}
