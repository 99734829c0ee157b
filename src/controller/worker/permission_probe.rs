//! Asks etcd about our permissions: which part of a refused request is denied, and which prefixes are granted together.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::backend::{Backend, Result};
use crate::model::{Key, LeaseId, Prefix, prefixes_around};
use crate::plan::{LeaseGroups, ProbeCandidate};

/// Maximum number of concurrent questions.
pub(super) const QUESTIONS: usize = 8;

/// What etcd denies of a refused request.
#[derive(Debug, Default)]
pub struct Found {
    /// Prefixes, each with a key that may not be written.
    pub(super) prefixes: Vec<(Prefix, Key)>,
    pub(super) leases: Vec<LeaseId>,
}

/// Returns which of `candidates` may not be written, and to which of `leases` no key may be attached. Each lease comes
/// with a bookkeeping key to try.
pub(super) async fn find(
    backend: &impl Backend,
    candidates: Vec<ProbeCandidate>,
    leases: Vec<(LeaseId, Key)>,
) -> Result<Found> {
    let prefixes = stream::iter(candidates).map(|ProbeCandidate { prefix, keys }| async move {
        let key = denied_key(backend, keys).await?;
        Ok::<_, crate::backend::Error>(key.map(|key| (prefix, key)))
    });
    let prefixes: Vec<_> = prefixes.buffer_unordered(QUESTIONS).try_collect().await?;
    // If our own bookkeeping may not be written, no lease is to blame.
    let bookkeeping = leases.first().map(|(_, key)| key.clone());
    if let Some(key) = bookkeeping
        && !backend.may_write(std::slice::from_ref(&key)).await?
    {
        return Ok(Found::default());
    }
    let leases = stream::iter(leases).map(|(lease, key)| async move {
        let allowed = backend.may_attach(&key, lease).await?;
        Ok::<_, crate::backend::Error>((!allowed).then_some(lease))
    });
    let leases: Vec<_> = leases.buffer_unordered(QUESTIONS).try_collect().await?;
    Ok(Found {
        prefixes: prefixes.into_iter().flatten().collect(),
        leases: leases.into_iter().flatten().collect(),
    })
}

/// Returns one of `keys` that may not be written. None if all may be.
async fn denied_key(backend: &impl Backend, mut keys: Vec<Key>) -> Result<Option<Key>> {
    if backend.may_write(&keys).await? {
        return Ok(None);
    }
    while keys.len() > 1 {
        let rest = keys.split_off(keys.len() / 2);
        if backend.may_write(&keys).await? {
            keys = rest;
        }
    }
    Ok(keys.pop())
}

/// Returns the lease groups of `prefixes`: for each, the widest enclosing prefix that may be written as a whole, or itself.
pub(super) async fn lease_groups(backend: &impl Backend, prefixes: BTreeSet<Prefix>) -> Result<LeaseGroups> {
    if backend.is_open_to_all() {
        return Ok(LeaseGroups::everything());
    }
    let (mut known, mut denied) = (LeaseGroups::default(), BTreeSet::new());
    for prefix in prefixes {
        if known.of(prefix.as_str()).is_some() {
            continue;
        }
        let mut widest = prefix.clone();
        for folder in prefixes_around(prefix.as_str()).map(Prefix::below) {
            if denied.contains(&folder) {
                continue;
            }
            if backend.may_write_below(&folder).await? {
                widest = folder;
                break;
            }
            denied.insert(folder);
        }
        known.add(widest);
    }
    Ok(known)
}
