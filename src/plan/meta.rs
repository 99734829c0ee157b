//! The keys and values of our own bookkeeping in etcd. Consumers never read them. The folder of the Registry `default`
//! is `<meta prefix><cluster id>/`, that of any other one is `<meta prefix><cluster id>/registries/<name>/`. It
//! contains `leader`, `leases/<lease id>`, `hold`, `heard/<track>` and `candidates/<identity>`.
//!
//! Every record has its format version in `v`. During an upgrade two releases run side by side, and either may lead: a
//! later format may add fields and keeps the existing ones. If this release cannot read a newer record, it keeps both
//! the record and the things it describes as they are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::DEFAULT_REGISTRY;
use crate::model::{Key, KeyValue, LeaseId, Prefix, RECORD_VERSION, Revision, Value};

/// The end of a hold whose record does not show one, in seconds since 1970: the year 9999. A replica that adopts a hold
/// limits it to its own configured duration.
const NO_END: u64 = 253_370_764_800;

/// The names of the bookkeeping keys of one Registry.
#[derive(Clone, Debug)]
pub struct MetaKeys {
    prefix: Prefix,
    leases: Arc<str>,
}

/// The value under a lease's record key, on that very lease. It proves that the lease is ours, lists it for renewal,
/// and shows that the lease is alive.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    v: u32,
    /// The requested time to live, in seconds.
    ttl: u32,
}

/// The record of a hold: what another process must know to continue it.
///
/// It is on the lease of one of the keys held. Every replica renews that lease, so the record outlives every leader.
/// When no replica is left to renew it, the record expires together with that key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HoldRecord {
    /// Identifies the hold.
    pub id: String,
    /// When the hold expires, in seconds since 1970.
    pub until: u64,
    /// How many endpoints would have been lost when the hold began.
    pub lost: usize,
    /// How many endpoints there were before the loss.
    pub of: usize,
    /// How many of the lost endpoints had no held key when the hold began.
    #[serde(default)]
    pub released: usize,
    /// Whether these are numbers of endpoints. Earlier releases counted keys.
    #[serde(default)]
    pub endpoints: bool,
    /// The namespaces whose removals are held; none if those of all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<Arc<str>>>,
    /// Whether the hold takes in further removals by edits only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub edits: bool,
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    #[serde(flatten)]
    hold: HoldRecord,
}

/// The record of a candidate in the leader election, on the lease of its session. As long as the record exists, its
/// replica is connected to this etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateRecord {
    /// The replica's name.
    pub identity: Arc<str>,
    /// The id of its process on direct connections between replicas.
    pub process: Arc<str>,
    /// The address for direct connections from other replicas, if it accepts any.
    pub address: Option<SocketAddr>,
    /// Whether its caches are complete and up to date.
    pub fresh: bool,
    /// The namespaces that it watches; empty if it watches all. Releases that cannot say it wrote none.
    pub namespaces: Option<BTreeSet<Arc<str>>>,
    /// The revision at which the first of the candidates began that have watched these namespaces without a gap; 0 if this
    /// is the first one and its record is not in etcd yet.
    pub since: Revision,
}

#[derive(Serialize, Deserialize)]
struct VersionedCandidate {
    v: u32,
    identity: Arc<str>,
    process: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default)]
    fresh: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespaces: Option<BTreeSet<Arc<str>>>,
    #[serde(default, skip_serializing_if = "is_unknown")]
    since: Revision,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_unknown(since: &Revision) -> bool {
    *since == 0
}

/// Returns the earliest candidate that stands in the way of the candidate `identity`, which watches `namespaces`: it
/// watches others, and has stood for election for longer than any that watches the same ones. The two would remove each
/// other's keys at each change of the leader. A candidate that does not say what it watches stands in no way.
pub fn in_the_way<'a>(
    (identity, namespaces): (&str, &BTreeSet<Arc<str>>),
    candidates: impl Iterator<Item = &'a CandidateRecord> + Clone,
) -> Option<&'a CandidateRecord> {
    let is_same = |candidate: &CandidateRecord| candidate.namespaces.as_ref().map(|theirs| theirs == namespaces);
    let of_same = candidates.clone().filter(|candidate| is_same(candidate) == Some(true));
    let since = of_same.map(|candidate| candidate.since).min();
    // The record of an earlier process of this identity may have other namespaces.
    candidates
        .filter(|candidate| is_same(candidate) == Some(false) && *candidate.identity != *identity)
        .filter(|candidate| since.is_none_or(|since| candidate.since < since))
        .min_by_key(|candidate| candidate.since)
}

