//! What a leader had heard of Kubernetes when it wrote, and what whoever leads next must therefore have heard before it
//! writes.
//!
//! A replica that stands by may hear of a pod later than the leader does. Were it to lead then and to go by what it
//! knows, it would undo what its predecessor was right to do, and do it again when it has heard. So every leader leaves
//! a note in etcd, in the very transactions that it writes: how far it had heard. Its successor reads the notes once it
//! leads, when nobody else can write any more, and waits until it has heard as much. Mostly it has. Transactions that are
//! under way at the same time go on tracks of their own, each with its own note.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::meta::RECORD_VERSION;
use super::transaction::{LeaseId, Note, Op, Revision, Scope, Transaction, Value};

/// Versions (`metadata.resourceVersion`) up to which objects have been heard of, by the name of their kind's resource.
/// One apiserver's versions of one kind grow, and since Kubernetes 1.35 clients may rely on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard(BTreeMap<Cow<'static, str>, u64>);

/// A [`Heard`] with the version of its format.
#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    heard: BTreeMap<Cow<'static, str>, u64>,
}

impl Heard {
    /// An object of this version was heard of.
    pub fn add(&mut self, kind: &'static str, version: u64) {
        let known = self.0.entry(Cow::Borrowed(kind)).or_default();
        *known = version.max(*known);
    }

    /// The versions of this kind are counted anew: the apiserver was restored to an earlier time.
    pub fn forget(&mut self, kind: &str) {
        self.0.remove(kind);
    }

    /// As far as `self` or `other` has been heard.
    pub fn merge(&mut self, other: Self) {
        for (kind, version) in other.0 {
            let known = self.0.entry(kind).or_default();
            *known = version.max(*known);
        }
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

/// How far one kind has been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Everything up to this version was heard and taken in.
    pub version: u64,
    /// The apiserver's own version, and when it was asked for it.
    pub present: Option<(u64, Instant)>,
}

/// How far the kinds that are watched have been heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress(BTreeMap<&'static str, Reached>);

impl Progress {
    /// These kinds are watched, and nothing has been heard yet.
    pub fn new(kinds: impl IntoIterator<Item = &'static str>) -> Self {
        Self(kinds.into_iter().map(|kind| (kind, Reached::default())).collect())
    }

    /// Everything up to `version` of this kind was heard.
    pub fn reach(&mut self, kind: &'static str, version: u64) {
        self.0.entry(kind).or_default().version = version;
    }

    /// The apiserver, asked at this time, was at this version.
    pub fn compare(&mut self, kind: &'static str, version: u64, asked: Instant) {
        self.0.entry(kind).or_default().present = Some((version, asked));
    }

    /// How far the apiserver itself was with every kind, when it was asked at `since` or later; none until all are known.
    /// Nobody can have heard more by `since`.
    pub fn presents(&self, since: Instant) -> Option<Heard> {
        let present = |reached: &Reached| reached.present.filter(|(_, asked)| *asked >= since);
        let all = self
            .0
            .iter()
            .map(|(kind, reached)| Some((Cow::Borrowed(*kind), present(reached)?.0)));
        all.collect::<Option<_>>().map(Heard)
    }

    /// The kinds of which less has been heard than `needed`, which was found at `since`. What the apiserver has not come
    /// to itself is of another history, restored away since, and never will be heard; neither is what nobody here
    /// watches.
    pub fn lacks(&self, needed: &Heard, since: Instant) -> Vec<&'static str> {
        let lacks = |(kind, reached): (&&'static str, &Reached)| {
            let needed = *needed.0.get(*kind)?;
            let void = |(present, asked)| asked >= since && present < needed;
            (reached.version < needed && !reached.present.is_some_and(void)).then_some(*kind)
        };
        self.0.iter().filter_map(lacks).collect()
    }
}

impl Ledger {
    /// Where the notes of all tracks lie.
    pub fn notes(&self) -> Scope {
        self.meta.heard()
    }

