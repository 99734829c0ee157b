//! Going over to another access, that is to other endpoints, TLS or credentials: it is tried first and used by everything
//! at once when it is good. Otherwise the conditions say why not, and what is in use stays in use.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::backend_health::{Connectivity, Trouble, keep_first};
use super::expiry::notice;
use super::registry_status::NotAdopted;
use super::{Done, RegistryWorker};
use crate::api::Reason;
use crate::etcd::{self, Access, Bound, Tls, Trial, Validity};

/// Between two attempts: the other side may be about to be changed, too.
const AGAIN: Duration = Duration::from_secs(2);
/// For how long the etcd in use has to be away before another cluster may take its place, where it is not known how long
/// leases there last.
const GONE: Duration = Duration::from_secs(30);
/// The reason of the Event that says that an edit was not adopted.
const NOT_ADOPTED: &str = "SpecNotAdopted";

/// What was offered and is not in use.
#[derive(Debug, Default)]
pub struct Credentials {
    /// What was offered last.
    wanted: Option<Box<Access>>,
    trying: bool,
    /// When to try it; none when there is nothing to try.
    again_at: Option<Instant>,
    trouble: Option<Trouble>,
    /// Whether what was offered last has not been tried yet: `trouble` is about what was offered before.
    untried: bool,
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

    /// Whether the endpoints that were offered last are others than `used`.
    fn moves_from(&self, used: &Access) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.endpoints != used.endpoints)
    }
}

/// The trouble of credentials that etcd has not seen.
pub fn trouble(wrong: crate::controller::access::Wrong) -> Trouble {
    Trouble {
        reason: wrong.reason.as_str(),
        message: wrong.message,
        is_access: true,
    }
}

impl RegistryWorker {
    /// Other credentials are there, or what is there cannot be used.
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
        let connection = self.connection.clone();
        let leases = self.lines.renewals.borrow().clone();
        let key = self.leader_key.clone();
        let trial = if self.is_in_use(now, &leases) {
            let is_same = access.endpoints == connection.access().endpoints;
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
                leases: etcd::Leases::default(),
            }
        };
        self.tasks.spawn(async move {
            let result = connection.change_access(&access, &trial).await;
            Done::Tried(access, result)
        });
    }

    /// Whether there is anything in the etcd in use that could be lost. There is not when this replica never got in, and no
    /// status says that another one did; nor when no replica has reached it for so long that every lease there has ended.
    fn is_in_use(&self, now: Instant, leases: &etcd::Leases) -> bool {
        let told = self.confirmation.seen().is_some_and(|seen| !seen.endpoints.is_empty());
        if !told && !self.standing.was_live() {
            return false;
        }
        let longest = leases.values().max().map(|ttl| Duration::from_secs((*ttl).into()));
        let lost = self.standing.lost_for(now);
        let is_gone = lost.is_some_and(|lost| lost > longest.unwrap_or(GONE)) && self.is_alone();
        !is_gone
    }

    /// The id of the etcd cluster in use, as far as it is known.
    pub(super) fn cluster_id(&self) -> Option<u64> {
        let told = || self.confirmation.seen()?.cluster_id;
        self.standing.cluster_id().or_else(told)
    }

    /// What was offered has been tried.
    pub(super) fn tried(&mut self, access: Box<Access>, result: etcd::Result<()>) {
        let now = Instant::now();
        let credentials = &mut self.credentials;
        credentials.trying = false;
        let is_newest = credentials.wanted.as_ref() == Some(&access);
        match result {
            Ok(()) => {
                tracing::info!(
                    registry = %self.name, endpoints = ?access.endpoints,
                    "the new endpoints and credentials are good; from now on they are used"
                );
                if is_newest {
                    (credentials.trouble, credentials.untried) = (None, false);
                }
                self.standing.ask_now(now);
                self.rights.are_others(now);
                self.tell_good(*access);
            }
            // It is about what nobody wants any more.
            Err(_) if !is_newest => {}
            Err(error) => {
                credentials.again_at = Some(now + AGAIN);
                let trouble = Trouble::from(&error);
                if std::mem::take(&mut credentials.untried) {
                    credentials.trouble = None;
                }
                let is_known = credentials.trouble.as_ref().map(|known| known.reason) == Some(trouble.reason);
                keep_first(&mut credentials.trouble, trouble);
                if !is_known {
                    tracing::warn!(
                        registry = %self.name, %error, endpoints = ?access.endpoints,
                        "the new endpoints or credentials do not work; those in use stay in use, trying on"
                    );
                    self.announce_not_adopted(NOT_ADOPTED, &error);
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
    pub(super) fn credentials(&self, link: &Connectivity) -> Option<Result<(), Trouble>> {
        let access = self.connection.access();
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

    /// Whether what spec and the Secrets say was tried, or cannot be, and is not used.
    pub(super) fn is_not_adopted(&self) -> bool {
        self.credentials.trouble.is_some()
    }

    /// What spec says and was not adopted, if its endpoints are others than those in use.
    pub(super) fn not_adopted(&self) -> Option<NotAdopted> {
        let access = self.connection.access();
        let trouble = self.credentials.trouble.as_ref();
        let trouble = trouble.filter(|_| !self.credentials.untried && self.credentials.moves_from(&access))?;
        Some(NotAdopted {
            in_use: access.endpoints,
            trouble: trouble.message.clone(),
        })
    }
}
