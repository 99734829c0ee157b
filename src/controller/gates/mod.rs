//! Opens the readiness gate `leasehold.dev/registered` of pods whose records are in etcd.
//!
//! The controller reports which pods wait, each worker whether the records of a registration are there. [`decision`]
//! decides; this task passes its decisions on to the status writer of pods.

mod decision;
mod others;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

pub use self::decision::SpecVersion;
use self::decision::{Opening, ReadinessGates, Registering};
pub use self::others::registered;
use super::admission::Entry;
use super::cache::{Cache, SharedCache};
use crate::index::{GateChange, READINESS_GATE};
use crate::kube::{About, Events, GateStatus, Notice, StatusUpdate, WritePolicy};
use crate::model::{PodRef, RegistrationRef, listed};
use crate::plan::GatedPod;

/// Maximum number of registrations that an Event names.
const NAMED: usize = 3;

/// Maximum number of pods that are decided about while the cache is locked.
const BATCH: usize = 256;

const NOT_OPENED: &str = "The operator has opened the readiness gate leasehold.dev/registered, and the pod still waits for it: \
                          check that the operator may patch pods/status, as the role of the Helm chart with rollouts.enabled does";

/// What the decisions about readiness gates depend on.
#[derive(Debug)]
pub enum GateEvent {
    /// A pod waits or waits no longer, or registrations have changed.
    Changed(GateChange),
    /// Whether all records of a pod are in the etcd of a Registry, by this spec.
    Registered(GatedPod, Arc<str>, SpecVersion),
    /// Whether this replica leads a Registry and has caught up with its predecessors.
    Leads(Arc<str>, bool),
    /// The worker of a Registry was stopped.
    Stopped(Arc<str>),
    /// All Kubernetes caches are complete.
    KubernetesIsComplete,
}

/// Opens readiness gates.
pub struct GateOpener {
    cache: SharedCache,
    /// How long a gate stays closed at most; none if this operator opens no gates.
    max_wait: Option<Duration>,
    pods: mpsc::UnboundedSender<StatusUpdate<Pod>>,
    events: Events,
}

impl GateOpener {
    /// Without `max_wait`, `cache` regards gated pods as not ready from now on.
    pub fn new(
        cache: &SharedCache,
        max_wait: Option<Duration>,
        pods: mpsc::UnboundedSender<StatusUpdate<Pod>>,
        events: Events,
    ) -> Self {
        if max_wait.is_none() {
            cache.write().index.ignore_gates();
        }
        Self {
            cache: cache.clone(),
            max_wait,
            pods,
            events,
        }
    }

