//! The status of a Registry: its conditions, leader, replicas and counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backend_health::{Connectivity, Trouble};
use super::command::Outdated;
use crate::api::{ConditionStatus, ConditionType, Reason, RegistryStatus, ReplicaStatus, conditions};
use crate::model::listed;
use crate::plan::Holding;

/// Minimum interval between two writes that change only counters.
const COUNTERS: Duration = Duration::from_secs(10);

/// Endpoints of a spec that were tried and are not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdopted {
    /// The endpoints that are used instead.
    pub in_use: Vec<String>,
    /// What is wrong with the others, and what to do.
    pub trouble: String,
}

/// The status, reason and message of a condition.
type Verdict = (ConditionStatus, Reason, String);

/// Everything that the status is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub generation: i64,
    pub link: Connectivity,
    /// What the spec says and was not adopted.
    pub not_adopted: Option<NotAdopted>,
    /// The endpoints that are last known to work.
    pub endpoints: Vec<String>,
    /// The id of the etcd cluster, as far as it is known.
    pub cluster_id: Option<u64>,
    /// Whether the credentials are in use, or why not. None if there is nothing to report.
    pub credentials: Option<Result<(), Trouble>>,
    /// A message about certificates in use that expire soon.
    pub expiring: Option<String>,
    /// The version of etcd.
    pub version: Option<String>,
    /// The replica that leads, as far as it is known.
    pub leader: Option<String>,
    /// The connected replicas, each with the address at which others reach it.
    pub replicas: Vec<(Arc<str>, Option<SocketAddr>)>,
    /// The number of leases, as far as it is known.
    pub leases: Option<usize>,
    /// The number of keys, as far as it is known.
    pub keys: Option<usize>,
    /// Whether this replica is cut off and no other replica is known to lead.
    pub is_alone: bool,
    /// The removals that the guard holds.
    pub holding: Holding,
    /// The endpoints that are not used, with reasons.
    pub unused: Option<String>,
    /// What etcd denies although it serves everything else.
    pub denied: Option<String>,
    /// Which part of the view of Kubernetes is stale.
    pub outdated: Option<Outdated>,
    /// The replicas that watch other namespaces.
    pub other_namespaces: Option<String>,
}

impl Facts {
    fn without_counters(&self) -> Self {
        Self {
            leases: None,
            keys: None,
            ..self.clone()
        }
    }

    /// Computes the condition `Connected`: which endpoints are in use, and which are not.
    fn connected(&self) -> Verdict {
        let (status, mut reason, mut message) = match &self.link {
            Connectivity::Up => {
                let message = match &self.denied {
                    None => "The operator reads, watches and writes this etcd.".to_owned(),
                    Some(denied) => format!(
                        "The operator reads, watches and writes this etcd, which denies its user {denied}: only \
                         registrations there wait. `leasehold doctor --etcd-role` prints the commands that grant it."
                    ),
                };
                (ConditionStatus::True, Reason::Connected, message)
            }
            Connectivity::Unsure => {
                let message = "The operator is connecting to this etcd.".to_owned();
                (ConditionStatus::Unknown, Reason::Connecting, message)
            }
            Connectivity::Down(trouble) => {
                let reason = self::reason(trouble.reason);
                let alone = if self.is_alone {
                    ". No other replica confirms that it reaches etcd"
                } else {
                    ""
                };
                (ConditionStatus::False, reason, format!("{}{alone}", trouble.message))
            }
        };
        match (&self.unused, &self.link) {
            (Some(endpoints), Connectivity::Up) => message = format!("{message} Not used: {endpoints}."),
            (Some(endpoints), Connectivity::Down(_)) => message = format!("{message}. Endpoints: {endpoints}."),
            _ => {}
        }
        if let Some(NotAdopted { in_use, trouble }) = &self.not_adopted {
            if self.link == Connectivity::Up {
                reason = Reason::SpecNotAdopted;
            }
            message = format!(
                "{message} In use: {}. The endpoints of the spec were tried and not adopted, and are tried again every \
                 few seconds: {trouble}.",
                in_use.join(", ")
            );
        }
        (status, reason, message)
    }

