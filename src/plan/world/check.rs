//! Checks what must be in etcd once everything has settled, and what must not.

use std::collections::BTreeMap;

use super::{KEYS_PER_LEASE, World};
use crate::model::Key;
use crate::plan::properties::Wish;
use crate::plan::testing::meta;

impl World {
    /// Every desired key with the registration that has precedence and the value. The value is none if the key is in a
    /// unit with a key that cannot be had.
    fn wanted(&self) -> BTreeMap<Key, (&Wish, Option<Vec<u8>>)> {
        let mut by_age: Vec<_> = self.registrations.iter().collect();
        by_age.sort_by_key(|(name, wish)| (wish.created, (*name).clone()));
        let mut wanted = BTreeMap::new();
        for (registration, wish) in by_age {
            let admitted = self
                .pods
                .iter()
                .filter(|(pod, _)| !self.planner.is_over_quota(registration, pod));
            for (pod, address) in admitted {
                let desired = wish.desired(pod, *address);
                for group in desired.groups() {
                    let free = |key: &Key| !wanted.contains_key(key) && !self.is_theirs(key);
                    let can_be_had = group.len() == 1 || group.iter().all(|record| free(&record.key));
                    for record in group {
                        let value = can_be_had.then(|| record.value.to_vec());
                        wanted.entry(record.key.clone()).or_insert((wish, value));
                    }
                }
            }
        }
        wanted
    }

    /// Panics unless etcd holds what it should.
    pub(in crate::plan) fn check(&self) {
        self.planner.check_quotas();
        let wanted = self.wanted();
        let recorded = self.etcd.recorded();
        for (key, (wish, value)) in &wanted {
            if wish.suspended || self.is_theirs(key) {
                continue;
            }
            let Some(value) = value else {
                assert_eq!(self.etcd.held(key), None, "{key} makes no sense alone");
                continue;
            };
            let held = self.etcd.held(key).unwrap_or_else(|| panic!("{key} is missing"));
            assert_eq!(*held.value, **value, "{key}");
            assert!(
                recorded.contains(&held.lease),
                "{key} is on {}, which is not recorded",
                held.lease
            );
        }
        let is_frozen = |key: &str| {
            let suspended = self.registrations.iter().filter(|(_, wish)| wish.suspended);
            suspended
                .flat_map(|(name, _)| &self.frozen[name])
                .any(|prefix| prefix.contains(key))
        };
        for (key, held) in self.etcd.data() {
            let is_wanted = wanted.contains_key(key) || is_frozen(key) || self.is_theirs(key) || self.may_be_kept(key);
            assert!(is_wanted, "{key} ({held:?}) is left behind");
        }
        for lease in recorded {
            self.check_lease_groups(lease);
            // Of the keys on a lease, one is its record, and one may be the record of a hold.
            let keys = self.etcd.keys_on(lease);
            assert!(
                self.restored || keys.iter().filter(|key| **key != meta().hold()).count() <= KEYS_PER_LEASE + 1,
                "{lease} carries too much: {keys:?}"
            );
        }
    }

    /// Whether `key` is foreign, as far as the operator can know.
    fn is_theirs(&self, key: &str) -> bool {
        let overwritten = self.forgetful && self.overwritten.contains(key);
        self.etcd.is_foreign(key) || overwritten && self.etcd.value(key).as_deref() == Some("theirs")
    }
}
