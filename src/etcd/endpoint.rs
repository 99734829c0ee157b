//! One member of an etcd cluster, and being logged in there.
//!
//! The etcd client can log in by itself, but only while it connects, which would make an etcd that is down an error; and
//! it renews a token on some of the answers that call for it only. So it is told here when to. Tokens are taken per
//! member: one that another member gave may not be known to this one yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, WatchClient};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use super::access::{Access, User};
use super::connection::Timeouts;
use super::error::{Error, Result};

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

/// The clients of one endpoint. Its own choice of endpoints is why there is one each: the crate's balancer picks at
/// random and hands a failed connect to whoever calls next.
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) maintenance: MaintenanceClient,
    /// For streams, which a member without a leader ends: else they would starve silently on a cut-off member.
    pub(super) watch: WatchClient,
    /// For keepalive streams, likewise.
    pub(super) keep_alive: LeaseClient,
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
    pub(super) async fn new(url: &str, access: &Access, timeouts: &Timeouts) -> Result<Self> {
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
        // in does all with one client. What a member says of itself it says to everybody, with a leader or without.
        let asks = if access.user.is_some() { &streams } else { &calls };
        Ok(Self {
            url: url.to_owned(),
            kv: asks.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            lease: asks.lease_client(),
            maintenance: calls.maintenance_client(),
            watch: streams.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            keep_alive: streams.lease_client(),
            client: streams,
            user: access.user.clone(),
            login: Arc::default(),
            patience: timeouts.request,
            is_open_to_all: Arc::default(),
        })
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
