//! Another way to the etcd is tried before it is used: its endpoints, its TLS and its user have to do all that the way in
//! use does. Until then, and if they do not, nothing changes.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::access::Access;
use super::connection::{Call, Connection};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::renewal::{Leases, patience};
use crate::plan::{Key, LeaseId};

/// How long the endpoints in use may take to say which cluster they belong to.
const IN_USE: Duration = Duration::from_secs(2);
/// Leases that are renewed at a time.
const RENEWALS: usize = 8;

/// Which cluster the endpoints of another way may belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The one in use. This is its id as far as it is known; the endpoints in use are asked first.
    InUse(Option<u64>),
    /// Any: they are those in use, or none is.
    Any,
}

/// What another way has to be good for.
#[derive(Clone, Debug)]
pub struct Trial {
    /// A key that has to be read and written.
    pub key: Key,
    /// The cluster.
    pub bound: Bound,
    /// The leases in use that have to be renewed: a user that may not write all keys of one may not renew it.
    pub leases: Leases,
}

impl Connection {
    /// Goes over to another way in once it has proven good: from then on every call and every stream of every clone uses
    /// it. Leases are not bound to connections, so none is lost by this.
    pub async fn change_access(&self, access: &Access, trial: &Trial) -> Result<()> {
        let new = self.beside(access).await?;
        let bound = match trial.bound {
            Bound::Any => Bound::Any,
            Bound::InUse(known) => Bound::InUse(self.cluster_in_use(&trial.key).await.or(known)),
        };
        if let Err(error) = self.try_out(&new, trial, bound).await {
            return Err(new.explain(error).await);
        }
        self.go_over(&new);
        Ok(())
    }

    async fn try_out(&self, new: &Self, trial: &Trial, bound: Bound) -> Result<()> {
        new.find(&trial.key, bound).await?;
        match new.may_write(&trial.key).await {
            // The same cluster has the same database, whoever asks.
            Ok(()) | Err(Error::NoSpace { .. }) => {}
            Err(error) => return Err(error),
        }
        let renewals = stream::iter(trial.leases.iter().map(Ok));
        renewals
            .try_for_each_concurrent(RENEWALS, |(&lease, &ttl)| self.compare_renewal(new, lease, ttl))
            .await
    }

    /// An error if `lease` may not be renewed on the `new` way, and may be on this one.
    async fn compare_renewal(&self, new: &Self, lease: LeaseId, ttl: u32) -> Result<()> {
        let patience = patience(Duration::from_secs(ttl.into())).max(self.timeouts().request);
        match new.renew_once(lease, patience).await {
            Ok(_) => Ok(()),
            Err(Error::PermissionDenied { message }) => match self.renew_once(lease, patience).await {
                Err(Error::PermissionDenied { .. }) => Ok(()),
                _ => Err(Error::PermissionDenied {
                    message: format!("{message}, for lease {lease}, with keys that are registered now"),
                }),
            },
            Err(error) => Err(error),
        }
    }

    /// Prefers the first endpoint that answers for the cluster that is wanted, if one is. The others may be down, or be
    /// none of its members: one is enough.
    async fn find(&self, key: &Key, bound: Bound) -> Result<()> {
        let mut looks: FuturesUnordered<_> = self
            .all_endpoints()
            .into_iter()
            .enumerate()
            .map(|(index, endpoint)| async move { (index, self.look(&endpoint, key, false).await) })
            .collect();
        let (mut other, mut failed) = (None, None::<Error>);
        while let Some((index, answer)) = looks.next().await {
            match (answer, bound) {
                (Ok(found), Bound::InUse(wanted)) if wanted != Some(found) => {
                    other = Some(self.other_cluster(found, wanted));
                }
                (Ok(found), Bound::Any | Bound::InUse(_)) => {
                    self.use_cluster(found);
                    self.prefer(index);
                    return Ok(());
                }
                // A refusal says more than an endpoint that is away.
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

    /// The id of the cluster behind this endpoint, which has to let `key` be read; unless it `has_to_serve` the cluster in
    /// use, it may be any.
    async fn look(&self, endpoint: &Arc<Endpoint>, key: &Key, has_to_serve: bool) -> Result<u64> {
        let kind = Call {
            name: "get",
            patience: self.timeouts().request,
            refused: |_| false,
            hedged: false,
        };
        let get = |endpoint: &Endpoint| {
            let (mut kv, key) = (endpoint.kv.clone(), key.clone());
            async move { kv.get(&*key, None).await }
        };
        let answer = self.ask(&kind, endpoint, kind.patience, has_to_serve, get).await?;
        let header = answer.header().ok_or_else(|| Error::malformed("get", "no header"))?;
        Ok(header.cluster_id())
    }

    /// The id of the cluster that is used now, if one of its endpoints says it.
    async fn cluster_in_use(&self, key: &Key) -> Option<u64> {
        let endpoints = self.all_endpoints();
        let mut looks: FuturesUnordered<_> = endpoints
            .iter()
            .map(|endpoint| self.look(endpoint, key, true))
            .collect();
        let first = async {
            while let Some(answer) = looks.next().await {
                if let Ok(id) = answer {
                    return Some(id);
                }
            }
            None
        };
        timeout(IN_USE, first).await.ok().flatten()
    }
}
