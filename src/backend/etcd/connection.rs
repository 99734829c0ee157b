//! Sends calls to one etcd cluster: chooses the endpoint, limits the time, and retries at other endpoints. Owns the set
//! of endpoints in use and the id of the cluster in use.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{
    GetResponse, LeaseGrantResponse, LeaseTimeToLiveResponse, ResponseHeader, StatusResponse, TxnResponse,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::endpoint::{Endpoint, Known};
use super::error::{Error, Result};
use super::pulse;
use super::suitability::{self, EndpointFault, MemberStatus, Suitability};
use crate::backend::{Access, Timeouts};
use crate::telemetry::{Calls, Outcome, Peer};

/// Delay before a request is also sent to another endpoint; doubled after each such hedge. The endpoint probes detect a
/// hanging member only later. A member that forwarded the request to a dead leader does not answer, although etcd may
/// have a new leader by then.
pub(super) const HEDGE: Duration = Duration::from_secs(1);
/// How long after the last answer an endpoint's cluster id is trusted without another check.
const RECENT: Duration = Duration::from_secs(3);
/// Cause of the error when a request's connection was replaced.
pub(super) const RETIRED: &str = "the connection is no longer used";
/// Longest wait for the endpoints of a new access to report their cluster ids, counted from the first use.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(3);

/// The endpoints of one [`Access`].
pub(super) struct EndpointSet {
    slots: Vec<EndpointSlot>,
    /// Index of the endpoint that is asked first: the last one that answered, unless [`Connection::avoid`] moved on.
    preferred: AtomicUsize,
    access: Access,
    /// The time of the first use.
    opened: OnceLock<Instant>,
}

/// One endpoint. Its connections may be replaced.
struct EndpointSlot {
    current: Mutex<Arc<Endpoint>>,
    known: Known,
}

