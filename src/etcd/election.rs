//! Who writes: one leader key per Registry, on the session lease of whoever created it.
//!
//! Leadership is proven by the key's `create_revision` and lease, which every write compares ([`Fence`]). What is
//! published here is therefore only advice on when to try; a wrong belief cannot write. The key is claimed by a
//! transaction and watched from the revision at which it was seen, so no deletion is missed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnResponse, WatchOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Call, Connection};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::pause::{Backoff, jitter, random};
use super::session::Session;
use super::writer::holder;
use crate::peer::{PeerStatuses, Term};
use crate::plan::{CandidateRecord, Fence, Key, KeyValue, LeaseId, RECORD_VERSION, Revision, newer_version};

/// A candidacy for leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// The key whose creator leads.
    pub leader_key: Key,
    /// The key of this candidate's own record, which tells the others that it stands, and whether it may be counted on.
    pub candidate_key: Key,
    /// This process, as it is known on direct connections.
    pub process: Arc<str>,
    /// Where other replicas reach this one, if they do.
    pub address: Option<SocketAddr>,
    /// Who stands: unique among live processes, kept over restarts (a pod's name).
    pub identity: String,
    /// TTL of the session in seconds: how long a leader that dies without a word is missed.
    pub session_ttl: u32,
}

/// How a candidate is to stand.
///
/// By default it knows nothing of Kubernetes yet, nor of another candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidacy {
    /// Its view of Kubernetes is complete and up to date.
    pub fresh: bool,
    /// A candidate with a fresh view is there and this one's is stale: it resigns, and claims nothing.
    pub yields: bool,
}

/// What a candidate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Neither leading nor aware of a leader.
    Seeking,
    /// Somebody else leads.
    Standby {
        /// The leader's identity.
        leader: String,
    },
    /// Leading, under this proof.
    Leading(Fence),
}

/// What the leader key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// The version of this record's form; releases before it had one wrote none.
    #[serde(default)]
    v: u32,
    identity: String,
    /// Differs between processes of one identity, and between campaigns of one process.
    incarnation: String,
    version: String,
    /// The process, as it is known on direct connections; releases that had none wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Arc<str>>,
    /// Where other replicas reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

impl Holder {
    /// Its term, as it can be followed on a direct connection to it.
    fn term(&self) -> Option<Term> {
        let address = self.address.as_ref()?.parse().ok()?;
        Some(Term::new(address, self.process.clone()?))
    }
}

/// Before a leader whose key vanished stands again: time for a successor of the same identity, which removed it, to
/// put its own.
const GIVE_WAY: Duration = Duration::from_millis(500);
/// Before a standby claims a key that became free, at most.
const CLAIM_JITTER: Duration = Duration::from_millis(10);
/// How much of a value that is no leader record is shown, in characters.
const SHOWN: usize = 100;
/// For the leader key's removal on shutdown: a process that ends has little time.
const RESIGN: Duration = Duration::from_secs(2);
/// Before a candidate's record that etcd does not let us write is tried again.
const DENIED: Duration = Duration::from_secs(30);

