//! Whether the process is ready to do its work.
//!
//! Ready means: this replica may be counted on, so a rolling update may go on to the next one. That is so when
//!
//! 1. every Kubernetes watch has had a complete list, and
//! 2. every Registry has once been led or stood by for, or is unreachable now.
//!
//! "Once": a Registry that changes its leader does not make its replicas unready. "Unreachable": an etcd that is down
//! is no reason to hold back a rollout or to take down the replicas that serve the other Registries; its own status
//! and the metric `leasehold_connected` tell of it. Without any Registry there is nothing to wait for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How this replica stands with one Registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryHealth {
    /// The first connection is being made, or what etcd holds is being read.
    Starting,
    /// Connected; neither led nor stood by for.
    Electing,
    /// This replica leads.
    Leading,
    /// Another replica leads; this one renews leases and would take over.
    StandingBy,
    /// Its etcd does not answer.
    Unreachable,
}

impl RegistryHealth {
    fn is_settled(self) -> bool {
        matches!(self, Self::Leading | Self::StandingBy)
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    now: RegistryHealth,
    /// Whether it has ever been led or stood by for.
    once_settled: bool,
}

#[derive(Debug, Default)]
struct State {
    caches_complete: bool,
    registries: BTreeMap<String, Known>,
}

impl State {
    fn ready(&self) -> Result<(), String> {
        if !self.caches_complete {
            return Err("waiting for the first complete list of every Kubernetes watch".to_owned());
        }
        let waiting: Vec<_> = self.registries.iter().filter_map(awaited).collect();
        if waiting.is_empty() {
            Ok(())
        } else {
            Err(waiting.join("; "))
        }
    }
}

/// What is waited for at this Registry.
fn awaited((name, known): (&String, &Known)) -> Option<String> {
    if known.once_settled {
        return None;
    }
    match known.now {
        RegistryHealth::Starting => Some(format!("Registry \"{name}\": connecting and reading what etcd holds")),
        RegistryHealth::Electing => Some(format!("Registry \"{name}\": electing its leader")),
        RegistryHealth::Leading | RegistryHealth::StandingBy | RegistryHealth::Unreachable => None,
    }
}

/// What the parts of the operator say of themselves. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

impl Health {
    /// Nothing is known yet: not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether every Kubernetes watch has had a complete list. Name the Registries in that list with
    /// [`Health::set_registry`] first: an unnamed one is not waited for.
    pub fn set_caches_complete(&self, complete: bool) {
        self.state().caches_complete = complete;
    }

    /// Says how this replica stands with the Registry `name`.
    pub fn set_registry(&self, name: &str, now: RegistryHealth) {
        let mut state = self.state();
        let once_settled = now.is_settled() || state.registries.get(name).is_some_and(|known| known.once_settled);
        state.registries.insert(name.to_owned(), Known { now, once_settled });
    }

    /// Says that there is no Registry `name` any more.
    pub fn forget(&self, name: &str) {
        self.state().registries.remove(name);
    }

    /// Whether the process is ready by the rule at the head of this file, or what it waits for.
    pub fn ready(&self) -> Result<(), String> {
        self.state().ready()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: a panic elsewhere cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RegistryHealth::{Electing, Leading, StandingBy, Starting, Unreachable};

    fn complete() -> Health {
        let health = Health::new();
        health.set_caches_complete(true);
        health
    }

    #[test]
    fn a_process_without_complete_caches_is_not_ready() {
        let health = Health::new();
        health.set_registry("default", Leading);
        let reason = health.ready().unwrap_err();
        assert!(reason.contains("complete list"), "{reason}");
        health.set_caches_complete(true);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn a_process_without_registries_is_ready() {
        assert_eq!(complete().ready(), Ok(()));
    }

    #[test]
    fn a_registry_without_a_leader_yet_is_waited_for_by_name() {
        let health = complete();
        health.set_registry("default", Starting);
        health.set_registry("edge", Electing);
        let reason = health.ready().unwrap_err();
        assert!(reason.contains("\"default\": connecting"), "{reason}");
        assert!(reason.contains("\"edge\": electing"), "{reason}");
        health.set_registry("default", Leading);
        health.set_registry("edge", StandingBy);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn a_registry_that_was_settled_once_is_not_waited_for_again() {
        let health = complete();
        health.set_registry("default", StandingBy);
        for state in [Electing, Starting, Unreachable, Electing] {
            health.set_registry("default", state);
            assert_eq!(health.ready(), Ok(()), "{state:?}");
        }
    }

    #[test]
    fn an_unreachable_registry_does_not_hold_back_the_others() {
        let health = complete();
        health.set_registry("broken", Unreachable);
        health.set_registry("default", Electing);
        let reason = health.ready().unwrap_err();
        assert!(!reason.contains("broken"), "{reason}");
        health.set_registry("default", Leading);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn a_deleted_registry_is_not_waited_for_and_its_name_starts_anew() {
        let health = complete();
        health.set_registry("default", Leading);
        health.forget("default");
        assert_eq!(health.ready(), Ok(()));
        health.set_registry("default", Electing);
        assert!(health.ready().is_err());
        health.forget("default");
        assert_eq!(health.ready(), Ok(()));
    }
}
