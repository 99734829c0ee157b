//! TLS connections to etcd, and the diagnosis of a failed handshake.
//!
//! The etcd client makes the connections, and its errors report only that the transport failed. This module therefore
//! finds the cause with a separate handshake.

use std::io::{ErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Identity as ClientIdentity, TlsOptions};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection};

use crate::backend::{Identity, Tls};

/// How long the server has to reject the client certificate: in TLS 1.3 it does so after the handshake.
const VERDICT: Duration = Duration::from_millis(500);

/// The cause of a failed TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server's certificate has expired or is not valid yet.
    ServerExpired,
    /// The server's certificate is not signed by a trusted CA.
    UnknownAuthority,
    /// The server's certificate is valid for other names.
    OtherName {
        /// The names in the certificate, as far as they are known.
        presented: String,
    },
    /// The server's certificate contains no host name. A common name does not count.
    NoName,
    /// The client rejects the server's certificate for a reason that no other variant covers.
    ServerUnfit {
        /// What is wrong with the certificate, as the end of a sentence.
        wrong: &'static str,
        /// The advice to the user.
        remedy: &'static str,
    },
    /// The server reports that the client certificate has expired.
    ClientExpired,
    /// The server does not accept the client certificate.
    ClientRefused,
    /// The server requires a client certificate, and none is configured.
    ClientMissing,
    /// The server does not speak TLS.
    NoTls,
    /// Any other cause, with advice.
    Other(String),
}

impl Tls {
    /// Returns the same settings in the etcd client's form.
    pub(super) fn options(&self) -> TlsOptions {
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(self.ca.reveal()));
        if let Some(Identity { certificate, key }) = &self.identity {
            options = options.identity(ClientIdentity::from_pem(certificate.reveal(), key.reveal()));
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        options
    }

    /// Makes a TLS handshake with the server at `url`. Returns the TLS fault, if there is one.
    pub(super) async fn diagnose(&self, url: &str, handshake_timeout: Duration) -> Option<Fault> {
        let mut config = self.config().ok()?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (host, port) = host_and_port(url)?;
        let name = self.server_name.clone().unwrap_or_else(|| host.clone());
        let name = ServerName::try_from(name).ok()?;
        let shaken = tokio::task::spawn_blocking(move || {
            shake(Arc::new(config), name, (host.as_str(), port), handshake_timeout)
        });
        shaken.await.ok()?
    }
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), uri.port_u16().unwrap_or(443)))
}

fn shake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    at: (&str, u16),
    handshake_timeout: Duration,
) -> Option<Fault> {
    let has_certificate = config.client_auth_cert_resolver.has_certs();
    let mut addresses = at.to_socket_addrs().ok()?;
    let mut socket = addresses.find_map(|address| TcpStream::connect_timeout(&address, handshake_timeout).ok())?;
    socket.set_read_timeout(Some(handshake_timeout)).ok()?;
    socket.set_write_timeout(Some(handshake_timeout)).ok()?;
    let mut session = ClientConnection::new(config, name).ok()?;
    while session.is_handshaking() {
        match session.complete_io(&mut socket) {
            Ok(_) => {}
            // The server received a TLS handshake and closed the connection.
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Some(Fault::NoTls);
            }
            Err(error) => return fault(&error, has_certificate),
        }
    }
    socket.set_read_timeout(Some(VERDICT.min(handshake_timeout))).ok()?;
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    match stream.read(&mut [0; 64]) {
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => fault(&error, has_certificate),
    }
}

