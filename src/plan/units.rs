//! Units: keys that make sense only together, such as a server's url and its weight. They are written together and
//! removed together. If one of them belongs to a foreign client or to another pod, the unit is not registered at all.
//!
//! The keys of a unit are in one transaction, and each operation depends on the guards of all. A key that is as desired
//! is not written, only checked.

use std::sync::Arc;

use super::actions::Decision;
use super::desired::DesiredPod;
use super::key_table::KeyState;
use super::lease_pool::Fit;
use super::planner::Planner;
use crate::model::{Expect, Key, LeaseId, Revision, Transaction};

/// Decisions that are carried out together or not at all.
pub(super) type Group = Vec<(Key, Decision)>;

/// The maximum number of keys in a folder whose unclaimed keys are removed together. Their former units are not known
/// any more.
const FOLDER: usize = 8;

/// The maximum size of an operation without its keys and its value, in bytes.
const OPERATION: usize = 80;
/// The maximum size of a guard without its key, in bytes.
const GUARD: usize = 24;

/// The state of one key of a unit.
enum Stand {
    /// Its unit must not be changed before more is known.
    Unsure,
    /// The key is as desired.
    Right(Revision),
    /// The key must be written.
    Wrong(Decision),
    /// A foreign key, on this lease.
    Taken(Revision, LeaseId),
    /// Another registration or another pod has the first claim.
    Behind,
}

/// Returns the units of more than one key in `desired`.
pub(super) fn units_of(desired: &DesiredPod) -> Vec<Arc<[Key]>> {
    let previous = desired.previous.iter().flat_map(|previous| previous.groups());
    let units = desired.groups().chain(previous).filter(|group| group.len() > 1);
    units
        .map(|unit| unit.iter().map(|record| record.key.clone()).collect())
        .collect()
}

impl Planner {
    /// Decides about a unit. Empty if all keys are as desired, or if more must be known first.
    pub(super) fn decide_unit(&self, keys: &[Key], mine: impl Fn(&Key) -> bool) -> Group {
        let is_wanted = keys.iter().any(|key| self.keys.first_claim(key).is_some() && mine(key));
        if !is_wanted {
            return self.removal(keys);
        }
        let stands: Vec<(&Key, Stand)> = keys.iter().map(|key| (key, self.stand(key, mine(key)))).collect();
        if stands.iter().any(|(_, stand)| matches!(stand, Stand::Unsure)) {
            return Group::new();
        }
        if stands
            .iter()
            .any(|(_, stand)| matches!(stand, Stand::Taken(..) | Stand::Behind))
        {
            return self.withdrawal(&stands);
        }
        if stands.iter().all(|(_, stand)| matches!(stand, Stand::Right(_))) {
            return Group::new();
        }
        let decision = |(key, stand): (&Key, Stand)| match stand {
            Stand::Wrong(decision) => Some((key.clone(), decision)),
            Stand::Right(revision) => Some((key.clone(), Decision::Check(Expect::At(revision)))),
            Stand::Unsure | Stand::Taken(..) | Stand::Behind => None,
        };
        stands.into_iter().filter_map(decision).collect()
    }

    /// Removes our keys of a unit that cannot be registered as a whole. The transaction also checks that the foreign
    /// keys are unchanged and that their leases are not recorded as ours, because a record may be newer than the
    /// planner's state.
    fn withdrawal(&self, stands: &[(&Key, Stand)]) -> Group {
        let mut group = Group::new();
        for (key, stand) in stands {
            match stand {
                Stand::Right(revision)
                | Stand::Wrong(Decision::Put {
                    expect: Expect::At(revision),
                    ..
                }) => {
                    group.push(((*key).clone(), Decision::Remove(*revision)));
                }
                _ => {}
            }
        }
        if group.is_empty() {
            return group;
        }
        for (key, stand) in stands {
            if let Stand::Taken(revision, lease) = stand {
                group.push(((*key).clone(), Decision::Check(Expect::At(*revision))));
                if *lease != LeaseId::NONE {
                    group.push((self.meta.record_key(*lease), Decision::Check(Expect::Absent)));
                }
            }
        }
        group
    }

