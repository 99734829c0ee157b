//! The tasks and their order. The [`Controller`] consumes watch events, maintains the index and decides whether a
//! registration is admitted ([`admission`]). One worker per Registry plans and writes ([`worker`]). [`run()`] starts and
//! supervises the tasks.
//!
//! The module decides nothing about keys (`plan`) or pods (`index`). The controller makes no calls to etcd.

mod access;
mod admission;
mod bypass;
mod compile;
mod credentials;
mod debouncer;
mod failure;
mod namespace_labels;
mod overlaps;
mod policy;
mod preview;
mod purge;
mod queue;
mod rate_limits;
mod record_formats;
mod registries;
mod run;
mod state;
mod streams;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unclear;
mod worker;
mod workers;
mod write_limit;

pub use access::{Unresolved, Wrong, resolve, sources};
pub use compile::Invalid;
pub use failure::Failure;
pub use preview::{Change, Outcome, Preview, Refusal, meet};
pub use purge::{Purge, PurgeError, Purged};
pub use run::{MetricsAuth, Options, run};

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::admission::Entry;
use self::overlaps::PrefixOverlaps;
use self::queue::{Bookmark, WorkItem, WorkQueue};
use self::rate_limits::NamespaceRateLimiter;
use self::record_formats::Library;
use self::registries::Known;
use self::state::State;
use self::streams::Streams;
use self::unclear::UnclearRegistrations;
use self::worker::{Command, Context, Outdated};
use self::workers::Workers;
use crate::etcd::Access;
use crate::index::{DirtyMark, Index, NamespaceCache, Pod};
use crate::kube::{
    Content, NAMESPACES, ObjectEvent, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, Source, WatchEvent,
};
use crate::model::{NamespaceScope, RegistrationRef, Relists};
use crate::plan::PodState;

/// Maximum number of watch events consumed before the controller processes queued items.
const BATCH: usize = 256;
/// Maximum time for which the controller processes queued items before it consumes watch events again: meanwhile,
/// events of other namespaces wait.
const SLICE: Duration = Duration::from_millis(1);
/// Maximum number of pod commands on their way to the workers, which process commands first in, first out. All others
/// wait in the work queue, where the namespaces are served in turn.
const ON_THEIR_WAY: u32 = 64;
/// Finding one of a pod's registrations is this many times cheaper than sending the command for it.
const FINDING: usize = 8;

/// How far the work queue was drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PassedOn {
    /// The queue is empty.
    All,
    /// The time slice is over. The rest can be processed at once.
    Some,
    /// All permits are in use: the workers must catch up first.
    Enough,
    /// Every queued namespace exceeds its rate limit, the first one until this instant.
    Paced(Instant),
}

impl PassedOn {
    /// Waits until the first namespace is within its rate limit again. Never returns for other values.
    async fn pause(self) {
        match self {
            Self::Paced(until) => tokio::time::sleep_until(until.into()).await,
            Self::All | Self::Some | Self::Enough => std::future::pending().await,
        }
    }
}

/// Maintains the index from watch events, admits registrations and sends commands to the workers.
pub struct Controller {
    index: Index,
    /// Pod events that are not in the index yet, and dirty marks that were not sent to the workers yet.
    queue: WorkQueue,
    rate_limits: NamespaceRateLimiter,
    /// Permits for pod commands on their way to the workers.
    room: Arc<Semaphore>,
    entries: HashMap<RegistrationRef, Entry>,
    registries: HashMap<Arc<str>, Known>,
    overlaps: PrefixOverlaps,
    library: Library,
    /// The content of the Secrets and ConfigMaps that Registries name, as far as it is known.
    sources: HashMap<Source, Content>,
    tenants: NamespaceCache,
    workers: Workers,
    streams: Streams,
    /// What is stale and since when, as last sent to the workers.
    outdated: Option<Outdated>,
    registration_lists: Relists,
    /// Counts the lists of Registries. When a list is complete, a Registry marked by an older list is gone.
    registry_list: u64,
    unclear: UnclearRegistrations,
    /// Whether the caches are complete and the workers have been notified.
    complete: bool,
    /// What a replica needs if it starts while the apiserver is unavailable.
    state: watch::Sender<Option<State>>,
}

