//! Health checks of the endpoints: probes repeatedly whether each endpoint answers over its current connections, and
//! what the member reports about itself.
//!
//! A member that hangs keeps its connections open. HTTP/2 pings, of which etcd allows one in five seconds, detect that
//! only after nine. A slow member must not count as hung. So an endpoint counts as hung only if it is silent for a
//! while and then another connection or another endpoint answers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Connection, EndpointSet, Shared};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::pause::jitter;
use super::suitability::{EndpointFault, MemberStatus};
use crate::telemetry::Outcome;

/// Between two probes of an endpoint in use.
const USED: Duration = Duration::from_secs(1);
/// Between probes of an endpoint with a fault.
const FAULTY: Duration = Duration::from_secs(1);
/// Between probes of an endpoint that hangs. Longer, because each probe leaves a connection that the member has to
/// handle when it continues.
const HUNG: Duration = Duration::from_secs(5);
/// Between probes of any other endpoint.
const IDLE: Duration = Duration::from_secs(10);
/// How long an endpoint may be silent before other connections and endpoints are asked, and how long again before it
/// counts as hung.
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);
/// Limit of the probe time-out, which doubles each time the connections are replaced. Otherwise slow connections would
/// be replaced before they complete a request.
const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(8);
/// After connections have lasted this long, the probe time-out is reset.
const CALM: Duration = Duration::from_mins(1);

/// Starts a task for each endpoint of `endpoint_set` that runs as long as `shared` uses this set.
pub(super) fn start(shared: &Arc<Shared>, endpoint_set: &Arc<EndpointSet>) {
    for index in 0..endpoint_set.count() {
        tokio::spawn(run(Arc::downgrade(shared), Arc::downgrade(endpoint_set), index));
    }
}

async fn run(shared: Weak<Shared>, endpoint_set: Weak<EndpointSet>, index: usize) {
    let mut probe_timeout = PROBE_TIMEOUT;
    let mut replaced = Instant::now();
    loop {
        let interval = {
            let (Some(connection), Some(endpoint_set)) = (Shared::connection(&shared), endpoint_set.upgrade()) else {
                return;
            };
            if !Arc::ptr_eq(&connection.endpoint_set(), &endpoint_set) {
                return;
            }
            let endpoint = endpoint_set.endpoint(index);
            let pulse = Pulse {
                connection,
                endpoint_set,
                index,
                endpoint,
                probe_timeout,
            };
            if Box::pin(pulse.probe()).await {
                (probe_timeout, replaced) = ((probe_timeout * 2).min(MAX_PROBE_TIMEOUT), Instant::now());
            } else if replaced.elapsed() > CALM {
                probe_timeout = PROBE_TIMEOUT;
            }
            pulse.interval()
        };
        sleep(interval + jitter(interval / 8)).await;
    }
}

struct Pulse {
    connection: Connection,
    endpoint_set: Arc<EndpointSet>,
    index: usize,
    endpoint: Arc<Endpoint>,
    probe_timeout: Duration,
}

enum ProbeOutcome {
    /// The endpoint answered over its current connections.
    Answered(Result<MemberStatus>),
    /// A new connection to the same address is answered by the server that listens there now.
    AnsweredOnNewConnection(Box<Endpoint>, Result<MemberStatus>),
    /// No connection is answered.
    Unanswered {
        /// Whether another usable endpoint answers.
        others_answer: bool,
    },
}

impl Pulse {
    fn interval(&self) -> Duration {
        // The endpoint set and this task hold one reference each. Any further reference belongs to a stream or a
        // request.
        let is_used = Arc::strong_count(&self.endpoint) > 2 || self.endpoint_set.is_preferred(self.index);
        match self.endpoint.known().fault() {
            Some(EndpointFault::NotAnswering) => HUNG,
            Some(_) => FAULTY,
            None if is_used => USED,
            None => IDLE,
        }
    }

