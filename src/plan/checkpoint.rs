//! What a leader had heard of Kubernetes when it wrote, and what whoever leads next must therefore have heard before it
//! writes.
//!
//! A replica that stands by may hear of a pod later than the leader does. Were it to lead then and to go by what it
//! knows, it would undo what its predecessor was right to do, and do it again when it has heard. So every leader leaves
//! a note in etcd, in the very transactions that it writes: how far it had heard. Its successor reads the notes once it
//! leads, when nobody else can write any more, and waits until it has heard as much. Mostly it has. Transactions that are
//! under way at the same time go on tracks of their own, each with its own note.
//!
//! Who takes over may watch other namespaces than its predecessor did, or all of them. What counts is what both can hear
//! of: a stream must have come as far as the predecessor had in any that it meets. What only the predecessor watched is
//! nothing to wait for.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::meta::RECORD_VERSION;
use super::planner::Planner;
use super::transaction::{CheckpointWrite, LeaseId, Op, Prefix, Revision, Transaction, Value};
use super::watch_target::WatchTarget;
use crate::index::NamespaceScope;

/// Versions (`metadata.resourceVersion`) up to which objects have been heard of, by their streams.
/// One apiserver's versions of one kind grow, in whichever namespace, and since Kubernetes 1.35 clients may rely on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint(BTreeMap<WatchTarget, u64>);

/// A [`Checkpoint`] with the version of its format.
#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    heard: BTreeMap<WatchTarget, u64>,
}

impl Checkpoint {
    /// An object of this version was heard of.
    pub fn add(&mut self, stream: &WatchTarget, version: u64) {
        match self.0.get_mut(stream) {
            Some(known) => *known = version.max(*known),
            None => drop(self.0.insert(stream.clone(), version)),
        }
    }

    /// The versions of this stream are counted anew: the apiserver was restored to an earlier time.
    pub fn forget(&mut self, stream: &WatchTarget) {
        self.0.remove(stream);
    }

    /// As far as `self` or `other` has been heard.
    pub fn merge(&mut self, other: Self) {
        for (stream, version) in other.0 {
            self.add(&stream, version);
        }
    }

    /// How far those streams have been heard that meet `stream`; none if none was.
    fn meeting(&self, stream: &WatchTarget) -> Option<u64> {
        let meeting = self.0.iter().filter(|(other, _)| stream.meets(other));
        meeting.map(|(_, version)| *version).max()
    }

    /// What is written of it.
    pub fn value(&self) -> Value {
        let heard = self.0.clone();
        serde_json::to_vec(&Versioned {
            v: RECORD_VERSION,
            heard,
        })
        .expect("text and integers always serialise")
        .into()
    }

    /// What was written; none if it is no such thing, or cannot be read. Later versions may add fields, never change these.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Versioned>(value)
            .ok()
            .map(|read| Self(read.heard))
    }
}

/// How far one stream has been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetFreshness {
    /// Everything up to this version was heard and taken in.
    pub version: u64,
    /// The apiserver's own version, and when it was asked for it.
    pub present: Option<(u64, Instant)>,
}

/// How far the streams that are watched have been heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness(BTreeMap<WatchTarget, TargetFreshness>);

impl Freshness {
    /// These streams are watched, and nothing has been heard yet.
    pub fn new(streams: impl IntoIterator<Item = WatchTarget>) -> Self {
        Self(
            streams
                .into_iter()
                .map(|stream| (stream, TargetFreshness::default()))
                .collect(),
        )
    }

    /// Everything up to `version` of this stream was heard.
    pub fn reach(&mut self, stream: &WatchTarget, version: u64) {
        self.at(stream).version = version;
    }

    /// The apiserver, asked at this time, was at this version.
    pub fn compare(&mut self, stream: &WatchTarget, version: u64, asked: Instant) {
        self.at(stream).present = Some((version, asked));
    }

    /// How far the apiserver itself was with every stream, when it was asked at `since` or later; none until all are known.
    /// Nobody can have heard more by `since`.
    pub fn presents(&self, since: Instant) -> Option<Checkpoint> {
        let present = |reached: &TargetFreshness| reached.present.filter(|(_, asked)| *asked >= since);
        let all = self
            .0
            .iter()
            .map(|(stream, reached)| Some((stream.clone(), present(reached)?.0)));
        all.collect::<Option<_>>().map(Checkpoint)
    }

    fn at(&mut self, stream: &WatchTarget) -> &mut TargetFreshness {
        self.0.entry(stream.clone()).or_default()
    }

    /// The same without the streams that `is_void` is true of: there is nothing that they could tell.
    #[must_use]
    pub fn without(&self, is_void: impl Fn(&WatchTarget) -> bool) -> Self {
        let streams = self.0.iter().filter(|(stream, _)| !is_void(stream));
        Self(streams.map(|(stream, reached)| (stream.clone(), *reached)).collect())
    }

