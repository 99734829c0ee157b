//! The access to an etcd cluster: endpoints, TLS, user.

use serde::{Deserialize, Serialize};

use super::tls::Tls;
use crate::secret::SecretString;

/// The access to an etcd cluster. The debug output hides the secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// `http://host:port` or `https://host:port` of each member, or of a proxy in front of them. The first is asked
    /// first.
    pub endpoints: Vec<String>,
    /// The settings for https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// User and password, if etcd requires them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
}

impl Access {
    /// Returns an access without credentials.
    pub fn open(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            ..Self::default()
        }
    }

    /// Whether TLS or a user is configured, which etcd could refuse.
    pub fn has_credentials(&self) -> bool {
        self.tls.is_some() || self.user.is_some()
    }
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: SecretString,
    pub password: SecretString,
}
