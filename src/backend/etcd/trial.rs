//! Validates a new access to etcd before the connection switches to it: its endpoints, TLS and user must be able to do
//! everything that the current access does. The current access stays in use until then, and if the validation fails.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::connection::{Call, Connection, HEDGE};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::renewal::renewal_timeout;
use crate::backend::{Access, Bound, Trial};
use crate::model::{Key, LeaseId};

/// How long the current endpoints may take to report their cluster id.
const IN_USE: Duration = Duration::from_secs(2);
/// Leases that are renewed at a time.
const RENEWALS: usize = 8;

impl Connection {
    /// Validates `access` against `trial`, then switches every call and every stream of every clone to it. Leases are
    /// not bound to connections, so the switch loses none.
    pub async fn change_access(&self, access: &Access, trial: &Trial) -> Result<()> {
        let new = self.with_access(access).await?;
        let bound = match trial.bound {
            Bound::Any => Bound::Any,
            Bound::InUse(known) => Bound::InUse(self.cluster_in_use(&trial.key).await.or(known)),
        };
        if let Err(error) = self.validate(&new, trial, bound).await {
            return Err(new.explain(error).await);
        }
        self.switch_to(&new);
        Ok(())
    }

    async fn validate(&self, new: &Self, trial: &Trial, bound: Bound) -> Result<()> {
        new.find(&trial.key, bound).await?;
        match new.may_write(&trial.key).await {
            // The cluster is the same, so its database is full for every user.
            Ok(()) | Err(Error::NoSpace { .. }) => {}
            Err(error) => return Err(error),
        }
        let renewals = stream::iter(trial.leases.iter().map(Ok));
        renewals
            .try_for_each_concurrent(RENEWALS, |(&lease, &ttl)| self.compare_renewal(new, lease, ttl))
            .await
    }

    /// Returns an error if the `new` access may not renew `lease` although the current access may.
    async fn compare_renewal(&self, new: &Self, lease: LeaseId, ttl: u32) -> Result<()> {
        let attempt_timeout = renewal_timeout(Duration::from_secs(ttl.into())).max(self.timeouts().request);
        match new.renew_once(lease, attempt_timeout, HEDGE).await {
            Ok(_) => Ok(()),
            Err(Error::PermissionDenied { message }) => match self.renew_once(lease, attempt_timeout, HEDGE).await {
                Err(Error::PermissionDenied { .. }) => Ok(()),
                _ => Err(Error::PermissionDenied {
                    message: format!("{message}, when renewing lease {lease}, which has registered keys"),
                }),
            },
            Err(error) => Err(error),
        }
    }

    /// Prefers the first endpoint that answers for an allowed cluster. One such endpoint is enough: the others may be
    /// down or belong to another cluster.
    async fn find(&self, key: &Key, bound: Bound) -> Result<()> {
        let mut reads: FuturesUnordered<_> = self
            .all_endpoints()
            .into_iter()
            .enumerate()
            .map(|(index, endpoint)| async move { (index, self.read_cluster_id(&endpoint, key, false).await) })
            .collect();
        let (mut other, mut failed) = (None, None::<Error>);
        while let Some((index, answer)) = reads.next().await {
            match (answer, bound) {
                (Ok(found), Bound::InUse(wanted)) if wanted != Some(found) => {
                    other = Some(self.other_cluster(found, wanted));
                }
                (Ok(found), Bound::Any | Bound::InUse(_)) => {
                    self.use_cluster(found);
                    self.prefer(index);
                    return Ok(());
                }
                // A refusal is more informative than an unreachable endpoint.
                (Err(error), _) if error.is_connection() && failed.is_some() => drop(error),
                (Err(error), _) => failed = Some(error),
            }
        }
        Err(match (other, failed) {
            (Some(other), _) => other,
            (None, Some(error)) => self.at_all(error),
            (None, None) => Error::malformed("get", "no endpoint"),
        })
    }

    /// Returns the id of the cluster behind this endpoint; fails if `key` may not be read. With `has_to_serve`, the
    /// endpoint must belong to the cluster in use.
    async fn read_cluster_id(&self, endpoint: &Arc<Endpoint>, key: &Key, has_to_serve: bool) -> Result<u64> {
        let kind = Call {
            name: "get",
            attempt_timeout: self.timeouts().request,
            refused: |_| false,
            hedge: None,
        };
        let get = |endpoint: &Endpoint| {
            let (mut kv, key) = (endpoint.kv.clone(), key.clone());
            async move { kv.get(&*key, None).await }
        };
        let answer = self
            .ask(&kind, endpoint, kind.attempt_timeout, has_to_serve, get)
            .await?;
        let header = answer.header().ok_or_else(|| Error::malformed("get", "no header"))?;
        Ok(header.cluster_id())
    }

    /// Returns the id of the cluster in use, if one of its endpoints reports it in time.
    async fn cluster_in_use(&self, key: &Key) -> Option<u64> {
        let endpoints = self.all_endpoints();
        let mut reads: FuturesUnordered<_> = endpoints
            .iter()
            .map(|endpoint| self.read_cluster_id(endpoint, key, true))
            .collect();
        let first = async {
            while let Some(answer) = reads.next().await {
                if let Ok(id) = answer {
                    return Some(id);
                }
            }
            None
        };
        timeout(IN_USE, first).await.ok().flatten()
    }
}
