//! Keeps the last endpoint of a registration with `keep_last`: it stays although its pod is not ready, until the pod is
//! deleted or terminates, or another pod is ready.
//!
//! It is the endpoint that was lost last. After a start or a takeover that is not known; then it is the first one, by
//! pod name, that etcd still holds.

use std::sync::Arc;

use super::desired::DesiredPod;
use super::guard::Cause;
use super::key_table::KeyState;
use super::planner::Planner;
use super::registrations::RegistrationState;
use crate::model::{Key, RegistrationRef};

impl Planner {
    /// Keeps the last endpoint of `registration`, if it has `keep_last` and a removed pod leaves it without any. `lost`
    /// is the removed pod if it may become ready again.
    pub(super) fn keep_if_last(&mut self, registration: &RegistrationRef, lost: Option<&Arc<str>>) {
        let Some(state) = self.registrations.get(registration) else {
            return;
        };
        let is_well = !state.settings.keep_last || state.kept.is_some() || self.has_ready_endpoint(registration, state);
        if is_well || state.unready.is_empty() {
            return;
        }
        if !self.is_kubernetes_complete {
            // Ready pods may still be listed.
            self.registrations.mark_undecided(registration);
            return;
        }
        let may_have = |pod: &&Arc<str>| state.unready.get(*pod).is_some_and(|had| self.may_have_keys(had));
        let Some(pod) = lost.filter(may_have).cloned().or_else(|| self.some_unready(state)) else {
            return;
        };
        let desired = DesiredPod::clone(&state.unready[&pod]);
        self.replace_desired(registration, &pod, Some(desired));
        self.registrations.set_kept(registration, Some(pod));
    }

    /// Whether a ready pod has an endpoint, and room for it in the quota of its namespace.
    fn has_ready_endpoint(&self, registration: &RegistrationRef, state: &RegistrationState) -> bool {
        let mut ready = state.ready_endpoints();
        ready.any(|pod| self.quotas.is_admitted(registration, pod))
    }

    /// Drops the kept endpoint of `registration`, as an unconfirmed removal: it is no longer needed, or another one
    /// will be kept instead.
    pub(super) fn stop_keeping_last(&mut self, registration: &RegistrationRef) {
        if let Some(pod) = self.registrations.set_kept(registration, None) {
            self.drop_unconfirmed(registration, &pod, Cause::Pod);
        }
    }

    /// Decides which endpoint stays, for the registrations for which that is open.
    pub(super) fn decide_last_endpoints(&mut self) {
        if !self.is_kubernetes_complete {
            return;
        }
        for registration in self.registrations.take_undecided() {
            let Some(state) = self.registrations.get(&registration) else {
                continue;
            };
            if !state.settings.keep_last || self.has_ready_endpoint(&registration, state) {
                self.stop_keeping_last(&registration);
                continue;
            }
            let is_real = |kept| state.unready.get(kept).is_some_and(|kept| self.may_have_keys(kept));
            if state.kept.as_ref().is_some_and(|kept| !is_real(kept)) && self.some_unready(state).is_some() {
                self.stop_keeping_last(&registration);
            }
            self.keep_if_last(&registration, None);
            let Some(state) = self.registrations.get(&registration) else {
                continue;
            };
            let mut prefixes = state.prefixes().iter();
            let is_listed = prefixes.all(|prefix| self.prefixes.is_listed(prefix.as_str()));
            if !is_listed && !self.has_ready_endpoint(&registration, state) {
                self.registrations.mark_undecided(&registration);
            }
        }
    }

    /// The first pod, by name, that is not ready and has keys in etcd; the kept one is left out.
    fn some_unready(&self, state: &RegistrationState) -> Option<Arc<str>> {
        let is_there = |key: &Key| self.keys.is_ours(key, &self.leases);
        let has = |desired: &DesiredPod| desired.all_records().any(|record| is_there(&record.key));
        let pods = state
            .unready
            .iter()
            .filter(|(_, desired)| has(desired))
            .map(|(pod, _)| pod);
        pods.filter(|pod| state.kept.as_ref() != Some(*pod)).min().cloned()
    }

    /// Whether etcd may hold a key of `desired`; keys that have not been read yet count.
    fn may_have_keys(&self, desired: &DesiredPod) -> bool {
        let may = |key: &Key| self.keys.get(key).is_some_and(KeyState::may_exist) || !self.prefixes.is_listed(key);
        desired.all_records().any(|record| may(&record.key))
    }
}
