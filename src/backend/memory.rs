//! A store in memory, for one process: the rules of the contract (`tests/etcd/contract.rs`) without a server.
//!
//! One revision counts all changes. A lease that is not renewed in time is gone, and so are its keys, by the time of the
//! next request or watch. The first candidate leads at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::{
    Access, Backend, Campaign, Candidacy, Capabilities, Leadership, LeaseEvent, Leases, Result, Status, Trial,
};
use crate::model::{
    Expect, Fence, Key, KeyValue, LeaseId, Observation, Op, OpResult, Prefix, PrefixChanges, Revision, Transaction,
    TxnOutcome, Value, entries_below, prefixes_around,
};
use crate::peer::PeerStatuses;

/// The TTL of leases whose TTL in the other store is not known.
const FILLED_TTL: Duration = Duration::from_hours(1);

/// Clones share the content.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<Content>,
    /// The revision of the last change.
    changed: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Content {
    revision: Revision,
    keys: BTreeMap<Key, KeyValue>,
    leases: BTreeMap<LeaseId, Lease>,
    /// The id of the last lease.
    last_lease: i64,
    watches: Vec<Watch>,
    access: Access,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    end: Instant,
}

/// What one mirror watches.
#[derive(Debug)]
struct Watch {
    prefixes: BTreeSet<Prefix>,
    out: mpsc::UnboundedSender<Observation>,
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

impl Content {
    /// Applies one change at the current revision, and sends it to the mirrors that watch the key.
    fn set(&mut self, key: &Key, written: Option<(Value, LeaseId)>) {
        let revision = self.revision;
        let held = written.map(|(value, lease)| KeyValue {
            value,
            lease,
            create_revision: self.keys.get(key).map_or(revision, |known| known.create_revision),
            mod_revision: revision,
        });
        match held.clone() {
            Some(held) => drop(self.keys.insert(key.clone(), held)),
            None => drop(self.keys.remove(key)),
        }
        self.watches.retain(|watch| {
            if !prefixes_around(key).any(|prefix| watch.prefixes.contains(prefix)) {
                return !watch.out.is_closed();
            }
            let (key, held) = (key.clone(), held.clone());
            watch.out.send(Observation::Changed { key, held, revision }).is_ok()
        });
    }

    fn keys_on(&self, lease: LeaseId) -> Vec<Key> {
        let on_it = self.keys.iter().filter(|(_, held)| held.lease == lease);
        on_it.map(|(key, _)| key.clone()).collect()
    }

    /// Removes `lease` and its keys.
    fn revoke(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys = self.keys_on(lease);
        self.revision += i64::from(!keys.is_empty());
        for key in keys {
            self.set(&key, None);
        }
    }

    /// Removes the leases that have not been renewed in time.
    fn expire(&mut self, now: Instant) {
        let is_over = |(_, lease): &(&LeaseId, &Lease)| lease.end <= now;
        let over: Vec<LeaseId> = self.leases.iter().filter(is_over).map(|(id, _)| *id).collect();
        for lease in over {
            self.revoke(lease);
        }
    }

    fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        // The content of another store may have any ids.
        let mut ids = (self.last_lease + 1..).map(LeaseId);
        let id = ids.find(|id| !self.leases.contains_key(id)).expect("ids are left");
        self.last_lease = id.0;
        self.leases.insert(id, Lease { ttl, end: now + ttl });
        id
    }

    /// Returns when the lease ends now; none if it is gone.
    fn renew(&mut self, lease: LeaseId, now: Instant) -> Option<Instant> {
        let lease = self.leases.get_mut(&lease)?;
        lease.end = now + lease.ttl;
        Some(lease.end)
    }

    fn entries(&self, prefix: &Prefix) -> Vec<(Key, KeyValue)> {
        let inside = entries_below(&self.keys, prefix.as_str());
        inside.map(|(key, held)| (key.clone(), held.clone())).collect()
    }

    fn holds(&self, op: &Op) -> bool {
        let held = self.keys.get(op.key());
        match op.expect() {
            Expect::Absent => held.is_none(),
            Expect::At(revision) => held.is_some_and(|held| held.mod_revision == revision),
        }
    }

