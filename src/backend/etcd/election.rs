//! Leader election: one leader key per Registry, attached to the session lease of the candidate that created it.
//!
//! The key's `create_revision` and lease prove leadership, and every write compares them ([`Fence`]). The state
//! published here is therefore only a hint on when to try: a replica that wrongly believes it leads cannot write. A
//! transaction claims the key, and the watch starts at the revision at which the key was read, so no deletion is
//! missed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse, WatchOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Call, Connection};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::pause::{JitteredBackoff, jitter};
use super::session::Session;
use super::writer::holder;
use crate::backend::{Campaign, Candidacy, Leadership, random};
use crate::model::{Fence, KeyValue, LeaseId, RECORD_VERSION, Revision};
use crate::peer::{PeerStatuses, Term};
use crate::plan::{CandidateRecord, in_the_way, newer_version};

/// The value of the leader key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// The version of the record's format. The first releases wrote none.
    #[serde(default)]
    v: u32,
    identity: String,
    /// Differs between processes of one identity, and between campaigns of one process.
    incarnation: String,
    version: String,
    /// The id of the process on direct connections. Releases without direct connections wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Arc<str>>,
    /// The address at which other replicas reach the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The namespaces that the leader watches; empty if it watches all. Earlier releases wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespaces: Option<BTreeSet<Arc<str>>>,
}

impl Holder {
    /// Returns the term for following the leader over a direct connection; `None` without address or process id. One
    /// that watches other namespaces than `namespaces` is not followed: it keeps its place for as long as its session, so
    /// that it can restart.
    fn term(&self, namespaces: &BTreeSet<Arc<str>>) -> Option<Term> {
        if self.namespaces.as_ref().is_some_and(|theirs| theirs != namespaces) {
            return None;
        }
        let address = self.address.as_ref()?.parse().ok()?;
        Some(Term::new(address, self.process.clone()?))
    }
}

/// Pause after a leader lost its key, before it campaigns again. A successor of the same identity that removed the key
/// needs this time to create its own.
const GIVE_WAY: Duration = Duration::from_millis(500);
/// Longest pause before a standby replica claims a free key.
const CLAIM_JITTER: Duration = Duration::from_millis(10);
/// Longest part of an unreadable leader key value in the log, in characters.
const SHOWN: usize = 100;
/// Time-out for removing the leader key on shutdown: a terminating process has little time.
const RESIGN: Duration = Duration::from_secs(2);
/// Pause before a candidate that leaves the free leader key to others looks again whether they are still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause before the candidate's record is written again after etcd denied it.
const DENIED: Duration = Duration::from_secs(30);

