//! How far a leader had watched Kubernetes when it wrote to etcd, and how far its successor must therefore have watched
//! before it writes.
//!
//! A standby replica may receive a watch event later than the leader. If it became leader then and acted on its older
//! cache, it would undo what its predecessor did correctly, and redo it once its cache has caught up. So every leader
//! writes a checkpoint to etcd in the same transactions as its keys: the versions that its caches had reached. Its
//! successor reads the checkpoints once it leads, when no other replica can write any more, and waits until its own
//! caches have reached these versions. Usually they have. Transactions that are in flight at the same time use separate
//! write slots, each with its own checkpoint.
//!
//! The successor may watch other namespaces than its predecessor did, or the whole cluster. What counts is the overlap:
//! a watch must have reached the predecessor's version in every target that it overlaps. The successor does not wait for
//! targets that only the predecessor watched.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::RECORD_VERSION;
use super::namespace_scope::NamespaceScope;
use super::transaction::Value;
use super::watch_target::WatchTarget;

/// Versions (`metadata.resourceVersion`) up to which each watch target has been processed. The versions of one kind grow
/// within one API server, across namespaces; since Kubernetes 1.35 clients may rely on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint(BTreeMap<WatchTarget, u64>);

#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    #[serde(rename = "heard")]
    reached: BTreeMap<WatchTarget, u64>,
}

impl Checkpoint {
    /// Records that an object of this version was processed.
    pub fn add(&mut self, target: &WatchTarget, version: u64) {
        match self.0.get_mut(target) {
            Some(known) => *known = version.max(*known),
            None => drop(self.0.insert(target.clone(), version)),
        }
    }

    /// Forgets the version of a target: the API server was restored to an earlier state, and its versions start again
    /// there.
    pub fn forget(&mut self, target: &WatchTarget) {
        self.0.remove(target);
    }

    /// Keeps the higher version of `self` and `other` for each target.
    pub fn merge(&mut self, other: Self) {
        for (target, version) in other.0 {
            self.add(&target, version);
        }
    }

    /// Returns the highest version of the targets that overlap `target`; `None` if there is none.
    fn meeting(&self, target: &WatchTarget) -> Option<u64> {
        let meeting = self.0.iter().filter(|(other, _)| target.meets(other));
        meeting.map(|(_, version)| *version).max()
    }

    /// The encoded value for etcd.
    pub fn value(&self) -> Value {
        let reached = self.0.clone();
        serde_json::to_vec(&Versioned {
            v: RECORD_VERSION,
            reached,
        })
        .expect("strings and integers serialize")
        .into()
    }

    /// Decodes a value; `None` if it cannot be read. Later versions may add fields, but must not change these.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Versioned>(value)
            .ok()
            .map(|read| Self(read.reached))
    }
}

/// The version that one watch has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetFreshness {
    /// Everything up to this version has been processed.
    pub version: u64,
    /// The API server's own version, and when it was asked for it.
    pub present: Option<(u64, Instant)>,
}

/// The versions that the watches of this replica have reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness(BTreeMap<WatchTarget, TargetFreshness>);

impl Freshness {
    /// Watches of these targets that have not received anything yet.
    pub fn new(targets: impl IntoIterator<Item = WatchTarget>) -> Self {
        Self(
            targets
                .into_iter()
                .map(|target| (target, TargetFreshness::default()))
                .collect(),
        )
    }

    /// Records that everything up to `version` of this target has been processed.
    pub fn reach(&mut self, target: &WatchTarget, version: u64) {
        self.at(target).version = version;
    }

    /// Records that the API server was at this version when it was asked at the time `asked`.
    pub fn compare(&mut self, target: &WatchTarget, version: u64, asked: Instant) {
        self.at(target).present = Some((version, asked));
    }

    /// Returns the API server's own version of every target if each was asked for at `since` or later, else `None`. No
    /// replica can have received more than that by `since`.
    pub fn presents(&self, since: Instant) -> Option<Checkpoint> {
        let present = |reached: &TargetFreshness| reached.present.filter(|(_, asked)| *asked >= since);
        let all = self
            .0
            .iter()
            .map(|(target, reached)| Some((target.clone(), present(reached)?.0)));
        all.collect::<Option<_>>().map(Checkpoint)
    }

    fn at(&mut self, target: &WatchTarget) -> &mut TargetFreshness {
        self.0.entry(target.clone()).or_default()
    }

