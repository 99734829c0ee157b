//! Leader election while etcd is healthy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::backend::etcd::{Connection, campaign};
use leasehold::backend::{Campaign, Candidacy, Leadership};
use leasehold::model::{Expect, Fence, LeaseId, Op, Prefix, Transaction, TxnOutcome};
use leasehold::peer::{PeerStatus, PeerStatuses, Replica};
use testbed::{EtcdCluster, History, Link, Network};
use tokio::sync::watch;

use crate::common::{Running, SOON, connect, delete, grant, one, put};

pub const LEADER: &str = "/meta/leader";

/// A running candidate.
pub struct Candidate {
    pub name: String,
    pub state: watch::Receiver<Leadership>,
    candidacy: watch::Sender<Candidacy>,
    presences: watch::Sender<PeerStatuses>,
    running: Running,
}

/// The address announced by the candidate of this name.
fn address(name: &str) -> SocketAddr {
    let last = name.bytes().fold(1, u8::wrapping_add);
    SocketAddr::from(([10, 0, 0, last], 8081))
}

fn process(name: &str) -> Replica {
    Replica {
        identity: name.into(),
        incarnation: format!("process-of-{name}").into(),
    }
}

impl Candidate {
    pub async fn stand(cluster: &EtcdCluster, name: &str, session_ttl: u32) -> Self {
        Self::stand_with(connect(cluster.endpoints()).await, name, session_ttl)
    }

    pub fn stand_with(connection: Connection, name: &str, session_ttl: u32) -> Self {
        Self::stand_watching(connection, name, session_ttl, &[])
    }

    /// A candidate that watches these namespaces; all if there are none.
    fn stand_watching(connection: Connection, name: &str, session_ttl: u32, namespaces: &[&str]) -> Self {
        let (out, state) = watch::channel(Leadership::Seeking);
        let (candidacy, stands) = watch::channel(Candidacy {
            fresh: true,
            yields: false,
        });
        let (presences, seen) = watch::channel(PeerStatuses::new());
        let terms = Campaign {
            leader_key: LEADER.into(),
            candidate_key: format!("/meta/candidates/{name}").as_str().into(),
            candidates: Prefix::below("/meta/candidates/"),
            namespaces: namespaces.iter().copied().map(Arc::from).collect(),
            process: process(name).incarnation,
            address: Some(address(name)),
            identity: name.to_owned(),
            session_ttl,
        };
        Self {
            name: name.to_owned(),
            state,
            candidacy,
            presences,
            running: Running::spawn(|shutdown| campaign(connection, terms, stands, seen, out, shutdown)),
        }
    }

    pub async fn until(&self, what: &str, is: impl Fn(&Leadership) -> bool) -> Leadership {
        let mut state = self.state.clone();
        let found = tokio::time::timeout(SOON, state.wait_for(|state| is(state))).await;
        let Ok(found) = found else {
            panic!("{} waited in vain {what}: {:?}", self.name, self.state.borrow());
        };
        found.expect("it stands").clone()
    }

    pub async fn until_leading(&self) -> Fence {
        let is = |state: &Leadership| matches!(state, Leadership::Leading(_));
        match self.until("to lead", is).await {
            Leadership::Leading(fence) => fence,
            other => unreachable!("{other:?}"),
        }
    }

    pub async fn until_behind(&self, leader: &str) {
        let is = |state: &Leadership| matches!(state, Leadership::Standby { leader: known } if known == leader);
        self.until(&format!("to stand behind {leader}"), is).await;
    }

    pub async fn until_seeking(&self) {
        self.until("to seek", |state| *state == Leadership::Seeking).await;
    }

    /// Sets whether the candidate's view of Kubernetes is fresh, and whether it yields to another candidate.
    fn stand_as(&self, fresh: bool, yields: bool) {
        self.candidacy.send_replace(Candidacy { fresh, yields });
    }

    /// Sets the status that the candidate knows of another candidate's process.
    fn know(&self, name: &str, presence: PeerStatus) {
        self.presences
            .send_modify(|seen| drop(seen.insert(address(name), presence)));
    }

    fn leads(&self) -> bool {
        matches!(*self.state.borrow(), Leadership::Leading(_))
    }

    /// Ends the candidate without resigning.
    pub fn kill(self) {
        drop(self);
    }

    pub async fn end(self) {
        self.running.end().await;
    }
}

