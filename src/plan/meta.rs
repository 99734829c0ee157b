//! Where our own bookkeeping lives in etcd and what it looks like: `<meta prefix><cluster id>/leader`,
//! `<meta prefix><cluster id>/leases/<lease id>`, `<meta prefix><cluster id>/hold`, `<meta prefix><cluster id>/heard/<track>` and
//! `<meta prefix><cluster id>/candidates/<identity>` for the Registry `default`, the same below `<meta prefix><cluster id>/registries/<name>/` for any other. Consumers never read it.
//!
//! Every record says in `v` which version of its form it has. Releases run side by side while one replaces the other, and
//! either may lead: a later form may add fields, and keeps those that are there. Should one come that this release cannot
//! read nevertheless, then whatever it is about is kept as it is, and so is the record.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::transaction::{Key, LeaseId, Prefix, Value};

/// The version of the records that this release writes.
pub const RECORD_VERSION: u32 = 1;
/// For a hold of which it cannot be read how long it lasts, in seconds since 1970: the year 9999. Whoever goes on with a
/// hold lets it last no longer than one of its own.
const NO_END: u64 = 253_370_764_800;

/// The Registry that registrations use when they name none.
const DEFAULT_REGISTRY: &str = "default";

/// The names of our bookkeeping keys in one Registry.
#[derive(Clone, Debug)]
pub struct MetaKeys {
    scope: Prefix,
    leases: Arc<str>,
}

/// What is written under a lease's record key, on that very lease: proof that the lease is ours, entry in the
/// list of leases to renew, and witness that the lease lives.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    /// The version of this record's format.
    v: u32,
    /// The time to live asked for, in seconds.
    ttl: u32,
}

/// What is written under the key of the hold, while removals are held back: what a process must know to go on with a
/// hold that another one began.
///
/// It is on the lease of one of the keys held. So it outlives every leader, for every replica renews that lease; and it
/// stays no longer than what it is about when nobody is left to renew anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HoldRecord {
    /// Names it.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub until: u64,
    /// How many keys would have gone when it began.
    pub lost: usize,
    /// How many keys there were before.
    pub of: usize,
}

/// A [`HoldRecord`] with the version of its format.
#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    #[serde(flatten)]
    hold: HoldRecord,
}

/// What a candidate in the election says of itself, on the lease of its session: as long as the record is there, its replica
/// is connected to this etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateRecord {
    /// The replica's name.
    pub identity: Arc<str>,
    /// Its process, as it is known on direct connections.
    pub process: Arc<str>,
    /// Where other replicas reach it, if they do.
    pub address: Option<SocketAddr>,
    /// Its view of Kubernetes is complete and up to date.
    pub fresh: bool,
}

/// A [`CandidateRecord`] with the version of its format.
#[derive(Serialize, Deserialize)]
struct VersionedCandidate {
    v: u32,
    identity: Arc<str>,
    process: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default)]
    fresh: bool,
}

impl CandidateRecord {
    /// What is written of it.
    pub fn value(&self) -> Value {
        let record = VersionedCandidate {
            v: RECORD_VERSION,
            identity: self.identity.clone(),
            process: self.process.clone(),
            address: self.address.map(|address| address.to_string()),
            fresh: self.fresh,
        };
        serde_json::to_vec(&record).expect("text always serialises").into()
    }

    /// What was written; none if it is no such thing. Later versions may add fields, never change these.
    pub fn read(value: &[u8]) -> Option<Self> {
        let record: VersionedCandidate = serde_json::from_slice(value).ok()?;
        Some(Self {
            identity: record.identity,
            process: record.process,
            address: record.address.and_then(|address| address.parse().ok()),
            fresh: record.fresh,
        })
    }
}

/// What every record has.
#[derive(Deserialize)]
struct AnyRecord {
    v: u32,
}

/// The version of a record of a form that is newer than what this release writes; none of any other value.
pub fn newer_version(value: &[u8]) -> Option<u32> {
    let record: AnyRecord = serde_json::from_slice(value).ok()?;
    (record.v > RECORD_VERSION).then_some(record.v)
}

impl MetaKeys {
    /// The keys of the Registry `default` below `meta_prefix` (which ends with `/`) for the cluster `cluster_id`.
    pub fn new(meta_prefix: &str, cluster_id: &str) -> Self {
        Self::within(Prefix::below(&format!("{meta_prefix}{cluster_id}/")))
    }

