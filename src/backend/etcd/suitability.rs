//! Decides which endpoints may be used: keeps the state of each endpoint and derives the order of use and the cluster
//! in use. Pure; time is a parameter.
//!
//! Every call, stream and probe records its outcome here, and all of them choose their endpoint by this state.

use std::time::Duration;

use tokio::time::Instant;

use super::error::Error;

/// How long a fault must last before it is reported: members restart, and etcd elects new leaders.
const GRACE: Duration = Duration::from_secs(5);

/// Why an endpoint is not used while another one is usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointFault {
    /// The member is a learner: it receives the cluster's data and serves no requests.
    Learner,
    /// The member does not know its cluster's version yet.
    NotCapable,
    /// The CORRUPT alarm.
    Corrupt,
    /// The member belongs to another cluster.
    OtherCluster {
        /// The cluster id that the endpoint reports.
        theirs: u64,
        /// The id of the cluster in use.
        ours: u64,
    },
    /// The server does not speak etcd's protocol.
    NoEtcd {
        /// A description of the server's answer.
        answer: String,
    },
    /// The member knows no leader of its cluster.
    NoLeader,
    /// No connection.
    Unreachable,
    /// The endpoint is connected and does not answer, while another endpoint does.
    NotAnswering,
}

impl EndpointFault {
    /// Returns the fault that `error` shows about its endpoint; `None` if the error concerns the request or proves too
    /// little. A single time-out proves too little.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Endpoint { fault, .. } => Some(fault.clone()),
            error if error.is_no_leader() => Some(Self::NoLeader),
            Error::Unreachable { .. } | Error::Tls { .. } => Some(Self::Unreachable),
            _ => None,
        }
    }

    /// Whether any answer of the endpoint ends the fault.
    fn ends_with_an_answer(&self) -> bool {
        matches!(self, Self::Unreachable | Self::NotAnswering)
    }

    /// Whether streams to the endpoint are useless even if they are still open.
    pub(super) fn ends_streams(&self) -> bool {
        match self {
            Self::Learner | Self::OtherCluster { .. } | Self::NoEtcd { .. } | Self::NotAnswering => true,
            Self::NotCapable | Self::Corrupt | Self::NoLeader | Self::Unreachable => false,
        }
    }

    /// Returns a CamelCase word for conditions, Events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Learner => "Learner",
            Self::NotCapable => "NotCapable",
            Self::Corrupt => "Corrupt",
            Self::OtherCluster { .. } => "OtherCluster",
            Self::NoEtcd { .. } => "NoEtcd",
            Self::NoLeader => "NoLeader",
            Self::Unreachable => "Unreachable",
            Self::NotAnswering => "NotAnswering",
        }
    }

    /// Describes the fault of `endpoint`, with advice.
    pub fn describe(&self, endpoint: &str) -> String {
        match self {
            Self::Learner => format!(
                "{endpoint} is a learner, which serves no requests: promote it with `etcdctl member promote`, or remove it \
                 from spec.etcd.endpoints"
            ),
            Self::NotCapable => format!(
                "{endpoint} does not know its cluster's version yet and serves no requests: check that it reaches the other \
                 members"
            ),
            Self::Corrupt => format!(
                "{endpoint} reports corrupt data in its cluster and refuses writes (alarm CORRUPT): replace the corrupt member, \
                 then run `etcdctl alarm disarm`"
            ),
            Self::OtherCluster { theirs, ours } => format!(
                "{endpoint} belongs to another etcd cluster ({theirs:x}) than the one in use ({ours:x}): remove it from \
                 spec.etcd.endpoints and create a separate Registry for it"
            ),
            Self::NoEtcd { answer } => format!(
                "{endpoint} is not an etcd server ({answer}): use the client URL of a member, by default on port 2379"
            ),
            Self::NoLeader => {
                format!("{endpoint} knows no leader of its cluster: check that it reaches a majority of the members")
            }
            Self::Unreachable => {
                format!(
                    "{endpoint} is unreachable: check that it is running and that no firewall or NetworkPolicy blocks \
                     the connection"
                )
            }
            Self::NotAnswering => {
                format!(
                    "{endpoint} does not answer, but another endpoint does: check for a paused or overloaded member"
                )
            }
        }
    }
}

/// What a member reports about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberStatus {
    pub(super) cluster: u64,
    pub(super) is_learner: bool,
    pub(super) has_leader: bool,
    pub(super) is_corrupt: bool,
}

/// The state of one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Suitability {
    /// The cluster it belongs to, as reported since its connection last failed.
    cluster: Option<u64>,
    /// The last cluster in use to which the endpoint belonged.
    served: Option<u64>,
    /// The fault, and since when.
    fault: Option<(EndpointFault, Instant)>,
    /// Whether the endpoint ever answered a request.
    has_answered: bool,
}

impl Suitability {
    pub(super) fn cluster(&self) -> Option<u64> {
        self.cluster
    }