impl CandidateRecord {
    /// The encoded value for etcd.
    pub fn value(&self) -> Value {
        let record = VersionedCandidate {
            v: RECORD_VERSION,
            identity: self.identity.clone(),
            process: self.process.clone(),
            address: self.address.map(|address| address.to_string()),
            fresh: self.fresh,
            namespaces: self.namespaces.clone(),
            since: self.since,
        };
        serde_json::to_vec(&record).expect("text always serialises").into()
    }

    /// Decodes a record, none if it cannot be read. Later versions may add fields, never change these.
    pub fn read(held: &KeyValue) -> Option<Self> {
        let record: VersionedCandidate = serde_json::from_slice(&held.value).ok()?;
        let inherited = Some(record.since).filter(|since| *since > 0);
        Some(Self {
            namespaces: record.namespaces,
            since: inherited.unwrap_or(held.create_revision).min(held.create_revision),
            identity: record.identity,
            process: record.process,
            address: record.address.and_then(|address| address.parse().ok()),
            fresh: record.fresh,
        })
    }
}

/// The field that every record has.
#[derive(Deserialize)]
struct AnyRecord {
    v: u32,
}

/// The version of a record if its format is newer than the one this release writes; none for any other value.
pub fn newer_version(value: &[u8]) -> Option<u32> {
    let record: AnyRecord = serde_json::from_slice(value).ok()?;
    (record.v > RECORD_VERSION).then_some(record.v)
}

impl MetaKeys {
    /// The keys of the Registry `default` below `meta_prefix` (which ends with `/`) for the cluster `cluster_id`.
    pub fn new(meta_prefix: &str, cluster_id: &str) -> Self {
        Self::within(Prefix::below(&format!("{meta_prefix}{cluster_id}/")))
    }

    /// The keys of the Registry `name`. Those of `default` are directly in the cluster's folder, those of every other
    /// Registry in a folder inside it. So two Registries on one etcd never take each other's leases, and thus keys, for
    /// their own.
    pub fn of_registry(meta_prefix: &str, cluster_id: &str, name: &str) -> Self {
        if name == DEFAULT_REGISTRY {
            Self::new(meta_prefix, cluster_id)
        } else {
            let folder = format!("{meta_prefix}{cluster_id}/registries/{name}/");
            Self::within(Prefix::below(&folder))
        }
    }

    fn within(prefix: Prefix) -> Self {
        let leases = format!("{}leases/", prefix.as_str()).into();
        Self { prefix, leases }
    }

    /// The prefix of all our bookkeeping.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The key that the leader holds.
    pub fn leader(&self) -> Key {
        format!("{}leader", self.prefix.as_str()).into()
    }

    /// The prefix of the candidates' records.
    pub fn candidates(&self) -> Prefix {
        Prefix::below(&format!("{}candidates/", self.prefix.as_str()))
    }

    pub fn candidate(&self, identity: &str) -> Key {
        format!("{}{identity}", self.candidates().as_str()).into()
    }

    /// The prefix of the checkpoints that leaders leave for their successors.
    pub(super) fn checkpoints(&self) -> Prefix {
        Prefix::below(&format!("{}heard/", self.prefix.as_str()))
    }

