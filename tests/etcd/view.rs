//! A consumer of the mirror's observations that checks every guarantee of the mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use leasehold::backend::etcd::{Connection, mirror};
use leasehold::model::{Key, KeyValue, Observation, Prefix, PrefixChanges, Revision};
use testbed::EtcdCluster;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::common::{Running, SOON};

/// The mirror's state as shown so far.
pub struct View {
    changes: mpsc::UnboundedSender<PrefixChanges>,
    wanted: BTreeSet<Prefix>,
    observations: mpsc::Receiver<Observation>,
    _running: Running,
    pub content: BTreeMap<Key, KeyValue>,
    /// The revision of each prefix's latest snapshot.
    pub read_at: BTreeMap<Prefix, Revision>,
    /// The latest revision of each key.
    seen: BTreeMap<Key, Revision>,
    /// The observations received, without changes.
    pub milestones: String,
}

impl View {
    pub fn start<const N: usize>(connection: &Connection, prefixes: [&str; N]) -> Self {
        Self::with_room(connection, prefixes, 64)
    }

    /// A view whose mirror blocks while `room` observations are waiting.
    pub fn with_room<const N: usize>(connection: &Connection, prefixes: [&str; N], room: usize) -> Self {
        let (sender, wanted) = mpsc::unbounded_channel();
        let (out, observations) = mpsc::channel(room);
        let connection = connection.clone();
        let essential = Prefix::below("/meta");
        let mut view = Self {
            changes: sender,
            wanted: BTreeSet::new(),
            observations,
            _running: Running::spawn(|shutdown| mirror(connection, essential, wanted, out, shutdown)),
            content: BTreeMap::new(),
            read_at: BTreeMap::new(),
            seen: BTreeMap::new(),
            milestones: String::new(),
        };
        view.want(prefixes);
        view
    }

    /// Adds and removes prefixes, so that exactly these are wanted.
    pub fn want<const N: usize>(&mut self, prefixes: [&str; N]) {
        let wanted: BTreeSet<Prefix> = prefixes.into_iter().map(Prefix::below).collect();
        let changes = PrefixChanges {
            removed: self.wanted.difference(&wanted).cloned().collect(),
            added: wanted.difference(&self.wanted).cloned().collect(),
        };
        self.wanted = wanted;
        self.changes.send(changes).expect("the mirror runs");
    }

    /// Receives observations until `enough` holds.
    pub async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !enough(self) {
            let next = timeout_at(deadline, self.observations.recv()).await;
            let Ok(next) = next else {
                panic!("waited in vain for {what} after: {}", self.milestones);
            };
            self.take(next.expect("the mirror runs"));
        }
    }

    /// Receives observations until these are the latest milestones, then forgets all milestones.
    pub async fn until_milestones(&mut self, expected: &str) {
        self.until(expected, |view| view.milestones.ends_with(expected)).await;
        self.milestones.clear();
    }

    /// Receives observations until the view equals the contents of the cluster.
    pub async fn until_equal(&mut self, cluster: &EtcdCluster, prefix: &str) {
        let expected: BTreeMap<String, i64> = cluster
            .dump(prefix)
            .await
            .expect("dump")
            .into_iter()
            .map(|(key, held)| (key, held.mod_revision))
            .collect();
        self.until(&format!("{expected:?}"), |view| view.revisions(prefix) == expected)
            .await;
    }

    fn revisions(&self, prefix: &str) -> BTreeMap<String, Revision> {
        let inside = self.content.iter().filter(|(key, _)| key.starts_with(prefix));
        inside.map(|(key, held)| (key.to_string(), held.mod_revision)).collect()
    }

    /// Checks that no observation arrives for `time`.
    pub async fn assert_quiet(&mut self, time: Duration) {
        let next = timeout(time, self.observations.recv()).await;
        assert!(next.is_err(), "{next:?}");
    }

    fn take(&mut self, observation: Observation) {
        match observation {
            Observation::Snapshot {
                prefix,
                revision,
                entries,
            } => {
                write!(self.milestones, "snapshot {} ", prefix.as_str()).expect("a string");
                self.content.retain(|key, _| !prefix.contains(key));
                for (key, held) in entries {
                    assert!(prefix.contains(&key), "{key} is not in {prefix:?}");
                    let seen = self.seen.insert(key.clone(), held.mod_revision);
                    assert!(seen.is_none_or(|seen| seen <= held.mod_revision), "{key} went back");
                    self.content.insert(key, held);
                }
                let before = self.read_at.insert(prefix, revision);
                assert!(before.is_none_or(|before| before <= revision), "a snapshot went back");
            }
            Observation::Changed { key, held, revision } => {
                let read_at = self.read_at.iter().filter(|(prefix, _)| prefix.contains(&key));
                let read_at = read_at.map(|(_, revision)| *revision).max();
                assert!(read_at.expect("read before watched") < revision, "{key} is repeated");
                let seen = self.seen.insert(key.clone(), revision);
                assert!(seen.is_none_or(|seen| seen < revision), "{key} went back");
                let before = match held {
                    Some(held) => self.content.insert(key.clone(), held),
                    None => self.content.remove(&key),
                };
                // The writers of these tests count up, so a gap is visible.
                if let (Some(before), Some(now)) = (before, self.content.get(&key))
                    && let (Some(before), Some(now)) = (number(&before), number(now))
                {
                    assert_eq!(now, before + 1, "a change of {key} is missing");
                }
            }
            Observation::Complete { revision } => {
                assert!(self.read_at.values().all(|read_at| *read_at <= revision));
                self.milestones.push_str("complete ");
            }
            Observation::Restored => {
                self.content.clear();
                self.read_at.clear();
                self.seen.clear();
                self.milestones.push_str("restored ");
            }
            Observation::Denied { prefix } => {
                self.content.retain(|key, _| !prefix.contains(key));
                write!(self.milestones, "denied {} ", prefix.as_str()).expect("a string");
            }
            Observation::Interrupted => self.milestones.push_str("interrupted "),
        }
    }
}

fn number(held: &KeyValue) -> Option<u64> {
    std::str::from_utf8(&held.value).ok()?.parse().ok()
}
