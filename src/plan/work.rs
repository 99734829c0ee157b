//! What has to be looked at, each thing once: for each namespace in the order it came up, and the namespaces in turn.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use super::fair::FairQueue;
use super::transaction::Key;
use crate::index::RegistrationRef;

/// Whose work it is to look at keys that nobody claims.
static NOBODY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

/// One thing to look at: all keys that belong together and move in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Work {
    /// What a pod has and is to have on behalf of a registration.
    Pod(RegistrationRef, Arc<str>),
    /// A key that nobody claims.
    Key(Key),
}

impl Work {
    /// The namespace it is done for.
    pub fn tenant(&self) -> &Arc<str> {
        match self {
            Self::Pod(registration, _) => &registration.namespace,
            Self::Key(_) => &NOBODY,
        }
    }
}

/// The work to do, and the work that waits for a lease.
#[derive(Debug, Default)]
pub(super) struct WorkList {
    queue: FairQueue<Work>,
    queued: HashSet<Work>,
    /// By the time to live of the lease needed.
    waiting: BTreeMap<u32, Waiting>,
}

/// Work that waits for a lease.
#[derive(Debug, Default)]
struct Waiting {
    queue: FairQueue<Work>,
    /// With how many keys each is about.
    works: HashMap<Work, usize>,
    /// How many keys that is in all.
    keys: usize,
}

impl WorkList {
    pub fn push(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.queue.push(&work.tenant().clone(), work);
        }
    }

    /// Puts work back that was popped but has no place in the transaction at hand.
    pub fn push_front(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.queue.push_front(&work.tenant().clone(), work);
        }
    }

    /// The next work of a tenant that `may` have its turn, told by how much waits for it.
    pub fn pop_of(&mut self, may: impl Fn(&str, usize) -> bool) -> Option<Work> {
        let work = self.queue.pop_of(may)?;
        self.queued.remove(&work);
        Some(work)
    }

    /// `work`, which was popped, has cost so many keys.
    pub fn charge(&mut self, work: &Work, keys: usize) {
        self.queue.charge(work.tenant(), keys);
    }

    /// Everything that can be looked at now, which leaves the list without it.
    pub fn take(&mut self) -> impl Iterator<Item = Work> + use<> {
        self.queued.clear();
        let mut all = std::mem::take(&mut self.queue);
        std::iter::from_fn(move || all.pop())
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
        match waiting.works.insert(work.clone(), keys) {
            Some(before) => waiting.keys -= before,
            None => waiting.queue.push(&work.tenant().clone(), work),
        }
    }

    /// A lease of `ttl` seconds has room for `room` keys: as much of what waited for one is to be looked at again.
    pub fn release(&mut self, ttl: u32, mut room: usize) {
        let Some(mut waiting) = self.waiting.remove(&ttl) else {
            return;
        };
        while let Some(work) = waiting.queue.pop() {
            let keys = waiting.works.get(&work).copied().unwrap_or_default();
            if keys > room {
                waiting.queue.push_front(&work.tenant().clone(), work);
                break;
            }
            room -= keys;
            waiting.keys -= keys;
            waiting.works.remove(&work);
            waiting.queue.charge(work.tenant(), keys);
            self.push(work);
        }
        if !waiting.queue.is_empty() {
            self.waiting.insert(ttl, waiting);
        }
    }

    /// The times to live for which work waits, and how many keys it is about.
    pub fn shortage(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.waiting.iter().map(|(ttl, waiting)| (*ttl, waiting.keys))
    }
}
