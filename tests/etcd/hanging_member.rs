//! Requests sent to a member that hangs.

use std::time::{Duration, Instant};

use leasehold::backend::etcd::Connection;
use leasehold::backend::{Access, Timeouts};
use leasehold::model::{Expect, Op, OpResult, Transaction, TxnOutcome};
use leasehold::telemetry::Calls;
use testbed::History;

use crate::common::{followers_first, grant, lead, start};

/// Far longer than the test may take.
const PATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    request: Duration::from_mins(1),
    call: Duration::from_mins(2),
};

#[tokio::test]
async fn write_to_a_hanging_member_is_retried_elsewhere_and_applied_once() {
    let cluster = start(3).await;
    let (endpoints, members) = followers_first(&cluster).await;
    let connection = Connection::new(&Access::open(endpoints), PATIENT, Calls::default()).await;
    let connection = connection.expect("the endpoints are addresses");
    let (fence, lease) = (lead(&cluster).await, grant(&connection, 600).await);
    let history = History::watch(&cluster, "/a/", 0).await.expect("watch");
    let hanging = cluster.member(members[0]);
    hanging.stop().expect("stop");
    let begin = Instant::now();
    let put = Op::Put {
        key: "/a/1".into(),
        value: b"x".as_slice().into(),
        lease,
        expect: Expect::Absent,
    };
    let verdict = connection.commit(&fence, &Transaction::of(vec![put])).await;
    let Ok(TxnOutcome::Applied { results, .. }) = verdict else {
        panic!("not applied: {verdict:?}");
    };
    assert_eq!(results, [OpResult::Done]);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // After it continues, the member forwards the request that it still has.
    hanging.cont().expect("cont");
    cluster
        .wait_serving(members[0], Duration::from_secs(30))
        .await
        .expect("it serves");
    history.assert_exactly(&["put /a/1 x"]).await;
}
