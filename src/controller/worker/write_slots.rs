//! The write slots of transactions. The transactions of one slot are sent one after the other, and each refuses to be
//! applied a second time.
//!
//! A transaction that stays unanswered for a while is also sent to another etcd member. A member that hung may apply
//! the first copy long after the second. If a removal was written in between, the condition of a creation would hold
//! again, and the key would be recreated although no pod wants it any more. So every transaction writes a checkpoint to
//! its slot, and requires that the slot's checkpoint is unchanged since the transaction before it. The other copy has
//! changed it.

use crate::model::{Fence, Revision};

/// A slot in use, until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteSlot {
    /// Counted from zero.
    pub number: usize,
    /// The last revision at which a checkpoint may have been written to it.
    pub after: Revision,
}

/// The slots of one fence. Former leaders can write no checkpoint after the fence was won.
#[derive(Debug, Default)]
pub(super) struct WriteSlots {
    fence: Option<Fence>,
    count: usize,
    free: Vec<WriteSlot>,
}

impl WriteSlots {
    /// Takes a slot for a transaction under `fence`.
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

    /// Gives back the slot of a transaction that was sent under `fence` and has ended. `noted` is the revision at which
    /// a checkpoint was written to the slot, if it is known.
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
    use crate::model::LeaseId;

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
            "the outcome of the write is unknown"
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
