//! Errors of etcd calls, classified by what a user can do about them.

use std::time::Duration;

use super::suitability::EndpointFault;
use super::tls::Fault;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The configured endpoint is not an address.
    #[error("`{endpoint}` cannot be used as an etcd endpoint ({cause}): use http://host:2379 or https://host:2379")]
    InvalidEndpoint {
        /// The configured value.
        endpoint: String,
        cause: String,
    },
    /// No connection to any endpoint.
    #[error(
        "etcd is unreachable at {endpoints} ({cause}): check that it is running and that no firewall or NetworkPolicy \
         blocks the connection"
    )]
    Unreachable {
        /// The endpoint of one attempt, or all endpoints after a whole call failed.
        endpoints: String,
        /// The message of the last failure.
        cause: String,
    },
    /// The offered endpoints belong to another cluster.
    #[error(
        "{endpoints} {}. Switching to another cluster would lose the keys in the cluster in use. Name members of the \
         cluster in use; for another cluster, create another Registry and move the registrations to it, or delete this \
         Registry and create it again", cluster_words(*.found, *.wanted)
    )]
    OtherCluster {
        endpoints: String,
        /// The id of the cluster at these endpoints.
        found: u64,
        /// The id of the cluster in use, if known.
        wanted: Option<u64>,
    },
    /// Connected, but no answer in time.
    #[error("etcd at {endpoints} did not answer `{call}` within {after:?}: check for an overloaded or paused member")]
    Timeout {
        /// The endpoint of one attempt, or all endpoints after a whole call failed.
        endpoints: String,
        call: &'static str,
        /// How long the last attempt waited; zero if etcd itself reported an exceeded deadline.
        after: Duration,
    },
    /// The endpoint answers but cannot be used.
    #[error("{}", .fault.describe(.endpoint))]
    Endpoint {
        /// The URL of the endpoint.
        endpoint: String,
        fault: EndpointFault,
    },
    /// The user lacks a permission.
    #[error(
        "etcd denied the request ({message}): grant the user readwrite on the data prefixes and on the meta prefix"
    )]
    PermissionDenied {
        /// etcd's message.
        message: String,
    },
    /// etcd does not know the user, or the token is too old.
    #[error("etcd rejected the credentials ({message}): check the user, the password and the client certificate")]
    Unauthenticated {
        /// etcd's message.
        message: String,
    },
    /// etcd refused a login. It does not say whether the name or the password is wrong.
    #[error(
        "etcd rejected the login ({message}): the user does not exist or the password is wrong; correct them in the \
         Secret that spec.etcd.auth names, or set the user's password with `etcdctl user passwd`"
    )]
    LoginRefused {
        /// etcd's message.
        message: String,
    },
    /// etcd requires a user, and the request named none.
    #[error(
        "etcd requires a user ({message}): name a Secret with user and password in spec.etcd.auth, or in spec.etcd.tls.clientCertSecretRef \
         a Secret with a client certificate whose common name is an etcd user"
    )]
    UserRequired {
        /// etcd's message.
        message: String,
    },
    /// The TLS connection failed.
    #[error("{}", tls_words(.endpoint, .fault))]
    Tls {
        /// The URL of the endpoint.
        endpoint: String,
        fault: Fault,
    },
    /// The NOSPACE alarm: reads and deletes work, writes do not.
    #[error("etcd's database is full ({message}): compact and defragment it, raise its quota, then disarm the alarm")]
    NoSpace {
        /// etcd's message.
        message: String,
    },
    /// A request or an answer exceeds the limit on its size or its number of operations.
    #[error(
        "too large for etcd ({message}): reduce the size of the values, or raise etcd's --max-request-bytes and \
         --max-txn-ops"
    )]
    TooLarge {
        /// etcd's message.
        message: String,
    },
    /// etcd accepts no more requests for now.
    #[error(
        "etcd accepts no more requests for now ({message}): lower the Registry's spec.limits or reduce the load on etcd"
    )]
    Busy {
        /// etcd's message.
        message: String,
    },
    /// Any other error that etcd answers.
    #[error("etcd answers `{call}` with an error: {message} (gRPC code {code})")]
    Other {
        call: &'static str,
        /// The gRPC status code; 2 for a malformed answer, 11 for a cancelled watch.
        code: i32,
        /// etcd's message.
        message: String,
    },
}

