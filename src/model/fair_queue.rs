//! A queue for many tenants, in which no tenant waits for all items that another tenant queued earlier.
//!
//! Each tenant has its own queue, first in, first out. The queues are served in turn (deficit round robin), each with a
//! credit of [`QUANTUM`] per turn. The cost of an item is charged after it was taken ([`FairQueue::charge`]), so a
//! tenant pays for large items in its next turns. An empty queue is dropped with its debt, and its allocation is
//! reused unless it is large.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The cost that one tenant's queue is served for in one turn.
pub const QUANTUM: i64 = 8;

/// The maximum number of emptied queues that are kept for reuse.
const SPARE: usize = 16;

/// The maximum number of items that a queue has room for if it is kept for reuse.
const SPARE_ITEMS: usize = 256;

/// A queue that serves tenants fairly.
#[derive(Debug)]
pub struct FairQueue<T> {
    queues: HashMap<Arc<str>, NamespaceQueue<T>>,
    /// The tenants with items. The first one is served next.
    turns: VecDeque<Arc<str>>,
    spare: Vec<VecDeque<T>>,
    len: usize,
}

#[derive(Debug)]
struct NamespaceQueue<T> {
    things: VecDeque<T>,
    /// The credit left in this turn; negative if the tenant's items cost more than its credit.
    credit: i64,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            turns: VecDeque::new(),
            spare: Vec::new(),
            len: 0,
        }
    }
}

