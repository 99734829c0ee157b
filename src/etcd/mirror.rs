//! The view of our keys: one read of each scope, then every change to it, for as long as the process lives.
//!
//! There is one answer to every kind of trouble (broken stream, compaction, silence, restore): say that the view is
//! interrupted, read all scopes again at one revision, watch from there. Only a scope that may not be read is no trouble
//! of the others: it is left out, and tried again now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::error::Error;
use super::pause::{Backoff, jitter};
use super::requests::Snapshot;
use super::watches::{Message, Watches};
use crate::plan::{Key, KeyValue, Observation, Prefix, Revision};

/// Ranges read at a time: enough to hide the round trips of many small scopes.
const READS: usize = 4;
/// A view that has lived this long was no failed attempt. Shorter ones do not reset the pauses: a scope that may be
/// read and not watched would otherwise have everything read again and again without any.
const STEADY: Duration = Duration::from_secs(5);
/// Before a scope that may not be read is tried again, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many of them are tried at a time, and how long the others wait: while they are tried, nothing else is seen.
const TRIED: usize = 32;
const BETWEEN: Duration = Duration::from_millis(500);

/// Mirrors the last of `scopes` into `out` until `shutdown`. Without `essential`, nothing is to be seen; any other scope
/// that may not be read is told as [`Observation::Denied`] and tried again until it may be. For each key, changes come in the order of revisions, and
/// none that the last snapshot of its scope contains already.
///
/// Every set sent is compared with the one before it, so that a scope that was left out and is wanted again has a new
/// snapshot, however quickly it came back.
pub async fn mirror(
    connection: Connection,
    essential: Prefix,
    scopes: mpsc::UnboundedReceiver<Arc<BTreeSet<Prefix>>>,
    out: mpsc::Sender<Observation>,
    shutdown: CancellationToken,
) {
    let mut mirror = Mirror {
        connection,
        essential,
        scopes,
        wanted: Arc::default(),
        denied: BTreeMap::new(),
        out,
        history: History::default(),
        shown: false,
        live: None,
        backoff: Backoff::new(),
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        Closed = mirror.run() => {}
    }
}

/// Somebody at the other end of a channel has gone: the process is ending.
struct Closed;

/// Why the view has to be built anew, or need not be any more.
enum Trouble {
    Etcd(Error),
    /// The cluster is not the one known, or its revisions went backwards.
    Restored,
    /// Another way to etcd is used from now on.
    Moved,
    Closed,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Etcd(error)
    }
}

impl From<Closed> for Trouble {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

/// How far the cluster's history is known. A restored etcd has a shorter one.
#[derive(Default)]
struct History {
    cluster_id: Option<u64>,
    highest: Revision,
}

impl History {
    /// Takes in what an answer's header says; false if it contradicts what is known.
    fn agrees(&mut self, cluster_id: u64, revision: Revision) -> bool {
        let same = self.cluster_id.is_none_or(|known| known == cluster_id);
        if !same || revision < self.highest {
            return false;
        }
        self.cluster_id = Some(cluster_id);
        self.highest = revision;
        true
    }
}

/// A scope that may not be read.
struct Denied {
    again_at: Instant,
    pause: Duration,
}

struct Mirror {
    connection: Connection,
    essential: Prefix,
    scopes: mpsc::UnboundedReceiver<Arc<BTreeSet<Prefix>>>,
    wanted: Arc<BTreeSet<Prefix>>,
    denied: BTreeMap<Prefix, Denied>,
    out: mpsc::Sender<Observation>,
    history: History,
    /// Whether observations of a live view have been sent since the last interruption.
    shown: bool,
    /// Since when all scopes have been watched.
    live: Option<Instant>,
    backoff: Backoff,
}

/// A scope that is watched as a whole, and the wanted scopes inside it, itself included.
type Root = (Prefix, Vec<Prefix>);

/// The widest of `wanted`. Two watches on one key would report it twice, in no common order.
fn roots<'a>(wanted: impl IntoIterator<Item = &'a Prefix>) -> Vec<Root> {
    let mut roots: Vec<Root> = Vec::new();
    // In the set's order a prefix comes right before all that it contains.
    for scope in wanted {
        match roots.last_mut() {
            Some((root, inside)) if root.contains(scope.prefix()) => inside.push(scope.clone()),
            _ => roots.push((scope.clone(), vec![scope.clone()])),
        }
    }
    roots
}

