//! TLS and authentication of the connection to a Registry's etcd, and the Secrets and ConfigMaps that hold the
//! credentials.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// TLS settings for https endpoints. The Secrets and ConfigMaps named here are in the operator's own namespace. Changes
/// to them take effect within seconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.caSecret) != has(self.caConfigMap)")
        .message("say which CA to trust: name either caSecret or caConfigMap, with the certificate of the authority that signed etcd's"),
)]
pub struct TlsSpec {
    /// The Secret with the CA certificates, as PEM, that sign the certificates of the etcd members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaKey>,

    /// The ConfigMap with the CA certificates, as an alternative to caSecret: CA certificates are not secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map: Option<CaKey>,

    /// The Secret with the operator's client certificate and key, as PEM under `tls.crt` and `tls.key`, as in a Secret
    /// of type `kubernetes.io/tls`. For an etcd that requires client certificates (`--client-cert-auth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_secret: Option<SecretName>,

    /// The host name or IP address that the certificates of the etcd members must be valid for. If unset, the host of
    /// each endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z0-9:.-]+$')")
            .message("serverName must be a host name or an IP address, such as etcd.example.org"),
    )]
    pub server_name: Option<String>,
}

/// User and password for an etcd with authentication enabled.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// The Secret, in the operator's own namespace, with the user name and the password, as in a Secret of type
    /// `kubernetes.io/basic-auth`. Changes to it take effect within seconds.
    pub secret: SecretName,

    /// The key of the Secret that holds the user name. Defaults to `username`.
    #[serde(default = "default_username_key")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("usernameKey must be a key of a Secret, such as username"))]
    pub username_key: String,

    /// The key of the Secret that holds the password. Defaults to `password`.
    #[serde(default = "default_password_key")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("passwordKey must be a key of a Secret, such as password"))]
    pub password_key: String,
}

/// A reference to a Secret by name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// The name of the Secret.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')").message("name must be that of an object, such as etcd-client"))]
    pub name: String,
}

/// The Secret or ConfigMap, and the key in it, that holds CA certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CaKey {
    /// The name of the Secret or ConfigMap.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')").message("name must be that of an object, such as etcd-ca"))]
    pub name: String,

    /// The key that holds the certificates. Defaults to `ca.crt`.
    #[serde(default = "default_ca_key")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("key must be one of a Secret or ConfigMap, such as ca.crt"))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_username_key() -> String {
    "username".to_owned()
}

fn default_password_key() -> String {
    "password".to_owned()
}
