//! Delays a report until shortly after a change, so that changes in quick succession are reported once, and limits how
//! often the same object is reported.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Schedules reports about objects named `N`.
#[derive(Debug)]
pub struct Debouncer<N> {
    /// How long to wait for further changes.
    settle: Duration,
    /// Minimum time between two reports about the same object.
    interval: Duration,
    due: BTreeSet<(Instant, N)>,
    scheduled: HashMap<N, Instant>,
    /// When each object may be reported again.
    earliest: HashMap<N, Instant>,
}

impl<N: Clone + Eq + Hash + Ord> Debouncer<N> {
    /// Returns a debouncer that reports `settle` after a change, and the same object at most once per `interval`.
    pub fn new(settle: Duration, interval: Duration) -> Self {
        Self {
            settle,
            interval,
            due: BTreeSet::new(),
            scheduled: HashMap::new(),
            earliest: HashMap::new(),
        }
    }

    /// Schedules a report about `name`, unless one is scheduled.
    pub fn changed(&mut self, name: N, now: Instant) {
        if self.scheduled.contains_key(&name) {
            return;
        }
        let settled = now + self.settle;
        let due = self
            .earliest
            .get(&name)
            .map_or(settled, |earliest| settled.max(*earliest));
        self.scheduled.insert(name.clone(), due);
        self.due.insert((due, name));
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes an object whose report is due. The caller reports it now.
    pub fn take_due(&mut self, now: Instant) -> Option<N> {
        if self.next_due()? > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        self.scheduled.remove(&name);
        self.earliest.insert(name.clone(), now + self.interval);
        Some(name)
    }

    /// Has `name`, which was just reported, reported again at `earliest` or later.
    pub fn postpone(&mut self, name: &N, earliest: Instant) {
        if let Some(known) = self.earliest.get_mut(name) {
            *known = earliest.max(*known);
        }
    }

    /// Cancels the report about `name`, and drops when it may be reported again.
    pub fn forget(&mut self, name: &N) {
        self.earliest.remove(name);
        if let Some(due) = self.scheduled.remove(name) {
            self.due.remove(&(due, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_millis(50);
    const INTERVAL: Duration = Duration::from_secs(1);

    #[test]
    fn changes_that_come_together_are_reported_once() {
        let start = Instant::now();
        let mut debouncer = Debouncer::new(SETTLE, INTERVAL);
        debouncer.changed("orders", start);
        debouncer.changed("orders", start + SETTLE / 2);
        assert_eq!(debouncer.take_due(start), None, "the settle time is not over");
        assert_eq!(debouncer.take_due(start + SETTLE), Some("orders"));
        assert_eq!(debouncer.take_due(start + INTERVAL), None);
    }

    #[test]
    fn a_thing_that_keeps_changing_is_reported_once_per_interval() {
        let start = Instant::now();
        let mut debouncer = Debouncer::new(SETTLE, INTERVAL);
        debouncer.changed("orders", start);
        assert_eq!(debouncer.take_due(start + SETTLE), Some("orders"));
        debouncer.changed("orders", start + SETTLE);
        assert_eq!(debouncer.next_due(), Some(start + SETTLE + INTERVAL));
    }

    #[test]
    fn a_postponed_report_is_due_later_and_never_earlier_than_the_interval() {
        let start = Instant::now();
        let mut debouncer = Debouncer::new(SETTLE, INTERVAL);
        debouncer.changed("orders", start);
        let reported = start + SETTLE;
        assert_eq!(debouncer.take_due(reported), Some("orders"));
        debouncer.postpone(&"orders", reported + INTERVAL / 2);
        debouncer.postpone(&"orders", reported + 5 * INTERVAL);
        debouncer.postpone(&"orders", reported + 2 * INTERVAL);
        debouncer.changed("orders", reported);
        assert_eq!(debouncer.next_due(), Some(reported + 5 * INTERVAL));
    }

    #[test]
    fn a_forgotten_thing_is_not_reported() {
        let start = Instant::now();
        let mut debouncer = Debouncer::new(SETTLE, INTERVAL);
        debouncer.changed("orders", start);
        debouncer.forget(&"orders");
        assert_eq!(debouncer.take_due(start + INTERVAL), None);
        assert_eq!(debouncer.next_due(), None);
    }
}
