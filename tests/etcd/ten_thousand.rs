//! Ten thousand keys kept alive for a long time without a write.

use std::time::Duration;

use etcd_client::{PutOptions, Txn, TxnOp};
use leasehold::backend::Leases;
use leasehold::backend::etcd::renew;
use testbed::History;
use tokio::sync::{mpsc, watch};

use crate::common::{Running, grant, metric, one};

const LEASES: usize = 40;
const KEYS_PER_LEASE: usize = 250;
const TTL: u32 = 5;
/// The number of TTLs over which the leases are kept alive.
const TTLS: u32 = 10;

#[tokio::test]
async fn ten_thousand_keys_are_kept_alive_over_ten_ttls_without_a_revision() {
    let (cluster, connection) = one().await;
    let mut client = cluster.client().await.expect("connect");
    let mut leases = Vec::new();
    let (sender, mut lapsed) = mpsc::channel(LEASES);
    let (said, _soonest) = watch::channel(None);
    let wanted = watch::Sender::new(Leases::default());
    let (inner, subscribed) = (connection.clone(), wanted.subscribe());
    let _running = Running::spawn(|shutdown| renew(inner, subscribed, sender, said, shutdown));
    for i in 0..LEASES {
        let lease = grant(&connection, TTL).await;
        leases.push((lease, TTL));
        wanted.send_replace(Leases::new(leases.iter().copied().collect()));
        let put = |j: usize| {
            TxnOp::put(
                format!("/a/{i}/{j}"),
                "10.0.0.7:8080",
                Some(PutOptions::new().with_lease(lease.0)),
            )
        };
        for half in [0..KEYS_PER_LEASE / 2, KEYS_PER_LEASE / 2..KEYS_PER_LEASE] {
            let puts: Vec<_> = half.map(put).collect();
            client.txn(Txn::new().and_then(puts)).await.expect("put");
        }
    }
    let before = cluster.revision().await.expect("revision");
    let history = History::watch(&cluster, "/a/", 0).await.expect("watch");
    let seen = history
        .wait_for(|events| !events.is_empty(), Duration::from_secs(1) * TTL * TTLS)
        .await;
    assert!(seen.is_err(), "{seen:?}");
    history.assert_silent().await;
    assert_eq!(cluster.revision().await.expect("revision"), before);
    assert_eq!(lapsed.try_recv(), Err(mpsc::error::TryRecvError::Empty));
    assert_eq!(cluster.dump("/a/").await.expect("dump").len(), LEASES * KEYS_PER_LEASE);
    let puts = metric(&cluster, "etcd_mvcc_put_total", "").await;
    let expected = u64::try_from(LEASES * KEYS_PER_LEASE).expect("it fits");
    assert_eq!(puts, expected, "renewal is no put");
}
