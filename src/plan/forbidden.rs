//! Keys that the Registry's rules do not let a registration have (any more). The rules are certain, so these keys are
//! removed at once, without the guard, and even if the registration is suspended.

use super::planner::{Planner, RegistrationState};
use super::policy::PrefixGrant;
use super::work::Work;
use crate::model::{Key, Prefix, RegistrationRef};

impl Planner {
    /// Sets the prefixes below which `registration` may not write, except for the keys that each grant allows. Call
    /// after [`Planner::set_terms`].
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
        let there: Vec<Key> = scopes.iter().flat_map(|scope| self.keys.keys_in(scope)).collect();
        for key in there
            .iter()
            .filter(|key| self.is_forbidden(key))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.guard.clear_unconfirmed(&key);
            self.enqueue(&key);
        }
        // The dropped keys of a pod are removed by the pod's work item, even if nothing else of it may change now.
        if let Some(book) = self.books.get(registration) {
            for pod in book.dropped.keys() {
                self.work.push(Work::Pod(registration.clone(), pod.clone()));
            }
        }
    }

    /// Whether a rule forbids `key` to a registration, and no other registration may have it.
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