fn cluster_words(found: u64, wanted: Option<u64>) -> String {
    match wanted {
        Some(wanted) => format!("belongs to another etcd cluster (id {found:x}; the cluster in use has id {wanted:x})"),
        None => format!(
            "may belong to another etcd cluster (id {found:x}; the id of the cluster in use is unknown, because it does \
             not answer)"
        ),
    }
}

fn tls_words(endpoint: &str, fault: &Fault) -> String {
    match fault {
        Fault::ServerExpired => format!(
            "the certificate of {endpoint} has expired or is not valid yet: renew the server certificate, or correct the clock"
        ),
        Fault::UnknownAuthority => format!(
            "the certificate of {endpoint} is not signed by a trusted CA: add the certificate of its CA to the Secret or \
             ConfigMap that spec.etcd.tls names"
        ),
        Fault::OtherName { presented } if presented.is_empty() => format!(
            "the certificate of {endpoint} is not valid for this host name: use a name from the certificate in the \
             endpoint, or set spec.etcd.tls.serverName"
        ),
        Fault::OtherName { presented } => format!(
            "the certificate of {endpoint} is valid only for {presented}: use a name from the certificate in the \
             endpoint, or set spec.etcd.tls.serverName"
        ),
        Fault::NoName => format!(
            "the certificate of {endpoint} contains no host name (the common name is ignored): issue it with the host \
             names and addresses in subjectAltName"
        ),
        Fault::ServerUnfit { wrong, remedy } => {
            format!("the certificate of {endpoint} {wrong}: {remedy}")
        }
        Fault::ClientExpired => format!(
            "{endpoint} reports that the client certificate has expired: put a new one in the Secret that \
             spec.etcd.tls.clientCertSecretRef names"
        ),
        Fault::ClientRefused => format!(
            "{endpoint} rejects the client certificate: put a certificate that is signed by a CA in etcd's \
             --trusted-ca-file in the Secret that spec.etcd.tls.clientCertSecretRef names"
        ),
        Fault::ClientMissing => format!(
            "{endpoint} requires a client certificate: name a Secret with one (tls.crt and tls.key) in spec.etcd.tls.clientCertSecretRef"
        ),
        Fault::NoTls => format!(
            "the server at {endpoint} does not speak TLS: use http:// and omit spec.etcd.tls, or configure etcd to serve https"
        ),
        Fault::Other(words) => format!("the TLS connection to {endpoint} failed: {words}"),
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Part of the message of the local decoder about an answer that exceeds its limit.
const DECODER: &str = "length too large";

/// gRPC status codes, as numbers so that the crate does not depend on tonic directly.
mod code {
    pub const CANCELLED: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const NOT_FOUND: i32 = 5;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const FAILED_PRECONDITION: i32 = 9;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const UNAVAILABLE: i32 = 14;
    pub const UNAUTHENTICATED: i32 = 16;
}

impl Error {
    /// Returns a CamelCase word for conditions, Events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidEndpoint { .. } => "InvalidEndpoint",
            Self::Unreachable { .. } => "Unreachable",
            Self::OtherCluster { .. } => "OtherCluster",
            Self::Timeout { .. } => "Timeout",
            Self::Endpoint { fault, .. } => fault.reason(),
            Self::PermissionDenied { .. } => "PermissionDenied",
            Self::Unauthenticated { .. } => "Unauthenticated",
            Self::LoginRefused { .. } => "LoginRefused",
            Self::UserRequired { .. } => "UserRequired",
            Self::Tls { fault, .. } => match fault {
                Fault::ServerExpired => "ServerCertificateExpired",
                Fault::UnknownAuthority => "UnknownAuthority",
                Fault::OtherName { .. } | Fault::NoName => "ServerNameMismatch",
                Fault::ServerUnfit { .. } => "ServerCertificateUnusable",
                Fault::ClientExpired => "ClientCertificateExpired",
                Fault::ClientRefused => "ClientCertificateRefused",
                Fault::ClientMissing => "ClientCertificateRequired",
                Fault::NoTls | Fault::Other(_) => "TLSFailed",
            },
            Self::NoSpace { .. } => "NoSpace",
            Self::TooLarge { .. } => "TooLarge",
            Self::Busy { .. } => "Busy",
            Self::Other { .. } => "EtcdError",
        }
    }

    /// Whether the endpoint or the connection failed, not the request: another endpoint may succeed.
    pub(super) fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Endpoint { .. }
        )
    }

    /// Whether etcd has compacted the requested revision away.
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Other { code: code::OUT_OF_RANGE, message, .. } if message.contains("compacted"))
    }

    /// Whether the member that was asked knows no leader of its cluster.
    pub fn is_no_leader(&self) -> bool {
        matches!(self, Self::Unreachable { cause, .. } if cause.contains("no leader"))
    }

    /// Returns the error for a connection to `endpoint` that ended.
    pub(super) fn unreachable(endpoint: &str, cause: &str) -> Self {
        Self::Unreachable {
            endpoints: endpoint.to_owned(),
            cause: cause.to_owned(),
        }
    }

    /// Whether the error concerns credentials or permissions. A retry cannot succeed until a user changes them.
    pub fn is_access(&self) -> bool {
        matches!(
            self,
            Self::PermissionDenied { .. }
                | Self::Unauthenticated { .. }
                | Self::LoginRefused { .. }
                | Self::UserRequired { .. }
                | Self::Tls { .. }
        )
    }

    /// Whether etcd rejects the content of the request. The same request fails every time; another request may succeed.
    pub fn is_content(&self) -> bool {
        match self {
            Self::TooLarge { .. } => true,
            Self::Other { code, .. } => *code == code::INVALID_ARGUMENT,
            _ => false,
        }
    }

    /// Whether etcd's answer was too large. etcd may have executed the request.
    pub fn is_answer_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { message } if message.contains(DECODER))
    }

    /// Returns etcd's message without advice for `TooLarge` and `Other`; the whole message for every other variant.
    pub fn cause(&self) -> String {
        match self {
            Self::TooLarge { message } | Self::Other { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }

    /// Whether another login may help: the token has expired, is too old, or is unknown to the member.
    pub(super) fn wants_login(&self) -> bool {
        matches!(self, Self::Unauthenticated { .. } | Self::UserRequired { .. })
    }

    /// Whether etcd refused a login because its authentication is off.
    pub(super) fn is_auth_disabled(&self) -> bool {
        matches!(self, Self::Other { code, message, .. }
            if *code == code::FAILED_PRECONDITION && message.contains("authentication is not enabled"))
    }

    pub(super) fn tls(endpoint: &str, fault: Fault) -> Self {
        let endpoint = endpoint.to_owned();
        Self::Tls { endpoint, fault }
    }

    /// Returns the error for the reason with which etcd ended a stream, if the reason concerns credentials or
    /// permissions.
    pub(super) fn of_stream(reason: &str) -> Option<Self> {
        let code = match reason {
            _ if reason.contains("permission denied") => code::PERMISSION_DENIED,
            _ if reason.contains("invalid auth token") => code::UNAUTHENTICATED,
            _ if reason.contains("user name is empty") || reason.contains("auth store is old") => {
                code::INVALID_ARGUMENT
            }
            _ => return None,
        };
        Some(Self::from_status("watch", "", code, reason, false))
    }

    /// Whether the lease named in the request does not exist. In a transaction this is authoritative: nothing was
    /// written.
    pub(super) fn is_lease_not_found(&self) -> bool {
        matches!(self, Self::Other { code, message, .. }
            if *code == code::NOT_FOUND && message.contains("lease not found"))
    }

    /// Whether the lease that was to be granted exists already.
    pub(super) fn is_lease_exists(&self) -> bool {
        matches!(self, Self::Other { code, message, .. }
            if *code == code::FAILED_PRECONDITION && message.contains("lease already exists"))
    }

    /// Classifies an error of the etcd client for `call` at `endpoint`.
    pub(super) fn sort(call: &'static str, endpoint: &str, error: &etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => {
                // Only a status created on this side (broken connection, HTTP/2 reset) has a source.
                let source = std::error::Error::source(status);
                if let Some(answer) = foreign(status.code() as i32, status.message(), source) {
                    let (endpoint, fault) = (endpoint.to_owned(), EndpointFault::NoEtcd { answer });
                    return Self::Endpoint { endpoint, fault };
                }
                Self::from_status(call, endpoint, status.code() as i32, status.message(), source.is_some())
            }
            etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => Self::InvalidEndpoint {
                endpoint: endpoint.to_owned(),
                cause: error.to_string(),
            },
            // The remaining variants are the client's errors for a stream or a connection that ended.
            _ => Self::Unreachable {
                endpoints: endpoint.to_owned(),
                cause: error.to_string(),
            },
        }
    }

    fn from_status(call: &'static str, endpoint: &str, code: i32, message: &str, local: bool) -> Self {
        let has = |part: &str| message.contains(part);
        // These messages concern the member that was asked. Their code differs between etcd releases and is ignored.
        let fault = match message {
            _ if has("not supported for learner") => Some(EndpointFault::Learner),
            "etcdserver: not capable" => Some(EndpointFault::NotCapable),
            "etcdserver: corrupt cluster" => Some(EndpointFault::Corrupt),
            _ => None,
        };
        if let Some(fault) = fault {
            let endpoint = endpoint.to_owned();
            return Self::Endpoint { endpoint, fault };
        }
        let message = message.to_owned();
        match code {
            // The limit of the local decoder. This case must precede `local`: a retry at another endpoint cannot help.
            code::OUT_OF_RANGE if has(DECODER) => Self::TooLarge { message },
            code::RESOURCE_EXHAUSTED if has("space exceeded") => Self::NoSpace { message },
            code::RESOURCE_EXHAUSTED if has("larger than max") => Self::TooLarge { message },
            code::RESOURCE_EXHAUSTED => Self::Busy { message },
            code::INVALID_ARGUMENT if has("too large") || has("too many operations") => Self::TooLarge { message },
            code::PERMISSION_DENIED => Self::PermissionDenied { message },
            code::UNAUTHENTICATED => Self::Unauthenticated { message },
            code::INVALID_ARGUMENT if has("authentication failed") => Self::LoginRefused { message },
            code::INVALID_ARGUMENT if has("user name is empty") => Self::UserRequired { message },
            code::INVALID_ARGUMENT if has("auth") => Self::Unauthenticated { message },
            code::DEADLINE_EXCEEDED => Self::Timeout {
                endpoints: endpoint.to_owned(),
                call,
                after: Duration::ZERO,
            },
            code::UNAVAILABLE | code::CANCELLED => Self::Unreachable {
                endpoints: endpoint.to_owned(),
                cause: message,
            },
            _ if local => Self::Unreachable {
                endpoints: endpoint.to_owned(),
                cause: message,
            },
            code => Self::Other { call, code, message },
        }
    }

    /// Returns the error for an answer that does not follow the protocol.
    pub(super) fn malformed(call: &'static str, what: &str) -> Self {
        Self::Other {
            call,
            code: code::UNKNOWN,
            message: format!("malformed answer: {what}"),
        }
    }
}

