//! Chooses the leases for the keys of one work item: keys of one lease group are put on one lease, if possible.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::actions::Decision;
use super::lease_groups::{LeaseGroup, LeaseGroups};
use super::lease_pool::{LeasePool, NeededRoom};
use super::planner::Planner;
use super::work::Work;
use crate::model::{Key, LeaseId, Op, Prefix, RegistrationRef};

/// Writes with their leases, and the room reserved there for keys that are new on the lease.
pub(super) type Placed = (Vec<Op>, Vec<(Key, LeaseId)>);

/// No lease of this time to live has the room.
pub(super) struct Unplaced {
    pub ttl: u32,
    pub lacking: NeededRoom,
}

/// Those of `prefixes` whose lease group is not known.
pub(super) fn ungrouped<'a>(
    leases: &LeasePool,
    prefixes: impl Iterator<Item = &'a Prefix>,
) -> impl Iterator<Item = Prefix> {
    prefixes
        .filter(|prefix| leases.group_of(prefix.as_str()).is_none())
        .cloned()
}

impl Planner {
    /// Chooses leases for the puts among `decisions`, one for all keys of a lease group, and reserves room there.
    pub(super) fn place(
        &mut self,
        work: &Work,
        decisions: impl Iterator<Item = (Key, Decision)>,
    ) -> Result<Placed, Unplaced> {
        let decisions: Vec<(Key, Decision)> = decisions.collect();
        let mut unplaced: BTreeMap<LeaseGroup, Vec<Key>> = BTreeMap::new();
        for (key, decision) in &decisions {
            if let Decision::Put { stay: None, .. } = decision
                && let Some(group) = self.leases.group_of(key)
            {
                unplaced.entry(group).or_default().push(key.clone());
            }
        }
        let mut placements: HashMap<Key, LeaseId> = HashMap::new();
        let mut reserved: Vec<(Key, LeaseId)> = Vec::new();
        if let Work::Pod(registration, pod) = work {
            let ttl = self.registrations.ttl_of(registration);
            let needed: Vec<NeededRoom> = unplaced
                .iter()
                .map(|(group, keys)| NeededRoom {
                    group: group.clone(),
                    keys: keys.len(),
                    prefer: self.lease_of_siblings(registration, pod, group),
                })
                .collect();
            let leases = self.leases.reserve(ttl, &needed).map_err(|lacking| Unplaced {
                ttl,
                lacking: lacking.clone(),
            })?;
            for (keys, lease) in unplaced.into_values().zip(leases) {
                placements.extend(keys.iter().map(|key| (key.clone(), lease)));
                reserved.extend(keys.into_iter().map(|key| (key, lease)));
            }
        }
        let ops = decisions.into_iter().map(|(key, decision)| match decision {
            Decision::Put { value, expect, stay } => Op::Put {
                lease: stay
                    .or_else(|| placements.get(&key).copied())
                    .expect("room was reserved for every homeless key"),
                key,
                value,
                expect,
            },
            Decision::Remove(mod_revision) => Op::Delete { key, mod_revision },
            Decision::Check(expect) => Op::Check { key, expect },
            Decision::Leave => unreachable!("what is left alone is not planned"),
        });
        Ok((ops.collect(), reserved))
    }

    /// The lease that carries other keys of the same pod and lease group: they should expire together.
    fn lease_of_siblings(&self, registration: &RegistrationRef, pod: &Arc<str>, group: &LeaseGroup) -> Option<LeaseId> {
        let desired = self.registrations.desired(registration, pod)?;
        let is_in_group = |key: &&Key| self.leases.group_of(key).as_ref() == Some(group);
        let mut keys = desired.records().map(|record| &record.key).filter(is_in_group);
        keys.find_map(|key| self.our_lease(key))
    }

    /// Requires lease groups from now on. A key is not placed until its group is known.
    pub fn await_lease_groups(&mut self) {
        self.set_lease_groups(LeaseGroups::default());
    }

    /// The lease groups known so far.
    pub fn lease_groups(&self) -> &LeaseGroups {
        self.leases.groups()
    }

    /// Replaces the lease groups. Keys stay on their leases.
    pub fn set_lease_groups(&mut self, groups: LeaseGroups) {
        self.leases.set_groups(groups);
        self.queue_grouped();
        let prefixes = self.registrations.prefixes();
        self.prefixes.add_ungrouped(ungrouped(&self.leases, prefixes));
    }

    /// Adds the lease groups of prefixes whose group was not known.
    pub fn add_lease_groups(&mut self, groups: LeaseGroups) {
        self.leases.add_groups(groups);
        self.queue_grouped();
    }

    /// Forgets the lease group of exactly `folder`, because its permissions may have changed.
    pub(super) fn forget_lease_group(&mut self, folder: &Prefix) {
        self.leases.forget_group(folder);
        let prefixes = self.registrations.prefixes_inside(folder);
        self.prefixes.add_ungrouped(ungrouped(&self.leases, prefixes));
    }

    /// Queues the keys that have waited until the lease group of their prefix was known.
    fn queue_grouped(&mut self) {
        let leases = &self.leases;
        let grouped = self.prefixes.take_grouped(|prefix| leases.group_of(prefix).is_some());
        let keys: Vec<Key> = grouped.iter().flat_map(|prefix| self.keys.keys_in(prefix)).collect();
        let leases: BTreeSet<LeaseId> = keys.iter().filter_map(|key| self.our_lease(key)).collect();
        for lease in leases {
            self.leases.regroup(lease);
        }
        for key in keys {
            self.enqueue(&key);
        }
    }

    /// The prefixes of all registrations.
    pub fn data_prefixes(&self) -> BTreeSet<Prefix> {
        self.registrations.prefixes().cloned().collect()
    }

    /// The key under which `lease` is recorded.
    pub fn record_key(&self, lease: LeaseId) -> Key {
        self.meta.record_key(lease)
    }

    /// The prefixes of registrations whose lease group is not known yet.
    pub fn prefixes_without_lease_group(&self) -> &BTreeSet<Prefix> {
        self.prefixes.without_group()
    }
}
