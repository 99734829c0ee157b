//! Pods that are gone for sure and pods that only seem to be: what the guard is told of them, and what becomes of
//! their keys when it has decided.

use std::sync::Arc;
use std::time::Instant;

use super::guard::{GuardNews, GuardTerms, Hold};
use super::ledger::{Ledger, Slot};
use super::tenancy::Presence;
use super::transaction::{Key, Scope};
use super::work::Work;
use crate::index::RegistrationRef;

impl Ledger {
    /// From now on removals are guarded on these terms.
    pub fn set_guard(&mut self, terms: GuardTerms) {
        self.guard.set_terms(terms);
    }

    /// How `pod` stands with `registration` from now on.
    pub fn set_presence(&mut self, registration: &RegistrationRef, pod: &Arc<str>, presence: Presence) {
        match presence {
            Presence::Ready(tenancy) => self.set_tenancy(registration, pod, Some(tenancy)),
            Presence::Doubtful(keys) => self.doubt(registration, pod, keys),
            Presence::Gone(keys) => {
                self.set_tenancy(registration, pod, None);
                for key in keys {
                    self.acquit(&key);
                }
            }
        }
    }

    /// `pod` seems not to be there for `registration` any more. If it were, it would have `keys`.
    fn doubt(&mut self, registration: &RegistrationRef, pod: &Arc<str>, keys: Vec<Key>) {
        let dropped = self.change_tenancy(registration, pod, None);
        if self.guard.is_on() {
            let unclaimed = |key: &&Key| self.slots.get(*key).is_some_and(|slot| slot.claims.is_empty());
            let unclaimed: Vec<&Key> = dropped.iter().filter(unclaimed).collect();
            for key in unclaimed {
                self.guard.suspect(key, Work::Pod(registration.clone(), pod.clone()));
            }
        }
        if let Some(book) = self.books.get_mut(registration) {
            if keys.is_empty() {
                book.unready.remove(pod);
            } else {
                book.unready.insert(pod.clone(), keys);
            }
        }
    }

    /// What `pod` had, or would have, is in doubt no longer.
    pub(super) fn acquit_pod(&mut self, registration: &RegistrationRef, pod: &Arc<str>) {
        let Some(book) = self.books.get_mut(registration) else {
            return;
        };
        let mut keys = book.unready.remove(pod).unwrap_or_default();
        keys.extend(book.dropped.get(pod).into_iter().flatten().cloned());
        for key in keys {
            self.acquit(&key);
        }
    }

    /// A registration is gone, and with it whatever was held for its sake in `scopes`.
    pub(super) fn acquit_scopes(&mut self, scopes: &[Scope]) {
        for scope in scopes {
            let meets = |other: &&Scope| other.contains(scope.prefix()) || scope.contains(other.prefix());
            let others = self.books.values().flat_map(|book| &book.terms.scopes);
            let others: Vec<Scope> = others.filter(meets).cloned().collect();
            for key in self.keys_in(scope) {
                if !others.iter().any(|other| other.contains(&key)) {
                    self.acquit(&key);
                }
            }
        }
    }

    fn acquit(&mut self, key: &Key) {
        if self.guard.acquit(key) {
            self.enqueue(key);
        }
    }

    /// This replica comes to lead: what it has let go and its predecessor has not removed was perhaps held by that.
    pub fn doubt_again(&mut self) {
        self.guard.doubt_again();
    }

    /// Decides about everything in doubt. `approved` is the id of the hold that somebody approved of, `id` makes that of
    /// a new one. Returns what somebody should hear of.
    pub fn judge(&mut self, now: Instant, approved: Option<&str>, id: impl FnOnce() -> String) -> Option<GuardNews> {
        if self.guard.is_starting() && !self.suspect_leftovers() {
            return None;
        }
        let present = self.leases.key_count();
        let (news, released) = self.guard.judge(present, now, approved, id);
        if news.is_some() {
            self.changed.extend(self.books.keys().cloned());
        }
        for work in released {
            self.work.push(work);
        }
        news
    }

    /// The hold there is.
    pub fn hold(&self) -> Option<&Hold> {
        self.guard.hold()
    }

    /// Suspects whatever a predecessor left that no ready pod claims; returns false when not all of it is known yet.
    fn suspect_leftovers(&mut self) -> bool {
        let scopes = || self.books.values().flat_map(|book| &book.terms.scopes);
        let surveyed = |scope: &Scope| self.is_surveyed(scope.prefix());
        if !self.complete || !surveyed(self.meta.scope()) || !scopes().all(surveyed) {
            return false;
        }
        let left = |(key, slot): &(&Key, &Slot)| {
            slot.claims.is_empty() && self.is_ours(slot) && self.guard.detains(key) && !self.is_frozen(key)
        };
        let left: Vec<Key> = self.slots.iter().filter(left).map(|(key, _)| key.clone()).collect();
        let unclaimed = |key: &Key| self.slots.get(key).is_some_and(|slot| slot.claims.is_empty());
        let others: Vec<Key> = self.slots.keys().filter(|key| unclaimed(key)).cloned().collect();
        for key in left {
            self.guard.suspect(&key, Work::Key(key.clone()));
        }
        self.guard.started();
        // What was left alone until now and is in no doubt.
        for key in others {
            self.enqueue(&key);
        }
        true
    }

    /// Suspects keys found that nobody is known to have wanted.
    pub fn doubt_stray(&mut self, key: &Key) {
        if self.guard.is_on() {
            self.guard.suspect(key, Work::Key(key.clone()));
        }
    }
}
