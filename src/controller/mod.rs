//! The tasks and their order. The [`Controller`] consumes watch events, maintains the index and decides whether a
//! registration is admitted ([`admission`]). One worker per Registry plans and writes ([`worker`]). [`run()`] starts and
//! supervises the tasks.
//!
//! The module decides nothing about keys (`plan`) or pods (`index`). The controller makes no calls to etcd.

mod access;
mod admission;
mod annotations;
mod cache;
mod compile;
mod credentials;
mod debouncer;
mod failure;
mod gates;
mod namespace_labels;
mod overlaps;
mod policy;
mod preview;
mod purge;
mod record_formats;
mod registries;
mod run;
mod services;
mod source;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unclear;
mod watch_states;
mod worker;
mod workers;
mod write_limit;

pub use access::{Unresolved, Wrong, resolve, sources};
pub use annotations::{Problem, annotated_registration};
pub use failure::Failure;
pub use preview::{Change, ClusterState, Outcome, Preview, Refusal};
pub use purge::{Purge, PurgeError, Purged};
pub use run::{MetricsAuth, Options, run};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;

use self::admission::Entry;
use self::annotations::AnnotatedServices;
use self::cache::{Cache, SharedCache};
use self::gates::GateEvent;
use self::overlaps::PrefixOverlaps;
use self::record_formats::Library;
use self::registries::Known;
use self::services::Services;
use self::state::State;
use self::unclear::UnclearRegistrations;
use self::watch_states::WatchStates;
use self::worker::{Command, MissingPod, Outdated};
use self::workers::Workers;
use crate::backend::Access;
use crate::index::{DirtyMark, NamespaceCache, Pod, PodChange};
use crate::kube::{
    Content, ENDPOINT_SLICES, NAMESPACES, NODES, ObjectEvent, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES,
    SERVICES, Source, WatchEvent,
};
use crate::model::{NamespaceScope, RegistrationRef, Relists};

/// Maximum number of watch events that are handled while the cache is locked.
const BATCH: usize = 256;

/// Maintains the index from watch events, admits registrations and sends commands to the workers.
pub struct Controller {
    cache: SharedCache,
    registries: HashMap<Arc<str>, Known>,
    overlaps: PrefixOverlaps,
    library: Library,
    services: Services,
    annotations: AnnotatedServices,
    /// The content of the Secrets and ConfigMaps that Registries name, as far as it is known.
    sources: HashMap<Source, Content>,
    namespaces: NamespaceCache,
    workers: Workers,
    watches: WatchStates,
    /// What is stale and since when, as last sent to the workers.
    outdated: Option<Outdated>,
    registration_lists: Relists,
    /// Counts the lists of Registries. When a list is complete, a Registry marked by an older list is missing.
    registry_list: u64,
    /// When Registries were last listed again because lists lacked one.
    relisted_at: Option<Instant>,
    unclear: UnclearRegistrations,
    /// Whether the caches are complete and the workers have been notified.
    complete: bool,
    /// What a replica needs if it starts while the apiserver is unavailable.
    state: watch::Sender<Option<State>>,
}

impl Controller {
    /// Starts with empty caches. State that must survive a restart is published in `state`.
    pub fn new(workers: Workers, state: watch::Sender<Option<State>>) -> Self {
        let context = workers.context();
        Self {
            cache: context.cache.clone(),
            registries: HashMap::new(),
            overlaps: PrefixOverlaps::default(),
            library: Library::default(),
            services: Services::default(),
            annotations: AnnotatedServices::default(),
            sources: HashMap::new(),
            namespaces: NamespaceCache::default(),
            watches: WatchStates::new(context.checkpoint.watch_scope()),
            workers,
            outdated: None,
            registration_lists: Relists::default(),
            registry_list: 0,
            relisted_at: None,
            unclear: UnclearRegistrations::default(),
            complete: false,
            state,
        }
    }

