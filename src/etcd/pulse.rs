//! Looks at every endpoint again and again: whether it answers over the connections in use, and what it says of itself.
//!
//! A member that hangs keeps its connections open, and HTTP/2 pings, of which etcd allows one in five seconds, find that
//! out after nine. A slow one must not be mistaken for it. So an endpoint counts as hung only when, after it has been silent
//! for a while, another connection or another endpoint answers.

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

/// Between two looks at an endpoint that is in use.
const USED: Duration = Duration::from_secs(1);
/// At one that cannot be used.
const FAULTY: Duration = Duration::from_secs(1);
/// At one that hangs: each look leaves a connection there that it has to take up one day.
const HUNG: Duration = Duration::from_secs(5);
/// At any other.
const IDLE: Duration = Duration::from_secs(10);
/// How long an endpoint may be silent before another one is asked, and then again before it counts as hung.
const PATIENCE: Duration = Duration::from_millis(800);
/// Patience is doubled up to this with each time that connections were replaced: slow ones would never get anything done.
const LONGEST_PATIENCE: Duration = Duration::from_secs(8);
/// Connections that have lasted for so long were no mistake.
const CALM: Duration = Duration::from_mins(1);

/// Looks at the endpoints of `way` for as long as `shared` uses it.
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

/// What a silent endpoint turned out to be.
enum Silence {
    /// Slow.
    Over(Result<Look>),
    /// Another connection to the same address is answered, by whatever listens there now.
    Elsewhere(Box<Endpoint>, Result<Look>),
    /// Nothing is.
    Lasts {
        /// Whether another endpoint answers.
        others_answer: bool,
    },
}

impl Pulse {
    fn pace(&self) -> Duration {
        // One is the way's, one is ours: any other is a stream's or a request's.
        let is_used = Arc::strong_count(&self.endpoint) > 2 || self.way.is_preferred(self.index);
        match self.endpoint.known().fault() {
            Some(EndpointFault::NotAnswering) => HUNG,
            Some(_) => FAULTY,
            None if is_used => USED,
            None => IDLE,
        }
    }

    /// Looks at the endpoint once; true if its connections were replaced because they were silent.
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
        // A stream on the same connections may have got through what a look did not.
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
                    "a connection to this endpoint of etcd is silent and a new one is answered: using the new one"
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
            // Slow, or all of etcd hangs: another connection would not help.
            Silence::Elsewhere(..) | Silence::Lasts { .. } => {
                self.count(None, started);
                false
            }
        }
    }

    /// Asks over other connections; does not return unless they are answered.
    async fn elsewhere(&self) -> Silence {
        if let Ok(other) = self.way.again(self.index, self.connection.timeouts()).await {
            match other.look().await {
                // Nothing listens, or it was too slow, too.
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

    /// Whether another endpoint that can be used answers now.
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
