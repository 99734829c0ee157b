//! When a registration claimed a place: of two that want the same, or would get into each other's way, the earlier one
//! has it.

/// When a registration claimed a place, in milliseconds since 1970: the earlier of two comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Since {
    /// As the registration's status records it. What is recorded was carried out, and precedes what is not.
    Recorded(i64),
    /// The registration was there when this process started, and its status has no record: it counts from its creation.
    Created(i64),
    /// Asked for while this process watched, and not recorded yet.
    Asked(i64),
}

impl Since {
    /// Later than all others.
    pub const LAST: Self = Self::Asked(i64::MAX);

    /// The time that it stands for.
    pub fn millis(self) -> i64 {
        match self {
            Self::Recorded(millis) | Self::Created(millis) | Self::Asked(millis) => millis,
        }
    }
}
