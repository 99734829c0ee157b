//! Finds and removes all of the operator's keys in the etcd of a Registry, without the operator.
//!
//! A key belongs to the operator if it is on a lease that the operator's records name. Each removal is guarded by the
//! revision of the key. Every transaction is fenced by the leader key as it was read at the start: absent, unless
//! `force` allows a leader. So no foreign key is removed, and no key that has changed since. The leases are left to
//! expire: revoking a lease would remove its keys without these guards.

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::{Duration, Instant, sleep};

use crate::api::Registry;
use crate::backend::etcd::{Connection, Error};
use crate::backend::{Access, Timeouts};
use crate::model::{Fence, Key, KeyValue, LeaseId, Op, OpResult, Transaction, TxnOutcome};
use crate::plan::MetaKeys;
use crate::telemetry::Calls;

/// Number of concurrent reads.
const READS: usize = 16;
/// Pause between two reads of the leader key.
const LOOK: Duration = Duration::from_millis(200);
/// The folder of the other Registries in the records of the Registry named `default`.
const OTHERS: &str = "registries/";

/// The operator's keys and records of one Registry.
pub struct Purge {
    connection: Connection,
    fence: Fence,
    keys: Vec<(Key, KeyValue)>,
    records: Vec<(Key, KeyValue)>,
    meta: MetaKeys,
}

/// The result of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Keys of registrations that were removed, or were already gone.
    pub keys: usize,
    /// Keys that another client changed in the meantime. They were not removed.
    pub left: usize,
}

/// Why no keys, or not all keys, were removed.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// An operator leads, and would create the removed keys again.
    #[error(
        "the replica {leader} leads and would create every key again: stop the operator first, wait for it with --wait \
         SECONDS if it is shutting down, or remove the keys anyway with --force"
    )]
    Led {
        /// The leader's identity, as the leader key records it.
        leader: String,
    },
    /// The leader changed while keys were removed.
    #[error("the leader changed after {removed} keys were removed; make sure that no operator runs, and try again")]
    Fenced {
        /// Number of keys removed until then.
        removed: usize,
    },
    /// etcd returned an error or did not answer.
    #[error("etcd: {0}")]
    Etcd(#[from] Error),
}

impl Purge {
    /// Finds the operator's keys. Waits at most `patience` for a leader to end; after that a leader is an error, unless
    /// `force` is given.
    pub async fn find(
        cluster_id: &str,
        name: &str,
        (registry, access): (&Registry, &Access),
        patience: Duration,
        force: bool,
    ) -> Result<Self, PurgeError> {
        let connection = Connection::new(access, Timeouts::default(), Calls::default()).await?;
        let meta = MetaKeys::of_registry(&registry.spec.etcd.meta_prefix, cluster_id, name);
        let fence = fence(&connection, &meta, patience, force).await?;
        let snapshot = connection.range(meta.prefix(), None).await?;
        let own = |key: &Key| {
            let inside = key.strip_prefix(meta.prefix().as_str()).unwrap_or_default();
            !inside.starts_with(OTHERS) && *key != meta.leader()
        };
        let records: Vec<_> = snapshot.entries.into_iter().filter(|(key, _)| own(key)).collect();
        let leases = records.iter().filter_map(|(key, _)| meta.recorded_lease(key));
        let mut keys = Vec::new();
        for lease in leases {
            keys.extend(on_lease(&connection, &meta, lease).await?);
        }
        Ok(Self {
            connection,
            fence,
            keys,
            records,
            meta,
        })
    }