impl Mirror {
    async fn run(&mut self) -> Closed {
        loop {
            let Err(trouble) = self.follow().await;
            let steady = self.live.take().is_some_and(|since| since.elapsed() >= STEADY);
            if steady {
                self.backoff.reset();
            }
            let told = match trouble {
                Trouble::Closed => return Closed,
                // The view is as good as it was, until it is replaced in a moment.
                Trouble::Moved => continue,
                Trouble::Etcd(error) if steady && error.wants_login() => {
                    tracing::debug!(%error, "logging in anew");
                    continue;
                }
                Trouble::Restored => {
                    tracing::warn!("etcd's history is another one than before: it was restored or replaced");
                    self.history = History::default();
                    self.shown = false;
                    self.send(Observation::Restored).await
                }
                Trouble::Etcd(error) => {
                    self.backoff.complain("the view of etcd's keys is interrupted", &error);
                    if std::mem::take(&mut self.shown) {
                        self.send(Observation::Interrupted).await
                    } else {
                        Ok(())
                    }
                }
            };
            if told.is_err() {
                return Closed;
            }
            self.backoff.pause().await;
        }
    }

    async fn send(&mut self, observation: Observation) -> std::result::Result<(), Closed> {
        self.out.send(observation).await.map_err(|_| Closed)
    }

    /// Reads all scopes and follows them until there is trouble.
    async fn follow(&mut self) -> std::result::Result<std::convert::Infallible, Trouble> {
        // All is read anew, so only the last set counts.
        while let Ok(scopes) = self.scopes.try_recv() {
            self.wanted = scopes;
        }
        while self.wanted.is_empty() {
            self.wanted = self.scopes.recv().await.ok_or(Closed)?;
        }
        let mut moves = self.connection.moves();
        let mut watches = Watches::new(&self.connection, &self.essential);
        // Whatever was denied may be allowed to whom we are now.
        self.denied.clear();
        self.fill(&BTreeSet::new(), &BTreeSet::new(), &mut watches).await?;
        self.live = Some(Instant::now());
        let mut not_before = Instant::now();
        loop {
            let again_at = self.denied.values().map(|denied| denied.again_at.max(not_before)).min();
            tokio::select! {
                // The rarer first: changes that never pause must not keep a new scope waiting.
                biased;
                scopes = self.scopes.recv() => {
                    let now = scopes.ok_or(Closed)?;
                    let before = std::mem::replace(&mut self.wanted, now.clone());
                    self.denied.retain(|scope, _| now.contains(scope));
                    self.fill(&before, &BTreeSet::new(), &mut watches).await?;
                    if now.is_empty() {
                        // A stream without watches does not tell its progress.
                        watches = Watches::new(&self.connection, &self.essential);
                    }
                }
                () = moves.moved() => return Err(Trouble::Moved),
                () = sleep_until(again_at.unwrap_or(not_before)), if again_at.is_some() => {
                    let now = Instant::now();
                    let due = self.denied.iter().filter(|(_, denied)| denied.again_at <= now);
                    let tried: BTreeSet<Prefix> = due.map(|(scope, _)| scope.clone()).take(TRIED).collect();
                    let before = self.wanted.clone();
                    self.fill(&before, &tried, &mut watches).await?;
                    not_before = Instant::now() + BETWEEN;
                }
                message = watches.next() => self.pass_on(message?).await?,
            }
        }
    }

    /// Reads and watches what is wanted and was not `before`, and those of `tried` that were denied; no longer watches
    /// what is not wanted.
    async fn fill(
        &mut self,
        before: &BTreeSet<Prefix>,
        tried: &BTreeSet<Prefix>,
        watches: &mut Watches,
    ) -> std::result::Result<(), Trouble> {
        let (mut before, mut tried) = (before.clone(), tried.clone());
        let mut read = None;
        loop {
            let readable = |scope: &&Prefix| tried.contains(*scope) || !self.denied.contains_key(*scope);
            let wanted = roots(self.wanted.iter().filter(readable));
            let is_fresh = |(root, inside): &&Root| {
                !watches.has(root) || tried.contains(root) || inside.iter().any(|scope| !before.contains(scope))
            };
            let mut fresh: Vec<Root> = wanted.iter().filter(is_fresh).cloned().collect();
            // It is surely read, and tells at which revision.
            fresh.sort_by_key(|(root, _)| *root != self.essential);
            let more = self.read(fresh).await?;
            // Those that are denied now may have others in them, which are roots then.
            let denied = wanted.iter().any(|(root, _)| self.denied.contains_key(root));
            read = more.last().map(|(_, from)| from - 1).or(read);
            // Before the watches: they may take a while to open, and what was read is all there is.
            if let Some(revision) = read.filter(|_| !denied) {
                self.send(Observation::Complete { revision }).await?;
            }
            for (root, from) in more {
                // Replaces the root's watch, if it has one: what that would still report is in the snapshot.
                watches.add(root, from).await?;
            }
            if !denied {
                watches.retain(|scope| wanted.iter().any(|(root, _)| root == scope));
                return Ok(());
            }
            (before, tried) = (BTreeSet::clone(&self.wanted), BTreeSet::new());
        }
    }

