//! The view of our keys: one read of each scope, then every change to it, for as long as the process lives.
//!
//! There is one answer to every kind of trouble (broken stream, compaction, silence, restore): say that the view is
//! interrupted, read all scopes again at one revision, watch from there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::error::Error;
use super::pause::Backoff;
use super::requests::Snapshot;
use super::watches::{Message, Watches};
use crate::plan::{Held, Key, Observation, Revision, Scope};

/// Ranges read at a time: enough to hide the round trips of many small scopes.
const READS: usize = 4;
/// A view that has lived this long was no failed attempt. Shorter ones do not reset the pauses: a scope that may be
/// read and not watched would otherwise have everything read again and again without any.
const STEADY: Duration = Duration::from_secs(5);

/// Mirrors the last of `scopes` into `out` until `shutdown`. For each key, changes come in the order of revisions, and
/// none that the last snapshot of its scope contains already.
///
/// Every set sent is compared with the one before it, so that a scope that was left out and is wanted again has a new
/// snapshot, however quickly it came back.
pub async fn mirror(
    connection: Connection,
    scopes: mpsc::UnboundedReceiver<Arc<BTreeSet<Scope>>>,
    out: mpsc::Sender<Observation>,
    shutdown: CancellationToken,
) {
    let mut mirror = Mirror {
        connection,
        scopes,
        wanted: Arc::default(),
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

struct Mirror {
    connection: Connection,
    scopes: mpsc::UnboundedReceiver<Arc<BTreeSet<Scope>>>,
    wanted: Arc<BTreeSet<Scope>>,
    out: mpsc::Sender<Observation>,
    history: History,
    /// Whether observations of a live view have been sent since the last interruption.
    shown: bool,
    /// Since when all scopes have been watched.
    live: Option<Instant>,
    backoff: Backoff,
}

/// A scope that is watched as a whole, and the wanted scopes inside it, itself included.
type Root = (Scope, Vec<Scope>);

/// The widest of `wanted`. Two watches on one key would report it twice, in no common order.
fn roots(wanted: &BTreeSet<Scope>) -> Vec<Root> {
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
        let mut watches = Watches::new(&self.connection);
        for (root, from) in self.read(roots(&self.wanted)).await? {
            watches.add(root, from).await?;
        }
        self.live = Some(Instant::now());
        loop {
            tokio::select! {
                // The rarer first: changes that never pause must not keep a new scope waiting.
                biased;
                scopes = self.scopes.recv() => {
                    let now = scopes.ok_or(Closed)?;
                    let before = std::mem::replace(&mut self.wanted, now.clone());
                    self.rearrange(&before, &now, &mut watches).await?;
                    if now.is_empty() {
                        // A stream without watches does not tell its progress.
                        watches = Watches::new(&self.connection);
                    }
                }
                () = moves.moved() => return Err(Trouble::Moved),
                message = watches.next() => self.pass_on(message?).await?,
            }
        }
    }

    /// Reads `roots` at one revision and shows what they hold; returns from where each has to be watched.
    async fn read(&mut self, roots: Vec<Root>) -> std::result::Result<Vec<(Scope, Revision)>, Trouble> {
        let mut from = Vec::with_capacity(roots.len());
        let mut roots = roots.into_iter();
        let Some((first, inside)) = roots.next() else {
            return Ok(from);
        };
        let snapshot = self.connection.range(&first, None).await?;
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
                    let snapshot = connection.range(&root, Some(revision)).await?;
                    Ok::<_, Error>((root, inside, snapshot))
                }
            })
            .buffered(READS);
        while let Some((root, inside, snapshot)) = rest.try_next().await? {
            // Another endpoint may be asked by now, and it may lead elsewhere.
            if !self.history.agrees(snapshot.cluster_id, revision) {
                return Err(Trouble::Restored);
            }
            self.show(&root, inside, snapshot).await?;
            from.push((root, revision + 1));
        }
        self.send(Observation::Complete { revision }).await?;
        Ok(from)
    }

    /// Sends one snapshot for each scope inside `root`, all cut out of the root's.
    async fn show(&mut self, root: &Scope, inside: Vec<Scope>, snapshot: Snapshot) -> std::result::Result<(), Closed> {
        self.shown = true;
        let Snapshot { revision, entries, .. } = snapshot;
        for scope in inside.iter().filter(|scope| *scope != root) {
            let part: Vec<(Key, Held)> = entries.iter().filter(|(key, _)| scope.contains(key)).cloned().collect();
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

    /// Goes over from the scopes `before` to those of `now`: a root that is new or has a new scope inside is read and
    /// watched from there, one that is no longer a root is no longer watched.
    async fn rearrange(
        &mut self,
        before: &BTreeSet<Scope>,
        now: &BTreeSet<Scope>,
        watches: &mut Watches,
    ) -> std::result::Result<(), Trouble> {
        let wanted = roots(now);
        watches.retain(|scope| wanted.iter().any(|(root, _)| root == scope));
        let fresh = wanted
            .into_iter()
            .filter(|(root, inside)| !watches.has(root) || inside.iter().any(|scope| !before.contains(scope)));
        let fresh: Vec<_> = fresh.collect();
        for (root, from) in self.read(fresh).await? {
            // Replaces the root's watch, if it has one: what that would still report is in the snapshot.
            watches.add(root, from).await?;
        }
        Ok(())
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
        let Some(scope) = self.wanted.first() else {
            return Ok(());
        };
        let (_, revision) = self.connection.get(scope.prefix()).await?;
        if revision < self.history.highest {
            return Err(Trouble::Restored);
        }
        Ok(())
    }
}
