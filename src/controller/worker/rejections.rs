//! Record sets that etcd rejects for their content. Each registration has its own retry schedule, which delays no other
//! write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::RegistryWorker;
use crate::backend::{self, Backend, ErrorKind};
use crate::model::Backoff;
use crate::plan::{Narrowed, Owner, Ticket};

/// Pause before a rejected record set is tried again, doubled each time. Changed records are tried at once.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// When the rejected record sets of each registration are tried again.
#[derive(Debug, Default)]
pub struct Rejections(BTreeMap<Owner, Attempt>);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    backoff: Backoff,
}

impl Rejections {
    /// Records that etcd rejected a record set of `owner`, `again` after a retry. Returns whether it is the first one.
    fn rejected(&mut self, owner: Owner, again: bool, now: Instant) -> bool {
        let is_first = !self.0.contains_key(&owner);
        let attempt = self.0.entry(owner).or_insert(Attempt {
            at: now,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        });
        if is_first || again {
            attempt.at = now + attempt.backoff.next_pause();
        }
        is_first
    }

    /// Returns the registrations whose retry is due. Their next retry is due after the same pause.
    fn take_due(&mut self, now: Instant) -> Vec<Owner> {
        let due = self.0.iter_mut().filter(|(_, attempt)| attempt.at <= now);
        due.map(|(owner, attempt)| {
            attempt.at = now + attempt.backoff.last();
            owner.clone()
        })
        .collect()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.0.values().map(|attempt| attempt.at).min()
    }
}

impl<B: Backend> RegistryWorker<B> {
    /// Handles a transaction that etcd rejected for its content. Returns false if no registration is to blame.
    pub(super) fn content_rejected(&mut self, ticket: Ticket, error: &backend::Error) -> bool {
        let ErrorKind::Rejected {
            objection,
            cause,
            may_be_done,
        } = &error.kind
        else {
            return false;
        };
        match self.planner.reject(ticket, *objection, cause, *may_be_done) {
            Narrowed::Bookkeeping => return false,
            Narrowed::Split => tracing::debug!(registry = %self.name, %error, "splitting a rejected transaction"),
            Narrowed::Found { owner, again } => {
                let registration = owner.as_ref().map(ToString::to_string);
                if self.rejections.rejected(owner, again, Instant::now()) {
                    tracing::warn!(
                        registry = %self.name, registration, %error,
                        "etcd rejects the content of an endpoint's records; all other records are written"
                    );
                }
            }
        }
        true
    }

    /// Retries rejected record sets when that is due.
    pub(super) fn retry_rejected(&mut self, now: Instant) {
        for owner in self.rejections.take_due(now) {
            if !self.planner.retry_rejected(&owner) {
                self.rejections.0.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RegistrationRef;

    #[test]
    fn retries_of_one_registration_are_spaced_by_growing_pauses() {
        let (mut rejections, now) = (Rejections::default(), Instant::now());
        let owner = Some(RegistrationRef::new("shop", "orders"));
        assert!(rejections.rejected(owner.clone(), false, now));
        assert!(
            !rejections.rejected(owner.clone(), false, now),
            "another pod of the same registration"
        );
        assert_eq!(rejections.wake_at(), Some(now + FIRST_PAUSE));
        assert_eq!(rejections.take_due(now), []);
        let mut at = now + FIRST_PAUSE;
        for _ in 0..10 {
            assert_eq!(rejections.take_due(at), std::slice::from_ref(&owner));
            rejections.rejected(owner.clone(), true, at);
            at = rejections.wake_at().expect("a scheduled retry");
        }
        assert_eq!(rejections.0[&owner].backoff.last(), LONGEST_PAUSE);
    }
}
