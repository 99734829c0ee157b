//! etcd as the [`Backend`] of a worker.

use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::requests::{self, Snapshot};
use super::suitability::EndpointFault;
use super::{Error, lease_id};
use crate::backend::{
    Access, Backend, Campaign, Candidacy, Capabilities, ErrorKind, Leadership, LeaseEvent, Leases, Result, Status,
    Trial,
};
use crate::model::{
    Fence, Key, KeyValue, LeaseId, Observation, Prefix, PrefixChanges, Revision, Transaction, TxnOutcome,
};
use crate::peer::PeerStatuses;
use crate::plan::Objection;

/// The oldest etcd release that answers every request of the operator (nested transactions). It is from 2019.
const OLDEST: (u32, u32) = (3, 4);

impl From<Error> for crate::backend::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::PermissionDenied { .. } => ErrorKind::Denied,
            Error::NoSpace { .. } => ErrorKind::Full,
            error if error.is_access() => ErrorKind::Unauthenticated,
            error if error.is_content() => ErrorKind::Rejected {
                objection: match error {
                    Error::TooLarge { .. } => Objection::TooLarge,
                    _ => Objection::Invalid,
                },
                cause: error.cause(),
                may_be_done: error.is_answer_too_large(),
            },
            _ => ErrorKind::Unavailable,
        };
        Self {
            kind,
            reason: error.reason(),
            message: error.to_string(),
        }
    }
}

fn unavailable(reason: &'static str, message: String) -> crate::backend::Error {
    let kind = ErrorKind::Unavailable;
    crate::backend::Error { kind, reason, message }
}

fn no_leader() -> crate::backend::Error {
    let message = "members of the etcd cluster answer, but it has no leader: check that most of its members run";
    unavailable(EndpointFault::NoLeader.reason(), message.to_owned())
}

/// The error for an etcd that is too old to be written to.
fn too_old(version: &str) -> Option<crate::backend::Error> {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let found = (parts.next()?, parts.next()?);
    let (major, minor) = OLDEST;
    (found < OLDEST).then(|| {
        let message = format!("etcd {version} is too old, so nothing is written to it: use {major}.{minor} or newer");
        unavailable("UnsupportedVersion", message)
    })
}

impl From<requests::Status> for Status {
    fn from(status: requests::Status) -> Self {
        let refuses = if status.is_corrupt {
            let message = "etcd reports corrupt data of a member and refuses all writes (alarm CORRUPT): replace the \
                           corrupt member, then run `etcdctl alarm disarm`";
            Some(unavailable(EndpointFault::Corrupt.reason(), message.to_owned()))
        } else {
            let message = || "NOSPACE alarm".to_owned();
            status.is_full.then(|| Error::NoSpace { message: message() }.into())
        };
        Self {
            trouble: (!status.has_leader).then(no_leader),
            refuses,
            unsupported: too_old(&status.version),
            version: status.version,
            cluster_id: status.cluster_id,
        }
    }
}

