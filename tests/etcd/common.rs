//! Shared helpers: an etcd with connections, and tasks that end with their test.

use std::future::Future;
use std::time::Duration;

use leasehold::backend::etcd::{Connection, lease_id};
use leasehold::backend::{Access, Timeouts};
use leasehold::model::{Fence, LeaseId};
use leasehold::telemetry::Calls;
use testbed::{EtcdCluster, EtcdVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Time-out for an event that is expected at once, on a machine under load.
pub const SOON: Duration = Duration::from_secs(30);

pub async fn start(members: usize) -> EtcdCluster {
    EtcdCluster::temporary(EtcdVersion::default(), members)
        .await
        .expect("etcd starts")
}

/// Starts a cluster of one member and connects to it.
pub async fn one() -> (EtcdCluster, Connection) {
    let cluster = start(1).await;
    let connection = connect(cluster.endpoints()).await;
    (cluster, connection)
}

pub async fn connect(endpoints: Vec<String>) -> Connection {
    Connection::new(&Access::open(endpoints), Timeouts::default(), Calls::default())
        .await
        .expect("the endpoints are addresses")
}

/// Writes a key as a foreign client; returns the revision.
pub async fn put(cluster: &EtcdCluster, key: &str, value: &str, lease: LeaseId) -> i64 {
    let mut client = cluster.client().await.expect("connect");
    let options = etcd_client::PutOptions::new().with_lease(lease.0);
    let answer = client.put(key, value, Some(options)).await.expect("put");
    answer.header().expect("header").revision()
}

pub async fn delete(cluster: &EtcdCluster, key: &str) {
    let mut client = cluster.client().await.expect("connect");
    client.delete(key, None).await.expect("delete");
}

pub async fn revoke(cluster: &EtcdCluster, lease: LeaseId) {
    let mut client = cluster.client().await.expect("connect");
    client.lease_revoke(lease.0).await.expect("revoke");
}

pub async fn grant(connection: &Connection, ttl: u32) -> LeaseId {
    let lease = lease_id();
    connection.grant(lease, ttl).await.expect("grant");
    lease
}

/// Puts a leader key like that of an elected leader.
pub async fn lead(cluster: &EtcdCluster) -> Fence {
    lead_on(cluster, LeaseId::NONE).await
}

/// Puts a leader key on this session lease.
pub async fn lead_on(cluster: &EtcdCluster, lease: LeaseId) -> Fence {
    let create_revision = put(cluster, "/meta/leader", "somebody", lease).await;
    Fence {
        key: "/meta/leader".into(),
        create_revision,
        lease,
    }
}

/// Returns the cluster's endpoints with that of etcd's leader last, and the indices of the members in that order.
pub async fn followers_first(cluster: &EtcdCluster) -> (Vec<String>, Vec<usize>) {
    let mut members = Vec::new();
    for (i, endpoint) in cluster.endpoints().into_iter().enumerate() {
        let mut client = etcd_client::Client::connect([&endpoint], None).await.expect("connect");
        let status = client.status().await.expect("status");
        let me = status.header().expect("header").member_id();
        members.push((status.leader() == me, i, endpoint));
    }
    members.sort();
    assert!(members.last().is_some_and(|(leads, ..)| *leads), "no member leads");
    members.into_iter().map(|(_, i, endpoint)| (endpoint, i)).unzip()
}

/// A task that is aborted at any await when this is dropped, like a SIGKILL.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(CancellationToken) -> F) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(work(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Requests the end of the task and waits for it.
    pub async fn end(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(SOON, &mut self.task)
            .await
            .expect("it ends")
            .expect("it does not panic");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the sum of a member's counter over all lines that contain `label`.
pub async fn metric(cluster: &EtcdCluster, name: &str, label: &str) -> u64 {
    let endpoint = cluster.endpoints().swap_remove(0);
    let address = endpoint.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer");
    let lines = answer
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    lines
        .map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()))
        .map(|count| count.expect("a whole number"))
        .sum()
}