    /// Reads `roots` at one revision and shows what they hold; returns from where each has to be watched. Those that may
    /// not be read are set aside.
    async fn read(&mut self, roots: Vec<Root>) -> std::result::Result<Vec<(Prefix, Revision)>, Trouble> {
        let mut from = Vec::with_capacity(roots.len());
        let mut roots = roots.into_iter();
        let (first, inside, snapshot) = loop {
            let Some((root, inside)) = roots.next() else {
                return Ok(from);
            };
            match self.connection.range(&root, None).await {
                Ok(snapshot) => break (root, inside, snapshot),
                Err(error) => self.refused(root, error).await?,
            }
        };
        let revision = snapshot.revision;
        if !self.history.agrees(snapshot.cluster_id, revision) {
            return Err(Trouble::Restored);
        }
        self.show(&first, inside, snapshot).await?;
        from.push((first, revision + 1));

        let connection = self.connection.clone();
        let mut rest = stream::iter(roots)
            .map(|(root, inside)| {
                let connection = connection.clone();
                async move {
                    let answer = connection.range(&root, Some(revision)).await;
                    (root, inside, answer)
                }
            })
            .buffered(READS);
        while let Some((root, inside, answer)) = rest.next().await {
            let snapshot = match answer {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    self.refused(root, error).await?;
                    continue;
                }
            };
            // Another endpoint may be asked by now, and it may lead elsewhere.
            if !self.history.agrees(snapshot.cluster_id, revision) {
                return Err(Trouble::Restored);
            }
            self.show(&root, inside, snapshot).await?;
            from.push((root, revision + 1));
        }
        Ok(from)
    }

    /// `root` could not be read. If that is only because we have no right to, it is left out for a while.
    async fn refused(&mut self, root: Prefix, error: Error) -> std::result::Result<(), Trouble> {
        let message = match error {
            Error::PermissionDenied { message } if root != self.essential => message,
            error => return Err(error.into()),
        };
        let known = self.denied.get(&root).map(|denied| denied.pause);
        let pause = known.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        let again_at = Instant::now() + pause / 2 + jitter(pause / 2);
        self.denied.insert(root.clone(), Denied { again_at, pause });
        if known.is_none() {
            let scope = root.prefix();
            tracing::warn!(scope, message, "etcd does not let this be read; it is left as it is");
            self.send(Observation::Denied { scope: root }).await?;
        }
        Ok(())
    }

    /// Sends one snapshot for each scope inside `root`, all cut out of the root's.
    async fn show(
        &mut self,
        root: &Prefix,
        inside: Vec<Prefix>,
        snapshot: Snapshot,
    ) -> std::result::Result<(), Closed> {
        self.shown = true;
        if self.denied.remove(root).is_some() {
            tracing::info!(scope = root.prefix(), "etcd lets this be read again");
        }
        let Snapshot { revision, entries, .. } = snapshot;
        for scope in inside.iter().filter(|scope| *scope != root) {
            let part: Vec<(Key, KeyValue)> = entries.iter().filter(|(key, _)| scope.contains(key)).cloned().collect();
            self.send(Observation::Snapshot {
                scope: scope.clone(),
                revision,
                entries: part,
            })
            .await?;
        }
        self.send(Observation::Snapshot {
            scope: root.clone(),
            revision,
            entries,
        })
        .await
    }

    async fn pass_on(&mut self, message: Message) -> std::result::Result<(), Trouble> {
        let known = self.history.highest;
        if !self.history.agrees(message.cluster_id, message.revision.max(known)) {
            return Err(Trouble::Restored);
        }
        if message.changes.is_empty() && message.revision < known {
            self.question().await?;
        }
        for (key, held, revision) in message.changes {
            self.send(Observation::Changed { key, held, revision }).await?;
        }
        Ok(())
    }

    /// Asks the whole cluster for its revision, because a member that is watched has a lower one than is known. It may
    /// lag behind. Or etcd was restored after the snapshots were read: then the watches wait for revisions that are far
    /// off, in silence.
    async fn question(&mut self) -> std::result::Result<(), Trouble> {
        let (_, revision) = self.connection.get(self.essential.prefix()).await?;
        if revision < self.history.highest {
            return Err(Trouble::Restored);
        }
        Ok(())
    }
}
