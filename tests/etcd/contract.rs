//! What the worker of a Registry may expect of every backend. [`each_test`] runs all of it against one kind of store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leasehold::backend::{Backend, Bound, Campaign, Candidacy, Leadership, LeaseEvent, Leases, Trial};
use leasehold::model::{
    CheckpointWrite, Expect, Fence, Key, KeyValue, LeaseId, Observation, Op, OpResult, Prefix, PrefixChanges, Revision,
    Transaction, TxnOutcome,
};
use leasehold::peer::PeerStatuses;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Runs each test of the module `contract` in scope. `$start` is an async function that returns a server, which lives as
/// long as the test, and the [`Backend`] that is connected to it.
macro_rules! each_test {
    ($start:path) => {
        contract::each_test! { $start:
            first_candidate_leads_and_the_next_one_follows_it,
            candidate_that_yields_gives_the_lead_to_another_one,
            transaction_creates_changes_and_deletes_at_one_revision,
            refused_guard_refuses_its_unit_only_and_names_the_holder,
            former_fence_writes_nothing,
            copy_of_a_transaction_is_overtaken,
            put_on_a_lease_that_is_gone_writes_nothing,
            keys_are_listed_by_lease_and_by_prefix,
            mirror_shows_a_snapshot_and_then_the_changes,
            mirror_follows_the_wanted_prefixes,
            lease_that_is_not_renewed_takes_its_keys_with_it,
            access_that_works_replaces_the_one_in_use,
        }
    };
    ($start:path: $($name:ident,)*) => { $(
        #[tokio::test]
        async fn $name() {
            let (_server, backend) = $start().await;
            contract::$name(backend).await;
        }
    )* };
}
pub(crate) use each_test;

/// Time-out for what is expected at once, on a machine under load.
const SOON: Duration = Duration::from_secs(30);

// ---- helpers ----

struct Candidate {
    candidacy: watch::Sender<Candidacy>,
    role: watch::Receiver<Leadership>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Candidate {
    fn start(backend: &impl Backend, name: &str) -> Self {
        let campaign = Campaign {
            leader_key: "/meta/leader".into(),
            candidate_key: format!("/meta/candidates/{name}").into(),
            candidates: Prefix::below("/meta/candidates"),
            namespaces: BTreeSet::new(),
            process: name.into(),
            address: None,
            identity: name.to_owned(),
            session_ttl: 10,
        };
        let (candidacy, stands) = watch::channel(Candidacy::default());
        let (out, role) = watch::channel(Leadership::Seeking);
        let (end, peers) = (CancellationToken::new(), watch::Sender::new(PeerStatuses::new()));
        let (backend, peers, shutdown) = (backend.clone(), peers.subscribe(), end.clone());
        let task = tokio::spawn(async move { backend.campaign(campaign, stands, peers, out, shutdown).await });
        Self {
            candidacy,
            role,
            end,
            task,
        }
    }

    async fn until(&mut self, is_it: impl FnMut(&Leadership) -> bool) -> Leadership {
        let role = timeout(SOON, self.role.wait_for(is_it)).await;
        role.expect("in time").expect("the campaign runs").clone()
    }

    async fn leads(&mut self) -> Fence {
        match self.until(|role| matches!(role, Leadership::Leading(_))).await {
            Leadership::Leading(fence) => fence,
            role => panic!("{role:?}"),
        }
    }

    async fn resign(self) {
        self.end.cancel();
        timeout(SOON, self.task).await.expect("in time").expect("no panic");
    }
}

/// The content of the prefixes that a mirror shows.
struct View {
    changes: mpsc::UnboundedSender<PrefixChanges>,
    observations: mpsc::Receiver<Observation>,
    content: BTreeMap<Key, String>,
    snapshots: Vec<String>,
    _end: tokio_util::sync::DropGuard,
}

impl View {
    fn start<const N: usize>(backend: &impl Backend, prefixes: [&str; N]) -> Self {
        let (changes, incoming) = mpsc::unbounded_channel();
        let (out, observations) = mpsc::channel(64);
        let (backend, end) = (backend.clone(), CancellationToken::new());
        let shutdown = end.clone();
        tokio::spawn(async move { backend.mirror(Prefix::below("/meta"), incoming, out, shutdown).await });
        let view = Self {
            changes,
            observations,
            content: BTreeMap::new(),
            snapshots: Vec::new(),
            _end: end.drop_guard(),
        };
        view.change([], prefixes);
        view
    }

