//! Keeps leases alive on every replica, leader or not: renewing is idempotent and creates no revision.
//!
//! Each lease is renewed every third of its TTL over shared streams ([`StreamPool`]). A lease that blocks or ends a
//! stream is renewed on a separate stream until etcd answers. No lease is given up because of a local deadline: an etcd
//! that was down for an hour extends all leases when it returns. Only etcd's answer ends a lease.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, HEDGE};
use super::error::Error;
use super::keep_alive::{Report, Request};
use super::pause::{jitter, jittered};
use super::stream_pool::{StreamId, StreamPool};
use crate::backend::{LeaseEvent, Leases};
use crate::model::LeaseId;

/// Most separate streams for leases that may be blocking a shared stream; further such leases stay on the shared
/// streams. A lease that is being revoked blocks its stream for seconds, and an etcd that hangs makes every lease look
/// like that.
const MAX_UNCONFIRMED_RENEWALS: usize = 16;
/// Longest pause between attempts for a lease on a separate stream.
const RETRY: Duration = Duration::from_millis(500);

/// How long an unanswered renewal may block a stream: well below the two thirds of the TTL that are left when a renewal
/// is due.
pub(super) fn renewal_timeout(ttl: Duration) -> Duration {
    (ttl / 6).min(Duration::from_secs(2))
}

/// Keeps `leases` alive until `shutdown`. Reports a lease that etcd confirms to be gone in `events` once, then ignores
/// it until it disappears from `leases`. `soonest` shows when the first lease would expire if no further renewal
/// succeeded; `None` without leases.
pub async fn renew(
    connection: Connection,
    mut leases: watch::Receiver<Leases>,
    events: mpsc::Sender<LeaseEvent>,
    soonest: watch::Sender<Option<std::time::Instant>>,
    shutdown: CancellationToken,
) {
    let (reports, mut incoming) = mpsc::unbounded_channel();
    let mut renewal = Renewal {
        streams: StreamPool::new(connection.clone(), reports.clone()),
        connection,
        entries: HashMap::new(),
        due: BTreeSet::new(),
        ends: BTreeSet::new(),
        unconfirmed_renewals: 0,
        separate_renewals: JoinSet::new(),
        reports,
        events: VecDeque::new(),
    };
    leases.mark_changed();
    loop {
        let next = renewal.next_send();
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = leases.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = leases.borrow_and_update().clone();
                renewal.set_leases(&wanted);
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => renewal.send_due(),
            Some(report) = incoming.recv() => renewal.handle_report(report),
            Some(ended) = renewal.separate_renewals.join_next() => renewal.handle_separate_result(ended),
            room = events.reserve(), if !renewal.events.is_empty() => match (room, renewal.events.pop_front()) {
                (Ok(room), Some(event)) => room.send(event),
                _ => return,
            },
        }
        let end = renewal.ends.first().map(|(at, _)| at.into_std());
        soonest.send_if_modified(|known| std::mem::replace(known, end) != end);
    }
}

enum State {
    /// Due at this time.
    Waiting(Instant),
    /// Sent over a shared stream, which will report the result.
    Sent { stream: StreamId, due: Instant },
    /// On a separate stream.
    Separate { task: AbortHandle, unconfirmed: bool },
    /// Gone and reported.
    Gone,
}

struct Entry {
    ttl: Duration,
    /// When the lease expires unless it is renewed before.
    end: Instant,
    state: State,
}

/// The result of renewing a lease on a separate stream.
enum RenewalOutcome {
    Alive { sent: Instant },
    Gone,
}

struct Renewal {
    connection: Connection,
    streams: StreamPool,
    entries: HashMap<LeaseId, Entry>,
    /// The waiting entries by due time. Due ones wait for a free stream.
    due: BTreeSet<(Instant, LeaseId)>,
    /// All entries that are not gone, by end.
    ends: BTreeSet<(Instant, LeaseId)>,
    unconfirmed_renewals: usize,
    separate_renewals: JoinSet<(LeaseId, RenewalOutcome)>,
    /// For the renewals on separate streams.
    reports: mpsc::UnboundedSender<Report>,
    /// Not sent yet: a slow receiver must not delay the renewal of other leases.
    events: VecDeque<LeaseEvent>,
}

