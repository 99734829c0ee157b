//! From what is in etcd to what the registration's author reads: status, conditions, reasons.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::permissions::Right;
use super::report::{Conflict, Holder, Registered, Report};
use crate::api::{
    ConditionStatus, ConditionType, EndpointStatus, PodCounts, Reason, ServiceRegistrationStatus, conditions,
};
use crate::model::listed;

/// Room for the list of endpoints in a status. An object may have about 1.5 MiB; the rest is for what the user wrote
/// and for what else is in the status.
const MAX_ENDPOINT_BYTES: usize = 1_000_000;

/// Maximum length of the list of endpoints in a status, as the CRD states it.
const MAX_ENDPOINTS: usize = 1000;

/// How many keys or pods a message names before it says how many more there are.
const NAMED: usize = 3;

/// The registration a status is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// `metadata.generation` of the spec that the report is about.
    pub generation: i64,
    /// The service's name as consumers know it.
    pub service: &'a str,
    /// The Registry's name.
    pub registry: &'a str,
    /// What it registers.
    pub kind: EndpointKind,
    /// How many of these there are, ready or not.
    pub selected: usize,
    /// Why nothing, or not everything, of its Service can be registered now: the reason, and what to do about it.
    pub obstacle: Option<(Reason, &'a str)>,
    /// Why attributes are in no record, although everything else is registered: the reason, and what to do about it.
    pub missing: Option<(Reason, &'a str)>,
    /// What is known of removals that are held back in the Registry.
    pub holding: &'a Holding,
    /// Why formats of it are not written: another registration's are in the way.
    pub suppressed: &'a [String],
}

/// What a registration registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointKind {
    /// The pods that its selector selects.
    #[default]
    SelectedPods,
    /// The pods of a Service.
    ServicePods,
    /// The nodes that lead to a Service.
    Nodes,
    /// The addresses that lead to a Service, or those in its EndpointSlices.
    Addresses,
}

impl EndpointKind {
    /// Returns the word for several of them.
    pub fn plural(self) -> &'static str {
        match self {
            Self::SelectedPods | Self::ServicePods => "pods",
            Self::Nodes => "nodes",
            Self::Addresses => "addresses",
        }
    }

    /// Returns what to say if there are `selected` of them, and none is ready.
    fn none_ready(self, selected: usize) -> String {
        match self {
            Self::SelectedPods | Self::ServicePods => format!(
                "None of the {selected} selected pods is ready: look for their readiness probes and events with `kubectl describe pods`."
            ),
            Self::Nodes => format!(
                "None of the {selected} nodes is ready and leads to a ready pod of the Service: look for the readiness probes and events of its pods with `kubectl describe pods`."
            ),
            Self::Addresses => format!(
                "None of the {selected} addresses leads to a ready endpoint of the Service: look for the readiness of its pods, or of the endpoints in its EndpointSlices."
            ),
        }
    }

    /// Returns what to say if there are none.
    fn none(self) -> &'static str {
        match self {
            Self::SelectedPods => "No pod of this namespace has the labels of spec.selector now",
            Self::ServicePods => "The Service has no pods now",
            Self::Nodes => "There are no pods behind the Service now, or no nodes that load balancers may use",
            Self::Addresses => "The Service has no endpoints now",
        }
    }

    /// Returns how to find out why there are none.
    fn search(self) -> &'static str {
        match self {
            Self::SelectedPods => "compare spec.selector with their labels in `kubectl get pods --show-labels`",
            Self::ServicePods | Self::Nodes | Self::Addresses => {
                "compare the selector of the Service with their labels in `kubectl get pods --show-labels`, and see its EndpointSlices"
            }
        }
    }
}

/// What is known of the removals that are held back in a Registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing yet: this replica has not looked, and a predecessor may have held some back.
    Undecided,
    /// None are.
    Nothing,
    /// Some are; this is what is said of them.
    Some(Arc<str>),
}

impl Holding {
    /// The condition that tells it.
    pub fn reported(&self) -> (ConditionStatus, Reason, &str) {
        match self {
            Self::Undecided => (
                ConditionStatus::Unknown,
                Reason::Undecided,
                "It is not known yet whether removals are held back.",
            ),
            Self::Nothing => (ConditionStatus::False, Reason::NothingHeld, "No removal is held back."),
            Self::Some(notice) => (ConditionStatus::True, Reason::LossAboveLimit, notice),
        }
    }
}

/// How the operator stands with the registry, as far as a registration is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All is known, writes go through.
    Firm,
    /// Not everything needed has been read yet.
    Starting,
    /// Writes do not go through, because of this.
    Unreachable(String),
}