    fn change<const N: usize, const M: usize>(&self, removed: [&str; N], added: [&str; M]) {
        let changes = PrefixChanges {
            removed: removed.map(Prefix::below).into(),
            added: added.map(Prefix::below).into(),
        };
        self.changes.send(changes).expect("the mirror runs");
    }

    /// Takes in the next observation. Returns whether it completes a set of snapshots.
    async fn step(&mut self) -> bool {
        let next = timeout(SOON, self.observations.recv()).await;
        match next.expect("in time").expect("the mirror runs") {
            Observation::Snapshot { prefix, entries, .. } => {
                self.snapshots.push(prefix.as_str().to_owned());
                self.content.retain(|key, _| !prefix.contains(key));
                let entries = entries.into_iter().map(|(key, held)| (key, text(&held.value)));
                self.content.extend(entries);
            }
            Observation::Changed {
                key, held: Some(held), ..
            } => drop(self.content.insert(key, text(&held.value))),
            Observation::Changed { key, held: None, .. } => {
                self.content.remove(&key).expect("only a known key is removed");
            }
            Observation::Complete { .. } => return true,
            other => panic!("{other:?}"),
        }
        false
    }

    /// Waits for the snapshots of these prefixes.
    async fn complete<const N: usize>(&mut self, prefixes: [&str; N]) {
        while !self.step().await {}
        assert_eq!(std::mem::take(&mut self.snapshots), prefixes);
    }

