//! The way to one etcd cluster: which endpoint is asked, how long it may take, what is tried next.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, WatchClient};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::error::{Error, Result};
use crate::telemetry::{Calls, Outcome, Peer};

/// Where an etcd is and how it is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `http://host:port` of each member, or of something in front of them. The first is asked first.
    pub endpoints: Vec<String>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection to stand.
    pub connect: Duration,
    /// For one endpoint to answer one request. An etcd that changes its leader needs one to two seconds.
    pub request: Duration,
    /// For one call with all its attempts at other endpoints.
    pub call: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(5),
            call: Duration::from_secs(10),
        }
    }
}

/// HTTP/2 pings notice a dead peer. etcd drops clients that ping more often than every 5 s, hence a little more,
/// and those that ping while no request is open, hence never while idle.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// After how long a request is sent to another endpoint as well, doubled each time. A member that hangs is known to only
/// much later, and one that passed the request on to a leader that has died waits in vain although there is another
/// leader by then.
const HEDGE: Duration = Duration::from_secs(1);
/// etcd bounds requests (1.5 MiB), not answers: 4 MiB, the gRPC default, is less than a page of fat values.
const MAX_ANSWER_BYTES: usize = 64 << 20;

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
}

impl Endpoint {
    async fn new(url: &str, timeouts: &Timeouts) -> Result<Self> {
        let options = ConnectOptions::new()
            .with_connect_timeout(timeouts.connect)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false);
        let streaming = options.clone().with_require_leader(true);
        let connect = async |options| {
            // Without credentials this waits for nothing: connections are made on first use.
            Client::connect([url], Some(options))
                .await
                .map_err(|error| Error::InvalidEndpoint {
                    endpoint: url.to_owned(),
                    cause: error.to_string(),
                })
        };
        let (calls, streams) = (connect(options).await?, connect(streaming).await?);
        Ok(Self {
            url: url.to_owned(),
            kv: calls.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            lease: calls.lease_client(),
            maintenance: calls.maintenance_client(),
            watch: streams.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES),
            keep_alive: streams.lease_client(),
        })
    }
}

struct Shared {
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint that answered last.
    preferred: AtomicUsize,
    timeouts: Timeouts,
    calls: Calls,
}

/// A connection to one etcd cluster. Cloning is cheap. Every call has a time-out, is counted, and is repeated at the
/// other endpoints when the connection fails: all calls made here may safely happen twice, because writes are guarded
/// and lease ids are random.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.endpoints())
    }
}

/// One kind of call.
pub(super) struct Call<T> {
    /// Its name in metrics and messages.
    pub(super) name: &'static str,
    /// How long one endpoint has for it.
    pub(super) patience: Duration,
    /// Whether an answer means "no".
    pub(super) refused: fn(&T) -> bool,
    /// Whether another endpoint is asked, too, when the first takes long: not for what is long by nature.
    pub(super) hedged: bool,
}

