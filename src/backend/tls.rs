//! The settings for TLS connections to a store: trusted CAs and client certificate.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};

use crate::secret::SecretString;

/// The settings for https. All certificates and keys are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The certificates of the CAs that may have signed the servers' certificates.
    pub ca: SecretString,
    /// The client certificate, if etcd requires one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The name that the servers' certificates must be valid for; by default the endpoint's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The certificate, followed by the intermediate certificates up to the CA that etcd trusts.
    pub certificate: SecretString,
    pub key: SecretString,
}

/// A certificate or key that cannot be used with any etcd. The messages quote nothing of the contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The CA data contains no usable certificate.
    #[error("no usable CA certificate found: at least one PEM block CERTIFICATE is required")]
    Ca,
    /// The client certificate is missing or unusable.
    #[error("no usable certificate found: at least one PEM block CERTIFICATE is required")]
    Certificate,
    /// The private key is missing or unusable.
    #[error("no usable private key found: one PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY is required")]
    Key,
    /// The private key does not match the certificate.
    #[error("the private key does not belong to the certificate: replace both together")]
    KeyOfAnother,
    /// The server name is neither a host name nor an IP address.
    #[error("serverName is neither a host name nor an IP address")]
    ServerName,
}

impl Tls {
    /// Returns an error unless all certificates, the key and the server name can be used.
    pub fn check(&self) -> Result<(), Malformed> {
        self.config().map(drop)
    }

    /// Returns the settings in the form of the TLS library, with the default protocols.
    pub(super) fn config(&self) -> Result<ClientConfig, Malformed> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca).ok_or(Malformed::Ca)? {
            roots.add(certificate).map_err(|_| Malformed::Ca)?;
        }
        if let Some(name) = &self.server_name {
            ServerName::try_from(name.clone()).map_err(|_| Malformed::ServerName)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .with_root_certificates(roots);
        Ok(match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificate).ok_or(Malformed::Certificate)?;
                let key =
                    PrivateKeyDer::from_pem_slice(identity.key.reveal().as_bytes()).map_err(|_| Malformed::Key)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => Malformed::KeyOfAnother,
                    rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                        Malformed::Certificate
                    }
                    _ => Malformed::Key,
                })?
            }
        })
    }
}

/// Returns the certificates of all PEM blocks; `None` if there is no certificate or a block cannot be read.
pub(super) fn certificates(pem: &SecretString) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.reveal().as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(ca: &str) -> Tls {
        Tls {
            ca: ca.to_owned().into(),
            identity: None,
            server_name: None,
        }
    }

    #[test]
    fn malformed_certificate_error_does_not_quote_the_input() {
        for ca in [
            "",
            "swordfish",
            "-----BEGIN CERTIFICATE-----\nswordfish\n-----END CERTIFICATE-----\n",
        ] {
            let error = tls(ca).check().expect_err(ca);
            assert_eq!(error, Malformed::Ca);
            assert!(!error.to_string().contains("swordfish"));
        }
    }
}