/// Takes part in the election until `shutdown`, as `candidacy` says, and publishes every change to `out`. Then removes
/// the leader key if this candidate holds it, so that the next candidate leads at once. `peer_statuses` report when
/// the process of a leader has ended or hangs.
pub async fn campaign(
    connection: Connection,
    campaign: Campaign,
    candidacy: watch::Receiver<Candidacy>,
    peer_statuses: watch::Receiver<PeerStatuses>,
    out: watch::Sender<Leadership>,
    shutdown: CancellationToken,
) {
    let holder = Holder {
        v: RECORD_VERSION,
        identity: campaign.identity.clone(),
        incarnation: format!("{:016x}", random()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: campaign.address.map(|_| campaign.process.clone()),
        address: campaign.address.map(|address| address.to_string()),
        namespaces: Some(campaign.namespaces.clone()),
    };
    let mut candidate = Candidate {
        value: serde_json::to_vec(&holder).expect("strings and numbers serialize"),
        me: holder,
        connection,
        campaign,
        candidacy,
        peer_statuses,
        term: None,
        session: LeaseId::NONE,
        out,
        led_at: 0,
        replaced: false,
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        never = candidate.run() => match never {},
    }
    candidate.leave().await;
}

/// Keeps the candidate's record on the session `lease` up to date with `candidacy`.
async fn announce(
    connection: &Connection,
    campaign: &Campaign,
    lease: LeaseId,
    mut candidacy: watch::Receiver<Candidacy>,
) -> Infallible {
    let mut backoff = JitteredBackoff::new();
    let (mut written, mut since) = (None, None);
    loop {
        let fresh = candidacy.borrow_and_update().fresh;
        if written != Some(fresh) {
            let announced = async {
                // The others of the same namespaces may end before the next change of this record.
                let since = match since {
                    Some(since) => since,
                    None => *since.insert(campaign.since(&candidates(connection, campaign).await?)),
                };
                let put = PutOptions::new().with_lease(lease.0);
                let put = TxnOp::put(&*campaign.candidate_key, campaign.record(fresh, since), Some(put));
                connection.txn("announce", Txn::new().and_then([put]), |_| false).await
            };
            match announced.await {
                Ok(_) => {
                    backoff.reset();
                    written = Some(fresh);
                }
                Err(error @ Error::PermissionDenied { .. }) => {
                    tracing::warn!(key = %campaign.candidate_key, %error, "cannot write the candidate record");
                    sleep(DENIED).await;
                    continue;
                }
                Err(error) => {
                    backoff.log_failure("cannot write the candidate record", &error);
                    backoff.pause().await;
                    continue;
                }
            }
        }
        if candidacy.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Campaign {
    fn record(&self, fresh: bool, since: Revision) -> Vec<u8> {
        let record = CandidateRecord {
            identity: self.identity.as_str().into(),
            process: self.process.clone(),
            address: self.address,
            fresh,
            namespaces: Some(self.namespaces.clone()),
            since,
        };
        record.value().to_vec()
    }

    /// Returns since when candidates with these namespaces have stood for election; 0 if there is none yet.
    fn since(&self, candidates: &[CandidateRecord]) -> Revision {
        let same = candidates
            .iter()
            .filter(|candidate| candidate.namespaces.as_ref() == Some(&self.namespaces));
        same.map(|candidate| candidate.since).min().unwrap_or_default()
    }
}

/// Reads the records of all candidates.
async fn candidates(connection: &Connection, campaign: &Campaign) -> Result<Vec<CandidateRecord>> {
    let found = connection.range(&campaign.candidates, None).await?.entries;
    Ok(found
        .iter()
        .filter_map(|(_, held)| CandidateRecord::read(held))
        .collect())
}

async fn until_yielding(candidacy: &mut watch::Receiver<Candidacy>) {
    if candidacy.wait_for(|now| now.yields).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns once the term is known to be over and this candidate does not yield. The result is the reason for the log.
async fn until_over(
    term: Option<&mut Term>,
    peer_statuses: &mut watch::Receiver<PeerStatuses>,
    candidacy: &mut watch::Receiver<Candidacy>,
) -> &'static str {
    let Some(term) = term else {
        return std::future::pending().await;
    };
    loop {
        let over = term.is_over(&peer_statuses.borrow_and_update());
        let yields = candidacy.borrow_and_update().yields;
        if let Some(why) = over.filter(|_| !yields) {
            return why;
        }
        tokio::select! {
            Ok(()) = peer_statuses.changed() => {}
            Ok(()) = candidacy.changed() => {}
            else => return std::future::pending().await,
        }
    }
}

async fn until_unproven(proven: &mut watch::Receiver<bool>) {
    // An error means that the session has ended, which also ends all work done in it.
    let _ = proven.wait_for(|proven| !proven).await;
}

/// A leader key of another candidate.
struct Theirs {
    leader: String,
    seen: Revision,
    created: Revision,
    mod_revision: Revision,
    /// `None` if the leader cannot be followed over a direct connection.
    term: Option<Term>,
}

/// The result of reading the leader key.
enum LeaderKeyState {
    /// The key is on this candidate's session.
    Ours { fence: Fence, seen: Revision },
    /// The key belongs to another candidate.
    Theirs(Theirs),
    /// The key does not exist, and another candidate shall claim it.
    LeftToOthers { seen: Revision },
    /// The key must be removed before it can be claimed: an earlier session or process of this identity wrote it, its
    /// value is no leader record, or it has no lease and would never expire.
    Stale { mod_revision: Revision },
    /// The key does not exist.
    Free,
}

struct Candidate {
    connection: Connection,
    campaign: Campaign,
    me: Holder,
    value: Vec<u8>,
    candidacy: watch::Receiver<Candidacy>,
    peer_statuses: watch::Receiver<PeerStatuses>,
    /// The lease of the current session.
    session: LeaseId,
    /// The followed term of the leader, by the revision at which the term began.
    term: Option<(Revision, Term)>,
    out: watch::Sender<Leadership>,
    /// The revision at which this process last became the leader; 0 if it never did.
    led_at: Revision,
    /// Whether another process of the same identity took the key from this one.
    replaced: bool,
}

impl Candidate {
    fn publish(&self, leadership: Leadership) {
        self.out.send_if_modified(|known| {
            if *known == leadership {
                return false;
            }
            let key = &*self.campaign.leader_key;
            match &leadership {
                Leadership::Leading(fence) => tracing::info!(key, revision = fence.create_revision, "leading"),
                Leadership::Standby { leader } => tracing::info!(key, leader, "standing by"),
                Leadership::Seeking => tracing::info!(key, "not leading, and no leader is known"),
            }
            *known = leadership;
            true
        });
    }

    fn leads(&self) -> bool {
        matches!(&*self.out.borrow(), Leadership::Leading(_))
    }

    async fn run(&mut self) -> Infallible {
        let mut backoff = JitteredBackoff::new();
        loop {
            match Session::new(&self.connection, self.campaign.session_ttl).await {
                Ok(session) => {
                    backoff.reset();
                    self.session = session.lease;
                    let (connection, campaign) = (self.connection.clone(), self.campaign.clone());
                    let announce = announce(&connection, &campaign, session.lease, self.candidacy.clone());
                    tokio::select! {
                        never = announce => match never {},
                        () = session.keep() => {
                            tracing::warn!(lease = %session.lease, "the lease of the election session no longer exists in etcd; starting a new session");
                        }
                        () = self.contend(&session) => {}
                    }
                    self.publish(Leadership::Seeking);
                }
                Err(error) => {
                    backoff.log_failure("cannot create a session for the election", &error);
                    backoff.pause().await;
                }
            }
        }
    }

    /// Campaigns with one session. Returns when the session loses the leader key other than by resigning.
    async fn contend(&mut self, session: &Session) {
        let mut proven = session.proven();
        let mut backoff = JitteredBackoff::new();
        let mut fence = None;
        let mut removed = false;
        loop {
            let state = tokio::select! {
                biased;
                // A call may hang for its whole time-out, and no part of the operator may believe in this leadership
                // for longer than the session lasts.
                () = until_unproven(&mut proven), if self.leads() => {
                    self.publish(Leadership::Seeking);
                    continue;
                }
                state = self.read_or_claim(session.lease, fence.is_some()) => state,
            };
            match state {
                Ok(LeaderKeyState::Ours { fence: held, seen }) => {
                    backoff.reset();
                    self.led_at = held.create_revision;
                    if *proven.borrow_and_update() {
                        self.publish(Leadership::Leading(held.clone()));
                    }
                    fence = Some(held);
                    let mut candidacy = self.candidacy.clone();
                    tokio::select! {
                        biased;
                        () = until_yielding(&mut candidacy) => {
                            tracing::warn!(
                                key = %self.campaign.leader_key,
                                "this replica's view of Kubernetes is stale and another candidate's is not; resigning"
                            );
                            if self.resign().await {
                                fence = None;
                            } else {
                                sleep(Duration::from_secs(1)).await;
                            }
                        }
                        () = self.watch_key(seen, session.ttl(), &mut proven) => {}
                    }
                }
                Ok(state) if fence.is_some() => {
                    self.publish(Leadership::Seeking);
                    if let LeaderKeyState::Stale { .. } = state {
                        tracing::warn!("the leader key was overwritten by another client, or etcd was restored");
                    } else {
                        tracing::warn!("this replica lost the leader key");
                        // If the session's lease is gone, the key expired with it, so no successor needs the pause.
                        if !matches!(self.connection.lease(session.lease, false).await, Ok(None)) {
                            sleep(GIVE_WAY).await;
                        }
                        sleep(jitter(CLAIM_JITTER)).await;
                    }
                    return;
                }
                Ok(LeaderKeyState::Theirs(theirs)) => {
                    backoff.reset();
                    self.stand_behind(theirs, session, &mut proven, &mut backoff).await;
                }
                Ok(LeaderKeyState::LeftToOthers { seen }) => {
                    backoff.reset();
                    self.publish(Leadership::Seeking);
                    let mut candidacy = self.candidacy.clone();
                    tokio::select! {
                        Ok(()) = candidacy.changed() => {}
                        // The leader key does not show when the other candidates end.
                        () = self.watch_key(seen, LOOK_AGAIN, &mut proven) => {}
                    }
                }
                Ok(LeaderKeyState::Stale { mod_revision }) => match self.remove(mod_revision).await {
                    // Another program may write the key again each time: do not loop without a pause.
                    Ok(()) if removed => backoff.pause().await,
                    Ok(()) => removed = true,
                    Err(error) => {
                        backoff.log_failure("cannot remove a stale leader key", &error);
                        backoff.pause().await;
                    }
                },
                // Another candidate claimed the key and lost it between two requests.
                Ok(LeaderKeyState::Free) => {}
                Err(error) => {
                    backoff.log_failure("cannot read or claim the leader key", &error);
                    // The candidate still leads while the session is proven. The fence guards every write anyway.
                    backoff.pause().await;
                }
            }
        }
    }

    /// Stands by until the leader's key may have changed, or until the leader is known to be gone. In the second case,
    /// removes the leader's key.
    async fn stand_behind(
        &mut self,
        theirs: Theirs,
        session: &Session,
        proven: &mut watch::Receiver<bool>,
        backoff: &mut JitteredBackoff,
    ) {
        let Theirs {
            leader,
            seen,
            created,
            mod_revision,
            term,
        } = theirs;
        self.publish(Leadership::Standby { leader: leader.clone() });
        if self.term.as_ref().is_none_or(|(known, _)| *known != created) {
            self.term = term.map(|term| (created, term));
        }
        let mut followed = self.term.take();
        let (mut peer_statuses, mut candidacy) = (self.peer_statuses.clone(), self.candidacy.clone());
        let over = until_over(
            followed.as_mut().map(|(_, term)| term),
            &mut peer_statuses,
            &mut candidacy,
        );
        let over = tokio::select! {
            () = self.watch_key(seen, session.ttl(), proven) => None,
            why = over => Some(why),
        };
        self.term = followed;
        // Other candidates noticed the same at the same time.
        sleep(jitter(CLAIM_JITTER)).await;
        if let Some(why) = over {
            tracing::warn!(leader, why, "the leader has failed; removing its leader key");
            if let Err(error) = self.remove(mod_revision).await {
                backoff.log_failure("cannot remove the leader key of a failed leader", &error);
                backoff.pause().await;
            }
        }
    }

    /// Reads the leader key. Claims the key if it is free, this candidate did not hold it (`leads`), does not yield, and no
    /// earlier candidate watches other namespaces.
    async fn read_or_claim(&mut self, lease: LeaseId, leads: bool) -> Result<LeaderKeyState> {
        let yields = self.candidacy.borrow_and_update().yields;
        let (held, seen) = self.connection.get(&self.campaign.leader_key).await?;
        match held {
            Some(held) => Ok(self.classify(&held, seen, lease)),
            None if leads => Ok(LeaderKeyState::Free),
            None if yields || self.gives_way().await? => Ok(LeaderKeyState::LeftToOthers { seen }),
            None => self.claim(lease).await,
        }
    }

    /// Whether an earlier candidate watches other namespaces.
    async fn gives_way(&self) -> Result<bool> {
        let candidates = candidates(&self.connection, &self.campaign).await?;
        let Campaign {
            identity, namespaces, ..
        } = &self.campaign;
        Ok(in_the_way((identity, namespaces), candidates.iter()).is_some())
    }

    async fn claim(&mut self, lease: LeaseId) -> Result<LeaderKeyState> {
        let key = self.campaign.leader_key.clone();
        let put = TxnOp::put(&*key, &*self.value, Some(PutOptions::new().with_lease(lease.0)));
        let request = Txn::new()
            .when([Compare::create_revision(&*key, CompareOp::Equal, 0)])
            .and_then([put])
            .or_else([TxnOp::get(&*key, None)]);
        let answer = self.txn("campaign", request).await?;
        let revision = answer
            .header()
            .ok_or_else(|| Error::malformed("campaign", "no header"))?
            .revision();
        if answer.succeeded() {
            let fence = Fence {
                key,
                create_revision: revision,
                lease,
            };
            return Ok(LeaderKeyState::Ours { fence, seen: revision });
        }
        Ok(match holder("campaign", answer.0.responses)? {
            Some(held) => self.classify(&held, revision, lease),
            None => LeaderKeyState::Free,
        })
    }

    fn classify(&mut self, held: &KeyValue, seen: Revision, lease: LeaseId) -> LeaderKeyState {
        if held.lease == lease {
            let fence = Fence {
                key: self.campaign.leader_key.clone(),
                create_revision: held.create_revision,
                lease,
            };
            return LeaderKeyState::Ours { fence, seen };
        }
        let stale = LeaderKeyState::Stale {
            mod_revision: held.mod_revision,
        };
        if held.lease == LeaseId::NONE {
            tracing::warn!(key = %self.campaign.leader_key, "the leader key has no lease and would never expire; removing it");
            return stale;
        }
        let Ok(other) = serde_json::from_slice::<Holder>(&held.value) else {
            if let Some(version) = newer_version(&held.value) {
                // The record cannot be read. It shows only that a newer release leads.
                let leader = format!("a newer release (record version {version})");
                return LeaderKeyState::Theirs(Theirs {
                    leader,
                    seen,
                    created: held.create_revision,
                    mod_revision: held.mod_revision,
                    term: None,
                });
            }
            let value = String::from_utf8_lossy(&held.value)
                .chars()
                .take(SHOWN)
                .collect::<String>();
            tracing::error!(
                key = %self.campaign.leader_key, value, lease = %held.lease,
                "the leader key does not contain a leader record; removing it; allow only leasehold to write below the metaPrefix"
            );
            return stale;
        };
        if other.incarnation == self.me.incarnation {
            // This process wrote the key on a session that it gave up.
            return stale;
        }
        if other.identity == self.me.identity {
            if held.create_revision < self.led_at {
                // The key is older than this process's own term, which is possible only after a restore of etcd.
                tracing::info!(identity = %other.identity, "etcd was restored and contains an old leader key of this identity; removing it");
                return stale;
            }
            if self.led_at == 0 && !self.replaced {
                tracing::info!(identity = %other.identity, "taking over from an earlier process with the same identity");
                return stale;
            }
            if !self.replaced {
                tracing::error!(
                    identity = %other.identity, mine = %self.me.incarnation, theirs = %other.incarnation,
                    "another running process with the same identity leads; standing by; give each replica a unique identity"
                );
                // Never reset: two processes that remove each other's key would not stop.
                self.replaced = true;
            }
        }
        LeaderKeyState::Theirs(Theirs {
            term: other.term(&self.campaign.namespaces),
            leader: other.identity,
            seen,
            created: held.create_revision,
            mod_revision: held.mod_revision,
        })
    }

    async fn remove(&self, mod_revision: Revision) -> Result<()> {
        let key = &*self.campaign.leader_key;
        let guard = Compare::mod_revision(key, CompareOp::Equal, mod_revision);
        let request = Txn::new().when([guard]).and_then([TxnOp::delete(key, None)]);
        self.txn("resign", request).await.map(drop)
    }

    async fn txn(&self, name: &'static str, request: Txn) -> Result<TxnResponse> {
        self.connection.txn(name, request, |answer| !answer.succeeded()).await
    }

    /// Returns when the leader key may have changed since `seen`: it changed, the watch failed, the access to etcd
    /// changed, the session became proven or unproven, or `at_most` has passed, in case a watch starves silently.
    async fn watch_key(&self, seen: Revision, at_most: Duration, proven: &mut watch::Receiver<bool>) {
        let mut access_changes = self.connection.access_changes();
        tokio::select! {
            _ = proven.changed() => {}
            () = access_changes.changed() => {}
            () = self.until_changed(seen, at_most) => {}
            () = sleep(at_most) => {}
        }
    }

    async fn until_changed(&self, seen: Revision, at_most: Duration) {
        let (index, endpoint) = self.connection.endpoint(0);
        let kind = Call {
            name: "watch",
            attempt_timeout: self.connection.timeouts().request.min(at_most / 3),
            refused: |_| false,
            hedge: None,
        };
        let key = &*self.campaign.leader_key;
        let open = |endpoint: &Endpoint| {
            let mut client = endpoint.watch.clone();
            let options = WatchOptions::new().with_start_revision(seen + 1);
            async move { client.watch(key, Some(options)).await }
        };
        let mut stream = match self
            .connection
            .attempt(&kind, &endpoint, kind.attempt_timeout, open)
            .await
        {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot watch the leader key");
                self.connection.avoid(index);
                sleep(jitter(Duration::from_secs(1))).await;
                return;
            }
        };
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = endpoint.retired.cancelled() => return,
            };
            match message {
                Ok(Some(message)) if message.created() && !message.canceled() => {}
                _ => return,
            }
        }
    }

    /// Removes this candidate's record and the leader key, so that the other candidates need not wait for the session
    /// to expire. Both at once: a candidate that watches other namespaces claims a free key only if the record is gone.
    async fn leave(&self) {
        if self.session == LeaseId::NONE {
            return;
        }
        self.publish(Leadership::Seeking);
        let key = &*self.campaign.candidate_key;
        let ours = Compare::lease(key, CompareOp::Equal, self.session.0);
        let record = Txn::new().when([ours]).and_then([TxnOp::delete(key, None)]);
        let both = Txn::new().and_then([TxnOp::txn(record), TxnOp::txn(self.resignation())]);
        match timeout(RESIGN, self.txn("leave", both)).await {
            Ok(Ok(answer)) => {
                if let Some(TxnOpResponse::Txn(leader)) = answer.op_responses().last()
                    && leader.succeeded()
                {
                    tracing::info!(key = %self.campaign.leader_key, "resigned");
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot remove the candidate record; it stays until the session expires");
                self.resign().await;
            }
            Err(_) => tracing::warn!("cannot resign in time; the leader key stays until the session expires"),
        }
    }

    /// Removes the leader key if this candidate holds it. Compares the value, which no other process writes, so that a
    /// claim still in flight at shutdown is undone too.
    fn resignation(&self) -> Txn {
        let key = &*self.campaign.leader_key;
        Txn::new()
            .when([Compare::value(key, CompareOp::Equal, &*self.value)])
            .and_then([TxnOp::delete(key, None)])
    }

    /// Removes the leader key if this candidate holds it. Returns whether the key is known not to be this candidate's any
    /// more.
    async fn resign(&self) -> bool {
        self.publish(Leadership::Seeking);
        let key = &*self.campaign.leader_key;
        match timeout(RESIGN, self.txn("resign", self.resignation())).await {
            Ok(Ok(answer)) => {
                if answer.succeeded() {
                    tracing::info!(%key, "resigned");
                }
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot resign; the leader key stays until the session expires");
                false
            }
            Err(_) => {
                tracing::warn!("cannot resign in time; the leader key stays until the session expires");
                false
            }
        }
    }
}
