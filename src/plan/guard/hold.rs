//! A hold: removals that are held back, when that ends, and what of it outlives the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::plan::meta::HoldRecord;
use crate::plan::transaction::{Key, LeaseId, Prefix, Revision};
use crate::plan::work::Work;

/// How long a loss must have been within the limit for a hold to end: pods come back one after the other, and those
/// that come last would have their keys removed just before they do.
pub(super) const RECOVERY: Duration = Duration::from_secs(10);

/// One moment by both clocks: the one that never jumps, and the one that other processes have, too.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock of this process.
    pub now: Instant,
    /// Since 1970.
    pub unix: Duration,
}

/// Removals that are held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Names it: who approves of it says which.
    pub id: String,
    /// When it ends by itself if nothing happens.
    pub until: Instant,
    /// The same in seconds since 1970.
    pub until_unix: u64,
    /// Since when so many pods are back that what is left is within the limit.
    pub(super) recovered: Option<Instant>,
    /// How many keys would have gone when it began, those that had gone already included.
    pub lost: usize,
    /// How many keys there were before.
    pub of: usize,
    /// The keys held, each with what is to be looked at when it is released.
    pub(super) keys: BTreeMap<Key, Work>,
    /// It was begun by another process, which may have known of pods that this one has not heard of yet.
    pub(super) adopted: bool,
}

impl Hold {
    /// What of it outlives the process.
    pub(in crate::plan) fn record(&self) -> HoldRecord {
        HoldRecord {
            id: self.id.clone(),
            until: self.until_unix,
            lost: self.lost,
            of: self.of,
        }
    }

    /// The keys held.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.keys()
    }

    pub(super) fn keys_in<'a>(&'a self, scope: &'a Prefix) -> impl Iterator<Item = (&'a Key, &'a Work)> {
        let from = (Bound::Included(scope.prefix()), Bound::Unbounded);
        let behind = self.keys.range::<str, _>(from);
        behind.take_while(|(key, _)| scope.contains(key))
    }

    /// What is left of the loss has been within the limit for long enough.
    pub(super) fn has_recovered(&self, now: Instant) -> bool {
        self.recovered.is_some_and(|since| now >= since + RECOVERY)
    }

    /// How many keys are held.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// When to decide about it again.
    pub fn wake_at(&self) -> Instant {
        let recovers = self.recovered.map(|since| since + RECOVERY);
        recovers.map_or(self.until, |at| at.min(self.until))
    }

    /// Whether none is held any more.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// What the guard has decided that somebody should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardEvent {
    /// A hold has begun.
    Held,
    /// A hold that another process began goes on.
    Resumed,
    /// The limit was passed, and the keys are let go nevertheless.
    Warned {
        /// How many keys go.
        lost: usize,
        /// How many there were.
        of: usize,
    },
    /// A hold has ended.
    Released {
        /// Its id.
        id: String,
        /// How many keys go now.
        keys: usize,
        /// Why it has ended.
        why: Release,
    },
}

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// So many pods are back, or really gone, that what is left has been within the limit for a while.
    Resolved,
    /// Its time has passed.
    Expired,
    /// Somebody approved.
    Approved,
    /// The guard no longer holds anything.
    Unguarded,
}

/// The record of a hold as etcd holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) struct Recorded {
    /// What it says; none if that makes no sense.
    pub hold: Option<HoldRecord>,
    /// The lease it is on.
    pub lease: LeaseId,
    /// When it was written.
    pub mod_revision: Revision,
}