/// Stands for election until `shutdown`, as `candidacy` says, telling `out` every change; then removes the leader key, if
/// it is ours, so that the next candidate leads at once. `presences` tell when the process of a leader has ended or hangs.
pub async fn campaign(
    connection: Connection,
    campaign: Campaign,
    candidacy: watch::Receiver<Candidacy>,
    presences: watch::Receiver<PeerStatuses>,
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
    };
    let mut candidate = Candidate {
        value: serde_json::to_vec(&holder).expect("three strings are JSON"),
        me: holder,
        connection,
        campaign,
        candidacy,
        presences,
        term: None,
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

/// Keeps the candidate's record on the session `lease` as `candidacy` says.
async fn announce(
    connection: &Connection,
    campaign: &Campaign,
    lease: LeaseId,
    mut candidacy: watch::Receiver<Candidacy>,
) -> Infallible {
    let mut backoff = Backoff::new();
    let mut written = None;
    loop {
        let fresh = candidacy.borrow_and_update().fresh;
        if written != Some(fresh) {
            let put = PutOptions::new().with_lease(lease.0);
            let put = TxnOp::put(&*campaign.candidate_key, campaign.record(fresh), Some(put));
            match connection.txn("announce", Txn::new().and_then([put]), |_| false).await {
                Ok(_) => {
                    backoff.reset();
                    written = Some(fresh);
                }
                Err(error @ Error::PermissionDenied { .. }) => {
                    tracing::warn!(key = %campaign.candidate_key, %error, "cannot write this candidate's record");
                    sleep(DENIED).await;
                    continue;
                }
                Err(error) => {
                    backoff.complain("cannot write this candidate's record", &error);
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
    fn record(&self, fresh: bool) -> Vec<u8> {
        let record = CandidateRecord {
            identity: self.identity.as_str().into(),
            process: self.process.clone(),
            address: self.address,
            fresh,
        };
        record.value().to_vec()
    }
}

async fn until_yielding(candidacy: &mut watch::Receiver<Candidacy>, yields: bool) {
    if candidacy.wait_for(|now| now.yields == yields).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns once a term is known to be over, and this candidate may stand: in which words.
async fn until_over(
    term: Option<&mut Term>,
    presences: &mut watch::Receiver<PeerStatuses>,
    candidacy: &mut watch::Receiver<Candidacy>,
) -> &'static str {
    let Some(term) = term else {
        return std::future::pending().await;
    };
    loop {
        let over = term.is_over(&presences.borrow_and_update());
        let yields = candidacy.borrow_and_update().yields;
        if let Some(why) = over.filter(|_| !yields) {
            return why;
        }
        tokio::select! {
            Ok(()) = presences.changed() => {}
            Ok(()) = candidacy.changed() => {}
            else => return std::future::pending().await,
        }
    }
}

async fn until_unproven(proven: &mut watch::Receiver<bool>) {
    // An error means that the session is over, which ends all that is done in it.
    let _ = proven.wait_for(|proven| !proven).await;
}

/// Another candidate's leader key.
struct Theirs {
    leader: String,
    seen: Revision,
    created: Revision,
    mod_revision: Revision,
    /// None where the leader cannot be followed on a direct connection.
    term: Option<Term>,
}

/// What a look at the leader key told.
enum Look {
    /// It is on our session.
    Ours { fence: Fence, seen: Revision },
    /// Another candidate's.
    Theirs(Theirs),
    /// It does not exist, and another candidate is to claim it.
    LeftToOthers { seen: Revision },
    /// It has to go first: that of our own predecessor, or one on no lease, which would stay for ever.
    Stale { mod_revision: Revision },
    /// It does not exist.
    Free,
}

struct Candidate {
    connection: Connection,
    campaign: Campaign,
    me: Holder,
    value: Vec<u8>,
    candidacy: watch::Receiver<Candidacy>,
    presences: watch::Receiver<PeerStatuses>,
    /// The leader's term that is followed, by the revision at which it began.
    term: Option<(Revision, Term)>,
    out: watch::Sender<Leadership>,
    /// The revision at which this process came to lead last; 0 before it did.
    led_at: Revision,
    /// Whether a process with our own identity took the key from us.
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
                Leadership::Seeking => tracing::info!(key, "neither leading nor aware of a leader"),
            }
            *known = leadership;
            true
        });
    }

    fn leads(&self) -> bool {
        matches!(&*self.out.borrow(), Leadership::Leading(_))
    }

    async fn run(&mut self) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            match Session::new(&self.connection, self.campaign.session_ttl).await {
                Ok(session) => {
                    backoff.reset();
                    let (connection, campaign) = (self.connection.clone(), self.campaign.clone());
                    let announce = announce(&connection, &campaign, session.lease, self.candidacy.clone());
                    tokio::select! {
                        never = announce => match never {},
                        () = session.keep() => {
                            tracing::warn!(lease = %session.lease, "etcd no longer knows the session, standing anew");
                        }
                        () = self.contend(&session) => {}
                    }
                    self.publish(Leadership::Seeking);
                }
                Err(error) => {
                    backoff.complain("no session for the election", &error);
                    backoff.pause().await;
                }
            }
        }
    }

    /// Stands with one session; returns when the leader key was ours and is no longer.
    async fn contend(&mut self, session: &Session) {
        let mut proven = session.proven();
        let mut backoff = Backoff::new();
        let mut fence = None;
        let mut removed = false;
        loop {
            let look = tokio::select! {
                biased;
                // Etcd may hang for as long as a call lasts, and nobody may believe in us for longer than the session.
                () = until_unproven(&mut proven), if self.leads() => {
                    self.publish(Leadership::Seeking);
                    continue;
                }
                look = self.look_and_claim(session.lease, fence.is_some()) => look,
            };
            match look {
                Ok(Look::Ours { fence: held, seen }) => {
                    backoff.reset();
                    self.led_at = held.create_revision;
                    if *proven.borrow_and_update() {
                        self.publish(Leadership::Leading(held.clone()));
                    }
                    fence = Some(held);
                    let mut candidacy = self.candidacy.clone();
                    tokio::select! {
                        biased;
                        () = until_yielding(&mut candidacy, true) => {
                            tracing::warn!(
                                key = %self.campaign.leader_key,
                                "this replica's view of Kubernetes is stale and another candidate's is not: giving the lead back"
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
                Ok(look) if fence.is_some() => {
                    self.publish(Leadership::Seeking);
                    if let Look::Stale { .. } = look {
                        tracing::warn!("the leader key was overwritten by hand, or etcd was restored");
                    } else {
                        tracing::warn!("the leader key is no longer ours");
                        // One that went with its session was taken by nobody.
                        if !matches!(self.connection.lease(session.lease, false).await, Ok(None)) {
                            sleep(GIVE_WAY).await;
                        }
                        sleep(jitter(CLAIM_JITTER)).await;
                    }
                    return;
                }
                Ok(Look::Theirs(theirs)) => {
                    backoff.reset();
                    self.stand_behind(theirs, session, &mut proven, &mut backoff).await;
                }
                Ok(Look::LeftToOthers { seen }) => {
                    backoff.reset();
                    self.publish(Leadership::Seeking);
                    let mut candidacy = self.candidacy.clone();
                    tokio::select! {
                        () = until_yielding(&mut candidacy, false) => {}
                        () = self.watch_key(seen, session.ttl(), &mut proven) => {}
                    }
                }
                Ok(Look::Stale { mod_revision }) => match self.remove(mod_revision).await {
                    // Where something puts it back each time, not in a busy loop.
                    Ok(()) if removed => backoff.pause().await,
                    Ok(()) => removed = true,
                    Err(error) => {
                        backoff.complain("cannot remove a stale leader key", &error);
                        backoff.pause().await;
                    }
                },
                // Taken and lost again between two requests.
                Ok(Look::Free) => {}
                Err(error) => {
                    backoff.complain("cannot look at the leader key", &error);
                    // Leading goes on while the session is proven: writes are fenced either way.
                    backoff.pause().await;
                }
            }
        }
    }

    /// Stands by for a leader until its key may have changed, or it is known to be gone: then its key is removed.
    async fn stand_behind(
        &mut self,
        theirs: Theirs,
        session: &Session,
        proven: &mut watch::Receiver<bool>,
        backoff: &mut Backoff,
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
        let (mut presences, mut candidacy) = (self.presences.clone(), self.candidacy.clone());
        let over = until_over(followed.as_mut().map(|(_, term)| term), &mut presences, &mut candidacy);
        let over = tokio::select! {
            () = self.watch_key(seen, session.ttl(), proven) => None,
            why = over => Some(why),
        };
        self.term = followed;
        // Several candidates have seen the same.
        sleep(jitter(CLAIM_JITTER)).await;
        if let Some(why) = over {
            tracing::warn!(leader, why, "the leader is no longer there; standing in its place");
            if let Err(error) = self.remove(mod_revision).await {
                backoff.complain(
                    "cannot remove the leader key of a leader that is no longer there",
                    &error,
                );
                backoff.pause().await;
            }
        }
    }

    /// Reads the leader key; if it is free and was not ours, claims it.
    async fn look_and_claim(&mut self, lease: LeaseId, leads: bool) -> Result<Look> {
        let (held, seen) = self.connection.get(&self.campaign.leader_key).await?;
        match held {
            Some(held) => Ok(self.judge(&held, seen, lease)),
            None if leads => Ok(Look::Free),
            None if self.candidacy.borrow().yields => Ok(Look::LeftToOthers { seen }),
            None => self.claim(lease).await,
        }
    }

    async fn claim(&mut self, lease: LeaseId) -> Result<Look> {
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
            return Ok(Look::Ours { fence, seen: revision });
        }
        Ok(match holder("campaign", answer.0.responses)? {
            Some(held) => self.judge(&held, revision, lease),
            None => Look::Free,
        })
    }

    fn judge(&mut self, held: &KeyValue, seen: Revision, lease: LeaseId) -> Look {
        if held.lease == lease {
            let fence = Fence {
                key: self.campaign.leader_key.clone(),
                create_revision: held.create_revision,
                lease,
            };
            return Look::Ours { fence, seen };
        }
        let stale = Look::Stale {
            mod_revision: held.mod_revision,
        };
        if held.lease == LeaseId::NONE {
            tracing::warn!(key = %self.campaign.leader_key, "the leader key is on no lease and would stay for ever");
            return stale;
        }
        let Ok(other) = serde_json::from_slice::<Holder>(&held.value) else {
            if let Some(version) = newer_version(&held.value) {
                // Who leads cannot be read, only that a newer release does.
                let leader = format!("a newer release (record version {version})");
                return Look::Theirs(Theirs {
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
                "the leader key holds no leader record and is removed: let nothing but leasehold write below the metaPrefix"
            );
            return stale;
        };
        if other.incarnation == self.me.incarnation {
            // Put by us on a session that we have given up.
            return stale;
        }
        if other.identity == self.me.identity {
            if held.create_revision < self.led_at {
                // One from before our own time, which can only be back because etcd was restored.
                tracing::info!(identity = %other.identity, "an earlier process of the same name is back with etcd's past");
                return stale;
            }
            if self.led_at == 0 && !self.replaced {
                tracing::info!(identity = %other.identity, "taking over from an earlier process of the same name");
                return stale;
            }
            if !self.replaced {
                tracing::error!(
                    identity = %other.identity, mine = %self.me.incarnation, theirs = %other.incarnation,
                    "another live process has this identity and leads; standing by: give each replica its own name"
                );
                // For good: two that remove each other's key would never end.
                self.replaced = true;
            }
        }
        Look::Theirs(Theirs {
            term: other.term(),
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

    /// Returns when the leader key may have changed since `seen`: it has, or the watch failed, or the session is no
    /// longer proven or is proven again, or `at_most` has passed, in case a watch starves in silence.
    async fn watch_key(&self, seen: Revision, at_most: Duration, proven: &mut watch::Receiver<bool>) {
        let mut moves = self.connection.moves();
        tokio::select! {
            _ = proven.changed() => {}
            () = moves.moved() => {}
            () = self.until_changed(seen, at_most) => {}
            () = sleep(at_most) => {}
        }
    }

    async fn until_changed(&self, seen: Revision, at_most: Duration) {
        let (index, endpoint) = self.connection.endpoint(0);
        let kind = Call {
            name: "watch",
            patience: self.connection.timeouts().request.min(at_most / 3),
            refused: |_| false,
            hedged: false,
        };
        let key = &*self.campaign.leader_key;
        let open = |endpoint: &Endpoint| {
            let mut client = endpoint.watch.clone();
            let options = WatchOptions::new().with_start_revision(seen + 1);
            async move { client.watch(key, Some(options)).await }
        };
        let mut stream = match self.connection.attempt(&kind, &endpoint, kind.patience, open).await {
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
                () = endpoint.given_up.cancelled() => return,
            };
            match message {
                Ok(Some(message)) if message.created() && !message.canceled() => {}
                _ => return,
            }
        }
    }

    /// Removes the leader key and this candidate's record, so that the others need not wait for the session's end.
    async fn leave(&self) {
        self.resign().await;
        let key = &*self.campaign.candidate_key;
        let remove = |fresh| {
            let ours = Compare::value(key, CompareOp::Equal, self.campaign.record(fresh));
            Txn::new().when([ours]).and_then([TxnOp::delete(key, None)])
        };
        let request = remove(true).or_else([TxnOp::txn(remove(false))]);
        if let Ok(Err(error)) = timeout(RESIGN, self.txn("leave", request)).await {
            tracing::debug!(%error, "cannot remove this candidate's record: it stays until the session ends");
        }
    }

    /// Removes the leader key if it is ours; by its value, which no other process puts, so that a claim that was still
    /// on its way when the end came is undone too. Returns whether it is known not to be ours any more.
    async fn resign(&self) -> bool {
        self.publish(Leadership::Seeking);
        let key = &*self.campaign.leader_key;
        let request = Txn::new()
            .when([Compare::value(key, CompareOp::Equal, &*self.value)])
            .and_then([TxnOp::delete(key, None)]);
        match timeout(RESIGN, self.txn("resign", request)).await {
            Ok(Ok(answer)) => {
                if answer.succeeded() {
                    tracing::info!(%key, "resigned");
                }
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot resign: the leader key stays until the session ends");
                false
            }
            Err(_) => {
                tracing::warn!("cannot resign in time: the leader key stays until the session ends");
                false
            }
        }
    }
}