    pub(super) fn fault(&self) -> Option<&EndpointFault> {
        self.fault.as_ref().map(|(fault, _)| fault)
    }

    /// Returns the fault if it is old enough to be reported.
    pub(super) fn reported(&self, now: Instant) -> Option<&EndpointFault> {
        self.fault
            .as_ref()
            .filter(|(_, since)| now >= *since + GRACE)
            .map(|(fault, _)| fault)
    }

    /// Whether nothing is known about the endpoint yet.
    pub(super) fn is_pending(&self) -> bool {
        self.cluster.is_none() && self.fault.is_none() && !self.has_answered
    }

    /// Records that the endpoint answered a request in any way.
    pub(super) fn record_answer(&mut self) {
        self.has_answered = true;
        if self.fault().is_some_and(EndpointFault::ends_with_an_answer) {
            self.fault = None;
        }
    }

    /// Records a fault; true if this kind of fault is new.
    pub(super) fn record_fault(&mut self, fault: EndpointFault, now: Instant) -> bool {
        match &fault {
            // Another server may listen there after the interruption.
            EndpointFault::Unreachable | EndpointFault::NoEtcd { .. } => self.cluster = None,
            EndpointFault::OtherCluster { theirs, .. } => self.cluster = Some(*theirs),
            _ => {}
        }
        // The message may differ between answers of one kind; the first one is kept.
        let is_new_fault = self.fault().is_none_or(|known| known.reason() != fault.reason());
        if is_new_fault {
            self.fault = Some((fault, now));
        }
        is_new_fault
    }

    /// Records the cluster that the endpoint reported.
    pub(super) fn set_cluster(&mut self, cluster: u64) {
        self.cluster = Some(cluster);
    }

    /// Compares the endpoint with `ours`, the cluster in use; true if this shows a new fault.
    pub(super) fn reevaluate(&mut self, ours: u64, now: Instant) -> bool {
        let is_foreign = matches!(self.fault(), Some(EndpointFault::OtherCluster { .. }));
        match self.cluster {
            Some(theirs) if theirs != ours => self.record_fault(EndpointFault::OtherCluster { theirs, ours }, now),
            Some(_) => {
                self.served = Some(ours);
                if is_foreign {
                    self.fault = None;
                }
                false
            }
            None => false,
        }
    }

    /// Derives the fault from the member's report and from `ours`, the cluster in use; true if this shows a new fault.
    pub(super) fn record_status(&mut self, status: MemberStatus, ours: Option<u64>, now: Instant) -> bool {
        self.record_answer();
        self.cluster = Some(status.cluster);
        let fault = match ours {
            Some(ours) if ours != status.cluster => Some(EndpointFault::OtherCluster {
                theirs: status.cluster,
                ours,
            }),
            _ if status.is_learner => Some(EndpointFault::Learner),
            _ if status.is_corrupt => Some(EndpointFault::Corrupt),
            _ if !status.has_leader => Some(EndpointFault::NoLeader),
            _ => None,
        };
        if ours == Some(status.cluster) {
            self.served = ours;
        }
        let Some(fault) = fault else {
            self.fault = None;
            return false;
        };
        self.record_fault(fault, now)
    }
}

/// Returns the indices of the endpoints in the order in which they are asked: from `preferred` on, endpoints without a
/// fault first.
pub(super) fn order<'a>(known: impl ExactSizeIterator<Item = &'a Suitability> + Clone, preferred: usize) -> Vec<usize> {
    let count = known.len();
    let faulty: Vec<bool> = known.map(|one| one.fault.is_some()).collect();
    let mut order: Vec<usize> = (0..count).map(|offset| (preferred + offset) % count).collect();
    // A stable sort keeps the order within each group.
    order.sort_by_key(|index| faulty[*index]);
    order
}