    /// The streams of which less has been heard than `needed`, which was found at `since`. What the apiserver has not come
    /// to itself is of another history, restored away since, and never will be heard; neither is what nobody here
    /// watches.
    pub fn lacks(&self, needed: &Checkpoint, since: Instant) -> Vec<WatchTarget> {
        let lacks = |(stream, reached): (&WatchTarget, &TargetFreshness)| {
            let needed = needed.meeting(stream)?;
            let void = |(present, asked)| asked >= since && present < needed;
            (reached.version < needed && !reached.present.is_some_and(void)).then(|| stream.clone())
        };
        self.0.iter().filter_map(lacks).collect()
    }

    /// Where `heard` tells of objects of kinds that are watched here, and nobody here hears of them.
    pub fn beyond(&self, heard: &Checkpoint) -> Vec<NamespaceScope> {
        let is_covered = |area: &NamespaceScope, kind: &str| {
            let mut here = self.0.keys().filter(|stream| stream.kind == kind);
            here.any(|stream| stream.area == NamespaceScope::Cluster || stream.area == *area)
        };
        let is_known = |kind: &str| self.0.keys().any(|stream| stream.kind == kind);
        let beyond = heard.0.keys().filter(|told| is_known(&told.kind));
        let beyond = beyond.filter(|told| !is_covered(&told.area, &told.kind));
        let mut areas: Vec<NamespaceScope> = beyond.map(|told| told.area.clone()).collect();
        areas.sort();
        areas.dedup();
        areas
    }
}

impl Planner {
    /// Where the notes of all tracks lie.
    pub fn notes(&self) -> Prefix {
        self.meta.heard()
    }

    /// The note to go with `transaction` on a track, on which the last one was left at the revision `after` at the
    /// latest, from a writer who has heard as much. It is on the lease of a key that is written, or was: that one lives.
    /// None where there is no such lease.
    pub fn note(
        &self,
        transaction: &Transaction,
        track: usize,
        after: Revision,
        heard: Value,
    ) -> Option<CheckpointWrite> {
        Some(CheckpointWrite {
            key: format!("{}{track}", self.meta.heard().prefix()).into(),
            value: heard,
            lease: self.lease_of_note(&transaction.ops)?,
            after,
        })
    }

