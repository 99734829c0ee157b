//! The condition types and reasons of all statuses, and how a condition is set.
//!
//! Reasons are part of the API: scripts and alerts compare them. Messages are for people and may change.

use super::ServiceRegistrationStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// Of a ServiceRegistration: the spec is valid and its Registry exists. Of a RecordFormat: the templates are valid.
    Accepted,
    /// Of a ServiceRegistration: the keys in etcd match the pods exactly.
    Synced,
    /// Of a ServiceRegistration: at least one ready pod is registered, or the selector matches no pod. Of a Registry: it
    /// can be used. Of a RecordFormat: the templates are valid.
    Ready,
    /// Of a ServiceRegistration: another owner holds a key that this registration wants.
    Conflict,
    /// Of a ServiceRegistration and of a Registry: mass-removal protection keeps keys that are not desired,
    /// because too many endpoints would lose keys at once.
    RemovalsHeld,
    /// Of a Registry: the operator can reach the etcd.
    Connected,
    /// Of a Registry with TLS or a user: the operator uses the certificates, user and password that the Secrets hold
    /// now.
    CredentialsValid,
    /// Of a Registry: the operator's watches on the kube-apiserver are up to date.
    WatchesHealthy,
}

impl ConditionType {
    /// Returns the text used in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Synced => "Synced",
            Self::Ready => "Ready",
            Self::Conflict => "Conflict",
            Self::RemovalsHeld => "RemovalsHeld",
            Self::Connected => "Connected",
            Self::CredentialsValid => "CredentialsValid",
            Self::WatchesHealthy => "WatchesHealthy",
        }
    }
}