impl EndpointSlot {
    fn current(&self) -> Arc<Endpoint> {
        lock(&self.current).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EndpointSet {
    /// Replaces the connections `old` by `fresh`, and aborts the requests and streams on `old`.
    pub(super) fn install(&self, index: usize, old: &Arc<Endpoint>, fresh: Arc<Endpoint>) {
        let mut current = lock(&self.slots[index].current);
        if Arc::ptr_eq(&current, old) {
            *current = fresh;
        }
        drop(current);
        old.retired.cancel();
    }

    /// Prepares new connections to the endpoint at `index`.
    pub(super) async fn reconnect(&self, index: usize, timeouts: &Timeouts) -> Result<Endpoint> {
        let known = self.slots[index].known.clone();
        Endpoint::new(&self.access.endpoints[index], &self.access, timeouts, known).await
    }

    async fn new(access: &Access, timeouts: &Timeouts) -> Result<Arc<Self>> {
        let invalid = |cause: String| Error::InvalidEndpoint {
            endpoint: access.endpoints.join(", "),
            cause,
        };
        if access.endpoints.is_empty() {
            return Err(invalid("no endpoint is configured".to_owned()));
        }
        if let Some(tls) = &access.tls {
            tls.check().map_err(|malformed| invalid(malformed.to_string()))?;
        }
        let mut slots = Vec::with_capacity(access.endpoints.len());
        for url in &access.endpoints {
            let known = Known::default();
            let endpoint = Endpoint::new(url, access, timeouts, known.clone()).await?;
            slots.push(EndpointSlot {
                current: Mutex::new(Arc::new(endpoint)),
                known,
            });
        }
        Ok(Arc::new(Self {
            slots,
            preferred: AtomicUsize::new(0),
            access: access.clone(),
            opened: OnceLock::new(),
        }))
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Returns the endpoint at `index` with its current connections.
    pub(super) fn endpoint(&self, index: usize) -> Arc<Endpoint> {
        self.slots[index].current()
    }

    pub(super) fn is_preferred(&self, index: usize) -> bool {
        self.preferred.load(Ordering::Relaxed) == index
    }

    fn known(&self) -> Vec<Suitability> {
        self.slots.iter().map(|slot| lock(&slot.known).clone()).collect()
    }

    /// Returns the order in which endpoints are asked, starting at `first`, and the number of endpoints without a
    /// fault.
    fn order(&self, first: usize) -> (Vec<usize>, usize) {
        let known = self.known();
        let usable = known.iter().filter(|known| known.fault().is_none()).count();
        (suitability::order(known.iter(), first), usable)
    }

    fn prefer(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
    }
}

pub(super) struct Shared {
    endpoint_set: watch::Sender<Arc<EndpointSet>>,
    timeouts: Timeouts,
    calls: Calls,
    /// The id of the cluster in use. No write is sent to any other cluster.
    cluster: Mutex<Option<u64>>,
    /// The endpoint set for which the probe tasks (`pulse`) were started.
    probed: Mutex<Weak<EndpointSet>>,
    /// Notified when the state of an endpoint may have changed.
    state_changed: Notify,
}

impl Shared {
    /// Returns the connection while another owner keeps it alive.
    pub(super) fn connection(this: &Weak<Self>) -> Option<Connection> {
        this.upgrade().map(|shared| Connection { shared })
    }
}

/// The response to an etcd request.
pub(super) trait Answer {
    /// Returns the id of the cluster that answered, if the response contains it.
    fn cluster(&self) -> Option<u64> {
        None
    }
}

macro_rules! answers_with_header {
    ($($kind:ty),*) => { $(
        impl Answer for $kind {
            fn cluster(&self) -> Option<u64> {
                self.header().map(ResponseHeader::cluster_id)
            }
        }
    )* };
}

answers_with_header!(
    GetResponse,
    LeaseGrantResponse,
    LeaseTimeToLiveResponse,
    StatusResponse,
    TxnResponse
);

/// Whether a lease is alive.
impl Answer for bool {}
impl Answer for etcd_client::WatchStream {}
/// A keepalive stream; `None` if the lease does not exist.
impl<A, B> Answer for Option<(A, B)> {}

/// Notifies a stream that the connection switched to another access.
pub(super) struct AccessChanges(watch::Receiver<Arc<EndpointSet>>);

impl AccessChanges {
    /// Returns once the connection uses another access. Safe to drop at any time.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The connection was dropped, so the access cannot change any more.
            std::future::pending::<()>().await;
        }
    }
}

/// A connection to one etcd cluster. Cloning is cheap. Every call has a time-out, is counted, and is retried at the
/// other endpoints when the connection fails. All calls made here are safe to execute twice, because writes are guarded
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

/// The properties of one kind of call.
pub(super) struct Call<T> {
    /// The name in metrics and messages.
    pub(super) name: &'static str,
    /// Time-out of one attempt at one endpoint.
    pub(super) attempt_timeout: Duration,
    /// Whether the response counts as a refusal in metrics.
    pub(super) refused: fn(&T) -> bool,
    /// After how long without an answer another endpoint is asked as well. None for calls that are slow by nature.
    pub(super) hedge: Option<Duration>,
}

impl Connection {
    /// Prepares a connection to the etcd at `access`. Sends nothing yet, so an etcd that is down causes no error here.
    pub async fn new(access: &Access, timeouts: Timeouts, calls: Calls) -> Result<Self> {
        let endpoint_set = EndpointSet::new(access, &timeouts).await?;
        Ok(Self::on(endpoint_set, timeouts, calls))
    }

    fn on(endpoint_set: Arc<EndpointSet>, timeouts: Timeouts, calls: Calls) -> Self {
        let shared = Arc::new(Shared {
            endpoint_set: watch::Sender::new(endpoint_set),
            timeouts,
            calls,
            cluster: Mutex::default(),
            probed: Mutex::default(),
            state_changed: Notify::new(),
        });
        Self { shared }
    }

    /// Prepares a separate connection with another access.
    pub(super) async fn with_access(&self, access: &Access) -> Result<Self> {
        let endpoint_set = EndpointSet::new(access, &self.shared.timeouts).await?;
        Ok(Self::on(endpoint_set, self.shared.timeouts, self.shared.calls.clone()))
    }

