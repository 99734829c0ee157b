//! One keepalive stream shared by many leases, reopened as long as it is needed.
//!
//! etcd answers a stream strictly in order. So the oldest unanswered request is the one that blocks the stream (an
//! expired lease that is not revoked yet) or that ended it (a lease that the user may not renew). That lease is
//! reported as the possible cause, and the other leases are handed back to be sent elsewhere. Each request gets exactly
//! one report.

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

use super::connection::{AccessChanges, Call, Connection, RETIRED};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::pause::JitteredBackoff;
use super::requests::lacks_lease;
use super::stream_pool::StreamId;
use crate::model::LeaseId;
use crate::telemetry::Outcome;

const CALL: &str = "keep_alive";

/// A request to renew one lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) lease: LeaseId,
    /// How long the stream may stay silent after the request.
    pub(super) attempt_timeout: Duration,
}

/// The result of requests.
#[derive(Debug)]
pub(super) enum Report {
    /// The lease was renewed by a request sent at `sent`.
    Alive { lease: LeaseId, sent: Instant },
    /// The member does not know the lease. Must be confirmed by etcd's leader.
    Unconfirmed(LeaseId),
    /// etcd denies renewing the lease, even on a separate stream.
    Denied(LeaseId),
    /// The stream failed.
    Broken {
        stream: StreamId,
        /// The lease that may be the cause.
        unconfirmed: Option<UnconfirmedLease>,
        /// The leases that were waiting behind it.
        rest: Vec<LeaseId>,
    },
}

/// The oldest lease on a stream that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnconfirmedLease {
    pub(super) lease: LeaseId,
    /// Whether etcd refused this lease itself. If not, etcd as a whole may hang or fail.
    pub(super) refused: bool,
}

struct Sent {
    request: Request,
    at: Instant,
}

pub(super) struct KeepAliveStream {
    pub(super) id: StreamId,
    pub(super) connection: Connection,
    pub(super) requests: UnboundedReceiver<Request>,
    pub(super) reports: UnboundedSender<Report>,
}

/// Why a stream is no longer used.
enum Failure {
    /// The stream broke or is stuck.
    Broken(Error),
    /// The renewal has ended.
    Over,
}

