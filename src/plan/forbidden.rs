//! Keys where a registration has no business (any more): the Registry's rules say so, which is a fact. They go at once,
//! whatever the guard would say of so many, and though the registration be suspended.

use super::planner::{Planner, RegistrationState};
use super::policy::PrefixGrant;
use super::transaction::{Key, Prefix};
use super::work::Work;
use crate::index::RegistrationRef;

impl Planner {
    /// From now on `registration` has no business where it would lay its keys, but for those that each pass allows.
    /// Tell after its terms.
    pub fn forbid(&mut self, registration: &RegistrationRef, forbidden: Vec<(Prefix, PrefixGrant)>) {
        if forbidden.is_empty() {
            self.forbidden.remove(registration);
            return;
        }
        if self.forbidden.get(registration) == Some(&forbidden) {
            return;
        }
        let scopes: Vec<Prefix> = forbidden.iter().map(|(scope, _)| scope.clone()).collect();
        self.forbidden.insert(registration.clone(), forbidden);
        let there: Vec<Key> = scopes.iter().flat_map(|scope| self.keys_in(scope)).collect();
        for key in there
            .iter()
            .filter(|key| self.is_forbidden(key))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.guard.clear_unconfirmed(&key);
            self.enqueue(&key);
        }
        // What a pod had there goes with the pod's work, though nothing else of it may be changed now.
        if let Some(book) = self.books.get(registration) {
            for pod in book.dropped.keys() {
                self.work.push(Work::Pod(registration.clone(), pod.clone()));
            }
        }
    }

    /// Whether `key` is where a registration has no business, and cannot be another one's.
    pub(super) fn is_forbidden(&self, key: &Key) -> bool {
        let lays = |(registration, book): (&RegistrationRef, &RegistrationState)| {
            book.terms.scopes.iter().any(|scope| scope.contains(key)) && !self.denies(registration, key)
        };
        let denied = self.forbidden.keys().any(|registration| self.denies(registration, key));
        denied && !self.books.iter().any(lays)
    }

    fn denies(&self, registration: &RegistrationRef, key: &Key) -> bool {
        let forbidden = self.forbidden.get(registration).into_iter().flatten();
        let denies = |(scope, pass): &(Prefix, PrefixGrant)| scope.contains(key) && pass.check(key).is_err();
        forbidden.into_iter().any(denies)
    }
}
