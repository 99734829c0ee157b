//! The prefixes that may contain our keys: which ones to list and watch, for how long, and which keys in them must be
//! left alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

use super::key_table::KeyState;
use super::lease_placement::ungrouped;
use super::planner::Planner;
use crate::model::{Key, KeyValue, LeaseId, Prefix, PrefixChanges, elements_below, entries_below, prefixes_around};

/// The prefixes that are listed and watched in etcd. What one registration changes costs nothing for the others.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// The prefixes that may contain our keys: those of registrations, that of the operator's records, and former ones. A
    /// former prefix is that of no registration any more, and stays until none of our keys is left in it.
    wanted: BTreeSet<Prefix>,
    /// The wanted prefixes that are listed and watched: all but those inside another one that may be read. Those that may
    /// not be read are among them, because reading them is retried.
    watched: BTreeSet<Prefix>,
    /// The prefixes around all that may have to be added to the watched ones, or removed.
    changed: BTreeSet<Prefix>,
    /// The watched prefixes that have been listed, each with the keys in it that have no lease. None lies in another.
    listed: BTreeMap<Prefix, KeysWithoutLease>,
    /// The prefixes of registrations whose lease group is not known.
    without_group: BTreeSet<Prefix>,
}

/// Keys that etcd holds without a lease: they are foreign, and a prefix may have any number of them. Only a hash of each is
/// kept, which is enough to see that a key is there when a pod claims it.
#[derive(Debug, Default)]
pub(super) struct KeysWithoutLease(HashSet<u64>);

impl KeysWithoutLease {
    /// Records whether etcd holds `key` without a lease.
    pub fn set(&mut self, key: &str, is_there: bool) {
        if is_there {
            self.0.insert(hash(key));
        } else if !self.0.is_empty() {
            self.0.remove(&hash(key));
        }
    }

