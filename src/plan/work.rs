//! The work queue of a Registry, and the work that waits for a lease or for space in
//! etcd. Each item is queued once. Each namespace is served
//! first in, first out, and the namespaces are served in turn.
//!
//! The queue is level-triggered: an item names a pod, not a change. The dirty [`Mark`] of a pod says that its desired
//! records must be computed again when the item is popped. A pod that changes again before that is marked once.
//!
//! A namespace whose pods change faster than its rate limit is limited to it while other namespaces are active.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::edits::Edits;
use super::lease_groups::LeaseGroup;
use super::lease_pool::LeaseUse;
use super::rate_limit::NamespaceRateLimiter;
use crate::model::{Counts, FairQueue, Key, RegistrationRef};

/// Number of pods of an edited registration that are marked at once.
const EDITED_AT_ONCE: usize = if cfg!(test) { 2 } else { 64 };

/// The tenant of the work on unclaimed keys.
static NO_NAMESPACE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

/// One item of work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Work {
    /// A changed pod, named by its namespace and its name: the registrations that select it are to be found and marked.
    Changed(Arc<str>, Arc<str>),
    /// The present and the desired keys of a pod for a registration.
    Pod(RegistrationRef, Arc<str>),
    /// An edited registration: its pods are to be marked. Comes after its pods that are marked with the same serial number.
    Edited(RegistrationRef),
    /// A key that no pod claims.
    Key(Key),
}

impl Work {
    /// The namespace that the work is charged to; empty for unclaimed keys.
    pub fn namespace(&self) -> &Arc<str> {
        match self {
            Self::Changed(namespace, _) => namespace,
            Self::Pod(registration, _) | Self::Edited(registration) => &registration.namespace,
            Self::Key(_) => &NO_NAMESPACE,
        }
    }

    /// The registration whose keys the work is about; none for unclaimed keys and for work that finds pods.
    pub fn owner(&self) -> Option<RegistrationRef> {
        match self {
            Self::Pod(registration, _) => Some(registration.clone()),
            Self::Changed(..) | Self::Edited(_) | Self::Key(_) => None,
        }
    }
}

/// Work that must read the desired state again before it is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// A pod of this name was deleted after its records were last computed. The present pod is another one.
    pub deleted: bool,
    /// The registration was edited, and not only the pod changed.
    pub edited: bool,
    /// The pod is about to end. Its removal is never over the rate limit.
    pub ending: bool,
    /// When the change was received.
    pub at: Instant,
    /// The mark's place in time. Marks that follow from the same change of a pod share one.
    pub serial: u64,
}

/// Why a pod is marked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cause {
    pub deleted: bool,
    pub edited: bool,
    pub ending: bool,
    /// The serial number of the mark from which this one follows.
    pub serial: Option<u64>,
}

/// What was served, apart from unclaimed keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Work of a tenant without excess.
    pub others: bool,
    /// Work of another tenant without excess than before.
    pub several: bool,
}

/// Whether a container with room for `capacity` items, of which `len` are left after a burst, has far more room than it
/// needs. Shrinking it then costs less than the burst did.
fn is_roomy(len: usize, capacity: usize) -> bool {
    capacity >= 1024 && len * 8 < capacity
}