    /// Switches every call and every stream of every clone to the endpoints of `other`.
    pub(super) fn switch_to(&self, other: &Self) {
        // The endpoints of `other` were compared with the cluster id that `other` uses.
        if let Some(cluster) = other.cluster() {
            self.use_cluster(cluster);
        }
        self.shared.endpoint_set.send_replace(other.endpoint_set());
    }

    /// Sets the cluster in use, whatever the endpoints report.
    pub(super) fn use_cluster(&self, cluster: u64) {
        *lock(&self.shared.cluster) = Some(cluster);
    }

    pub(super) fn prefer(&self, index: usize) {
        self.endpoint_set().prefer(index);
    }

    /// Returns the error for endpoints of a cluster other than the wanted one.
    pub(super) fn other_cluster(&self, found: u64, wanted: Option<u64>) -> Error {
        Error::OtherCluster {
            endpoints: self.endpoints(),
            found,
            wanted,
        }
    }

    /// Whether TLS or a user is configured.
    pub(super) fn has_credentials(&self) -> bool {
        self.shared.endpoint_set.borrow().access.has_credentials()
    }

    /// Returns the access in use.
    pub fn access(&self) -> Access {
        self.shared.endpoint_set.borrow().access.clone()
    }

    /// Whether etcd's authentication is off although a user is configured. etcd then accepts every client.
    pub fn is_open_to_all(&self) -> bool {
        let endpoint_set = self.endpoint_set();
        endpoint_set
            .slots
            .iter()
            .any(|slot| slot.current().is_open_to_all.load(Ordering::Relaxed))
    }

    /// The id of the cluster in use; `None` until the endpoints' answers decide it.
    pub fn cluster(&self) -> Option<u64> {
        *lock(&self.shared.cluster)
    }

    /// Returns the endpoints with a fault that has lasted for a while, and the fault, in configured order.
    pub fn faults(&self) -> Vec<(String, EndpointFault)> {
        let (endpoint_set, now) = (self.endpoint_set(), Instant::now());
        let all = endpoint_set.access.endpoints.iter().zip(endpoint_set.known());
        all.filter_map(|(url, known)| Some((url.clone(), known.reported(now)?.clone())))
            .collect()
    }

    /// Replaces an error that reports only a failed connection by a more precise TLS error, if a TLS handshake finds
    /// one.
    pub async fn explain(&self, error: Error) -> Error {
        let endpoint_set = self.endpoint_set();
        let is_unclear = matches!(error, Error::Unreachable { .. } | Error::Timeout { .. });
        let Some(tls) = endpoint_set.access.tls.as_ref().filter(|_| is_unclear) else {
            return error;
        };
        for url in endpoint_set
            .access
            .endpoints
            .iter()
            .filter(|url| url.starts_with("https://"))
        {
            if let Some(fault) = tls.diagnose(url, self.shared.timeouts.connect).await {
                return Error::tls(url, fault);
            }
        }
        error
    }

    pub(super) fn endpoint_set(&self) -> Arc<EndpointSet> {
        self.shared.endpoint_set.borrow().clone()
    }

    /// Subscribe before opening a stream: reports when the stream must be reopened.
    pub(super) fn access_changes(&self) -> AccessChanges {
        AccessChanges(self.shared.endpoint_set.subscribe())
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.shared.timeouts
    }

    fn endpoints(&self) -> String {
        self.endpoint_set().access.endpoints.join(", ")
    }

    /// Returns an endpoint for a stream, and its index: `offset` places after the preferred one among the endpoints
    /// without a fault.
    pub(super) fn endpoint(&self, offset: usize) -> (usize, Arc<Endpoint>) {
        let endpoint_set = self.endpoint_set();
        let (order, usable) = endpoint_set.order(endpoint_set.preferred.load(Ordering::Relaxed));
        let among = if usable > 0 { usable } else { order.len() };
        let index = order[offset % among];
        (index, endpoint_set.endpoint(index))
    }

    /// Returns all endpoints in configured order.
    pub(super) fn all_endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoint_set().slots.iter().map(EndpointSlot::current).collect()
    }

