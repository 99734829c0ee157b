//! P5, for an apiserver that sends nothing while its connections stay open: keys stay, and the silence is noticed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use testbed::{History, Network, Operator, OperatorConfig, Result, until};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::Turn;
use crate::support::{SOON, wait_count, wait_events};

const STALE: &str = "leasehold_kubernetes_stale_since_timestamp_seconds";
/// A dead connection is noticed within 15 s, and its watches are stale 10 s later: see src/kube/watch_clients.rs. A watch
/// lasts longer than this.
const NOTICED: Duration = Duration::from_secs(45);

async fn start(name: &str) -> Result<Turn> {
    let turn = Turn::take(name, 1, 15).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(3).await?;
    Ok(turn)
}

/// An operator that reaches the apiserver by this way, and what consumers see of it from now on.
async fn operator_by(turn: &Turn, server: &str) -> Result<(Operator, History)> {
    let mut config = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(turn.bed.operator_kubeconfig_by(turn.namespace.name(), server)?);
    let operator = Operator::start(turn.bed, config)?;
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, &turn.plain("orders"), 3, SOON).await;
    Ok((operator, History::watch(&turn.etcd, &turn.plain("orders"), 0).await?))
}

async fn wait_stale(operator: &Operator, stale: bool) -> Result<f64> {
    until("the view to be told as outdated or not", NOTICED, || async {
        match operator.metric(STALE).await {
            Ok(Some(since)) if (since > 0.5) == stale => Ok(since),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn p5_silent_link_to_the_apiserver_loses_no_key_and_is_reported() -> Result<()> {
    let turn = start("p5-dark").await?;
    let network = Network::start(turn.bed.logs()).await?;
    let link = network.link(turn.bed.control_plane().address()).await?;
    let server = format!("https://{}", link.address());
    let (operator, history) = operator_by(&turn, &server).await?;
    wait_stale(&operator, false).await?;
    link.dark().await?;
    let begin = Instant::now();
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    wait_stale(&operator, true).await?;
    eprintln!("told {} s after it went dark", begin.elapsed().as_secs());
    history.assert_silent().await;
    link.heal().await?;
    wait_events(&history, 1).await;
    wait_stale(&operator, false).await?;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    operator.process().alive()
}

/// The URL of a way to the apiserver, on which what is open can be forgotten: it stands, and carries nothing any more. That is what
/// a firewall does that has lost its state.
async fn forgetting_way(turn: &Turn, forget: CancellationToken) -> String {
    let apiserver = turn.bed.control_plane().address();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let forget = Arc::new(forget);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            // New ones are good.
            let open = forget.is_cancelled();
            let forget = forget.clone();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(apiserver).await else {
                    return;
                };
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => return,
                    () = forget.cancelled(), if !open => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    format!("https://{address}")
}

#[tokio::test]
async fn p5_a_watch_that_goes_silent_is_followed_up_by_another_one() -> Result<()> {
    let turn = start("p5-silent").await?;
    let forget = CancellationToken::new();
    let (operator, history) = operator_by(&turn, &forgetting_way(&turn, forget.clone()).await).await?;
    forget.cancel();
    let begin = Instant::now();
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    history.wait_for(|events| !events.is_empty(), NOTICED).await?;
    eprintln!("followed after {} s", begin.elapsed().as_secs());
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    operator.process().alive()
}