impl Connection {
    /// Prepares the way to the etcd at `access`; nothing is sent yet, so an etcd that is down is no error here.
    pub async fn new(access: &Access, timeouts: Timeouts, calls: Calls) -> Result<Self> {
        if access.endpoints.is_empty() {
            return Err(Error::InvalidEndpoint {
                endpoint: String::new(),
                cause: "no endpoint is given".to_owned(),
            });
        }
        let mut endpoints = Vec::with_capacity(access.endpoints.len());
        for url in &access.endpoints {
            endpoints.push(Endpoint::new(url, &timeouts).await?);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                endpoints,
                preferred: AtomicUsize::new(0),
                timeouts,
                calls,
            }),
        })
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.shared.timeouts
    }

    fn endpoints(&self) -> String {
        let urls: Vec<_> = self.shared.endpoints.iter().map(|e| e.url.as_str()).collect();
        urls.join(", ")
    }

    /// The endpoint `offset` places after the preferred one, and its index.
    pub(super) fn endpoint(&self, offset: usize) -> (usize, &Endpoint) {
        let preferred = self.shared.preferred.load(Ordering::Relaxed);
        let index = (preferred + offset) % self.shared.endpoints.len();
        (index, &self.shared.endpoints[index])
    }

    /// How many there are.
    pub(super) fn endpoint_count(&self) -> usize {
        self.shared.endpoints.len()
    }

    /// The endpoint with that index.
    pub(super) fn endpoint_at(&self, index: usize) -> &Endpoint {
        &self.shared.endpoints[index]
    }

    /// Prefers the endpoint after `index`, unless another one is preferred already.
    pub(super) fn avoid(&self, index: usize) {
        let next = (index + 1) % self.shared.endpoints.len();
        // A lost race means that somebody else moved on: just as well.
        let _ = self
            .shared
            .preferred
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn count(&self, call: &'static str, outcome: Outcome, elapsed: Duration) {
        self.shared.calls.observe(Peer::Etcd, call, outcome, elapsed);
    }

    /// One attempt at one endpoint, timed, counted and sorted.
    pub(super) async fn attempt<T, F>(&self, call: &Call<T>, endpoint: &Endpoint, patience: Duration, f: F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let started = Instant::now();
        let (outcome, result) = match tokio::time::timeout(patience, f).await {
            Ok(Ok(answer)) if (call.refused)(&answer) => (Outcome::Refused, Ok(answer)),
            Ok(Ok(answer)) => (Outcome::Ok, Ok(answer)),
            Ok(Err(error)) => match Error::sort(call.name, &endpoint.url, &error) {
                error @ Error::Timeout { .. } => (Outcome::Timeout, Err(error)),
                error => (Outcome::Error, Err(error)),
            },
            Err(_) => {
                let error = Error::Timeout {
                    endpoints: endpoint.url.clone(),
                    call: call.name,
                    after: patience,
                };
                (Outcome::Timeout, Err(error))
            }
        };
        self.count(call.name, outcome, started.elapsed());
        result
    }

    /// Calls the preferred endpoint, then the others while the connection is what fails, then the first once more: a
    /// connection that broke while idle shows it by failing the next request on it. One that takes long is not waited
    /// for: the next is asked at the same time, and the first answer counts.
    pub(super) async fn call<'a, T, F, Fut>(&'a self, call: Call<T>, request: F) -> Result<T>
    where
        F: Fn(&'a Endpoint) -> Fut,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.shared.timeouts.call;
        let count = self.shared.endpoints.len();
        let first = self.shared.preferred.load(Ordering::Relaxed);
        let ask = |offset: usize| {
            let index = (first + offset) % count;
            let endpoint = &self.shared.endpoints[index];
            let patience = call.patience.min(deadline - Instant::now());
            let answer = request(endpoint);
            let call = &call;
            async move { (offset, index, self.attempt(call, endpoint, patience, answer).await) }
        };
        let mut attempts = FuturesUnordered::from_iter([ask(0)]);
        let (mut asked, mut failed) = (1, 0);
        let mut patience = HEDGE;
        let mut impatient_at = Instant::now() + patience;
        loop {
            let error = tokio::select! {
                biased;
                Some((offset, index, answer)) = attempts.next() => match answer {
                    Ok(answer) => {
                        if offset > 0 {
                            self.shared.preferred.store(index, Ordering::Relaxed);
                        }
                        return Ok(answer);
                    }
                    Err(error) if !error.is_connection() => return Err(error),
                    Err(error) => Some(error),
                },
                () = sleep_until(impatient_at), if call.hedged && count > 1 && impatient_at < deadline => None,
            };
            if let Some(error) = error {
                failed += 1;
                if failed > count || Instant::now() >= deadline {
                    if attempts.is_empty() {
                        return Err(self.at_all(error));
                    }
                    continue;
                }
                tracing::debug!(%error, "trying another endpoint");
            } else {
                tracing::debug!(call = call.name, "no answer yet, asking another endpoint too");
                // An etcd that is slow as a whole is not to be buried.
                patience *= 2;
            }
            attempts.push(ask(asked));
            asked += 1;
            impatient_at = Instant::now() + patience;
        }
    }

    /// The same failure, said of all endpoints.
    fn at_all(&self, error: Error) -> Error {
        match error {
            Error::Unreachable { cause, .. } => Error::Unreachable {
                endpoints: self.endpoints(),
                cause,
            },
            Error::Timeout { call, after, .. } => Error::Timeout {
                endpoints: self.endpoints(),
                call,
                after,
            },
            error => error,
        }
    }
}
