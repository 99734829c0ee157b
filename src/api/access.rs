//! TLS and authentication of the connection to a Registry's etcd, and the Secrets and ConfigMaps that hold the
//! credentials.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS settings for https endpoints. The Secrets and ConfigMaps named here are in the operator's own namespace. Changes
/// to them take effect within seconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// The Secret or ConfigMap with the CA certificates, as PEM, that sign the certificates of the etcd members. CA
    /// certificates are not secret.
    pub ca_ref: CaReference,

    /// The Secret with the operator's client certificate and key, as PEM under `tls.crt` and `tls.key`, as in a Secret
    /// of type `kubernetes.io/tls`. For an etcd that requires client certificates (`--client-cert-auth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ObjectReference")]
    pub client_cert_secret_ref: Option<ObjectReference>,

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
    pub secret_ref: ObjectReference,

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

/// A reference to an object by its name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// The name of the object.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')").message("name must be that of an object: lower-case letters, digits, hyphens and dots"))]
    pub name: String,
}

/// The Secret or ConfigMap, and the key in it, that holds CA certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CaReference {
    /// Secret (the default) or ConfigMap.
    #[serde(default)]
    pub kind: CaKind,

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

/// The kind of the object that holds CA certificates.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaKind {
    /// A Secret.
    #[default]
    Secret,
    /// A ConfigMap.
    ConfigMap,
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