/// The status of a registration that is carried out.
pub fn status_of(
    report: &Report<'_>,
    readiness: &Readiness,
    subject: Subject<'_>,
    now: &Time,
) -> ServiceRegistrationStatus {
    let (endpoints, omitted) = endpoints_of(&report.endpoints);
    let mut conditions = Conditions::from(subject, now);
    let registry = subject.registry;
    let (synced, synced_reason, synced_message) = synced(report, readiness, subject);
    let (ready, reason, message) = ready(report, subject, synced);
    conditions.set(ConditionType::Ready, ready, reason, &message);
    conditions.set(
        ConditionType::Accepted,
        ConditionStatus::True,
        Reason::Accepted,
        &format!("Registry \"{registry}\" registers this service."),
    );
    if let Some((reason, message)) = subject.obstacle.or(subject.missing) {
        conditions.set(ConditionType::Accepted, ConditionStatus::False, reason, message);
    }
    conditions.set(ConditionType::Synced, synced, synced_reason, &synced_message);
    let (conflict, reason, message) = conflict(&report.conflicts, subject.suppressed);
    conditions.set(ConditionType::Conflict, conflict.into(), reason, &message);
    let (held, reason, message) = held(report.held, subject.holding);
    conditions.set(ConditionType::RemovalsHeld, held, reason, &message);
    ServiceRegistrationStatus {
        observed_generation: Some(subject.generation),
        service_name: Some(subject.service.to_owned()),
        pods: Some(PodCounts {
            selected: count(subject.selected),
            ready: count(report.ready),
            registered: count(registered(report, subject.suppressed)),
        }),
        endpoints,
        endpoints_omitted: (omitted > 0).then(|| count(omitted)),
        conditions: conditions.list,
        ..ServiceRegistrationStatus::default()
    }
}

/// The status of a registration that cannot be carried out, for `reason`.
pub fn refused_status(reason: Reason, message: &str, subject: Subject<'_>, now: &Time) -> ServiceRegistrationStatus {
    let mut conditions = Conditions::from(subject, now);
    conditions.set(ConditionType::Accepted, ConditionStatus::False, reason, message);
    for kind in [ConditionType::Ready, ConditionType::Synced] {
        conditions.set(
            kind,
            ConditionStatus::False,
            Reason::NotAccepted,
            "See the condition Accepted.",
        );
    }
    ServiceRegistrationStatus {
        observed_generation: Some(subject.generation),
        service_name: Some(subject.service.to_owned()),
        conditions: conditions.list,
        ..ServiceRegistrationStatus::default()
    }
}

struct Conditions<'a> {
    list: Vec<Condition>,
    generation: i64,
    now: &'a Time,
}

impl<'a> Conditions<'a> {
    fn from(subject: Subject<'_>, now: &'a Time) -> Self {
        Self {
            list: Vec::new(),
            generation: subject.generation,
            now,
        }
    }

    fn set(&mut self, kind: ConditionType, status: ConditionStatus, reason: Reason, message: &str) {
        conditions::set(
            &mut self.list,
            kind,
            status,
            reason,
            message,
            Some(self.generation),
            self.now,
        );
    }
}

/// How many pods have all that they should have: none where a whole format is not written.
fn registered(report: &Report<'_>, suppressed: &[String]) -> usize {
    if suppressed.is_empty() { report.registered } else { 0 }
}