    /// Handles `events` until `shutdown`. `good`: the accesses that etcd accepted. `led`: the Registries that this replica
    /// begins to lead. Returns an error if a worker fails.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<WatchEvent>,
        mut good: mpsc::UnboundedReceiver<(Arc<str>, Access)>,
        mut led: mpsc::UnboundedReceiver<Arc<str>>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            let relist_at = self.relist_at();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = time::sleep_until(relist_at.unwrap_or_else(Instant::now).into()), if relist_at.is_some() => {
                    self.relist(Instant::now());
                }
                failure = self.workers.failure() => return Err(failure),
                Some((registry, access)) = good.recv() => self.is_good(&registry, access),
                Some(registry) = led.recv() => {
                    let cache = self.cache.clone();
                    self.keep_all_of(&cache.read(), &registry);
                }
                first = events.recv() => {
                    let Some(first) = first else { break };
                    let more = std::iter::from_fn(|| events.try_recv().ok());
                    self.take_all(std::iter::once(first).chain(more.take(BATCH - 1)));
                }
            }
        }
        self.workers.retire().await;
        Ok(())
    }

    /// Updates the cache from `events`, and sends the commands that belong to them before it unlocks the cache.
    fn take_all(&mut self, events: impl Iterator<Item = WatchEvent>) {
        let cache = self.cache.clone();
        let mut cache = cache.write();
        for event in events {
            let now = Instant::now();
            self.take(&mut cache, event, now);
            let marks = cache.index.take_marks();
            self.send_marks(&cache, &marks, false, now);
        }
        for change in cache.index.take_gate_changes() {
            let _ = self.workers.context().gates.send(GateEvent::Changed(change));
        }
        if let Some(freshness) = self.watches.take_progress() {
            self.workers.context().freshness.send_replace(freshness);
        }
        self.count(&cache);
    }

    fn count(&self, cache: &Cache) {
        let metrics = &self.workers.context().metrics;
        metrics.set_pods(cache.index.pod_count());
        metrics.set_registrations(cache.entries.len());
    }

    fn take(&mut self, cache: &mut Cache, event: WatchEvent, now: Instant) {
        match event {
            WatchEvent::Cluster(id) => self.cluster(id),
            WatchEvent::Bookmark {
                target,
                version,
                present,
            } => self.watches.reach(&target, version, present),
            WatchEvent::Pod(namespaces, seen) => {
                self.watches.note(PODS, &namespaces, &seen);
                self.pod(cache, &namespaces, seen, now);
            }
            WatchEvent::Registration(namespaces, seen) => {
                self.watches.note(REGISTRATIONS, &namespaces, &seen);
                self.registration(cache, &namespaces, seen, now);
            }
            WatchEvent::Registry(seen) => {
                self.watches.note(REGISTRIES, &NamespaceScope::Cluster, &seen);
                self.registry(cache, seen, now);
                self.remember();
            }
            WatchEvent::RecordFormat(seen) => {
                self.watches.note(RECORD_FORMATS, &NamespaceScope::Cluster, &seen);
                self.record_format(cache, seen, now);
            }
            WatchEvent::Service(namespaces, seen) => {
                self.watches.note(SERVICES, &namespaces, &seen);
                self.service(cache, &namespaces, seen, now);
            }
            WatchEvent::EndpointSlice(namespaces, seen) => {
                self.watches.note(ENDPOINT_SLICES, &namespaces, &seen);
                self.endpoint_slice(cache, &namespaces, seen, now);
            }
            WatchEvent::Node(seen) => {
                self.watches.note(NODES, &NamespaceScope::Cluster, &seen);
                self.node(cache, seen, now);
            }
            WatchEvent::Source(source, content) => self.source(cache, source, content, now),
            WatchEvent::Namespace(namespaces, seen) => {
                self.watches.note(NAMESPACES, &namespaces, &seen);
                self.namespace(cache, &namespaces, seen, now);
            }
        }
    }

    /// Re-evaluates which caches are complete or stale. Call after a list has completed, a watch has been lost, or a
    /// namespace has appeared or disappeared.
    fn weigh(&mut self, cache: &mut Cache, now: Instant) {
        for target in self.watches.find_void(&self.namespaces) {
            if target.kind == NODES {
                tracing::error!(
                    "the nodes cannot be listed; registrations with the address type NodePort or with fromNodeLabel wait for that, \
                     and their records stay as they are"
                );
                self.examine_node_users(cache, now);
                continue;
            }
            tracing::info!(watch = %target, "the namespace does not exist; its watch counts as complete and empty");
            if target.kind == PODS {
                // The pods were deleted with the namespace, although no watch event reported it.
                cache.index.begin_pod_relist(&target.namespaces);
                let missing = cache.index.end_pod_relist(&target.namespaces);
                self.send_missing(cache, &missing, now);
            }
        }
        self.report_complete(cache);
        let outdated = self.watches.outdated();
        let is_stale = outdated.as_ref().is_some_and(Outdated::is_general);
        self.workers.context().peers.state_fresh(self.complete && !is_stale);
        if self.outdated != outdated {
            self.outdated.clone_from(&outdated);
            self.workers
                .send_all(|| Command::KubernetesIsOutdated(outdated.clone()));
        }
    }

    fn pod(&mut self, cache: &mut Cache, namespaces: &NamespaceScope, event: ObjectEvent<Pod>, now: Instant) {
        let (marks, deleted) = match event {
            ObjectEvent::ListBegins => return cache.index.begin_pod_relist(namespaces),
            ObjectEvent::Applied(pod) => match cache.index.apply_pod(&pod) {
                PodChange::None => return,
                PodChange::Selection(marks) => (marks, false),
                change @ (PodChange::Facts | PodChange::Ending) => {
                    // The planner keeps the name: the cached one, so that it is stored once.
                    let cached = cache.index.names_of(&pod.namespace, &pod.name);
                    let (namespace, pod) = cached.expect("the pod was just applied");
                    return self.send_changed(namespace, pod, change == PodChange::Ending, now);
                }
            },
            ObjectEvent::Deleted { namespace, name } => {
                let (of, pod): (Arc<str>, Arc<str>) = (namespace.as_str().into(), name.as_str().into());
                self.workers.send_all(|| Command::PodDeleted {
                    namespace: of.clone(),
                    pod: pod.clone(),
                });
                (cache.index.delete_pod(&namespace, &name), true)
            }
            ObjectEvent::Unreadable { namespace, name, .. } => return cache.index.keep_pod(&namespace, &name),
            ObjectEvent::Lost(_) => return self.weigh(cache, now),
            ObjectEvent::ListComplete => {
                let missing = cache.index.end_pod_relist(namespaces);
                self.send_missing(cache, &missing, now);
                self.watches.listed(PODS, namespaces);
                return self.weigh(cache, now);
            }
        };
        self.send_marks(cache, &marks, deleted, now);
    }

    /// Sends all workers a pod whose facts changed. Each finds out which of its registrations select the pod when it
    /// reconciles the pod, so that the cost of an event does not depend on the number of registrations.
    fn send_changed(&self, namespace: &Arc<str>, pod: &Arc<str>, ending: bool, at: Instant) {
        self.workers.send_all(|| Command::PodChanged {
            namespace: namespace.clone(),
            pod: pod.clone(),
            ending,
            at,
        });
    }

    /// Sends each worker all pods that are missing in a list as one command: only the whole set shows a mass removal.
    fn send_missing(&self, cache: &Cache, missing: &[(DirtyMark, bool)], at: Instant) {
        let mut by_registry: BTreeMap<&str, Vec<MissingPod>> = BTreeMap::new();
        for missing in missing.chunk_by(|(mark, _), (next, _)| mark.registration == next.registration) {
            let registration = &missing[0].0.registration;
            let Some(registry) = registry_of(cache, registration) else {
                continue;
            };
            let selected = cache.index.selected_count(registration);
            let missing = missing.iter().map(|(mark, ended)| MissingPod {
                registration: registration.clone(),
                pod: mark.pod.clone(),
                ended: *ended,
                selected,
            });
            by_registry.entry(registry).or_default().extend(missing);
        }
        for (registry, pods) in by_registry {
            self.workers.send(registry, Command::PodsMissing { pods, at });
        }
    }

    /// Notifies the workers once when all caches are complete.
    fn report_complete(&mut self, cache: &mut Cache) {
        if self.watches.are_complete() && !std::mem::replace(&mut self.complete, true) {
            tracing::info!(
                pods = cache.index.pod_count(),
                registrations = cache.entries.len(),
                registries = self.registries.len(),
                record_formats = self.library.len(),
                "all Kubernetes caches are complete"
            );
            self.workers.context().health.set_caches_complete(true);
            self.workers.send_all(|| Command::KubernetesIsComplete);
            let _ = self.workers.context().gates.send(GateEvent::KubernetesIsComplete);
            self.keep_all(cache);
        }
    }
}

/// Returns the Registry of a registration in force.
fn registry_of<'a>(cache: &'a Cache, registration: &RegistrationRef) -> Option<&'a Arc<str>> {
    let compiled = cache.entries.get(registration).and_then(Entry::in_force)?;
    Some(&compiled.registration.registry)
}
