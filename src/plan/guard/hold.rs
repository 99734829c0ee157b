//! A hold: the removals that are held back, when the hold ends, and the part that is recorded in etcd.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoints::distinct;
use super::{Cause, Removal};
use crate::model::{Key, LeaseId, Prefix, RegistrationRef, Revision, elements_below};
use crate::plan::meta::HoldRecord;

/// How long a loss must have been within the limit before a hold ends. Pods come back one after the other; without the
/// delay, the last ones would lose their keys just before they return.
pub(super) const RECOVERY: Duration = Duration::from_secs(10);

/// One moment on two clocks: the monotonic clock of this process, and wall-clock time, which other processes share.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic.
    pub now: Instant,
    /// Time since 1970.
    pub unix: Duration,
}

/// Removals that are held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Identifies the hold. An approval names it.
    pub id: String,
    /// When the hold expires.
    pub until: Instant,
    /// The same, in seconds since 1970.
    pub until_unix: u64,
    /// Since when the loss has been within the limit, because enough pods are back.
    pub(super) recovered: Option<Instant>,
    /// How many endpoints would have been lost when the hold began, including those already lost.
    pub lost: usize,
    /// How many endpoints there were before the loss.
    pub of: usize,
    /// How many of the lost endpoints had no held key when the hold began.
    pub(super) released: usize,
    /// The removals held.
    pub(super) keys: HeldKeys,
    /// The namespaces whose removals are held; none if those of all are.
    pub(super) namespaces: Option<BTreeSet<Arc<str>>>,
    /// Whether the hold takes in further removals by edits only.
    pub(super) edits_only: bool,
    /// Another process began the hold. That process may have known of pods that this one has not listed yet.
    pub(super) adopted: bool,
}

impl Hold {
    /// Returns the part that is recorded in etcd.
    pub(in crate::plan) fn record(&self) -> HoldRecord {
        HoldRecord {
            id: self.id.clone(),
            until: self.until_unix,
            lost: self.lost,
            of: self.of,
            released: self.released,
            endpoints: true,
            namespaces: self.namespaces.as_ref().map(|names| names.iter().cloned().collect()),
            edits: self.edits_only,
        }
    }

    /// Moves the removals that the hold concerns from `fresh` into it. They include those of unknown namespaces, which a
    /// predecessor may have held.
    pub(super) fn take_in(&mut self, fresh: &mut BTreeMap<Key, Removal>) {
        let (names, edits_only) = (self.namespaces.as_ref(), self.edits_only);
        let is_concerned =
            |namespace: &Arc<str>| namespace.is_empty() || names.is_none_or(|names| names.contains(namespace));
        let is_held =
            |removal: &Removal| (!edits_only || removal.cause == Cause::Edit) && is_concerned(removal.work.namespace());
        for (key, removal) in fresh.extract_if(.., |_, removal| is_held(removal)) {
            self.keys.insert(key, removal);
        }
    }

    /// Whether the hold takes in every further removal.
    pub(super) fn takes_in_all(&self) -> bool {
        self.namespaces.is_none() && !self.edits_only
    }

    /// Whether the hold began because of edits, and takes in further removals by edits only.
    pub fn is_of_edits(&self) -> bool {
        self.edits_only
    }

    /// Returns the number of namespaces to which the hold is limited, none if it is not.
    pub fn namespace_count(&self) -> Option<usize> {
        self.namespaces.as_ref().map(BTreeSet::len)
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.by_key.keys()
    }

    /// Counts the keys of `registration`, and those below `prefixes` of which the registration is not known.
    pub(in crate::plan) fn count_of<'a>(
        &self,
        registration: &RegistrationRef,
        prefixes: impl Iterator<Item = &'a Prefix>,
    ) -> usize {
        let unknown: usize = prefixes.map(|prefix| self.keys.unknown_in(prefix)).sum();
        unknown + self.keys.by_registration.get(registration).copied().unwrap_or_default()
    }

    /// Whether the loss has been within the limit for [`RECOVERY`].
    pub(super) fn has_recovered(&self, now: Instant) -> bool {
        self.recovered.is_some_and(|since| now >= since + RECOVERY)
    }

    pub fn len(&self) -> usize {
        self.keys.by_key.len()
    }

    /// The number of endpoints that have lost keys or would, also by what the hold has taken in since it began.
    pub fn lost_so_far(&self) -> usize {
        self.released + self.keys.endpoints()
    }

    /// Returns when the hold must be decided again.
    pub fn wake_at(&self) -> Instant {
        let recovers = self.recovered.map(|since| since + RECOVERY);
        recovers.map_or(self.until, |at| at.min(self.until))
    }

    pub fn is_empty(&self) -> bool {
        self.keys.by_key.is_empty()
    }
}

/// The removals of a hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldKeys {
    by_key: BTreeMap<Key, Removal>,
    /// The keys of which the registration is not known.
    unknown: BTreeSet<Key>,
    /// The number of keys of each other registration.
    by_registration: HashMap<RegistrationRef, usize>,
}

impl HeldKeys {
    pub fn get(&self, key: &str) -> Option<&Removal> {
        self.by_key.get(key)
    }

    fn insert(&mut self, key: Key, removal: Removal) {
        match removal.work.owner() {
            Some(registration) => *self.by_registration.entry(registration).or_default() += 1,
            None => drop(self.unknown.insert(key.clone())),
        }
        self.by_key.insert(key, removal);
    }

    pub fn remove(&mut self, key: &Key) -> Option<Removal> {
        let removal = self.by_key.remove(key)?;
        match removal.work.owner() {
            Some(registration) => {
                if let Entry::Occupied(mut count) = self.by_registration.entry(registration) {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
            None => drop(self.unknown.remove(key)),
        }
        Some(removal)
    }

    pub fn into_removals(self) -> BTreeMap<Key, Removal> {
        self.by_key
    }

    /// Returns the number of endpoints that would lose the keys.
    pub fn endpoints(&self) -> usize {
        distinct(&self.by_key).len()
    }

    fn unknown_in(&self, prefix: &Prefix) -> usize {
        elements_below(&self.unknown, prefix.as_str()).count()
    }
}

/// A decision of the guard that is to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardEvent {
    /// A hold has begun.
    Held,
    /// A hold of another process was adopted.
    Resumed,
    /// A hold that concerns more namespaces has taken the place of the former one, because they would have lost too many
    /// endpoints as well.
    Widened,
    /// The loss exceeds the limit, and the keys are released nevertheless
    /// ([`GuardMode::Warn`](super::GuardMode::Warn)).
    Warned {
        lost: usize,
        /// How many endpoints there were before.
        of: usize,
    },
    /// A hold has ended.
    Released {
        id: String,
        /// How many keys were released.
        keys: usize,
        why: Release,
    },
}

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The loss has been within the limit for a while: enough pods are back, or their removal was confirmed.
    Resolved,
    /// The hold reached its end time.
    Expired,
    /// A user approved the hold.
    Approved,
    /// The guard was switched off, or only warns now.
    Unguarded,
}

/// The record of a hold in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) struct Recorded {
    /// The decoded record, none if the value is invalid.
    pub hold: Option<HoldRecord>,
    pub lease: LeaseId,
    pub mod_revision: Revision,
}
