//! A candidate's session: the lease of its leader key, and whether the lease is proven to be alive.

use std::time::Duration;

use tokio::pin;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::error::{Error, Result};
use super::pause::jittered;
use super::renewal::renewal_timeout;
use super::requests::lease_id;
use crate::model::LeaseId;

/// Longest time from one renewal to the next after a failed one, which may take longer itself.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Session {
    connection: Connection,
    pub(super) lease: LeaseId,
    /// The TTL that etcd granted, which may be longer than requested.
    ttl: Duration,
    granted: Instant,
    /// Whether etcd has confirmed the lease within its TTL.
    proven: watch::Sender<bool>,
}

impl Session {
    pub(super) async fn new(connection: &Connection, ttl_seconds: u32) -> Result<Self> {
        let lease = lease_id();
        let granted = Instant::now();
        let ttl = connection.grant(lease, ttl_seconds).await?;
        let ttl = u64::try_from(ttl).map_err(|_| Error::malformed("grant", "negative TTL"))?;
        Ok(Self {
            connection: connection.clone(),
            lease,
            ttl: Duration::from_secs(ttl),
            granted,
            proven: watch::Sender::new(true),
        })
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn proven(&self) -> watch::Receiver<bool> {
        self.proven.subscribe()
    }

    /// Keeps the session alive; returns when etcd confirms that the lease is gone. While etcd confirms nothing for a
    /// whole TTL, the session counts as unproven and the renewal is retried: after an outage etcd extends all leases,
    /// and the leadership continues.
    pub(super) async fn keep(&self) {
        let mut proven_until = self.granted + self.ttl;
        let mut next = self.granted + self.ttl / 3;
        // An answer that takes longer than the TTL proves nothing.
        let attempt_timeout = self.connection.timeouts().request.min(self.ttl);
        loop {
            let due = next;
            let renewal = async move {
                sleep_until(due).await;
                let sent = Instant::now();
                let hedge = renewal_timeout(self.ttl);
                (
                    sent,
                    self.connection.renew_once(self.lease, attempt_timeout, hedge).await,
                )
            };
            pin!(renewal);
            let (sent, result) = loop {
                tokio::select! {
                    biased;
                    ended = &mut renewal => break ended,
                    () = sleep_until(proven_until), if *self.proven.borrow() => {
                        tracing::warn!(lease = %self.lease, "the session was not renewed within its TTL");
                        self.proven.send_replace(false);
                    }
                }
            };
            // A call that took longer has waited for long enough.
            next = sent + jittered(RETRY);
            match result {
                Ok(true) => {
                    proven_until = sent + self.ttl;
                    next = sent + self.ttl / 3;
                    if Instant::now() < proven_until {
                        self.proven.send_if_modified(|proven| !std::mem::replace(proven, true));
                    }
                }
                // The member's answer alone is no proof: ask etcd's leader.
                Ok(false) if matches!(self.connection.lease(self.lease, false).await, Ok(None)) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(lease = %self.lease, %error, "session renewal failed; retrying"),
            }
        }
    }
}