    /// Computes the condition `CredentialsValid`; none if there is nothing to report.
    fn credentials_valid(&self) -> Option<Verdict> {
        Some(match self.credentials.as_ref()? {
            Ok(()) if self.link == Connectivity::Up => {
                let mut message = "The current certificates, user name and password are in use.".to_owned();
                if let Some(expiring) = &self.expiring {
                    message.extend([" ", expiring.as_str()]);
                }
                (ConditionStatus::True, Reason::CredentialsInUse, message)
            }
            Ok(()) => (
                ConditionStatus::Unknown,
                Reason::Connecting,
                "etcd has not answered yet: see the condition Connected.".to_owned(),
            ),
            Err(trouble) => {
                let stays = match &self.link {
                    Connectivity::Up => " The previous connection stays in use.",
                    Connectivity::Unsure | Connectivity::Down(_) => "",
                };
                let message = format!("{}.{stays}", trouble.message);
                (ConditionStatus::False, self::reason(trouble.reason), message)
            }
        })
    }

    /// Computes the condition `WatchesHealthy`.
    fn watches_healthy(&self) -> Verdict {
        match &self.outdated {
            None => {
                let mut message = "The operator receives all changes from the kube-apiserver.".to_owned();
                if let Some(others) = &self.other_namespaces {
                    message =
                        format!("{message} Replicas that watch other namespaces than the leader stand by: {others}.");
                }
                (ConditionStatus::True, Reason::Watching, message)
            }
            Some(Outdated { since, targets }) => (
                ConditionStatus::False,
                Reason::WatchesStale,
                format!(
                    "The operator's view of {} is stale since {since:.0}: check that the kube-apiserver works and that \
                     the operator may list and watch them. Registered keys stay.",
                    listed(targets, NAMED, "and")
                ),
            ),
        }
    }

    /// Computes all conditions. `Ready` has the reason and the message of the first condition that is not met, else of
    /// `Connected`.
    fn conditions(&self) -> Vec<(ConditionType, Verdict)> {
        let connected = self.connected();
        let credentials = self.credentials_valid();
        let watches = self.watches_healthy();
        let is_false = |verdict: &&Verdict| verdict.0 == ConditionStatus::False;
        let ready = if connected.0 == ConditionStatus::True {
            let unmet = credentials.iter().chain([&watches]).find(is_false);
            unmet.unwrap_or(&connected)
        } else {
            &connected
        };
        let mut all = vec![
            (ConditionType::Ready, ready.clone()),
            (ConditionType::Connected, connected.clone()),
        ];
        all.extend(credentials.map(|verdict| (ConditionType::CredentialsValid, verdict)));
        let (held, reason, message) = self.holding.reported();
        all.push((ConditionType::WatchesHealthy, watches));
        all.push((ConditionType::RemovalsHeld, (held, reason, message.to_owned())));
        all
    }

    pub fn status(&self, now: &Time) -> RegistryStatus {
        let mut list = Vec::new();
        let generation = Some(self.generation);
        for (kind, (status, reason, message)) in self.conditions() {
            conditions::set(&mut list, kind, status, reason, &message, generation, now);
        }
        let count = |number| u64::try_from(number).unwrap_or(u64::MAX);
        RegistryStatus {
            observed_generation: generation,
            leader: self.leader.clone(),
            replicas: self.replicas.iter().take(REPLICAS).map(replica).collect(),
            endpoints: self.endpoints.clone(),
            cluster_id: self.cluster_id.map(|id| format!("{id:x}")),
            etcd_version: self.version.clone(),
            leases: self.leases.map(count),
            keys: self.keys.map(count),
            conditions: list,
        }
    }
}

/// Maximum number of replicas in the status.
const REPLICAS: usize = 16;

fn replica((name, address): &(Arc<str>, Option<SocketAddr>)) -> ReplicaStatus {
    ReplicaStatus {
        name: name.to_string(),
        address: address.map(|address| address.to_string()),
    }
}

/// How many watches are named before the rest is counted.
const NAMED: usize = 6;

/// Maps etcd's reasons to the few that the author of a Registry can act on.
pub fn reason(reason: &str) -> Reason {
    match reason {
        "NoLeader" => Reason::NoLeader,
        "NoSpace" => Reason::NoSpace,
        "Corrupt" => Reason::Corrupt,
        "Learner" | "NotCapable" | "OtherCluster" | "NoEtcd" => Reason::EndpointsUnusable,
        "UnsupportedVersion" => Reason::UnsupportedVersion,
        "PermissionDenied" | "Unauthenticated" => Reason::PermissionDenied,
        _ => ACCESS
            .into_iter()
            .find(|known| known.as_str() == reason)
            .unwrap_or(Reason::Unreachable),
    }
}

