//! The mirror of the operator's keys in etcd: lists each prefix once, then watches it for the life of the process.
//!
//! A broken or silent stream is continued where it ended, if etcd still has the history since then (see `resume`). Every
//! other failure has the same answer: report that the mirror is interrupted, list all prefixes again at one revision, and
//! watch from there. Only a prefix that the user may not read does not disturb the others: the mirror leaves the prefix
//! out and retries it later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::{AccessChanges, Connection};
use super::error::Error;
use super::pause::{JitteredBackoff, jittered};
use super::requests::Snapshot;
use super::watches::{Message, Watches};
use crate::model::{
    Backoff, Key, KeyValue, LeaseId, Observation, Prefix, PrefixChanges, Revision, elements_below, prefixes_around,
};

mod resume;

/// Concurrent list requests: enough to hide the round trips of many small prefixes.
const READS: usize = 4;
/// A mirror that was live this long resets the backoff. A shorter time does not: otherwise a prefix that may be read
/// but not watched would cause all prefixes to be listed repeatedly without a pause.
const STEADY: Duration = Duration::from_secs(5);
/// Pause before a denied prefix is retried; doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many denied prefixes are retried at a time, and the pause between such batches: no watch event is processed
/// during a batch.
const TRIED: usize = 32;
const BETWEEN: Duration = Duration::from_millis(500);

/// Mirrors the prefixes that `changes` adds into `out`, until it removes them or until `shutdown`. The `essential` prefix
/// must be readable: without it the mirror shows nothing. Any other prefix that the user may not read is reported as
/// [`Observation::Denied`] and retried until it may be read. For each key, changes arrive in the order of revisions,
/// and none repeats what the last snapshot of its prefix contains. After an interruption, a change may be repeated.
///
/// A prefix that is removed and added again has a new snapshot, however quickly that happens.
pub async fn mirror(
    connection: Connection,
    essential: Prefix,
    changes: mpsc::UnboundedReceiver<PrefixChanges>,
    out: mpsc::Sender<Observation>,
    shutdown: CancellationToken,
) {
    let mut mirror = Mirror {
        access_changes: connection.access_changes(),
        connection,
        essential,
        changes,
        wanted: BTreeSet::new(),
        changed: BTreeSet::new(),
        listed: BTreeSet::new(),
        positions: Vec::new(),
        denied: BTreeMap::new(),
        out,
        history: History::default(),
        shown: false,
        live: None,
        backoff: JitteredBackoff::new(),
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        Closed = mirror.run() => {}
    }
}

/// The other end of a channel was dropped: the process is ending.
struct Closed;

/// Why following ended.
enum Interruption {
    Etcd(Error),
    /// The cluster id differs from the known one, or the revision decreased.
    Restored,
    /// The connection uses another access from now on.
    AccessChanged,
    Closed,
}

impl From<Error> for Interruption {
    fn from(error: Error) -> Self {
        Self::Etcd(error)
    }
}

impl From<Closed> for Interruption {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

/// The known history of the cluster. A restored etcd has a shorter one.
#[derive(Default)]
struct History {
    cluster_id: Option<u64>,
    highest: Revision,
    /// The newest write of a key on a lease that the mirror has reported. The id of a lease is random, so no other history
    /// has the same write at the same revision.
    newest: Option<(Key, KeyValue)>,
}

impl History {
    /// Records the header of an answer; false if the header contradicts the known history.
    fn agrees(&mut self, cluster_id: u64, revision: Revision) -> bool {
        let same = self.cluster_id.is_none_or(|known| known == cluster_id);
        if !same || revision < self.highest {
            return false;
        }
        self.cluster_id = Some(cluster_id);
        self.highest = revision;
        true
    }

    /// Records the newest of these writes, if it is newer than the known ones.
    fn add<'a>(&mut self, writes: impl Iterator<Item = (&'a Key, &'a KeyValue)>) {
        let on_lease = writes.filter(|(_, held)| held.lease != LeaseId::NONE);
        let newest = on_lease.max_by_key(|(_, held)| held.mod_revision);
        let known = self.newest.as_ref().map(|(_, held)| held.mod_revision);
        if let Some((key, held)) = newest.filter(|(_, held)| known < Some(held.mod_revision)) {
            self.newest = Some((key.clone(), held.clone()));
        }
    }
}

/// The retry state of a prefix that the user may not read.
struct Denied {
    again_at: Instant,
    backoff: Backoff,
}

