//! How a Registry's etcd stands with us: whether it answers, and since when it does not.

use std::time::{Duration, Instant};

use crate::etcd;

/// How long etcd may be silent before anybody is told: electing a new leader of its own takes it one to two seconds.
const GRACE: Duration = Duration::from_secs(3);
/// Between two questions to an etcd that is in trouble.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Between two questions to one that is well: it does not say of itself that its database is full, and our writes do not
/// find out, for etcd does not weigh nested transactions.
const LOOK: Duration = Duration::from_secs(10);
/// The oldest etcd that answers everything asked of it (nested transactions, member of 2019).
const OLDEST: (u32, u32) = (3, 4);

/// What is known about the etcd.
#[derive(Debug)]
pub struct BackendHealth {
    /// Whether our view of its keys is complete and live.
    live: bool,
    /// Since when it is not.
    since: Instant,
    /// When to ask for its status; none while it is being asked.
    ask_at: Option<Instant>,
    /// What it last said of itself.
    version: Option<String>,
    /// The cluster that it last said it is.
    cluster_id: Option<u64>,
    /// Whether our view has ever been live.
    was_live: bool,
    /// What went wrong last, unless something has gone well since.
    trouble: Option<Trouble>,
    /// Set while its database is full or corrupt: it answers, and takes nothing new.
    full: Option<Trouble>,
}

/// What is wrong with the etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In one word: an [`etcd::Error::reason`], or one of our own.
    pub reason: &'static str,
    /// What is wrong and what can be done.
    pub message: String,
    /// Whether it is about who we are or what we may do.
    pub is_access: bool,
}

impl Trouble {
    fn no_leader() -> Self {
        Self {
            reason: "NoLeader",
            message: "members of the etcd cluster answer, but it has no leader: see whether most of them run"
                .to_owned(),
            is_access: false,
        }
    }
}

impl From<&etcd::Error> for Trouble {
    fn from(error: &etcd::Error) -> Self {
        Self {
            reason: error.reason(),
            message: error.to_string(),
            is_access: error.is_access(),
        }
    }
}

/// Takes over `new`, unless what is known is of the same kind: messages name times and causes that differ from attempt
/// to attempt, and each other message would be another write of every status.
pub fn keep_first(known: &mut Option<Trouble>, new: Trouble) {
    if known.as_ref().is_none_or(|known| known.reason != new.reason) {
        *known = Some(new);
    }
}

/// How it stands, in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// Our view is live.
    Up,
    /// It is not, but has not been for so short a time that this means nothing.
    Unsure,
    /// It has not been for long.
    Down(Trouble),
}

