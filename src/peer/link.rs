//! Derives the status of a peer from the events on the connections to its address. Pure: plain data in, plain data out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wire::ReplicaState;
use crate::model::Elsewhere;

/// How long a starting replica waits for a replica whose state is unknown. By default a Deployment reports a
/// rollout without progress after 10 minutes, which comes first.
pub const UNKNOWN_FOR: Duration = Duration::from_mins(15);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Stays the same across restarts.
    pub identity: Arc<str>,
    /// Differs between processes of the same identity.
    pub incarnation: Arc<str>,
}

/// What is known of the process at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerStatus {
    /// The state is unknown, for this reason. That is no evidence that the process has ended.
    Unknown(Arc<str>),
    /// The address refuses connections, and no process is known to have listened there before.
    Refused,
    /// There is an authenticated connection to the process.
    Alive(Replica, Arc<ReplicaState>),
    /// The process accepts connections and has been silent for 3 s, on an authenticated connection and on a new one.
    Hung(Replica),
    /// The connection to the process has ended, and the address now refuses connections.
    Gone(Replica),
}

pub type PeerStatuses = BTreeMap<SocketAddr, PeerStatus>;

/// An event on a connection to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection is authenticated.
    Opened(Replica),
    Stated(ReplicaState),
    Beat,
    /// The connection was refused: no process listens there.
    Refused,
    /// A new connection was made, but the process did not answer, and the authenticated connection had been silent for
    /// long.
    Hung,
    /// The connection failed or could not be used, for this reason.
    Failed(String),
}

/// The state of one address.
#[derive(Clone, Debug)]
pub struct PeerConnection {
    status: PeerStatus,
    /// The replica that was last authenticated there, and what it stated.
    last: Option<(Replica, Arc<ReplicaState>)>,
}

impl Default for PeerConnection {
    fn default() -> Self {
        Self {
            status: PeerStatus::Unknown("not contacted yet".into()),
            last: None,
        }
    }
}

impl PeerConnection {
    pub fn status(&self) -> &PeerStatus {
        &self.status
    }

    pub fn take(&mut self, event: Event) {
        let last = self.last.clone();
        self.status = match (event, last) {
            (Event::Opened(replica), last) => {
                let known = last.filter(|(known, _)| *known == replica).map(|(_, state)| state);
                let state = known.unwrap_or_default();
                self.last = Some((replica.clone(), state.clone()));
                PeerStatus::Alive(replica, state)
            }
            (Event::Stated(state), Some((replica, _))) => {
                let state = Arc::new(state);
                self.last = Some((replica.clone(), state.clone()));
                PeerStatus::Alive(replica, state)
            }
            (Event::Beat, Some((replica, state))) => PeerStatus::Alive(replica, state),
            (Event::Refused, Some((replica, _))) => PeerStatus::Gone(replica),
            (Event::Refused, None) => PeerStatus::Refused,
            (Event::Hung, Some((replica, _))) => PeerStatus::Hung(replica),
            // A process that is gone does not return, whatever happens to its address.
            (Event::Failed(_), Some(_)) if matches!(self.status, PeerStatus::Gone(_)) => return,
            (Event::Failed(cause), _) => PeerStatus::Unknown(cause.into()),
            (Event::Stated(_) | Event::Beat | Event::Hung, None) => return,
        };
    }
}

/// The term of a leader, as a standby replica follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub address: SocketAddr,
    /// The incarnation of the leader's process.
    pub incarnation: Arc<str>,
    /// Whether there was an authenticated connection to this very process since the term became known. Without one, no
    /// event at its address is evidence. So a replica that lost the lead by evidence cannot take it back by the same
    /// evidence.
    was_alive: bool,
}

impl Term {
    pub fn new(address: SocketAddr, incarnation: Arc<str>) -> Self {
        Self {
            address,
            incarnation,
            was_alive: false,
        }
    }

