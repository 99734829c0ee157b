//! What is ours in the etcd of a Registry, all of it: found, and removed without the operator.
//!
//! A key is ours when it is on a lease that our bookkeeping records. Each is removed by a write that its own revision
//! guards, and all writes are fenced by who led when we looked: nobody, unless leading was to be overlooked. So neither
//! another's key goes nor one that somebody has changed since. The leases are left to lapse: to revoke one would remove
//! keys that nothing guards.

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::{Duration, Instant, sleep};

use crate::api::Registry;
use crate::etcd::{Access, Connection, Error, Timeouts};
use crate::plan::{Fence, Key, KeyValue, LeaseId, MetaKeys, Op, OpResult, Transaction, TxnOutcome};
use crate::telemetry::Calls;

/// Keys that are read at a time.
const READS: usize = 16;
/// Between two looks at whether somebody still leads.
const LOOK: Duration = Duration::from_millis(200);
/// The folder of the other Registries in the bookkeeping of the one named `default`.
const OTHERS: &str = "registries/";

/// What is ours in one Registry.
pub struct Purge {
    connection: Connection,
    fence: Fence,
    keys: Vec<(Key, KeyValue)>,
    records: Vec<(Key, KeyValue)>,
    meta: MetaKeys,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Keys of registrations that were removed.
    pub keys: usize,
    /// Those that somebody else changed or removed in the meantime: nothing was done to them.
    pub left: usize,
}

/// Why nothing, or not all, was removed.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// An operator leads, and would put back what is removed.
    #[error(
        "the replica {leader} leads: it would put every key back; end the operator first, or give --wait SECONDS if it \
         is ending, or --force to remove the keys nevertheless"
    )]
    Led {
        /// Its name.
        leader: String,
    },
    /// Somebody began to lead, or another one leads, while keys were removed.
    #[error("the leader has changed after {removed} keys were removed; see that no operator runs, and try again")]
    Fenced {
        /// How many had gone.
        removed: usize,
    },
    /// etcd says no, or does not answer.
    #[error("etcd: {0}")]
    Etcd(#[from] Error),
}

impl Purge {
    /// Looks for what is ours. Whoever leads may end within `patience`; after that it is an error, unless `force` is given.
    pub async fn find(
        cluster_id: &str,
        name: &str,
        (registry, access): (&Registry, &Access),
        patience: Duration,
        force: bool,
    ) -> Result<Self, PurgeError> {
        let connection = Connection::new(access, Timeouts::default(), Calls::default()).await?;
        let meta = MetaKeys::of_registry(&registry.spec.meta_prefix, cluster_id, name);
        let fence = fence(&connection, &meta, patience, force).await?;
        let snapshot = connection.range(meta.scope(), None).await?;
        let own = |key: &Key| {
            let inside = key.strip_prefix(meta.scope().prefix()).unwrap_or_default();
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

    /// The keys that consumers read, in the order of their leases.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.keys.iter().map(|(key, _)| &**key)
    }

    /// Whether there is nothing of ours at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.records.is_empty()
    }

    /// Removes all of it: first the keys, then the records of leases on which none is left.
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
        // What proves that a key is ours stays with it.
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

    /// Removes keys that are as they were found, and says of each whether it was.
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
                // A repeated request finds that its first copy has done the work.
                .map(|result| matches!(result, OpResult::Done | OpResult::Refused(None)))
                .collect()),
            TxnOutcome::Fenced | TxnOutcome::LeaseGone | TxnOutcome::Overtaken { .. } => {
                Err(PurgeError::Fenced { removed })
            }
        }
    }
}

/// What holds as long as nobody else begins to lead.
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

/// Who the value under the leader's key says that it is; the value itself when it was written by nobody of ours.
fn identity(value: &[u8]) -> String {
    let record = serde_json::from_slice::<serde_json::Value>(value).unwrap_or_default();
    let identity = record["identity"].as_str().map(str::to_owned);
    identity.unwrap_or_else(|| String::from_utf8_lossy(value).into_owned())
}

/// The keys on one of our leases, without our own bookkeeping.
async fn on_lease(connection: &Connection, meta: &MetaKeys, lease: LeaseId) -> Result<Vec<(Key, KeyValue)>, Error> {
    let keys = connection
        .lease(lease, true)
        .await?
        .map(|state| state.keys)
        .unwrap_or_default();
    let keys = keys.into_iter().filter(|key| !meta.scope().contains(key));
    let held = stream::iter(keys).map(async |key| {
        let held = connection.get(&key).await?.0;
        // It may have gone, or be on another lease, since etcd told of it.
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
    fn a_leader_is_told_by_its_name_and_what_is_no_record_as_it_is() {
        assert_eq!(identity(br#"{"identity":"pod-0","version":"0.1.0"}"#), "pod-0");
        assert_eq!(identity(b"somebody"), "somebody");
    }
}