    fn contains(&self, key: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&hash(key))
    }
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Prefixes {
    /// Watches the operator's records from the beginning.
    pub fn new(records: &Prefix) -> Self {
        Self {
            wanted: BTreeSet::from([records.clone()]),
            watched: BTreeSet::from([records.clone()]),
            changed: BTreeSet::new(),
            listed: BTreeMap::new(),
            without_group: BTreeSet::new(),
        }
    }

    /// Whether the current value of `key` is known, because a prefix around it has been listed.
    pub fn is_listed(&self, key: &str) -> bool {
        self.listed_around(key).is_some()
    }

    /// Returns the listed prefix that contains `key`.
    pub fn listed_around(&self, key: &str) -> Option<&Prefix> {
        // No listed prefix lies in another, so only the last one that is not after `key` can contain it.
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let (last, _) = self.listed.range::<str, _>(up_to).next_back()?;
        Some(last).filter(|prefix| prefix.contains(key))
    }

    /// Whether etcd holds `key` without a lease, in a listed prefix.
    pub fn is_without_lease(&self, key: &str) -> bool {
        let prefix = self.listed_around(key);
        prefix.is_some_and(|prefix| self.listed[prefix].contains(key))
    }

    /// Records whether etcd holds `key` without a lease, if a prefix around it has been listed.
    pub fn set_without_lease(&mut self, key: &str, is_there: bool) {
        let keys = self
            .listed_around(key)
            .cloned()
            .and_then(|prefix| self.listed.get_mut(&prefix));
        if let Some(keys) = keys {
            keys.set(key, is_there);
        }
    }

    /// Records that `prefix` was listed, and drops the lists of prefixes inside it. The list of an outer prefix stays.
    pub fn set_listed(&mut self, prefix: Prefix, without_lease: KeysWithoutLease) {
        if self
            .listed_around(prefix.as_str())
            .is_some_and(|around| *around != prefix)
        {
            return;
        }
        self.set_unlisted_inside(&prefix);
        self.listed.insert(prefix, without_lease);
    }

    /// Drops the lists of `prefix` and of all prefixes inside it.
    pub fn set_unlisted_inside(&mut self, prefix: &Prefix) {
        let inside = entries_below(&self.listed, prefix.as_str()).map(|(inner, _)| inner);
        for inner in inside.cloned().collect::<Vec<_>>() {
            self.listed.remove(&inner);
        }
    }

    pub fn set_unlisted(&mut self, prefix: &Prefix) {
        self.listed.remove(prefix);
    }

    /// Drops all lists, because etcd's history was replaced.
    pub fn forget_lists(&mut self) {
        self.listed.clear();
    }

    /// Records that `prefix`, or others inside it, may have to be watched now, or no longer.
    pub fn mark_changed(&mut self, prefix: &Prefix) {
        self.changed.insert(prefix.clone());
    }

    /// Adds a prefix that may contain our keys.
    fn add(&mut self, prefix: &Prefix) {
        if self.wanted.insert(prefix.clone()) {
            self.changed.insert(prefix.clone());
        }
    }

    /// Drops a prefix that contains none of our keys any more.
    fn remove(&mut self, prefix: &Prefix) {
        self.wanted.remove(prefix);
        self.changed.insert(prefix.clone());
    }

    pub fn without_group(&self) -> &BTreeSet<Prefix> {
        &self.without_group
    }

    /// Removes those without a lease group that have one now, and returns them.
    pub fn take_grouped(&mut self, is_grouped: impl Fn(&str) -> bool) -> Vec<Prefix> {
        let grouped = self.without_group.extract_if(.., |prefix| is_grouped(prefix.as_str()));
        grouped.collect()
    }

    /// Adds prefixes of registrations whose lease group is not known any more.
    pub fn add_ungrouped(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        self.without_group.extend(prefixes);
    }

    /// Whether the mirror lists and watches `prefix`, by what [`Planner::take_changed_prefixes`] has returned.
    pub fn is_watched(&self, prefix: &Prefix) -> bool {
        self.watched.contains(prefix)
    }

    /// Whether `key`, or a prefix, lies in a watched prefix.
    pub fn is_inside_watched(&self, key: &str) -> bool {
        prefixes_around(key).any(|prefix| self.watched.contains(prefix))
    }

    /// Returns how the watched prefixes change; none if they are the same as at the last call.
    fn take_changes(&mut self, may_read: impl Fn(&str) -> bool) -> Option<PrefixChanges> {
        let mut changes = PrefixChanges::default();
        for changed in std::mem::take(&mut self.changed) {
            let wanted = elements_below(&self.wanted, changed.as_str());
            // It may be none of the wanted ones any more.
            let concerned: BTreeSet<Prefix> = wanted.chain([&changed]).cloned().collect();
            for prefix in concerned {
                if self.must_watch(prefix.as_str(), &may_read) {
                    if self.watched.insert(prefix.clone()) {
                        changes.added.push(prefix);
                    }
                } else if self.watched.remove(&prefix) {
                    changes.removed.push(prefix);
                }
            }
        }
        (changes != PrefixChanges::default()).then_some(changes)
    }

    fn must_watch(&self, prefix: &str, may_read: impl Fn(&str) -> bool) -> bool {
        let mut outer = prefixes_around(prefix).filter(|outer| *outer != prefix);
        let is_read = |outer: &str| self.wanted.contains(outer) && may_read(outer);
        self.wanted.contains(prefix) && (!may_read(prefix) || !outer.any(is_read))
    }
}

impl Planner {
    /// Follows the change of a registration's prefixes. Keeps watching those that are of no registration any more while keys
    /// of ours may be in them.
    pub(super) fn change_prefixes(&mut self, before: &[Prefix], after: &[Prefix]) {
        for prefix in after {
            self.prefixes.add(prefix);
        }
        self.prefixes.add_ungrouped(ungrouped(&self.leases, after.iter()));
        for prefix in before {
            if !self.registrations.has_prefix(prefix.as_str()) {
                self.prefixes.without_group.remove(prefix);
            }
        }
    }

    /// Whether `prefix` is that of no registration any more, and still watched.
    fn is_former(&self, prefix: &str) -> bool {
        let is_used = self.registrations.has_prefix(prefix) || prefix == self.meta.prefix().as_str();
        !is_used && self.prefixes.wanted.contains(prefix)
    }

