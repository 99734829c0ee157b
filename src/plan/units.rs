//! Keys that make sense together only, such as a server's url and its weight: they are written as one and removed as
//! one, and where one of them is somebody else's, none is there.
//!
//! The keys of a unit go into one transaction, and each depends on the guards of all. A key that is as it should be is
//! not written, but checked.

use std::ops::Bound;
use std::sync::Arc;

use super::actions::Decision;
use super::desired::DesiredPod;
use super::leases::Fit;
use super::planner::{KeyState, Planner};
use crate::model::{Expect, Key, LeaseId, Revision, Transaction};

/// What is to happen together or not at all.
pub(super) type Group = Vec<(Key, Decision)>;

/// Unclaimed keys of one folder are removed as one when they are so few: what they once were is not known any more.
const FOLDER: usize = 8;

/// The bytes of an operation beside its keys and its value, at most.
const OPERATION: usize = 80;
/// The bytes of a guard beside its key, at most.
const GUARD: usize = 24;

/// How a key of a unit stands.
enum Stand {
    /// Its unit is not to be touched before more is known.
    Unsure,
    /// It is as it should be.
    Right(Revision),
    /// It is to be written.
    Wrong(Decision),
    /// Somebody else has it, on this lease.
    Taken(Revision, LeaseId),
    /// Another registration, or another pod, comes first.
    Behind,
}

/// The units of more than one key that `desired` asks for.
pub(super) fn units_of(desired: &DesiredPod) -> Vec<Arc<[Key]>> {
    let previous = desired.previous.iter().flat_map(|previous| previous.groups());
    let units = desired.groups().chain(previous).filter(|group| group.len() > 1);
    units
        .map(|unit| unit.iter().map(|record| record.key.clone()).collect())
        .collect()
}

impl Planner {
    /// Takes note of which of the keys just claimed belong to one another.
    pub(super) fn note_units(&mut self, units: Vec<Arc<[Key]>>) {
        for unit in units {
            for key in &*unit {
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.unit = Some(unit.clone());
                }
            }
        }
    }

    /// What is to be done about a unit; nothing where all is as it should be, or not known.
    pub(super) fn decide_unit(&self, keys: &[Key], mine: impl Fn(&Key) -> bool) -> Group {
        let is_wanted = keys.iter().any(|key| {
            self.slots
                .get(key)
                .is_some_and(|slot| !slot.claims.is_empty() && mine(key))
        });
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

    /// Takes away what is ours of a unit that cannot be had as a whole, as long as that is so: the leases of those in the
    /// way must still not be recorded as ours when it happens, for a record may be newer than what is known here.
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

    /// Removes all that is ours and unclaimed of `keys`, unless some of it must stay for now.
    fn removal(&self, keys: &[Key]) -> Group {
        let mut group = Group::new();
        for key in keys {
            let Some(slot) = self.slots.get(key).filter(|slot| slot.claims.is_empty()) else {
                continue;
            };
            match self.decide_key(key, slot) {
                Decision::Leave if slot.held.is_some() && self.is_ours(slot) => return Group::new(),
                Decision::Leave => {}
                decision => group.push((key.clone(), decision)),
            }
        }
        group
    }

    fn stand(&self, key: &Key, mine: bool) -> Stand {
        let Some(slot) = self.slots.get(key) else {
            return Stand::Unsure;
        };
        if !mine {
            return Stand::Behind;
        }
        match (self.decide_key(key, slot), &slot.held) {
            (Decision::Leave, None) => Stand::Unsure,
            (Decision::Leave, Some(held)) if self.is_ours(slot) => {
                let ttl = slot.claims.first().map_or(0, |claim| self.ttl_of(&claim.registration));
                match self.leases.fit(held.lease, ttl) {
                    Fit::Stays => Stand::Right(held.mod_revision),
                    Fit::Moves | Fit::InDoubt => Stand::Unsure,
                }
            }
            (Decision::Leave, Some(held)) => Stand::Taken(held.mod_revision, held.lease),
            (decision, _) => Stand::Wrong(decision),
        }
    }

    /// `key`, which is claimed by nobody any more, with those that go with it.
    pub(super) fn dropped_with(&self, key: Key) -> Vec<Key> {
        let unit = self.slots.get(&key).and_then(|slot| slot.unit.as_ref());
        let goes = |other: &&Key| **other == key || self.slots.get(*other).is_some_and(is_leftover);
        match unit {
            Some(unit) => unit.iter().filter(goes).cloned().collect(),
            None => vec![key],
        }
    }

    /// `key`, which nobody claims, with those that go with it. What a predecessor left is not known by its units: there it
    /// is the few others of its folder.
    pub(super) fn leftover_with(&self, key: &Key) -> Vec<Key> {
        if self.slots.get(key).is_none_or(|slot| slot.unit.is_some()) {
            return self.dropped_with(key.clone());
        }
        let folder = &key[..key.rfind('/').map_or(0, |slash| slash + 1)];
        let from = (Bound::Included(folder), Bound::Unbounded);
        let inside = self
            .slots
            .range::<str, _>(from)
            .take_while(|(other, _)| other.starts_with(folder));
        let near: Vec<(&Key, &KeyState)> = inside.take(FOLDER + 1).collect();
        if near.len() > FOLDER {
            return vec![key.clone()];
        }
        let goes = |(other, slot): &&(&Key, &KeyState)| {
            let free = || slot.in_flight.is_none() && slot.unit.is_none() && !self.is_frozen(other);
            *other == key || is_leftover(slot) && free() && matches!(self.decide_key(other, slot), Decision::Remove(_))
        };
        near.iter().filter(goes).map(|(other, _)| (*other).clone()).collect()
    }
}

fn is_leftover(slot: &KeyState) -> bool {
    slot.claims.is_empty()
}

/// How many of `groups` fit beside what is `gathered` into `max_ops` ops, of which one work may have `capacity`, and into
/// `limit` bytes; and how many bytes these have. At least one does where nothing is gathered yet: no unit is larger than
/// a transaction may be.
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
        // The largest unit's guards count beside the ops: see `Transaction::MAX_OPS`.
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

/// The bytes of the request that carries out `group`.
pub(super) fn size_of(group: &Group) -> usize {
    request_size(group.iter().map(|(key, decision)| match decision {
        Decision::Put { value, .. } => (key, value.len()),
        Decision::Leave | Decision::Remove(_) | Decision::Check(_) => (key, 0),
    }))
}

/// An upper bound for the bytes of a request with one unit of these keys and lengths of values: each operation names its
/// key twice and carries the guards of the whole unit.
pub(super) fn request_size<'a>(records: impl Iterator<Item = (&'a Key, usize)>) -> usize {
    let (mut count, mut keys, mut values) = (0, 0, 0);
    for (key, value) in records {
        count += 1;
        keys += key.len();
        values += value;
    }
    values + keys * (2 + count) + count * (OPERATION + count * GUARD)
}
