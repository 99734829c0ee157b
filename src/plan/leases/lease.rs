//! One lease of the pool, and what is known of it.

use std::collections::HashSet;
use std::time::Instant;

use super::Home;
use crate::plan::transaction::{Expect, Key, Revision};

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Granted, but not recorded yet: no key may go on it, or it would be nobody's after a crash.
    Fresh,
    /// Recorded.
    Open,
    /// Recorded by a newer release, in a form that is not known here. It is renewed, its keys stay on it, it takes no
    /// others, and its record is left alone.
    Newer,
    /// Its record vanished, or it was reported as lapsed: its record must be confirmed before it takes keys again.
    Doubtful,
    /// Empty for long: its record is being removed, and no key goes on it any more.
    Retiring,
}

/// One lease.
#[derive(Debug)]
pub(super) struct Lease {
    pub ttl: u32,
    pub state: State,
    pub home: Home,
    /// etcd denies renewing it, and putting keys on it.
    pub denied: bool,
    /// The keys that etcd holds on it.
    pub keys: HashSet<Key>,
    /// Keys being written to it.
    pub reserved: usize,
    /// The revision at which its record was last written, or seen to be missing.
    pub record: Revision,
    /// Something else lies under its record's key.
    pub spoilt: bool,
    pub empty_since: Option<Instant>,
}

impl Lease {
    /// What is to be found under the record's key when the record is written.
    pub fn record_guard(&self) -> Expect {
        if self.spoilt {
            Expect::At(self.record)
        } else {
            Expect::Absent
        }
    }
}
