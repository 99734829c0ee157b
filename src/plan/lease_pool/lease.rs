//! One lease of the pool, and its state.

use std::collections::HashSet;
use std::time::Instant;

use super::LeaseUse;
use crate::model::{Expect, Key, Revision};

/// The state of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Granted, but not recorded yet. It takes no keys: after a crash no replica would know them to be ours.
    Fresh,
    /// Recorded; takes keys.
    Open,
    /// Recorded by a newer release in an unknown format. It is renewed and its keys stay, but it takes no more, and its
    /// record is not changed.
    Newer,
    /// Its record vanished, or it was reported as expired. The record must be confirmed before the lease takes keys
    /// again.
    Unconfirmed,
    /// Long empty: its record is being removed, and it takes no more keys.
    Retiring,
}

#[derive(Debug)]
pub(super) struct Lease {
    pub ttl: u32,
    pub state: State,
    pub usage: LeaseUse,
    /// etcd denies renewing it and putting keys on it.
    pub denied: bool,
    /// The keys that etcd holds on it.
    pub keys: HashSet<Key>,
    /// The number of keys being written to it.
    pub reserved: usize,
    /// The revision at which its record was last written, or found missing.
    pub record: Revision,
    /// A foreign value is under the key of its record.
    pub spoilt: bool,
    pub empty_since: Option<Instant>,
}

impl Lease {
    /// The guard for writing the record.
    pub fn record_guard(&self) -> Expect {
        if self.spoilt {
            Expect::At(self.record)
        } else {
            Expect::Absent
        }
    }
}
