//! What has to be looked at, each thing once, in the order it came up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::transaction::Key;
use crate::index::RegistrationRef;

/// One thing to look at: all keys that belong together and move in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// By the time to live of the lease needed: the work, and how many keys it is about.
    waiting: HashMap<u32, (Vec<Work>, usize)>,
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

    pub fn len(&self) -> usize {
        self.queue.len() + self.waiting.values().map(|(work, _)| work.len()).sum::<usize>()
    }

    /// Sets work aside until there is a lease of `ttl` seconds with room for its `keys` keys.
    pub fn wait_for_lease(&mut self, ttl: u32, work: Work, keys: usize) {
        let (waiting, total) = self.waiting.entry(ttl).or_default();
        waiting.push(work);
        *total += keys;
    }

    /// A lease of `ttl` seconds has room: what waited for one is to be looked at again.
    pub fn release(&mut self, ttl: u32) {
        let (waiting, _) = self.waiting.remove(&ttl).unwrap_or_default();
        for work in waiting {
            self.push(work);
        }
    }

    /// A time to live for which work waits, and how many keys it is about.
    pub fn shortage(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.waiting.iter().map(|(ttl, (_, keys))| (*ttl, *keys))
    }
}
