//! Whether a replica still confirms what the status of a Registry says.
//!
//! The leader writes the status and restores what another writer changes in it. A replica that is cut off from etcd
//! cannot see whether there is a leader. It asks through Kubernetes: it removes the leader's name from the status. A
//! leader that lives puts it back at once. When no leader has done so for longer than a standby replica needs to take
//! over, no replica confirms the status any more, and the replica that asked reports that. No condition changes before
//! that.

use std::time::{Duration, Instant};

use super::command::StatusSeen;
use crate::model::Elsewhere;

/// How long a replica is cut off before it asks. An etcd member that restarts is back by then.
const FIRST: Duration = Duration::from_secs(3);
/// How long a leader may take to answer, beyond the duration of a takeover.
const MARGIN: Duration = Duration::from_secs(5);

/// What a replica may report about a Registry that it does not lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: the replica reaches the etcd, or another replica may lead.
    #[default]
    Silent,
    /// A request that the leader confirm itself.
    Ask,
    /// Its own connectivity to the Registry: the status names no other replica as the leader.
    Registry,
    /// The same, and that no replica confirms the statuses of the registrations.
    All,
}

/// Reduces what the other replicas report to whether one of them is connected. None if that is not known.
pub fn peer_is_connected(elsewhere: &Elsewhere) -> Option<bool> {
    match elsewhere {
        Elsewhere::Connected(_) => Some(true),
        Elsewhere::NoReplica => Some(false),
        Elsewhere::Unknown(_) => None,
    }
}

/// The inputs of the decision.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Whether this replica does not lead and does not reach the etcd.
    pub cut_off: bool,
    pub identity: &'a str,
    /// Whether a replica that was asked directly reports that it reaches the etcd. None if that could not be found out.
    pub peer_is_connected: Option<bool>,
}

/// What is known of the leader that the status names.
#[derive(Debug)]
pub struct Confirmation {
    /// How long a leader may take to put its name back.
    answer: Duration,
    /// The status as last seen. None before Kubernetes has delivered it.
    seen: Option<StatusSeen>,
    /// Since when this replica is cut off.
    since: Option<Instant>,
    /// When a leader last put its name in, or was last asked to.
    named_at: Option<Instant>,
    /// Since when the status names no leader.
    unnamed_since: Option<Instant>,
}

impl Confirmation {
    /// A takeover takes `session_ttl` at most.
    pub fn new(session_ttl: Duration) -> Self {
        Self {
            answer: session_ttl + MARGIN,
            seen: None,
            since: None,
            named_at: None,
            unnamed_since: None,
        }
    }

    pub fn seen(&self) -> Option<&StatusSeen> {
        self.seen.as_ref()
    }

    /// Whether the status names another replica than this one as the leader.
    pub fn names_other(&self, identity: &str) -> bool {
        let leader = self.seen.as_ref().and_then(|seen| seen.leader.as_deref());
        leader.is_some_and(|leader| leader != identity)
    }

    /// Records the current status.
    pub fn see(&mut self, seen: StatusSeen, now: Instant) {
        match &seen.leader {
            Some(_) if self.unnamed_since.take().is_some() => self.named_at = Some(now),
            Some(_) => {}
            None => {
                self.unnamed_since.get_or_insert(now);
            }
        }
        self.seen = Some(seen);
    }

