//! The lease group of each lease, the leases that etcd denies, and the indexes by which a lease is found.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use super::{Fit, Lease, LeasePool, State};
use crate::model::{Key, LeaseId, Prefix};
use crate::plan::lease_groups::{LeaseGroup, LeaseGroups};

/// The lease group of the keys on a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::plan) enum LeaseUse {
    /// The lease carries no keys and takes those of any group.
    Free,
    /// The lease carries keys of this group and takes more of them.
    Of(LeaseGroup),
    /// The lease carries keys of several groups, or of an unknown one, because an earlier release wrote them or
    /// permissions have changed since. The keys stay, and the lease takes no more.
    Mixed,
}

/// Room that keys of one lease group need on a lease.
#[derive(Clone, Debug)]
pub(in crate::plan) struct NeededRoom {
    pub group: LeaseGroup,
    /// The number of keys.
    pub keys: usize,
    /// The lease to choose if it has the room.
    pub prefer: Option<LeaseId>,
}

impl LeaseUse {
    /// Returns the use after one more key of `group`.
    pub(super) fn with(&self, group: Option<LeaseGroup>) -> Self {
        match (self, group) {
            (Self::Free, Some(group)) => Self::Of(group),
            (Self::Of(known), Some(group)) if *known == group => Self::Of(group),
            _ => Self::Mixed,
        }
    }
}

impl LeasePool {
    /// Replaces the lease groups. Keys that share a lease stay there.
    pub(in crate::plan) fn set_groups(&mut self, groups: LeaseGroups) {
        self.groups = groups;
        for lease in self.known.keys().copied().collect::<Vec<_>>() {
            self.regroup(lease);
        }
    }

    /// Adds lease groups. Keys that share a lease stay there. The caller must call [`Self::regroup`] for the leases of keys
    /// whose group was not known.
    pub(in crate::plan) fn add_groups(&mut self, added: LeaseGroups) {
        if !self.groups.extend(added) {
            let groups = std::mem::take(&mut self.groups);
            self.set_groups(groups);
        }
    }

    /// Determines the use of a lease again, because the groups of its keys have changed.
    pub(in crate::plan) fn regroup(&mut self, lease: LeaseId) {
        self.update_use(lease);
        self.reindex(lease);
    }

    pub(in crate::plan) fn groups(&self) -> &LeaseGroups {
        &self.groups
    }

    /// Forgets the group below `folder`, because its permissions may have changed.
    pub(in crate::plan) fn forget_group(&mut self, folder: &Prefix) {
        self.groups.forget(folder);
    }

    /// The lease group of `key`, none if it is not known.
    pub(in crate::plan) fn group_of(&self, key: &str) -> Option<LeaseGroup> {
        self.groups.of(key)
    }

    /// Sets whether etcd denies renewing the lease and putting keys on it. Returns the keys to queue again.
    pub(in crate::plan) fn set_denied(&mut self, lease: LeaseId, denied: bool) -> Vec<Key> {
        let Some(known) = self.known.get_mut(&lease).filter(|known| known.denied != denied) else {
            return Vec::new();
        };
        known.denied = denied;
        let keys = known.keys.iter().cloned().collect();
        self.reindex(lease);
        keys
    }

    pub fn denied(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.denied.iter().copied()
    }

    pub(in crate::plan) fn is_denied(&self, lease: LeaseId) -> bool {
        self.denied.contains(&lease)
    }

    /// The keys that etcd holds on one of our leases.
    pub(in crate::plan) fn keys_on(&self, lease: LeaseId) -> impl Iterator<Item = &Key> {
        self.known.get(&lease).into_iter().flat_map(|known| &known.keys)
    }

    /// Any lease of ours that takes keys, whatever its group.
    pub(in crate::plan) fn some_sound(&self) -> Option<LeaseId> {
        let sound = |(_, lease): &(&LeaseId, &Lease)| lease.state == State::Open && !lease.denied;
        self.known.iter().find(sound).map(|(id, _)| *id)
    }