    /// Returns how the prefixes to list and watch have changed since the last call; none if they have not. The operator's
    /// records are watched from the beginning. A prefix inside another is omitted unless the outer one may not be read.
    pub fn take_changed_prefixes(&mut self) -> Option<PrefixChanges> {
        let permissions = &self.permissions;
        let changes = self
            .prefixes
            .take_changes(|prefix| !permissions.is_unreadable(prefix))?;
        for prefix in &changes.removed {
            self.permissions.forget_prefix(prefix, &self.prefixes);
            self.prefixes.set_unlisted(prefix);
            for key in self.keys.keys_in(prefix) {
                if !self.prefixes.is_inside_watched(&key) && self.keys.drop_unwatched(&key, &mut self.leases) {
                    self.guard.gone(&key);
                    self.free_room_of(&key);
                }
            }
        }
        Some(changes)
    }

    /// Drops all former prefixes in which none of our keys is left, and none can still appear. A key in a prefix that is
    /// not watched would be renewed for ever.
    pub(super) fn drop_former_prefixes(&mut self) {
        let wanted = self.prefixes.wanted.iter();
        let former: Vec<Prefix> = wanted
            .filter(|prefix| self.is_former(prefix.as_str()))
            .cloned()
            .collect();
        self.drop_former_among(&former);
    }

    /// The same for those around `keys`.
    pub(super) fn drop_former_around(&mut self, keys: &[Key]) {
        let around = keys.iter().flat_map(|key| prefixes_around(key));
        let former: BTreeSet<&str> = around.filter(|prefix| self.is_former(prefix)).collect();
        let former: Vec<Prefix> = former.into_iter().map(Prefix::below).collect();
        self.drop_former_among(&former);
    }

    /// The same for those among `prefixes`.
    pub(super) fn drop_former_among(&mut self, prefixes: &[Prefix]) {
        if !self.is_kubernetes_complete {
            return;
        }
        for prefix in prefixes {
            let ours = |held: &KeyValue| self.leases.is_ours(held.lease);
            let is_used = |(_, state): (&Key, &KeyState)| state.held.as_ref().is_some_and(ours) || state.may_appear();
            // Of a prefix that may not be read, no key is known. One on our leases is found by the orphan collection.
            let is_known = self.prefixes.is_listed(prefix.as_str()) || self.permissions.is_unreadable(prefix.as_str());
            if is_known && self.is_former(prefix.as_str()) && !self.keys.below(prefix.as_str()).any(is_used) {
                self.prefixes.remove(prefix);
            }
        }
    }

