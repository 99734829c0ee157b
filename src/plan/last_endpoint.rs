//! Keeps the last endpoint of a registration with `keep_last`: it stays although its pod is not ready, until the pod is
//! deleted or terminates, or another pod is ready.
//!
//! It is the endpoint that was lost last. After a start or a takeover that is not known; then it is the first one, by
//! pod name, that etcd still holds.

use std::sync::Arc;

use super::desired::DesiredPod;
use super::key_table::KeyState;
use super::planner::{Planner, RegistrationState};
use crate::model::{Key, RegistrationRef};

impl RegistrationState {
    /// Whether a ready pod has an endpoint.
    fn has_ready_endpoint(&self) -> bool {
        let ready = |(pod, desired): (&Arc<str>, &DesiredPod)| self.kept.as_ref() != Some(pod) && has_keys(desired);
        self.desired_pods.iter().any(ready)
    }
}

fn has_keys(desired: &DesiredPod) -> bool {
    desired.all_records().next().is_some()
}

impl Planner {
    /// Keeps the last endpoint of `registration`, if it has `keep_last` and a removed pod leaves it without any. `lost`
    /// is the removed pod if it may become ready again.
    pub(super) fn keep_if_last(&mut self, registration: &RegistrationRef, lost: Option<&Arc<str>>) {
        let Some(book) = self.books.get(registration) else {
            return;
        };
        let is_well = !book.terms.keep_last || book.kept.is_some() || book.has_ready_endpoint();
        if is_well || book.unready.is_empty() {
            return;
        }
        if !self.complete {
            // Ready pods may still be listed.
            self.in_question.insert(registration.clone());
            return;
        }
        let may_have = |pod: &&Arc<str>| book.unready.get(*pod).is_some_and(|had| self.may_have_keys(had));
        let Some(pod) = lost.filter(may_have).cloned().or_else(|| self.some_unready(book)) else {
            return;
        };
        let desired = book.unready[&pod].clone();
        self.change_tenancy(registration, &pod, Some(desired));
        if let Some(book) = self.books.get_mut(registration) {
            book.kept = Some(pod);
        }
    }

    /// Drops the kept endpoint of `registration`, as an unconfirmed removal: it is no longer needed, or another one
    /// will be kept instead.
    pub(super) fn let_last_go(&mut self, registration: &RegistrationRef) {
        let book = self.books.get_mut(registration);
        if let Some(pod) = book.and_then(|book| book.kept.take()) {
            self.drop_doubtful(registration, &pod);
        }
    }

    /// Decides again about all last endpoints: the previous leader may have kept other ones than this replica would.
    pub(super) fn last_in_question(&mut self) {
        let keeping = self.books.iter().filter(|(_, book)| book.terms.keep_last);
        self.in_question.extend(keeping.map(|(name, _)| name.clone()));
    }

    /// Decides which endpoint stays, for the registrations for which that is open.
    pub(super) fn settle_last(&mut self) {
        if !self.complete || self.in_question.is_empty() {
            return;
        }
        for registration in std::mem::take(&mut self.in_question) {
            let Some(book) = self.books.get(&registration) else {
                continue;
            };
            if !book.terms.keep_last {
                self.let_last_go(&registration);
                continue;
            }
            let kept = book.kept.as_ref();
            let is_real = kept.is_some_and(|pod| book.unready.get(pod).is_some_and(|kept| self.may_have_keys(kept)));
            if kept.is_some() && !is_real && self.some_unready(book).is_some() {
                self.let_last_go(&registration);
            }
            self.keep_if_last(&registration, None);
            let Some(book) = self.books.get(&registration) else {
                continue;
            };
            let is_listed = book.terms.scopes.iter().all(|scope| self.prefixes.is_listed(scope.prefix()));
            if !is_listed && !book.has_ready_endpoint() {
                self.in_question.insert(registration);
            }
        }
    }

    /// The first pod, by name, that is not ready and has keys in etcd; the kept one is left out.
    fn some_unready(&self, book: &RegistrationState) -> Option<Arc<str>> {
        let is_there = |key: &Key| self.keys.is_ours(key, &self.leases);
        let has = |(_, desired): &(&Arc<str>, &DesiredPod)| desired.all_records().any(|record| is_there(&record.key));
        let pods = book.unready.iter().filter(has).map(|(pod, _)| pod);
        pods.filter(|pod| book.kept.as_ref() != Some(*pod)).min().cloned()
    }

    /// Whether etcd may hold a key of `desired`; keys that have not been read yet count.
    fn may_have_keys(&self, desired: &DesiredPod) -> bool {
        let may = |key: &Key| self.keys.get(key).is_some_and(KeyState::may_exist) || !self.prefixes.is_listed(key);
        desired.all_records().any(|record| may(&record.key))
    }
}