fn synced(report: &Report<'_>, readiness: &Readiness, subject: Subject<'_>) -> (ConditionStatus, Reason, String) {
    let suppressed = subject.suppressed;
    let (registered, what) = (registered(report, suppressed), subject.kind.plural());
    let pods = || {
        let waiting = match report.waiting.len() {
            0 => String::new(),
            pods => format!(" Not ready for spec.minReadySeconds yet: {pods}."),
        };
        format!("{registered} of {} ready {what} are registered.{waiting}", report.ready)
    };
    if let Some((Reason::NodesUnknown, _)) = subject.obstacle {
        let message = "What is registered stays registered. See the condition Accepted.";
        return (ConditionStatus::False, Reason::NotAccepted, message.to_owned());
    }
    if report.suspended {
        let message = "spec.updatePolicy is Frozen: leases are renewed, keys are left as they are.";
        return (ConditionStatus::False, Reason::Frozen, message.to_owned());
    }
    match readiness {
        Readiness::Unreachable(cause) => {
            let message = format!("What is registered stays registered; changes wait: {cause}");
            return (ConditionStatus::Unknown, Reason::RegistryUnreachable, message);
        }
        Readiness::Starting => {
            let message =
                "The operator is still reading what Kubernetes and etcd hold; nothing is changed before that.";
            return (ConditionStatus::Unknown, Reason::Starting, message.to_owned());
        }
        Readiness::Firm => {}
    }
    let pods = || format!("{}{}", pods(), retained(report));
    if !report.denied.is_empty() {
        let message = format!("{} {}", pods(), denied(report));
        (ConditionStatus::False, Reason::PermissionDenied, message)
    } else if report.rejected.is_some() {
        (
            ConditionStatus::False,
            Reason::RecordsRejected,
            format!("{} {}.", pods(), problems(report)),
        )
    } else if report.outstanding > 0 {
        let message = format!("{} {} keys are being written or removed.", pods(), report.outstanding);
        (ConditionStatus::False, Reason::Writing, message)
    } else if report.held > 0 {
        let message = format!("{} See the condition RemovalsHeld.", pods());
        (ConditionStatus::False, Reason::RemovalsHeld, message)
    } else if !suppressed.is_empty() {
        let message = format!("{} See the condition Conflict.", pods());
        (ConditionStatus::False, Reason::FormatsClash, message)
    } else if !report.conflicts.is_empty() {
        let message = format!("{} See the condition Conflict.", pods());
        (ConditionStatus::False, Reason::KeysHeld, message)
    } else if report.registered + report.waiting.len() < report.ready || !report.problems.is_empty() {
        let reason = report.ruled_out.unwrap_or(Reason::EndpointsRefused);
        let kept = retained(report);
        let message = match kept.trim_start() {
            "" => problems(report),
            kept => format!("{kept} {}", problems(report)),
        };
        (ConditionStatus::False, reason, message)
    } else if subject.obstacle.or(subject.missing).is_some() {
        let message = format!("{} See the condition Accepted.", pods());
        (ConditionStatus::False, Reason::NotAccepted, message)
    } else if let Some(pod) = report.kept {
        let message = format!("{} {}", pods(), kept(pod));
        (ConditionStatus::True, Reason::LastEndpointKept, message)
    } else {
        (ConditionStatus::True, Reason::InSync, pods())
    }
}

/// What etcd denies, and what to do about it.
fn denied(report: &Report<'_>) -> String {
    let reported = |(prefix, right): &(crate::model::Prefix, Right)| match right {
        Right::Read => format!("read what lies below {}", prefix.as_str()),
        Right::Write => format!("write below {}", prefix.as_str()),
    };
    format!(
        "etcd does not let the operator's user {}: nothing is written or removed there. Grant it readwrite there, with the \
         lines that `leasehold doctor --etcd-role` prints; what waits is written within half a minute of that.",
        listed(report.denied.iter().map(reported), NAMED, "and")
    )
}

/// Which records of the spec before are kept, with a space before it; nothing if none are.
fn retained(report: &Report<'_>) -> String {
    match report.retained {
        0 => String::new(),
        pods => {
            format!(
                " The newest spec cannot be carried out for {pods} pods: until it can, they keep what the spec before \
                 gave them below {}, renewed and up to date.",
                listed(&report.retained_at, NAMED, "and")
            )
        }
    }
}

fn kept(pod: &str) -> String {
    format!("The endpoint of {pod}, which was the last one, is kept: spec.lastEndpoint is Keep.")
}

fn none_available(ready: usize, what: &str) -> String {
    format!("None of the {ready} ready {what} has been ready for spec.minReadySeconds yet.")
}

