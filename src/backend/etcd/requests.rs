//! Requests to etcd with one answer: ranges, single keys, leases, status.

use std::time::Duration;

use etcd_client::proto::PbKeyValue;
use etcd_client::{
    Error as ClientError, GetOptions, GetResponse, LeaseGrantOptions, LeaseTimeToLiveOptions, StatusResponse,
};

use super::connection::{Call, Connection, HEDGE};
use super::error::{Error, Result};
use crate::backend::random;
use crate::model::{Key, KeyValue, LeaseId, Prefix, Revision};

/// Maximum number of keys per page: 100,000 keys with small values take about twenty requests.
const PAGE: i64 = 5000;
/// Keys of the first page, before it is known how large the values are.
const FIRST_PAGE: i64 = 250;
/// Bytes of keys and values that a page should have. Foreign keys may have large values, and the memory for a page is
/// several times its size.
const PAGE_BYTES: i64 = 4 << 20;

/// The contents of a prefix at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: Revision,
    /// The id of the cluster that answered.
    pub cluster_id: u64,
    /// All UTF-8 keys in order.
    pub entries: Vec<(Key, KeyValue)>,
}

/// One key at one revision.
pub(super) struct Read {
    /// None if the key does not exist.
    pub(super) held: Option<KeyValue>,
    /// The id of the cluster that answered.
    pub(super) cluster_id: u64,
    /// The newest revision of the cluster.
    pub(super) revision: Revision,
}

/// The state of a lease in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// Seconds left; zero or less while the lease waits to be revoked. A hint only: a new etcd leader extends it.
    pub ttl: i64,
    /// The TTL in seconds that each renewal gives the lease.
    pub granted_ttl: i64,
    /// The UTF-8 keys on the lease, if the caller asked for them.
    pub keys: Vec<Key>,
}

/// What a member reports about itself and its cluster.
#[allow(clippy::struct_excessive_bools, reason = "etcd reports each of them separately")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// etcd's version, such as `3.6.15`.
    pub version: String,
    pub cluster_id: u64,
    /// The revision of the key space as this member knows it.
    pub revision: Revision,
    /// Size of the member's database in bytes.
    pub db_bytes: i64,
    /// Whether the cluster has a leader, as far as this member knows.
    pub has_leader: bool,
    /// Whether the database is full: the cluster's NOSPACE alarm.
    pub is_full: bool,
    /// Whether data is corrupt: the cluster's CORRUPT alarm, during which no member accepts writes.
    pub is_corrupt: bool,
    pub is_learner: bool,
    pub member_id: u64,
}

/// Returns a new lease id. The id is random, so that no other client has used it and a repeated grant is recognizable
/// as this process's own. The id is positive, because etcd before 3.5.3 forgets negative ones on restart.
pub fn lease_id() -> LeaseId {
    loop {
        // Clears the sign bit.
        let id = (random() >> 1).cast_signed();
        if id != 0 {
            return LeaseId(id);
        }
    }
}

/// Decodes a key and its state; `None` if the key is not UTF-8, because the operator writes no such keys.
pub(super) fn decode(kv: PbKeyValue) -> Option<(Key, KeyValue)> {
    let key = String::from_utf8(kv.key).ok()?;
    let held = KeyValue {
        value: kv.value.into(),
        lease: LeaseId(kv.lease),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
    };
    Some((key.into(), held))
}

/// Decodes a key of a list. The value of a key without a lease is dropped: the key is foreign, its value decides nothing, and
/// there may be many of them with large values.
fn listed(mut kv: PbKeyValue) -> Option<(Key, KeyValue)> {
    if kv.lease == 0 {
        kv.value = Vec::new();
    }
    decode(kv)
}

/// Returns the first key after all keys of the prefix.
pub(super) fn end_of(prefix: &Prefix) -> Vec<u8> {
    let mut end = prefix.as_str().as_bytes().to_vec();
    *end.last_mut().expect("a prefix ends with '/'") += 1;
    end
}

/// Returns how many keys to read next, after a page of up to `page` keys was `bytes` long.
fn next_page(page: i64, bytes: usize) -> i64 {
    let bytes = i64::try_from(bytes.max(1)).unwrap_or(i64::MAX);
    let fitting = page.saturating_mul(PAGE_BYTES) / bytes;
    fitting.clamp(1, PAGE.min(page * 8))
}