/// Reasons about credentials and TLS, which the status shows unchanged.
const ACCESS: [Reason; 13] = [
    Reason::CredentialsMissing,
    Reason::CredentialsMalformed,
    Reason::AuthenticationOff,
    Reason::LoginRefused,
    Reason::UserRequired,
    Reason::ServerCertificateExpired,
    Reason::UnknownAuthority,
    Reason::ServerNameMismatch,
    Reason::ServerCertificateUnusable,
    Reason::ClientCertificateExpired,
    Reason::ClientCertificateRefused,
    Reason::ClientCertificateRequired,
    Reason::TLSFailed,
];

/// Which facts were written last, and when.
#[derive(Debug, Default)]
pub struct ReportedStatus {
    last: Option<(Facts, Instant)>,
}

impl ReportedStatus {
    /// Forgets what was written: another replica may have overwritten it.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Whether `facts` are to be written now. If so, records them as written.
    pub fn report(&mut self, facts: &Facts, now: Instant) -> bool {
        let due = self.due(facts, now).is_some_and(|due| due <= now);
        if due {
            self.last = Some((facts.clone(), now));
        }
        due
    }

    /// When `facts` are to be written. None if they are written already.
    pub fn due(&self, facts: &Facts, now: Instant) -> Option<Instant> {
        match &self.last {
            None => Some(now),
            Some((reported, _)) if reported == facts => None,
            Some((reported, _)) if reported.without_counters() != facts.without_counters() => Some(now),
            Some((_, when)) => Some(*when + COUNTERS),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;
    use crate::model::{NamespaceScope, WatchTarget};

    fn facts(keys: usize, link: Connectivity) -> Facts {
        Facts {
            generation: 1,
            link,
            not_adopted: None,
            endpoints: Vec::new(),
            cluster_id: None,
            credentials: None,
            expiring: None,
            version: Some("3.6.15".to_owned()),
            leader: Some("a".to_owned()),
            replicas: Vec::new(),
            leases: Some(1),
            keys: Some(keys),
            is_alone: false,
            holding: Holding::Nothing,
            unused: None,
            denied: None,
            outdated: None,
            other_namespaces: None,
        }
    }

    fn condition(status: &RegistryStatus, kind: ConditionType) -> &Condition {
        let mut all = status.conditions.iter();
        all.find(|condition| condition.type_ == kind.as_str())
            .expect("it is set")
    }

    /// Status, reason and message of the condition `Ready`.
    fn ready(facts: &Facts) -> (String, String, String) {
        let status = facts.status(&Time(Timestamp::UNIX_EPOCH));
        let ready = condition(&status, ConditionType::Ready).clone();
        (ready.status, ready.reason, ready.message)
    }

    fn trouble(reason: &'static str, message: &str) -> Trouble {
        Trouble {
            reason,
            message: message.to_owned(),
            is_access: true,
        }
    }

    #[test]
    fn a_registry_is_ready_while_it_is_connected_and_nothing_else_is_wrong() {
        let stale = Some(Outdated {
            since: Timestamp::UNIX_EPOCH,
            targets: vec![WatchTarget::of_cluster("registries")],
        });
        let down = || Connectivity::Down(trouble("NoLeader", "elect one"));
        let refused = || Some(Err(trouble("LoginRefused", "correct it")));
        for (link, credentials, outdated, expected) in [
            (Connectivity::Up, None, None, ("True", "Connected")),
            (Connectivity::Up, Some(Ok(())), None, ("True", "Connected")),
            (Connectivity::Up, refused(), None, ("False", "LoginRefused")),
            (Connectivity::Up, Some(Ok(())), stale.clone(), ("False", "WatchesStale")),
            (Connectivity::Up, refused(), stale.clone(), ("False", "LoginRefused")),
            (Connectivity::Unsure, Some(Ok(())), None, ("Unknown", "Connecting")),
            (down(), None, None, ("False", "NoLeader")),
            (down(), refused(), stale, ("False", "NoLeader")),
        ] {
            let facts = Facts {
                credentials,
                outdated,
                ..facts(1, link)
            };
            let (status, reason, message) = ready(&facts);
            assert_eq!((&*status, &*reason), expected, "{facts:?}");
            let all = facts.status(&Time(Timestamp::UNIX_EPOCH)).conditions;
            let same = all.iter().skip(1).find(|condition| condition.reason == reason);
            assert_eq!(
                Some(message),
                same.map(|condition| condition.message.clone()),
                "{facts:?}"
            );
        }
    }

    #[test]
    fn status_counters_are_throttled_and_other_facts_reported_at_once() {
        let start = Instant::now();
        let mut reported = ReportedStatus::default();
        assert!(reported.report(&facts(1, Connectivity::Up), start));
        assert!(
            !reported.report(&facts(1, Connectivity::Up), start + COUNTERS * 2),
            "nothing has changed"
        );
        assert!(
            !reported.report(&facts(2, Connectivity::Up), start + COUNTERS / 2),
            "too early"
        );
        assert!(reported.report(&facts(2, Connectivity::Unsure), start + COUNTERS / 2));
        assert!(reported.report(&facts(3, Connectivity::Unsure), start + COUNTERS * 2));
    }

    #[test]
    fn unused_endpoints_are_named_while_others_connect() {
        let named = Facts {
            unused: Some("http://m1:2379 is a learner".to_owned()),
            ..facts(1, Connectivity::Up)
        };
        let status = named.status(&Time(Timestamp::UNIX_EPOCH));
        let connected = condition(&status, ConditionType::Connected);
        assert_eq!(
            (connected.type_.as_str(), connected.status.as_str()),
            ("Connected", "True")
        );
        assert!(
            connected.message.ends_with("Not used: http://m1:2379 is a learner."),
            "{}",
            connected.message
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_the_condition() {
        let trouble = Trouble {
            reason: "Unauthenticated",
            message: "give it a user".to_owned(),
            is_access: true,
        };
        let now = Time(Timestamp::UNIX_EPOCH);
        let status = facts(1, Connectivity::Down(trouble)).status(&now);
        let connected = condition(&status, ConditionType::Connected);
        assert_eq!(
            (
                connected.status.as_str(),
                connected.reason.as_str(),
                connected.message.as_str()
            ),
            ("False", "PermissionDenied", "give it a user")
        );
    }

    #[test]
    fn what_etcd_denies_in_places_is_said_and_does_not_make_it_unreachable() {
        let denied = Facts {
            denied: Some("writing below /shop/".to_owned()),
            ..facts(1, Connectivity::Up)
        };
        let status = denied.status(&Time(Timestamp::UNIX_EPOCH));
        let connected = condition(&status, ConditionType::Connected);
        assert_eq!(
            (connected.status.as_str(), connected.reason.as_str()),
            ("True", "Connected")
        );
        assert!(
            connected.message.contains("denies its user writing below /shop/:"),
            "{}",
            connected.message
        );
    }

    #[test]
    fn since_when_kubernetes_is_silent_is_said_at_once() {
        let start = Instant::now();
        let silent = Facts {
            outdated: Some(Outdated {
                since: Timestamp::from_second(1_700_000_000).expect("a time"),
                targets: vec![
                    WatchTarget::of_cluster("registries"),
                    WatchTarget::new("pods", NamespaceScope::namespace("shop")),
                ],
            }),
            ..facts(1, Connectivity::Up)
        };
        let mut reported = ReportedStatus::default();
        assert!(reported.report(&facts(1, Connectivity::Up), start));
        assert!(reported.report(&silent, start));
        let status = silent.status(&Time(Timestamp::UNIX_EPOCH));
        let informed = condition(&status, ConditionType::WatchesHealthy);
        assert_eq!(
            (informed.type_.as_str(), informed.reason.as_str()),
            ("WatchesHealthy", "WatchesStale")
        );
        assert!(
            informed
                .message
                .contains("of registries and pods in shop is stale since 2023-11-14T22:13:20Z:"),
            "{}",
            informed.message
        );
    }

    #[test]
    fn replicas_of_other_namespaces_are_named_and_watches_stay_healthy() {
        let facts = Facts {
            other_namespaces: Some("operator-1 (bank)".to_owned()),
            ..facts(1, Connectivity::Up)
        };
        let status = facts.status(&Time(Timestamp::UNIX_EPOCH));
        let watches = condition(&status, ConditionType::WatchesHealthy);
        assert_eq!(watches.status, "True");
        assert!(
            watches.message.ends_with("stand by: operator-1 (bank)."),
            "{}",
            watches.message
        );
    }

    #[test]
    fn what_is_held_is_said_at_once_with_how_to_approve() {
        let start = Instant::now();
        let held = Facts {
            holding: Holding::Some("20 of 20 keys".into()),
            ..facts(1, Connectivity::Up)
        };
        let mut reported = ReportedStatus::default();
        assert!(reported.report(&facts(1, Connectivity::Up), start));
        assert!(reported.report(&held, start));
        let status = held.status(&Time(Timestamp::UNIX_EPOCH));
        let condition = condition(&status, ConditionType::RemovalsHeld);
        assert_eq!(
            (
                condition.type_.as_str(),
                condition.reason.as_str(),
                condition.message.as_str()
            ),
            ("RemovalsHeld", "LossAboveLimit", "20 of 20 keys")
        );
    }
}