    /// Reserves room on leases of `ttl` seconds for the keys of several lease groups: for all of them, or for none. A
    /// failure changes nothing: a lease that was reserved and released would be offered again to those who wait, in vain. So
    /// an empty lease may stay unused until the grant for which they wait has come.
    /// Returns a lease for each group, or the first group without room. The room stays reserved until
    /// [`LeasePool::release`].
    pub(in crate::plan) fn reserve<'a>(
        &mut self,
        ttl: u32,
        needed: &'a [NeededRoom],
    ) -> Result<Vec<LeaseId>, &'a NeededRoom> {
        let mut chosen = Vec::with_capacity(needed.len());
        for room in needed {
            chosen.push(self.choose(ttl, room, &chosen).ok_or(room)?);
        }
        for (id, room) in chosen.iter().zip(needed) {
            self.unfile(*id);
            let lease = self.known.get_mut(id).expect("a lease with room is known");
            lease.reserved += room.keys;
            lease.usage = LeaseUse::Of(room.group.clone());
            self.reindex(*id);
        }
        Ok(chosen)
    }

    /// Returns a lease of `ttl` seconds with the needed room, which is none of `others`.
    fn choose(&self, ttl: u32, needed: &NeededRoom, others: &[LeaseId]) -> Option<LeaseId> {
        let lease_use = LeaseUse::Of(needed.group.clone());
        let fits = |id: &LeaseId| self.room(*id) >= needed.keys && !others.contains(id);
        let takes = |id: &LeaseId| {
            matches!(self.lease_use(*id), Some(LeaseUse::Free)) || self.lease_use(*id) == Some(&lease_use)
        };
        let preferred = needed
            .prefer
            .filter(|id| self.fit(*id, ttl) == Fit::Stays && fits(id) && takes(id));
        let first = |lease_use: LeaseUse| self.roomy.get(&(ttl, lease_use))?.iter().copied().find(fits);
        preferred
            .or_else(|| first(lease_use.clone()))
            .or_else(|| first(LeaseUse::Free))
    }

    /// Reserves room on a known lease for `key`, which is being written to it.
    pub(super) fn reserve_for(&mut self, id: LeaseId, key: &Key) {
        let Some(lease) = self.known.get_mut(&id) else { return };
        lease.reserved += 1;
        let lease_use = lease.usage.with(self.groups.of(key));
        self.set_use(id, lease_use);
    }

    pub(in crate::plan) fn lease_use(&self, lease: LeaseId) -> Option<&LeaseUse> {
        self.known.get(&lease).map(|known| &known.usage)
    }

    /// Frees a lease for any group if it carries no keys and none are being written to it.
    pub(super) fn vacate(&mut self, id: LeaseId) {
        let empty = |lease: &Lease| lease.keys.is_empty() && lease.reserved == 0;
        if self.known.get(&id).is_some_and(empty) {
            self.set_use(id, LeaseUse::Free);
        }
    }

    /// Determines the use of a lease from its keys.
    pub(super) fn update_use(&mut self, id: LeaseId) {
        let Some(lease) = self.known.get(&id) else { return };
        let mut groups = lease.keys.iter().map(|key| self.groups.of(key));
        let lease_use = match groups.next() {
            // Keys that are being written set the use when they are there.
            None if lease.reserved > 0 => return,
            None => LeaseUse::Free,
            Some(Some(first)) if groups.all(|other| other.as_ref() == Some(&first)) => LeaseUse::Of(first),
            Some(_) => LeaseUse::Mixed,
        };
        self.set_use(id, lease_use);
    }

    pub(super) fn set_use(&mut self, id: LeaseId, lease_use: LeaseUse) {
        if self.lease_use(id) != Some(&lease_use) {
            self.unfile(id);
            if let Some(lease) = self.known.get_mut(&id) {
                lease.usage = lease_use;
            }
        }
    }

    /// Removes a lease from the index of its use. Call before the use changes.
    pub(super) fn unfile(&mut self, id: LeaseId) {
        if let Some(lease) = self.known.get(&id)
            && let Entry::Occupied(mut roomy) = self.roomy.entry((lease.ttl, lease.usage.clone()))
        {
            roomy.get_mut().remove(&id);
            if roomy.get().is_empty() {
                roomy.remove();
            }
        }
    }

    /// Updates the indexes after the state, use or room of a lease has changed.
    pub(super) fn reindex(&mut self, id: LeaseId) {
        let room = self.room(id);
        let Some(lease) = self.known.get(&id) else { return };
        if lease.state == State::Open && !lease.denied && room > 0 && lease.usage != LeaseUse::Mixed {
            let roomy = self.roomy.entry((lease.ttl, lease.usage.clone())).or_default();
            roomy.insert(id);
            self.offered.insert(id);
        } else {
            self.unfile(id);
            self.offered.remove(&id);
        }
        let lease = &self.known[&id];
        file(&mut self.fresh, id, lease.state == State::Fresh);
        file(&mut self.unconfirmed, id, lease.state == State::Unconfirmed);
        file(&mut self.denied, id, lease.denied);
    }
}

fn file(list: &mut BTreeSet<LeaseId>, id: LeaseId, belongs: bool) {
    if belongs {
        list.insert(id);
    } else {
        list.remove(&id);
    }
}