struct Mirror {
    connection: Connection,
    access_changes: AccessChanges,
    essential: Prefix,
    changes: mpsc::UnboundedReceiver<PrefixChanges>,
    wanted: BTreeSet<Prefix>,
    /// The prefixes that were added or removed since the watches were last adapted.
    changed: BTreeSet<Prefix>,
    /// The prefixes that have been wanted since they were listed last.
    listed: BTreeSet<Prefix>,
    /// From where the watches of a broken stream continue. Empty if all prefixes must be listed.
    positions: Vec<(Prefix, Revision)>,
    denied: BTreeMap<Prefix, Denied>,
    out: mpsc::Sender<Observation>,
    history: History,
    /// Whether a snapshot was sent since the last interruption or restore.
    shown: bool,
    /// Since when all prefixes have been watched.
    live: Option<Instant>,
    backoff: JitteredBackoff,
}

/// A prefix with its own watch, and the wanted prefixes inside it, including itself.
type Root = (Prefix, Vec<Prefix>);

impl Mirror {
    async fn run(&mut self) -> Closed {
        loop {
            let mut watches = Watches::new(&self.connection, &self.essential);
            let Err(interruption) = self.follow(&mut watches).await;
            let live = self.live.take();
            let steady = live.is_some_and(|since| since.elapsed() >= STEADY);
            if steady {
                self.backoff.reset();
            }
            match &interruption {
                Interruption::Etcd(error) if error.is_connection() || error.wants_login() => {
                    // Otherwise the earlier positions are still valid.
                    if live.is_some() {
                        self.positions = watches.positions();
                    }
                }
                _ => self.positions.clear(),
            }
            let sent = match interruption {
                Interruption::Closed => return Closed,
                // The content is still correct until the new one replaces it shortly.
                Interruption::AccessChanged => continue,
                Interruption::Etcd(error) if steady && error.wants_login() => {
                    tracing::debug!(%error, "etcd no longer accepts the token; logging in again");
                    continue;
                }
                Interruption::Restored => {
                    tracing::warn!("the history of etcd has changed; etcd was restored or replaced");
                    self.history = History::default();
                    self.shown = false;
                    self.send(Observation::Restored).await
                }
                Interruption::Etcd(error) => {
                    self.backoff
                        .log_failure("cannot list or watch the keys in etcd", &error);
                    if std::mem::take(&mut self.shown) {
                        self.send(Observation::Interrupted).await
                    } else {
                        Ok(())
                    }
                }
            };
            if sent.is_err() {
                return Closed;
            }
            self.backoff.pause().await;
        }
    }

    async fn send(&mut self, observation: Observation) -> std::result::Result<(), Closed> {
        self.out.send(observation).await.map_err(|_| Closed)
    }

    /// Continues the watches of the last stream, or lists all prefixes, and follows them until an error occurs.
    async fn follow(&mut self, watches: &mut Watches) -> std::result::Result<std::convert::Infallible, Interruption> {
        if let Ok(changes) = self.changes.try_recv() {
            self.take_changes(changes);
        }
        while self.wanted.is_empty() {
            let changes = self.changes.recv().await.ok_or(Closed)?;
            self.take_changes(changes);
        }
        let is_resumed = self.resume(watches).await?;
        if !is_resumed {
            self.listed.clear();
            // The new access may have permissions that the old one lacked.
            self.denied.clear();
        }
        // A watch that continues may be of a prefix that is not wanted any more.
        let continued = watches.positions().into_iter().map(|(prefix, _)| prefix);
        self.changed = self.wanted.iter().cloned().chain(continued).collect();
        let is_listed = self.fill(&BTreeSet::new(), watches).await?;
        if is_resumed && !is_listed {
            self.shown = true;
            let revision = self.history.highest;
            self.send(Observation::Complete { revision }).await?;
        }
        self.live = Some(Instant::now());
        let mut not_before = Instant::now();
        loop {
            let again_at = self.denied.values().map(|denied| denied.again_at.max(not_before)).min();
            tokio::select! {
                // The rarer events first: a continuous stream of changes must not delay a new prefix.
                biased;
                changes = self.changes.recv() => {
                    self.take_changes(changes.ok_or(Closed)?);
                    self.fill(&BTreeSet::new(), watches).await?;
                    if self.wanted.is_empty() {
                        // A stream without watches does not report progress.
                        *watches = Watches::new(&self.connection, &self.essential);
                    }
                }
                () = self.access_changes.changed() => return Err(Interruption::AccessChanged),
                () = sleep_until(again_at.unwrap_or(not_before)), if again_at.is_some() => {
                    let now = Instant::now();
                    let due = self.denied.iter().filter(|(_, denied)| denied.again_at <= now);
                    let tried: BTreeSet<Prefix> = due.map(|(prefix, _)| prefix.clone()).take(TRIED).collect();
                    self.fill(&tried, watches).await?;
                    not_before = Instant::now() + BETWEEN;
                }
                message = watches.next() => self.forward(message?).await?,
            }
        }
    }

