//! The way to one etcd cluster: which endpoint is asked, how long it may take, what is tried next.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::access::Access;
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use crate::telemetry::{Calls, Outcome, Peer};

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

/// After how long a request is sent to another endpoint as well, doubled each time. A member that hangs is known to only
/// much later, and one that passed the request on to a leader that has died waits in vain although there is another
/// leader by then.
const HEDGE: Duration = Duration::from_secs(1);
/// All endpoints of an etcd, entered in one way.
struct Way {
    endpoints: Vec<Arc<Endpoint>>,
    /// Index of the endpoint that answered last.
    preferred: AtomicUsize,
    access: Access,
}

impl Way {
    async fn new(access: &Access, timeouts: &Timeouts) -> Result<Arc<Self>> {
        let invalid = |cause: String| Error::InvalidEndpoint {
            endpoint: access.endpoints.join(", "),
            cause,
        };
        if access.endpoints.is_empty() {
            return Err(invalid("no endpoint is given".to_owned()));
        }
        if let Some(tls) = &access.tls {
            tls.check().map_err(|malformed| invalid(malformed.to_string()))?;
        }
        let mut endpoints = Vec::with_capacity(access.endpoints.len());
        for url in &access.endpoints {
            endpoints.push(Arc::new(Endpoint::new(url, access, timeouts).await?));
        }
        Ok(Arc::new(Self {
            endpoints,
            preferred: AtomicUsize::new(0),
            access: access.clone(),
        }))
    }
}

struct Shared {
    way: watch::Sender<Arc<Way>>,
    timeouts: Timeouts,
    calls: Calls,
}

/// Tells a stream that it is on a way that is used no more.
pub(super) struct Moves(watch::Receiver<Arc<Way>>);

impl Moves {
    /// Returns once another way is used. May be dropped at any time.
    pub(super) async fn moved(&mut self) {
        if self.0.changed().await.is_err() {
            // The connection is gone, and with it all that could move.
            std::future::pending::<()>().await;
        }
    }
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
        let way = Way::new(access, &timeouts).await?;
        Ok(Self::on(way, timeouts, calls))
    }

    fn on(way: Arc<Way>, timeouts: Timeouts, calls: Calls) -> Self {
        let way = watch::Sender::new(way);
        let shared = Arc::new(Shared { way, timeouts, calls });
        Self { shared }
    }

    /// A connection of its own on another way in.
    pub(super) async fn beside(&self, access: &Access) -> Result<Self> {
        let way = Way::new(access, &self.shared.timeouts).await?;
        Ok(Self::on(way, self.shared.timeouts, self.shared.calls.clone()))
    }

    /// From now on every call and every stream of every clone goes the way of `other`.
    pub(super) fn go_over(&self, other: &Self) {
        self.shared.way.send_replace(other.way());
    }

    /// Prefers this endpoint.
    pub(super) fn prefer(&self, index: usize) {
        self.way().preferred.store(index, Ordering::Relaxed);
    }

    /// Endpoints that are another cluster than is wanted.
    pub(super) fn other_cluster(&self, found: u64, wanted: Option<u64>) -> Error {
        Error::OtherCluster {
            endpoints: self.endpoints(),
            found,
            wanted,
        }
    }

    /// The way in that is used now.
    pub fn access(&self) -> Access {
        self.shared.way.borrow().access.clone()
    }

    /// Whether etcd lets everybody in although we have a user: its authentication is off.
    pub fn is_open_to_all(&self) -> bool {
        let way = self.way();
        way.endpoints
            .iter()
            .any(|one| one.is_open_to_all.load(Ordering::Relaxed))
    }

    /// Finds out what is behind an error that says only that the connection failed, where that can be.
    pub async fn explain(&self, error: Error) -> Error {
        let way = self.way();
        let Some(tls) = way.access.tls.as_ref().filter(|_| error.is_connection()) else {
            return error;
        };
        for url in way.access.endpoints.iter().filter(|url| url.starts_with("https://")) {
            if let Some(fault) = tls.diagnose(url, self.shared.timeouts.connect).await {
                return Error::tls(url, fault);
            }
        }
        error
    }

    fn way(&self) -> Arc<Way> {
        self.shared.way.borrow().clone()
    }

    /// To be asked for before a stream is opened: tells when it has to be opened anew.
    pub(super) fn moves(&self) -> Moves {
        Moves(self.shared.way.subscribe())
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.shared.timeouts
    }

    fn endpoints(&self) -> String {
        self.way().access.endpoints.join(", ")
    }

    /// The endpoint `offset` places after the preferred one, and its index.
    pub(super) fn endpoint(&self, offset: usize) -> (usize, Arc<Endpoint>) {
        let way = self.way();
        let index = (way.preferred.load(Ordering::Relaxed) + offset) % way.endpoints.len();
        (index, way.endpoints[index].clone())
    }

    /// All endpoints, in the order in which they were given.
    pub(super) fn all_endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.way().endpoints.clone()
    }

    /// Prefers the endpoint after `index`, unless another one is preferred already.
    pub(super) fn avoid(&self, index: usize) {
        let way = self.way();
        let next = (index + 1) % way.endpoints.len();
        // A lost race means that somebody else moved on: just as well.
        let _ = way
            .preferred
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn count(&self, call: &'static str, outcome: Outcome, elapsed: Duration) {
        self.shared.calls.observe(Peer::Etcd, call, outcome, elapsed);
    }

    /// One attempt at one endpoint, timed, counted and sorted; with another login if etcd no longer takes that we have.
    pub(super) async fn attempt<T, F, Fut>(
        &self,
        call: &Call<T>,
        endpoint: &Endpoint,
        patience: Duration,
        request: F,
    ) -> Result<T>
    where
        F: Fn(&Endpoint) -> Fut,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let started = Instant::now();
        let sort = |error| Error::sort(call.name, &endpoint.url, &error);
        let answer = async {
            let entry = endpoint.enter().await?;
            let answer = request(endpoint).await.map_err(sort);
            match (answer, entry) {
                (Err(error), Some(entry)) if error.wants_login() => {
                    endpoint.enter_anew(entry).await?;
                    request(endpoint).await.map_err(sort)
                }
                (answer, _) => answer,
            }
        };
        let (outcome, result) = match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) if (call.refused)(&answer) => (Outcome::Refused, Ok(answer)),
            Ok(Ok(answer)) => (Outcome::Ok, Ok(answer)),
            Ok(Err(error @ Error::Timeout { .. })) => (Outcome::Timeout, Err(error)),
            Ok(Err(error)) => (Outcome::Error, Err(error)),
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
    pub(super) async fn call<T, F, Fut>(&self, call: Call<T>, request: F) -> Result<T>
    where
        F: Fn(&Endpoint) -> Fut,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.shared.timeouts.call;
        let way = self.way();
        let count = way.endpoints.len();
        let first = way.preferred.load(Ordering::Relaxed);
        let ask = |offset: usize| {
            let index = (first + offset) % count;
            let endpoint = &way.endpoints[index];
            let patience = call.patience.min(deadline - Instant::now());
            let (call, request) = (&call, &request);
            async move { (offset, index, self.attempt(call, endpoint, patience, request).await) }
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
                            way.preferred.store(index, Ordering::Relaxed);
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
    pub(super) fn at_all(&self, error: Error) -> Error {
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