    /// Returns the keys that consumers read, in the order of their leases.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.keys.iter().map(|(key, _)| &**key)
    }

    /// Whether there are neither keys nor records of the operator.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.records.is_empty()
    }

    /// Removes the keys, then the records of leases without remaining keys.
    pub async fn carry_out(self) -> Result<Purged, PurgeError> {
        let mut purged = Purged { keys: 0, left: 0 };
        let mut kept: Vec<LeaseId> = Vec::new();
        for batch in self.keys.chunks(Transaction::MAX_OPS) {
            let results = self.remove(batch, purged.keys).await?;
            for ((_, held), done) in batch.iter().zip(results) {
                if done {
                    purged.keys += 1;
                } else {
                    purged.left += 1;
                    kept.push(held.lease);
                }
            }
        }
        // A record proves that the remaining keys of its lease belong to the operator, so it must stay.
        let records: Vec<_> = self
            .records
            .iter()
            .filter(|(key, _)| self.meta.recorded_lease(key).is_none_or(|lease| !kept.contains(&lease)))
            .cloned()
            .collect();
        for batch in records.chunks(Transaction::MAX_OPS) {
            self.remove(batch, purged.keys).await?;
        }
        Ok(purged)
    }

    /// Removes the keys that are unchanged. Returns for each key whether it is gone.
    async fn remove(&self, batch: &[(Key, KeyValue)], removed: usize) -> Result<Vec<bool>, PurgeError> {
        let ops = batch.iter().map(|(key, held)| Op::Delete {
            key: key.clone(),
            mod_revision: held.mod_revision,
        });
        match self
            .connection
            .commit(&self.fence, &Transaction::of(ops.collect()))
            .await?
        {
            TxnOutcome::Applied { results, .. } => Ok(results
                .iter()
                // A repeated request finds the key absent, because its first copy has removed it.
                .map(|result| matches!(result, OpResult::Done | OpResult::Refused(None)))
                .collect()),
            TxnOutcome::Fenced | TxnOutcome::LeaseGone | TxnOutcome::Overtaken { .. } => {
                Err(PurgeError::Fenced { removed })
            }
        }
    }
}

/// Returns a fence that holds until another replica becomes leader.
async fn fence(connection: &Connection, meta: &MetaKeys, patience: Duration, force: bool) -> Result<Fence, PurgeError> {
    let begin = Instant::now();
    loop {
        let leader = connection.get(&meta.leader()).await?.0;
        let (create_revision, lease) = match leader {
            None => (0, LeaseId::NONE),
            Some(held) if force => (held.create_revision, held.lease),
            Some(_) if begin.elapsed() < patience => {
                sleep(LOOK).await;
                continue;
            }
            Some(held) => {
                return Err(PurgeError::Led {
                    leader: identity(&held.value),
                });
            }
        };
        return Ok(Fence {
            key: meta.leader(),
            create_revision,
            lease,
        });
    }
}

/// Returns the leader's identity from the value of the leader key; the value itself if it has another format.
fn identity(value: &[u8]) -> String {
    let record = serde_json::from_slice::<serde_json::Value>(value).unwrap_or_default();
    let identity = record["identity"].as_str().map(str::to_owned);
    identity.unwrap_or_else(|| String::from_utf8_lossy(value).into_owned())
}

/// Returns the keys on a lease of the operator, without the operator's own records.
async fn on_lease(connection: &Connection, meta: &MetaKeys, lease: LeaseId) -> Result<Vec<(Key, KeyValue)>, Error> {
    let keys = connection
        .lease(lease, true)
        .await?
        .map(|state| state.keys)
        .unwrap_or_default();
    let keys = keys.into_iter().filter(|key| !meta.prefix().contains(key));
    let held = stream::iter(keys).map(async |key| {
        let held = connection.get(&key).await?.0;
        // The key may have been removed or moved to another lease since etcd listed it.
        Ok::<_, Error>(held.filter(|held| held.lease == lease).map(|held| (key, held)))
    });
    held.buffered(READS)
        .try_filter_map(async |held| Ok(held))
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_identity_is_parsed_and_unreadable_record_is_shown_raw() {
        assert_eq!(identity(br#"{"identity":"pod-0","version":"0.1.0"}"#), "pod-0");
        assert_eq!(identity(b"somebody"), "somebody");
    }
}