    /// Takes in the changes `next` and all that were received after them.
    fn take_changes(&mut self, next: PrefixChanges) {
        let mut next = Some(next);
        while let Some(PrefixChanges { removed, added }) = next {
            for prefix in removed {
                self.wanted.remove(&prefix);
                self.listed.remove(&prefix);
                self.denied.remove(&prefix);
                self.changed.insert(prefix);
            }
            for prefix in added {
                self.wanted.insert(prefix.clone());
                self.changed.insert(prefix);
            }
            next = self.changes.try_recv().ok();
        }
    }

    /// Returns the outermost prefixes around and inside `changed` that are wanted and may be read, each with all wanted
    /// prefixes inside it. Two watches on one key would report each change twice, in no defined order. The prefixes of
    /// `tried` count as readable.
    fn roots(&self, changed: &BTreeSet<Prefix>, tried: &BTreeSet<Prefix>) -> Vec<Root> {
        let readable = |prefix: &&Prefix| tried.contains(*prefix) || !self.denied.contains_key(*prefix);
        let mut roots: BTreeSet<&Prefix> = BTreeSet::new();
        for prefix in changed {
            let mut around = prefixes_around(prefix.as_str()).filter_map(|around| self.wanted.get(around));
            if let Some(root) = around.find(readable) {
                roots.insert(root);
                continue;
            }
            let mut last: Option<&Prefix> = None;
            // In this order a prefix comes directly before all prefixes that it contains.
            for inner in elements_below(&self.wanted, prefix.as_str()).filter(readable) {
                if !last.is_some_and(|last| last.contains(inner.as_str())) {
                    roots.insert(inner);
                    last = Some(inner);
                }
            }
        }
        let roots = roots.into_iter();
        roots
            .map(|root| {
                let inside = elements_below(&self.wanted, root.as_str());
                (root.clone(), inside.cloned().collect())
            })
            .collect()
    }