    /// Removes those of `keys` that are ours and unclaimed. Empty if one of them must stay for now.
    fn removal(&self, keys: &[Key]) -> Group {
        let mut group = Group::new();
        for key in keys {
            let Some(state) = self.keys.get(key).filter(|state| state.is_unclaimed()) else {
                continue;
            };
            match self.decide_key(key, state) {
                Decision::Leave if state.is_ours(&self.leases) => return Group::new(),
                Decision::Leave => {}
                decision => group.push((key.clone(), decision)),
            }
        }
        group
    }

    fn stand(&self, key: &Key, mine: bool) -> Stand {
        let Some(state) = self.keys.get(key) else {
            return Stand::Unsure;
        };
        if !mine {
            return Stand::Behind;
        }
        match (self.decide_key(key, state), &state.held) {
            (Decision::Leave, None) => Stand::Unsure,
            (Decision::Leave, Some(held)) if state.is_ours(&self.leases) => {
                let ttl = state
                    .claims
                    .first()
                    .map_or(0, |claim| self.registrations.ttl_of(&claim.registration));
                match self.leases.fit(held.lease, ttl) {
                    Fit::Stays => Stand::Right(held.mod_revision),
                    Fit::Moves | Fit::Unconfirmed => Stand::Unsure,
                }
            }
            (Decision::Leave, Some(held)) => Stand::Taken(held.mod_revision, held.lease),
            (decision, _) => Stand::Wrong(decision),
        }
    }

    /// Returns `key`, which no pod claims, and the keys that are removed with it: the unclaimed keys of its unit. The
    /// units of keys that a previous leader wrote are not known. For those, returns the removable keys of the same
    /// folder, if the folder is small.
    pub(super) fn leftover_with(&self, key: &Key) -> Vec<Key> {
        if self.keys.get(key).is_none_or(|state| state.unit().is_some()) {
            return self.keys.dropped_with(key);
        }
        let folder = &key[..key.rfind('/').map_or(0, |slash| slash + 1)];
        let near: Vec<(&Key, &KeyState)> = self.keys.below(folder).take(FOLDER + 1).collect();
        if near.len() > FOLDER {
            return vec![key.clone()];
        }
        let goes = |(other, state): &&(&Key, &KeyState)| {
            let free = || state.in_flight().is_none() && state.unit().is_none() && !self.registrations.is_frozen(other);
            let is_removable = || matches!(self.decide_key(other, state), Decision::Remove(_));
            *other == key || state.is_unclaimed() && free() && is_removable()
        };
        near.iter().filter(goes).map(|(other, _)| (*other).clone()).collect()
    }
}

/// Returns how many of `groups` fit into the transaction beside `gathered`, and their size in bytes. The transaction
/// may have `max_ops` operations, these groups may have `capacity` operations and `limit` bytes. If nothing is gathered
/// yet, at least one group fits: no unit has more operations than a transaction may have.
pub(super) fn fitting(
    groups: &[Group],
    gathered: &Transaction,
    (max_ops, capacity): (usize, usize),
    limit: usize,
) -> (usize, usize) {
    let alone = gathered.ops.is_empty();
    let mut widest = gathered.units.iter().map(ExactSizeIterator::len).max().unwrap_or(1);
    let (mut part, mut ops, mut bytes) = (0, 0, 0);
    for group in groups {
        widest = widest.max(group.len());
        ops += group.len();
        let size = size_of(group);
        // The guards of the largest unit count in addition to the operations: see `Transaction::MAX_OPS`.
        let fits = gathered.ops.len() + ops + widest <= max_ops + 1 && ops <= capacity && bytes + size <= limit;
        let is_first = alone && part == 0;
        if !fits && !is_first {
            break;
        }
        part += 1;
        bytes += size;
    }
    (part, bytes)
}

/// Returns an upper bound for the size of the request that carries out `group`, in bytes.
pub(super) fn size_of(group: &Group) -> usize {
    request_size(group.iter().map(|(key, decision)| match decision {
        Decision::Put { value, .. } => (key, value.len()),
        Decision::Leave | Decision::Remove(_) | Decision::Check(_) => (key, 0),
    }))
}

/// Returns an upper bound for the size of a request with one unit, in bytes, from its keys and the lengths of its
/// values. Each operation names its key twice and carries the guards of the whole unit.
pub(super) fn request_size<'a>(records: impl Iterator<Item = (&'a Key, usize)>) -> usize {
    let (mut count, mut keys, mut values) = (0, 0, 0);
    for (key, value) in records {
        count += 1;
        keys += key.len();
        values += value;
    }
    values + keys * (2 + count) + count * (OPERATION + count * GUARD)
}
