//! The conditions of a status: their types, their reasons, and how one is set.
//!
//! A reason is part of the interface: scripts and alerts compare it. A message is for people and may change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// Of a ServiceRegistration: its spec makes sense and its Registry exists. Of a RecordFormat: its templates make
    /// sense.
    Accepted,
    /// Of a ServiceRegistration: etcd holds exactly what the pods say.
    Synced,
    /// Of a ServiceRegistration: consumers can reach at least one endpoint.
    Ready,
    /// Of a ServiceRegistration: a key it wants is held by someone else.
    Conflict,
    /// Of a ServiceRegistration and of a Registry: keys are kept though their pods do not seem to be ready, because too
    /// many would go at once.
    Held,
    /// Of a Registry: the operator reaches the etcd.
    Connected,
    /// Of a Registry with TLS or a user: certificates, user and password are in use as the Secrets have them now.
    Credentials,
    /// Of a Registry: the operator is told by Kubernetes what changes.
    Informed,
}

impl ConditionType {
    /// The text in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Synced => "Synced",
            Self::Ready => "Ready",
            Self::Conflict => "Conflict",
            Self::Held => "Held",
            Self::Connected => "Connected",
            Self::Credentials => "Credentials",
            Self::Informed => "Informed",
        }
    }
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Accepted=True.
    Accepted,
    /// Accepted=False: the Registry that the spec names does not exist.
    RegistryNotFound,
    /// Accepted=False: a RecordFormat that the spec names does not exist.
    RecordFormatNotFound,
    /// Accepted=False: a RecordFormat that the spec names is not accepted, or does not fit the registration.
    RecordFormatUnusable,
    /// Accepted=False: the spec cannot be carried out as it is written.
    InvalidSpec,
    /// Accepted=False: a format's prefix and the Registry's meta prefix overlap.
    PrefixReserved,
    /// Accepted=False and Synced=False: the Registry's `access` does not allow what the registration would write. What
    /// is not allowed is not in etcd.
    AccessDenied,

    /// Accepted=False, of a RecordFormat: a template is no Jinja, or asks for what is not there.
    InvalidTemplate,
    /// Accepted=False, of a RecordFormat: a template takes too many steps or prints too much.
    TemplateTooCostly,
    /// Accepted=False, of a RecordFormat: two endpoints, or two records of one, would share a key.
    KeyNotUnique,
    /// Accepted=False, of a RecordFormat: a key does not lie below the registration's prefix.
    KeyOutsidePrefix,
    /// Accepted=False, of a RecordFormat: a key is none that consumers can read.
    InvalidKey,
    /// Accepted=False, of a RecordFormat: a value should be JSON and is not.
    ValueNotJson,

    /// Synced=True.
    InSync,
    /// Synced=True and Ready=True: no pod is ready, and the last endpoint is kept because `lastEndpoint` is Keep.
    LastEndpointKept,
    /// Synced=False: writes are on their way.
    Writing,
    /// Synced=False or Unknown: the operator does not reach the etcd. What is registered stays.
    RegistryUnreachable,
    /// Synced=Unknown and Ready=Unknown: no replica of the operator confirms what is in etcd any more.
    NotConfirmed,
    /// Synced=Unknown: the operator has not yet seen everything it must know before it writes.
    Starting,
    /// Synced=False: `suspend` is true; keys are kept as they are.
    Suspended,
    /// Synced=False: some ready pods cannot be registered: they lack a port or an address of the family, or a
    /// format refuses them.
    EndpointsRefused,
    /// Synced=False: etcd rejects the records of some endpoints for their content, such as too large values.
    RecordsRejected,
    /// Synced=False: the namespace has as many keys as the Registry's `access` allows, and some pods are left out.
    QuotaExceeded,
    /// Synced=False: some keys are held by someone else; see Conflict.
    KeysHeld,
    /// Synced=False: some keys are kept though their pods do not seem to be ready; see Held.
    RemovalsHeld,
    /// Synced=False and Ready=False: see Accepted.
    NotAccepted,

    /// Ready=True: at least one endpoint is in etcd.
    EndpointsRegistered,
    /// Ready=True, for there is nothing to register: the selector matches no pod. False or Unknown, as Synced, while removals
    /// are still to be carried out.
    NoPods,
    /// Ready=False: the selector matches pods, none of which is ready.
    NoReadyPods,
    /// Ready=False: there are ready pods and none of them is in etcd; see Synced.
    NothingRegistered,

    /// Conflict=False.
    NoConflict,
    /// Conflict=True: a key is held by somebody outside this cluster's registrations.
    HeldByOther,
    /// Conflict=True: a key belongs to an older registration.
    HeldByRegistration,
    /// Conflict=True and Synced=False: consumers of a format would read the keys of another registration's format. The
    /// older registration's is written, the other one's is not.
    FormatsClash,

    /// Held=False.
    NothingHeld,
    /// Held=Unknown: whoever leads has not looked yet. What a predecessor said of it is left as it is.
    Undecided,
    /// Held=True: more keys than the guard's limit allows would have gone within its window.
    LossAboveLimit,

    /// Informed=True.
    Watching,
    /// Informed=False: what is known of Kubernetes is outdated. What is registered stays.
    KubernetesSilent,

    /// Connected=True.
    Connected,
    /// Connected=True: other endpoints than those of spec are in use, because those of spec were tried and do not work.
    SpecNotAdopted,
    /// Connected=Unknown: the first connection is being made.
    Connecting,
    /// Connected=False: no member answers.
    Unreachable,
    /// Connected=False: members answer, but the cluster has no leader.
    NoLeader,
    /// Connected=False: endpoints answer and none of them can be used: learners, members of another cluster, no etcd at all.
    EndpointsUnusable,
    /// Connected=False: the etcd says that its data is corrupt (alarm CORRUPT) and refuses writes. What is registered stays.
    Corrupt,
    /// Connected=False: the etcd's database is full. What is registered stays, and what needs no new lease is written.
    NoSpace,
    /// Connected=False: the etcd does not let the operator in. Synced=False: it does not let the operator read or write where
    /// the registration's keys lie; others of the Registry are not concerned.
    PermissionDenied,
    /// Credentials=True.
    CredentialsInUse,
    /// Credentials=False and Connected=False: a Secret or ConfigMap, or a key in it, is not there or may not be read.
    CredentialsMissing,
    /// Credentials=False and Connected=False: what is in a Secret is no certificate, key or text.
    CredentialsMalformed,
    /// Credentials=False: there is a user, and the etcd asks nobody for one: its authentication is off.
    AuthenticationOff,
    /// Connected=False and Credentials=False: the user does not exist or has another password.
    LoginRefused,
    /// Connected=False and Credentials=False: the etcd asks for a user and the Registry has none.
    UserRequired,
    /// Connected=False and Credentials=False: the etcd's certificate is no longer, or not yet, valid.
    ServerCertificateExpired,
    /// Connected=False and Credentials=False: the etcd's certificate is not signed by whom the Registry trusts.
    UnknownAuthority,
    /// Connected=False and Credentials=False: the etcd's certificate is for another name.
    ServerNameMismatch,
    /// Connected=False and Credentials=False: no TLS client may accept the etcd's certificate, whoever has signed it.
    ServerCertificateUnusable,
    /// Connected=False and Credentials=False: the operator's certificate is no longer valid.
    ClientCertificateExpired,
    /// Connected=False and Credentials=False: the etcd does not accept the operator's certificate.
    ClientCertificateRefused,
    /// Connected=False and Credentials=False: the etcd asks for a certificate and the Registry has none.
    ClientCertificateRequired,
    /// Connected=False and Credentials=False: no TLS connection comes about.
    TlsFailed,
    /// Connected=False: the etcd is too old for what the operator asks of it.
    UnsupportedVersion,
}