impl<T> FairQueue<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of items of `tenant`.
    pub fn len_of(&self, namespace: &str) -> usize {
        self.queues.get(namespace).map_or(0, |queue| queue.things.len())
    }

    /// Adds an item to the end of `tenant`'s queue.
    pub fn push(&mut self, namespace: &Arc<str>, thing: T) {
        self.len += 1;
        if let Some(queue) = self.queues.get_mut(namespace) {
            queue.things.push_back(thing);
        } else {
            self.open(namespace, thing);
            self.turns.push_back(namespace.clone());
        }
    }

    /// Puts back an item that was just taken, so that it is the next one.
    pub fn push_front(&mut self, namespace: &Arc<str>, thing: T) {
        self.len += 1;
        if let Some(queue) = self.queues.get_mut(namespace) {
            queue.things.push_front(thing);
            queue.credit = queue.credit.max(0) + 1;
            if self.turns.front() != Some(namespace)
                && let Some(at) = self.turns.iter().position(|other| other == namespace)
            {
                self.turns.remove(at);
                self.turns.push_front(namespace.clone());
            }
        } else {
            self.open(namespace, thing);
            self.turns.push_front(namespace.clone());
        }
    }

    pub fn pop(&mut self) -> Option<T> {
        self.pop_of(|_, _| true)
    }

    /// Takes the next item of a tenant that `may` admits. `may` gets the tenant and the number of its items. The other
    /// tenants keep their places.
    pub fn pop_of(&mut self, may: impl Fn(&str, usize) -> bool) -> Option<T> {
        // The tenants refused in a row.
        let mut barred = 0;
        loop {
            if barred == self.turns.len() {
                return None;
            }
            let alone = self.turns.len() == 1;
            let namespace = self.turns.front()?;
            let queue = self.queues.get_mut(namespace)?;
            if !may(namespace, queue.things.len()) {
                barred += 1;
                self.turns.rotate_left(1);
                continue;
            }
            if queue.credit <= 0 && !alone {
                queue.credit += QUANTUM;
                barred = 0;
                self.turns.rotate_left(1);
                continue;
            }
            queue.credit = if alone { QUANTUM } else { queue.credit - 1 };
            let thing = queue.things.pop_front()?;
            self.len -= 1;
            if queue.things.is_empty()
                && let Some(namespace) = self.turns.pop_front()
                && let Some(queue) = self.queues.remove(&namespace)
                && self.spare.len() < SPARE
                && queue.things.capacity() <= SPARE_ITEMS
            {
                self.spare.push(queue.things);
            }
            return Some(thing);
        }
    }

    /// Charges `tenant` for a taken item of this cost. A cost of one was already charged when the item was taken.
    pub fn charge(&mut self, namespace: &str, cost: usize) {
        if let Some(queue) = self.queues.get_mut(namespace) {
            queue.credit -= i64::try_from(cost).unwrap_or(i64::MAX).saturating_sub(1).max(0);
        }
    }

    fn open(&mut self, namespace: &Arc<str>, thing: T) {
        let mut things = self.spare.pop().unwrap_or_default();
        things.push_back(thing);
        let queue = NamespaceQueue {
            things,
            credit: QUANTUM,
        };
        self.queues.insert(namespace.clone(), queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Arc<str> {
        name.into()
    }

    /// Returns the number of items taken before the `wanted` one.
    fn wait<T: PartialEq>(queue: &mut FairQueue<T>, wanted: &T) -> usize {
        std::iter::from_fn(|| queue.pop())
            .take_while(|thing| thing != wanted)
            .count()
    }

    #[test]
    fn one_tenant_alone_is_served_first_in_first_out() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|i| queue.push(&namespace("a"), i));
        let all: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[test]
    fn tenant_waits_for_at_most_one_quantum_of_another_tenant() {
        let mut queue = FairQueue::default();
        (0..1000).for_each(|i| queue.push(&namespace("flood"), i));
        assert!((0..5).all(|_| queue.pop().is_some()));
        queue.push(&namespace("other"), -1);
        let before = wait(&mut queue, &-1);
        assert!(before <= usize::try_from(QUANTUM).unwrap(), "{before} came before it");
    }

    #[test]
    fn a_tenant_pays_for_what_is_large() {
        let (large, small) = (namespace("large"), namespace("small"));
        let mut queue = FairQueue::default();
        for _ in 0..1000 {
            queue.push(&large, 100_usize);
            queue.push(&small, 1);
        }
        let (mut cost, mut taken) = ([0_usize; 2], 0);
        while taken < 900 {
            let thing = queue.pop().expect("there is more");
            let (namespace, which) = if thing == 100 { (&large, 0) } else { (&small, 1) };
            queue.charge(namespace, thing);
            cost[which] += thing;
            taken += 1;
        }
        let difference = cost[0].abs_diff(cost[1]);
        assert!(difference <= 200, "{cost:?}");
    }

    #[test]
    fn what_is_put_back_is_the_next_one() {
        let (a, b) = (namespace("a"), namespace("b"));
        let mut queue = FairQueue::default();
        queue.push(&a, 1);
        queue.push(&b, 2);
        queue.push(&b, 3);
        let first = queue.pop().expect("one");
        queue.push_front(&a, first);
        assert_eq!(queue.pop(), Some(1));
        let second = queue.pop().expect("one");
        queue.push(&a, 4);
        queue.push_front(&b, second);
        assert_eq!((queue.pop(), queue.len()), (Some(2), 2));
    }

    #[test]
    fn ineligible_tenant_is_skipped_and_keeps_its_items_in_order() {
        let (a, b) = (namespace("a"), namespace("b"));
        let mut queue = FairQueue::default();
        (0..20).for_each(|i| queue.push(&a, i));
        queue.push(&b, -1);
        queue.push(&b, -2);
        let not_a = |namespace: &str, _| namespace != "a";
        assert_eq!((queue.pop_of(not_a), queue.pop_of(not_a)), (Some(-1), Some(-2)));
        assert_eq!(queue.pop_of(not_a), None, "all that is left is a's");
        let rest: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_debt_is_paid_while_the_others_may_not_have_a_turn() {
        let (a, b) = (namespace("a"), namespace("b"));
        let mut queue = FairQueue::default();
        (0..3).for_each(|i| queue.push(&a, i));
        queue.push(&b, -1);
        assert_eq!(queue.pop(), Some(0));
        queue.charge("a", 1000);
        assert_eq!(queue.pop_of(|namespace, _| namespace == "a"), Some(1));
    }

    #[test]
    fn tenants_that_are_done_leave_nothing_behind() {
        let mut queue = FairQueue::default();
        for i in 0..1000 {
            queue.push(&namespace(&i.to_string()), i);
        }
        while queue.pop().is_some() {}
        assert!(queue.queues.is_empty() && queue.turns.is_empty() && queue.spare.len() <= SPARE);
    }
}