    /// The known leases, to ask etcd which keys are on them.
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        self.leases.ids().collect()
    }

    /// Returns the keys among those on our leases that are not known: left by a registration that was deleted while no
    /// replica was running.
    pub fn unknown_keys(&self, keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
        let unknown = |key: &Key| !self.meta.prefix().contains(key) && !self.keys.contains(key);
        keys.into_iter().filter(unknown).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORDS: &str = "/records/";

    /// Prefixes with `/a/`, which is watched.
    fn watching() -> Prefixes {
        let mut prefixes = Prefixes::new(&Prefix::below(RECORDS));
        prefixes.add(&Prefix::below("/a/"));
        assert!(prefixes.take_changes(|_| true).is_some());
        prefixes
    }

    #[test]
    fn keys_without_lease_are_known_until_prefix_is_relisted_or_dropped() {
        let mut prefixes = watching();
        prefixes.set_without_lease("/a/x", true);
        assert!(!prefixes.is_without_lease("/a/x"), "the list will show it");
        let mut listed = KeysWithoutLease::default();
        listed.set("/a/x", true);
        prefixes.set_listed(Prefix::below("/a/"), listed);
        prefixes.set_without_lease("/a/y", true);
        prefixes.set_without_lease("/b/z", true);
        let known = |prefixes: &Prefixes| ["/a/x", "/a/y", "/b/z"].map(|key| prefixes.is_without_lease(key));
        assert_eq!(known(&prefixes), [true, true, false]);
        prefixes.set_without_lease("/a/x", false);
        assert_eq!(known(&prefixes), [false, true, false]);
        prefixes.set_listed(Prefix::below("/a/"), KeysWithoutLease::default());
        assert_eq!(known(&prefixes), [false; 3]);
        prefixes.set_without_lease("/a/y", true);
        prefixes.set_unlisted(&Prefix::below("/a/"));
        assert_eq!(known(&prefixes), [false; 3]);
    }

    #[test]
    fn list_of_outer_prefix_replaces_those_inside_it_only() {
        let mut prefixes = Prefixes::new(&Prefix::below(RECORDS));
        for prefix in ["/a/b/", "/a/b/c/", "/a/d/", "/ab/"] {
            prefixes.set_listed(Prefix::below(prefix), KeysWithoutLease::default());
        }
        prefixes.set_listed(Prefix::below("/a/b/"), KeysWithoutLease::default());
        let listed = |prefixes: &Prefixes| prefixes.listed.keys().cloned().collect::<Vec<_>>();
        assert_eq!(listed(&prefixes), ["/a/b/", "/a/d/", "/ab/"].map(Prefix::below));
        prefixes.set_listed(Prefix::below("/a/b/c/"), KeysWithoutLease::default());
        assert_eq!(listed(&prefixes).len(), 3, "the outer one has it");
        prefixes.set_unlisted_inside(&Prefix::below("/a/"));
        assert_eq!(listed(&prefixes), ["/ab/"].map(Prefix::below));
    }

    #[test]
    fn prefix_that_is_removed_and_added_again_stays_watched_without_changes() {
        let mut prefixes = watching();
        let prefix = Prefix::below("/a/");
        prefixes.remove(&prefix);
        prefixes.add(&prefix);
        assert_eq!(prefixes.take_changes(|_| true), None);
        prefixes.remove(&prefix);
        let changes = prefixes.take_changes(|_| true);
        assert_eq!(changes.map(|changes| changes.removed), Some(vec![prefix]));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(usize),
        Remove(usize),
        SetReadable(usize, bool),
        Take,
    }

    const TREE: [&str; 8] = ["/a/", "/a/b/", "/a/b/c/", "/a/b/d/", "/a/e/", "/ab/", "/", "f/g/"];

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0..4, 0..TREE.len(), any::<bool>()).prop_map(|(kind, which, flag)| match kind {
            0 => Step::Add(which),
            1 => Step::Remove(which),
            2 => Step::SetReadable(which, flag),
            _ => Step::Take,
        });
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn changes_add_up_to_what_all_wanted_prefixes_say(steps in steps()) {
            let mut prefixes = Prefixes::new(&Prefix::below(RECORDS));
            let mut unreadable: HashSet<String> = HashSet::new();
            let mut followed = BTreeSet::from([Prefix::below(RECORDS)]);
            for step in steps.into_iter().chain([Step::Take]) {
                match step {
                    Step::Add(which) => prefixes.add(&Prefix::below(TREE[which])),
                    Step::Remove(which) => prefixes.remove(&Prefix::below(TREE[which])),
                    Step::SetReadable(which, is_readable) => {
                        let is_new = if is_readable {
                            unreadable.remove(TREE[which])
                        } else {
                            unreadable.insert(TREE[which].to_owned())
                        };
                        if is_new {
                            prefixes.mark_changed(&Prefix::below(TREE[which]));
                        }
                    }
                    Step::Take => {
                        let changes = prefixes.take_changes(|prefix| !unreadable.contains(prefix)).unwrap_or_default();
                        for removed in &changes.removed {
                            prop_assert!(followed.remove(removed));
                        }
                        for added in changes.added {
                            prop_assert!(followed.insert(added));
                        }
                        let is_readable = |prefix: &&Prefix| !unreadable.contains(prefix.as_str());
                        let expected = prefixes.wanted.iter().filter(|prefix| {
                            let mut outer = prefixes.wanted.iter().filter(is_readable);
                            let is_outer = |outer: &Prefix| outer != *prefix && outer.contains(prefix.as_str());
                            !is_readable(prefix) || !outer.any(is_outer)
                        });
                        prop_assert_eq!(&followed, &expected.cloned().collect::<BTreeSet<_>>());
                    }
                }
            }
        }
    }
}
