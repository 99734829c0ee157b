//! The work queue of the planner, and the work that waits for a lease or for space in etcd. Each item is queued once. Each namespace is
//! served first in, first out, and the namespaces are served in turn.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use super::lease_groups::LeaseGroup;
use super::lease_pool::Home;
use crate::model::{FairQueue, Key, RegistrationRef};

/// The tenant of the work on unclaimed keys.
static NOBODY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

/// One item of work: keys that are decided together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Work {
    /// The present and the desired keys of a pod for a registration.
    Pod(RegistrationRef, Arc<str>),
    /// A key that no pod claims.
    Key(Key),
}

impl Work {
    /// The namespace that the work is charged to; empty for unclaimed keys.
    pub fn tenant(&self) -> &Arc<str> {
        match self {
            Self::Pod(registration, _) => &registration.namespace,
            Self::Key(_) => &NOBODY,
        }
    }

    /// The registration that the work belongs to; none for unclaimed keys.
    pub fn owner(&self) -> Option<RegistrationRef> {
        match self {
            Self::Pod(registration, _) => Some(registration.clone()),
            Self::Key(_) => None,
        }
    }
}

/// The queued work, and the work that waits for a lease or for space in etcd.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    queue: FairQueue<Work>,
    queued: HashSet<Work>,
    /// By the time to live of the needed lease, in seconds, and the lease group of its keys.
    waiting: BTreeMap<(u32, LeaseGroup), Waiting>,
    /// The lease that each work waits for, one at a time.
    waits: HashMap<Work, (u32, LeaseGroup)>,
    /// A counter that orders the starts of waiting.
    arrivals: u64,
    /// The work that waits because etcd has no space for new data; none while it has.
    without_space: Option<HashSet<Work>>,
    /// Whether the next transaction serves all namespaces, because the last one served only those with little work.
    is_turn_of_all: bool,
}

/// Work that waits for a lease of one time to live and one lease group.
#[derive(Debug, Default)]
struct Waiting {
    /// The value of `arrivals` when the first work began to wait, or when a lease last served this group.
    since: u64,
    queue: FairQueue<Work>,
    /// Each waiting work with the number of its keys.
    works: HashMap<Work, usize>,
    /// The sum over `works`.
    keys: usize,
}

