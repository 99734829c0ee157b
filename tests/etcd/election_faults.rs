//! Leader election while etcd fails.

use std::time::{Duration, Instant};

use leasehold::backend::Leadership;
use leasehold::model::TxnOutcome;

use crate::common::{SOON, connect, one, revoke, start};
use crate::election::{Candidate, LEADER, leader_of, write};

#[tokio::test]
async fn leader_with_hanging_etcd_steps_down_when_its_session_may_have_expired() {
    let (cluster, connection) = one().await;
    let ttl = 4;
    let candidates = [
        Candidate::stand(&cluster, "one", ttl).await,
        Candidate::stand(&cluster, "two", ttl).await,
    ];
    let first = leader_of(&candidates).await;
    let leader = &candidates[first];
    let stale = leader.until_leading().await;

    cluster.member(0).stop().expect("stop");
    let begin = Instant::now();
    leader.until_seeking().await;
    let late = begin.elapsed();
    assert!(late < Duration::from_secs(1) + Duration::from_secs(1) * ttl, "{late:?}");
    cluster.member(0).cont().expect("cont");

    // The former leader, if etcd has kept its session, or the other candidate.
    let second = leader_of(&candidates).await;
    let fence = candidates[second].until_leading().await;
    let verdict = write(&connection, &fence, "/a/1").await;
    assert!(matches!(verdict, TxnOutcome::Applied { .. }), "{verdict:?}");
    if fence != stale {
        assert_eq!(write(&connection, &stale, "/a/2").await, TxnOutcome::Fenced);
    }
    let name = candidates[second].name.clone();
    candidates[1 - second].until_behind(&name).await;
}

#[tokio::test]
async fn a_leader_leads_on_after_etcd_was_down_for_longer_than_its_session() {
    let (cluster, connection) = one().await;
    let leader = Candidate::stand(&cluster, "one", 3).await;
    let fence = leader.until_leading().await;
    let standby = Candidate::stand(&cluster, "two", 3).await;
    standby.until_behind("one").await;
    cluster.member(0).kill().await.expect("kill");
    leader.until_seeking().await;
    cluster.restart(0).await.expect("restart");
    assert_eq!(leader.until_leading().await, fence);
    let verdict = write(&connection, &fence, "/a/1").await;
    assert!(matches!(verdict, TxnOutcome::Applied { .. }), "{verdict:?}");
}

#[tokio::test]
async fn leader_with_a_revoked_session_is_elected_again() {
    let (cluster, connection) = one().await;
    let leader = Candidate::stand(&cluster, "one", 6).await;
    let stale = leader.until_leading().await;
    let session = cluster.dump(LEADER).await.expect("dump")[LEADER].lease;
    revoke(&cluster, leasehold::model::LeaseId(session)).await;
    let renewed = |state: &Leadership| matches!(state, Leadership::Leading(fence) if *fence != stale);
    leader.until("to lead anew", renewed).await;
    assert_eq!(write(&connection, &stale, "/a/1").await, TxnOutcome::Fenced);
}

#[tokio::test]
async fn the_lead_survives_the_death_of_any_member() {
    let cluster = start(3).await;
    let connection = connect(cluster.endpoints()).await;
    let leader = Candidate::stand(&cluster, "one", 10).await;
    let fence = leader.until_leading().await;
    let standby = Candidate::stand(&cluster, "two", 10).await;
    standby.until_behind("one").await;
    for i in 0..3 {
        cluster.member(i).kill().await.expect("kill");
        cluster
            .wait_serving((i + 1) % 3, SOON)
            .await
            .expect("two of three serve");
        let verdict = write(&connection, &fence, &format!("/a/{i}")).await;
        assert!(matches!(verdict, TxnOutcome::Applied { .. }), "{verdict:?}");
        cluster.restart(i).await.expect("restart");
    }
    assert_eq!(leader.until_leading().await, fence);
}