    /// Returns a copy without the targets for which `is_void` is true: their watches have nothing to deliver.
    #[must_use]
    pub fn without(&self, is_void: impl Fn(&WatchTarget) -> bool) -> Self {
        let targets = self.0.iter().filter(|(target, _)| !is_void(target));
        Self(targets.map(|(target, reached)| (target.clone(), *reached)).collect())
    }

    /// Returns the targets that have not reached `needed`, which was found at `since`. Ignores a version that the API
    /// server itself has not reached since then: it belongs to a history that a restore has undone. Also ignores targets
    /// that this replica does not watch.
    pub fn lacks(&self, needed: &Checkpoint, since: Instant) -> Vec<WatchTarget> {
        let lacks = |(target, reached): (&WatchTarget, &TargetFreshness)| {
            let needed = needed.meeting(target)?;
            let void = |(present, asked)| asked >= since && present < needed;
            (reached.version < needed && !reached.present.is_some_and(void)).then(|| target.clone())
        };
        self.0.iter().filter_map(lacks).collect()
    }

    /// Returns the scopes in the checkpoint `reached` that this replica does not watch, for the kinds that it watches.
    pub fn beyond(&self, reached: &Checkpoint) -> Vec<NamespaceScope> {
        let is_covered = |namespaces: &NamespaceScope, kind: &str| {
            let mut here = self.0.keys().filter(|target| target.kind == kind);
            here.any(|target| target.namespaces == NamespaceScope::Cluster || target.namespaces == *namespaces)
        };
        let is_known = |kind: &str| self.0.keys().any(|target| target.kind == kind);
        let beyond = reached.0.keys().filter(|target| is_known(&target.kind));
        let beyond = beyond.filter(|target| !is_covered(&target.namespaces, &target.kind));
        let mut scopes: Vec<NamespaceScope> = beyond.map(|target| target.namespaces.clone()).collect();
        scopes.sort();
        scopes.dedup();
        scopes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PODS: WatchTarget = WatchTarget::of_cluster("pods");
    const REGISTRATIONS: WatchTarget = WatchTarget::of_cluster("registrations");

    fn pods_in(namespace: &str) -> WatchTarget {
        WatchTarget::new("pods", NamespaceScope::namespace(namespace))
    }

    fn reached(pods: u64, registrations: u64) -> Checkpoint {
        let mut reached = Checkpoint::default();
        reached.add(&PODS, pods);
        reached.add(&REGISTRATIONS, registrations);
        reached
    }

    fn checkpoint_of<const N: usize>(targets: [(WatchTarget, u64); N]) -> Checkpoint {
        let mut reached = Checkpoint::default();
        for (target, version) in targets {
            reached.add(&target, version);
        }
        reached
    }

    fn progress_of<const N: usize>(targets: [(WatchTarget, u64); N]) -> Freshness {
        let mut progress = Freshness::new([]);
        for (target, version) in targets {
            progress.reach(&target, version);
        }
        progress
    }

    #[test]
    fn checkpoint_round_trips_and_other_content_is_not_read() {
        let value = reached(105, 99).value();
        let text = r#"{"v":1,"heard":{"pods":105,"registrations":99}}"#;
        assert_eq!(std::str::from_utf8(&value), Ok(text));
        assert_eq!(Checkpoint::read(&value), Some(reached(105, 99)));
        let later = br#"{"v":2,"heard":{"pods":105,"registrations":99},"why":"new"}"#;
        assert_eq!(Checkpoint::read(later), Some(reached(105, 99)));
        assert_eq!(Checkpoint::read(b"{}"), None);
    }

    #[test]
    fn checkpoint_of_namespaced_watches_round_trips() {
        let written = checkpoint_of([(pods_in("bank"), 7), (pods_in("shop"), 105), (REGISTRATIONS, 99)]);
        let value = written.value();
        let text = r#"{"v":1,"heard":{"pods/bank":7,"pods/shop":105,"registrations":99}}"#;
        assert_eq!(std::str::from_utf8(&value), Ok(text));
        assert_eq!(Checkpoint::read(&value), Some(written));
    }

    #[test]
    fn checkpoint_versions_only_grow_until_reset() {
        let mut reached = reached(105, 99);
        reached.add(&PODS, 104);
        assert_eq!(reached, self::reached(105, 99));
        reached.merge(self::reached(107, 98));
        assert_eq!(reached, self::reached(107, 99));
        reached.forget(&PODS);
        reached.add(&PODS, 3);
        assert_eq!(reached, self::reached(3, 99));
    }

    #[test]
    fn replica_behind_the_checkpoint_lacks_exactly_the_missing_streams() {
        let now = Instant::now();
        let mut progress = Freshness::new([PODS, REGISTRATIONS]);
        assert_eq!(
            progress.lacks(&reached(105, 99), now),
            [PODS, REGISTRATIONS],
            "no watch event was received yet"
        );
        progress.reach(&PODS, 104);
        progress.reach(&REGISTRATIONS, 99);
        assert_eq!(progress.lacks(&reached(105, 99), now), [PODS]);
        progress.reach(&PODS, 105);
        assert_eq!(progress.lacks(&reached(105, 99), now), []);
        assert_eq!(progress.lacks(&Checkpoint::default(), now), []);
    }

    #[test]
    fn each_namespace_is_caught_up_with_on_its_own() {
        let checkpoint = checkpoint_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        let progress = progress_of([(pods_in("bank"), 7), (pods_in("shop"), 104)]);
        assert_eq!(progress.lacks(&checkpoint, Instant::now()), [pods_in("shop")]);
    }

    #[test]
    fn namespaced_watches_are_compared_with_checkpoint_of_cluster_watch() {
        let checkpoint = checkpoint_of([(PODS, 105)]);
        let progress = progress_of([(pods_in("bank"), 110), (pods_in("shop"), 104)]);
        assert_eq!(progress.lacks(&checkpoint, Instant::now()), [pods_in("shop")]);
        assert_eq!(progress.beyond(&checkpoint), [NamespaceScope::Cluster]);
    }

    #[test]
    fn cluster_watch_is_compared_with_checkpoint_of_namespaced_watches() {
        let checkpoint = checkpoint_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        for (version, lacks) in [(104, vec![PODS]), (105, vec![])] {
            let progress = progress_of([(PODS, version)]);
            assert_eq!(progress.lacks(&checkpoint, Instant::now()), lacks, "{version}");
            assert_eq!(progress.beyond(&checkpoint), []);
        }
    }

    #[test]
    fn namespace_watched_only_by_predecessor_is_left_and_not_awaited() {
        let checkpoint = checkpoint_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        let progress = progress_of([(pods_in("bank"), 7), (pods_in("new"), 0)]);
        assert_eq!(progress.lacks(&checkpoint, Instant::now()), []);
        assert_eq!(progress.beyond(&checkpoint), [NamespaceScope::namespace("shop")]);
    }

    #[test]
    fn what_has_nothing_to_tell_is_not_waited_for() {
        let checkpoint = checkpoint_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        let progress = Freshness::new([pods_in("bank"), pods_in("shop")]);
        let others = progress.without(|target| *target == pods_in("shop"));
        assert_eq!(others.lacks(&checkpoint, Instant::now()), [pods_in("bank")]);
    }

    #[test]
    fn a_kind_that_another_release_watches_is_not_waited_for() {
        let needed = checkpoint_of([(WatchTarget::of_cluster("gadgets"), 7)]);
        let progress = Freshness::new([PODS]);
        assert_eq!(progress.lacks(&needed, Instant::now()), []);
        assert_eq!(progress.beyond(&needed), []);
    }

    #[test]
    fn apiserver_versions_are_known_after_every_stream_is_compared() {
        let since = Instant::now();
        let later = since + Duration::from_secs(1);
        let mut progress = Freshness::new([PODS, REGISTRATIONS]);
        progress.compare(&PODS, 7, since.checked_sub(Duration::from_secs(1)).expect("a past"));
        progress.compare(&REGISTRATIONS, 99, later);
        assert_eq!(progress.presents(since), None, "the answer for pods is older");
        progress.compare(&PODS, 105, later);
        assert_eq!(progress.presents(since), Some(reached(105, 99)));
    }

    #[test]
    fn version_that_the_apiserver_lacks_is_not_awaited_after_it_answered() {
        let now = Instant::now();
        let mut progress = Freshness::new([PODS]);
        progress.reach(&PODS, 50);
        let before = now.checked_sub(Duration::from_secs(1)).expect("a past");
        progress.compare(&PODS, 60, before);
        assert_eq!(
            progress.lacks(&reached(105, 0), now),
            [PODS],
            "the API server may have reached it since"
        );
        progress.compare(&PODS, 120, now);
        assert_eq!(progress.lacks(&reached(105, 0), now), [PODS]);
        progress.compare(&PODS, 60, now);
        assert_eq!(progress.lacks(&reached(105, 0), now), []);
    }
}