impl Connection {
    fn kind<T>(&self, name: &'static str) -> Call<T> {
        Call {
            name,
            attempt_timeout: self.timeouts().request,
            refused: |_| false,
            hedge: Some(HEDGE),
        }
    }

    /// Lists the prefix at revision `at`, or at the newest revision. All pages are read at one revision.
    pub async fn range(&self, prefix: &Prefix, at: Option<Revision>) -> Result<Snapshot> {
        let end = end_of(prefix);
        let mut from = prefix.as_str().as_bytes().to_vec();
        let mut pin = at;
        let (mut page, mut most) = (FIRST_PAGE, PAGE);
        let mut entries = Vec::new();
        loop {
            let mut answer = match self.page(&from, &end, pin, page).await {
                Ok(answer) => answer,
                // The values of the page exceed the limit of an answer.
                Err(Error::TooLarge { .. }) if page > 1 => {
                    (page, most) = ((page / 8).max(1), page / 2);
                    continue;
                }
                // The network is too slow for a page of this size. The first page is not large.
                Err(Error::Timeout { .. }) if page > FIRST_PAGE => {
                    (page, most) = (page / 8, page / 2);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let header = answer
                .take_header()
                .ok_or_else(|| Error::malformed("range", "no header"))?;
            let revision = *pin.get_or_insert(header.revision());
            let kvs = std::mem::take(&mut answer.0.kvs);
            if let Some(last) = kvs.last() {
                from.clone_from(&last.key);
                from.push(0);
            }
            let more = answer.more() && !kvs.is_empty();
            let bytes = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            page = next_page(page, bytes).min(most);
            entries.extend(kvs.into_iter().filter_map(listed));
            if !more {
                return Ok(Snapshot {
                    revision,
                    cluster_id: header.cluster_id(),
                    entries,
                });
            }
        }
    }

    async fn page(&self, from: &[u8], end: &[u8], at: Option<Revision>, limit: i64) -> Result<GetResponse> {
        let kind = Call {
            // Over a slow network a page takes long, and a second copy of it would slow down both.
            hedge: None,
            ..self.kind("range")
        };
        self.call(kind, |endpoint| {
            let mut kv = endpoint.kv.clone();
            let mut options = GetOptions::new().with_range(end).with_limit(limit);
            if let Some(revision) = at {
                options = options.with_revision(revision);
            }
            let from = from.to_vec();
            async move { kv.get(from, Some(options)).await }
        })
        .await
    }

    /// Reads one key, linearizably, and the revision at which it was read.
    pub async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision)> {
        let read = self.get_at(key, None).await?;
        Ok((read.held, read.revision))
    }

    /// Reads one key at revision `at`, or at the newest revision, linearizably.
    pub(super) async fn get_at(&self, key: &str, at: Option<Revision>) -> Result<Read> {
        let mut answer = self
            .call(self.kind("get"), |endpoint| {
                let mut kv = endpoint.kv.clone();
                let options = at.map(|revision| GetOptions::new().with_revision(revision));
                async move { kv.get(key, options).await }
            })
            .await?;
        let header = answer
            .take_header()
            .ok_or_else(|| Error::malformed("get", "no header"))?;
        let kv = answer.0.kvs.pop();
        Ok(Read {
            held: kv.and_then(decode).map(|(_, held)| held),
            cluster_id: header.cluster_id(),
            revision: header.revision(),
        })
    }

    /// Grants `lease` for `ttl_seconds`. Returns the granted TTL in seconds, which may be longer. The id must be from
    /// [`lease_id`]: then an existing lease can only mean that an earlier attempt succeeded.
    pub async fn grant(&self, lease: LeaseId, ttl_seconds: u32) -> Result<i64> {
        let granted = self
            .call(self.kind("grant"), |endpoint| {
                let mut client = endpoint.lease.clone();
                let options = LeaseGrantOptions::new().with_id(lease.0);
                async move { client.grant(ttl_seconds.into(), Some(options)).await }
            })
            .await;
        match granted {
            Ok(answer) => Ok(answer.ttl()),
            Err(error) if error.is_lease_exists() => match self.lease(lease, false).await? {
                Some(state) => Ok(state.granted_ttl),
                // An earlier attempt granted the lease and it is gone already: report the failure as if it had never
                // existed.
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Returns the state of `lease` from etcd's leader, with its keys if `with_keys`; `None` if the lease does not
    /// exist.
    pub async fn lease(&self, lease: LeaseId, with_keys: bool) -> Result<Option<LeaseState>> {
        let answer = self
            .call(self.kind("lease"), |endpoint| {
                let mut client = endpoint.lease.clone();
                let options = with_keys.then(|| LeaseTimeToLiveOptions::new().with_keys());
                async move { client.time_to_live(lease.0, options).await }
            })
            .await?;
        // An expired lease that is not revoked yet also has a negative TTL. Only the granted TTL shows whether it
        // exists.
        if answer.granted_ttl() == 0 {
            return Ok(None);
        }
        let keys = answer.0.keys.into_iter();
        Ok(Some(LeaseState {
            ttl: answer.0.ttl,
            granted_ttl: answer.0.granted_ttl,
            keys: keys
                .filter_map(|key| String::from_utf8(key).ok().map(Key::from))
                .collect(),
        }))
    }

    /// Renews `lease` once on a separate stream, which no other lease can block. `attempt_timeout` applies per
    /// endpoint; after `hedge` without an answer, another one is asked as well. False if the member does not know the
    /// lease, which is no proof yet that it is gone.
    pub(super) async fn renew_once(&self, lease: LeaseId, attempt_timeout: Duration, hedge: Duration) -> Result<bool> {
        let kind = Call {
            name: "keep_alive",
            attempt_timeout,
            refused: |alive: &bool| !alive,
            hedge: Some(hedge),
        };
        self.call(kind, |endpoint| {
            let mut client = endpoint.keep_alive.clone();
            async move {
                match client.keep_alive(lease.0).await {
                    Ok(_) => Ok(true),
                    Err(error) if lacks_lease(&error) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }

    /// Returns what the preferred member reports about itself.
    pub async fn status(&self) -> Result<Status> {
        let answer = self
            .call(self.kind("status"), |endpoint| {
                let mut client = endpoint.maintenance.clone();
                async move { client.status().await }
            })
            .await?;
        status_of(&answer)
    }
}

pub(super) fn status_of(answer: &StatusResponse) -> Result<Status> {
    let header = answer.header().ok_or_else(|| Error::malformed("status", "no header"))?;
    Ok(Status {
        version: answer.version().to_owned(),
        cluster_id: header.cluster_id(),
        revision: header.revision(),
        db_bytes: answer.db_size(),
        has_leader: answer.leader() != 0,
        is_full: answer.errors().iter().any(|error| error.contains("NOSPACE")),
        is_corrupt: answer.errors().iter().any(|error| error.contains("CORRUPT")),
        is_learner: answer.is_learner(),
        member_id: header.member_id(),
    })
}

/// Whether a keepalive stream did not open because the first answer had TTL 0. Compares the client crate's message.
pub(super) fn lacks_lease(error: &ClientError) -> bool {
    matches!(error, ClientError::LeaseKeepAliveError(message) if message == "lease not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_while_values_are_small_and_shrink_when_they_are_large() {
        let mut page = FIRST_PAGE;
        for value in [100, 100, 100] {
            page = next_page(page, usize::try_from(page).unwrap() * value);
        }
        assert_eq!(page, PAGE);
        assert_eq!(next_page(PAGE, 0), PAGE, "an empty one");
        let large = next_page(PAGE, 25_000_000);
        assert_eq!(large, 838);
        assert_eq!(next_page(large, 838 * 5_000), 838, "it stays at about the size wanted");
        assert_eq!(next_page(10, 1 << 30), 1);
        assert_eq!(next_page(1, 10), 8);
    }

    #[test]
    fn lease_ids_are_positive_and_differ() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| lease_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.0 > 0));
    }

    #[test]
    fn a_prefix_range_excludes_longer_sibling_prefixes() {
        let end = end_of(&Prefix::below("/orders"));
        assert_eq!(end, b"/orders0");
        assert!(b"/orders-v2/x".as_slice() < b"/orders/".as_slice() || b"/orders-v2/x".as_slice() >= end.as_slice());
        assert!(b"/orders/\xff\xff".as_slice() < end.as_slice());
    }
}