/// The reason of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Accepted=True.
    Accepted,
    /// Accepted=False: the Registry named in the spec does not exist.
    RegistryNotFound,
    /// Accepted=False: a RecordFormat named in the spec does not exist.
    RecordFormatNotFound,
    /// Accepted=False: a RecordFormat named in the spec is not accepted, or does not fit the registration.
    RecordFormatUnusable,
    /// Accepted=False: the Service named in the spec does not exist.
    ServiceNotFound,
    /// Accepted=False: the Service has no address of the type that the spec asks for, or no such port.
    ServiceUnusable,
    /// Accepted=False: the load balancer of the Service has no address yet.
    AddressPending,
    /// Accepted=False: the operator does not know the nodes of the cluster. Registered keys stay.
    NodesUnknown,
    /// Accepted=False: the spec, as written, cannot be carried out.
    InvalidSpec,
    /// Accepted=False: the prefix of a format overlaps the Registry's metaPrefix.
    PrefixReserved,
    /// Accepted=False and Synced=False: the Registry's `access` rules do not allow the keys of the registration. Keys
    /// that are not allowed are not in etcd.
    AccessDenied,

    /// Accepted=False, of a RecordFormat: a template is not valid Jinja, or refers to something that does not exist.
    InvalidTemplate,
    /// Accepted=False, of a RecordFormat: a template takes too many steps or prints too much.
    TemplateTooCostly,
    /// Accepted=False, of a RecordFormat: two endpoints, or two records of one endpoint, would have the same key.
    KeyNotUnique,
    /// Accepted=False, of a RecordFormat: a key is not below the registration's prefix.
    KeyOutsidePrefix,
    /// Accepted=False, of a RecordFormat: consumers cannot read a key.
    InvalidKey,
    /// Accepted=False, of a RecordFormat: a value must be JSON and is not.
    ValueNotJSON,

    /// Synced=True.
    InSync,
    /// Synced=True and Ready=False: no pod is ready, and the last endpoint is kept because `lastEndpoint` is Keep.
    LastEndpointKept,
    /// Synced=False: writes are in progress.
    Writing,
    /// Synced=False or Unknown: the operator cannot reach the etcd. Registered keys stay.
    RegistryUnreachable,
    /// Synced=Unknown and Ready=Unknown: no replica of the operator confirms the contents of etcd any more.
    NotConfirmed,
    /// Synced=Unknown: the operator is starting and does not yet have all the state that it needs before it may write.
    Starting,
    /// Synced=False: `updatePolicy` is Frozen; the keys stay as they are.
    Frozen,
    /// Synced=False: some ready pods cannot be registered: they lack a port or an address of the family, or a format
    /// rejects them.
    EndpointsRefused,
    /// Synced=False: etcd rejects the records of some endpoints because of their content, such as values that are too
    /// large.
    RecordsRejected,
    /// Synced=False: the namespace has as many keys as the Registry's `access` rules allow, and some pods are not
    /// registered.
    QuotaExceeded,
    /// Synced=False: another owner holds some keys; see Conflict.
    KeysHeld,
    /// Synced=False: mass-removal protection keeps some keys that are not desired; see the condition RemovalsHeld.
    RemovalsHeld,
    /// Synced=False and Ready=False: see Accepted.
    NotAccepted,

    /// Ready=True: at least one ready pod is registered.
    EndpointsRegistered,
    /// Ready=True: the selector matches no pod, so there is nothing to register. While removals are still to be carried
    /// out, Ready is False or Unknown, as Synced is.
    NoPods,
    /// Ready=False: the selector matches pods, but none of them is ready.
    NoReadyPods,
    /// Ready=False: some pods are ready, but none of them has been ready for `minReadySeconds` yet.
    NoAvailablePods,
    /// Ready=False: some pods are ready, but none of them is in etcd; see Synced.
    NothingRegistered,

    /// Conflict=False.
    NoConflict,
    /// Conflict=True: a client that is not a registration of this cluster holds a key.
    HeldByOther,
    /// Conflict=True: a key belongs to an older registration.
    HeldByRegistration,
    /// Conflict=True and Synced=False: consumers of a format would read the keys of another registration's format. The
    /// format of the older registration is written, the other one is not.
    FormatsClash,

    /// RemovalsHeld=False.
    NothingHeld,
    /// RemovalsHeld=Unknown: the leader has not decided yet. The condition that its predecessor wrote is left as it is.
    Undecided,
    /// RemovalsHeld=True: more keys than the guard's limit allows would have been removed within its window.
    LossAboveLimit,

    /// WatchesHealthy=True.
    Watching,
    /// WatchesHealthy=False: the operator's caches of Kubernetes objects are stale. Registered keys stay.
    WatchesStale,

    /// Connected=True.
    Connected,
    /// Connected=True: the operator uses other endpoints than the spec names, because it tried those of the spec and
    /// they do not work.
    SpecNotAdopted,
    /// Connected=Unknown: the operator is making the first connection.
    Connecting,
    /// Connected=False: no etcd member answers.
    Unreachable,
    /// Connected=False: members answer, but the cluster has no leader.
    NoLeader,
    /// Connected=False: endpoints answer, but none of them is usable: learners, members of another cluster, or not etcd
    /// at all.
    EndpointsUnusable,
    /// Connected=False: etcd reports that its data is corrupt (alarm CORRUPT) and refuses writes. Registered keys stay.
    Corrupt,
    /// Connected=False: the etcd's database is full. Registered keys stay, and writes that need no new lease still
    /// succeed.
    NoSpace,
    /// Connected=False: etcd denies the operator access. Synced=False: etcd denies the operator read or write access to
    /// the registration's keys; other registrations of the Registry are not affected.
    PermissionDenied,
    /// CredentialsValid=True.
    CredentialsInUse,
    /// CredentialsValid=False and Connected=False: a Secret or ConfigMap, or a key in it, does not exist or the operator may
    /// not read it.
    CredentialsMissing,
    /// CredentialsValid=False and Connected=False: a Secret or ConfigMap does not hold a valid certificate, key or text.
    CredentialsMalformed,
    /// CredentialsValid=False: the Registry names a user, but authentication is disabled in the etcd.
    AuthenticationOff,
    /// Connected=False and CredentialsValid=False: the user does not exist or has another password.
    LoginRefused,
    /// Connected=False and CredentialsValid=False: the etcd requires a user and the Registry names none.
    UserRequired,
    /// Connected=False and CredentialsValid=False: the etcd's certificate has expired or is not valid yet.
    ServerCertificateExpired,
    /// Connected=False and CredentialsValid=False: the etcd's certificate is not signed by a CA that the Registry trusts.
    UnknownAuthority,
    /// Connected=False and CredentialsValid=False: the etcd's certificate is for another name.
    ServerNameMismatch,
    /// Connected=False and CredentialsValid=False: no TLS client may accept the etcd's certificate, regardless of the CA
    /// that signed it.
    ServerCertificateUnusable,
    /// Connected=False and CredentialsValid=False: the operator's client certificate has expired.
    ClientCertificateExpired,
    /// Connected=False and CredentialsValid=False: the etcd does not accept the operator's certificate.
    ClientCertificateRefused,
    /// Connected=False and CredentialsValid=False: the etcd requires a client certificate and the Registry names none.
    ClientCertificateRequired,
    /// Connected=False and CredentialsValid=False: the TLS connection fails for another reason.
    TLSFailed,
    /// Connected=False: the etcd is older than the operator supports.
    UnsupportedVersion,
}

