//! The tracks on which transactions go to etcd: those on one track go one after the other, and each refuses to be carried
//! out a second time.
//!
//! A transaction of which nothing is heard for a while is sent to another member too, and the first one may still be
//! carried out long after the second: by a member that hung. A removal that was written meanwhile would make the guard of
//! a creation hold again, and the key would come back that nobody wants any more. So every transaction leaves its note on
//! its track, and demands that nobody has left one there since the transaction before it: its own copy has.

use crate::plan::{Fence, Revision};

/// A track that has been taken, until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteSlot {
    /// Its number, counted from zero.
    pub number: usize,
    /// The last revision at which a note may have been left on it.
    pub after: Revision,
}

/// The tracks of one proof of leadership. Those who led before can leave no note after it was won.
#[derive(Debug, Default)]
pub(super) struct WriteSlots {
    fence: Option<Fence>,
    /// How many there are.
    count: usize,
    free: Vec<WriteSlot>,
}

impl WriteSlots {
    /// Takes one for a transaction under `fence`.
    pub fn take(&mut self, fence: &Fence) -> WriteSlot {
        if self.fence.as_ref() != Some(fence) {
            *self = Self {
                fence: Some(fence.clone()),
                ..Self::default()
            };
        }
        self.free.pop().unwrap_or_else(|| {
            self.count += 1;
            WriteSlot {
                number: self.count - 1,
                after: fence.create_revision,
            }
        })
    }

    /// The transaction has ended that was sent under `fence`; `noted` is when a note was left on its track, if that is
    /// known.
    pub fn give_back(&mut self, fence: &Fence, track: WriteSlot, noted: Option<Revision>) {
        if self.fence.as_ref() == Some(fence) {
            let after = noted.unwrap_or(track.after);
            self.free.push(WriteSlot { after, ..track });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::LeaseId;

    fn fence(create_revision: Revision) -> Fence {
        Fence {
            key: "/leasehold/c1/leader".into(),
            create_revision,
            lease: LeaseId(create_revision),
        }
    }

    fn track(number: usize, after: Revision) -> WriteSlot {
        WriteSlot { number, after }
    }

    #[test]
    fn a_track_carries_one_transaction_at_a_time_and_knows_when_the_last_one_was_written() {
        let mut tracks = WriteSlots::default();
        let (first, second) = (tracks.take(&fence(7)), tracks.take(&fence(7)));
        assert_eq!((first, second), (track(0, 7), track(1, 7)));
        tracks.give_back(&fence(7), first, Some(9));
        assert_eq!(tracks.take(&fence(7)), track(0, 9));
        tracks.give_back(&fence(7), second, None);
        assert_eq!(
            tracks.take(&fence(7)),
            track(1, 7),
            "whether it was written is not known"
        );
    }

    #[test]
    fn a_new_proof_begins_anew_and_what_ends_under_the_old_one_says_nothing() {
        let mut tracks = WriteSlots::default();
        let old = tracks.take(&fence(7));
        assert_eq!(tracks.take(&fence(20)), track(0, 20));
        tracks.give_back(&fence(7), old, Some(9));
        assert_eq!(tracks.take(&fence(20)), track(1, 20));
    }
}
