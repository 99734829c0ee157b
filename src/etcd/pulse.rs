//! Health checks of the endpoints: looks repeatedly whether each endpoint answers over its current connections, and
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

use super::connection::{Connection, Shared, Way};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::pause::jitter;
use super::suitability::{EndpointFault, Look};
use crate::telemetry::Outcome;

/// Between two looks at an endpoint in use.
const USED: Duration = Duration::from_secs(1);
/// Between looks at an endpoint with a fault.
const FAULTY: Duration = Duration::from_secs(1);
/// Between looks at an endpoint that hangs. Longer, because each look leaves a connection that the member has to handle
/// when it continues.
const HUNG: Duration = Duration::from_secs(5);
/// Between looks at any other endpoint.
const IDLE: Duration = Duration::from_secs(10);
/// How long an endpoint may be silent before other connections and endpoints are asked, and how long again before it
/// counts as hung.
const PATIENCE: Duration = Duration::from_millis(800);
/// Limit of the patience, which doubles each time the connections are replaced. Otherwise slow connections would be
/// replaced before they complete a request.
const LONGEST_PATIENCE: Duration = Duration::from_secs(8);
/// After connections have lasted this long, the patience is reset.
const CALM: Duration = Duration::from_mins(1);

/// Starts a task for each endpoint of `way` that runs as long as `shared` uses `way`.
pub(super) fn start(shared: &Arc<Shared>, way: &Arc<Way>) {
    for index in 0..way.count() {
        tokio::spawn(run(Arc::downgrade(shared), Arc::downgrade(way), index));
    }
}

async fn run(shared: Weak<Shared>, way: Weak<Way>, index: usize) {
    let mut patience = PATIENCE;
    let mut replaced = Instant::now();
    loop {
        let pace = {
            let (Some(connection), Some(way)) = (Shared::connection(&shared), way.upgrade()) else {
                return;
            };
            if !Arc::ptr_eq(&connection.way(), &way) {
                return;
            }
            let endpoint = way.endpoint(index);
            let pulse = Pulse {
                connection,
                way,
                index,
                endpoint,
                patience,
            };
            if Box::pin(pulse.look()).await {
                (patience, replaced) = ((patience * 2).min(LONGEST_PATIENCE), Instant::now());
            } else if replaced.elapsed() > CALM {
                patience = PATIENCE;
            }
            pulse.pace()
        };
        sleep(pace + jitter(pace / 8)).await;
    }
}

struct Pulse {
    connection: Connection,
    way: Arc<Way>,
    index: usize,
    endpoint: Arc<Endpoint>,
    patience: Duration,
}

/// The cause of an endpoint's silence.
enum Silence {
    /// The endpoint was slow and has answered.
    Over(Result<Look>),
    /// A new connection to the same address is answered by the server that listens there now.
    Elsewhere(Box<Endpoint>, Result<Look>),
    /// No connection is answered.
    Lasts {
        /// Whether another usable endpoint answers.
        others_answer: bool,
    },
}

impl Pulse {
    fn pace(&self) -> Duration {
        // The endpoint set and this task hold one reference each. Any further reference belongs to a stream or a
        // request.
        let is_used = Arc::strong_count(&self.endpoint) > 2 || self.way.is_preferred(self.index);
        match self.endpoint.known().fault() {
            Some(EndpointFault::NotAnswering) => HUNG,
            Some(_) => FAULTY,
            None if is_used => USED,
            None => IDLE,
        }
    }

    /// Looks at the endpoint once; true if silent connections were replaced.
    async fn look(&self) -> bool {
        let started = Instant::now();
        let mut present = Box::pin(self.endpoint.look());
        let silence = if let Ok(answer) = timeout(self.patience, &mut present).await {
            Silence::Over(answer)
        } else {
            let lasts = async {
                let ((), others_answer) = tokio::join!(sleep(self.patience), self.others_answer());
                Silence::Lasts { others_answer }
            };
            tokio::select! {
                biased;
                answer = present => Silence::Over(answer),
                elsewhere = self.elsewhere() => elsewhere,
                lasts = lasts => lasts,
            }
        };
        // A stream on the same connections may have received data although the look did not.
        let is_silent = !self.endpoint.heard_since(started);
        match silence {
            Silence::Over(answer) => {
                self.count(Some(&answer), started);
                self.take_in(answer);
                false
            }
            Silence::Elsewhere(other, answer) if is_silent => {
                self.count(None, started);
                tracing::warn!(
                    endpoint = self.endpoint.url,
                    "the connection to this etcd endpoint is silent, but a new connection is answered; switching to the new one"
                );
                self.way.put(self.index, &self.endpoint, Arc::from(other));
                self.take_in(answer);
                true
            }
            Silence::Lasts { others_answer: true } if is_silent => {
                self.count(None, started);
                let error = Error::Endpoint {
                    endpoint: self.endpoint.url.clone(),
                    fault: EndpointFault::NotAnswering,
                };
                let was_used = self.endpoint.known().fault().is_none();
                self.connection.met(&self.endpoint, Some(&error));
                self.connection.avoid(self.index);
                was_used
            }
            // The endpoint is slow, or etcd as a whole hangs: another connection would not help.
            Silence::Elsewhere(..) | Silence::Lasts { .. } => {
                self.count(None, started);
                false
            }
        }
    }

    /// Asks over new connections; does not return unless they are answered.
    async fn elsewhere(&self) -> Silence {
        if let Ok(other) = self.way.again(self.index, self.connection.timeouts()).await {
            match other.look().await {
                // No server listens there, or the new connection was too slow as well.
                Err(error) if error.is_connection() => {}
                answer => return Silence::Elsewhere(Box::new(other), answer),
            }
        }
        std::future::pending().await
    }

    fn take_in(&self, answer: Result<Look>) {
        let endpoint = self.way.endpoint(self.index);
        match answer {
            Ok(look) => self.connection.judge(&endpoint, look),
            Err(error) => self.connection.met(&endpoint, Some(&error)),
        }
    }

    /// Whether another usable endpoint answers now.
    async fn others_answer(&self) -> bool {
        let others = (0..self.way.count()).filter(|index| *index != self.index);
        let mut looks: FuturesUnordered<_> = others
            .map(|index| {
                let endpoint = self.way.endpoint(index);
                async move {
                    let answer = timeout(self.patience, endpoint.look()).await;
                    if let Ok(Ok(look)) = answer {
                        self.connection.judge(&endpoint, look);
                    }
                    matches!(answer, Ok(Ok(_))) && endpoint.known().fault().is_none()
                }
            })
            .collect();
        while let Some(answers) = looks.next().await {
            if answers {
                return true;
            }
        }
        false
    }

    fn count(&self, answer: Option<&Result<Look>>, started: Instant) {
        let outcome = match answer {
            Some(Ok(_)) => Outcome::Ok,
            Some(Err(_)) => Outcome::Error,
            None => Outcome::Timeout,
        };
        self.connection.count("look", outcome, started.elapsed());
    }
}
