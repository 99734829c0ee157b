//! Tracks the health of a Registry's etcd: whether it answers, and since when it does not.

use std::time::{Duration, Instant};

use crate::backend::{self, Status};

/// How long etcd may be silent before that is reported. Electing a new etcd leader takes one to two seconds.
const GRACE: Duration = Duration::from_secs(3);
/// Interval of status requests to an etcd in trouble.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Interval of status requests to a healthy etcd. Only the status shows that its database is full: the operator's
/// writes do not show it, because etcd's quota check ignores nested transactions.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct BackendHealth {
    /// Whether the mirror of its keys is complete and live.
    live: bool,
    /// Since when the mirror is not live.
    since: Instant,
    /// When to request its status. None while a request is in flight.
    ask_at: Option<Instant>,
    version: Option<String>,
    cluster_id: Option<u64>,
    /// Whether the mirror has ever been live.
    was_live: bool,
    /// The last failure, unless a request has succeeded since.
    trouble: Option<Trouble>,
    /// Set while its database is full or corrupt: etcd answers, but accepts no new data.
    full: Option<Trouble>,
    /// Set if its version is not written to.
    unsupported: Option<Trouble>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One word: the reason of a [`backend::Error`], or a reason of this module.
    pub reason: &'static str,
    /// What is wrong and what can be done.
    pub message: String,
    /// Whether it concerns our identity or our permissions.
    pub is_access: bool,
}

impl From<backend::Error> for Trouble {
    fn from(error: backend::Error) -> Self {
        Self {
            is_access: error.is_access(),
            reason: error.reason,
            message: error.message,
        }
    }
}