/// Classifies an error of the handshake; `None` if the cause is not TLS.
fn fault(error: &std::io::Error, has_certificate: bool) -> Option<Fault> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Fault::ServerExpired,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Fault::UnknownAuthority,
            CertificateError::NotValidForName => Fault::OtherName {
                presented: String::new(),
            },
            CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => Fault::NoName,
            CertificateError::NotValidForNameContext { presented, .. } => Fault::OtherName {
                presented: presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", "),
            },
            other => unfit(other),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => Fault::ClientExpired,
            AlertDescription::CertificateRequired => Fault::ClientMissing,
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => {
                if has_certificate {
                    Fault::ClientRefused
                } else {
                    Fault::ClientMissing
                }
            }
            other => Fault::Other(alert_words(*other)),
        },
        rustls::Error::InvalidMessage(_) => Fault::NoTls,
        rustls::Error::PeerIncompatible(_) => Fault::Other(NOTHING_IN_COMMON.to_owned()),
        rustls::Error::NoApplicationProtocol => Fault::Other(NO_HTTP2.to_owned()),
        rustls::Error::PeerMisbehaved(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. }
        | rustls::Error::PeerSentOversizedRecord
        | rustls::Error::DecryptError => Fault::Other(
            "the server violates the TLS protocol: check for a proxy or firewall in between, and which server listens there"
                .to_owned(),
        ),
        // The remaining errors concern this side: no clock, no random numbers, an unusable client certificate.
        _ => Fault::Other("the handshake failed in leasehold itself: please report this with the log".to_owned()),
    })
}

const NOTHING_IN_COMMON: &str = "client and server share no TLS version or cipher suite: configure etcd to allow TLS 1.3, \
    or TLS 1.2 with ECDHE and AES-GCM or ChaCha20 (--tls-min-version, --tls-max-version, --cipher-suites)";
const NO_HTTP2: &str = "the server speaks TLS but not HTTP/2, so it is not etcd: use the members themselves as \
    endpoints, or configure the proxy there to pass gRPC";

/// Explains a TLS alert that does not concern the client certificate.
fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => NOTHING_IN_COMMON.to_owned(),
        AlertDescription::NoApplicationProtocol => NO_HTTP2.to_owned(),
        AlertDescription::UnrecognisedName => {
            "the server has no certificate for this host name: use a name from its certificate, or set spec.etcd.tls.serverName"
                .to_owned()
        }
        other => format!(
            "the server aborted the handshake (TLS alert {}): check its log",
            u8::from(other)
        ),
    }
}

/// Classifies a certificate error other than validity period, unknown issuer or wrong name.
fn unfit(error: &CertificateError) -> Fault {
    let (wrong, remedy) = match error {
        CertificateError::BadEncoding => ("is malformed", "issue it again"),
        CertificateError::UnhandledCriticalExtension => (
            "has a critical extension that is not supported",
            "issue it without that extension, or mark the extension as not critical",
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            "has an unsupported signature algorithm",
            "sign it with SHA-256 or better and an ECDSA, Ed25519 or RSA key of 2048 bits or more",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "is not a server certificate",
            "issue it with the extended key usage serverAuth",
        ),
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::CaUsedAsEndEntity) => (
                "is a CA certificate (CA:TRUE), which a server must not present",
                "create a self-signed one with `openssl req -x509 -addext basicConstraints=critical,CA:FALSE`, or have \
                 the CA sign a separate one for the server",
            ),
            Some(webpki::Error::EndEntityUsedAsCa) => (
                "is signed by a certificate that is not a CA certificate (CA:FALSE)",
                "have it signed by a CA, whose certificate has CA:TRUE",
            ),
            Some(webpki::Error::PathLenConstraintViolated) => (
                "has more intermediate CAs than a CA in its chain allows (pathlen)",
                "have it signed by a CA that is closer to the trusted CA",
            ),
            Some(webpki::Error::NameConstraintViolation) => (
                "is for names that its CA may not sign (name constraints)",
                "issue it for names that the CA may sign, or have another CA sign it",
            ),
            Some(webpki::Error::UnsupportedCertVersion) => (
                "is of X.509 version 1 or 2",
                "issue it as version 3, with subjectAltName",
            ),
            _ => NOT_BY_THE_RULES,
        },
        _ => NOT_BY_THE_RULES,
    };
    Fault::ServerUnfit { wrong, remedy }
}