/// Waits until one of the candidates leads; returns its index.
pub async fn leader_of(candidates: &[Candidate]) -> usize {
    testbed::until("a leader", SOON, || async {
        candidates.iter().position(Candidate::leads).ok_or("nobody leads")
    })
    .await
    .expect("somebody leads")
}

/// The outcome of a write by a leader with `fence`.
pub async fn write(connection: &Connection, fence: &Fence, key: &str) -> TxnOutcome {
    let lease = grant(connection, 60).await;
    let ops = vec![Op::Put {
        key: key.into(),
        value: b"x".as_slice().into(),
        lease,
        expect: Expect::Absent,
    }];
    connection.commit(fence, &Transaction::of(ops)).await.expect("commit")
}

async fn three(cluster: &EtcdCluster, session_ttl: u32) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for name in ["one", "two", "three"] {
        candidates.push(Candidate::stand(cluster, name, session_ttl).await);
    }
    candidates
}

#[tokio::test]
async fn exactly_one_of_three_leads_and_the_others_know_it() {
    let (cluster, connection) = one().await;
    let mut candidates = three(&cluster, 10).await;
    let first = leader_of(&candidates).await;
    let leader = candidates.swap_remove(first);
    for other in &candidates {
        other.until_behind(&leader.name).await;
    }
    let fence = leader.until_leading().await;
    let held = cluster.dump(LEADER).await.expect("dump");
    assert_eq!(held[LEADER].create_revision, fence.create_revision);
    assert_ne!(held[LEADER].lease, 0);
    assert!(matches!(
        write(&connection, &fence, "/a/1").await,
        TxnOutcome::Applied { .. }
    ));
}

#[tokio::test]
async fn a_leader_that_ends_hands_over_at_once() {
    let (cluster, _) = one().await;
    // Far longer than the test may take: only a resignation makes another candidate lead in time.
    let mut candidates = three(&cluster, 600).await;
    for left in [2, 1] {
        let leader = candidates.remove(leader_of(&candidates).await);
        for other in &candidates {
            other.until_behind(&leader.name).await;
        }
        let begin = Instant::now();
        leader.end().await;
        leader_of(&candidates).await;
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert_eq!(candidates.len(), left);
    }
    candidates.remove(0).end().await;
    assert!(cluster.dump(LEADER).await.expect("dump").is_empty());
}

#[tokio::test]
async fn a_standby_that_ends_leaves_the_leader_alone() {
    let (cluster, _) = one().await;
    let leader = Candidate::stand(&cluster, "one", 10).await;
    leader.until_leading().await;
    let standby = Candidate::stand(&cluster, "two", 10).await;
    standby.until_behind("one").await;
    let history = History::watch(&cluster, LEADER, 0).await.expect("watch");
    standby.end().await;
    history.assert_silent().await;
    assert!(leader.leads());
}

#[tokio::test]
async fn a_leader_that_dies_is_followed_when_its_session_has_ended() {
    let (cluster, connection) = one().await;
    let first = Candidate::stand(&cluster, "one", 3).await;
    let stale = first.until_leading().await;
    let second = Candidate::stand(&cluster, "two", 3).await;
    second.until_behind("one").await;
    first.kill();
    let fence = second.until_leading().await;
    assert_eq!(write(&connection, &stale, "/a/1").await, TxnOutcome::Fenced);
    assert!(matches!(
        write(&connection, &fence, "/a/1").await,
        TxnOutcome::Applied { .. }
    ));
}

#[tokio::test]
async fn leader_keeps_leading_over_slow_links_to_one_and_to_several_endpoints() {
    for endpoints in [1, 3] {
        keeps_leading_over_slow_links(endpoints).await;
    }
}

async fn keeps_leading_over_slow_links(endpoints: usize) {
    let (cluster, _) = one().await;
    let network = Network::temporary().await.expect("a network");
    let mut links = Vec::new();
    for _ in 0..endpoints {
        links.push(network.link(cluster.client_address(0)).await.expect("a link"));
    }
    let leader = Candidate::stand_with(connect(links.iter().map(Link::http).collect()).await, "one", 4);
    leader.until_leading().await;
    let mut state = leader.state.clone();
    state.mark_unchanged();
    for link in &links {
        link.slow(Duration::from_millis(900)).await.expect("slow");
    }
    let changed = tokio::time::timeout(Duration::from_secs(10), state.changed()).await;
    assert!(changed.is_err() && leader.leads(), "{:?}", state.borrow());
}

