//! The pods of edited registrations that are still to be marked. An edit of a registration with many pods is taken in as
//! a list, and its pods are marked a few at a time, so that the work of others comes between.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::model::{Counts, RegistrationRef};

/// The pods that edits concern, by registration.
#[derive(Debug, Default)]
pub(super) struct Edits {
    registrations: HashMap<RegistrationRef, Edit>,
    /// The pods of each namespace.
    counts: Counts<Arc<str>>,
}

#[derive(Debug, Default)]
struct Edit {
    /// The pods in the order of the edits, each with the serial number of its edit. Those that are not `pending` are void.
    order: VecDeque<(u64, Arc<str>)>,
    /// The pods that are still to be marked, each with the serial number of its edit.
    pending: HashMap<Arc<str>, u64>,
}

impl Edits {
    /// Adds the pods that the edit `serial` of `registration` concerns. A pod that an earlier edit concerns keeps its place.
    pub fn add(&mut self, registration: &RegistrationRef, pods: Vec<Arc<str>>, serial: u64) {
        if pods.is_empty() {
            return;
        }
        let edit = self.registrations.entry(registration.clone()).or_default();
        for pod in pods {
            if let Entry::Vacant(free) = edit.pending.entry(pod.clone()) {
                free.insert(serial);
                edit.order.push_back((serial, pod));
                self.counts.add(registration.namespace.clone());
            }
        }
    }

    pub fn contains(&self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        let edit = self.registrations.get(registration);
        edit.is_some_and(|edit| edit.pending.contains_key(pod))
    }

    /// The number of pods of `registration`.
    pub fn len_of(&self, registration: &RegistrationRef) -> usize {
        self.registrations
            .get(registration)
            .map_or(0, |edit| edit.pending.len())
    }

    /// The number of pods of all registrations.
    pub fn len(&self) -> usize {
        self.counts.total()
    }

    /// The number of pods of all registrations of `namespace`.
    pub fn len_of_namespace(&self, namespace: &str) -> usize {
        self.counts.of(namespace)
    }

    /// Takes `pod` out. Returns whether an edit concerns it.
    pub fn take(&mut self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        let Some(edit) = self.registrations.get_mut(registration) else {
            return false;
        };
        if edit.pending.remove(pod).is_none() {
            return false;
        }
        if edit.pending.is_empty() {
            self.registrations.remove(registration);
        }
        self.counts.remove(&registration.namespace);
        true
    }

    /// Returns the serial number of the oldest edit of `registration` that concerns a pod.
    pub fn oldest(&mut self, registration: &RegistrationRef) -> Option<u64> {
        let edit = self.registrations.get_mut(registration)?;
        while let Some((serial, pod)) = edit.order.front() {
            if edit.pending.get(pod) == Some(serial) {
                return Some(*serial);
            }
            edit.order.pop_front();
        }
        None
    }

    /// Takes out the next pod of `registration`, with the serial number of its edit.
    pub fn take_next(&mut self, registration: &RegistrationRef) -> Option<(u64, Arc<str>)> {
        let serial = self.oldest(registration)?;
        let (_, pod) = self.registrations.get_mut(registration)?.order.pop_front()?;
        self.take(registration, &pod);
        Some((serial, pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_come_in_the_order_of_the_edits_and_each_once() {
        let (mut edits, orders) = (Edits::default(), RegistrationRef::new("shop", "orders"));
        let pods = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        edits.add(&orders, pods(&["c", "a", "b"]), 1);
        edits.add(&orders, pods(&["a", "d"]), 2);
        assert_eq!((edits.len_of(&orders), edits.len_of_namespace("shop")), (4, 4));
        assert_eq!(edits.oldest(&orders), Some(1));
        assert!(edits.take(&orders, &"c".into()) && !edits.take(&orders, &"c".into()));
        assert_eq!(edits.take_next(&orders), Some((1, "a".into())));
        // It is edited again after it was taken.
        edits.add(&orders, pods(&["a"]), 3);
        assert!(edits.take(&orders, &"b".into()));
        assert_eq!(edits.oldest(&orders), Some(2));
        let rest: Vec<_> = std::iter::from_fn(|| edits.take_next(&orders)).collect();
        assert_eq!(rest, [(2, "d".into()), (3, "a".into())]);
        assert!(edits.registrations.is_empty() && edits.counts.is_empty());
    }

    #[test]
    fn pod_that_is_edited_again_after_it_was_taken_out_comes_once() {
        let (mut edits, orders) = (Edits::default(), RegistrationRef::new("shop", "orders"));
        edits.add(&orders, vec!["a".into(), "b".into()], 1);
        assert!(edits.take(&orders, &"b".into()));
        edits.add(&orders, vec!["b".into()], 2);
        let all: Vec<_> = std::iter::from_fn(|| edits.take_next(&orders)).collect();
        assert_eq!(all, [(1, "a".into()), (2, "b".into())]);
    }
}
