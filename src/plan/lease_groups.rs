//! Lease groups: the keys that are granted and denied together. Only they may share a lease.
//!
//! etcd lets a client renew a lease, or put a key on it, only if the client may write every key on it. If a lease
//! carried keys with different permissions, revoking one permission would lose all of them. The names of the keys do
//! not show which permissions belong together. But etcd answers whether a client may write everything below a folder,
//! so the group of a key is the widest such folder around it.

use std::collections::BTreeSet;

use crate::model::{Prefix, elements_below, prefixes_around};

/// A set of keys that may share a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseGroup {
    /// All keys: etcd does not check permissions.
    Everything,
    /// The keys below a folder that may be written as a whole, and whose parent may not.
    Below(Prefix),
}

/// The lease groups known so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseGroups {
    everything: bool,
    folders: BTreeSet<Prefix>,
}

impl LeaseGroups {
    /// All keys may share leases.
    pub fn everything() -> Self {
        Self {
            everything: true,
            folders: BTreeSet::new(),
        }
    }

    /// Adds the group of the keys below `folder`.
    pub fn add(&mut self, folder: Prefix) {
        self.folders.insert(folder);
    }

    /// Adds the groups in `added`. Returns false if keys whose group was known may be in another one now.
    pub(super) fn extend(&mut self, added: Self) -> bool {
        if self.everything || added.everything {
            let is_same = self.everything;
            *self = Self::everything();
            return is_same;
        }
        let contains_known = |folder: &Prefix| {
            let mut inside = elements_below(&self.folders, folder.as_str());
            inside.any(|inner| inner != folder)
        };
        let is_wider = added.folders.iter().any(contains_known);
        self.folders.extend(added.folders);
        !is_wider
    }

    /// Forgets the group of exactly `folder`, because its permissions may have changed.
    pub(super) fn forget(&mut self, folder: &Prefix) {
        self.folders.remove(folder);
    }

    /// The lease group of `key`, none if it is not known.
    pub fn of(&self, key: &str) -> Option<LeaseGroup> {
        if self.everything {
            return Some(LeaseGroup::Everything);
        }
        let folder = prefixes_around(key).find_map(|folder| self.folders.get(folder));
        folder.cloned().map(LeaseGroup::Below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_the_widest_folder_that_is_granted_as_a_whole() {
        let mut groups = LeaseGroups::default();
        assert_eq!(groups.of("/shop/orders/a"), None);
        for folder in ["/shop/orders/", "/shop/", "/other/"] {
            groups.add(Prefix::below(folder));
        }
        assert_eq!(
            groups.of("/shop/orders/a"),
            Some(LeaseGroup::Below(Prefix::below("/shop/")))
        );
        assert_eq!(groups.of("/shop-evil/orders/a"), None);
        assert_eq!(groups.of("kitex/a"), None);
        assert_eq!(LeaseGroups::everything().of("kitex/a"), Some(LeaseGroup::Everything));
    }
    #[test]
    fn added_groups_change_no_other_key_unless_they_are_wider() {
        let groups = |folders: &[&str]| {
            let mut groups = LeaseGroups::default();
            for folder in folders {
                groups.add(Prefix::below(folder));
            }
            groups
        };
        let mut known = groups(&["/shop/orders/"]);
        assert!(known.extend(groups(&["/shop/carts/", "/shop-evil/"])));
        assert_eq!(known, groups(&["/shop/orders/", "/shop/carts/", "/shop-evil/"]));
        assert!(!known.extend(groups(&["/shop/"])), "orders are in it");
        assert!(!known.extend(LeaseGroups::everything()));
        assert!(known.extend(groups(&["/bank/"])), "everything already");
        assert_eq!(known, LeaseGroups::everything());
    }
}