    fn commit(&mut self, fence: &Fence, transaction: &Transaction) -> TxnOutcome {
        let leader = self.keys.get(&fence.key);
        let leads =
            leader.is_some_and(|leader| leader.create_revision == fence.create_revision && leader.lease == fence.lease);
        if !leads {
            return TxnOutcome::Fenced;
        }
        let checkpoint = transaction.checkpoint.as_ref();
        let later = checkpoint.and_then(|checkpoint| Some((checkpoint, self.keys.get(&checkpoint.key)?)));
        if let Some((_, found)) = later.filter(|(checkpoint, found)| found.mod_revision > checkpoint.after) {
            return TxnOutcome::Overtaken { at: found.mod_revision };
        }
        let result = |(position, op): (usize, &Op)| {
            if transaction.unit_of(position).iter().all(|op| self.holds(op)) {
                OpResult::Done
            } else {
                OpResult::Refused(self.keys.get(op.key()).cloned())
            }
        };
        let results: Vec<OpResult> = transaction.ops.iter().enumerate().map(result).collect();
        let done = transaction.ops.iter().zip(&results);
        let done = done.filter(|(op, result)| **result == OpResult::Done && !matches!(op, Op::Check { .. }));
        let mut writes: Vec<(&Key, Option<(Value, LeaseId)>)> = done
            .map(|(op, _)| match op {
                Op::Put { key, value, lease, .. } => (key, Some((value.clone(), *lease))),
                Op::Delete { key, .. } | Op::Check { key, .. } => (key, None),
            })
            .collect();
        writes
            .extend(checkpoint.map(|checkpoint| (&checkpoint.key, Some((checkpoint.value.clone(), checkpoint.lease)))));
        let mut leases = writes.iter().filter_map(|(_, written)| Some(written.as_ref()?.1));
        if !leases.all(|lease| lease == LeaseId::NONE || self.leases.contains_key(&lease)) {
            return TxnOutcome::LeaseGone;
        }
        self.revision += i64::from(!writes.is_empty());
        for (key, written) in writes {
            self.set(key, written);
        }
        let revision = self.revision;
        TxnOutcome::Applied { revision, results }
    }

    /// Takes or gives back the leader key for a candidate with this session.
    fn stand(&mut self, campaign: &Campaign, session: LeaseId, yields: bool) -> Leadership {
        let key = &campaign.leader_key;
        let is_mine = |held: &KeyValue| held.lease == session;
        match self.keys.get(key) {
            None if yields => return Leadership::Seeking,
            None => {
                self.revision += 1;
                self.set(key, Some((campaign.identity.as_bytes().into(), session)));
            }
            Some(held) if is_mine(held) && yields => {
                self.revision += 1;
                self.set(key, None);
                return Leadership::Seeking;
            }
            Some(held) if is_mine(held) => {}
            Some(held) => {
                let leader = String::from_utf8_lossy(&held.value).into_owned();
                return Leadership::Standby { leader };
            }
        }
        Leadership::Leading(Fence {
            key: key.clone(),
            create_revision: self.keys[key].create_revision,
            lease: session,
        })
    }
}

impl Memory {
    /// Adds keys of another store as they were there at `revision`, with their leases. No mirror may run yet.
    pub fn fill(&self, revision: Revision, entries: &[(Key, KeyValue)]) {
        self.with(|content, now| {
            content.revision = content.revision.max(revision);
            for (key, held) in entries {
                let (ttl, end) = (FILLED_TTL, now + FILLED_TTL);
                if held.lease != LeaseId::NONE {
                    content.leases.entry(held.lease).or_insert(Lease { ttl, end });
                }
                content.keys.insert(key.clone(), held.clone());
            }
        });
    }

    /// Returns what is under `key` now.
    pub fn peek(&self, key: &Key) -> Option<KeyValue> {
        self.with(|content, _| content.keys.get(key).cloned())
    }

    /// Returns the revision of the last change.
    pub fn revision(&self) -> Revision {
        self.with(|content, _| content.revision)
    }