impl WorkQueue {
    pub fn push(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.queue.push(&work.tenant().clone(), work);
        }
    }

    pub fn extend(&mut self, works: impl IntoIterator<Item = Work>) {
        works.into_iter().for_each(|work| self.push(work));
    }

    /// Puts back work that was popped but does not fit into the current transaction.
    pub fn push_front(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.queue.push_front(&work.tenant().clone(), work);
        }
    }

    /// Returns the next work of a tenant that `may` admits. `may` gets the tenant and the number of its queued items.
    pub fn pop_of(&mut self, may: impl Fn(&str, usize) -> bool) -> Option<Work> {
        let work = self.queue.pop_of(may)?;
        self.queued.remove(&work);
        self.stop_waiting(&work);
        Some(work)
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Stops `work` from waiting, because it is decided again and may then need another lease or none.
    fn stop_waiting(&mut self, work: &Work) {
        if let Some(place) = self.waits.remove(work)
            && let Some(waiting) = self.waiting.get_mut(&place)
            && let Some(keys) = waiting.works.remove(work)
        {
            waiting.keys -= keys;
            if waiting.works.is_empty() {
                self.waiting.remove(&place);
            }
        }
    }

    /// Charges the tenant of the popped `work` for `keys` keys.
    pub fn charge(&mut self, work: &Work, keys: usize) {
        self.queue.charge(work.tenant(), keys);
    }

    /// Empties the queue and returns its work. Work that waits for a lease stays.
    pub fn take(&mut self) -> impl Iterator<Item = Work> + use<> {
        self.queued.clear();
        let mut all = std::mem::take(&mut self.queue);
        std::iter::from_fn(move || all.pop())
    }

    /// The number of items, including those that wait for a lease or for space.
    pub fn len(&self) -> usize {
        let waiting = self.waiting.values().map(|waiting| waiting.works.len());
        let without_space = self.without_space.as_ref().map_or(0, HashSet::len);
        self.queue.len() + waiting.sum::<usize>() + without_space
    }

    /// Sets whether etcd has space for new data. When it has space again, queues the work that waited for it.
    pub fn set_space(&mut self, has_space: bool) {
        if !has_space {
            self.without_space.get_or_insert_default();
            return;
        }
        let waited = self.without_space.take();
        self.extend(waited.into_iter().flatten());
    }

    pub fn has_space(&self) -> bool {
        self.without_space.is_none()
    }

    /// Lets `work` wait: it puts keys, and etcd has no space.
    pub fn wait_for_space(&mut self, work: Work) {
        self.without_space.get_or_insert_default().insert(work);
    }

    /// Whether namespaces with little work are served before the others. They are not in every second turn, so that
    /// large namespaces make progress however many small ones there are.
    pub fn starts_with_small(&mut self) -> bool {
        !std::mem::take(&mut self.is_turn_of_all)
    }

    /// Records that a transaction served only namespaces with little work.
    pub fn served_small(&mut self) {
        self.is_turn_of_all = true;
    }

    /// Lets work wait until a lease of `ttl` seconds has room for its `keys` keys of `group`.
    pub fn wait_for_lease(&mut self, ttl: u32, group: LeaseGroup, work: Work, keys: usize) {
        self.arrivals += 1;
        let since = self.arrivals;
        self.stop_waiting(&work);
        self.waits.insert(work.clone(), (ttl, group.clone()));
        let waiting = self.waiting.entry((ttl, group)).or_insert_with(|| Waiting {
            since,
            ..Waiting::default()
        });
        waiting.keys += keys;
        match waiting.works.insert(work.clone(), keys) {
            Some(before) => waiting.keys -= before,
            None => waiting.queue.push(&work.tenant().clone(), work),
        }
    }

    /// Queues as much waiting work as fits on a lease of `ttl` seconds with room for `room` keys of `home`. A free
    /// lease serves the lease group that has waited longest.
    pub fn release(&mut self, ttl: u32, home: &Home, mut room: usize) {
        let same_ttl = |((of, _), _): &(&(u32, LeaseGroup), &Waiting)| *of == ttl;
        let chosen = match home {
            Home::Mixed => None,
            Home::Of(group) => Some((ttl, group.clone())),
            Home::Free => {
                let all = self.waiting.iter().filter(same_ttl);
                all.min_by_key(|(_, waiting)| waiting.since).map(|(who, _)| who.clone())
            }
        };
        let Some((who, mut waiting)) = chosen.and_then(|who| self.waiting.remove_entry(&who)) else {
            return;
        };
        let mut is_served = false;
        while let Some(work) = waiting.queue.pop() {
            // This work was decided meanwhile and does not wait any more.
            let Some(keys) = waiting.works.get(&work).copied() else {
                continue;
            };
            if keys > room {
                waiting.queue.push_front(&work.tenant().clone(), work);
                break;
            }
            room -= keys;
            waiting.keys -= keys;
            is_served = true;
            waiting.works.remove(&work);
            self.waits.remove(&work);
            waiting.queue.charge(work.tenant(), keys);
            self.push(work);
        }
        if !waiting.works.is_empty() {
            // A lease group that was served queues behind those that were not, however much it still needs.
            if is_served {
                self.arrivals += 1;
                waiting.since = self.arrivals;
            }
            self.waiting.insert(who, waiting);
        }
    }

    /// Returns the times to live, in seconds, for which work waits, each with the number of leases that its keys need
    /// at `capacity` keys per lease.
    pub fn shortage(&self, capacity: usize) -> BTreeMap<u32, usize> {
        let mut short = BTreeMap::new();
        for ((ttl, _), waiting) in &self.waiting {
            *short.entry(*ttl).or_default() += waiting.keys.div_ceil(capacity);
        }
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Prefix;

    fn group(folder: &str) -> LeaseGroup {
        LeaseGroup::Below(Prefix::below(folder))
    }

    #[test]
    fn a_lease_that_is_anyones_goes_to_those_who_have_waited_longest() {
        let mut list = WorkQueue::default();
        for (folder, key) in [("/z", "/z/1"), ("/a", "/a/1"), ("/z", "/z/2")] {
            list.wait_for_lease(30, group(folder), Work::Key(key.into()), 1);
        }
        list.wait_for_lease(60, group("/a"), Work::Key("/a/60".into()), 1);
        assert_eq!(list.shortage(256), BTreeMap::from([(30, 2), (60, 1)]));
        list.release(30, &Home::Mixed, 256);
        assert_eq!(list.pop_of(|_, _| true), None);
        list.release(30, &Home::Free, 256);
        let popped: Vec<_> = std::iter::from_fn(|| list.pop_of(|_, _| true)).collect();
        assert_eq!(popped, ["/z/1", "/z/2"].map(|key| Work::Key(key.into())));
        list.release(30, &Home::Of(group("/z")), 256);
        assert_eq!(list.pop_of(|_, _| true), None, "what waits is of another group");
        list.release(30, &Home::Of(group("/a")), 256);
        assert_eq!(list.pop_of(|_, _| true), Some(Work::Key("/a/1".into())));
        assert_eq!((list.len(), list.shortage(256)), (1, BTreeMap::from([(60, 1)])));
    }

    #[test]
    fn leases_go_to_those_who_wait_in_turn_however_much_one_of_them_needs() {
        let mut list = WorkQueue::default();
        for i in 0..100 {
            list.wait_for_lease(30, group("/flood"), Work::Key(format!("/flood/{i}").into()), 1);
        }
        list.wait_for_lease(30, group("/b"), Work::Key("/b/1".into()), 1);
        list.release(30, &Home::Free, 10);
        list.release(30, &Home::Free, 10);
        let popped: Vec<_> = std::iter::from_fn(|| list.pop_of(|_, _| true)).collect();
        assert_eq!(popped.len(), 11);
        assert_eq!(popped.last(), Some(&Work::Key("/b/1".into())));
    }

    #[test]
    fn work_that_is_looked_at_again_no_longer_asks_for_a_lease() {
        let mut list = WorkQueue::default();
        let work = || Work::Key("/a/1".into());
        list.wait_for_lease(30, group("/a"), work(), 1);
        list.push(work());
        assert_eq!(list.pop_of(|_, _| true), Some(work()));
        assert!(!list.is_waiting() && list.shortage(256).is_empty());
        list.wait_for_lease(60, group("/a"), work(), 3);
        list.wait_for_lease(30, group("/a"), work(), 2);
        assert_eq!(list.shortage(1), BTreeMap::from([(30, 2)]));
        list.release(30, &Home::Free, 2);
        assert_eq!((list.pop_of(|_, _| true), list.len()), (Some(work()), 0));
    }
}