/// Describes the answer of a server that does not speak etcd's protocol; `None` if the server may be an etcd.
fn foreign(code: i32, message: &str, source: Option<&(dyn std::error::Error + 'static)>) -> Option<String> {
    // tonic's message for an HTTP/2 answer that is not gRPC. A proxy whose etcd is down answers with 502 to 504.
    if let Some((_, status)) = message.split_once("mapped from HTTP status code ") {
        let is_away = matches!(status.trim(), "502" | "503" | "504");
        return (!is_away).then(|| format!("answered with HTTP status {}", status.trim()));
    }
    if message.contains("invalid compression flag") || message.contains("invalid content-type") {
        return Some("answered with a response that is not gRPC".to_owned());
    }
    if code == code::UNIMPLEMENTED {
        return Some("does not implement etcd's API".to_owned());
    }
    // Over TLS, both sides negotiate HTTP/2 first.
    let mut causes = std::iter::successors(source, |error| error.source());
    let is_other_protocol = causes.any(|error| error.to_string().contains("HTTP/2 was not negotiated"));
    is_other_protocol.then(|| "does not speak HTTP/2".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(code: i32, message: &str) -> Error {
        Error::from_status("txn", "http://e:2379", code, message, false)
    }

    #[test]
    fn each_kind_of_answer_is_sorted_by_what_a_user_can_do() {
        let cases = [
            (14, "etcdserver: no leader", "Unreachable"),
            (1, "Timeout expired", "Unreachable"),
            (4, "context deadline exceeded", "Timeout"),
            (7, "etcdserver: permission denied", "PermissionDenied"),
            (16, "etcdserver: invalid auth token", "Unauthenticated"),
            (3, "etcdserver: revision of auth store is old", "Unauthenticated"),
            (3, "etcdserver: user name is empty", "UserRequired"),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                "LoginRefused",
            ),
            (3, "etcdserver: request is too large", "TooLarge"),
            (3, "etcdserver: too many operations in txn request", "TooLarge"),
            (8, "etcdserver: mvcc: database space exceeded", "NoSpace"),
            (8, "etcdserver: too many requests", "Busy"),
            (3, "etcdserver: duplicate key given in txn request", "EtcdError"),
            // With etcd 3.6 and later, then with earlier releases.
            (9, "etcdserver: rpc not supported for learner", "Learner"),
            (14, "etcdserver: rpc not supported for learner", "Learner"),
            (9, "etcdserver: not capable", "NotCapable"),
            (14, "etcdserver: not capable", "NotCapable"),
            (15, "etcdserver: corrupt cluster", "Corrupt"),
        ];
        for (code, message, reason) in cases {
            assert_eq!(sorted(code, message).reason(), reason, "{message}");
        }
    }

    #[test]
    fn content_rejections_are_distinguished_from_retryable_errors() {
        for (code, message) in [
            (3, "etcdserver: request is too large"),
            (3, "etcdserver: too many operations in txn request"),
            (3, "etcdserver: duplicate key given in txn request"),
            (3, "etcdserver: key is not provided"),
            (8, "grpc: received message larger than max (4 vs. 2)"),
            (11, "Error, decoded message length too large: found 9 bytes"),
        ] {
            assert!(sorted(code, message).is_content(), "{message}");
        }
        for (code, message) in [
            (8, "etcdserver: mvcc: database space exceeded"),
            (8, "etcdserver: too many requests"),
            (7, "etcdserver: permission denied"),
            (3, "etcdserver: revision of auth store is old"),
            (5, "etcdserver: requested lease not found"),
            (14, "etcdserver: no leader"),
            (4, "context deadline exceeded"),
        ] {
            assert!(!sorted(code, message).is_content(), "{message}");
        }
        assert!(sorted(11, "Error, decoded message length too large: found 9 bytes").is_answer_too_large());
        assert!(!sorted(3, "etcdserver: request is too large").is_answer_too_large());
    }

    #[test]
    fn connection_errors_are_retried_at_another_endpoint() {
        assert!(Error::from_status("txn", "e", 2, "transport error", true).is_connection());
        assert!(sorted(9, "etcdserver: rpc not supported for learner").is_connection());
        assert!(!sorted(2, "etcdserver: unknown").is_connection());
        assert!(!sorted(7, "etcdserver: permission denied").is_connection());
    }

    #[test]
    fn missing_and_existing_leases_are_distinguished() {
        assert!(sorted(5, "etcdserver: requested lease not found").is_lease_not_found());
        assert!(sorted(9, "etcdserver: lease already exists").is_lease_exists());
        assert!(!sorted(5, "etcdserver: lease already exists").is_lease_exists());
    }
}
