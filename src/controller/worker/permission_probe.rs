//! Asks etcd about our permissions: which part of a refused request is denied, and which prefixes are granted together.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::backend::etcd::{self, Connection};
use crate::model::{Key, LeaseId, Prefix};
use crate::plan::{LeaseGroups, ProbeCandidate, folders};

/// Maximum number of concurrent questions.
pub(super) const QUESTIONS: usize = 8;

/// What etcd denies of a refused request.
#[derive(Debug, Default)]
pub struct Found {
    /// Prefixes, each with a key that may not be written.
    pub(super) scopes: Vec<(Prefix, Key)>,
    pub(super) leases: Vec<LeaseId>,
}

/// Whether etcd allows a request. Returns an error if it failed for another reason than a missing permission.
pub(super) fn is_allowed(answer: etcd::Result<()>) -> etcd::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(etcd::Error::PermissionDenied { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns which of `suspects` may not be written, and to which of `leases` no key may be attached. Each lease comes
/// with a bookkeeping key to try.
pub(super) async fn find(
    connection: &Connection,
    suspects: Vec<ProbeCandidate>,
    leases: Vec<(LeaseId, Key)>,
) -> etcd::Result<Found> {
    let scopes = stream::iter(suspects).map(|ProbeCandidate { prefix, keys }| async move {
        let key = denied_key(connection, keys).await?;
        Ok::<_, etcd::Error>(key.map(|key| (prefix, key)))
    });
    let scopes: Vec<_> = scopes.buffer_unordered(QUESTIONS).try_collect().await?;
    // If our own bookkeeping may not be written, no lease is to blame.
    let bookkeeping = leases.first().map(|(_, key)| key.clone());
    if let Some(key) = bookkeeping
        && !is_allowed(connection.may_write(&key).await)?
    {
        return Ok(Found::default());
    }
    let leases = stream::iter(leases).map(|(lease, key)| async move {
        let allowed = is_allowed(connection.may_attach(&key, lease).await)?;
        Ok::<_, etcd::Error>((!allowed).then_some(lease))
    });
    let leases: Vec<_> = leases.buffer_unordered(QUESTIONS).try_collect().await?;
    Ok(Found {
        scopes: scopes.into_iter().flatten().collect(),
        leases: leases.into_iter().flatten().collect(),
    })
}

/// Returns one of `keys` that may not be written. None if all may be.
async fn denied_key(connection: &Connection, mut keys: Vec<Key>) -> etcd::Result<Option<Key>> {
    if is_allowed(connection.may_write_all(&keys).await)? {
        return Ok(None);
    }
    while keys.len() > 1 {
        let rest = keys.split_off(keys.len() / 2);
        if is_allowed(connection.may_write_all(&keys).await)? {
            keys = rest;
        }
    }
    Ok(keys.pop())
}

/// Extends the `known` lease groups by those of `scopes`: for each, the widest enclosing prefix that may be written as
/// a whole, or itself.
pub(super) async fn domains(
    connection: &Connection,
    scopes: BTreeSet<Prefix>,
    known: LeaseGroups,
) -> etcd::Result<LeaseGroups> {
    if connection.is_open_to_all() {
        return Ok(LeaseGroups::everything());
    }
    let (mut known, mut denied) = (known, BTreeSet::new());
    for scope in scopes {
        if known.of(scope.prefix()).is_some() {
            continue;
        }
        let mut widest = scope.clone();
        for folder in folders(scope.prefix()).map(Prefix::below) {
            if denied.contains(&folder) {
                continue;
            }
            if is_allowed(connection.may_write_below(&folder).await)? {
                widest = folder;
                break;
            }
            denied.insert(folder);
        }
        known.add(widest);
    }
    Ok(known)
}