impl KeepAliveStream {
    /// Runs until the sender of requests is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = JitteredBackoff::new();
        while let Some(first) = self.requests.recv().await {
            let sent = Instant::now();
            let access_changes = self.connection.access_changes();
            let (index, endpoint) = self.connection.endpoint(self.id.group);
            match self.open(first, &endpoint).await {
                Ok(Some((keeper, answers))) => {
                    self.report(Report::Alive {
                        lease: first.lease,
                        sent,
                    });
                    backoff.reset();
                    if self.pump(keeper, answers, (index, &endpoint, access_changes)).await {
                        return;
                    }
                }
                Ok(None) => {
                    backoff.reset();
                    self.report(Report::Unconfirmed(first.lease));
                }
                Err(error) => {
                    let mut waiting = vec![first.lease];
                    while let Ok(request) = self.requests.try_recv() {
                        waiting.push(request.lease);
                    }
                    self.give_back(waiting, &error, index);
                    // A denied lease is moved to a separate stream, so the other leases need not wait.
                    if matches!(error, Error::PermissionDenied { .. }) {
                        backoff.reset();
                        continue;
                    }
                    // Pauses only after handing the leases back: the other stream may renew them at once.
                    backoff.pause().await;
                }
            }
        }
    }

    fn report(&self, report: Report) {
        // The receiver is gone only when the renewal has ended.
        let _ = self.reports.send(report);
    }

    /// Opens the stream with `first` as its first request; `None` if the member does not know the lease.
    async fn open(&self, first: Request, endpoint: &Endpoint) -> Result<Option<(LeaseKeeper, LeaseKeepAliveStream)>> {
        let kind = Call {
            name: CALL,
            attempt_timeout: first.attempt_timeout,
            refused: |opened: &Option<_>| opened.is_none(),
            hedge: None,
        };
        let open = |endpoint: &Endpoint| {
            let mut client = endpoint.keep_alive.clone();
            async move {
                match client.keep_alive(first.lease.0).await {
                    Ok(stream) => Ok(Some(stream)),
                    Err(error) if lacks_lease(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        };
        self.connection
            .attempt(&kind, endpoint, first.attempt_timeout, open)
            .await
    }

    /// Passes requests and answers until the stream fails; true if the renewal has ended.
    async fn pump(
        &mut self,
        mut keeper: LeaseKeeper,
        mut answers: LeaseKeepAliveStream,
        (index, endpoint, mut access_changes): (usize, &Endpoint, AccessChanges),
    ) -> bool {
        let mut unanswered = VecDeque::new();
        let failure = tokio::select! {
            failure = self.exchange(endpoint, &mut keeper, &mut answers, &mut unanswered) => Some(failure),
            () = endpoint.retired.cancelled() => Some(Failure::Broken(Error::unreachable(&endpoint.url, RETIRED))),
            () = access_changes.changed() => None,
        };
        let waiting: Vec<_> = unanswered.into_iter().map(|sent: Sent| sent.request.lease).collect();
        match failure {
            Some(Failure::Over) => true,
            // The next request opens the stream again. A proxy may close streams that carry nothing.
            _ if waiting.is_empty() => false,
            None => {
                // The leases are sent again on the new connection, which is harmless: a renewal is idempotent.
                let (stream, unconfirmed, rest) = (self.id, None, waiting);
                self.report(Report::Broken {
                    stream,
                    unconfirmed,
                    rest,
                });
                false
            }
            Some(Failure::Broken(error)) => {
                self.connection.record_outcome(endpoint, Some(&error));
                self.give_back(waiting, &error, index);
                false
            }
        }
    }

    async fn exchange(
        &mut self,
        endpoint: &Endpoint,
        keeper: &mut LeaseKeeper,
        answers: &mut LeaseKeepAliveStream,
        unanswered: &mut VecDeque<Sent>,
    ) -> Failure {
        let closed = || Failure::Broken(Error::unreachable(&endpoint.url, "the keepalive stream ended"));
        let mut progress = Instant::now();
        loop {
            let stuck = unanswered
                .front()
                .map(|oldest| oldest.at.max(progress) + oldest.request.attempt_timeout);
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        progress = Instant::now();
                        endpoint.record_receipt();
                        if let Some(header) = answer.header()
                            && let Err(error) = self.connection.accept(endpoint, header.cluster_id())
                        {
                            return Failure::Broken(error);
                        }
                        self.answered(LeaseId(answer.id()), answer.ttl(), unanswered);
                    }
                    Ok(None) => return closed(),
                    Err(error) => {
                        self.connection.count(CALL, Outcome::Error, progress.elapsed());
                        return Failure::Broken(Error::sort(CALL, &endpoint.url, &error));
                    }
                },
                () = sleep_until(stuck.unwrap_or(progress)), if stuck.is_some() => {
                    self.connection.count(CALL, Outcome::Timeout, progress.elapsed());
                    return Failure::Broken(Error::Timeout {
                        endpoints: endpoint.url.clone(),
                        call: CALL,
                        after: progress.elapsed(),
                    });
                }
                // Only while there is room: waiting for it would leave the answers unread. Reading answers makes room.
                request = self.requests.recv(), if keeper.sender.capacity() > 0 => {
                    let Some(request) = request else { return Failure::Over };
                    unanswered.push_back(Sent { request, at: Instant::now() });
                    keeper.id = request.lease.0;
                    if keeper.keep_alive().await.is_err() {
                        return closed();
                    }
                }
            }
        }
    }

    fn answered(&self, lease: LeaseId, ttl: i64, unanswered: &mut VecDeque<Sent>) {
        // Answers arrive in order, so the first entry matches.
        let Some(place) = unanswered.iter().position(|sent| sent.request.lease == lease) else {
            return;
        };
        let Some(Sent { at: sent, .. }) = unanswered.remove(place) else {
            return;
        };
        let outcome = if ttl > 0 { Outcome::Ok } else { Outcome::Refused };
        self.connection.count(CALL, outcome, sent.elapsed());
        self.report(if ttl > 0 {
            Report::Alive { lease, sent }
        } else {
            Report::Unconfirmed(lease)
        });
    }

    /// Hands the `waiting` leases back, oldest first. Reports the oldest as the possible cause, unless the connection
    /// failed or the error concerns the credentials. Avoids the endpoint at `index` after a connection error or a
    /// time-out, so that a separate stream starts at another endpoint.
    fn give_back(&self, mut waiting: Vec<LeaseId>, error: &Error, index: usize) {
        if error.is_connection() {
            self.connection.avoid(index);
        }
        let refused = matches!(error, Error::PermissionDenied { .. });
        // Connection and credentials are the same for all leases.
        let of_all =
            matches!(error, Error::Unreachable { .. } | Error::Endpoint { .. }) || (error.is_access() && !refused);
        let unconfirmed = (!of_all && !waiting.is_empty()).then(|| UnconfirmedLease {
            lease: waiting.remove(0),
            refused,
        });
        tracing::debug!(stream = ?self.id, %error, ?unconfirmed, waiting = waiting.len(), "keepalive stream failed");
        self.report(Report::Broken {
            stream: self.id,
            unconfirmed,
            rest: waiting,
        });
    }
}