/// The queued work, and the work that waits for a lease or for space in etcd.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    queue: FairQueue<Work>,
    /// The work of namespaces above their rate limit. It is served while `queue` offers nothing: at the rate of the limit
    /// while other namespaces are active, and else as fast as possible, one transaction at a time.
    excess: FairQueue<Work>,
    /// The work in the queues. An entry of a queue that is not in this set is void.
    queued: HashSet<Work>,
    /// The time at which namespaces above their rate limit are served no faster than the limit; none while no other
    /// namespace is active.
    limits_apply_at: Option<Instant>,
    /// What was served since the last [`Self::take_served`].
    served: Served,
    /// The last tenant without excess that was served.
    last_served: Option<Arc<str>>,
    /// Whether several tenants are active.
    is_shared: bool,
    /// Whether the last search for work stopped early, without a difference in the items that it looked at.
    has_more: bool,
    rate_limits: NamespaceRateLimiter,
    marks: HashMap<Work, Mark>,
    /// The marked work within its rate limit by serial number: the oldest mark first.
    oldest: BTreeSet<(u64, Work)>,
    /// The same for the marked work above its rate limit.
    oldest_excess: BTreeSet<(u64, Work)>,
    last_serial: u64,
    /// The marks of each edited registration.
    edited: Counts<RegistrationRef>,
    /// The pods of edited registrations that are not marked yet.
    edits: Edits,
    /// Unclaimed keys, each with the last serial number when the planner first looked for work after it was queued. A key
    /// waits until the marked pods up to that one are computed, because one of them may claim it.
    unclaimed: VecDeque<(Option<u64>, Key)>,
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
        self.push_back(work, false);
    }

    /// Sets how many pods of a namespace may change per second before other namespaces take precedence.
    pub fn set_rate_limit(&mut self, per_second: u32) {
        self.rate_limits.set_rate(per_second);
    }

    /// Marks a changed pod, and queues it: the registrations that select it are to be found. A pod that is `ending` is
    /// never over the rate limit.
    pub fn mark_pod(&mut self, namespace: &Arc<str>, pod: &Arc<str>, ending: bool, at: Instant) {
        let work = Work::Changed(namespace.clone(), pod.clone());
        // Behind the namespace's other excess: to find and mark the registrations of a pod takes long if they are many.
        let is_above = self.excess.len_of(namespace) > 0 || self.rate_limits.is_above(namespace, at);
        let cause = Cause {
            ending,
            ..Cause::default()
        };
        self.insert_mark(work, cause, at, |_| !is_above);
    }

    /// Marks the pod of a registration as dirty, and queues it. `at` is the time of the change. A removal is never over
    /// the rate limit.
    pub fn mark(&mut self, registration: &RegistrationRef, pod: &Arc<str>, cause: Cause, at: Instant) {
        let work = Work::Pod(registration.clone(), pod.clone());
        self.insert_mark(work, cause, at, |limits| limits.admits(&registration.namespace, at));
    }

    /// Marks an edited registration, and queues it: `pods`, which the edit concerns, are to be marked in this order.
    pub fn mark_edited(&mut self, registration: &RegistrationRef, mut pods: Vec<Arc<str>>, at: Instant) {
        if self.edited.of(registration) > 0 {
            // An earlier edit has marked them. They are computed by the newest spec.
            let is_marked = |pod: &Arc<str>| self.marks.get(&Work::Pod(registration.clone(), pod.clone()));
            pods.retain(|pod| !is_marked(pod).is_some_and(|mark| mark.edited));
        }
        self.last_serial += 1;
        self.edits.add(registration, pods, self.last_serial);
        let work = Work::Edited(registration.clone());
        if let Some(serial) = self.edits.oldest(registration) {
            self.mark_edit(work, serial, at);
        }
    }

    /// Marks the edited registration of `work`, of which a pod with this serial number is the next one.
    fn mark_edit(&mut self, work: Work, serial: u64, at: Instant) {
        let cause = Cause {
            serial: Some(serial),
            ..Cause::default()
        };
        let namespace = work.namespace().clone();
        self.insert_mark(work, cause, at, |limits| !limits.is_above(&namespace, at));
    }

    /// Marks the next pods of an edited registration. Returns how many: none if `work` is other work. It is marked again if
    /// it has more.
    pub fn mark_next_edited(&mut self, work: &Work) -> usize {
        let Work::Edited(registration) = work else { return 0 };
        let Some(mark) = self.take_mark(work) else { return 0 };
        let mut marked = 0;
        while marked < EDITED_AT_ONCE
            && let Some((serial, pod)) = self.edits.take_next(registration)
        {
            let cause = Cause {
                edited: true,
                serial: Some(serial),
                ..Cause::default()
            };
            self.mark(registration, &pod, cause, mark.at);
            marked += 1;
        }
        if let Some(serial) = self.edits.oldest(registration) {
            self.mark_edit(work.clone(), serial, mark.at);
        }
        marked
    }

    /// Inserts a mark and queues its work, or adds to the mark that is there. `admits` is whether a new change that is
    /// not urgent is within the rate limit.
    fn insert_mark(
        &mut self,
        work: Work,
        cause: Cause,
        at: Instant,
        admits: impl FnOnce(&mut NamespaceRateLimiter) -> bool,
    ) {
        let Cause {
            deleted,
            edited,
            ending,
            serial,
        } = cause;
        let is_urgent = deleted || ending;
        let known = self.marks.get_mut(&work);
        let was_edited = known.as_ref().is_some_and(|mark| mark.edited);
        let is_excess = if let Some(mark) = known {
            mark.deleted |= deleted;
            mark.edited |= edited;
            mark.ending |= ending;
            // The unclaimed keys that wait for the older mark wait for this one, too.
            if let Some(older) = serial.filter(|serial| *serial < mark.serial) {
                let former = (mark.serial, work.clone());
                mark.serial = older;
                for marks in [&mut self.oldest, &mut self.oldest_excess] {
                    if marks.remove(&former) {
                        marks.insert((older, work.clone()));
                    }
                }
            }
            let place = (mark.serial, work.clone());
            if is_urgent && self.oldest_excess.remove(&place) {
                self.oldest.insert(place);
                false
            } else {
                self.oldest_excess.contains(&place)
            }
        } else {
            let serial = serial.unwrap_or_else(|| {
                self.last_serial += 1;
                self.last_serial
            });
            let is_excess = !is_urgent && !admits(&mut self.rate_limits);
            let mark = Mark {
                deleted,
                edited,
                ending,
                at,
                serial,
            };
            let marks = if is_excess {
                &mut self.oldest_excess
            } else {
                &mut self.oldest
            };
            marks.insert((serial, work.clone()));
            self.marks.insert(work.clone(), mark);
            is_excess
        };
        if edited
            && !was_edited
            && let Work::Pod(registration, _) = &work
        {
            self.edited.add(registration.clone());
        }
        let is_new = self.queued.insert(work.clone());
        let namespace = work.namespace().clone();
        // Urgent work that is queued as excess is queued a second time. The later entry is void.
        if is_urgent || is_new && !is_excess {
            self.queue.push(&namespace, work);
        } else if is_new {
            self.excess.push(&namespace, work);
        }
    }

    /// Whether `work` must read the desired state again before it is decided.
    pub fn is_marked(&self, work: &Work) -> bool {
        let is_edited = |edits: &Edits| match work {
            Work::Pod(registration, pod) => edits.contains(registration, pod),
            Work::Changed(..) | Work::Edited(_) | Work::Key(_) => false,
        };
        self.marks.contains_key(work) || is_edited(&self.edits)
    }

    /// Takes the mark of a pod, also one that an edit has not marked yet. Returns why it was marked.
    pub fn take_pod(&mut self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<Cause> {
        let is_edited = self.edits.take(registration, pod);
        let mark = self.take_mark(&Work::Pod(registration.clone(), pod.clone()));
        (is_edited || mark.is_some()).then(|| Cause {
            deleted: mark.is_some_and(|mark| mark.deleted),
            edited: is_edited || mark.is_some_and(|mark| mark.edited),
            ..Cause::default()
        })
    }

    /// Takes the mark of `work`.
    pub fn take_mark(&mut self, work: &Work) -> Option<Mark> {
        let mark = self.marks.remove(work)?;
        if is_roomy(self.marks.len(), self.marks.capacity()) {
            self.marks.shrink_to(2 * self.marks.len());
        }
        let place = (mark.serial, work.clone());
        if !self.oldest.remove(&place) {
            self.oldest_excess.remove(&place);
        }
        if mark.edited
            && let Work::Pod(registration, _) = work
        {
            self.edited.remove(registration);
        }
        Some(mark)
    }

    /// Returns the work with the oldest mark among those within their rate limit, or among all if `with_excess`.
    pub fn oldest_marked(&self, with_excess: bool) -> Option<Work> {
        let oldest = if with_excess {
            self.oldest()
        } else {
            self.oldest.first()
        };
        oldest.map(|(_, work)| work.clone())
    }

    /// The oldest mark.
    fn oldest(&self) -> Option<&(u64, Work)> {
        let all = self.oldest.first().into_iter().chain(self.oldest_excess.first());
        all.min()
    }

    /// Returns the work with the oldest mark, if an unclaimed key waits for it.
    pub fn blocking(&mut self) -> Option<Work> {
        for (serial, _) in self
            .unclaimed
            .iter_mut()
            .rev()
            .take_while(|(serial, _)| serial.is_none())
        {
            *serial = Some(self.last_serial);
        }
        let (waits_for, _) = self.unclaimed.back()?;
        let (serial, work) = self.oldest()?;
        waits_for
            .is_some_and(|waits_for| *serial <= waits_for)
            .then(|| work.clone())
    }

    /// The number of pods whose records are still those of the spec before the last edit of `registration`.
    pub fn edited(&self, registration: &RegistrationRef) -> usize {
        self.edited.of(registration) + self.edits.len_of(registration)
    }

    /// Queues the unclaimed keys that wait for no mark any more.
    pub fn release_unclaimed(&mut self) {
        let oldest = self.oldest().map(|(serial, _)| *serial);
        while let Some((Some(waits_for), _)) = self.unclaimed.front()
            && oldest.is_none_or(|oldest| oldest > *waits_for)
            && let Some((_, key)) = self.unclaimed.pop_front()
        {
            self.queue.push(&NO_NAMESPACE, Work::Key(key));
        }
        if is_roomy(self.unclaimed.len(), self.unclaimed.capacity()) {
            self.unclaimed.shrink_to(2 * self.unclaimed.len());
        }
    }

    /// Sets the time at which the rate limits apply, none if they do not apply, and whether several tenants are active.
    pub fn set_activity(&mut self, limits_apply_at: Option<Instant>, is_shared: bool) {
        self.limits_apply_at = limits_apply_at;
        self.is_shared = is_shared;
    }

    /// Whether large transactions would keep other tenants waiting.
    pub fn is_shared(&self, excess: bool) -> bool {
        self.is_shared || excess && self.do_limits_apply()
    }

    /// Whether namespaces above their rate limit are served no faster than the limit.
    pub fn do_limits_apply(&self) -> bool {
        self.limits_apply_at.is_some()
    }

    /// Returns what was served since the last call.
    pub fn take_served(&mut self) -> Served {
        std::mem::take(&mut self.served)
    }

    pub fn has_excess(&self) -> bool {
        !self.excess.is_empty()
    }

    pub fn has_more(&self) -> bool {
        self.has_more
    }

    pub fn set_more(&mut self, has_more: bool) {
        self.has_more = has_more;
    }

    pub fn extend(&mut self, works: impl IntoIterator<Item = Work>) {
        works.into_iter().for_each(|work| self.push(work));
    }

    /// Puts back work that is to be looked at again after all that is queued. `excess` means that it is above the rate
    /// limit.
    pub fn push_back(&mut self, work: Work, excess: bool) {
        if !self.queued.insert(work.clone()) {
            return;
        }
        match work {
            Work::Key(key) => self.unclaimed.push_back((None, key)),
            work if excess => self.excess.push(&work.namespace().clone(), work),
            work => self.queue.push(&work.namespace().clone(), work),
        }
    }

    /// Puts back work that was popped but does not fit into the current transaction.
    pub fn push_front(&mut self, work: Work, excess: bool) {
        if self.queued.insert(work.clone()) {
            let queue = if excess { &mut self.excess } else { &mut self.queue };
            queue.push_front(&work.namespace().clone(), work);
        }
    }

    /// Returns the next work of a tenant that `may` admits, of those above their rate limit if `excess`. `may` gets the
    /// tenant and the number of its queued items, with the pods that its edits still have to mark. The work counts as
    /// queued until [`Self::popped`].
    pub fn next_of(&mut self, may: impl Fn(&str, usize) -> bool, excess: bool) -> Option<Work> {
        let (served, other) = if excess {
            (&mut self.excess, &self.queue)
        } else {
            (&mut self.queue, &self.excess)
        };
        let limited_at = self.limits_apply_at.filter(|_| excess);
        loop {
            let limits = &self.rate_limits;
            let is_within = |namespace: &str| limited_at.is_none_or(|at| !limits.is_above(namespace, at));
            let beside = |namespace: &str| other.len_of(namespace) + self.edits.len_of_namespace(namespace);
            let may = |namespace: &str, waiting| is_within(namespace) && may(namespace, waiting + beside(namespace));
            let work = served.pop_of(may)?;
            if !self.queued.contains(&work) {
                continue;
            }
            if !excess && beside(work.namespace()) == 0 && !matches!(work, Work::Key(_)) {
                self.served.others = true;
                if self.last_served.as_ref() != Some(work.namespace()) {
                    let former = self.last_served.replace(work.namespace().clone());
                    self.served.several |= former.is_some();
                }
            }
            if let (Some(at), Work::Pod(registration, _)) = (limited_at, &work) {
                self.rate_limits.admits(&registration.namespace, at);
            }
            return Some(work);
        }
    }

    /// Ends the time in which work from [`Self::next_of`] counts as queued.
    pub fn popped(&mut self, work: &Work) {
        self.queued.remove(work);
        if is_roomy(self.queued.len(), self.queued.capacity()) {
            self.queued.shrink_to(2 * self.queued.len());
        }
        self.stop_waiting(work);
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Stops `work` from waiting, because it is decided again and may then need another lease or none.
    fn stop_waiting(&mut self, work: &Work) {
        let place = self.waits.remove(work);
        if is_roomy(self.waits.len(), self.waits.capacity()) {
            self.waits.shrink_to(2 * self.waits.len());
        }
        if let Some(place) = place
            && let Some(waiting) = self.waiting.get_mut(&place)
            && let Some(keys) = waiting.works.remove(work)
        {
            waiting.keys -= keys;
            if waiting.works.is_empty() {
                self.waiting.remove(&place);
            }
        }
    }

    /// Charges the tenant of the popped `work` for this `cost`, which is a number of keys. A turn is over after a few of
    /// them.
    pub fn charge(&mut self, work: &Work, cost: usize, excess: bool) {
        let served = if excess { &mut self.excess } else { &mut self.queue };
        served.charge(work.namespace(), cost);
    }

    /// Takes the queued work out, except for marked pods and for work that waits for a lease. Also returns whether each
    /// is above the rate limit.
    pub fn take(&mut self) -> Vec<(Work, bool)> {
        self.blocking();
        self.release_unclaimed();
        let mut taken = Vec::new();
        for (queue, excess) in [(&mut self.queue, false), (&mut self.excess, true)] {
            let mut all = std::mem::take(queue);
            while let Some(work) = all.pop() {
                if self.marks.contains_key(&work) {
                    queue.push(&work.namespace().clone(), work);
                } else if self.queued.remove(&work) {
                    taken.push((work, excess));
                }
            }
        }
        taken
    }

    /// The number of items, including those that wait for a lease or for space, and the pods that edits still have to mark.
    pub fn len(&self) -> usize {
        let waiting = self.waiting.values().map(|waiting| waiting.works.len());
        let without_space = self.without_space.as_ref().map_or(0, HashSet::len);
        self.queued.len() + self.edits.len() + waiting.sum::<usize>() + without_space
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
            None => waiting.queue.push(&work.namespace().clone(), work),
        }
    }

    /// Queues as much waiting work as fits on a lease of `ttl` seconds with room for `room` keys of `lease_use`. A free
    /// lease serves the lease group that has waited longest. Returns whether any work was queued.
    pub fn release(&mut self, ttl: u32, lease_use: &LeaseUse, mut room: usize) -> bool {
        let same_ttl = |((of, _), _): &(&(u32, LeaseGroup), &Waiting)| *of == ttl;
        let chosen = match lease_use {
            LeaseUse::Mixed => None,
            LeaseUse::Of(group) => Some((ttl, group.clone())),
            LeaseUse::Free => {
                let all = self.waiting.iter().filter(same_ttl);
                all.min_by_key(|(_, waiting)| waiting.since).map(|(who, _)| who.clone())
            }
        };
        let Some((who, mut waiting)) = chosen.and_then(|who| self.waiting.remove_entry(&who)) else {
            return false;
        };
        let mut is_served = false;
        while let Some(work) = waiting.queue.pop() {
            // This work was decided meanwhile and does not wait any more.
            let Some(keys) = waiting.works.get(&work).copied() else {
                continue;
            };
            if keys > room {
                waiting.queue.push_front(&work.namespace().clone(), work);
                break;
            }
            room -= keys;
            waiting.keys -= keys;
            is_served = true;
            waiting.works.remove(&work);
            self.waits.remove(&work);
            waiting.queue.charge(work.namespace(), keys);
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
        is_served
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
    use std::time::Duration;

    use super::*;
    use crate::model::Prefix;

    fn group(folder: &str) -> LeaseGroup {
        LeaseGroup::Below(Prefix::below(folder))
    }

    fn pop(list: &mut WorkQueue) -> Option<Work> {
        list.blocking();
        list.release_unclaimed();
        let next = |list: &mut WorkQueue, excess| list.next_of(|_, _| true, excess);
        let work = next(list, false).or_else(|| next(list, true))?;
        list.popped(&work);
        Some(work)
    }

    #[test]
    fn unrestricted_lease_serves_the_group_that_waited_longest() {
        let mut list = WorkQueue::default();
        for (folder, key) in [("/z", "/z/1"), ("/a", "/a/1"), ("/z", "/z/2")] {
            list.wait_for_lease(30, group(folder), Work::Key(key.into()), 1);
        }
        list.wait_for_lease(60, group("/a"), Work::Key("/a/60".into()), 1);
        assert_eq!(list.shortage(256), BTreeMap::from([(30, 2), (60, 1)]));
        list.release(30, &LeaseUse::Mixed, 256);
        assert_eq!(pop(&mut list), None);
        list.release(30, &LeaseUse::Free, 256);
        let popped: Vec<_> = std::iter::from_fn(|| pop(&mut list)).collect();
        assert_eq!(popped, ["/z/1", "/z/2"].map(|key| Work::Key(key.into())));
        list.release(30, &LeaseUse::Of(group("/z")), 256);
        assert_eq!(pop(&mut list), None, "what waits is of another group");
        list.release(30, &LeaseUse::Of(group("/a")), 256);
        assert_eq!(pop(&mut list), Some(Work::Key("/a/1".into())));
        assert_eq!((list.len(), list.shortage(256)), (1, BTreeMap::from([(60, 1)])));
    }

    #[test]
    fn leases_are_shared_in_turn_regardless_of_demand() {
        let mut list = WorkQueue::default();
        for i in 0..100 {
            list.wait_for_lease(30, group("/flood"), Work::Key(format!("/flood/{i}").into()), 1);
        }
        list.wait_for_lease(30, group("/b"), Work::Key("/b/1".into()), 1);
        list.release(30, &LeaseUse::Free, 10);
        list.release(30, &LeaseUse::Free, 10);
        let popped: Vec<_> = std::iter::from_fn(|| pop(&mut list)).collect();
        assert_eq!(popped.len(), 11);
        assert_eq!(popped.last(), Some(&Work::Key("/b/1".into())));
    }

    #[test]
    fn work_that_is_looked_at_again_no_longer_asks_for_a_lease() {
        let mut list = WorkQueue::default();
        let work = || Work::Key("/a/1".into());
        list.wait_for_lease(30, group("/a"), work(), 1);
        list.push(work());
        assert_eq!(pop(&mut list), Some(work()));
        assert!(!list.is_waiting() && list.shortage(256).is_empty());
        list.wait_for_lease(60, group("/a"), work(), 3);
        list.wait_for_lease(30, group("/a"), work(), 2);
        assert_eq!(list.shortage(1), BTreeMap::from([(30, 2)]));
        list.release(30, &LeaseUse::Free, 2);
        assert_eq!((pop(&mut list), list.len()), (Some(work()), 0));
    }

    fn pod(namespace: &str, name: &str) -> (RegistrationRef, Arc<str>) {
        (RegistrationRef::new(namespace, "orders"), name.into())
    }

    fn mark(list: &mut WorkQueue, (registration, pod): &(RegistrationRef, Arc<str>), deleted: bool, at: Instant) {
        let cause = Cause {
            deleted,
            ..Cause::default()
        };
        list.mark(registration, pod, cause, at);
    }

    fn work((registration, pod): &(RegistrationRef, Arc<str>)) -> Work {
        Work::Pod(registration.clone(), pod.clone())
    }

    #[test]
    fn pod_that_changes_again_is_marked_once_and_its_deletion_is_kept() {
        let (mut list, p, now) = (WorkQueue::default(), pod("shop", "p"), Instant::now());
        for deleted in [false, true, false] {
            mark(&mut list, &p, deleted, now);
        }
        assert_eq!(pop(&mut list), Some(work(&p)));
        assert!(list.take_mark(&work(&p)).is_some_and(|mark| mark.deleted));
        assert_eq!(pop(&mut list), None);
        assert!(list.marks.is_empty() && list.oldest.is_empty() && list.len() == 0);
    }

    #[test]
    fn room_for_a_burst_is_given_back_when_it_is_over() {
        let (mut list, now) = (WorkQueue::default(), Instant::now());
        for i in 0..10_000 {
            mark(&mut list, &pod("shop", &i.to_string()), false, now);
        }
        while let Some(work) = pop(&mut list) {
            assert!(list.take_mark(&work).is_some());
        }
        let room = list.marks.capacity().max(list.queued.capacity());
        assert!(room < 1024, "room for {room} is left");
    }

    #[test]
    fn namespace_above_its_rate_limit_waits_only_while_another_one_waits() {
        let (mut list, now) = (WorkQueue::default(), Instant::now());
        list.set_rate_limit(5);
        let flood: Vec<_> = (0..20).map(|i| pod("flood", &i.to_string())).collect();
        for p in &flood {
            mark(&mut list, p, false, now);
        }
        let quiet: Vec<_> = (0..20).map(|i| pod("quiet", &i.to_string())).collect();
        for p in quiet.iter().take(10) {
            mark(&mut list, p, false, now);
        }
        let gone = flood.last().expect("one");
        mark(&mut list, gone, true, now);
        let order: Vec<Work> = std::iter::from_fn(|| pop(&mut list)).collect();
        assert_eq!(order.len(), 30);
        let at =
            |p: &(RegistrationRef, Arc<str>)| order.iter().position(|item| *item == work(p)).expect("it is served");
        // Two seconds' worth is within the limit, and so is a deletion.
        let excess: Vec<_> = flood[11..19].iter().map(at).collect();
        assert!(quiet[..10].iter().all(|p| at(p) < 22), "{order:?}");
        assert!(at(gone) < 22, "{order:?}");
        assert_eq!(excess, (22..30).collect::<Vec<_>>());
    }

    #[test]
    fn unclaimed_key_waits_for_an_edited_pod_that_changes_before_the_edit_has_marked_it() {
        let (mut list, now) = (WorkQueue::default(), Instant::now());
        let pods: Vec<_> = ["a", "b", "c"].map(|name| pod("shop", name)).to_vec();
        let names = pods.iter().map(|(_, name)| name.clone()).collect();
        list.mark_edited(&pods[0].0, names, now);
        list.push_back(Work::Key("/s/c".into()), false);
        assert_eq!(list.blocking(), Some(Work::Edited(pods[0].0.clone())));
        mark(&mut list, &pods[2], false, now);
        let mut computed = Vec::new();
        while let Some(work) = list.blocking() {
            list.mark_next_edited(&work);
            if let Work::Pod(registration, pod) = &work {
                assert!(list.take_pod(registration, pod).is_some_and(|cause| cause.edited));
                computed.push(work);
            }
        }
        assert_eq!(computed, pods.iter().map(work).collect::<Vec<_>>());
        assert!(list.marks.is_empty() && list.oldest.is_empty() && list.edited(&pods[0].0) == 0);
    }

    #[test]
    fn pods_that_an_edit_has_still_to_mark_count_as_queued_and_as_work_above_the_rate_limit() {
        let (mut list, now) = (WorkQueue::default(), Instant::now());
        list.set_rate_limit(1);
        let names = |count: usize| (0..count).map(|i| i.to_string().into()).collect();
        let large = RegistrationRef::new("large", "orders");
        list.mark_edited(&large, names(10), now);
        list.mark_edited(&large, names(10), now);
        assert_eq!((list.len(), list.edited(&large)), (11, 10));
        let is_small = |_: &str, waiting| waiting <= 8;
        assert_eq!(list.next_of(is_small, false), None);
        assert_eq!(list.next_of(|_, _| true, false), Some(Work::Edited(large)));
        assert!(!list.take_served().others);
    }

    #[test]
    fn urgent_change_of_a_pod_that_is_above_the_rate_limit_is_within_it() {
        let (mut list, now) = (WorkQueue::default(), Instant::now());
        list.set_rate_limit(1);
        let all: Vec<_> = (0..20).map(|i| pod("flood", &i.to_string())).collect();
        for p in &all {
            mark(&mut list, p, false, now);
        }
        let gone = all.last().expect("one");
        while let Some(within) = list.oldest_marked(false) {
            assert_ne!(within, work(gone));
            list.take_mark(&within);
        }
        mark(&mut list, gone, true, now);
        assert_eq!(list.oldest_marked(false), Some(work(gone)));
        assert!(list.take_mark(&work(gone)).is_some_and(|mark| mark.deleted));
        assert_eq!(list.oldest_marked(false), None);
        assert!(list.oldest_marked(true).is_some_and(|other| other != work(gone)));
    }

    #[test]
    fn work_of_a_namespace_above_its_limit_does_not_count_as_that_of_others() {
        let (mut list, now) = (WorkQueue::default(), Instant::now());
        list.set_rate_limit(1);
        for i in 0..20 {
            mark(&mut list, &pod("flood", &i.to_string()), false, now);
        }
        let next = |list: &mut WorkQueue| list.next_of(|_, _| true, false);
        while next(&mut list).is_some() {}
        assert!(!list.take_served().others);
        mark(&mut list, &pod("quiet", "p"), false, now);
        assert_eq!(next(&mut list), Some(work(&pod("quiet", "p"))));
        let served = list.take_served();
        assert!(served.others && !served.several && !list.take_served().others);
        mark(&mut list, &pod("quiet", "q"), false, now);
        assert!(next(&mut list).is_some() && !list.take_served().several);
        mark(&mut list, &pod("other", "p"), false, now);
        assert!(next(&mut list).is_some() && list.take_served().several);
    }

    #[test]
    fn namespace_above_its_rate_limit_is_limited_while_others_are_active() {
        let (mut list, start) = (WorkQueue::default(), Instant::now());
        list.set_rate_limit(5);
        for i in 0..20 {
            mark(&mut list, &pod("flood", &i.to_string()), false, start);
        }
        let served = |list: &mut WorkQueue, excess| std::iter::from_fn(|| list.next_of(|_, _| true, excess)).count();
        assert_eq!(served(&mut list, false), 11);
        list.set_activity(Some(start), false);
        assert_eq!(served(&mut list, true), 0);
        list.set_activity(Some(start + Duration::from_secs(1)), false);
        assert_eq!(served(&mut list, true), 5);
        list.set_activity(None, false);
        assert_eq!(served(&mut list, true), 4);
    }

    #[test]
    fn unclaimed_key_waits_for_the_pods_that_may_claim_it() {
        let (mut list, now) = (WorkQueue::default(), Instant::now());
        let (before, same, after) = (pod("shop", "before"), pod("shop", "same"), pod("shop", "after"));
        mark(&mut list, &before, false, now);
        list.push(Work::Key("/k".into()));
        mark(&mut list, &same, false, now);
        assert_eq!(list.blocking(), Some(work(&before)));
        mark(&mut list, &after, false, now);
        for p in [&before, &same] {
            assert_eq!((list.blocking(), pop(&mut list)), (Some(work(p)), Some(work(p))));
            list.take_mark(&work(p));
        }
        assert_eq!(list.blocking(), None);
        let next: Vec<_> = std::iter::from_fn(|| pop(&mut list)).collect();
        assert!(next.contains(&Work::Key("/k".into())), "{next:?}");
    }

    #[test]
    fn marked_pods_stay_queued_when_the_other_work_is_taken_out() {
        let (mut list, p, now) = (WorkQueue::default(), pod("shop", "p"), Instant::now());
        mark(&mut list, &p, false, now);
        list.push(Work::Pod(p.0.clone(), "other".into()));
        assert_eq!(list.take(), [(Work::Pod(p.0.clone(), "other".into()), false)]);
        assert_eq!((list.oldest_marked(true), list.len()), (Some(work(&p)), 1));
        assert_eq!(pop(&mut list), Some(work(&p)));
    }
}
