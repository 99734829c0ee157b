//! Which keys are granted and denied together: only those may share a lease.
//!
//! etcd lets nobody renew a lease, nor put a key on it, who may not write every key that is on it. So a lease whose keys
//! are granted apart would be lost for all of them when one grant is taken back. What is granted together is not known
//! from the keys' names, but etcd tells of a folder whether all of it may be written: the widest such folder around a
//! key is its domain.

use std::collections::BTreeSet;

use super::transaction::Prefix;

/// Keys that may share a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseGroup {
    /// All keys: etcd asks nobody who they are.
    Everything,
    /// Those below a folder that may be written as a whole, and whose parent may not.
    Below(Prefix),
}

/// The domains there are, as far as is known.
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

    /// What lies below `folder` may share leases.
    pub fn add(&mut self, folder: Prefix) {
        self.folders.insert(folder);
    }

    /// What lies below `folder` may be granted otherwise by now, if that was granted for itself.
    pub(super) fn forget(&mut self, folder: &Prefix) {
        self.folders.remove(folder);
    }

    /// Whose leases `key` may share; none where that is not known.
    pub fn of(&self, key: &str) -> Option<LeaseGroup> {
        if self.everything {
            return Some(LeaseGroup::Everything);
        }
        let folder = folders(key).find_map(|folder| self.folders.get(folder));
        folder.cloned().map(LeaseGroup::Below)
    }
}

/// The folders that `key` lies in, the widest first, each with its slash.
pub fn folders(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(slash, _)| &key[..=slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_the_widest_folder_that_is_granted_as_a_whole() {
        let mut domains = LeaseGroups::default();
        assert_eq!(domains.of("/shop/orders/a"), None);
        for folder in ["/shop/orders/", "/shop/", "/other/"] {
            domains.add(Prefix::below(folder));
        }
        assert_eq!(
            domains.of("/shop/orders/a"),
            Some(LeaseGroup::Below(Prefix::below("/shop/")))
        );
        assert_eq!(domains.of("/shop-evil/orders/a"), None);
        assert_eq!(domains.of("kitex/a"), None);
        assert_eq!(LeaseGroups::everything().of("kitex/a"), Some(LeaseGroup::Everything));
    }

    #[test]
    fn a_key_lies_in_each_folder_of_its_path() {
        let all: Vec<&str> = folders("/shop/orders/a").collect();
        assert_eq!(all, ["/", "/shop/", "/shop/orders/"]);
        assert_eq!(folders("kitex/a").collect::<Vec<_>>(), ["kitex/"]);
        assert_eq!(folders("a").count(), 0);
    }
}
