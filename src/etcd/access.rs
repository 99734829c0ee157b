//! Where an etcd is and how it is entered: endpoints, certificates, user.

use serde::{Deserialize, Serialize};

use super::tls::Tls;
use crate::secret::SecretString;

/// Where an etcd is and how it is entered. What is secret in it is not seen in its debug output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// `http://host:port` or `https://host:port` of each member, or of something in front of them. The first is asked
    /// first.
    pub endpoints: Vec<String>,
    /// What https needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Who we are, where etcd asks for user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
}

impl Access {
    /// To endpoints that ask for nothing.
    pub fn open(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            ..Self::default()
        }
    }

    /// Whether there is anything in it that can be refused.
    pub fn has_credentials(&self) -> bool {
        self.tls.is_some() || self.user.is_some()
    }
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: SecretString,
    /// Its password.
    pub password: SecretString,
}