    /// Returns the evidence that the leader's process has ended or hangs, if there is any.
    pub fn is_over(&mut self, statuses: &PeerStatuses) -> Option<&'static str> {
        let is_it = |replica: &Replica| replica.incarnation == self.incarnation;
        match statuses.get(&self.address)? {
            PeerStatus::Alive(replica, _) if is_it(replica) => {
                self.was_alive = true;
                None
            }
            PeerStatus::Alive(..) if self.was_alive => Some("another process answers at the leader's address"),
            PeerStatus::Gone(replica) if is_it(replica) && self.was_alive => {
                Some("the leader's connection ended, and its address refuses new connections")
            }
            PeerStatus::Hung(replica) if is_it(replica) && self.was_alive => {
                Some("the leader accepts connections, but has not answered for 3 s")
            }
            _ => None,
        }
    }
}

/// A replica that may be connected to a Registry, according to the Registry's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    pub identity: Arc<str>,
    /// The address at which the replica listens; `None` if it is not known.
    pub address: Option<SocketAddr>,
    /// The time since when the replica's state is in question.
    pub since: Instant,
}

/// Returns whether a replica other than `me` is connected to `registry`, according to what the replicas state and to
/// the replicas that `hints` name.
pub fn elsewhere(registry: &str, me: &str, hints: &[Hint], statuses: &PeerStatuses, now: Instant) -> Elsewhere {
    for (address, status) in statuses {
        if let PeerStatus::Alive(replica, state) = status
            && state.registries.get(registry).is_some_and(|state| state.connected)
        {
            return Elsewhere::Connected(format!("{} at {address}", replica.identity).into());
        }
    }
    for Hint {
        identity,
        address,
        since,
    } in hints
    {
        // A replica with this replica's identity was its predecessor.
        if **identity == *me || now.saturating_duration_since(*since) >= UNKNOWN_FOR {
            continue;
        }
        let Some(address) = address else {
            return Elsewhere::Unknown(format!("{identity}: address unknown").into());
        };
        match statuses.get(address) {
            Some(PeerStatus::Alive(..) | PeerStatus::Refused | PeerStatus::Gone(_)) => {}
            Some(PeerStatus::Hung(_)) => {
                return Elsewhere::Unknown(format!("{identity} at {address}: does not answer").into());
            }
            Some(PeerStatus::Unknown(cause)) => {
                return Elsewhere::Unknown(format!("{identity} at {address}: {cause}").into());
            }
            None => return Elsewhere::Unknown(format!("{identity} at {address}: not contacted yet").into()),
        }
    }
    Elsewhere::NoReplica
}

#[cfg(test)]
mod tests {
    use super::super::wire::RegistryState;
    use super::*;

    fn replica(number: u32) -> Replica {
        Replica {
            identity: "a".into(),
            incarnation: format!("a-{number}").into(),
        }
    }

    fn address() -> SocketAddr {
        "10.0.0.1:8081".parse().expect("an address")
    }

    fn statuses(status: &PeerStatus) -> PeerStatuses {
        BTreeMap::from([(address(), status.clone())])
    }

    fn after(events: impl IntoIterator<Item = Event>) -> PeerStatus {
        let mut link = PeerConnection::default();
        events.into_iter().for_each(|event| link.take(event));
        link.status().clone()
    }

    fn failed() -> Event {
        Event::Failed("no answer within 1 s".to_owned())
    }

    #[test]
    fn refused_connection_means_gone_only_after_authentication() {
        assert_eq!(after([Event::Refused]), PeerStatus::Refused);
        assert_eq!(after([Event::Hung]), PeerConnection::default().status);
        let gone = PeerStatus::Gone(replica(1));
        assert_eq!(after([Event::Opened(replica(1)), Event::Refused]), gone);
        assert_eq!(
            after([Event::Opened(replica(1)), Event::Refused, failed()]),
            gone,
            "for good"
        );
        let unknown = after([Event::Opened(replica(1)), failed()]);
        assert!(
            matches!(unknown, PeerStatus::Unknown(_)),
            "a time-out is no evidence: {unknown:?}"
        );
        let back = after([Event::Opened(replica(1)), Event::Hung, Event::Beat]);
        assert!(matches!(back, PeerStatus::Alive(..)), "{back:?}");
    }