    /// Runs `act` on the content as of now, and wakes the candidates if that changes anything.
    fn with<T>(&self, act: impl FnOnce(&mut Content, Instant) -> T) -> T {
        let (mut content, now) = (self.lock(), Instant::now());
        content.expire(now);
        let result = act(&mut content, now);
        let revision = content.revision;
        self.0
            .changed
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is watched, and sends a snapshot of each prefix that was not watched before.
    fn watch(&self, changes: PrefixChanges, out: &mpsc::UnboundedSender<Observation>) {
        self.with(|content, _| {
            let known = content.watches.iter().position(|watch| watch.out.same_channel(out));
            let mut watch = known.map_or_else(
                || Watch {
                    prefixes: BTreeSet::new(),
                    out: out.clone(),
                },
                |known| content.watches.swap_remove(known),
            );
            for prefix in &changes.removed {
                watch.prefixes.remove(prefix);
            }
            let mut added = changes.added;
            added.retain(|prefix| watch.prefixes.insert(prefix.clone()));
            content.watches.push(watch);
            let (revision, is_any) = (content.revision, !added.is_empty());
            for prefix in added {
                // The receiver ends with the mirror.
                let _ = out.send(Observation::Snapshot {
                    revision,
                    entries: content.entries(&prefix),
                    prefix,
                });
            }
            if is_any {
                let _ = out.send(Observation::Complete { revision });
            }
        });
    }

    /// When the next lease ends.
    fn next_end(&self) -> Option<Instant> {
        self.lock().leases.values().map(|lease| lease.end).min()
    }
}

impl Backend for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ops_per_transaction: Transaction::MAX_OPS,
            has_permissions: false,
        }
    }

    async fn commit(&self, fence: &Fence, transaction: &Transaction) -> Result<TxnOutcome> {
        Ok(self.with(|content, _| content.commit(fence, transaction)))
    }

    async fn grant(&self, ttl: u32) -> Result<LeaseId> {
        Ok(self.with(|content, now| content.grant(seconds(ttl), now)))
    }

    async fn keys_on(&self, lease: LeaseId) -> Result<Vec<Key>> {
        Ok(self.with(|content, _| content.keys_on(lease)))
    }

    async fn get(&self, key: &Key) -> Result<(Option<KeyValue>, Revision)> {
        Ok(self.with(|content, _| (content.keys.get(key).cloned(), content.revision)))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<(Key, KeyValue)>> {
        Ok(self.with(|content, _| content.entries(prefix)))
    }

    async fn mirror(
        self,
        _essential: Prefix,
        mut wanted: mpsc::UnboundedReceiver<PrefixChanges>,
        out: mpsc::Sender<Observation>,
        shutdown: CancellationToken,
    ) {
        let (own, mut incoming) = mpsc::unbounded_channel();
        loop {
            let end = self.next_end();
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(observation) = incoming.recv() => {
                    let sent = tokio::select! {
                        () = shutdown.cancelled() => return,
                        sent = out.send(observation) => sent,
                    };
                    if sent.is_err() {
                        return;
                    }
                }
                changes = wanted.recv() => {
                    let Some(changes) = changes else { return };
                    self.watch(changes, &own);
                }
                () = sleep_until(end.unwrap_or_else(Instant::now).into()), if end.is_some() => self.with(|_, _| ()),
            }
        }
    }

    async fn renew(
        self,
        mut leases: watch::Receiver<Leases>,
        events: mpsc::Sender<LeaseEvent>,
        soonest: watch::Sender<Option<Instant>>,
        shutdown: CancellationToken,
    ) {
        let mut gone = BTreeSet::new();
        loop {
            let wanted = leases.borrow_and_update().clone();
            gone.retain(|lease| wanted.contains_key(lease));
            let mut ends = Vec::new();
            for lease in wanted.keys().copied() {
                if let Some(end) = self.with(|content, now| content.renew(lease, now)) {
                    ends.push(end);
                } else if gone.insert(lease) && events.send(LeaseEvent::Lapsed(lease)).await.is_err() {
                    return;
                }
            }
            let end = ends.into_iter().min();
            soonest.send_if_modified(|known| std::mem::replace(known, end) != end);
            let pause = wanted.values().min().map(|ttl| seconds(*ttl) / 3);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = leases.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    async fn campaign(
        self,
        campaign: Campaign,
        mut candidacy: watch::Receiver<Candidacy>,
        _peer_statuses: watch::Receiver<PeerStatuses>,
        out: watch::Sender<Leadership>,
        shutdown: CancellationToken,
    ) {
        let ttl = seconds(campaign.session_ttl);
        let mut changed = self.0.changed.subscribe();
        let mut session = None;
        loop {
            changed.mark_unchanged();
            let yields = candidacy.borrow_and_update().yields;
            let role = self.with(|content, now| {
                let kept = session.filter(|session| content.renew(*session, now).is_some());
                let session = *session.insert(kept.unwrap_or_else(|| content.grant(ttl, now)));
                content.stand(&campaign, session, yields)
            });
            out.send_if_modified(|known| {
                let is_new = *known != role;
                *known = role;
                is_new
            });
            tokio::select! {
                () = shutdown.cancelled() => break,
                Ok(()) = candidacy.changed() => {}
                Ok(()) = changed.changed() => {}
                () = tokio::time::sleep(ttl / 3) => {}
            }
        }
        if let Some(session) = session {
            self.with(|content, _| content.revoke(session));
        }
    }

    async fn status(&self, _key: Option<&Key>) -> Result<Status> {
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: 0,
            trouble: None,
            refuses: None,
            unsupported: None,
        })
    }

    fn unused_endpoints(&self) -> Vec<String> {
        Vec::new()
    }

    fn is_open_to_all(&self) -> bool {
        true
    }

    async fn may_write(&self, _keys: &[Key]) -> Result<bool> {
        Ok(true)
    }

    async fn may_write_below(&self, _prefix: &Prefix) -> Result<bool> {
        Ok(true)
    }

    async fn may_attach(&self, _key: &Key, _lease: LeaseId) -> Result<bool> {
        Ok(true)
    }

    fn access(&self) -> Access {
        self.lock().access.clone()
    }

    async fn change_access(&self, access: &Access, _trial: &Trial) -> Result<()> {
        self.lock().access = access.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::contract;

    fn start() -> impl Future<Output = ((), Memory)> {
        std::future::ready(((), Memory::default()))
    }

    contract::each_test!(start);
}