    /// The keys of the Registry `name`. Those of `default` are the cluster's own; the others have a folder of theirs
    /// in it, so that two Registries of one etcd never take each other's leases, and thus keys, for their own.
    pub fn of_registry(meta_prefix: &str, cluster_id: &str, name: &str) -> Self {
        if name == DEFAULT_REGISTRY {
            Self::new(meta_prefix, cluster_id)
        } else {
            let folder = format!("{meta_prefix}{cluster_id}/registries/{name}/");
            Self::within(Prefix::below(&folder))
        }
    }

    fn within(scope: Prefix) -> Self {
        let leases = format!("{}leases/", scope.prefix()).into();
        Self { scope, leases }
    }

    /// The scope of all our bookkeeping.
    pub fn scope(&self) -> &Prefix {
        &self.scope
    }

    /// The key that names the leader.
    pub fn leader(&self) -> Key {
        format!("{}leader", self.scope.prefix()).into()
    }

    /// Where the records of candidates lie.
    pub fn candidates(&self) -> Prefix {
        Prefix::below(&format!("{}candidates/", self.scope.prefix()))
    }

    /// The key of the candidate `identity`'s record.
    pub fn candidate(&self, identity: &str) -> Key {
        format!("{}{identity}", self.candidates().prefix()).into()
    }

    /// Where the notes lie that leaders leave for their successors.
    pub(super) fn heard(&self) -> Prefix {
        Prefix::below(&format!("{}heard/", self.scope.prefix()))
    }

    /// The key that records the hold there is.
    pub(super) fn hold(&self) -> Key {
        format!("{}hold", self.scope.prefix()).into()
    }

    /// The value under that key.
    pub(super) fn hold_value(hold: HoldRecord) -> Value {
        serde_json::to_vec(&Versioned {
            v: RECORD_VERSION,
            hold,
        })
        .expect("text and integers always serialise")
        .into()
    }

    /// The hold that a value under that key tells of. Later versions may add fields, never change these. One that cannot
    /// be read because it is newer is a hold nevertheless, which is called by its version.
    pub(super) fn recorded_hold(value: &[u8]) -> Option<HoldRecord> {
        let read = serde_json::from_slice::<Versioned>(value).ok().map(|read| read.hold);
        read.or_else(|| {
            Some(HoldRecord {
                id: format!("v{}", newer_version(value)?),
                until: NO_END,
                lost: 0,
                of: 0,
            })
        })
    }

    /// The key that records `lease` as ours.
    pub fn record_key(&self, lease: LeaseId) -> Key {
        format!("{}{lease}", self.leases).into()
    }

    /// The value under a record key, for a lease of `ttl` seconds.
    pub fn record_value(ttl: u32) -> Value {
        let record = LeaseRecord { v: RECORD_VERSION, ttl };
        serde_json::to_vec(&record)
            .expect("two integers always serialise")
            .into()
    }

    /// The lease that a record key names, or none when `key` is no record of ours.
    pub fn recorded_lease(&self, key: &str) -> Option<LeaseId> {
        let id = key.strip_prefix(&*self.leases)?;
        let lease = LeaseId(i64::from_str_radix(id, 16).ok()?);
        // Written otherwise it would be a second record of that lease: each would be taken for a change of the other.
        (lease.0 > 0 && lease.to_string() == id).then_some(lease)
    }