/// Says of a registration without a registered endpoint that the guard holds back the removal of its keys.
fn are_held(report: &Report<'_>) -> &'static str {
    match report.held {
        0 => "",
        _ => " Keys are kept in etcd nevertheless: see the condition RemovalsHeld.",
    }
}

fn problems(report: &Report<'_>) -> String {
    let each = report
        .problems
        .iter()
        .map(|(problem, pods)| format!("{problem} ({})", listed(pods, NAMED, "and")));
    each.collect::<Vec<_>>().join("; ")
}

/// Whether a ready pod is registered. Where no pod is selected there is nothing to register: that is so once all has been
/// carried out, as `synced` says, for tools that wait for the condition wait for no more than that.
fn ready(report: &Report<'_>, subject: Subject<'_>, synced: ConditionStatus) -> (ConditionStatus, Reason, String) {
    let Subject { kind, selected, .. } = subject;
    let what = kind.plural();
    let (ready, reason, message) = if let Some(pod) = report.kept.filter(|_| !report.endpoints.is_empty()) {
        let lacks = match report.waiting.len() {
            0 => "No endpoint is ready.".to_owned(),
            waiting => none_available(waiting, what),
        };
        (false, Reason::LastEndpointKept, format!("{lacks} {}", kept(pod)))
    } else if !report.endpoints.is_empty() {
        let message = format!("{} endpoints are in etcd.", report.endpoints.len());
        (true, Reason::EndpointsRegistered, message)
    } else if report.ready > 0 && report.ready == report.waiting.len() {
        let message = format!("{}{}", none_available(report.ready, what), are_held(report));
        (false, Reason::NoAvailablePods, message)
    } else if report.ready > 0 {
        let message = format!("There are ready {what}, but none of them is in etcd: see the condition Synced.");
        (false, Reason::NothingRegistered, message)
    } else if subject.obstacle.is_some() {
        let message = "Nothing can be registered: see the condition Accepted.";
        (false, Reason::NotAccepted, message.to_owned())
    } else if selected > 0 {
        let message = format!("{}{}", kind.none_ready(selected), are_held(report));
        (false, Reason::NoReadyPods, message)
    } else if synced == ConditionStatus::True || report.suspended {
        let message = format!(
            "{}, so there is nothing to register. This is normal for a workload that is scaled to zero; if pods are running, {}.",
            kind.none(),
            kind.search()
        );
        (true, Reason::NoPods, message)
    } else {
        let message = format!("{}; see the condition Synced for what remains to be done.", kind.none());
        return (synced, Reason::NoPods, message);
    };
    (ready.into(), reason, message)
}

fn held(keys: usize, holding: &Holding) -> (ConditionStatus, Reason, String) {
    let (held, reason, message) = match holding {
        // Somebody else's.
        Holding::Some(_) if keys == 0 => Holding::Nothing.reported(),
        known => known.reported(),
    };
    let message = match held {
        ConditionStatus::True => {
            format!("{keys} keys are kept in etcd though they are not desired: {message}")
        }
        _ => message.to_owned(),
    };
    (held, reason, message)
}

fn conflict(conflicts: &[Conflict], suppressed: &[String]) -> (bool, Reason, String) {
    if !suppressed.is_empty() {
        let held = match conflicts {
            [] => String::new(),
            _ => format!(" {}", conflict(conflicts, &[]).2),
        };
        let message = format!(
            "{}. Until then nothing is written for it.{held}",
            listed(suppressed, NAMED, "and")
        );
        return (true, Reason::FormatsClash, message);
    }
    let Some(first) = conflicts.first() else {
        return (
            false,
            Reason::NoConflict,
            "Nobody else holds a key of this service.".to_owned(),
        );
    };
    let reason = match first.holder {
        Holder::OtherClient { .. } => Reason::HeldByOther,
        Holder::Registration(_) => Reason::HeldByRegistration,
    };
    let reported = |conflict: &Conflict| {
        let holder = match &conflict.holder {
            Holder::OtherClient { lease, create_revision } if *lease == crate::model::LeaseId::NONE => {
                format!("by someone outside this cluster (no lease, created at revision {create_revision})")
            }
            Holder::OtherClient { lease, create_revision } => {
                format!("by someone outside this cluster (lease {lease}, created at revision {create_revision})")
            }
            Holder::Registration(registration) => format!("by the registration {registration}, which claimed it first"),
        };
        let along = match &conflict.along[..] {
            [] => String::new(),
            keys => format!(" (and {} makes no sense without it)", listed(keys, NAMED, "and")),
        };
        format!("{} is held {holder}{along}", conflict.key)
    };
    let message = format!(
        "{}. It is left alone, and taken as soon as it is free.",
        listed(conflicts.iter().map(reported), NAMED, "and")
    );
    (true, reason, message)
}

fn endpoints_of(registered: &[Registered<'_>]) -> (Vec<EndpointStatus>, usize) {
    let mut bytes = 0;
    let mut listed = Vec::with_capacity(registered.len().min(MAX_ENDPOINTS));
    for Registered { pod, endpoint, keys } in registered {
        let status = EndpointStatus {
            pod: pod.to_string(),
            address: endpoint.address.to_string(),
            port: endpoint.port,
            port_name: endpoint.port_name.to_string(),
            keys: keys.iter().map(ToString::to_string).collect(),
        };
        bytes += serde_json::to_vec(&status).map_or(0, |json| json.len() + 1);
        if listed.len() == MAX_ENDPOINTS || bytes > MAX_ENDPOINT_BYTES {
            break;
        }
        listed.push(status);
    }
    let omitted = registered.len() - listed.len();
    (listed, omitted)
}

/// Returns `number` as it is shown in a status.
pub fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
