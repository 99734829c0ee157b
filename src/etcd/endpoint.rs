//! One member of an etcd cluster, and being logged in there.
//!
//! The etcd client can log in by itself, but only while it connects, which would make an etcd that is down an error; and
//! it renews a token on some of the answers that call for it only. So it is told here when to. Tokens are taken per
//! member: one that another member gave may not be known to this one yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, WatchClient};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::access::{Access, User};
use super::connection::Timeouts;
use super::error::{Error, Result};
use super::suitability::{EndpointFault, Look, Suitability};
use super::web;

/// HTTP/2 pings notice a dead peer. etcd drops clients that ping more often than every 5 s, hence a little more,
/// and those that ping while no request is open, hence never while idle.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// etcd bounds requests (1.5 MiB), not answers: 4 MiB, the gRPC default, is less than a page of fat values.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const CALL: &str = "authenticate";
/// After a refused login the next one waits for so long: checking a password is work for etcd, by design.
const LOGIN_AGAIN: Duration = Duration::from_secs(1);

/// What is known of an endpoint, kept when its connections are replaced.
pub(super) type Known = Arc<Lock<Suitability>>;

/// Before an endpoint that no etcd has answered at is asked in plain HTTP.
const FOREIGN: Duration = Duration::from_millis(200);

/// The clients of one endpoint, with the connections that they share. Its own choice of endpoints is why there is one
/// each: the crate's balancer picks at random and hands a failed connect to whoever calls next.
pub(super) struct Endpoint {
    pub(super) url: String,
    known: Known,
    /// Set off when these connections are no longer used: requests and streams on them are to be repeated elsewhere.
    pub(super) given_up: CancellationToken,
    /// When anything was last received over these connections.
    heard: Lock<Instant>,
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) maintenance: MaintenanceClient,
    /// For streams, which a member without a leader ends: else they would starve silently on a cut-off member.
    pub(super) watch: WatchClient,
    /// For keepalive streams, likewise.
    pub(super) keep_alive: LeaseClient,
    /// Over the connection of the streams.
    streams: MaintenanceClient,
    /// Shares its token with the clients above.
    client: Client,
    user: Option<User>,
    login: Arc<Mutex<Login>>,
    /// For a login.
    patience: Duration,
    /// Whether etcd said that it asks nobody who they are.
    pub(super) is_open_to_all: Arc<AtomicBool>,
}

/// A number for each login, so that one that went stale is renewed once, whoever notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

#[derive(Default)]
struct Login {
    /// How many there have been; 0 before the first.
    count: u64,
    /// When one was refused, and why, if no other has succeeded since.
    refused: Option<(Instant, Error)>,
}