    /// The note to go with `transaction` on a track, on which the last one was left at the revision `after` at the
    /// latest, from a writer who has heard as much. It is on the lease of a key that is written, or was: that one lives.
    /// None where there is no such lease.
    pub fn note(&self, transaction: &Transaction, track: usize, after: Revision, heard: Value) -> Option<Note> {
        Some(Note {
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

    fn heard(pods: u64, registrations: u64) -> Heard {
        let mut heard = Heard::default();
        heard.add("pods", pods);
        heard.add("registrations", registrations);
        heard
    }

    #[test]
    fn a_note_reads_back_as_what_was_written_and_what_is_none_as_nothing() {
        let value = heard(105, 99).value();
        let text = r#"{"v":1,"heard":{"pods":105,"registrations":99}}"#;
        assert_eq!(std::str::from_utf8(&value), Ok(text));
        assert_eq!(Heard::read(&value), Some(heard(105, 99)));
        let later = br#"{"v":2,"heard":{"pods":105,"registrations":99},"why":"new"}"#;
        assert_eq!(Heard::read(later), Some(heard(105, 99)));
        assert_eq!(Heard::read(b"{}"), None);
    }

    #[test]
    fn versions_only_grow_until_they_are_counted_anew() {
        let mut heard = heard(105, 99);
        heard.add("pods", 104);
        assert_eq!(heard, self::heard(105, 99));
        heard.merge(self::heard(107, 98));
        assert_eq!(heard, self::heard(107, 99));
        heard.forget("pods");
        heard.add("pods", 3);
        assert_eq!(heard, self::heard(3, 99));
    }

    #[test]
    fn who_has_heard_less_than_the_note_says_lacks_just_that() {
        let now = Instant::now();
        let mut progress = Progress::new(["pods", "registrations"]);
        assert_eq!(
            progress.lacks(&heard(105, 99), now),
            ["pods", "registrations"],
            "nothing was heard yet"
        );
        progress.reach("pods", 104);
        progress.reach("registrations", 99);
        assert_eq!(progress.lacks(&heard(105, 99), now), ["pods"]);
        progress.reach("pods", 105);
        assert_eq!(progress.lacks(&heard(105, 99), now), [""; 0]);
        assert_eq!(progress.lacks(&Heard::default(), now), [""; 0]);
    }

    #[test]
    fn a_kind_that_another_release_watches_is_not_waited_for() {
        let mut needed = Heard::default();
        needed.add("gadgets", 7);
        assert_eq!(Progress::new(["pods"]).lacks(&needed, Instant::now()), [""; 0]);
    }

    #[test]
    fn how_far_everybody_can_have_heard_is_known_when_the_apiserver_has_been_asked_about_all() {
        let since = Instant::now();
        let later = since + Duration::from_secs(1);
        let mut progress = Progress::new(["pods", "registrations"]);
        progress.compare("pods", 7, since.checked_sub(Duration::from_secs(1)).expect("a past"));
        progress.compare("registrations", 99, later);
        assert_eq!(progress.presents(since), None, "pods were asked about before");
        progress.compare("pods", 105, later);
        assert_eq!(progress.presents(since), Some(heard(105, 99)));
    }

    #[test]
    fn what_the_apiserver_itself_has_not_come_to_is_not_waited_for_if_it_said_so_afterwards() {
        let now = Instant::now();
        let mut progress = Progress::new(["pods"]);
        progress.reach("pods", 50);
        let before = now.checked_sub(Duration::from_secs(1)).expect("a past");
        progress.compare("pods", 60, before);
        assert_eq!(
            progress.lacks(&heard(105, 0), now),
            ["pods"],
            "it may have come to it since"
        );
        progress.compare("pods", 120, now);
        assert_eq!(progress.lacks(&heard(105, 0), now), ["pods"]);
        progress.compare("pods", 60, now);
        assert_eq!(progress.lacks(&heard(105, 0), now), [""; 0]);
    }
}