    /// Prefers the next endpoint without a fault after `index`, if the endpoint at `index` is still the preferred one.
    pub(super) fn avoid(&self, index: usize) {
        let endpoint_set = self.endpoint_set();
        let next = endpoint_set.order((index + 1) % endpoint_set.count()).0[0];
        // If the exchange fails, another task has already moved on.
        let _ = endpoint_set
            .preferred
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Starts the probe tasks of a new endpoint set. Then waits until the cluster in use is known, until no endpoint
    /// can report it any more, or until [`CLUSTER_TIMEOUT`] has passed.
    async fn await_cluster(&self) {
        let endpoint_set = self.endpoint_set();
        {
            let mut probed = lock(&self.shared.probed);
            if !std::ptr::eq(probed.as_ptr(), Arc::as_ptr(&endpoint_set)) {
                *probed = Arc::downgrade(&endpoint_set);
                pulse::start(&self.shared, &endpoint_set);
            }
        }
        let late = *endpoint_set.opened.get_or_init(Instant::now) + CLUSTER_TIMEOUT;
        loop {
            let changed = self.shared.state_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.cluster().is_some() {
                return;
            }
            self.reevaluate(&endpoint_set);
            let is_pending = endpoint_set.known().iter().any(Suitability::is_pending);
            if self.cluster().is_some() || !is_pending || Instant::now() >= late {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(late) => {}
            }
        }
    }

    /// Decides which cluster is in use from the state of all endpoints, then compares each endpoint with the decision.
    fn reevaluate(&self, endpoint_set: &Arc<EndpointSet>) {
        let known = endpoint_set.known();
        let known: Vec<&Suitability> = known.iter().collect();
        let now = Instant::now();
        let is_late = endpoint_set
            .opened
            .get()
            .is_some_and(|opened| now >= *opened + CLUSTER_TIMEOUT);
        let ours = {
            let mut cluster = lock(&self.shared.cluster);
            let before = *cluster;
            *cluster = suitability::cluster_in_use(&known, before, is_late);
            if let (Some(before), Some(after)) = (before, *cluster)
                && before != after
            {
                tracing::warn!(
                    before = format!("{before:x}"),
                    after = format!("{after:x}"),
                    "the endpoints now belong to another etcd cluster; etcd was restored or replaced"
                );
            }
            *cluster
        };
        let Some(ours) = ours else { return };
        for slot in &endpoint_set.slots {
            let is_new_fault = lock(&slot.known).reevaluate(ours, now);
            if is_new_fault {
                self.report_fault(endpoint_set, &slot.current());
            }
        }
    }

    /// Checks that `endpoint` is a voting member of the cluster in use.
    async fn identify(&self, endpoint: &Endpoint) -> Result<()> {
        self.await_cluster().await;
        // A connection that broke while idle is re-established silently, and another server may listen there by then.
        let is_recent = Instant::now()
            .checked_sub(RECENT)
            .is_none_or(|then| endpoint.received_since(then));
        if !is_recent || endpoint.known().cluster().is_none() {
            match Box::pin(endpoint.probe()).await {
                Ok(status) => self.record_status(endpoint, status),
                Err(error) if error.is_connection() => return Err(error),
                Err(_) => {
                    if let Some(cluster) = endpoint.cluster().await? {
                        self.accept(endpoint, cluster)?;
                    }
                }
            }
        }
        match endpoint.known().fault() {
            Some(fault @ (EndpointFault::Learner | EndpointFault::OtherCluster { .. })) => Err(Error::Endpoint {
                endpoint: endpoint.url.clone(),
                fault: fault.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Records what the member at `endpoint` reports about itself.
    pub(super) fn record_status(&self, endpoint: &Endpoint, status: MemberStatus) {
        endpoint.record_receipt();
        let endpoint_set = self.endpoint_set();
        endpoint.known().set_cluster(status.cluster);
        self.reevaluate(&endpoint_set);
        let before = endpoint.known().fault().cloned();
        let is_new_fault = endpoint.known().record_status(status, self.cluster(), Instant::now());
        if is_new_fault {
            self.report_fault(&endpoint_set, endpoint);
        } else if let Some(fault) = before
            && endpoint.known().fault().is_none()
        {
            tracing::info!(
                endpoint = endpoint.url,
                was = fault.reason(),
                "the etcd endpoint is usable again"
            );
        }
        self.shared.state_changed.notify_waiters();
    }

    /// Records the id of the cluster that answered at `endpoint`. Returns an error if the cluster is not the one in
    /// use.
    pub(super) fn accept(&self, endpoint: &Endpoint, cluster: u64) -> Result<()> {
        if self.cluster() == Some(cluster) && endpoint.known().cluster() == Some(cluster) {
            return Ok(());
        }
        endpoint.known().set_cluster(cluster);
        self.reevaluate(&self.endpoint_set());
        self.shared.state_changed.notify_waiters();
        match self.cluster() {
            Some(ours) if ours != cluster => Err(Error::Endpoint {
                endpoint: endpoint.url.clone(),
                fault: EndpointFault::OtherCluster { theirs: cluster, ours },
            }),
            _ => Ok(()),
        }
    }

    /// Records how a request to `endpoint` or a stream on it ended.
    pub(super) fn record_outcome(&self, endpoint: &Endpoint, error: Option<&Error>) {
        if endpoint.retired.is_cancelled() {
            return;
        }
        let is_new_fault = match error.map(EndpointFault::of) {
            // A single time-out does not show whether the endpoint has a fault.
            Some(None) if error.is_some_and(Error::is_connection) => return,
            Some(Some(fault)) => endpoint.known().record_fault(fault, Instant::now()),
            None | Some(None) => {
                endpoint.record_receipt();
                endpoint.known().record_answer();
                false
            }
        };
        if is_new_fault {
            self.report_fault(&self.endpoint_set(), endpoint);
        }
        if error.is_some() {
            self.shared.state_changed.notify_waiters();
        }
    }

    /// Logs a new fault of `endpoint`, and ends the streams that the fault makes useless.
    fn report_fault(&self, endpoint_set: &Arc<EndpointSet>, endpoint: &Endpoint) {
        let Some(fault) = endpoint.known().fault().cloned() else {
            return;
        };
        let others = endpoint_set.count() > 1;
        tracing::warn!(others, "{}", fault.describe(&endpoint.url));
        if fault.ends_streams() {
            self.replace(endpoint_set, endpoint);
        }
    }

    /// Gives `endpoint` new connections. Requests and streams on the current ones end with an error.
    pub(super) fn replace(&self, endpoint_set: &Arc<EndpointSet>, endpoint: &Endpoint) {
        let Some(index) = endpoint_set.slots.iter().position(|slot| endpoint.is_of(&slot.known)) else {
            // The endpoint belongs to an access that is no longer in use.
            endpoint.retired.cancel();
            return;
        };
        let (endpoint_set, timeouts) = (endpoint_set.clone(), self.shared.timeouts);
        let old = endpoint_set.endpoint(index);
        tokio::spawn(async move {
            // No error is expected: the current connections were prepared with the same arguments.
            if let Ok(fresh) = endpoint_set.reconnect(index, &timeouts).await {
                endpoint_set.install(index, &old, Arc::new(fresh));
            }
        });
    }

    pub(super) fn count(&self, call: &'static str, outcome: Outcome, elapsed: Duration) {
        self.shared.calls.observe(Peer::Etcd, call, outcome, elapsed);
    }

    /// Makes one attempt at one endpoint of the cluster in use. Limits its time, counts it and classifies its error.
    /// Logs in again and repeats the request if etcd no longer accepts the token.
    pub(super) async fn attempt<T, F, Fut>(
        &self,
        call: &Call<T>,
        endpoint: &Endpoint,
        attempt_timeout: Duration,
        request: F,
    ) -> Result<T>
    where
        T: Answer,
        F: Fn(&Endpoint) -> Fut,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        self.ask(call, endpoint, attempt_timeout, true, request).await
    }

    /// Like [`Self::attempt`]. Unless `has_to_serve` is set, the endpoint may be a learner or belong to another
    /// cluster.
    pub(super) async fn ask<T, F, Fut>(
        &self,
        call: &Call<T>,
        endpoint: &Endpoint,
        attempt_timeout: Duration,
        has_to_serve: bool,
        request: F,
    ) -> Result<T>
    where
        T: Answer,
        F: Fn(&Endpoint) -> Fut,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let started = Instant::now();
        let sort = |error| Error::sort(call.name, &endpoint.url, &error);
        let answer = async {
            let entry = endpoint.ensure_logged_in().await?;
            if has_to_serve {
                self.identify(endpoint).await?;
            }
            let answer = request(endpoint).await.map_err(sort);
            let answer = match (answer, entry) {
                (Err(error), Some(entry)) if error.wants_login() => {
                    endpoint.log_in_again(entry).await?;
                    request(endpoint).await.map_err(sort)
                }
                (answer, _) => answer,
            }?;
            if let Some(cluster) = answer.cluster().filter(|_| has_to_serve) {
                self.accept(endpoint, cluster)?;
            }
            Ok(answer)
        };
        let ended = tokio::select! {
            biased;
            ended = tokio::time::timeout(attempt_timeout, answer) => ended,
            () = endpoint.retired.cancelled() => Ok(Err(Error::unreachable(&endpoint.url, RETIRED))),
        };
        let (outcome, result) = match ended {
            Ok(Ok(answer)) if (call.refused)(&answer) => (Outcome::Refused, Ok(answer)),
            Ok(Ok(answer)) => (Outcome::Ok, Ok(answer)),
            Ok(Err(error @ Error::Timeout { .. })) => (Outcome::Timeout, Err(error)),
            Ok(Err(error)) => (Outcome::Error, Err(error)),
            Err(_) => {
                let error = Error::Timeout {
                    endpoints: endpoint.url.clone(),
                    call: call.name,
                    after: attempt_timeout,
                };
                (Outcome::Timeout, Err(error))
            }
        };
        self.count(call.name, outcome, started.elapsed());
        self.record_outcome(endpoint, result.as_ref().err());
        result
    }

    /// Calls the preferred endpoint, then the others as long as the connection fails, then the first one once more,
    /// because a connection that broke while idle fails only on its next request. When an endpoint is slow, a hedged
    /// call also asks the next one, and the first answer counts.
    pub(super) async fn call<T, F, Fut>(&self, call: Call<T>, request: F) -> Result<T>
    where
        T: Answer,
        F: Fn(&Endpoint) -> Fut,
        Fut: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.shared.timeouts.call;
        let endpoint_set = self.endpoint_set();
        let count = endpoint_set.count();
        let (order, _) = endpoint_set.order(endpoint_set.preferred.load(Ordering::Relaxed));
        let ask = |offset: usize| {
            let index = order[offset % count];
            let endpoint = endpoint_set.endpoint(index);
            let attempt_timeout = call.attempt_timeout.min(deadline - Instant::now());
            let (call, request) = (&call, &request);
            async move { (index, self.attempt(call, &endpoint, attempt_timeout, request).await) }
        };
        let mut attempts = FuturesUnordered::from_iter([ask(0)]);
        let (mut asked, mut failed) = (1, 0);
        let mut hedge_delay = call.hedge.unwrap_or(HEDGE);
        let mut hedge_at = Instant::now() + hedge_delay;
        loop {
            let error = tokio::select! {
                biased;
                Some((index, answer)) = attempts.next() => match answer {
                    Ok(answer) => {
                        endpoint_set.prefer(index);
                        return Ok(answer);
                    }
                    Err(error) if !error.is_connection() => return Err(error),
                    Err(error) => Some(error),
                },
                () = sleep_until(hedge_at), if call.hedge.is_some() && count > 1 && hedge_at < deadline => None,
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
                tracing::debug!(call = call.name, "no answer yet; also asking another endpoint");
                // If etcd as a whole is slow, hedging must not flood it.
                hedge_delay *= 2;
            }
            attempts.push(ask(asked));
            asked += 1;
            hedge_at = Instant::now() + hedge_delay;
        }
    }

    /// Returns the same error, naming all endpoints.
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
