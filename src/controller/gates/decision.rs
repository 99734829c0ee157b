//! Decides when the readiness gate of a pod opens: once all its records are in etcd, or after a maximum wait. Pure: the
//! caller passes the time and the registrations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::index::GateChange;
use crate::model::{PodRef, RegistrationRef};
use crate::plan::GatedPod;

/// How much longer than the leader another replica waits before it opens a gate. It opens it if the leader has no
/// connection to the apiserver, or not the permission.
const STANDBY_DELAY: Duration = Duration::from_secs(3);

/// How long after a gate was opened the pod must wait no longer. Otherwise the gate is opened again.
const RETRY: Duration = Duration::from_secs(10);

/// A registration that registers a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registering {
    pub registration: RegistrationRef,
    pub registry: Arc<str>,
    pub spec: SpecVersion,
}

/// Identifies a spec that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecVersion {
    /// `metadata.uid` of the registration.
    pub uid: Arc<str>,
    /// `metadata.generation` of the spec.
    pub generation: i64,
}

/// Why a gate opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// All records of the pod are in etcd.
    Registered,
    /// No registration in force selects the pod.
    NotSelected,
    /// The gate was opened before, and the pod still waits for it.
    Again,
    /// The maximum wait is over. Contains the registrations whose records are not all in etcd.
    WaitedTooLong(Vec<Registering>),
}

/// The pods that wait for their readiness gate.
#[derive(Debug)]
pub struct ReadinessGates {
    max_wait: Duration,
    pods: BTreeMap<PodRef, Waiting>,
    /// The Registries that this replica leads.
    led: BTreeSet<Arc<str>>,
    /// Whether all Kubernetes caches are complete. Before that, it is not known which registrations there are.
    is_complete: bool,
    /// The pods to decide about.
    undecided: BTreeSet<PodRef>,
    /// When to decide again although nothing has changed.
    due: BTreeSet<(Instant, PodRef)>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// The registrations of which all records are in etcd, by this spec.
    registered: BTreeMap<RegistrationRef, (Arc<str>, SpecVersion)>,
    /// Since when that is so for all registrations that register the pod.
    complete_since: Option<Instant>,
    due: Option<Instant>,
    /// When the gate was opened last.
    opened: Option<Instant>,
}

impl ReadinessGates {
    pub fn new(max_wait: Duration) -> Self {
        Self {
            max_wait,
            pods: BTreeMap::new(),
            led: BTreeSet::new(),
            is_complete: false,
            undecided: BTreeSet::new(),
            due: BTreeSet::new(),
        }
    }

    pub fn apply(&mut self, change: GateChange, now: Instant) {
        match change {
            GateChange::Waits(pod) => {
                self.pods.entry(pod.clone()).or_insert_with(|| Waiting {
                    since: now,
                    registered: BTreeMap::new(),
                    complete_since: None,
                    due: None,
                    opened: None,
                });
                self.undecided.insert(pod);
            }
            GateChange::WaitsNoLonger(pod) => {
                self.undecided.remove(&pod);
                if let Some(due) = self.pods.remove(&pod).and_then(|waiting| waiting.due) {
                    self.due.remove(&(due, pod));
                }
            }
            GateChange::Registrations(namespace) => {
                let empty: Arc<str> = Arc::from("");
                let first = PodRef {
                    namespace: namespace.clone(),
                    name: empty.clone(),
                    uid: empty,
                };
                let pods = self.pods.range(first..).map(|(pod, _)| pod);
                let of_namespace = pods.take_while(|pod| pod.namespace == namespace);
                self.undecided.extend(of_namespace.cloned());
            }
        }
    }

    /// Takes in whether all records of a pod for a registration are in the etcd of `registry`, by this spec.
    pub fn set_registered(&mut self, gated: GatedPod, registry: Arc<str>, spec: SpecVersion) {
        let GatedPod {
            registration,
            pod,
            uid,
            is_registered,
        } = gated;
        let pod = PodRef {
            namespace: registration.namespace.clone(),
            name: pod,
            uid,
        };
        let Some(waiting) = self.pods.get_mut(&pod) else {
            return;
        };
        if is_registered {
            waiting.registered.insert(registration, (registry, spec));
        } else {
            waiting.registered.remove(&registration);
        }
        self.undecided.insert(pod);
    }

    /// Sets whether this replica leads `registry` and has caught up with its predecessors.
    pub fn set_leads(&mut self, registry: Arc<str>, leads: bool) {
        let has_changed = if leads {
            self.led.insert(registry)
        } else {
            self.led.remove(&registry)
        };
        if has_changed {
            self.undecided.extend(self.pods.keys().cloned());
        }
    }

    /// The worker of `registry` was stopped: what it reported does not hold for another etcd.
    pub fn forget(&mut self, registry: &Arc<str>) {
        for waiting in self.pods.values_mut() {
            waiting.registered.retain(|_, (of, _)| of != registry);
        }
        self.set_leads(registry.clone(), false);
    }

    /// All Kubernetes caches are complete.
    pub fn kubernetes_is_complete(&mut self) {
        self.is_complete = true;
        self.undecided.extend(self.pods.keys().cloned());
    }

    /// When to decide again although nothing has changed.
    pub fn wake_at(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Returns the next pod to decide about.
    pub fn next_undecided(&mut self, now: Instant) -> Option<PodRef> {
        while let Some((due, _)) = self.due.first()
            && *due <= now
            && let Some((_, pod)) = self.due.pop_first()
        {
            if let Some(waiting) = self.pods.get_mut(&pod) {
                waiting.due = None;
            }
            self.undecided.insert(pod);
        }
        self.undecided.pop_first()
    }

    /// Decides whether the gate of `pod` opens now, given all registrations that register it.
    pub fn decide(&mut self, pod: &PodRef, registering: Vec<Registering>, now: Instant) -> Option<Opening> {
        let waiting = self.pods.get_mut(pod)?;
        if let Some(due) = waiting.due.take() {
            self.due.remove(&(due, pod.clone()));
        }
        let leads = match &registering[..] {
            [] => !self.led.is_empty(),
            some => some.iter().any(|one| self.led.contains(&one.registry)),
        };
        let delay = if leads { Duration::ZERO } else { STANDBY_DELAY };
        let is_selected = !registering.is_empty();
        let is_missing = |one: &Registering| {
            let confirmed = waiting.registered.get(&one.registration);
            !confirmed.is_some_and(|(registry, spec)| (registry, spec) == (&one.registry, &one.spec))
        };
        let missing: Vec<Registering> = registering.into_iter().filter(is_missing).collect();
        let is_done = self.is_complete && missing.is_empty();
        let due = if let Some(opened) = waiting.opened {
            opened + RETRY
        } else if is_done {
            *waiting.complete_since.get_or_insert(now) + delay
        } else {
            waiting.complete_since = None;
            waiting.since + self.max_wait + delay
        };
        let opening = (due <= now).then(|| match waiting.opened.replace(now) {
            Some(_) => Opening::Again,
            None if !is_done => Opening::WaitedTooLong(missing),
            None if is_selected => Opening::Registered,
            None => Opening::NotSelected,
        });
        let due = if opening.is_some() { now + RETRY } else { due };
        waiting.due = Some(due);
        self.due.insert((due, pod.clone()));
        opening
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
