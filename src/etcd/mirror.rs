//! The view of our keys: one read of each scope, then every change to it, for as long as the process lives.
//!
//! There is one answer to every kind of trouble (broken stream, compaction, silence, restore): say that the view is
//! interrupted, read all scopes again at one revision, watch from there.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::error::Error;
use super::pause::Backoff;
use super::requests::Snapshot;
use super::watches::{Message, Watches};
use crate::plan::{Held, Key, Observation, Revision, Scope};

/// Ranges read at a time: enough to hide the round trips of many small scopes.
const READS: usize = 4;

/// Mirrors `scopes` into `out` until `shutdown`. For each key, changes come in the order of revisions, and none that
/// the last snapshot of its scope contains already.
pub async fn mirror(
    connection: Connection,
    scopes: watch::Receiver<Arc<BTreeSet<Scope>>>,
    out: mpsc::Sender<Observation>,
    shutdown: CancellationToken,
) {
    let mut mirror = Mirror {
        connection,
        scopes,
        out,
        history: History::default(),
        shown: false,
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
    scopes: watch::Receiver<Arc<BTreeSet<Scope>>>,
    out: mpsc::Sender<Observation>,
    history: History,
    /// Whether observations of a live view have been sent since the last interruption.
    shown: bool,
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
            match self.follow().await {
                Err(Trouble::Closed) => return Closed,
                Err(Trouble::Restored) => {
                    tracing::warn!("etcd's history is another one than before: it was restored or replaced");
                    self.history = History::default();
                    self.shown = false;
                    if self.send(Observation::Restored).await.is_err() {
                        return Closed;
                    }
                    continue;
                }
                Err(Trouble::Etcd(error)) => self.backoff.complain("the view of etcd's keys is interrupted", &error),
                Ok(never) => match never {},
            }
            if std::mem::take(&mut self.shown) && self.send(Observation::Interrupted).await.is_err() {
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
        let mut wanted = self.scopes.borrow_and_update().clone();
        while wanted.is_empty() {
            self.scopes.changed().await.map_err(|_| Closed)?;
            wanted = self.scopes.borrow_and_update().clone();
        }
        let mut watches = Watches::new(&self.connection);
        for (root, from) in self.read(roots(&wanted)).await? {
            watches.add(root, from).await?;
        }
        loop {
            tokio::select! {
                biased;
                message = watches.next() => self.pass_on(message?).await?,
                changed = self.scopes.changed() => {
                    changed.map_err(|_| Closed)?;
                    let now = self.scopes.borrow_and_update().clone();
                    self.rearrange(&wanted, &now, &mut watches).await?;
                    if now.is_empty() {
                        // A stream without watches does not tell its progress.
                        watches = Watches::new(&self.connection);
                    }
                    wanted = now;
                }
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
        self.backoff.reset();
        if !self
            .history
            .agrees(message.cluster_id, message.revision.max(self.history.highest))
        {
            return Err(Trouble::Restored);
        }
        for (key, held, revision) in message.changes {
            self.send(Observation::Changed { key, held, revision }).await?;
        }
        Ok(())
    }
}
