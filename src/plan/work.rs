//! What has to be looked at, each thing once, in the order it came up.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use super::transaction::Key;
use crate::index::RegistrationRef;

/// One thing to look at: all keys that belong together and move in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Work {
    /// What a pod has and is to have on behalf of a registration.
    Pod(RegistrationRef, Arc<str>),
    /// A key that nobody claims.
    Key(Key),
}

/// The work to do, and the work that waits for a lease.
#[derive(Debug, Default)]
pub(super) struct WorkList {
    queue: VecDeque<Work>,
    queued: HashSet<Work>,
    /// By the time to live of the lease needed.
    waiting: BTreeMap<u32, Waiting>,
}

/// Work that waits for a lease.
#[derive(Debug, Default)]
struct Waiting {
    /// With how many keys each is about.
    works: BTreeMap<Work, usize>,
    /// How many keys that is in all.
    keys: usize,
}

impl WorkList {
    pub fn push(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.queue.push_back(work);
        }
    }

    /// Puts work back that was popped but has no place in the transaction at hand.
    pub fn push_front(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.queue.push_front(work);
        }
    }

    pub fn pop(&mut self) -> Option<Work> {
        let work = self.queue.pop_front()?;
        self.queued.remove(&work);
        Some(work)
    }

    /// How much can be looked at now.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// How much there is to do, what waits for a lease included.
    pub fn len(&self) -> usize {
        let waiting = self.waiting.values().map(|waiting| waiting.works.len());
        self.queue.len() + waiting.sum::<usize>()
    }

    /// Sets work aside until there is a lease of `ttl` seconds with room for its `keys` keys.
    pub fn wait_for_lease(&mut self, ttl: u32, work: Work, keys: usize) {
        let waiting = self.waiting.entry(ttl).or_default();
        waiting.keys += keys;
        waiting.keys -= waiting.works.insert(work, keys).unwrap_or_default();
    }

    /// A lease of `ttl` seconds has room for `room` keys: as much of what waited for one is to be looked at again.
    pub fn release(&mut self, ttl: u32, mut room: usize) {
        let Some(mut waiting) = self.waiting.remove(&ttl) else {
            return;
        };
        while let Some(first) = waiting.works.first_entry().filter(|first| *first.get() <= room) {
            room -= first.get();
            waiting.keys -= first.get();
            self.push(first.remove_entry().0);
        }
        if !waiting.works.is_empty() {
            self.waiting.insert(ttl, waiting);
        }
    }

    /// The times to live for which work waits, and how many keys it is about.
    pub fn shortage(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.waiting.iter().map(|(ttl, waiting)| (*ttl, waiting.keys))
    }
}