impl Renewal {
    /// Adopts a new set of leases. New leases are due at once; missing ones are forgotten.
    fn set_leases(&mut self, wanted: &BTreeMap<LeaseId, u32>) {
        let unwanted: Vec<_> = self
            .entries
            .keys()
            .filter(|id| !wanted.contains_key(id))
            .copied()
            .collect();
        for lease in unwanted {
            self.forget(lease);
        }
        let now = Instant::now();
        for (&lease, &seconds) in wanted {
            let ttl = Duration::from_secs(seconds.into());
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.ttl = ttl;
                continue;
            }
            // The remaining time is unknown. Assuming a whole TTL would hide an endangered lease.
            let entry = Entry {
                ttl,
                end: now,
                state: State::Waiting(now),
            };
            self.entries.insert(lease, entry);
            self.due.insert((now, lease));
            self.ends.insert((now, lease));
        }
    }

    fn forget(&mut self, lease: LeaseId) {
        self.leave_state(lease);
        if let Some(entry) = self.entries.remove(&lease) {
            self.ends.remove(&(entry.end, lease));
        }
    }

    /// Releases what the lease's current state holds in `due`, `streams`, `separate_renewals` and
    /// `unconfirmed_renewals`.
    fn leave_state(&mut self, lease: LeaseId) {
        match self.entries.get(&lease).map(|entry| &entry.state) {
            Some(State::Waiting(at)) => {
                self.due.remove(&(*at, lease));
            }
            Some(State::Separate { task, unconfirmed }) => {
                task.abort();
                self.unconfirmed_renewals -= usize::from(*unconfirmed);
            }
            Some(State::Sent { stream, .. }) => self.streams.release(*stream),
            Some(State::Gone) | None => {}
        }
    }

    /// Returns when to send the next renewal; `None` without leases, and while no stream is free.
    fn next_send(&self) -> Option<Instant> {
        self.streams.free()?;
        self.due.first().map(|(at, _)| *at)
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        while let Some(&(due, lease)) = self.due.first()
            && due <= now
            && let Some(stream) = self.streams.free()
        {
            self.due.pop_first();
            if let Some(entry) = self.entries.get_mut(&lease) {
                let attempt_timeout = renewal_timeout(entry.ttl);
                self.streams.send(stream, Request { lease, attempt_timeout });
                entry.state = State::Sent { stream, due };
            }
        }
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Alive { lease, sent } => {
                let stream = self.stream_of(lease);
                self.renewed(lease, sent);
                self.record_answer(stream);
            }
            Report::Unconfirmed(lease) => {
                let stream = self.stream_of(lease);
                self.isolate(lease, false);
                self.record_answer(stream);
            }
            Report::Denied(lease) => {
                let event = LeaseEvent::Denied(lease);
                if self.entries.contains_key(&lease) && !self.events.contains(&event) {
                    self.events.push_back(event);
                }
            }
            Report::Broken {
                stream,
                unconfirmed,
                rest,
            } => {
                // If etcd refused one lease, the streams work for the others. Whatever else the cause, the other group may
                // work. New renewals use it too.
                if !unconfirmed.is_some_and(|unconfirmed| unconfirmed.refused) {
                    self.streams.leave(stream.group);
                }
                match unconfirmed {
                    Some(unconfirmed) if unconfirmed.refused => self.isolate(unconfirmed.lease, false),
                    Some(unconfirmed) if self.unconfirmed_renewals < MAX_UNCONFIRMED_RENEWALS => {
                        self.isolate(unconfirmed.lease, true);
                    }
                    Some(unconfirmed) => self.put_back(unconfirmed.lease),
                    None => {}
                }
                for lease in rest {
                    self.put_back(lease);
                }
            }
        }
    }

    /// Returns the shared stream over which the lease is being renewed.
    fn stream_of(&self, lease: LeaseId) -> Option<StreamId> {
        match self.entries.get(&lease)?.state {
            State::Sent { stream, .. } => Some(stream),
            _ => None,
        }
    }

    fn record_answer(&mut self, stream: Option<StreamId>) {
        if let Some((stream, (due, _))) = stream.zip(self.due.first()) {
            self.streams.record_answer(stream, due.elapsed());
        }
    }

    /// Makes a lease due again that its stream did not renew.
    fn put_back(&mut self, lease: LeaseId) {
        // A lease that was removed and added again meanwhile is not on a stream.
        let Some(&State::Sent { due, .. }) = self.entries.get(&lease).map(|entry| &entry.state) else {
            return;
        };
        self.enter_waiting(lease, due);
    }

    /// Ends the lease's state. The lease is due at `due`.
    fn enter_waiting(&mut self, lease: LeaseId, due: Instant) {
        self.leave_state(lease);
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.state = State::Waiting(due);
            self.due.insert((due, lease));
        }
    }

    fn renewed(&mut self, lease: LeaseId, sent: Instant) {
        let Some(entry) = self.entries.get_mut(&lease) else {
            return;
        };
        // New leases, and all leases after an outage, are renewed together. Spreads them over the whole interval.
        let spread = if entry.end < sent + entry.ttl / 2 { 3 } else { 12 };
        let next = sent + entry.ttl / 3 - jitter(entry.ttl / spread);
        self.ends.remove(&(entry.end, lease));
        entry.end = sent + entry.ttl;
        self.ends.insert((entry.end, lease));
        self.enter_waiting(lease, next);
    }

    /// Renews `lease` on a separate stream.
    fn isolate(&mut self, lease: LeaseId, unconfirmed: bool) {
        let Some(entry) = self.entries.get_mut(&lease) else {
            return;
        };
        let State::Sent { stream, .. } = entry.state else {
            return;
        };
        self.streams.release(stream);
        let renewal = renew_separately(self.connection.clone(), lease, entry.ttl, self.reports.clone());
        let task = self.separate_renewals.spawn(renewal);
        self.unconfirmed_renewals += usize::from(unconfirmed);
        entry.state = State::Separate { task, unconfirmed };
    }

    /// Handles the result of a separate stream.
    fn handle_separate_result(&mut self, ended: Result<(LeaseId, RenewalOutcome), JoinError>) {
        let (lease, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The task was aborted because the lease was forgotten.
            Err(_) => return,
        };
        let Some(State::Separate { .. }) = self.entries.get(&lease).map(|entry| &entry.state) else {
            return;
        };
        match outcome {
            RenewalOutcome::Alive { sent } => self.renewed(lease, sent),
            RenewalOutcome::Gone => {
                self.leave_state(lease);
                if let Some(entry) = self.entries.get_mut(&lease) {
                    self.ends.remove(&(entry.end, lease));
                    entry.state = State::Gone;
                }
                tracing::warn!(%lease, "the lease no longer exists in etcd");
                self.events.push_back(LeaseEvent::Lapsed(lease));
            }
        }
    }
}

