//! P5, for one replica: cut off from the apiserver, it comes to lead and knows less than its predecessor did.

use std::net::SocketAddr;
use std::time::Duration;

use testbed::{History, Operator, OperatorConfig, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{SOON, operator, wait_count, wait_events};
use crate::{Turn, wait_leader};

/// A way to the apiserver that can be cut.
pub struct Way {
    port: u16,
    apiserver: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Way {
    /// One to the apiserver at this address, open.
    pub async fn to(apiserver: SocketAddr) -> Self {
        let mut way = Self {
            port: 0,
            apiserver,
            open: None,
        };
        way.open().await;
        way
    }

    /// Its near end.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Opens it; connections made before are cut.
    pub async fn open(&mut self) {
        self.cut().await;
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("a port");
        self.port = listener.local_addr().expect("an address").port();
        let apiserver = self.apiserver;
        self.open = Some(tokio::spawn(async move {
            // Ends with this task, and with it all connections.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(apiserver).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }));
    }

    pub async fn cut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            let _ = open.await;
        }
    }
}

#[tokio::test]
async fn one_that_comes_to_lead_while_cut_off_from_the_apiserver_undoes_nothing() -> Result<()> {
    let turn = Turn::take("outdated", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(2).await?;
    let mut way = Way::to(turn.bed.control_plane().address()).await;
    let through = turn.bed.operator_kubeconfig_by("outdated", &way.url())?;

    let leader = operator(turn.bed, "operator-0");
    leader.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 2, SOON).await;
    let mut config = OperatorConfig::new("operator-1", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(through);
    let standby = Operator::start(turn.bed, config)?;
    standby.wait_ready(SOON).await?;

    way.cut().await;
    // Longer than it takes to see that this is no short trouble.
    tokio::time::sleep(Duration::from_secs(14)).await;
    turn.namespace.scale("orders", 4).await?;
    wait_count(&turn.etcd, "/services/", 4, SOON).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;
    leader.kill().await?;
    wait_leader(&turn, "operator-1", Duration::from_secs(30)).await?;
    history.assert_silent().await;

    way.open().await;
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    wait_events(&history, 1).await;
    assert_eq!(history.settled().await?.len(), 1, "that change and no other");
    Ok(())
}