#[tokio::test]
async fn a_process_that_restarts_under_its_name_leads_at_once() {
    let (cluster, connection) = one().await;
    // The session of the killed process outlives the test.
    let before = Candidate::stand(&cluster, "one", 600).await;
    let stale = before.until_leading().await;
    before.kill();
    let begin = Instant::now();
    let after = Candidate::stand(&cluster, "one", 600).await;
    let fence = after.until_leading().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(fence.create_revision > stale.create_revision);
    assert_eq!(write(&connection, &stale, "/a/1").await, TxnOutcome::Fenced);
}

#[tokio::test]
async fn live_processes_of_one_name_do_not_alternate_leadership_forever() {
    let (cluster, _) = one().await;
    let first = Candidate::stand(&cluster, "one", 10).await;
    first.until_leading().await;
    let second = Candidate::stand(&cluster, "one", 10).await;
    second.until_leading().await;
    first.until_behind("one").await;
    let history = History::watch(&cluster, LEADER, 0).await.expect("watch");
    let more = history
        .wait_for(|events| !events.is_empty(), Duration::from_secs(3))
        .await;
    assert!(more.is_err(), "{more:?}");
    // The replaced process can still take over.
    second.end().await;
    first.until_leading().await;
}

#[tokio::test]
async fn deleted_leader_key_is_claimed_again_with_another_fence() {
    let (cluster, connection) = one().await;
    let candidate = Candidate::stand(&cluster, "one", 10).await;
    let stale = candidate.until_leading().await;
    delete(&cluster, LEADER).await;
    let renewed = |state: &Leadership| matches!(state, Leadership::Leading(fence) if *fence != stale);
    candidate.until("to lead anew", renewed).await;
    assert_eq!(write(&connection, &stale, "/a/1").await, TxnOutcome::Fenced);
}

#[tokio::test]
async fn a_leader_key_on_no_lease_does_not_block_the_election_for_ever() {
    let (cluster, _) = one().await;
    put(&cluster, LEADER, "written by hand", LeaseId::NONE).await;
    let candidate = Candidate::stand(&cluster, "one", 10).await;
    candidate.until_leading().await;
    // The same while the candidate leads.
    put(&cluster, LEADER, "written by hand", LeaseId::NONE).await;
    candidate.until_seeking().await;
    candidate.until_leading().await;
    assert_ne!(cluster.dump(LEADER).await.expect("dump")[LEADER].lease, 0);
}

#[tokio::test]
async fn a_value_that_is_no_leader_record_does_not_stop_the_election() {
    let (cluster, connection) = one().await;
    // Longer than any wait in this test, as if the owner renewed it forever.
    let theirs = grant(&connection, 3600).await;
    put(&cluster, LEADER, "10.0.0.7:8080", theirs).await;
    let candidate = Candidate::stand(&cluster, "one", 10).await;
    candidate.until_leading().await;
    // The same while the candidate leads.
    put(&cluster, LEADER, "10.0.0.7:8080", theirs).await;
    candidate.until_seeking().await;
    candidate.until_leading().await;
    assert_ne!(cluster.dump(LEADER).await.expect("dump")[LEADER].lease, theirs.0);
}