impl BackendHealth {
    /// Nothing is known yet.
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
        }
    }

    /// Our view of its keys is live.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Our view is complete and live (again). What it says of itself may be new.
    pub fn view_is_live(&mut self, now: Instant) {
        (self.live, self.was_live) = (true, true);
        self.ask_at = Some(now);
        self.trouble = None;
    }

    /// Our view is no longer live.
    pub fn view_is_lost(&mut self, now: Instant) {
        if std::mem::take(&mut self.live) {
            self.since = now;
            self.ask_at = Some(now);
        }
        self.ask_at.get_or_insert(now);
    }

    /// Something about it has changed that it has to be asked for.
    pub fn ask_now(&mut self, now: Instant) {
        self.ask_at = self.ask_at.map(|_| now);
    }

    /// When to ask it for its status.
    pub fn ask_at(&self) -> Option<Instant> {
        self.ask_at
    }

    /// It is being asked for its status.
    pub fn asked(&mut self) {
        self.ask_at = None;
    }

    /// It was asked for its status, with this result.
    pub fn answered(&mut self, answer: Result<etcd::Status, etcd::Error>, now: Instant) {
        match answer {
            Ok(status) => {
                self.trouble = (!status.has_leader).then(Trouble::no_leader);
                self.full = if status.is_corrupt {
                    Some(Trouble {
                        reason: etcd::EndpointFault::Corrupt.reason(),
                        message: "etcd says that data of a member is corrupt, and refuses all writes (alarm CORRUPT): replace \
                                  the corrupt member, then `etcdctl alarm disarm`"
                            .to_owned(),
                        is_access: false,
                    })
                } else if status.is_full {
                    let message = "NOSPACE alarm".to_owned();
                    Some((&etcd::Error::NoSpace { message }).into())
                } else {
                    None
                };
                self.version = Some(status.version);
                self.cluster_id = Some(status.cluster_id);
            }
            Err(error) if error.is_no_leader() => keep_first(&mut self.trouble, Trouble::no_leader()),
            Err(error) => keep_first(&mut self.trouble, (&error).into()),
        }
        let well = self.live && self.version.is_some() && self.full.is_none();
        self.ask_at = Some(now + if well { LOOK } else { ASK_AGAIN });
    }

    /// Set while its database is full or corrupt. What is registered stays, and may still be deleted and changed if it is
    /// only full.
    pub fn full(&self) -> Option<&Trouble> {
        self.full.as_ref()
    }

    /// The cluster that it said it is.
    pub fn cluster_id(&self) -> Option<u64> {
        self.cluster_id
    }

    /// Whether our view of its keys has ever been live.
    pub fn was_live(&self) -> bool {
        self.was_live
    }

    /// For how long our view has not been live; none while it is.
    pub fn lost_for(&self, now: Instant) -> Option<Duration> {
        (!self.live).then(|| now.saturating_duration_since(self.since))
    }

    /// The version it told.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Set when it is too old to be written to.
    pub fn too_old(&self) -> Option<Trouble> {
        let version = self.version.as_deref()?;
        let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
        let told = (parts.next()?, parts.next()?);
        let (major, minor) = OLDEST;
        (told < OLDEST).then(|| Trouble {
            reason: "UnsupportedVersion",
            message: format!("etcd {version} is too old to be written to: use {major}.{minor} or newer"),
            is_access: false,
        })
    }

    /// How it stands.
    pub fn link(&self, now: Instant) -> Connectivity {
        if let Some(trouble) = self.too_old() {
            return Connectivity::Down(trouble);
        }
        if self.live {
            return Connectivity::Up;
        }
        if now < self.since + GRACE {
            return Connectivity::Unsure;
        }
        Connectivity::Down(self.trouble.clone().unwrap_or_else(|| Trouble {
            reason: "Unreachable",
            message: "the watch on our keys cannot be opened: see the operator's log".to_owned(),
            is_access: false,
        }))
    }

    /// When [`Self::link`] changes by the mere passing of time.
    pub fn changes_at(&self, now: Instant) -> Option<Instant> {
        let at = self.since + GRACE;
        (!self.live && now < at).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: &str, has_leader: bool) -> etcd::Status {
        etcd::Status {
            version: version.to_owned(),
            cluster_id: 1,
            revision: 1,
            db_bytes: 0,
            has_leader,
            is_full: false,
            is_corrupt: false,
            is_learner: false,
            member_id: 1,
        }
    }

    #[test]
    fn a_short_silence_means_nothing_and_a_long_one_is_told_with_its_cause() {
        let start = Instant::now();
        let mut standing = BackendHealth::new(start);
        standing.view_is_live(start);
        assert_eq!(standing.link(start), Connectivity::Up);
        standing.view_is_lost(start);
        assert_eq!(standing.link(start + GRACE / 2), Connectivity::Unsure);
        assert_eq!(standing.changes_at(start), Some(start + GRACE));
        standing.answered(Ok(status("3.6.15", false)), start);
        let Connectivity::Down(trouble) = standing.link(start + GRACE) else {
            panic!("not told");
        };
        assert_eq!(trouble.reason, "NoLeader");
        assert_eq!(standing.ask_at(), Some(start + ASK_AGAIN), "asked until it is back");
    }

    #[test]
    fn the_same_trouble_in_other_words_is_told_in_the_first_ones() {
        let start = Instant::now();
        let mut standing = BackendHealth::new(start);
        let timeout = |after| etcd::Error::Timeout {
            endpoints: "e".to_owned(),
            call: "status",
            after,
        };
        standing.answered(Err(timeout(Duration::from_secs(5))), start);
        let told = standing.link(start + GRACE);
        standing.answered(Err(timeout(Duration::from_millis(4999))), start);
        assert_eq!(standing.link(start + GRACE), told);
        standing.answered(Ok(status("3.6.15", false)), start);
        assert_ne!(standing.link(start + GRACE), told);
    }

    #[test]
    fn a_full_database_is_known_until_it_says_otherwise_and_is_asked_for_more_often() {
        let now = Instant::now();
        let mut standing = BackendHealth::new(now);
        standing.view_is_live(now);
        let full = etcd::Status {
            is_full: true,
            ..status("3.6.15", true)
        };
        standing.answered(Ok(full), now);
        assert_eq!(standing.full().map(|trouble| trouble.reason), Some("NoSpace"));
        assert_eq!(standing.ask_at(), Some(now + ASK_AGAIN));
        assert_eq!(
            standing.link(now),
            Connectivity::Up,
            "keys are read, watched and deleted"
        );
        standing.answered(Ok(status("3.6.15", true)), now);
        assert_eq!(standing.full(), None);
        assert_eq!(standing.ask_at(), Some(now + LOOK), "nobody else would tell");
    }

    #[test]
    fn a_corrupt_etcd_is_known_until_the_alarm_is_disarmed() {
        let now = Instant::now();
        let mut standing = BackendHealth::new(now);
        standing.view_is_live(now);
        let corrupt = etcd::Status {
            is_corrupt: true,
            ..status("3.6.15", true)
        };
        standing.answered(Ok(corrupt), now);
        assert_eq!(standing.full().map(|trouble| trouble.reason), Some("Corrupt"));
        standing.answered(Ok(status("3.6.15", true)), now);
        assert_eq!(standing.full(), None);
    }

    #[test]
    fn an_etcd_that_is_too_old_is_told_even_while_it_answers() {
        let now = Instant::now();
        let mut standing = BackendHealth::new(now);
        standing.view_is_live(now);
        standing.answered(Ok(status("3.3.27", true)), now);
        assert!(matches!(standing.link(now), Connectivity::Down(trouble) if trouble.reason == "UnsupportedVersion"));
        for version in ["3.4.0", "3.7.2-rc.0", "4.0.0", "unheard of"] {
            standing.answered(Ok(status(version, true)), now);
            assert_eq!(standing.link(now), Connectivity::Up, "{version}");
        }
    }
}