    /// The time to live, in seconds, told by a record's value. Later versions may add fields, never change these.
    pub fn recorded_ttl(value: &[u8]) -> Option<u32> {
        serde_json::from_slice::<LeaseRecord>(value)
            .ok()
            .map(|record| record.ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_the_lease_and_ttl_it_was_written_for() {
        let meta = MetaKeys::new("/leasehold/", "c1");
        let lease = LeaseId(0x1a2b);
        assert_eq!(&*meta.record_key(lease), "/leasehold/c1/leases/0000000000001a2b");
        assert_eq!(meta.recorded_lease(&meta.record_key(lease)), Some(lease));
        assert_eq!(MetaKeys::recorded_ttl(&MetaKeys::record_value(30)), Some(30));
    }

    #[test]
    fn a_hold_reads_back_as_what_was_written() {
        let hold = HoldRecord {
            id: "1a2b".to_owned(),
            until: 1_800_000_000,
            lost: 18,
            of: 20,
        };
        let value = MetaKeys::hold_value(hold.clone());
        assert_eq!(MetaKeys::recorded_hold(&value), Some(hold.clone()));
        let later = br#"{"v":2,"id":"1a2b","until":1800000000,"lost":18,"of":20,"why":"new"}"#;
        assert_eq!(MetaKeys::recorded_hold(later), Some(hold));
        assert_eq!(MetaKeys::recorded_hold(b"{}"), None);
        let unread = MetaKeys::recorded_hold(br#"{"v":2,"holds":["1a2b"]}"#);
        assert_eq!(unread.map(|hold| hold.id).as_deref(), Some("v2"));
        assert_eq!(&*MetaKeys::new("/leasehold/", "c1").hold(), "/leasehold/c1/hold");
    }

    #[test]
    fn a_candidate_reads_back_as_what_was_written_and_what_is_none_as_nothing() {
        let candidate = CandidateRecord {
            identity: "leasehold-0".into(),
            process: "1a2b".into(),
            address: Some("[fd00::5]:8081".parse().expect("an address")),
            fresh: true,
        };
        let value = candidate.value();
        let text = r#"{"v":1,"identity":"leasehold-0","process":"1a2b","address":"[fd00::5]:8081","fresh":true}"#;
        assert_eq!(std::str::from_utf8(&value), Ok(text));
        assert_eq!(CandidateRecord::read(&value), Some(candidate));
        let later = br#"{"v":2,"identity":"a","process":"1","address":"unix:/x","why":"new"}"#;
        let read = CandidateRecord::read(later).expect("a candidate");
        assert_eq!((read.address, read.fresh), (None, false));
        assert_eq!(CandidateRecord::read(b"{}"), None);
        assert_eq!(
            &*MetaKeys::new("/leasehold/", "c1").candidate("leasehold-0"),
            "/leasehold/c1/candidates/leasehold-0"
        );
    }

    #[test]
    fn a_record_is_newer_by_its_version_and_by_nothing_else() {
        assert_eq!(newer_version(br#"{"v":2,"life":"15s"}"#), Some(2));
        for known in [&b"{\"v\":1,\"life\":15}"[..], b"{}", b"what?", b"{\"v\":\"2\"}"] {
            assert_eq!(newer_version(known), None, "{}", String::from_utf8_lossy(known));
        }
        for written in [
            MetaKeys::record_value(30),
            MetaKeys::hold_value(HoldRecord {
                id: "1a2b".to_owned(),
                until: 1,
                lost: 1,
                of: 1,
            }),
            super::super::Checkpoint::default().value(),
        ] {
            let text = String::from_utf8_lossy(&written).into_owned();
            assert!(text.starts_with(r#"{"v":1,"#), "{text}");
        }
    }

    #[test]
    fn the_records_of_one_registry_mean_nothing_to_another() {
        let lease = LeaseId(0x1a2b);
        let names = ["default", "other", "another"];
        let metas = names.map(|name| MetaKeys::of_registry("/leasehold/", "c1", name));
        assert_eq!(&*metas[0].leader(), "/leasehold/c1/leader");
        assert_eq!(&*metas[1].leader(), "/leasehold/c1/registries/other/leader");
        for (i, mine) in metas.iter().enumerate() {
            for (j, theirs) in metas.iter().enumerate() {
                let read = mine.recorded_lease(&theirs.record_key(lease));
                assert_eq!(read, (i == j).then_some(lease));
            }
        }
    }

    #[test]
    fn what_is_no_record_of_ours_names_no_lease() {
        let meta = MetaKeys::new("/leasehold/", "c1");
        for key in [
            "/leasehold/c1/leader",
            "/leasehold/c2/leases/01",
            "/leasehold/c1/leases/zz",
            "/leasehold/c1/leases/0",
            "/leasehold/c1/leases/1a2b",
            "/leasehold/c1/leases/+000000000001a2b",
            "/leasehold/c1/leases/0000000000001A2B",
        ] {
            assert_eq!(meta.recorded_lease(key), None, "{key}");
        }
        assert_eq!(MetaKeys::recorded_ttl(b"not json"), None);
        assert_eq!(
            MetaKeys::recorded_ttl(br#"{"v":2,"ttl":15,"class":"new"}"#),
            Some(15),
            "a later version's record"
        );
    }
}
