//! The prefixes that may contain our keys: which ones to list and watch, for how long, and which keys in them must be
//! left alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

use super::planner::Planner;
use crate::model::{Key, KeyValue, LeaseId, Prefix};

/// The prefixes that are listed and watched in etcd.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// The prefixes that have been listed, each with the keys in it that have no lease. None lies in another.
    listed: BTreeMap<Prefix, KeysWithoutLease>,
    /// Former prefixes of registrations, kept until none of our keys is left in them.
    former: BTreeSet<Prefix>,
    /// Whether other prefixes may have to be listed than at the last [`Self::take_changed`].
    changed: bool,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self {
            listed: BTreeMap::new(),
            former: BTreeSet::new(),
            changed: true,
        }
    }
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

    pub fn set_listed(&mut self, prefix: Prefix, without_lease: KeysWithoutLease) {
        let behind = self
            .listed
            .range::<str, _>((Bound::Excluded(prefix.prefix()), Bound::Unbounded));
        let inside = behind
            .map(|(inner, _)| inner)
            .take_while(|inner| prefix.contains(inner.prefix()));
        for inner in inside.cloned().collect::<Vec<_>>() {
            self.listed.remove(&inner);
        }
        self.listed.insert(prefix, without_lease);
    }

    pub fn set_unlisted(&mut self, prefix: &Prefix) {
        self.listed.remove(prefix);
    }

    pub fn set_unlisted_inside(&mut self, prefix: &Prefix) {
        self.listed.retain(|inner, _| !prefix.contains(inner.prefix()));
    }

    /// Drops all lists, because etcd's history was replaced.
    pub fn forget_lists(&mut self) {
        self.listed.clear();
    }

    /// Records that other prefixes may have to be listed now.
    pub fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Keeps watching `prefixes`, which a registration has left, until [`Self::drop_former`].
    pub fn leave(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        self.former.extend(prefixes);
        self.changed = true;
    }

    pub fn has_former(&self) -> bool {
        !self.former.is_empty()
    }

    /// Stops watching the former prefixes that are `done`. `done` gets the prefix and whether it is listed.
    pub fn drop_former(&mut self, done: impl Fn(&Prefix, bool) -> bool) {
        let before = self.former.len();
        self.former
            .retain(|prefix| !done(prefix, self.listed.contains_key(prefix)));
        self.changed |= self.former.len() < before;
    }

    /// Returns the prefixes to list and watch, if they changed since the last call, and those that were listed and are
    /// not among them. `used` are the prefixes in use. A prefix inside another is omitted, unless the outer one may
    /// not be read.
    pub fn take_changed<'a>(
        &mut self,
        used: impl Iterator<Item = &'a Prefix>,
        may_read: impl Fn(&Prefix) -> bool,
    ) -> Option<(BTreeSet<Prefix>, Vec<Prefix>)> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut all: BTreeSet<&Prefix> = used.collect();
        all.extend(&self.former);
        let (readable, denied): (Vec<&Prefix>, Vec<&Prefix>) = all.into_iter().partition(|prefix| may_read(prefix));
        let mut outermost: BTreeSet<Prefix> = BTreeSet::new();
        for prefix in readable {
            // In key order an outer prefix sorts before all that lie in it.
            if !outermost.last().is_some_and(|outer| outer.contains(prefix.prefix())) {
                outermost.insert(prefix.clone());
            }
        }
        // A prefix inside one that may not be read may still be readable. The outer one stays wanted, because reading
        // it is retried.
        outermost.extend(denied.into_iter().cloned());
        let unwanted = self.listed.extract_if(.., |prefix, _| !outermost.contains(prefix));
        let unwanted = unwanted.map(|(prefix, _)| prefix).collect();
        Some((outermost, unwanted))
    }
}

impl Planner {
    /// Returns the prefixes to list and watch, if they changed since the last call. A prefix inside another is left
    /// out.
    pub fn take_changed_prefixes(&mut self) -> Option<BTreeSet<Prefix>> {
        let used = self.registrations.prefixes().chain([self.meta.prefix()]);
        let (wanted, unwanted) = self
            .prefixes
            .take_changed(used, |prefix| !self.permissions.is_unreadable(prefix))?;
        self.permissions.keep(&wanted);
        for prefix in unwanted {
            let outside = |key: &Key| !wanted.iter().any(|kept| kept.contains(key));
            for key in self.keys.keys_in(&prefix).into_iter().filter(outside) {
                if self.keys.drop_unwatched(&key, &mut self.leases) {
                    self.guard.gone(&key);
                }
            }
        }
        Some(wanted)
    }

    /// Drops prefixes of deleted registrations once none of our keys is left in them and none can still appear there. A
    /// key in a prefix that is not watched would be renewed for ever.
    pub(super) fn drop_former_prefixes(&mut self) {
        if !self.is_kubernetes_complete || !self.prefixes.has_former() {
            return;
        }
        let used: HashSet<&Prefix> = self.registrations.prefixes().collect();
        let is_empty = |prefix: &Prefix| {
            let ours = |held: &KeyValue| self.leases.is_ours(held.lease);
            let mut states = self.keys.below(prefix.prefix());
            !states.any(|(_, state)| state.held.as_ref().is_some_and(ours) || state.may_appear())
        };
        self.prefixes
            .drop_former(|prefix, is_listed| used.contains(prefix) || is_listed && is_empty(prefix));
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
    use super::*;

    #[test]
    fn keys_without_lease_are_known_until_prefix_is_relisted_or_dropped() {
        let mut prefixes = Prefixes::default();
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
}