    /// Returns what to report now, and when to decide again if nothing changes.
    pub fn step(&mut self, facts: Facts<'_>, now: Instant) -> (Outcome, Option<Instant>) {
        if !facts.cut_off {
            self.since = None;
            return (Outcome::Silent, None);
        }
        let since = *self.since.get_or_insert(now);
        let Some(seen) = &self.seen else {
            return (Outcome::Silent, None);
        };
        // That replica writes the status, or it is a standby of the replica that does.
        if facts.peer_is_connected == Some(true) {
            return (Outcome::Silent, None);
        }
        let long = since + self.answer;
        let unanswered = self.unnamed_since.map(|since| since + self.answer);
        let due = match &seen.leader {
            Some(leader) if leader != facts.identity => {
                let again = self.named_at.map(|at| at + 2 * self.answer);
                let due = again.into_iter().fold(since + FIRST, Instant::max);
                if now < due {
                    return (Outcome::Silent, Some(due));
                }
                self.named_at = Some(now);
                return (Outcome::Ask, Some(now + 2 * self.answer));
            }
            // A replica has asked, and a leader may still answer.
            None if !seen.is_blank => unanswered.map_or(long, |unanswered| unanswered.max(long)),
            // This replica was the leader, or there has been none.
            Some(_) | None => {
                let outcome = if now < long { Outcome::Registry } else { Outcome::All };
                return (outcome, (now < long).then_some(long));
            }
        };
        if now < due {
            (Outcome::Silent, Some(due))
        } else {
            (Outcome::All, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const ANSWER: Duration = Duration::from_secs(15);

    fn cut_off() -> Facts<'static> {
        Facts {
            cut_off: true,
            identity: "me",
            peer_is_connected: None,
        }
    }

    fn names(leader: Option<&str>) -> StatusSeen {
        StatusSeen {
            leader: leader.map(str::to_owned),
            ..StatusSeen::default()
        }
    }

    /// A replica that is cut off from now on, while the status names another replica.
    fn unconfirmed(now: Instant) -> Confirmation {
        let mut confirmation = Confirmation::new(TTL);
        confirmation.see(names(Some("other")), now);
        assert_eq!(
            confirmation.step(cut_off(), now),
            (Outcome::Silent, Some(now + FIRST)),
            "a short outage is not reported"
        );
        confirmation
    }

    #[test]
    fn leader_that_answers_is_asked_again_later_and_never_contradicted() {
        let mut now = Instant::now();
        let mut confirmation = unconfirmed(now);
        now += FIRST;
        for _ in 0..5 {
            let (outcome, again) = confirmation.step(cut_off(), now);
            assert_eq!(outcome, Outcome::Ask);
            confirmation.see(names(None), now);
            assert_eq!(confirmation.step(cut_off(), now).0, Outcome::Silent);
            confirmation.see(names(Some("other")), now);
            assert_eq!(confirmation.step(cut_off(), now), (Outcome::Silent, again));
            now = again.expect("another question");
        }
    }

    #[test]
    fn unresponsive_leader_is_overruled_once_a_takeover_was_possible() {
        let now = Instant::now();
        let mut confirmation = unconfirmed(now);
        let asked = now + FIRST;
        assert_eq!(confirmation.step(cut_off(), asked).0, Outcome::Ask);
        confirmation.see(names(None), asked);
        let (outcome, due) = confirmation.step(cut_off(), asked);
        assert_eq!((outcome, due), (Outcome::Silent, Some(asked + ANSWER)));
        assert_eq!(confirmation.step(cut_off(), asked + ANSWER), (Outcome::All, None));
        confirmation.see(names(Some("third")), asked + ANSWER);
        assert_eq!(confirmation.step(cut_off(), asked + ANSWER).0, Outcome::Silent);
    }

    #[test]
    fn leader_that_is_put_in_question_by_another_replica_is_not_asked_twice() {
        let now = Instant::now();
        let mut confirmation = unconfirmed(now);
        confirmation.see(names(None), now + FIRST);
        confirmation.see(names(Some("other")), now + FIRST);
        let due = now + FIRST + 2 * ANSWER;
        assert_eq!(confirmation.step(cut_off(), now + FIRST), (Outcome::Silent, Some(due)));
    }

    #[test]
    fn peer_that_is_connected_confirms_the_status_without_a_question() {
        let now = Instant::now();
        let mut confirmation = unconfirmed(now);
        let facts = Facts {
            peer_is_connected: Some(true),
            ..cut_off()
        };
        assert_eq!(confirmation.step(facts, now + 10 * ANSWER), (Outcome::Silent, None));
    }

    #[test]
    fn own_status_and_a_blank_one_are_said_at_once_and_registrations_later() {
        let now = Instant::now();
        let blank = StatusSeen {
            is_blank: true,
            ..StatusSeen::default()
        };
        for seen in [blank, names(Some("me"))] {
            let mut confirmation = Confirmation::new(TTL);
            assert_eq!(
                confirmation.step(cut_off(), now),
                (Outcome::Silent, None),
                "the status is unknown"
            );
            confirmation.see(seen, now);
            assert_eq!(
                confirmation.step(cut_off(), now),
                (Outcome::Registry, Some(now + ANSWER))
            );
            assert_eq!(confirmation.step(cut_off(), now + ANSWER), (Outcome::All, None));
        }
    }

    #[test]
    fn replica_that_reaches_etcd_again_says_nothing() {
        let now = Instant::now();
        let mut confirmation = unconfirmed(now);
        let connected = Facts {
            cut_off: false,
            ..cut_off()
        };
        assert_eq!(confirmation.step(connected, now + ANSWER), (Outcome::Silent, None));
        let due = now + ANSWER + FIRST;
        assert_eq!(
            confirmation.step(cut_off(), now + ANSWER),
            (Outcome::Silent, Some(due)),
            "a new outage"
        );
    }
}