    #[test]
    fn a_state_is_kept_over_a_reconnection_to_the_same_process_only() {
        let state = ReplicaState {
            fresh: true,
            ..ReplicaState::default()
        };
        let begin = [Event::Opened(replica(1)), Event::Stated(state.clone())];
        let same = after(begin.iter().cloned().chain([failed(), Event::Opened(replica(1))]));
        assert_eq!(same, PeerStatus::Alive(replica(1), Arc::new(state)));
        let other = after(begin.into_iter().chain([Event::Opened(replica(2))]));
        assert_eq!(other, PeerStatus::Alive(replica(2), Arc::default()));
    }

    #[test]
    fn a_term_is_over_by_what_happens_after_a_connection_to_its_leader() {
        let alive = |number| statuses(&PeerStatus::Alive(replica(number), Arc::default()));
        let (gone, hung) = (
            statuses(&PeerStatus::Gone(replica(1))),
            statuses(&PeerStatus::Hung(replica(1))),
        );
        let new = || Term::new(address(), "a-1".into());
        for end in [&gone, &hung, &alive(2)] {
            let mut term = new();
            assert_eq!(term.is_over(end), None, "it was never connected in this term: {end:?}");
            assert_eq!(term.is_over(&alive(1)), None);
            assert!(term.is_over(end).is_some(), "{end:?}");
        }
        for no_evidence in [
            statuses(&PeerStatus::Unknown("no answer".into())),
            statuses(&PeerStatus::Refused),
            statuses(&PeerStatus::Gone(replica(2))),
            statuses(&PeerStatus::Hung(replica(2))),
            PeerStatuses::new(),
        ] {
            let mut term = new();
            term.is_over(&alive(1));
            assert_eq!(term.is_over(&no_evidence), None, "{no_evidence:?}");
        }
    }

    fn hint(identity: &str, since: Instant) -> Hint {
        Hint {
            identity: identity.into(),
            address: Some(address()),
            since,
        }
    }

    #[test]
    fn a_registry_is_served_elsewhere_when_a_replica_says_so() {
        let now = Instant::now();
        let states = |connected| {
            let state = RegistryState {
                connected,
                leading: false,
            };
            let state = ReplicaState {
                fresh: true,
                registries: BTreeMap::from([("default".to_owned(), state)]),
            };
            statuses(&PeerStatus::Alive(replica(1), Arc::new(state)))
        };
        let ask = |statuses: &PeerStatuses| elsewhere("default", "me", &[hint("a", now)], statuses, now);
        assert_eq!(ask(&states(true)), Elsewhere::Connected("a at 10.0.0.1:8081".into()));
        assert_eq!(ask(&states(false)), Elsewhere::NoReplica);
        assert_eq!(elsewhere("other", "me", &[], &states(true), now), Elsewhere::NoReplica);
    }

    #[test]
    fn unknown_replica_status_expires_after_the_time_limit() {
        let now = Instant::now();
        for (status, is_absent) in [
            (PeerStatus::Unknown("no answer".into()), false),
            (PeerStatus::Hung(replica(1)), false),
            (PeerStatus::Refused, true),
            (PeerStatus::Gone(replica(1)), true),
        ] {
            let seen = statuses(&status);
            let found = elsewhere("default", "me", &[hint("a", now)], &seen, now);
            assert_eq!(found == Elsewhere::NoReplica, is_absent, "{status:?}: {found:?}");
            let later = elsewhere("default", "me", &[hint("a", now)], &seen, now + UNKNOWN_FOR);
            assert_eq!(later, Elsewhere::NoReplica, "{status:?}");
            let mine = elsewhere("default", "a", &[hint("a", now)], &seen, now);
            assert_eq!(mine, Elsewhere::NoReplica, "its own predecessor: {status:?}");
        }
        let unasked = elsewhere("default", "me", &[hint("a", now)], &PeerStatuses::new(), now);
        assert!(matches!(unasked, Elsewhere::Unknown(_)), "{unasked:?}");
    }
}
