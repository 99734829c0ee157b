//! One member of an etcd cluster, its connections and its login.
//!
//! The etcd client can log in by itself, but only while it connects, which would make an etcd that is down an error. It
//! also renews a token after only some of the answers that require it. So this module triggers each login. A token is
//! taken per member, because a member may not know a token of another member yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, WatchClient};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::suitability::{EndpointFault, MemberStatus, Suitability};
use super::web;
use crate::backend::{Access, Timeouts, User};

/// HTTP/2 pings detect a dead peer. etcd disconnects clients that ping more often than every 5 s, hence a slightly
/// longer interval. It also disconnects clients that ping while no request is open, hence no pings while idle.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// Time-out of a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// etcd limits requests (1.5 MiB), not answers. A page of large values exceeds 4 MiB, the gRPC default.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const CALL: &str = "authenticate";
/// For this time after a refused login, further logins return the same error without asking etcd: checking a password
/// is expensive by design.
const LOGIN_AGAIN: Duration = Duration::from_secs(1);

/// The state of an endpoint. Kept when its connections are replaced.
pub(super) type Known = Arc<Lock<Suitability>>;

/// Delay before an endpoint at which no etcd has answered yet is also asked in plain HTTP.
const FOREIGN: Duration = Duration::from_millis(200);

/// The clients of one endpoint and their shared connections. Each endpoint has its own clients, because the crate's
/// balancer picks endpoints at random and reports a failed connect to whichever call is next.
pub(super) struct Endpoint {
    pub(super) url: String,
    known: Known,
    /// Cancelled when these connections are no longer used. Their requests and streams must be repeated on others.
    pub(super) retired: CancellationToken,
    /// When data was last received over these connections.
    last_received: Lock<Instant>,
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) maintenance: MaintenanceClient,
    /// For streams. A member without a leader ends them; otherwise they would starve silently on an isolated member.
    pub(super) watch: WatchClient,
    /// For keepalive streams, with the same property.
    pub(super) keep_alive: LeaseClient,
    /// Uses the connection of the streams.
    streams: MaintenanceClient,
    /// Shares its token with the clients of the streams, and with a configured user with all clients above.
    client: Client,
    user: Option<User>,
    login: Arc<Mutex<Login>>,
    /// Time-out of a login.
    request_timeout: Duration,
    /// Whether etcd reported that its authentication is off.
    pub(super) is_open_to_all: Arc<AtomicBool>,
}

/// The number of a login. Ensures that an expired login is renewed once, even if several requests notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

#[derive(Default)]
struct Login {
    /// The number of successful logins; 0 before the first.
    count: u64,
    /// The time and error of a refused login, unless a later login succeeded.
    refused: Option<(Instant, Error)>,
}