const NOT_BY_THE_RULES: (&str, &str) = (
    "violates the rules for certificates (RFC 5280)",
    "check it with `openssl verify -x509_strict`, and issue it again",
);

/// Returns a name in a certificate without the library's wrapper, as in `DnsName("etcd.example.org")`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message for a certificate that rustls rejects with this error.
    fn words(wrong: webpki::Error) -> String {
        let error = CertificateError::Other(rustls::OtherError(Arc::new(wrong)));
        said(rustls::Error::InvalidCertificate(error))
    }

    fn said(error: rustls::Error) -> String {
        let io = std::io::Error::new(ErrorKind::InvalidData, error);
        let fault = fault(&io, true).expect("a TLS fault");
        let endpoint = "https://e:2379".to_owned();
        super::super::Error::Tls { endpoint, fault }.to_string()
    }

    #[test]
    fn every_tls_error_is_put_into_words_with_a_remedy() {
        let rules = "violates the rules for certificates";
        let certificates = [
            (webpki::Error::CaUsedAsEndEntity, "is a CA certificate (CA:TRUE)"),
            (webpki::Error::EndEntityUsedAsCa, "(CA:FALSE)"),
            (webpki::Error::PathLenConstraintViolated, "pathlen"),
            (webpki::Error::NameConstraintViolation, "name constraints"),
            (webpki::Error::UnsupportedCertVersion, "subjectAltName"),
            (webpki::Error::ExtensionValueInvalid, rules),
            (webpki::Error::MaximumPathDepthExceeded, rules),
            (webpki::Error::UnsupportedCriticalExtension, rules),
        ];
        let certificates = certificates.map(|(wrong, expected)| (words(wrong), expected));
        let presented = vec!["DnsName(\"etcd.test\")".to_owned(), "IpAddress(10.0.0.7)".to_owned()];
        let expected = ServerName::try_from("other.test").unwrap();
        let of_names = |presented| {
            let expected = expected.clone();
            said(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForNameContext { expected, presented },
            ))
        };
        let of = |wrong| said(rustls::Error::InvalidCertificate(wrong));
        let others = [
            (of_names(presented), "only for etcd.test, 10.0.0.7: use"),
            (of_names(Vec::new()), "contains no host name"),
            (of(CertificateError::BadEncoding), "is malformed"),
            (of(CertificateError::UnhandledCriticalExtension), "critical extension"),
            (of(CertificateError::InvalidPurpose), "serverAuth"),
            (of(CertificateError::Revoked), rules),
            (said(rustls::Error::NoApplicationProtocol), "not HTTP/2"),
            (
                said(rustls::PeerIncompatible::NoCipherSuitesInCommon.into()),
                "--cipher-suites",
            ),
            (
                said(rustls::PeerMisbehaved::IllegalTlsInnerPlaintext.into()),
                "proxy or firewall",
            ),
            (
                said(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)),
                "--tls-min-version",
            ),
            (
                said(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)),
                "spec.etcd.tls.serverName",
            ),
            (
                said(rustls::Error::AlertReceived(AlertDescription::AccessDenied)),
                "rejects the client certificate",
            ),
            (
                said(rustls::Error::AlertReceived(AlertDescription::InternalError)),
                "(TLS alert 80)",
            ),
            (said(rustls::Error::General("x".to_owned())), "report this"),
        ];
        for (said, expected) in certificates.into_iter().chain(others) {
            assert!(said.contains(expected), "{said}");
            // The message must not contain names of enum variants: they mean nothing to users.
            let debug = said
                .split_whitespace()
                .find(|word| word.contains("Error") || word.ends_with("))"));
            assert_eq!(debug, None, "{said}");
        }
    }

    #[test]
    fn an_endpoint_is_taken_apart_also_when_its_host_is_an_ipv6_address() {
        assert_eq!(host_and_port("https://[::1]:2379"), Some(("::1".to_owned(), 2379)));
        assert_eq!(
            host_and_port("https://etcd.example.org:1"),
            Some(("etcd.example.org".to_owned(), 1))
        );
    }
}