    /// The lease of the note that goes with `ops`; any other of ours where etcd denies putting the note on theirs.
    pub(super) fn lease_of_note(&self, ops: &[Op]) -> Option<LeaseId> {
        let mut theirs = ops.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => Some(*lease),
            Op::Delete { key, .. } | Op::Check { key, .. } => self.our_lease(key),
        });
        match theirs.find(|lease| !self.leases.is_denied(*lease)) {
            None if self.leases.denied().next().is_some() => self.leases.some_sound(),
            found => found,
        }
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

    fn heard(pods: u64, registrations: u64) -> Checkpoint {
        let mut heard = Checkpoint::default();
        heard.add(&PODS, pods);
        heard.add(&REGISTRATIONS, registrations);
        heard
    }

    fn heard_of<const N: usize>(streams: [(WatchTarget, u64); N]) -> Checkpoint {
        let mut heard = Checkpoint::default();
        for (stream, version) in streams {
            heard.add(&stream, version);
        }
        heard
    }

    fn progress_of<const N: usize>(streams: [(WatchTarget, u64); N]) -> Freshness {
        let mut progress = Freshness::new([]);
        for (stream, version) in streams {
            progress.reach(&stream, version);
        }
        progress
    }

    #[test]
    fn a_note_reads_back_as_what_was_written_and_what_is_none_as_nothing() {
        let value = heard(105, 99).value();
        let text = r#"{"v":1,"heard":{"pods":105,"registrations":99}}"#;
        assert_eq!(std::str::from_utf8(&value), Ok(text));
        assert_eq!(Checkpoint::read(&value), Some(heard(105, 99)));
        let later = br#"{"v":2,"heard":{"pods":105,"registrations":99},"why":"new"}"#;
        assert_eq!(Checkpoint::read(later), Some(heard(105, 99)));
        assert_eq!(Checkpoint::read(b"{}"), None);
    }

    #[test]
    fn a_note_of_streams_of_namespaces_reads_back_as_well() {
        let written = heard_of([(pods_in("bank"), 7), (pods_in("shop"), 105), (REGISTRATIONS, 99)]);
        let value = written.value();
        let text = r#"{"v":1,"heard":{"pods/bank":7,"pods/shop":105,"registrations":99}}"#;
        assert_eq!(std::str::from_utf8(&value), Ok(text));
        assert_eq!(Checkpoint::read(&value), Some(written));
    }

    #[test]
    fn versions_only_grow_until_they_are_counted_anew() {
        let mut heard = heard(105, 99);
        heard.add(&PODS, 104);
        assert_eq!(heard, self::heard(105, 99));
        heard.merge(self::heard(107, 98));
        assert_eq!(heard, self::heard(107, 99));
        heard.forget(&PODS);
        heard.add(&PODS, 3);
        assert_eq!(heard, self::heard(3, 99));
    }

    #[test]
    fn who_has_heard_less_than_the_note_says_lacks_just_that() {
        let now = Instant::now();
        let mut progress = Freshness::new([PODS, REGISTRATIONS]);
        assert_eq!(
            progress.lacks(&heard(105, 99), now),
            [PODS, REGISTRATIONS],
            "nothing was heard yet"
        );
        progress.reach(&PODS, 104);
        progress.reach(&REGISTRATIONS, 99);
        assert_eq!(progress.lacks(&heard(105, 99), now), [PODS]);
        progress.reach(&PODS, 105);
        assert_eq!(progress.lacks(&heard(105, 99), now), []);
        assert_eq!(progress.lacks(&Checkpoint::default(), now), []);
    }

    #[test]
    fn each_namespace_is_caught_up_with_on_its_own() {
        let note = heard_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        let progress = progress_of([(pods_in("bank"), 7), (pods_in("shop"), 104)]);
        assert_eq!(progress.lacks(&note, Instant::now()), [pods_in("shop")]);
    }

    #[test]
    fn who_watches_namespaces_comes_as_far_in_each_as_one_who_watched_the_cluster() {
        let note = heard_of([(PODS, 105)]);
        let progress = progress_of([(pods_in("bank"), 110), (pods_in("shop"), 104)]);
        assert_eq!(progress.lacks(&note, Instant::now()), [pods_in("shop")]);
        assert_eq!(progress.beyond(&note), [NamespaceScope::Cluster]);
    }

    #[test]
    fn who_watches_the_cluster_comes_as_far_as_one_who_watched_namespaces() {
        let note = heard_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        for (version, lacks) in [(104, vec![PODS]), (105, vec![])] {
            let progress = progress_of([(PODS, version)]);
            assert_eq!(progress.lacks(&note, Instant::now()), lacks, "{version}");
            assert_eq!(progress.beyond(&note), []);
        }
    }

    #[test]
    fn a_namespace_that_only_the_predecessor_watched_is_not_waited_for_and_known_to_be_left() {
        let note = heard_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        let progress = progress_of([(pods_in("bank"), 7), (pods_in("new"), 0)]);
        assert_eq!(progress.lacks(&note, Instant::now()), []);
        assert_eq!(progress.beyond(&note), [NamespaceScope::namespace("shop")]);
    }

    #[test]
    fn what_has_nothing_to_tell_is_not_waited_for() {
        let note = heard_of([(pods_in("bank"), 7), (pods_in("shop"), 105)]);
        let progress = Freshness::new([pods_in("bank"), pods_in("shop")]);
        let told = progress.without(|stream| *stream == pods_in("shop"));
        assert_eq!(told.lacks(&note, Instant::now()), [pods_in("bank")]);
    }

    #[test]
    fn a_kind_that_another_release_watches_is_not_waited_for() {
        let needed = heard_of([(WatchTarget::of_cluster("gadgets"), 7)]);
        let progress = Freshness::new([PODS]);
        assert_eq!(progress.lacks(&needed, Instant::now()), []);
        assert_eq!(progress.beyond(&needed), []);
    }

    #[test]
    fn how_far_everybody_can_have_heard_is_known_when_the_apiserver_has_been_asked_about_all() {
        let since = Instant::now();
        let later = since + Duration::from_secs(1);
        let mut progress = Freshness::new([PODS, REGISTRATIONS]);
        progress.compare(&PODS, 7, since.checked_sub(Duration::from_secs(1)).expect("a past"));
        progress.compare(&REGISTRATIONS, 99, later);
        assert_eq!(progress.presents(since), None, "pods were asked about before");
        progress.compare(&PODS, 105, later);
        assert_eq!(progress.presents(since), Some(heard(105, 99)));
    }

    #[test]
    fn what_the_apiserver_itself_has_not_come_to_is_not_waited_for_if_it_said_so_afterwards() {
        let now = Instant::now();
        let mut progress = Freshness::new([PODS]);
        progress.reach(&PODS, 50);
        let before = now.checked_sub(Duration::from_secs(1)).expect("a past");
        progress.compare(&PODS, 60, before);
        assert_eq!(
            progress.lacks(&heard(105, 0), now),
            [PODS],
            "it may have come to it since"
        );
        progress.compare(&PODS, 120, now);
        assert_eq!(progress.lacks(&heard(105, 0), now), [PODS]);
        progress.compare(&PODS, 60, now);
        assert_eq!(progress.lacks(&heard(105, 0), now), []);
    }
}