impl Endpoint {
    /// Nothing is sent yet.
    pub(super) async fn new(url: &str, access: &Access, timeouts: &Timeouts, known: Known) -> Result<Self> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(timeouts.connect)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false);
        if let Some(tls) = access.tls.as_ref().filter(|_| url.starts_with("https://")) {
            options = options.with_tls(tls.options());
        }
        let streaming = options.clone().with_require_leader(true);
        let connect = async |options| {
            // Without a user this waits for nothing: connections are made on first use.
            Client::connect([url], Some(options))
                .await
                .map_err(|error| Error::InvalidEndpoint {
                    endpoint: url.to_owned(),
                    cause: error.to_string(),
                })
        };
        let (calls, streams) = (connect(options).await?, connect(streaming).await?);
        // A token belongs to a client, and a login costs etcd a good part of a second of computing: so whoever has to log
        // in does all with one client, also asking for the status, which most releases tell users only.
        let asks = if access.user.is_some() { &streams } else { &calls };
        Ok(Self {
            url: url.to_owned(),
            known,
            given_up: CancellationToken::new(),
            heard: Lock::new(Instant::now()),
            kv: asks.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            lease: asks.lease_client(),
            maintenance: asks.maintenance_client(),
            watch: streams.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            keep_alive: streams.lease_client(),
            streams: streams.maintenance_client(),
            client: streams,
            user: access.user.clone(),
            login: Arc::default(),
            patience: timeouts.request,
            is_open_to_all: Arc::default(),
        })
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Suitability> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_of(&self, known: &Known) -> bool {
        Arc::ptr_eq(&self.known, known)
    }

    /// Something was received.
    pub(super) fn hears(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether anything was received since `then`.
    pub(super) fn heard_since(&self, then: Instant) -> bool {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) >= then
    }

    /// What the member says of itself, asked for over both connections, so that an answer proves both. A login is made only
    /// where it takes one to find out whether a fault is over.
    pub(super) async fn look(&self) -> Result<Look> {
        match self.ask().await {
            Err(error) if error.wants_login() && self.known().fault().is_some() => {
                let Some(entry) = self.enter().await? else {
                    return Err(error);
                };
                match self.ask().await {
                    Err(error) if error.wants_login() => {
                        self.enter_anew(entry).await?;
                        self.ask().await
                    }
                    answer => answer,
                }
            }
            answer => answer,
        }
    }

    /// Asks, and finds out what listens there if no etcd ever has: a web server lets calls wait as often as not.
    async fn ask(&self) -> Result<Look> {
        if self.known().cluster().is_some() {
            return self.ask_etcd().await;
        }
        let foreign = async {
            sleep(FOREIGN).await;
            match self.foreign().await {
                Some(error) => error,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = self.ask_etcd() => answer,
            error = foreign => Err(error),
        }
    }

    /// Asks what listens there in plain HTTP; none if that is no other server than etcd.
    pub(super) async fn foreign(&self) -> Option<Error> {
        let answer = web::answer(&self.url).await?;
        Some(Error::Endpoint {
            endpoint: self.url.clone(),
            fault: EndpointFault::NoEtcd { answer },
        })
    }

    async fn ask_etcd(&self) -> Result<Look> {
        let (mut calls, mut streams) = (self.maintenance.clone(), self.streams.clone());
        let (status, of_streams) = tokio::join!(calls.status(), streams.status());
        let sort = |error| Error::sort("status", &self.url, &error);
        let status = match status.map_err(sort) {
            Err(error @ Error::Unreachable { .. }) if !error.is_no_leader() => {
                return Err(self.foreign().await.unwrap_or(error));
            }
            status => status?,
        };
        // The streams' connection is refused where there is no leader; the status says the same.
        if let Err(error) = of_streams.map_err(sort)
            && !error.is_no_leader()
        {
            return Err(error);
        }
        let header = status.header().ok_or_else(|| Error::malformed("status", "no header"))?;
        Ok(Look {
            cluster: header.cluster_id(),
            is_learner: status.is_learner(),
            has_leader: status.leader() != 0,
            is_corrupt: status.errors().iter().any(|error| error.contains("CORRUPT")),
        })
    }

    /// The member's cluster, for those releases that tell their status to administrators only: none if it does not say.
    pub(super) async fn cluster(&self) -> Result<Option<u64>> {
        // Whether there is such a lease does not matter.
        let answer = self.lease.clone().time_to_live(1, None).await;
        match answer.map_err(|error| Error::sort("lease", &self.url, &error)) {
            Ok(answer) => Ok(answer.header().map(etcd_client::ResponseHeader::cluster_id)),
            Err(error) if error.is_connection() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Logs in unless that has been done; none if nobody asks for it.
    pub(super) async fn enter(&self) -> Result<Option<Entry>> {
        let Some(user) = &self.user else { return Ok(None) };
        let login = self.login.clone().lock_owned().await;
        let count = match login.count {
            0 => self.log_in(user, login).await?,
            count => count,
        };
        Ok(Some(Entry(count)))
    }

    /// Logs in anew, unless somebody else has since `stale`.
    pub(super) async fn enter_anew(&self, stale: Entry) -> Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        let login = self.login.clone().lock_owned().await;
        if Entry(login.count) == stale {
            self.log_in(user, login).await?;
        }
        Ok(())
    }

    /// Goes on although nobody may wait for it any more: a login takes longer than some who need it are patient.
    async fn log_in(&self, user: &User, mut login: OwnedMutexGuard<Login>) -> Result<u64> {
        if let Some((at, error)) = &login.refused
            && at.elapsed() < LOGIN_AGAIN
        {
            return Err(error.clone());
        }
        let (user, url, patience) = (user.clone(), self.url.clone(), self.patience);
        let (mut client, is_open_to_all) = (self.client.clone(), self.is_open_to_all.clone());
        let task = tokio::spawn(async move {
            let name_and_password = (user.name.reveal().to_owned(), user.password.reveal().to_owned());
            let Ok(answer) = timeout(patience, client.update_user(Some(name_and_password))).await else {
                return Err(Error::Timeout {
                    endpoints: url,
                    call: CALL,
                    after: patience,
                });
            };
            match answer.map_err(|error| Error::sort(CALL, &url, &error)) {
                Ok(()) => is_open_to_all.store(false, Ordering::Relaxed),
                // Then it lets everybody in, us too.
                Err(error) if error.is_auth_disabled() => is_open_to_all.store(true, Ordering::Relaxed),
                Err(error) => {
                    if !error.is_connection() {
                        login.refused = Some((Instant::now(), error.clone()));
                    }
                    return Err(error);
                }
            }
            login.count += 1;
            login.refused = None;
            Ok(login.count)
        });
        task.await.unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process is ending.
            Err(_) => Err(Error::Unreachable {
                endpoints: self.url.clone(),
                cause: "the login was given up".to_owned(),
            }),
        })
    }
}
