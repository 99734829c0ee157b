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
    pub fn give_back(&mut self, fence: &Fence, slot: WriteSlot, noted: Option<Revision>) {
        if self.fence.as_ref() == Some(fence) {
            let after = noted.unwrap_or(slot.after);
            self.free.push(WriteSlot { after, ..slot });
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

    fn slot(number: usize, after: Revision) -> WriteSlot {
        WriteSlot { number, after }
    }

    #[test]
    fn write_slot_carries_one_transaction_and_keeps_its_last_revision() {
        let mut slots = WriteSlots::default();
        let (first, second) = (slots.take(&fence(7)), slots.take(&fence(7)));
        assert_eq!((first, second), (slot(0, 7), slot(1, 7)));
        slots.give_back(&fence(7), first, Some(9));
        assert_eq!(slots.take(&fence(7)), slot(0, 9));
        slots.give_back(&fence(7), second, None);
        assert_eq!(slots.take(&fence(7)), slot(1, 7), "the outcome of the write is unknown");
    }

    #[test]
    fn new_fence_resets_write_slots_and_ignores_results_of_the_old_one() {
        let mut slots = WriteSlots::default();
        let old = slots.take(&fence(7));
        assert_eq!(slots.take(&fence(20)), slot(0, 20));
        slots.give_back(&fence(7), old, Some(9));
        assert_eq!(slots.take(&fence(20)), slot(1, 20));
    }
}
