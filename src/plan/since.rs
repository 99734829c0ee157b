//! When a registration claimed a prefix. Of two registrations that claim the same prefix, or would conflict, the
//! earlier one has it.

/// When a registration claimed a prefix, in milliseconds since 1970. Ordered by variant, then by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Since {
    /// Recorded in the registration's status. A recorded claim was carried out and precedes all others.
    Recorded(i64),
    /// The registration existed when this process started and its status has no record: its creation time counts.
    Created(i64),
    /// Claimed while this process was watching, and not recorded yet.
    Asked(i64),
}

impl Since {
    /// Later than all others.
    pub const LAST: Self = Self::Asked(i64::MAX);

    pub fn millis(self) -> i64 {
        match self {
            Self::Recorded(millis) | Self::Created(millis) | Self::Asked(millis) => millis,
        }
    }
}