impl Reason {
    /// Returns the text used in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::RegistryNotFound => "RegistryNotFound",
            Self::RecordFormatNotFound => "RecordFormatNotFound",
            Self::RecordFormatUnusable => "RecordFormatUnusable",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::ServiceUnusable => "ServiceUnusable",
            Self::AddressPending => "AddressPending",
            Self::NodesUnknown => "NodesUnknown",
            Self::InvalidSpec => "InvalidSpec",
            Self::PrefixReserved => "PrefixReserved",
            Self::AccessDenied => "AccessDenied",
            Self::InvalidTemplate => "InvalidTemplate",
            Self::TemplateTooCostly => "TemplateTooCostly",
            Self::KeyNotUnique => "KeyNotUnique",
            Self::KeyOutsidePrefix => "KeyOutsidePrefix",
            Self::InvalidKey => "InvalidKey",
            Self::ValueNotJSON => "ValueNotJSON",
            Self::InSync => "InSync",
            Self::LastEndpointKept => "LastEndpointKept",
            Self::Writing => "Writing",
            Self::RegistryUnreachable => "RegistryUnreachable",
            Self::NotConfirmed => "NotConfirmed",
            Self::Starting => "Starting",
            Self::Frozen => "Frozen",
            Self::EndpointsRefused => "EndpointsRefused",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::KeysHeld => "KeysHeld",
            Self::RemovalsHeld => "RemovalsHeld",
            Self::NotAccepted => "NotAccepted",
            Self::EndpointsRegistered => "EndpointsRegistered",
            Self::NoPods => "NoPods",
            Self::NoReadyPods => "NoReadyPods",
            Self::NoAvailablePods => "NoAvailablePods",
            Self::NothingRegistered => "NothingRegistered",
            Self::NoConflict => "NoConflict",
            Self::HeldByOther => "HeldByOther",
            Self::HeldByRegistration => "HeldByRegistration",
            Self::FormatsClash => "FormatsClash",
            Self::NothingHeld => "NothingHeld",
            Self::Undecided => "Undecided",
            Self::LossAboveLimit => "LossAboveLimit",
            Self::Watching => "Watching",
            Self::WatchesStale => "WatchesStale",
            Self::Connected => "Connected",
            Self::SpecNotAdopted => "SpecNotAdopted",
            Self::Connecting => "Connecting",
            Self::Unreachable => "Unreachable",
            Self::NoLeader => "NoLeader",
            Self::EndpointsUnusable => "EndpointsUnusable",
            Self::Corrupt => "Corrupt",
            Self::NoSpace => "NoSpace",
            Self::RecordsRejected => "RecordsRejected",
            Self::PermissionDenied => "PermissionDenied",
            Self::CredentialsInUse => "CredentialsInUse",
            Self::CredentialsMissing => "CredentialsMissing",
            Self::CredentialsMalformed => "CredentialsMalformed",
            Self::AuthenticationOff => "AuthenticationOff",
            Self::LoginRefused => "LoginRefused",
            Self::UserRequired => "UserRequired",
            Self::ServerCertificateExpired => "ServerCertificateExpired",
            Self::UnknownAuthority => "UnknownAuthority",
            Self::ServerNameMismatch => "ServerNameMismatch",
            Self::ServerCertificateUnusable => "ServerCertificateUnusable",
            Self::ClientCertificateExpired => "ClientCertificateExpired",
            Self::ClientCertificateRefused => "ClientCertificateRefused",
            Self::ClientCertificateRequired => "ClientCertificateRequired",
            Self::TLSFailed => "TLSFailed",
            Self::UnsupportedVersion => "UnsupportedVersion",
        }
    }
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// The operator cannot decide.
    Unknown,
}