    /// The key of the hold's record.
    pub(super) fn hold(&self) -> Key {
        format!("{}hold", self.prefix.as_str()).into()
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

    /// Decodes a value under that key. Later versions may add fields, never change these. A record that is newer and
    /// cannot be read is a hold as well; its id is its version.
    pub(super) fn recorded_hold(value: &[u8]) -> Option<HoldRecord> {
        let read = serde_json::from_slice::<Versioned>(value).ok().map(|read| read.hold);
        read.or_else(|| {
            Some(HoldRecord {
                id: format!("v{}", newer_version(value)?),
                until: NO_END,
                lost: 0,
                of: 0,
                released: 0,
                endpoints: true,
                namespaces: None,
                edits: false,
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

    /// The lease that a record key names, none if `key` is no record of ours.
    pub fn recorded_lease(&self, key: &str) -> Option<LeaseId> {
        let id = key.strip_prefix(&*self.leases)?;
        let lease = LeaseId(i64::from_str_radix(id, 16).ok()?);
        // In any other notation it would be a second record of that lease, and each would be taken for a change of the
        // other.
        (lease.0 > 0 && lease.to_string() == id).then_some(lease)
    }

    /// The time to live in a record's value, in seconds. Later versions may add fields, never change these.
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
            released: 2,
            endpoints: true,
            namespaces: Some(vec!["shop".into()]),
            edits: true,
        };
        let value = MetaKeys::hold_value(hold.clone());
        assert_eq!(MetaKeys::recorded_hold(&value), Some(hold.clone()));
        let later = br#"{"v":2,"id":"1a2b","until":1800000000,"lost":18,"of":20,"released":2,"endpoints":true,"namespaces":["shop"],"edits":true,"why":"new"}"#;
        assert_eq!(MetaKeys::recorded_hold(later), Some(hold));
        let earlier = br#"{"v":1,"id":"1a2b","until":1800000000,"lost":18,"of":20}"#;
        assert!(MetaKeys::recorded_hold(earlier).is_some_and(|hold| hold.namespaces.is_none() && !hold.edits));
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
            namespaces: Some(["shop".into(), "bank".into()].into()),
            since: 7,
        };
        let held = |value: &[u8]| KeyValue {
            value: value.into(),
            lease: LeaseId(1),
            create_revision: 9,
            mod_revision: 9,
        };
        let value = candidate.value();
        let text = r#"{"v":1,"identity":"leasehold-0","process":"1a2b","address":"[fd00::5]:8081","fresh":true,"namespaces":["bank","shop"],"since":7}"#;
        assert_eq!(std::str::from_utf8(&value), Ok(text));
        assert_eq!(CandidateRecord::read(&held(&value)), Some(candidate));
        let later = br#"{"v":2,"identity":"a","process":"1","address":"unix:/x","why":"new"}"#;
        let read = CandidateRecord::read(&held(later)).expect("a candidate");
        assert_eq!((read.address, read.fresh), (None, false));
        assert_eq!((read.namespaces, read.since), (None, 9), "that of an older release");
        assert_eq!(CandidateRecord::read(&held(b"{}")), None);
        assert_eq!(
            &*MetaKeys::new("/leasehold/", "c1").candidate("leasehold-0"),
            "/leasehold/c1/candidates/leasehold-0"
        );
    }

    #[test]
    fn a_candidate_gives_way_to_earlier_ones_that_watch_other_namespaces() {
        let set = |names: &[&str]| -> BTreeSet<Arc<str>> { names.iter().copied().map(Arc::from).collect() };
        let candidate = |identity: &str, namespaces: Option<&[&str]>, since| CandidateRecord {
            identity: identity.into(),
            process: identity.into(),
            address: None,
            fresh: true,
            namespaces: namespaces.map(set),
            since,
        };
        let shop = |since| candidate("shop", Some(&["shop"]), since);
        let (bank, all) = (candidate("bank", Some(&["bank"]), 5), candidate("all", Some(&[]), 3));
        let unknown = candidate("unknown", None, 1);
        let (early, late) = (shop(2), shop(9));
        for (candidates, expected) in [
            (vec![], None),
            (vec![&unknown], None),
            (vec![&late, &unknown], None),
            // Its own record is not in etcd yet.
            (vec![&bank], Some("bank")),
            (vec![&bank, &late], Some("bank")),
            (vec![&bank, &late, &all], Some("all")),
            (vec![&bank, &early], None),
            // Another replica has watched the same namespaces for longer.
            (vec![&bank, &all, &late, &early], None),
        ] {
            let found = in_the_way(("me", &set(&["shop"])), candidates.iter().copied());
            assert_eq!(found.map(|found| &*found.identity), expected, "{candidates:?}");
        }
        // Of two with different namespaces, exactly one gives way.
        let both = [&bank, &late];
        assert!(in_the_way(("bank", &set(&["bank"])), both.into_iter()).is_none());
        let restarted = in_the_way(("bank", &set(&["shop"])), [&bank].into_iter());
        assert!(restarted.is_none(), "its own record of an earlier process");
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
                released: 0,
                endpoints: true,
                namespaces: None,
                edits: false,
            }),
            crate::model::Checkpoint::default().value(),
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
