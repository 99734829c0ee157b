//! The access to a store: endpoints, TLS, user. How long its requests may take, and what another access must be able to
//! do before it replaces the one in use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Leases;
use super::tls::Tls;
use crate::model::Key;
use crate::secret::SecretString;

/// The access to a store. The debug output hides the secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// `http://host:port` or `https://host:port` of each member, or of a proxy in front of them. The first is asked
    /// first.
    pub endpoints: Vec<String>,
    /// The settings for https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// User and password, if the store requires them.
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

    /// Whether TLS or a user is configured, which the store could refuse.
    pub fn has_credentials(&self) -> bool {
        self.tls.is_some() || self.user.is_some()
    }
}

/// A user of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: SecretString,
    pub password: SecretString,
}

/// The time-outs of requests to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection to be established.
    pub connect: Duration,
    /// For one endpoint to answer one request. An etcd that elects a new leader needs one to two seconds.
    pub request: Duration,
    /// For one call with all its attempts at all endpoints.
    pub call: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(5),
            call: Duration::from_secs(10),
        }
    }
}

/// The cluster to which the endpoints of the new access may belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The cluster in use. Contains its id, if known; the current endpoints are asked first.
    InUse(Option<u64>),
    /// Any cluster: the endpoints are those in use, or no cluster is in use yet.
    Any,
}

/// The requirements for a new access.
#[derive(Clone, Debug)]
pub struct Trial {
    /// A key that the access must be able to read and write.
    pub key: Key,
    pub bound: Bound,
    /// The leases in use, which the access must be able to renew: etcd lets a user renew a lease only if the user may
    /// write all its keys.
    pub leases: Leases,
}
