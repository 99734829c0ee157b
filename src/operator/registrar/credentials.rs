//! Going over to other credentials: tried first, used by everything at once when they are good, else told of, while what
//! is in use stays in use.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::expiry::notice;
use super::standing::{Link, Trouble, keep_first};
use super::{Done, Registrar};
use crate::api::Reason;
use crate::etcd::{self, Access, Tls, Validity};

/// Between two attempts: the other side may be about to be changed, too.
const AGAIN: Duration = Duration::from_secs(2);

/// What was offered and is not in use.
#[derive(Debug, Default)]
pub struct Credentials {
    /// What was offered last.
    wanted: Option<Box<Access>>,
    trying: bool,
    /// When to try it; none when there is nothing to try.
    again_at: Option<Instant>,
    trouble: Option<Trouble>,
    /// What the intake was told to be good.
    told: Option<Access>,
    /// Until when the certificates in use are valid.
    validity: Validity,
    /// What was announced of their end.
    pub(super) announced: Option<String>,
}

impl Credentials {
    /// When to try again.
    pub fn wake_at(&self) -> Option<Instant> {
        self.again_at.filter(|_| !self.trying)
    }
}

/// The trouble of credentials that etcd has not seen.
pub fn trouble(wrong: crate::operator::access::Wrong) -> Trouble {
    Trouble {
        reason: wrong.reason.as_str(),
        message: wrong.message,
        is_access: true,
    }
}

impl Registrar {
    /// Other credentials are there, or what is there cannot be used.
    pub(super) fn offered(&mut self, offer: Result<Box<Access>, Trouble>) {
        let credentials = &mut self.credentials;
        match offer {
            Ok(access) => {
                credentials.wanted = Some(access);
                credentials.again_at = Some(Instant::now());
            }
            Err(trouble) => {
                tracing::warn!(
                    registry = %self.name, reason = trouble.reason, cause = trouble.message,
                    "the new credentials cannot be used; those in use stay in use"
                );
                (credentials.wanted, credentials.again_at) = (None, None);
                credentials.trouble = Some(trouble);
            }
        }
    }

    /// Tries what was offered, when that is due.
    pub(super) fn try_offer(&mut self, now: Instant) {
        if self.credentials.wake_at().is_none_or(|at| at > now) {
            return;
        }
        self.credentials.again_at = None;
        let Some(access) = self.credentials.wanted.clone() else {
            return;
        };
        if *access == self.connection.access() {
            self.credentials.trouble = None;
            return;
        }
        self.credentials.trying = true;
        let (connection, key) = (self.connection.clone(), self.leader_key.clone());
        self.tasks.spawn(async move {
            let result = connection.change_access(&access, &key).await;
            Done::Tried(access, result)
        });
    }

    /// What was offered has been tried.
    pub(super) fn tried(&mut self, access: Box<Access>, result: etcd::Result<()>) {
        let now = Instant::now();
        let credentials = &mut self.credentials;
        credentials.trying = false;
        let is_newest = credentials.wanted.as_ref() == Some(&access);
        match result {
            Ok(()) => {
                tracing::info!(registry = %self.name, "the new credentials are good; from now on they are used");
                if is_newest {
                    credentials.trouble = None;
                }
                self.standing.ask_now(now);
                self.rights.are_others(now);
                self.tell_good(*access);
            }
            Err(error) => {
                if is_newest {
                    credentials.again_at = Some(now + AGAIN);
                }
                if credentials
                    .trouble
                    .as_ref()
                    .is_none_or(|known| known.reason != error.reason())
                {
                    tracing::warn!(
                        registry = %self.name, %error,
                        "the new credentials are refused; those in use stay in use, trying on"
                    );
                }
                if is_newest {
                    keep_first(&mut credentials.trouble, (&error).into());
                }
            }
        }
    }

    /// Our view is live: what is in use is good.
    pub(super) fn access_is_good(&mut self) {
        let access = self.connection.access();
        if self.credentials.told.as_ref() != Some(&access) {
            self.tell_good(access);
        }
    }

    fn tell_good(&mut self, access: Access) {
        self.credentials.told = Some(access.clone());
        let validity = access.tls.as_ref().map(Tls::validity).unwrap_or_default();
        let seconds = |end: Option<Timestamp>| end.map(Timestamp::as_second);
        self.metrics
            .set_not_after(seconds(validity.client), seconds(validity.authority));
        self.credentials.validity = validity;
        // The intake ends only with the process.
        let _ = self.context.good.send((self.name.clone(), access));
    }

    /// What is to be said of certificates in use that end soon.
    pub(super) fn expiring(&self) -> Option<String> {
        notice(&self.credentials.validity, Timestamp::now())
    }

    /// How it stands with the credentials; none where there are none.
    pub(super) fn credentials(&self, link: &Link) -> Option<Result<(), Trouble>> {
        if let Some(trouble) = &self.credentials.trouble {
            return Some(Err(trouble.clone()));
        }
        if !self.connection.access().has_credentials() {
            return None;
        }
        match link {
            Link::Down(trouble) if trouble.is_access => Some(Err(trouble.clone())),
            _ if self.connection.is_open_to_all() => Some(Err(Trouble {
                reason: Reason::AuthenticationOff.as_str(),
                message: "the etcd asks nobody for user and password, so anybody may write to it: turn its \
                          authentication on (etcdctl auth enable), or leave spec.auth out"
                    .to_owned(),
                is_access: true,
            })),
            _ => Some(Ok(())),
        }
    }
}