impl Controller {
    /// Starts with empty caches. State that must survive a restart is published in `state`.
    pub fn new(context: Context, state: watch::Sender<Option<State>>, shutdown: CancellationToken) -> Self {
        let streams = Streams::new(context.hearing.watch_scope());
        Self {
            index: Index::new(),
            queue: WorkQueue::default(),
            rate_limits: NamespaceRateLimiter::default(),
            room: Arc::new(Semaphore::new(ON_THEIR_WAY as usize)),
            entries: HashMap::new(),
            registries: HashMap::new(),
            overlaps: PrefixOverlaps::default(),
            library: Library::default(),
            sources: HashMap::new(),
            tenants: NamespaceCache::default(),
            workers: Workers::new(context, shutdown),
            streams,
            outdated: None,
            registration_lists: Relists::default(),
            registry_list: 0,
            unclear: UnclearRegistrations::default(),
            complete: false,
            state,
        }
    }

    /// Processes `news` until `shutdown`. Returns an error if a worker fails.
    pub async fn run(
        mut self,
        mut news: mpsc::Receiver<WatchEvent>,
        mut good: mpsc::UnboundedReceiver<(Arc<str>, Access)>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let (room, bypass) = (self.room.clone(), self.workers.context().bypass.clone());
        let mut passed_on = PassedOn::All;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                failure = self.workers.failure() => return Err(failure),
                Some((registry, access)) = good.recv() => self.is_good(&registry, access),
                first = news.recv() => {
                    let Some(first) = first else { break };
                    self.take(first, Instant::now());
                    for _ in 1..BATCH {
                        match news.try_recv() {
                            Ok(next) => self.take(next, Instant::now()),
                            Err(_) => break,
                        }
                    }
                }
                // Wait until half of the permits are free: a worker processes commands that arrive together as one
                // batch.
                freed = room.acquire_many(ON_THEIR_WAY / 2), if passed_on == PassedOn::Enough => drop(freed),
                () = tokio::task::yield_now(), if passed_on == PassedOn::Some => {}
                () = passed_on.pause() => {}
                () = bypass.begins() => {}
            }
            passed_on = self.pass_on();
            self.tell_progress();
            self.count();
        }
        self.workers.retire().await;
        Ok(())
    }

    /// Sends the workers the freshness of the caches, after the events that it covers.
    fn tell_progress(&mut self) {
        while let Some(Bookmark {
            stream,
            version,
            present,
        }) = self.queue.take_reached()
        {
            self.streams.reach(&stream, version, present);
        }
        if let Some(progress) = self.streams.take_progress() {
            self.workers.send_all(|| Command::Freshness(progress.clone()));
        }
    }

    fn count(&self) {
        let metrics = &self.workers.context().metrics;
        metrics.set_pods(self.index.pod_count());
        metrics.set_registrations(self.entries.len());
    }

    fn take(&mut self, news: WatchEvent, now: Instant) {
        match news {
            WatchEvent::Cluster(id) => self.cluster(id),
            WatchEvent::Bookmark {
                stream,
                version,
                present,
            } => self.queue.reach(Bookmark {
                stream,
                version,
                present,
            }),
            WatchEvent::Pod(area, seen) => {
                self.streams.note(PODS, &area, &seen);
                self.pod(&area, seen, now);
            }
            WatchEvent::Registration(area, seen) => {
                self.streams.note(REGISTRATIONS, &area, &seen);
                self.registration(&area, seen, now);
            }
            WatchEvent::Registry(seen) => {
                self.streams.note(REGISTRIES, &NamespaceScope::Cluster, &seen);
                self.registry(seen, now);
                self.remember();
            }
            WatchEvent::RecordFormat(seen) => {
                self.streams.note(RECORD_FORMATS, &NamespaceScope::Cluster, &seen);
                self.record_format(seen, now);
            }
            WatchEvent::Source(source, content) => self.source(source, content, now),
            WatchEvent::Namespace(area, seen) => {
                self.streams.note(NAMESPACES, &area, &seen);
                self.namespace(&area, seen, now);
            }
        }
    }

    /// Re-evaluates which caches are complete or stale. Call after a list has completed, a watch has been lost, or a
    /// namespace has appeared or disappeared.
    fn weigh(&mut self, now: Instant) {
        for stream in self.streams.find_void(&self.tenants) {
            tracing::info!(%stream, "the namespace does not exist; its watch counts as complete and empty");
            if stream.kind == PODS {
                // The pods were deleted with the namespace, although no watch event reported it.
                self.pass_on_all();
                self.index.begin_pod_relist(&stream.area);
                let touches = self.index.end_pod_relist(&stream.area);
                self.forward_missing(touches, now);
            }
        }
        self.tell_complete();
        let outdated = self.streams.outdated();
        let is_stale = outdated.as_ref().is_some_and(Outdated::is_general);
        self.workers.context().peers.state_fresh(self.complete && !is_stale);
        if self.outdated != outdated {
            self.outdated.clone_from(&outdated);
            self.workers
                .send_all(|| Command::KubernetesIsOutdated(outdated.clone()));
        }
    }

    fn pod(&mut self, area: &NamespaceScope, seen: ObjectEvent<Pod>, now: Instant) {
        match seen {
            // Until the caches are complete no key is written, so only then do events need a fair queue.
            ObjectEvent::Applied(pod) if self.complete => return self.queue.applied(pod, now),
            ObjectEvent::Deleted { namespace, name } if self.complete => {
                return self.queue.deleted(&namespace, &name, now);
            }
            _ => {}
        }
        // The begin and the end of a list apply to all pods, so the index must contain the queued events first.
        self.pass_on_all();
        let touches = match seen {
            ObjectEvent::ListBegins => {
                self.index.begin_pod_relist(area);
                return;
            }
            ObjectEvent::Applied(pod) => self.index.apply_pod(&pod),
            ObjectEvent::Deleted { namespace, name } => self.index.delete_pod(&namespace, &name),
            ObjectEvent::Unreadable { namespace, name, .. } => {
                self.index.keep_pod(&namespace, &name);
                return;
            }
            ObjectEvent::Lost(_) => return self.weigh(now),
            ObjectEvent::ListComplete => {
                let touches = self.index.end_pod_relist(area);
                self.forward_missing(touches, now);
                self.streams.listed(PODS, area);
                return self.weigh(now);
            }
        };
        self.forward(touches, now);
    }

    /// Processes queued items, the namespaces in turn, until [`SLICE`] is over or no permit is left.
    fn pass_on(&mut self) -> PassedOn {
        let (now, is_bypassed) = (Instant::now(), self.workers.context().bypass.is_needed());
        while !self.queue.is_empty() {
            let Ok(slip) = self.room.clone().try_acquire_owned() else {
                return PassedOn::Enough;
            };
            let again_at = Cell::new(None::<Instant>);
            let next = self.queue.next_of(|namespace| {
                let waits = self.rate_limits.waits_until(namespace, now).filter(|_| !is_bypassed);
                again_at.set(waits.into_iter().chain(again_at.get()).min());
                waits.is_none()
            });
            match next {
                Some(next) => self.pass_on_this(next, Some(slip), now),
                None => return again_at.get().map_or(PassedOn::All, PassedOn::Paced),
            }
            if now.elapsed() >= SLICE {
                return PassedOn::Some;
            }
        }
        PassedOn::All
    }

    /// Processes all queued items, without regard to permits and rate limits.
    fn pass_on_all(&mut self) {
        let now = Instant::now();
        while let Some(next) = self.queue.next_of(|_| true) {
            self.pass_on_this(next, None, now);
        }
    }

    fn pass_on_this(&mut self, next: WorkItem, slip: Option<OwnedSemaphorePermit>, now: Instant) {
        match next {
            WorkItem::Pod(name, mut heard) => {
                let mut cost = 1;
                if heard.deleted {
                    let touches = self.index.delete_pod(&name.0, &name.1);
                    cost += touches.len() / FINDING;
                    self.queue.touch(&heard, touches, true);
                }
                if let Some(pod) = heard.last.take() {
                    let touches = self.index.apply_pod(&pod);
                    cost += touches.len() / FINDING;
                    self.queue.touch(&heard, touches, false);
                }
                self.queue.done_pod(&name, &heard, cost);
            }
            WorkItem::DirtyMark(DirtyMark { registration, pod }, touched) => {
                if let Some((registry, command)) = self.command_for(&registration, pod, false, touched.at) {
                    self.workers
                        .send(registry, command.after_the_last(touched.deleted).with(slip));
                    let limits = self.registries.get(registry).map(|known| &known.spec().limits);
                    let per_second = limits.map_or(u32::MAX, |limits| limits.changes_per_second_per_namespace);
                    self.rate_limits.spend(&registration.namespace, per_second, now);
                }
                self.queue.done_touch(&touched);
            }
        }
    }

    /// Sends the workers the new state of each marked pod.
    fn forward(&self, touches: Vec<DirtyMark>, heard: Instant) {
        for DirtyMark { registration, pod } in touches {
            self.forward_pod(&registration, pod, heard);
        }
    }

    fn forward_pod(&self, registration: &RegistrationRef, pod: Arc<str>, heard: Instant) {
        if let Some((registry, command)) = self.command_for(registration, pod, false, heard) {
            self.workers.send(registry, command);
        }
    }

    /// Sends each worker all pods that are missing in a list as one command: only the whole set shows a mass removal.
    fn forward_missing(&self, touches: Vec<DirtyMark>, heard: Instant) {
        let mut commands: BTreeMap<&str, Vec<Command>> = BTreeMap::new();
        for DirtyMark { registration, pod } in touches {
            if let Some((registry, command)) = self.command_for(&registration, pod, true, heard) {
                commands.entry(registry).or_default().push(command);
            }
        }
        for (registry, commands) in commands {
            self.workers.send(registry, Command::Together(commands));
        }
    }

    /// Returns the command for a registration's pod, and the Registry whose worker receives it. `missing`: a list did
    /// not contain the pod.
    fn command_for(
        &self,
        registration: &RegistrationRef,
        pod: Arc<str>,
        missing: bool,
        heard: Instant,
    ) -> Option<(&str, Command)> {
        let compiled = self.entries.get(registration).and_then(Entry::in_force)?;
        let if_ready = || self.index.view_if_ready(registration, &pod);
        let view = self.index.view(registration, &pod);
        let command = Command::Pod {
            registration: registration.clone(),
            presence: match &compiled.previous {
                None => PodState::of(view, if_ready, missing, &compiled.bindings),
                Some(_) => PodState::of(view, if_ready, missing, &compiled.bindings)
                    .keeping(|| compiled.previously(&self.index, &pod), compiled.is_newly_aside()),
            },
            pod,
            selected: self.index.selected_count(registration),
            heard,
            slip: None,
        };
        Some((&compiled.registration.registry, command))
    }

    /// Notifies the workers once when all caches are complete.
    fn tell_complete(&mut self) {
        if self.streams.are_complete() && !std::mem::replace(&mut self.complete, true) {
            tracing::info!(
                pods = self.index.pod_count(),
                registrations = self.entries.len(),
                registries = self.registries.len(),
                record_formats = self.library.len(),
                "all Kubernetes caches are complete"
            );
            self.workers.context().health.set_caches_complete(true);
            self.workers.send_all(|| Command::KubernetesIsComplete);
        }
    }
}