impl Endpoint {
    /// Prepares the clients. Sends nothing yet.
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
            // Without a user this does not wait: connections are made on first use.
            Client::connect([url], Some(options))
                .await
                .map_err(|error| Error::InvalidEndpoint {
                    endpoint: url.to_owned(),
                    cause: error.to_string(),
                })
        };
        let (calls, streams) = (connect(options).await?, connect(streaming).await?);
        // A token belongs to a client, and a login costs etcd a good part of a second of CPU time. So an access with a
        // user makes all calls with one client, including the status, which most releases report only to authenticated
        // users.
        let asks = if access.user.is_some() { &streams } else { &calls };
        Ok(Self {
            url: url.to_owned(),
            known,
            retired: CancellationToken::new(),
            last_received: Lock::new(Instant::now()),
            kv: asks.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            lease: asks.lease_client(),
            maintenance: asks.maintenance_client(),
            watch: streams.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            keep_alive: streams.lease_client(),
            streams: streams.maintenance_client(),
            client: streams,
            user: access.user.clone(),
            login: Arc::default(),
            request_timeout: timeouts.request,
            is_open_to_all: Arc::default(),
        })
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Suitability> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_of(&self, known: &Known) -> bool {
        Arc::ptr_eq(&self.known, known)
    }

    pub(super) fn record_receipt(&self) {
        *self.last_received.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn received_since(&self, then: Instant) -> bool {
        *self.last_received.lock().unwrap_or_else(PoisonError::into_inner) >= then
    }

    /// Asks the member for its state over both connections, so that an answer proves both. Logs in only if the endpoint
    /// has a fault and the check needs a login.
    pub(super) async fn probe(&self) -> Result<MemberStatus> {
        match self.ask().await {
            Err(error) if error.wants_login() && self.known().fault().is_some() => {
                let Some(entry) = self.ensure_logged_in().await? else {
                    return Err(error);
                };
                match self.ask().await {
                    Err(error) if error.wants_login() => {
                        self.log_in_again(entry).await?;
                        self.ask().await
                    }
                    answer => answer,
                }
            }
            answer => answer,
        }
    }

    /// Asks for the status. If no etcd ever answered here, also checks for a web server, because a web server often
    /// leaves gRPC calls unanswered.
    async fn ask(&self) -> Result<MemberStatus> {
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

    /// Asks in plain HTTP; `None` unless a server other than etcd answers.
    pub(super) async fn foreign(&self) -> Option<Error> {
        let answer = web::answer(&self.url).await?;
        Some(Error::Endpoint {
            endpoint: self.url.clone(),
            fault: EndpointFault::NoEtcd { answer },
        })
    }

    async fn ask_etcd(&self) -> Result<MemberStatus> {
        let (mut calls, mut streams) = (self.maintenance.clone(), self.streams.clone());
        let (status, of_streams) = tokio::join!(calls.status(), streams.status());
        let sort = |error| Error::sort("status", &self.url, &error);
        let status = match status.map_err(sort) {
            Err(error @ Error::Unreachable { .. }) if !error.is_no_leader() => {
                return Err(self.foreign().await.unwrap_or(error));
            }
            status => status?,
        };
        // The streams' connection is refused if there is no leader; the status reports the same.
        if let Err(error) = of_streams.map_err(sort)
            && !error.is_no_leader()
        {
            return Err(error);
        }
        let header = status.header().ok_or_else(|| Error::malformed("status", "no header"))?;
        Ok(MemberStatus {
            cluster: header.cluster_id(),
            is_learner: status.is_learner(),
            has_leader: status.leader() != 0,
            is_corrupt: status.errors().iter().any(|error| error.contains("CORRUPT")),
        })
    }

    /// Returns the member's cluster id for releases that report their status only to administrators; `None` if the
    /// member does not answer with it.
    pub(super) async fn cluster(&self) -> Result<Option<u64>> {
        // The lease need not exist.
        let answer = self.lease.clone().time_to_live(1, None).await;
        match answer.map_err(|error| Error::sort("lease", &self.url, &error)) {
            Ok(answer) => Ok(answer.header().map(etcd_client::ResponseHeader::cluster_id)),
            Err(error) if error.is_connection() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Logs in unless already logged in; `None` if no user is configured.
    pub(super) async fn ensure_logged_in(&self) -> Result<Option<Entry>> {
        let Some(user) = &self.user else { return Ok(None) };
        let login = self.login.clone().lock_owned().await;
        let count = match login.count {
            0 => self.log_in(user, login).await?,
            count => count,
        };
        Ok(Some(Entry(count)))
    }

    /// Logs in again, unless another task has done so since `stale`.
    pub(super) async fn log_in_again(&self, stale: Entry) -> Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        let login = self.login.clone().lock_owned().await;
        if Entry(login.count) == stale {
            self.log_in(user, login).await?;
        }
        Ok(())
    }

    /// Logs in, in a task that continues if the caller stops waiting: a login takes longer than the time-out of some
    /// callers.
    async fn log_in(&self, user: &User, mut login: OwnedMutexGuard<Login>) -> Result<u64> {
        if let Some((at, error)) = &login.refused
            && at.elapsed() < LOGIN_AGAIN
        {
            return Err(error.clone());
        }
        let (user, url, request_timeout) = (user.clone(), self.url.clone(), self.request_timeout);
        let (mut client, is_open_to_all) = (self.client.clone(), self.is_open_to_all.clone());
        let task = tokio::spawn(async move {
            let name_and_password = (user.name.reveal().to_owned(), user.password.reveal().to_owned());
            let Ok(answer) = timeout(request_timeout, client.update_user(Some(name_and_password))).await else {
                return Err(Error::Timeout {
                    endpoints: url,
                    call: CALL,
                    after: request_timeout,
                });
            };
            match answer.map_err(|error| Error::sort(CALL, &url, &error)) {
                Ok(()) => is_open_to_all.store(false, Ordering::Relaxed),
                // etcd then accepts every client, including this one.
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
                cause: "the login was cancelled".to_owned(),
            }),
        })
    }
}
