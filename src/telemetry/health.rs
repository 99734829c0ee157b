//! Readiness of the process.
//!
//! A ready replica can be relied on, so that a rolling update may proceed to the next one. A replica is ready when
//!
//! 1. every Kubernetes watch has received a complete list, and
//! 2. for every Registry, this replica has once led, or been a standby that renewed all recorded leases itself, or
//!    cannot reach the etcd and has evidence that no other replica is connected to it either, and
//! 3. it is not yielding to another replica: it yields while its own view of Kubernetes is stale and the other's is
//!    not.
//!
//! "Once": a change of the leader or an outage of the etcd does not make the replicas unready. "Evidence": an etcd that
//! is down for all replicas must not block a rollout or take down the replicas that serve the other Registries. An etcd
//! that only this replica cannot reach must, because the keys would expire with the last replica that reaches it. The
//! replicas query each other directly. Without any Registry, only the first rule applies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::Elsewhere;

/// The role and connectivity of this replica for one Registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryHealth {
    /// Making the first connection, or reading the contents of etcd.
    Starting,
    /// Connected; this replica has not renewed all recorded leases yet.
    Renewing,
    /// Connected; neither leader nor standby.
    Electing,
    /// Connected; this replica's view of Kubernetes is stale, and that of the named replica is not.
    Yielding(Arc<str>),
    /// This replica leads.
    Leading,
    /// Another replica leads; this one renews leases and is ready to take over.
    StandingBy,
    /// The etcd does not answer this replica; the value says whether it answers another one.
    Unreachable(Elsewhere),
}

impl RegistryHealth {
    fn is_settled(&self) -> bool {
        matches!(self, Self::Leading | Self::StandingBy)
    }
}

#[derive(Clone, Debug)]
struct Known {
    now: RegistryHealth,
    /// Whether this replica has ever been leader or standby of the Registry.
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

/// Returns why this Registry makes the replica unready, if it does.
fn awaited((name, known): (&String, &Known)) -> Option<String> {
    let what = match &known.now {
        RegistryHealth::Yielding(other) => {
            format!("this replica's view of Kubernetes is stale, and that of replica {other} is not")
        }
        _ if known.once_settled => return None,
        RegistryHealth::Starting => "connecting to etcd and listing its keys".to_owned(),
        RegistryHealth::Renewing => "renewing the recorded leases".to_owned(),
        RegistryHealth::Electing => "electing a leader".to_owned(),
        RegistryHealth::Unreachable(Elsewhere::Connected(other)) => {
            format!(
                "its etcd does not answer this replica, but replica {other} is connected to it: check the network between \
                 this replica and etcd"
            )
        }
        RegistryHealth::Unreachable(Elsewhere::Unknown(cause)) => format!(
            "its etcd does not answer this replica, and whether another replica is connected to it is unknown ({cause})"
        ),
        RegistryHealth::Leading | RegistryHealth::StandingBy | RegistryHealth::Unreachable(Elsewhere::NoReplica) => {
            return None;
        }
    };
    Some(format!("Registry \"{name}\": {what}"))
}

/// The health that the components report. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

impl Health {
    /// Creates a health that is not ready: nothing has been reported yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether every Kubernetes watch has received a complete list. Call [`Health::set_registry`] for the listed
    /// Registries first: readiness does not wait for a Registry that is not set.
    pub fn set_caches_complete(&self, complete: bool) {
        self.state().caches_complete = complete;
    }

    /// Sets the state of the Registry `name`. Logs what readiness waits for when that changes.
    pub fn set_registry(&self, name: &str, now: RegistryHealth) {
        let mut state = self.state();
        let former = state.registries.get(name);
        let once_settled = now.is_settled() || former.is_some_and(|known| known.once_settled);
        let key = name.to_owned();
        let waited = former.and_then(|former| awaited((&key, former)));
        let known = Known { now, once_settled };
        let waits = awaited((&key, &known));
        state.registries.insert(key, known);
        drop(state);
        match waits {
            Some(waits) if waited.as_ref() != Some(&waits) => tracing::info!(registry = name, "not ready: {waits}"),
            None if waited.is_some() => tracing::info!(registry = name, "the Registry no longer blocks readiness"),
            _ => {}
        }
    }

    /// Removes the Registry `name`.
    pub fn forget(&self, name: &str) {
        self.state().registries.remove(name);
    }

    /// Whether the process is ready by the rules in the module header; if not, the error says what it waits for.
    pub fn ready(&self) -> Result<(), String> {
        self.state().ready()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic cannot leave a partial change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RegistryHealth::{Electing, Leading, Renewing, StandingBy, Starting, Unreachable, Yielding};

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
        let elsewhere = Elsewhere::Connected("b at 10.0.0.2:8081".into());
        for state in [Electing, Starting, Renewing, Unreachable(elsewhere), Electing] {
            health.set_registry("default", state.clone());
            assert_eq!(health.ready(), Ok(()), "{state:?}");
        }
    }

    #[test]
    fn an_unreachable_registry_does_not_hold_back_the_others() {
        let health = complete();
        health.set_registry("broken", Unreachable(Elsewhere::NoReplica));
        health.set_registry("default", Electing);
        let reason = health.ready().unwrap_err();
        assert!(!reason.contains("broken"), "{reason}");
        health.set_registry("default", Leading);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn a_registry_that_only_others_reach_is_waited_for_by_name() {
        let health = complete();
        for (elsewhere, words) in [
            (
                Elsewhere::Connected("b at 10.0.0.2:8081".into()),
                "replica b at 10.0.0.2:8081 is connected",
            ),
            (
                Elsewhere::Unknown("b at 10.0.0.2:8081: no answer".into()),
                "is unknown (b at 10.0.0.2:8081: no answer)",
            ),
        ] {
            health.set_registry("default", Unreachable(elsewhere));
            let reason = health.ready().unwrap_err();
            assert!(reason.contains("\"default\"") && reason.contains(words), "{reason}");
        }
        health.set_registry("default", Unreachable(Elsewhere::NoReplica));
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn replica_that_yields_with_a_stale_view_becomes_unready() {
        let health = complete();
        health.set_registry("default", Leading);
        health.set_registry("default", Yielding("b".into()));
        let reason = health.ready().unwrap_err();
        assert!(reason.contains("stale, and that of replica b is not"), "{reason}");
        health.set_registry("default", StandingBy);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn deleted_registry_is_ignored_and_its_successor_starts_unready() {
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