impl ConditionStatus {
    /// Returns the text used in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// The limit that Kubernetes sets on a message, in bytes.
const MESSAGE_MAX: usize = 32 * 1024;

/// Sets the condition `kind` in `conditions` and adds it if it is missing. Sets `lastTransitionTime` to `now` only when
/// the status changes, so that setting the present condition again changes nothing.
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: &str,
    observed_generation: Option<i64>,
    now: &Time,
) {
    let mut next = Condition {
        type_: kind.as_str().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message[..message.floor_char_boundary(MESSAGE_MAX)].to_owned(),
        observed_generation,
        last_transition_time: now.clone(),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == next.type_) {
        Some(held) => {
            if held.status == next.status {
                next.last_transition_time = held.last_transition_time.clone();
            }
            *held = next;
        }
        None => conditions.push(next),
    }
}

/// Leaves conditions in `status` that nothing is known about yet as they were before. Returns whether there are any.
pub fn keep_undecided(status: &mut [Condition], before: &[Condition]) -> bool {
    let mut is_any = false;
    for condition in status {
        if condition.reason == Reason::Undecided.as_str()
            && let Some(old) = before.iter().find(|old| old.type_ == condition.type_)
        {
            condition.clone_from(old);
            is_any = true;
        }
    }
    is_any
}

/// Gives the conditions in `status` that were so before the time of their last change.
pub fn keep_times(status: &mut [Condition], before: &[Condition]) {
    for condition in status {
        let same = |old: &&Condition| old.type_ == condition.type_ && old.status == condition.status;
        if let Some(old) = before.iter().find(same) {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
}

/// Whether two statuses are equal, apart from the times at which conditions last changed.
pub fn same_status(a: &ServiceRegistrationStatus, b: &ServiceRegistrationStatus) -> bool {
    let ServiceRegistrationStatus {
        observed_generation,
        service_name,
        pods,
        endpoints,
        endpoints_omitted,
        formats,
        last_synced,
        conditions,
    } = a;
    let reported = |condition: &Condition| {
        let Condition {
            type_,
            status,
            reason,
            message,
            observed_generation,
            last_transition_time: _,
        } = condition.clone();
        (type_, status, reason, message, observed_generation)
    };
    *observed_generation == b.observed_generation
        && *service_name == b.service_name
        && *pods == b.pods
        && *endpoints == b.endpoints
        && *endpoints_omitted == b.endpoints_omitted
        && *formats == b.formats
        && *last_synced == b.last_synced
        && conditions.iter().map(reported).eq(b.conditions.iter().map(reported))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn ready(conditions: &mut Vec<Condition>, holds: bool, message: &str, second: i64) {
        let reason = if holds {
            Reason::EndpointsRegistered
        } else {
            Reason::NoReadyPods
        };
        set(
            conditions,
            ConditionType::Ready,
            holds.into(),
            reason,
            message,
            Some(1),
            &at(second),
        );
    }

    #[test]
    fn setting_what_is_already_there_changes_nothing() {
        let mut conditions = Vec::new();
        ready(&mut conditions, true, "3 endpoints", 1);
        let before = conditions.clone();
        ready(&mut conditions, true, "3 endpoints", 2);
        assert_eq!(conditions, before);
    }

    #[test]
    fn only_a_change_of_status_is_a_transition() {
        let mut conditions = Vec::new();
        ready(&mut conditions, true, "3 endpoints", 1);
        ready(&mut conditions, true, "4 endpoints", 2);
        assert_eq!(
            (conditions[0].message.as_str(), &conditions[0].last_transition_time),
            ("4 endpoints", &at(1))
        );
        ready(&mut conditions, false, "none", 3);
        assert_eq!(conditions[0].last_transition_time, at(3));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn a_message_longer_than_kubernetes_takes_is_cut_between_characters() {
        let mut conditions = Vec::new();
        ready(&mut conditions, true, &format!("x{}", "é".repeat(MESSAGE_MAX)), 1);
        assert_eq!(conditions[0].message.len(), MESSAGE_MAX - 1);
    }
}