    /// Handles `changes` until `shutdown`.
    pub async fn run(self, mut changes: mpsc::UnboundedReceiver<GateEvent>, shutdown: CancellationToken) {
        let mut gates = ReadinessGates::new(self.max_wait.unwrap_or_default());
        loop {
            let wake = gates.wake_at();
            let first = tokio::select! {
                () = shutdown.cancelled() => return,
                change = changes.recv() => match change {
                    Some(change) => Some(change),
                    None => return,
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => None,
            };
            let now = Instant::now();
            let others = std::iter::from_fn(|| changes.try_recv().ok());
            for change in first.into_iter().chain(others) {
                self.take(&mut gates, change, now);
            }
            if self.max_wait.is_some() {
                self.decide(&mut gates, now);
            }
        }
    }

    fn take(&self, gates: &mut ReadinessGates, change: GateEvent, now: Instant) {
        match change {
            GateEvent::Changed(change) => {
                match &change {
                    GateChange::Waits(pod) if self.max_wait.is_none() => return self.refuse(pod),
                    GateChange::WaitsNoLonger(pod) => {
                        // The status writer ends only with the process.
                        let _ = self.pods.send(StatusUpdate::Gone(pod.clone()));
                    }
                    GateChange::Waits(_) | GateChange::Registrations(_) => {}
                }
                gates.apply(change, now);
            }
            GateEvent::Registered(pod, registry, spec) => gates.set_registered(pod, registry, spec),
            GateEvent::Stopped(registry) => gates.forget(&registry),
            GateEvent::Leads(registry, leads) => gates.set_leads(registry, leads),
            GateEvent::KubernetesIsComplete => gates.kubernetes_is_complete(),
        }
    }

    fn decide(&self, gates: &mut ReadinessGates, now: Instant) {
        while let Some(first) = gates.next_undecided(now) {
            let cache = self.cache.read();
            let mut next = Some(first);
            for _ in 0..BATCH {
                let Some(pod) = next.or_else(|| gates.next_undecided(now)) else {
                    return;
                };
                next = None;
                if let Some(opening) = gates.decide(&pod, registering(&cache, &pod), now) {
                    self.open(&pod, &opening);
                }
            }
        }
    }

    fn open(&self, pod: &PodRef, opening: &Opening) {
        let (reason, message) = match opening {
            Opening::Registered => ("Registered", "All records of the pod are registered.".to_owned()),
            Opening::NotSelected => ("NotSelected", "No registration selects the pod.".to_owned()),
            Opening::WaitedTooLong(missing) => {
                let message = self.too_long(missing);
                self.publish(pod, "RegistrationDelayed", &message);
                ("WaitedTooLong", message)
            }
            Opening::Again => {
                self.publish(pod, "ReadinessGateNotOpened", NOT_OPENED);
                // The status writer forgets what it has written, in case that another client has replaced it.
                let _ = self.pods.send(StatusUpdate::Gone(pod.clone()));
                (
                    "OpenedAgain",
                    "The operator has opened the readiness gate again.".to_owned(),
                )
            }
        };
        tracing::debug!(pod = %pod.name, namespace = %pod.namespace, reason, "opening the readiness gate");
        let status = GateStatus::open(Condition {
            type_: READINESS_GATE.to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Time(Timestamp::now()),
            observed_generation: None,
        });
        let _ = self
            .pods
            .send(StatusUpdate::Wanted(pod.clone(), status, WritePolicy::Always));
    }

    fn too_long(&self, missing: &[Registering]) -> String {
        let within = format!("within {} s", self.max_wait.unwrap_or_default().as_secs());
        if missing.is_empty() {
            return format!(
                "The operator has not received complete lists from the API server {within}, and the pod becomes ready \
                 although its records may be missing: see the log of the operator"
            );
        }
        let names = missing.iter().map(|one| {
            let Registering {
                registration, registry, ..
            } = one;
            format!("{} (Registry \"{registry}\")", registration.name)
        });
        format!(
            "The operator could not confirm {within} that all records of this pod are registered, and the pod becomes ready \
             without that: see the conditions of ServiceRegistration {}",
            listed(names, NAMED, "and")
        )
    }

    /// Reports that this operator opens no gates.
    fn refuse(&self, pod: &PodRef) {
        let note = format!(
            "The pod declares the readiness gate {READINESS_GATE} and never becomes ready, because the operator runs without \
             --readiness-gate-max-wait: set rollouts.enabled of the Helm chart, or remove the gate from the pod template"
        );
        self.publish(pod, "ReadinessGateNotServed", &note);
    }

    fn publish(&self, pod: &PodRef, reason: &'static str, note: &str) {
        tracing::warn!(pod = %pod.name, namespace = %pod.namespace, reason, "{note}");
        self.events.publish(Notice {
            about: About::Pod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
            },
            uid: pod.uid.clone(),
            is_warning: true,
            reason,
            note: note.to_owned(),
            // All replicas publish the same Event, and the API server keeps one.
            occurrence: String::new(),
        });
    }
}

/// Returns the registrations in force that register `pod`.
fn registering(cache: &Cache, pod: &PodRef) -> Vec<Registering> {
    let all = cache.index.registering(&pod.namespace, &pod.name).into_iter();
    let in_force = all.filter_map(|registration| {
        let compiled = cache.entries.get(&registration).and_then(Entry::in_force)?;
        let spec = spec_version(cache, &registration)?;
        let registry = compiled.registration.registry.clone();
        Some(Registering {
            registration,
            registry,
            spec,
        })
    });
    in_force.collect()
}

/// Returns the spec by which the index selects pods for `registration`.
pub fn spec_version(cache: &Cache, registration: &RegistrationRef) -> Option<SpecVersion> {
    let known = cache.index.registration(registration)?;
    Some(SpecVersion {
        uid: known.uid.clone(),
        generation: known.generation,
    })
}