    /// Waits until exactly these keys are shown.
    async fn until<const N: usize>(&mut self, expected: [(&str, &str); N]) {
        let expected: BTreeMap<Key, String> = expected
            .into_iter()
            .map(|(key, value)| (key.into(), value.to_owned()))
            .collect();
        while self.content != expected {
            self.step().await;
        }
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn put(key: &str, value: &str, lease: LeaseId, expect: Expect) -> Op {
    Op::Put {
        key: key.into(),
        value: value.as_bytes().into(),
        lease,
        expect,
    }
}

fn delete(key: &str, mod_revision: Revision) -> Op {
    Op::Delete {
        key: key.into(),
        mod_revision,
    }
}

/// Commits a transaction that must be applied as a whole. Returns its revision.
async fn apply(backend: &impl Backend, fence: &Fence, ops: Vec<Op>) -> Revision {
    let outcome = backend.commit(fence, &Transaction::of(ops)).await.expect("an answer");
    let TxnOutcome::Applied { revision, results } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(results.iter().all(|result| *result == OpResult::Done), "{results:?}");
    revision
}

/// Removes a key that is there.
async fn remove(backend: &impl Backend, fence: &Fence, key: &str) {
    let (held, _) = backend.get(&key.into()).await.expect("an answer");
    let removal = delete(key, held.expect("it was put").mod_revision);
    apply(backend, fence, vec![removal]).await;
}

/// The values below `/a/`; that of a key without a lease as `foreign`, because a list need not contain it.
async fn content(backend: &impl Backend) -> Vec<(String, String)> {
    let listed = backend.list(&Prefix::below("/a")).await.expect("an answer");
    let value = |held: &KeyValue| match held.lease {
        LeaseId::NONE => "foreign".to_owned(),
        _ => text(&held.value),
    };
    let listed = listed.iter();
    listed.map(|(key, held)| (key.to_string(), value(held))).collect()
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// A leader, its fence and a lease of a minute.
async fn leader(backend: &impl Backend) -> (Candidate, Fence, LeaseId) {
    let mut candidate = Candidate::start(backend, "a");
    let fence = candidate.leads().await;
    let lease = backend.grant(60).await.expect("a lease");
    (candidate, fence, lease)
}

// ---- election ----

pub async fn first_candidate_leads_and_the_next_one_follows_it(backend: impl Backend) {
    let (first, fence, _) = leader(&backend).await;
    let mut second = Candidate::start(&backend, "b");
    let role = second.until(|role| *role != Leadership::Seeking).await;
    let leader = "a".to_owned();
    assert_eq!(role, Leadership::Standby { leader });
    first.resign().await;
    let next = second.leads().await;
    assert_ne!(next, fence);
    let (held, _) = backend.get(&next.key).await.expect("an answer");
    let held = held.expect("the leader key");
    assert_eq!((held.create_revision, held.lease), (next.create_revision, next.lease));
    second.resign().await;
    assert_eq!(backend.get(&next.key).await.expect("an answer").0, None);
}

pub async fn candidate_that_yields_gives_the_lead_to_another_one(backend: impl Backend) {
    let (mut first, ..) = leader(&backend).await;
    let mut second = Candidate::start(&backend, "b");
    second.until(|role| *role != Leadership::Seeking).await;
    first.candidacy.send_modify(|candidacy| candidacy.yields = true);
    second.leads().await;
    first.until(|role| !matches!(role, Leadership::Leading(_))).await;
    first.resign().await;
    second.resign().await;
}

// ---- transactions ----

pub async fn transaction_creates_changes_and_deletes_at_one_revision(backend: impl Backend) {
    let (_leader, fence, lease) = leader(&backend).await;
    let create = ["/a/1", "/a/2"].map(|key| put(key, "one", lease, Expect::Absent));
    let created = apply(&backend, &fence, create.into()).await;
    let change = vec![
        put("/a/1", "two", lease, Expect::At(created)),
        delete("/a/2", created),
        put("/a/3", "new", LeaseId::NONE, Expect::Absent),
    ];
    let changed = apply(&backend, &fence, change).await;
    assert!(changed > created);
    assert_eq!(content(&backend).await, pairs([("/a/1", "two"), ("/a/3", "foreign")]));
    for (key, create_revision, lease) in [("/a/1", created, lease), ("/a/3", changed, LeaseId::NONE)] {
        let (held, at) = backend.get(&key.into()).await.expect("an answer");
        let held = held.expect(key);
        assert_eq!((held.create_revision, held.mod_revision), (create_revision, changed));
        assert_eq!(held.lease, lease);
        assert!(at >= changed);
    }
    let check = vec![Op::Check {
        key: "/a/1".into(),
        expect: Expect::At(changed),
    }];
    apply(&backend, &fence, check).await;
    assert_eq!(backend.get(&"/a/2".into()).await.expect("an answer").0, None);
}

pub async fn refused_guard_refuses_its_unit_only_and_names_the_holder(backend: impl Backend) {
    let (_leader, fence, lease) = leader(&backend).await;
    apply(
        &backend,
        &fence,
        vec![put("/a/held", "theirs", LeaseId::NONE, Expect::Absent)],
    )
    .await;
    let ops = vec![
        put("/a/1", "ours", lease, Expect::Absent),
        put("/a/2", "ours", lease, Expect::Absent),
        put("/a/held", "ours", lease, Expect::Absent),
        delete("/a/3", 3),
    ];
    let transaction = Transaction {
        units: std::iter::once(1..3).collect(),
        ..Transaction::of(ops)
    };
    let outcome = backend.commit(&fence, &transaction).await.expect("an answer");
    let TxnOutcome::Applied { results, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(results[0], OpResult::Done);
    assert_eq!(results[1], OpResult::Refused(None), "its unit is refused");
    let OpResult::Refused(Some(holder)) = &results[2] else {
        panic!("{results:?}");
    };
    assert_eq!(
        (text(&holder.value), holder.lease),
        ("theirs".to_owned(), LeaseId::NONE)
    );
    assert_eq!(results[3], OpResult::Refused(None));
    assert_eq!(
        content(&backend).await,
        pairs([("/a/1", "ours"), ("/a/held", "foreign")])
    );
}

pub async fn former_fence_writes_nothing(backend: impl Backend) {
    let (first, former, lease) = leader(&backend).await;
    first.resign().await;
    let write = Transaction::of(vec![put("/a/1", "late", lease, Expect::Absent)]);
    let refused = |outcome| assert_eq!(outcome, TxnOutcome::Fenced);
    refused(backend.commit(&former, &write).await.expect("an answer"));
    let mut second = Candidate::start(&backend, "a");
    let fence = second.leads().await;
    refused(backend.commit(&former, &write).await.expect("an answer"));
    let other_session = Fence {
        lease: former.lease,
        ..fence
    };
    refused(backend.commit(&other_session, &write).await.expect("an answer"));
    assert_eq!(content(&backend).await, []);
}

pub async fn copy_of_a_transaction_is_overtaken(backend: impl Backend) {
    let (_leader, fence, lease) = leader(&backend).await;
    let after = |after| Transaction {
        checkpoint: Some(CheckpointWrite {
            key: "/meta/checkpoints/0".into(),
            value: b"one".as_slice().into(),
            lease,
            after,
        }),
        ..Transaction::of(vec![put("/a/1", "one", lease, Expect::Absent)])
    };
    let outcome = backend.commit(&fence, &after(0)).await.expect("an answer");
    let TxnOutcome::Applied { revision: at, .. } = outcome else {
        panic!("{outcome:?}");
    };
    remove(&backend, &fence, "/a/1").await;
    let copy = backend.commit(&fence, &after(0)).await.expect("an answer");
    assert_eq!(copy, TxnOutcome::Overtaken { at });
    assert_eq!(content(&backend).await, []);
    let next = backend.commit(&fence, &after(at)).await.expect("an answer");
    assert!(matches!(next, TxnOutcome::Applied { .. }), "{next:?}");
}

pub async fn put_on_a_lease_that_is_gone_writes_nothing(backend: impl Backend) {
    let (_leader, fence, lease) = leader(&backend).await;
    let ops = vec![
        put("/a/1", "one", lease, Expect::Absent),
        put("/a/2", "two", LeaseId(i64::MAX), Expect::Absent),
    ];
    let outcome = backend.commit(&fence, &Transaction::of(ops)).await.expect("an answer");
    assert_eq!(outcome, TxnOutcome::LeaseGone);
    assert_eq!(content(&backend).await, []);
}

// ---- reads ----

pub async fn keys_are_listed_by_lease_and_by_prefix(backend: impl Backend) {
    let (_leader, fence, lease) = leader(&backend).await;
    let other = backend.grant(60).await.expect("a lease");
    assert_ne!(lease, other);
    let puts = [("/a/1", lease), ("/a/2", other), ("/ab/1", lease)];
    let puts = puts.map(|(key, lease)| put(key, "one", lease, Expect::Absent));
    apply(&backend, &fence, puts.into()).await;
    let mut keys = backend.keys_on(lease).await.expect("an answer");
    keys.sort();
    assert_eq!(keys, ["/a/1".into(), "/ab/1".into()]);
    assert_eq!(backend.keys_on(LeaseId(i64::MAX)).await.expect("an answer"), []);
    assert_eq!(content(&backend).await, pairs([("/a/1", "one"), ("/a/2", "one")]));
    let status = backend.status(Some(&fence.key)).await.expect("an answer");
    assert!(!status.version.is_empty());
    let troubles = [status.trouble, status.refuses, status.unsupported];
    assert!(troubles.iter().all(Option::is_none), "{troubles:?}");
}

// ---- mirror ----

pub async fn mirror_shows_a_snapshot_and_then_the_changes(backend: impl Backend) {
    let (_leader, fence, lease) = leader(&backend).await;
    let created = apply(&backend, &fence, vec![put("/a/1", "one", lease, Expect::Absent)]).await;
    let mut view = View::start(&backend, ["/a"]);
    view.complete(["/a/"]).await;
    view.until([("/a/1", "one")]).await;
    apply(&backend, &fence, vec![put("/b/1", "other", lease, Expect::Absent)]).await;
    apply(&backend, &fence, vec![put("/a/2", "two", lease, Expect::Absent)]).await;
    apply(&backend, &fence, vec![put("/a/1", "new", lease, Expect::At(created))]).await;
    view.until([("/a/1", "new"), ("/a/2", "two")]).await;
    remove(&backend, &fence, "/a/1").await;
    view.until([("/a/2", "two")]).await;
    assert!(view.snapshots.is_empty(), "{:?}", view.snapshots);
}

pub async fn mirror_follows_the_wanted_prefixes(backend: impl Backend) {
    let (_leader, fence, lease) = leader(&backend).await;
    let mut view = View::start(&backend, ["/a"]);
    view.complete(["/a/"]).await;
    apply(&backend, &fence, vec![put("/b/1", "one", lease, Expect::Absent)]).await;
    view.change([], ["/a", "/b"]);
    view.complete(["/b/"]).await;
    view.until([("/b/1", "one")]).await;
    view.change(["/a"], ["/c"]);
    view.complete(["/c/"]).await;
    let puts = ["/a/1", "/b/2", "/c/1"].map(|key| put(key, "two", lease, Expect::Absent));
    apply(&backend, &fence, puts.into()).await;
    view.until([("/b/1", "one"), ("/b/2", "two"), ("/c/1", "two")]).await;
}

// ---- leases and access ----

pub async fn lease_that_is_not_renewed_takes_its_keys_with_it(backend: impl Backend) {
    let (_leader, fence, _) = leader(&backend).await;
    let kept = backend.grant(1).await.expect("a lease");
    let leases = watch::Sender::new(Leases::new(BTreeMap::from([(kept, 1)])));
    let (events, mut reported) = mpsc::channel(8);
    let (soonest, mut ends) = watch::channel(None);
    let (end, renewed) = (CancellationToken::new(), leases.subscribe());
    let _end = end.clone().drop_guard();
    let renewing = backend.clone();
    tokio::spawn(async move { renewing.renew(renewed, events, soonest, end).await });
    timeout(SOON, ends.wait_for(Option::is_some))
        .await
        .expect("in time")
        .expect("it runs");

    let gone = backend.grant(1).await.expect("a lease");
    let puts = [("/a/gone", gone), ("/a/kept", kept)];
    let puts = puts.map(|(key, lease)| put(key, "one", lease, Expect::Absent));
    apply(&backend, &fence, puts.into()).await;
    let mut view = View::start(&backend, ["/a"]);
    view.complete(["/a/"]).await;
    view.until([("/a/kept", "one")]).await;
    assert_eq!(backend.keys_on(gone).await.expect("an answer"), []);
    assert_eq!(content(&backend).await, pairs([("/a/kept", "one")]));

    leases.send_replace(Leases::new(BTreeMap::from([(kept, 1), (gone, 1)])));
    let event = timeout(SOON, reported.recv()).await.expect("in time");
    assert_eq!(event, Some(LeaseEvent::Lapsed(gone)));
}

pub async fn access_that_works_replaces_the_one_in_use(backend: impl Backend) {
    let (_leader, fence, _) = leader(&backend).await;
    let mut access = backend.access();
    access.endpoints.extend(access.endpoints.clone());
    let trial = Trial {
        key: fence.key.clone(),
        bound: Bound::Any,
        leases: Leases::default(),
    };
    let clone = backend.clone();
    backend.change_access(&access, &trial).await.expect("it works");
    assert_eq!(clone.access(), access);
    assert!(clone.get(&fence.key).await.expect("an answer").0.is_some());
}
