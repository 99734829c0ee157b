//! Limits the callers that wait for a judgement, in total and per address, because each of them holds a connection.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Counts;

/// The maximum number of waiting callers.
pub(super) const ALL: usize = 32;
/// The maximum number of waiting callers per address.
pub(super) const OF_ONE: usize = 8;

/// The number of waiting callers by address.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Counts<IpAddr>>);

/// The slot of one waiting caller. Dropping it frees the slot.
pub(super) struct WaitingSlot<'a> {
    waiting: &'a Waiting,
    address: IpAddr,
}

impl Waiting {
    /// Takes a slot for a caller from `address`. `None` if too many callers wait.
    pub(super) fn take(&self, address: IpAddr) -> Option<WaitingSlot<'_>> {
        let mut by_address = self.by_address();
        if by_address.total() >= ALL || by_address.of(&address) >= OF_ONE {
            return None;
        }
        by_address.add(address);
        Some(WaitingSlot { waiting: self, address })
    }

    fn by_address(&self) -> MutexGuard<'_, Counts<IpAddr>> {
        // No code that holds the lock can panic between two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitingSlot<'_> {
    fn drop(&mut self) {
        self.waiting.by_address().remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn waiting_slots_are_limited_in_total_and_per_address() {
        let waiting = Waiting::default();
        let mut places: Vec<_> = (0..OF_ONE).map(|_| waiting.take(address(1)).expect("a slot")).collect();
        assert!(
            waiting.take(address(1)).is_none(),
            "the limit of one address is reached"
        );
        for other in 2.. {
            let Some(place) = waiting.take(address(other)) else {
                break;
            };
            places.push(place);
        }
        assert_eq!(places.len(), ALL);
        places.pop();
        assert!(waiting.take(address(99)).is_some());
        drop(places);
        assert!(waiting.by_address().is_empty());
    }
}