/// Whether etcd allows a request. Returns an error if it failed for another reason than a missing permission.
fn is_allowed(answer: super::Result<()>) -> Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(Error::PermissionDenied { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Backend for Connection {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ops_per_transaction: Transaction::MAX_OPS,
            // Without credentials etcd either allows everything or refuses everything.
            has_permissions: self.has_credentials(),
        }
    }

    async fn commit(&self, fence: &Fence, transaction: &Transaction) -> Result<TxnOutcome> {
        Ok(self.commit(fence, transaction).await?)
    }

    async fn grant(&self, ttl: u32) -> Result<LeaseId> {
        let lease = lease_id();
        self.grant(lease, ttl).await?;
        Ok(lease)
    }

    async fn keys_on(&self, lease: LeaseId) -> Result<Vec<Key>> {
        let state = self.lease(lease, true).await?;
        Ok(state.map(|state| state.keys).unwrap_or_default())
    }

    async fn get(&self, key: &Key) -> Result<(Option<KeyValue>, Revision)> {
        Ok(self.get(key).await?)
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<(Key, KeyValue)>> {
        let Snapshot { entries, .. } = self.range(prefix, None).await?;
        Ok(entries)
    }

    fn mirror(
        self,
        essential: Prefix,
        wanted: mpsc::UnboundedReceiver<PrefixChanges>,
        out: mpsc::Sender<Observation>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send {
        super::mirror(self, essential, wanted, out, shutdown)
    }

    fn renew(
        self,
        leases: watch::Receiver<Leases>,
        events: mpsc::Sender<LeaseEvent>,
        soonest: watch::Sender<Option<Instant>>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send {
        super::renew(self, leases, events, soonest, shutdown)
    }

    fn campaign(
        self,
        campaign: Campaign,
        candidacy: watch::Receiver<Candidacy>,
        peer_statuses: watch::Receiver<PeerStatuses>,
        out: watch::Sender<Leadership>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send {
        super::campaign(self, campaign, candidacy, peer_statuses, out, shutdown)
    }

    /// A user without any permission may still read the status, so `key` is read, too.
    async fn status(&self, key: Option<&Key>) -> Result<Status> {
        let status = self.status().await;
        let looked = match key {
            Some(key) => self.get(key).await.map(drop),
            None => Ok(()),
        };
        let answer = match looked {
            Err(Error::PermissionDenied { message }) => Err(Error::PermissionDenied {
                message: format!("{message}, for {}", key.map_or("", |key| &**key)),
            }),
            Err(error) if error.is_access() => Err(error),
            // Some releases show their status to administrators only. That is no fault.
            _ => status,
        };
        match answer {
            Ok(status) => Ok(status.into()),
            Err(error) => match self.explain(error).await {
                error if error.is_no_leader() => Err(no_leader()),
                error => Err(error.into()),
            },
        }
    }

    fn unused_endpoints(&self) -> Vec<String> {
        let faults = self.faults().into_iter();
        faults.map(|(endpoint, fault)| fault.describe(&endpoint)).collect()
    }

    fn is_open_to_all(&self) -> bool {
        self.is_open_to_all()
    }

    async fn may_write(&self, keys: &[Key]) -> Result<bool> {
        is_allowed(self.may_write_all(keys).await)
    }

    async fn may_write_below(&self, prefix: &Prefix) -> Result<bool> {
        is_allowed(self.may_write_below(prefix).await)
    }

    async fn may_attach(&self, key: &Key, lease: LeaseId) -> Result<bool> {
        is_allowed(self.may_attach(key, lease).await)
    }

    fn access(&self) -> Access {
        self.access()
    }

    async fn change_access(&self, access: &Access, trial: &Trial) -> Result<()> {
        Ok(self.change_access(access, trial).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: &str) -> requests::Status {
        requests::Status {
            version: version.to_owned(),
            cluster_id: 1,
            revision: 1,
            db_bytes: 0,
            has_leader: true,
            is_full: false,
            is_corrupt: false,
            is_learner: false,
            member_id: 1,
        }
    }

    fn reason(error: Option<crate::backend::Error>) -> Option<&'static str> {
        error.map(|error| error.reason)
    }

    #[test]
    fn version_that_is_too_old_is_unsupported_and_an_unreadable_one_is_not() {
        assert_eq!(
            reason(Status::from(status("3.3.27")).unsupported),
            Some("UnsupportedVersion")
        );
        for version in ["3.4.0", "3.7.2-rc.0", "4.0.0", "unknown"] {
            assert_eq!(reason(Status::from(status(version)).unsupported), None, "{version}");
        }
    }

    #[test]
    fn alarms_and_a_missing_leader_have_their_reasons() {
        let full = requests::Status {
            is_full: true,
            ..status("3.6.15")
        };
        assert_eq!(reason(Status::from(full.clone()).refuses), Some("NoSpace"));
        let corrupt = requests::Status {
            is_corrupt: true,
            has_leader: false,
            ..full
        };
        let status = Status::from(corrupt);
        assert_eq!(reason(status.refuses), Some("Corrupt"), "the worse one");
        assert_eq!(reason(status.trouble), Some("NoLeader"));
    }

    #[test]
    fn rejected_content_keeps_its_cause_without_advice() {
        let message = "etcdserver: request is too large".to_owned();
        let error = crate::backend::Error::from(Error::TooLarge {
            message: message.clone(),
        });
        let kind = ErrorKind::Rejected {
            objection: Objection::TooLarge,
            cause: message,
            may_be_done: false,
        };
        assert_eq!((error.kind, error.reason), (kind, "TooLarge"));
        assert!(error.message.contains("--max-request-bytes"), "{}", error.message);
    }
}