    /// Probes the endpoint once; true if silent connections were replaced.
    async fn probe(&self) -> bool {
        let started = Instant::now();
        let mut present = Box::pin(self.endpoint.probe());
        let outcome = if let Ok(answer) = timeout(self.probe_timeout, &mut present).await {
            ProbeOutcome::Answered(answer)
        } else {
            let unanswered = async {
                let ((), others_answer) = tokio::join!(sleep(self.probe_timeout), self.others_answer());
                ProbeOutcome::Unanswered { others_answer }
            };
            tokio::select! {
                biased;
                answer = present => ProbeOutcome::Answered(answer),
                outcome = self.probe_new_connection() => outcome,
                outcome = unanswered => outcome,
            }
        };
        // A stream on the same connections may have received data although the probe did not.
        let is_silent = !self.endpoint.received_since(started);
        match outcome {
            ProbeOutcome::Answered(answer) => {
                self.count(Some(&answer), started);
                self.record(answer);
                false
            }
            ProbeOutcome::AnsweredOnNewConnection(other, answer) if is_silent => {
                self.count(None, started);
                tracing::warn!(
                    endpoint = self.endpoint.url,
                    "the connection to this etcd endpoint is silent, but a new connection is answered; switching to the new one"
                );
                self.endpoint_set.install(self.index, &self.endpoint, Arc::from(other));
                self.record(answer);
                true
            }
            ProbeOutcome::Unanswered { others_answer: true } if is_silent => {
                self.count(None, started);
                let error = Error::Endpoint {
                    endpoint: self.endpoint.url.clone(),
                    fault: EndpointFault::NotAnswering,
                };
                let was_used = self.endpoint.known().fault().is_none();
                self.connection.record_outcome(&self.endpoint, Some(&error));
                self.connection.avoid(self.index);
                was_used
            }
            // The endpoint is slow, or etcd as a whole hangs: another connection would not help.
            ProbeOutcome::AnsweredOnNewConnection(..) | ProbeOutcome::Unanswered { .. } => {
                self.count(None, started);
                false
            }
        }
    }

    /// Asks over new connections; does not return unless they are answered.
    async fn probe_new_connection(&self) -> ProbeOutcome {
        if let Ok(other) = self
            .endpoint_set
            .reconnect(self.index, self.connection.timeouts())
            .await
        {
            match other.probe().await {
                // No server listens there, or the new connection was too slow as well.
                Err(error) if error.is_connection() => {}
                answer => return ProbeOutcome::AnsweredOnNewConnection(Box::new(other), answer),
            }
        }
        std::future::pending().await
    }

    fn record(&self, answer: Result<MemberStatus>) {
        let endpoint = self.endpoint_set.endpoint(self.index);
        match answer {
            Ok(status) => self.connection.record_status(&endpoint, status),
            Err(error) => self.connection.record_outcome(&endpoint, Some(&error)),
        }
    }

    /// Whether another usable endpoint answers now.
    async fn others_answer(&self) -> bool {
        let others = (0..self.endpoint_set.count()).filter(|index| *index != self.index);
        let mut probes: FuturesUnordered<_> = others
            .map(|index| {
                let endpoint = self.endpoint_set.endpoint(index);
                async move {
                    let answer = timeout(self.probe_timeout, endpoint.probe()).await;
                    if let Ok(Ok(status)) = answer {
                        self.connection.record_status(&endpoint, status);
                    }
                    matches!(answer, Ok(Ok(_))) && endpoint.known().fault().is_none()
                }
            })
            .collect();
        while let Some(answers) = probes.next().await {
            if answers {
                return true;
            }
        }
        false
    }

    fn count(&self, answer: Option<&Result<MemberStatus>>, started: Instant) {
        let outcome = match answer {
            Some(Ok(_)) => Outcome::Ok,
            Some(Err(_)) => Outcome::Error,
            None => Outcome::Timeout,
        };
        self.connection.count("look", outcome, started.elapsed());
    }
}
