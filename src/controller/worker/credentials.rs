//! Switches to other endpoints, TLS settings or credentials. The worker tries them first, and switches all requests at
//! once when they work. Otherwise the conditions report why not, and the current ones stay in use.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::backend_health::{Connectivity, Trouble, keep_first};
use super::expiry::notice;
use super::registry_status::NotAdopted;
use super::{Done, RegistryWorker};
use crate::api::Reason;
use crate::backend::{self, Access, Backend, Bound, Leases, Tls, Trial, Validity};

/// Pause between two attempts: etcd's side of the change may follow.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the etcd in use must be unreachable before another cluster may replace it, where the TTL of its leases is
/// not known.
const GONE: Duration = Duration::from_secs(30);
/// Reason of the Event for a change of the spec that was not adopted.
const NOT_ADOPTED: &str = "SpecNotAdopted";

/// Endpoints and credentials that were offered, and the attempts to use them.
#[derive(Debug, Default)]
pub struct Credentials {
    /// The last offer.
    wanted: Option<Box<Access>>,
    trying: bool,
    /// When to try it. None when there is nothing to try.
    again_at: Option<Instant>,
    trouble: Option<Trouble>,
    /// Whether the last offer has not been tried yet. Then `trouble` is about an earlier offer.
    untried: bool,
    /// What was last reported to the controller as good.
    reported: Option<Access>,
    validity: Validity,
    /// The last message that was published about expiring certificates.
    pub(super) announced: Option<String>,
}

impl Credentials {
    pub fn wake_at(&self) -> Option<Instant> {
        self.again_at.filter(|_| !self.trying)
    }

    /// Whether the endpoints of the last offer differ from those of `used`.
    fn moves_from(&self, used: &Access) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.endpoints != used.endpoints)
    }
}

/// The fault of credentials that were found unusable before etcd saw them.
pub fn trouble(wrong: crate::controller::access::Wrong) -> Trouble {
    Trouble {
        reason: wrong.reason.as_str(),
        message: wrong.message,
        is_access: true,
    }
}

impl<B: Backend> RegistryWorker<B> {
    /// Takes in other endpoints or credentials, or the reason why they cannot be used.
    pub(super) fn offered(&mut self, offer: Result<Box<Access>, Trouble>) {
        let credentials = &mut self.credentials;
        match offer {
            Ok(access) => {
                credentials.untried = credentials.wanted.as_ref() != Some(&access);
                credentials.wanted = Some(access);
                credentials.again_at = Some(Instant::now());
            }
            Err(trouble) => {
                tracing::warn!(
                    registry = %self.name, reason = trouble.reason, cause = trouble.message,
                    "the new credentials cannot be used; the current ones stay in use"
                );
                (credentials.wanted, credentials.again_at) = (None, None);
                credentials.trouble = Some(trouble);
            }
        }
    }

    /// Tries the last offer when that is due.
    pub(super) fn try_offer(&mut self, now: Instant) {
        if self.credentials.wake_at().is_none_or(|at| at > now) {
            return;
        }
        self.credentials.again_at = None;
        let Some(access) = self.credentials.wanted.clone() else {
            return;
        };
        if *access == self.backend.access() {
            self.credentials.trouble = None;
            return;
        }
        self.credentials.trying = true;
        let backend = self.backend.clone();
        let leases = self.lines.renewals.borrow().clone();
        let key = self.leader_key.clone();
        let trial = if self.is_in_use(now, &leases) {
            let is_same = access.endpoints == backend.access().endpoints;
            let bound = if is_same {
                Bound::Any
            } else {
                Bound::InUse(self.cluster_id())
            };
            Trial { key, bound, leases }
        } else {
            Trial {
                key,
                bound: Bound::Any,
                leases: Leases::default(),
            }
        };
        self.tasks.spawn(async move {
            let result = backend.change_access(&access, &trial).await;
            Done::Tried(access, result)
        });
    }

    /// Whether the etcd in use may hold data that could be lost. It holds none if this replica was never connected and
    /// no status says that another one was. Neither does it if no replica has reached it for so long that every lease
    /// has expired.
    fn is_in_use(&self, now: Instant, leases: &Leases) -> bool {
        let reported = self.confirmation.seen().is_some_and(|seen| !seen.endpoints.is_empty());
        if !reported && !self.state.was_live() {
            return false;
        }
        let longest = leases.values().max().map(|ttl| Duration::from_secs((*ttl).into()));
        let lost = self.state.lost_for(now);
        let is_gone = lost.is_some_and(|lost| lost > longest.unwrap_or(GONE)) && self.is_alone();
        !is_gone
    }