/// Renews one lease on separate streams until it is alive or etcd confirms that it is gone.
async fn renew_separately(
    connection: Connection,
    lease: LeaseId,
    ttl: Duration,
    reports: mpsc::UnboundedSender<Report>,
) -> (LeaseId, RenewalOutcome) {
    let mut denied = false;
    loop {
        let sent = Instant::now();
        // A lease that is being revoked is answered late, but it is answered: wait longer than on a shared stream.
        let attempt_timeout = renewal_timeout(ttl).max(connection.timeouts().request);
        let pause = match connection.renew_once(lease, attempt_timeout, HEDGE).await {
            Ok(true) => {
                if denied {
                    tracing::info!(%lease, "etcd allows renewing the lease again");
                }
                return (lease, RenewalOutcome::Alive { sent });
            }
            // A member that lags behind gives the same answer for a lease granted a moment ago. Ask etcd's leader.
            Ok(false) => match connection.lease(lease, false).await {
                Ok(None) => return (lease, RenewalOutcome::Gone),
                Ok(Some(_)) => RETRY / 2,
                Err(_) => RETRY,
            },
            Err(Error::PermissionDenied { message }) => {
                if !denied {
                    tracing::warn!(%lease, %message, "etcd denies renewing the lease; grant the user write permission on all its keys");
                }
                denied = true;
                let _ = reports.send(Report::Denied(lease));
                ttl / 3
            }
            Err(error) => {
                tracing::debug!(%lease, %error, "lease renewal failed; retrying");
                RETRY
            }
        };
        sleep(jittered(pause)).await;
    }
}
