//! How operators enter the etcd: with TLS, a client certificate, and a user that may write only where registrations write.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use testbed::{Authority, Bed, ClientCertificates, EtcdCluster, Namespace, Security, Validity, until};
use tokio::time::timeout;

use crate::error::Result;

/// The namespace of the operators, with the Secrets that the Registry references.
pub const NAMESPACE: &str = "leasehold";
/// The user of the operators in etcd.
const USER: &str = "leasehold";
/// What that user may read and write: the operators' own records, and below the prefixes of all registrations.
const PREFIXES: [&str; 6] = [
    "/leasehold/",
    "/leasehold-edge/",
    "/services/",
    "/chaos/",
    "chaos/",
    "edge/",
];
/// The names of the objects that the Registry references.
const AUTHORITY: &str = "etcd-ca";
const CERTIFICATE: &str = "etcd-client";
const LOGIN: &str = "etcd-user";

/// How long kube-apiserver or etcd may take to accept a credential: another fault may have stopped it.
const ACCEPTED: Duration = Duration::from_mins(1);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(3);

/// The credentials of the operators.
pub struct Access {
    authority: Authority,
    secrets: Namespace,
    passwords: AtomicU64,
}

/// What an etcd and its clients present and trust.
pub fn security(authority: &Authority) -> Security {
    Security {
        server: authority.server(&["127.0.0.1"], Validity::Valid),
        authority: authority.pem(),
        clients: Some(ClientCertificates {
            authority: authority.pem(),
            own: authority.client("root", Validity::Valid),
        }),
    }
}

/// The fields of the Registry's `spec.etcd` that reference the credentials.
pub fn references() -> Value {
    json!({
        "tls": {"caRef": {"kind": "ConfigMap", "name": AUTHORITY}, "clientCertSecretRef": {"name": CERTIFICATE}},
        "auth": {"secretRef": {"name": LOGIN}},
    })
}

impl Access {
    /// Turns authentication on in the etcd of a bed, which has the [`security`] of this authority, and writes what the
    /// Registry references.
    pub async fn establish(bed: &Bed, authority: Authority) -> Result<Self> {
        let access = Self {
            authority,
            secrets: bed.namespace_named(NAMESPACE).await?,
            passwords: AtomicU64::new(0),
        };
        bed.registry().enable_auth_by_certificate().await?;
        bed.registry().add_user(USER, &access.password(), &PREFIXES).await?;
        let data = json!({"ca.crt": access.authority.pem()});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": AUTHORITY}, "data": data});
        access.secrets.apply(map).await?;
        access.renew_certificate().await?;
        access.write_login().await?;
        Ok(access)
    }

    /// The password in use, or about to be.
    fn password(&self) -> String {
        format!("password-{}", self.passwords.load(Ordering::Relaxed))
    }

    /// From now on another password is to be used.
    pub fn choose_password(&self) {
        self.passwords.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives the operators' user the chosen password in etcd.
    pub async fn set_password(&self, etcd: &EtcdCluster) -> Result<()> {
        let password = self.password();
        let set = || async { accepted(etcd.set_password(USER, &password)).await };
        Ok(until("etcd to accept a password", ACCEPTED, set).await?)
    }

    /// Writes the chosen password into the Secret.
    pub async fn write_login(&self) -> Result<()> {
        let data = json!({"username": USER, "password": self.password()});
        self.write_secret(LOGIN, "Opaque", &data).await
    }

    /// Writes a new certificate of the operators' user into the Secret.
    pub async fn renew_certificate(&self) -> Result<()> {
        let own = self.authority.client(USER, Validity::Valid);
        let data = json!({"tls.crt": own.certificate, "tls.key": own.key});
        self.write_secret(CERTIFICATE, "kubernetes.io/tls", &data).await
    }

    async fn write_secret(&self, name: &str, kind: &str, data: &Value) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "stringData": data,
        });
        let write = || async { accepted(self.secrets.apply(secret.clone())).await };
        until(&format!("kube-apiserver to accept the Secret {name}"), ACCEPTED, write).await?;
        Ok(())
    }
}

/// The answer to a request, unless it takes too long.
async fn accepted<T>(request: impl Future<Output = testbed::Result<T>>) -> Result<T, String> {
    match timeout(REQUEST, request).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}