    /// The id of the etcd cluster in use, as far as it is known.
    pub(super) fn cluster_id(&self) -> Option<u64> {
        let reported = || self.confirmation.seen()?.cluster_id;
        self.state.cluster_id().or_else(reported)
    }

    /// Handles the result of an attempt.
    pub(super) fn tried(&mut self, access: Box<Access>, result: backend::Result<()>) {
        let now = Instant::now();
        let credentials = &mut self.credentials;
        credentials.trying = false;
        let is_newest = credentials.wanted.as_ref() == Some(&access);
        match result {
            Ok(()) => {
                tracing::info!(
                    registry = %self.name, endpoints = ?access.endpoints,
                    "switched to the new endpoints and credentials"
                );
                if is_newest {
                    (credentials.trouble, credentials.untried) = (None, false);
                }
                self.state.ask_now(now);
                self.rights.are_others(now);
                self.report_good(*access);
            }
            // The attempt was for an offer that has been replaced.
            Err(_) if !is_newest => {}
            Err(error) => {
                credentials.again_at = Some(now + AGAIN);
                let trouble = Trouble::from(error.clone());
                if std::mem::take(&mut credentials.untried) {
                    credentials.trouble = None;
                }
                let is_known = credentials.trouble.as_ref().map(|known| known.reason) == Some(trouble.reason);
                keep_first(&mut credentials.trouble, trouble);
                if !is_known {
                    tracing::warn!(
                        registry = %self.name, %error, endpoints = ?access.endpoints,
                        "the new endpoints or credentials do not work; the current ones stay in use, trying again"
                    );
                    self.announce_not_adopted(NOT_ADOPTED, &error);
                }
            }
        }
    }

    /// Reports the endpoints and credentials in use as good: the mirror is live.
    pub(super) fn access_is_good(&mut self) {
        let access = self.backend.access();
        if self.credentials.reported.as_ref() != Some(&access) {
            self.report_good(access);
        }
    }

    fn report_good(&mut self, access: Access) {
        self.credentials.reported = Some(access.clone());
        let validity = access.tls.as_ref().map(Tls::validity).unwrap_or_default();
        let seconds = |end: Option<Timestamp>| end.map(Timestamp::as_second);
        self.metrics
            .set_not_after(seconds(validity.client), seconds(validity.authority));
        self.credentials.validity = validity;
        // The controller ends only with the process.
        let _ = self.context.good.send((self.name.clone(), access));
    }

    /// A message about certificates in use that expire soon. None if none does.
    pub(super) fn expiring(&self) -> Option<String> {
        notice(&self.credentials.validity, Timestamp::now())
    }

    /// Whether the credentials are in use, or why not. None if there are none and no trouble.
    pub(super) fn credentials(&self, link: &Connectivity) -> Option<Result<(), Trouble>> {
        let access = self.backend.access();
        if let Some(trouble) = &self.credentials.trouble
            && (trouble.is_access || !self.credentials.moves_from(&access))
        {
            return Some(Err(trouble.clone()));
        }
        if !access.has_credentials() {
            return None;
        }
        match link {
            Connectivity::Down(trouble) if trouble.is_access => Some(Err(trouble.clone())),
            _ if self.backend.is_open_to_all() => Some(Err(Trouble {
                reason: Reason::AuthenticationOff.as_str(),
                message: "authentication is disabled in etcd, so every client may write to it: enable it \
                          (etcdctl auth enable), or remove spec.etcd.auth"
                    .to_owned(),
                is_access: true,
            })),
            _ => Some(Ok(())),
        }
    }

    /// Whether the spec and the Secrets were tried without success or cannot be used.
    pub(super) fn is_not_adopted(&self) -> bool {
        self.credentials.trouble.is_some()
    }

    /// What the spec says and was not adopted, if its endpoints differ from those in use.
    pub(super) fn not_adopted(&self) -> Option<NotAdopted> {
        let access = self.backend.access();
        let trouble = self.credentials.trouble.as_ref();
        let trouble = trouble.filter(|_| !self.credentials.untried && self.credentials.moves_from(&access))?;
        Some(NotAdopted {
            in_use: access.endpoints,
            trouble: trouble.message.clone(),
        })
    }
}