/// Replaces `known` with `new`, unless both have the same reason. Messages contain times and causes that differ from
/// attempt to attempt, and each new message would rewrite every status.
pub fn keep_first(known: &mut Option<Trouble>, new: Trouble) {
    if known.as_ref().is_none_or(|known| known.reason != new.reason) {
        *known = Some(new);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// The mirror is live.
    Up,
    /// The mirror has not been live for so short a time that this means nothing.
    Unsure,
    /// The mirror has not been live for longer, or etcd is too old.
    Down(Trouble),
}

impl BackendHealth {
    pub fn new(now: Instant) -> Self {
        Self {
            live: false,
            since: now,
            ask_at: Some(now),
            version: None,
            cluster_id: None,
            was_live: false,
            trouble: None,
            full: None,
            unsupported: None,
        }
    }

    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Records that the mirror is complete and live, and schedules a status request: the etcd may report something new.
    pub fn view_is_live(&mut self, now: Instant) {
        (self.live, self.was_live) = (true, true);
        self.ask_at = Some(now);
        self.trouble = None;
    }

    /// Records that the mirror is no longer live.
    pub fn view_is_lost(&mut self, now: Instant) {
        if std::mem::take(&mut self.live) {
            self.since = now;
            self.ask_at = Some(now);
        }
        self.ask_at.get_or_insert(now);
    }

    /// Schedules a status request for now, unless one is in flight.
    pub fn ask_now(&mut self, now: Instant) {
        self.ask_at = self.ask_at.map(|_| now);
    }

    /// When to request the status. None while a request is in flight.
    pub fn ask_at(&self) -> Option<Instant> {
        self.ask_at
    }

    /// Records that a status request was sent.
    pub fn asked(&mut self) {
        self.ask_at = None;
    }

    /// Takes in the result of a status request.
    pub fn answered(&mut self, answer: backend::Result<Status>, now: Instant) {
        match answer {
            Ok(status) => {
                self.trouble = status.trouble.map(Trouble::from);
                self.full = status.refuses.map(Trouble::from);
                self.unsupported = status.unsupported.map(Trouble::from);
                self.version = Some(status.version);
                self.cluster_id = Some(status.cluster_id);
            }
            Err(error) => keep_first(&mut self.trouble, error.into()),
        }
        let well = self.live && self.version.is_some() && self.full.is_none();
        self.ask_at = Some(now + if well { LOOK } else { ASK_AGAIN });
    }

    /// Set while the database is full or corrupt. Registered keys stay. If it is only full, they may still be deleted
    /// and changed.
    pub fn full(&self) -> Option<&Trouble> {
        self.full.as_ref()
    }

    pub fn cluster_id(&self) -> Option<u64> {
        self.cluster_id
    }

    pub fn was_live(&self) -> bool {
        self.was_live
    }

    /// How long the mirror has not been live. None while it is.
    pub fn lost_for(&self, now: Instant) -> Option<Duration> {
        (!self.live).then(|| now.saturating_duration_since(self.since))
    }

    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Set if its version is not written to.
    pub fn unsupported(&self) -> Option<&Trouble> {
        self.unsupported.as_ref()
    }

    pub fn link(&self, now: Instant) -> Connectivity {
        if let Some(trouble) = self.unsupported() {
            return Connectivity::Down(trouble.clone());
        }
        if self.live {
            return Connectivity::Up;
        }
        if now < self.since + GRACE {
            return Connectivity::Unsure;
        }
        Connectivity::Down(self.trouble.clone().unwrap_or_else(|| Trouble {
            reason: "Unreachable",
            message: "the operator cannot watch its keys in etcd: see the operator's log for the cause".to_owned(),
            is_access: false,
        }))
    }

    /// When [`Self::link`] changes by the passing of time alone.
    pub fn changes_at(&self, now: Instant) -> Option<Instant> {
        let at = self.since + GRACE;
        (!self.live && now < at).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ErrorKind;

    fn status() -> Status {
        Status {
            version: "3.6.15".to_owned(),
            cluster_id: 1,
            trouble: None,
            refuses: None,
            unsupported: None,
        }
    }

    fn error(reason: &'static str) -> backend::Error {
        backend::Error {
            kind: ErrorKind::Unavailable,
            reason,
            message: format!("it has the trouble {reason}"),
        }
    }

    #[test]
    fn short_silence_is_unsure_and_long_silence_is_reported_with_cause() {
        let start = Instant::now();
        let mut state = BackendHealth::new(start);
        state.view_is_live(start);
        assert_eq!(state.link(start), Connectivity::Up);
        state.view_is_lost(start);
        assert_eq!(state.link(start + GRACE / 2), Connectivity::Unsure);
        assert_eq!(state.changes_at(start), Some(start + GRACE));
        let leaderless = Status {
            trouble: Some(error("NoLeader")),
            ..status()
        };
        state.answered(Ok(leaderless), start);
        let Connectivity::Down(trouble) = state.link(start + GRACE) else {
            panic!("not reported");
        };
        assert_eq!(trouble.reason, "NoLeader");
        assert_eq!(
            state.ask_at(),
            Some(start + ASK_AGAIN),
            "the status is requested until it recovers"
        );
    }

    #[test]
    fn same_trouble_in_other_words_keeps_its_first_message() {
        let start = Instant::now();
        let mut state = BackendHealth::new(start);
        let timeout = |after| backend::Error {
            message: format!("no answer within {after:?}"),
            ..error("Timeout")
        };
        state.answered(Err(timeout(Duration::from_secs(5))), start);
        let reported = state.link(start + GRACE);
        state.answered(Err(timeout(Duration::from_millis(4999))), start);
        assert_eq!(state.link(start + GRACE), reported);
        let leaderless = Status {
            trouble: Some(error("NoLeader")),
            ..status()
        };
        state.answered(Ok(leaderless), start);
        assert_ne!(state.link(start + GRACE), reported);
    }

    #[test]
    fn full_database_is_reported_until_cleared_and_polled_more_often() {
        let now = Instant::now();
        let mut state = BackendHealth::new(now);
        state.view_is_live(now);
        let full = Status {
            refuses: Some(error("NoSpace")),
            ..status()
        };
        state.answered(Ok(full), now);
        assert_eq!(state.full().map(|trouble| trouble.reason), Some("NoSpace"));
        assert_eq!(state.ask_at(), Some(now + ASK_AGAIN));
        assert_eq!(state.link(now), Connectivity::Up, "keys are read, watched and deleted");
        state.answered(Ok(status()), now);
        assert_eq!(state.full(), None);
        assert_eq!(
            state.ask_at(),
            Some(now + LOOK),
            "only the status shows a full database"
        );
    }

    #[test]
    fn unsupported_etcd_version_is_reported_although_it_answers() {
        let now = Instant::now();
        let mut state = BackendHealth::new(now);
        state.view_is_live(now);
        let old = Status {
            unsupported: Some(error("UnsupportedVersion")),
            ..status()
        };
        state.answered(Ok(old), now);
        assert!(matches!(state.link(now), Connectivity::Down(trouble) if trouble.reason == "UnsupportedVersion"));
        state.answered(Ok(status()), now);
        assert_eq!(state.link(now), Connectivity::Up, "it was upgraded");
    }
}