/// Returns the cluster in use; `None` while that is undecided. `before` is the cluster in use until now. `is_late`
/// means that endpoints without an answer are no longer waited for.
///
/// A write must never reach a cluster other than the one that holds the operator's keys. So the cluster in use stays in
/// use, whatever other endpoints report. It counts as replaced (a backup was restored) only when more than half of the
/// endpoints that served it belong to one other cluster and no endpoint belongs to it any more. At the start, the
/// cluster of more than half of the endpoints is chosen at once. Otherwise the most frequent cluster is chosen when all
/// endpoints are known or `is_late` is set. On a tie, the cluster of the first endpoint wins.
pub(super) fn cluster_in_use(known: &[&Suitability], before: Option<u64>, is_late: bool) -> Option<u64> {
    let count = |cluster: u64| known.iter().filter(|one| one.cluster == Some(cluster)).count();
    if let Some(before) = before {
        let served: Vec<u64> = known
            .iter()
            .filter(|one| one.served == Some(before))
            .filter_map(|one| one.cluster)
            .collect();
        let of = known.iter().filter(|one| one.served == Some(before)).count();
        let moved = served
            .iter()
            .find(|now| 2 * served.iter().filter(|one| one == now).count() > of);
        return match moved {
            Some(now) if count(before) == 0 => Some(*now),
            _ => Some(before),
        };
    }
    let clusters: Vec<u64> = known.iter().filter_map(|one| one.cluster).collect();
    if let Some(most) = clusters.iter().find(|cluster| 2 * count(**cluster) > known.len()) {
        return Some(*most);
    }
    if !is_late && known.iter().any(|one| one.is_pending()) {
        return None;
    }
    // `max_by_key` returns the last maximum; reversed, that is the first in configured order.
    clusters.iter().rev().max_by_key(|cluster| count(**cluster)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cluster: u64) -> Suitability {
        Suitability {
            cluster: Some(cluster),
            ..Suitability::default()
        }
    }

    fn away() -> Suitability {
        let mut known = Suitability::default();
        known.record_fault(EndpointFault::Unreachable, Instant::now());
        known
    }

    /// An endpoint that served `cluster` and is in the state `now`.
    fn served(cluster: u64, now: Suitability) -> Suitability {
        Suitability {
            served: Some(cluster),
            ..now
        }
    }

    fn in_use(known: &[Suitability], before: Option<u64>) -> Option<u64> {
        cluster_in_use(&known.iter().collect::<Vec<_>>(), before, false)
    }

    fn status(cluster: u64) -> MemberStatus {
        MemberStatus {
            cluster,
            is_learner: false,
            has_leader: true,
            is_corrupt: false,
        }
    }

    #[test]
    fn the_first_cluster_in_use_is_that_of_most_endpoints() {
        assert_eq!(in_use(&[of(2), of(1), of(1)], None), Some(1));
        assert_eq!(in_use(&[Suitability::default(), of(1), of(1)], None), Some(1));
        assert_eq!(
            in_use(&[of(2), Suitability::default(), of(1)], None),
            None,
            "one endpoint is pending"
        );
        assert_eq!(
            in_use(&[away(), away(), of(1)], None),
            Some(1),
            "no other endpoint is pending"
        );
        assert_eq!(in_use(&[of(2), of(1)], None), Some(2), "the first in configured order");
        assert_eq!(in_use(&[of(2), away(), of(1), of(1), away()], None), Some(1));
        assert_eq!(in_use(&[away(), away()], None), None);
        let hanging = [Suitability::default(), of(1)];
        let known: Vec<_> = hanging.iter().collect();
        assert_eq!(cluster_in_use(&known, None, true), Some(1));
    }

    #[test]
    fn cluster_in_use_is_kept_while_one_of_its_endpoints_remains() {
        assert_eq!(in_use(&[served(1, of(1)), of(2), of(2)], Some(1)), Some(1));
        assert_eq!(in_use(&[served(1, away()), of(2), of(2)], Some(1)), Some(1));
        assert_eq!(in_use(&[served(1, of(2)), served(1, of(1))], Some(1)), Some(1));
        assert_eq!(in_use(&[served(1, of(2)), served(1, away())], Some(1)), Some(1));
    }

    #[test]
    fn a_restored_cluster_with_another_id_is_followed() {
        assert_eq!(in_use(&[served(1, of(2))], Some(1)), Some(2));
        let two_of_three = [served(1, of(2)), served(1, away()), served(1, of(2))];
        assert_eq!(in_use(&two_of_three, Some(1)), Some(2));
    }

    #[test]
    fn faulty_endpoints_are_ordered_last_in_rotation() {
        let known = [of(1), away(), of(1), away()];
        assert_eq!(order(known.iter(), 1), [2, 0, 1, 3]);
        assert_eq!(order(known.iter(), 0), [0, 2, 1, 3]);
        let none = [away(), away()];
        assert_eq!(order(none.iter(), 1), [1, 0], "all have a fault");
    }

    #[test]
    fn fault_is_cleared_by_a_healthy_member_status() {
        let now = Instant::now();
        let mut known = Suitability::default();
        let learner = MemberStatus {
            is_learner: true,
            ..status(1)
        };
        assert!(known.record_status(learner, Some(1), now));
        assert!(!known.record_status(learner, Some(1), now), "known");
        known.record_answer();
        assert_eq!(known.fault(), Some(&EndpointFault::Learner));
        assert_eq!(known.reported(now), None, "not at once");
        assert_eq!(known.reported(now + GRACE), Some(&EndpointFault::Learner));
        known.record_status(status(1), Some(1), now);
        assert_eq!(known.fault(), None);
        known.record_fault(EndpointFault::NotAnswering, now);
        known.record_answer();
        assert_eq!(known.fault(), None);
    }

    #[test]
    fn a_single_timeout_is_no_endpoint_fault() {
        let late = Error::Timeout {
            endpoints: "http://e:2379".to_owned(),
            call: "txn",
            after: Duration::from_secs(5),
        };
        assert_eq!(EndpointFault::of(&late), None);
        let denied = Error::PermissionDenied {
            message: "no".to_owned(),
        };
        assert_eq!(EndpointFault::of(&denied), None);
    }
}