impl Reason {
    /// The text in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::RegistryNotFound => "RegistryNotFound",
            Self::RecordFormatNotFound => "RecordFormatNotFound",
            Self::RecordFormatUnusable => "RecordFormatUnusable",
            Self::InvalidSpec => "InvalidSpec",
            Self::PrefixReserved => "PrefixReserved",
            Self::AccessDenied => "AccessDenied",
            Self::InvalidTemplate => "InvalidTemplate",
            Self::TemplateTooCostly => "TemplateTooCostly",
            Self::KeyNotUnique => "KeyNotUnique",
            Self::KeyOutsidePrefix => "KeyOutsidePrefix",
            Self::InvalidKey => "InvalidKey",
            Self::ValueNotJson => "ValueNotJson",
            Self::InSync => "InSync",
            Self::LastEndpointKept => "LastEndpointKept",
            Self::Writing => "Writing",
            Self::RegistryUnreachable => "RegistryUnreachable",
            Self::NotConfirmed => "NotConfirmed",
            Self::Starting => "Starting",
            Self::Suspended => "Suspended",
            Self::EndpointsRefused => "EndpointsRefused",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::KeysHeld => "KeysHeld",
            Self::RemovalsHeld => "RemovalsHeld",
            Self::NotAccepted => "NotAccepted",
            Self::EndpointsRegistered => "EndpointsRegistered",
            Self::NoPods => "NoPods",
            Self::NoReadyPods => "NoReadyPods",
            Self::NothingRegistered => "NothingRegistered",
            Self::NoConflict => "NoConflict",
            Self::HeldByOther => "HeldByOther",
            Self::HeldByRegistration => "HeldByRegistration",
            Self::FormatsClash => "FormatsClash",
            Self::NothingHeld => "NothingHeld",
            Self::Undecided => "Undecided",
            Self::LossAboveLimit => "LossAboveLimit",
            Self::Watching => "Watching",
            Self::KubernetesSilent => "KubernetesSilent",
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
            Self::TlsFailed => "TlsFailed",
            Self::UnsupportedVersion => "UnsupportedVersion",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// The operator cannot tell.
    Unknown,
}

impl ConditionStatus {
    /// The text in the status.
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

/// Kubernetes' bound on a message, in bytes.
const MESSAGE_MAX: usize = 32 * 1024;

/// Sets the condition `kind` in `conditions`, adding it if it is missing. `lastTransitionTime` becomes `now` only
/// when the status changes, so that setting what is already there changes nothing.
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
