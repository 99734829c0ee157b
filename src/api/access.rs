//! How the etcd of a Registry is entered: certificates, user and password, and the Secrets they are in.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What https needs. The Secrets and ConfigMaps named here are in the operator's own namespace. What changes in them
/// takes effect within seconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.caSecret) != has(self.caConfigMap)")
        .message("say whom to trust: name either caSecret or caConfigMap, with the certificate of the authority that signed etcd's"),
)]
pub struct TlsSpec {
    /// The Secret with the certificates, as PEM, of the authorities that may have signed those of the etcd's members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaKey>,

    /// The same in a ConfigMap: these certificates are no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map: Option<CaKey>,

    /// The Secret with the operator's own certificate and key, as PEM under `tls.crt` and `tls.key`, as in one of type
    /// `kubernetes.io/tls`. For an etcd that asks its clients for certificates (`--client-cert-auth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_secret: Option<SecretName>,

    /// The name that the certificates of the etcd's members must be for, where it is not that of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z0-9:.-]+$')")
            .message("serverName must be a host name or an IP address, such as etcd.example.org"),
    )]
    pub server_name: Option<String>,
}

/// User and password, for an etcd whose authentication is on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// The Secret, in the operator's own namespace, with the user's name and password, as in one of type
    /// `kubernetes.io/basic-auth`. What changes in it takes effect within seconds.
    pub secret: SecretName,

    /// The key in it under which the user's name is; left out, `username`.
    #[serde(default = "default_username_key")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("usernameKey must be a key of a Secret, such as username"))]
    pub username_key: String,

    /// The key in it under which the password is; left out, `password`.
    #[serde(default = "default_password_key")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("passwordKey must be a key of a Secret, such as password"))]
    pub password_key: String,
}

/// A Secret by its name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// Its name.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')").message("name must be that of an object, such as etcd-client"))]
    pub name: String,
}

/// Where the certificates of authorities are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CaKey {
    /// The name of the Secret or ConfigMap.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')").message("name must be that of an object, such as etcd-ca"))]
    pub name: String,

    /// The key in it; left out, `ca.crt`.
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