#[tokio::test]
async fn a_leader_record_of_a_newer_release_is_waited_for() {
    let (cluster, connection) = one().await;
    let theirs = grant(&connection, 3).await;
    put(&cluster, LEADER, r#"{"v":2,"who":"newer"}"#, theirs).await;
    let candidate = Candidate::stand(&cluster, "one", 10).await;
    candidate.until_behind("a newer release (record version 2)").await;
    candidate.until_leading().await;
}

#[tokio::test]
async fn leader_with_ended_process_is_replaced_before_its_session_expires() {
    let (cluster, connection) = one().await;
    for (name, end) in [
        ("gone", PeerStatus::Gone as fn(Replica) -> PeerStatus),
        ("hung", PeerStatus::Hung),
    ] {
        let leader = Candidate::stand(&cluster, name, 600).await;
        let stale = leader.until_leading().await;
        let standby = Candidate::stand(&cluster, "next", 600).await;
        standby.until_behind(name).await;
        leader.kill();
        testbed::until("the standby to lead", SOON, || async {
            // The standby replica sees only the latest status, so each status stays for a while.
            for presence in [PeerStatus::Alive(process(name), Arc::default()), end(process(name))] {
                standby.know(name, presence);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            standby.leads().then_some(()).ok_or("it does not")
        })
        .await
        .expect("it leads");
        let fence = standby.until_leading().await;
        assert_eq!(write(&connection, &stale, "/a/1").await, TxnOutcome::Fenced);
        assert!(matches!(
            write(&connection, &fence, "/a/1").await,
            TxnOutcome::Applied { .. }
        ));
        standby.end().await;
    }
}

#[tokio::test]
async fn what_is_no_evidence_of_a_leader_s_end_leaves_it_the_lead() {
    let (cluster, _) = one().await;
    let leader = Candidate::stand(&cluster, "one", 600).await;
    leader.until_leading().await;
    let standby = Candidate::stand(&cluster, "two", 600).await;
    standby.until_behind("one").await;
    let history = History::watch(&cluster, LEADER, 0).await.expect("watch");
    // Never connected to the leader: a firewall may also refuse the connection.
    standby.know("one", PeerStatus::Gone(process("one")));
    standby.know("one", PeerStatus::Refused);
    // Connected, and then only cut off.
    standby.know("one", PeerStatus::Alive(process("one"), Arc::default()));
    standby.know("one", PeerStatus::Unknown("no answer within 1 s".into()));
    history.assert_silent().await;
    assert!(leader.leads());
}

#[tokio::test]
async fn a_candidate_with_a_stale_view_leaves_the_lead_to_one_with_a_fresh_view() {
    let (cluster, connection) = one().await;
    let stale = Candidate::stand(&cluster, "stale", 10).await;
    let former = stale.until_leading().await;
    let fresh = Candidate::stand(&cluster, "fresh", 10).await;
    fresh.until_behind("stale").await;
    stale.stand_as(false, true);
    fresh.until_leading().await;
    stale.until_behind("fresh").await;
    assert_eq!(write(&connection, &former, "/a/1").await, TxnOutcome::Fenced);
    let record = || async {
        let held = cluster.dump("/meta/candidates/stale").await.expect("dump");
        held.into_values().next().ok_or("no record")
    };
    let record = testbed::until("the candidate's record to say that its view is stale", SOON, || async {
        let record = record().await?;
        record
            .value
            .contains(r#""fresh":false"#)
            .then_some(record)
            .ok_or("not yet")
    })
    .await
    .expect("it says so");
    assert_ne!(record.lease, 0);

    // The stale candidate claims nothing while a fresh one is reported, even if that one is dead, and claims the key
    // afterwards.
    fresh.kill();
    delete(&cluster, LEADER).await;
    stale.until_seeking().await;
    let history = History::watch(&cluster, LEADER, 0).await.expect("watch");
    history.assert_silent().await;
    stale.stand_as(false, false);
    stale.until_leading().await;
    stale.end().await;
    let left = cluster.dump("/meta/candidates/stale").await.expect("dump");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn candidate_of_other_namespaces_leads_only_after_the_last_leader_ends() {
    let (cluster, connection) = one().await;
    let watching = async |name: &str, namespaces: &[&str]| {
        // Far longer than the test may take.
        Candidate::stand_watching(connect(cluster.endpoints()).await, name, 600, namespaces)
    };
    let announced = async |count: usize| {
        let found = testbed::until("their records", SOON, || async {
            let held = cluster
                .dump("/meta/candidates/")
                .await
                .map_err(|error| error.to_string())?;
            (held.len() == count).then_some(()).ok_or(format!("{held:?}"))
        });
        found.await.expect("the candidates announce themselves");
    };
    let first = watching("one", &["shop"]).await;
    let stale = first.until_leading().await;
    announced(1).await;
    let other = watching("two", &["bank"]).await;
    other.until_behind("one").await;
    announced(2).await;

    // It restarts: the other one learns that its process is gone, and does not take its place.
    first.kill();
    for presence in [
        PeerStatus::Alive(process("one"), Arc::default()),
        PeerStatus::Gone(process("one")),
    ] {
        other.know("one", presence);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    delete(&cluster, LEADER).await;
    let first = watching("one", &["shop"]).await;
    let fence = first.until_leading().await;
    assert_ne!(fence, stale);
    other.until_behind("one").await;
    assert_eq!(write(&connection, &stale, "/a/1").await, TxnOutcome::Fenced);

    // A later replica of the same namespaces comes before the earlier one of others.
    let next = watching("three", &["shop"]).await;
    next.until_behind("one").await;
    announced(3).await;
    first.end().await;
    next.until_leading().await;
    other.until_behind("three").await;

    // Nothing but the end of the last one makes it lead in time.
    next.end().await;
    other.until_leading().await;
}