    /// Lists and watches the changed prefixes that are not listed, and those of `tried` that were denied. Stops watching
    /// prefixes that are not wanted. Returns whether it has listed any, and reported the lists as complete.
    async fn fill(
        &mut self,
        tried: &BTreeSet<Prefix>,
        watches: &mut Watches,
    ) -> std::result::Result<bool, Interruption> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.extend(tried.iter().cloned());
        let (mut tried, mut read) = (tried.clone(), None);
        loop {
            let roots = self.roots(&changed, &tried);
            let is_fresh = |(root, inside): &&Root| {
                !watches.has(root) || inside.iter().any(|prefix| !self.listed.contains(prefix))
            };
            let mut fresh: Vec<Root> = roots.iter().filter(is_fresh).cloned().collect();
            // The essential prefix comes first: it must be readable, and the first list fixes the revision of the
            // others.
            fresh.sort_by_key(|(root, _)| *root != self.essential);
            let more = self.read(fresh).await?;
            read = more.last().map(|(_, from)| from - 1).or(read);
            // A prefix that is denied now may contain others, which become roots in the next round.
            let is_denied = |(root, _): &&Root| self.denied.contains_key(root);
            let denied: BTreeSet<Prefix> = roots.iter().filter(is_denied).map(|(root, _)| root.clone()).collect();
            for root in &denied {
                watches.cancel(root);
                self.listed.remove(root);
            }
            // Sent before the watches are opened: opening may take a while, and the lists are complete already.
            if let Some(revision) = read.filter(|_| denied.is_empty()) {
                self.send(Observation::Complete { revision }).await?;
            }
            for (root, from) in more {
                // Replaces the watch of this root, if there is one. The snapshot contains everything that the old watch
                // has not reported yet.
                watches.add(root, from).await?;
            }
            let read_roots = roots.into_iter().filter(|(root, _)| !denied.contains(root));
            for prefix in changed.iter().filter(|prefix| !self.wanted.contains(*prefix)) {
                watches.cancel(prefix);
            }
            for (root, inside) in read_roots {
                for prefix in inside {
                    if prefix != root {
                        watches.cancel(&prefix);
                    }
                    self.listed.insert(prefix);
                }
            }
            if denied.is_empty() {
                return Ok(read.is_some());
            }
            (changed, tried) = (denied, BTreeSet::new());
        }
    }

    /// Lists `roots` at one revision and sends their contents. Returns the revision from which each root must be
    /// watched. Skips roots that the user may not read.
    async fn read(&mut self, roots: Vec<Root>) -> std::result::Result<Vec<(Prefix, Revision)>, Interruption> {
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
            return Err(Interruption::Restored);
        }
        self.send_snapshots(&first, inside, snapshot).await?;
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
            // Another endpoint may answer by now, and it may belong to another cluster.
            if !self.history.agrees(snapshot.cluster_id, revision) {
                return Err(Interruption::Restored);
            }
            self.send_snapshots(&root, inside, snapshot).await?;
            from.push((root, revision + 1));
        }
        Ok(from)
    }

    /// Handles an error of listing `root`. If only the permission is missing, skips the prefix until its next retry.
    async fn refused(&mut self, root: Prefix, error: Error) -> std::result::Result<(), Interruption> {
        let message = match error {
            Error::PermissionDenied { message } if root != self.essential => message,
            error => return Err(error.into()),
        };
        let known = self.denied.get(&root).map(|denied| denied.backoff);
        let mut backoff = known.unwrap_or(Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
        let again_at = Instant::now() + jittered(backoff.next_pause());
        self.denied.insert(root.clone(), Denied { again_at, backoff });
        if known.is_none() {
            let prefix = root.as_str();
            tracing::warn!(
                prefix,
                reason = message,
                "etcd denies reading the prefix; its keys are left unchanged"
            );
            self.send(Observation::Denied { prefix: root }).await?;
        }
        Ok(())
    }

    /// Sends one snapshot for each prefix inside `root`, all cut out of the snapshot of `root`.
    async fn send_snapshots(
        &mut self,
        root: &Prefix,
        inside: Vec<Prefix>,
        snapshot: Snapshot,
    ) -> std::result::Result<(), Closed> {
        self.shown = true;
        for prefix in &inside {
            if self.denied.remove(prefix).is_some() {
                tracing::info!(prefix = prefix.as_str(), "etcd allows reading the prefix again");
            }
        }
        let Snapshot { revision, entries, .. } = snapshot;
        self.history.add(entries.iter().map(|(key, held)| (key, held)));
        for prefix in inside.iter().filter(|prefix| *prefix != root) {
            let part: Vec<(Key, KeyValue)> = entries
                .iter()
                .filter(|(key, _)| prefix.contains(key))
                .cloned()
                .collect();
            self.send(Observation::Snapshot {
                prefix: prefix.clone(),
                revision,
                entries: part,
            })
            .await?;
        }
        self.send(Observation::Snapshot {
            prefix: root.clone(),
            revision,
            entries,
        })
        .await
    }

    async fn forward(&mut self, message: Message) -> std::result::Result<(), Interruption> {
        let known = self.history.highest;
        if !self.history.agrees(message.cluster_id, message.revision.max(known)) {
            return Err(Interruption::Restored);
        }
        if message.changes.is_empty() && message.revision < known {
            self.check_revision().await?;
        }
        let writes = message.changes.iter();
        self.history
            .add(writes.filter_map(|(key, held, _)| Some((key, held.as_ref()?))));
        for (key, held, revision) in message.changes {
            self.send(Observation::Changed { key, held, revision }).await?;
        }
        Ok(())
    }

    /// Asks the cluster for its revision with a linearizable read, because the watched member reports a lower revision
    /// than the known one. Either the member lags behind, or etcd was restored after the prefixes were listed. In the
    /// second case the watches would silently wait for revisions in the far future.
    async fn check_revision(&mut self) -> std::result::Result<(), Interruption> {
        let (_, revision) = self.connection.get(self.essential.as_str()).await?;
        if revision < self.history.highest {
            return Err(Interruption::Restored);
        }
        Ok(())
    }
}
