//! All that Kubernetes says goes through here: pods into the index, registrations to the registrar of their Registry,
//! and what the index says has changed after them.
//!
//! Owns the index and the decision whether a registration can be carried out ([`admission`]). Knows nothing of etcd.

mod admission;
mod backlog;
mod credentials;
mod paces;
mod record_formats;
mod registries;
mod staff;
mod tenants;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::admission::Entry;
use self::backlog::{Backlog, Next, Reached};
use self::paces::Paces;
use self::record_formats::Library;
use self::registries::Known;
use self::staff::Staff;
use super::failure::Failure;
use super::neighbours::Neighbours;
use super::registrar::{Context, Order};
use super::state::State;
use crate::cluster::{Content, KINDS, News, Seen, Source};
use crate::etcd::Access;
use crate::index::{Index, Pod, RegistrationRef, Tenants, Touch};
use crate::plan::{Presence, Progress};

/// News taken in without a look at anything else.
const BATCH: usize = 256;
/// For how long something is passed on without a look at the news: what comes for another namespace meanwhile waits.
const SLICE: Duration = Duration::from_millis(1);
/// So many orders about pods may be on their way to the registrars, who take them first in, first out: the others wait
/// here, where the namespaces are served in turn.
const ON_THEIR_WAY: u32 = 64;
/// A pod's registrations are found this many times as fast as they are told of it.
const FINDING: usize = 8;

/// Which object kinds have been listed completely.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "one for each kind, and each on its own")]
struct Listed {
    pods: bool,
    registrations: bool,
    registries: bool,
    record_formats: bool,
    namespaces: bool,
}

impl Listed {
    fn all(self) -> bool {
        self.pods && self.registrations && self.registries && self.record_formats && self.namespaces
    }
}

/// Since when what is known of each kind of object is outdated, because its watch has been broken for long.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    pods: Option<Timestamp>,
    registrations: Option<Timestamp>,
    registries: Option<Timestamp>,
    record_formats: Option<Timestamp>,
    namespaces: Option<Timestamp>,
}

impl Lost {
    fn first(self) -> Option<Timestamp> {
        let kinds = [
            self.pods,
            self.registrations,
            self.registries,
            self.record_formats,
            self.namespaces,
        ];
        kinds.into_iter().flatten().min()
    }
}

/// How far what waits was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PassedOn {
    /// Nothing waits any more.
    All,
    /// The rest can be at once.
    Some,
    /// The registrars have enough to do.
    Enough,
    /// Whose turn it would be have had more than their share until then.
    Paced(Instant),
}

impl PassedOn {
    /// Until those may have their turn who have had more than their share; for ever if that is not what is waited for.
    async fn pause(self) {
        match self {
            Self::Paced(until) => tokio::time::sleep_until(until.into()).await,
            Self::All | Self::Some | Self::Enough => std::future::pending().await,
        }
    }
}

/// What Kubernetes has said so far.
pub struct Intake {
    index: Index,
    /// What was heard of pods and is not in the index yet, and what the registrars have not been told.
    backlog: Backlog,
    /// Which namespaces change too fast.
    paces: Paces,
    /// For orders about pods that are on their way.
    room: Arc<Semaphore>,
    entries: HashMap<RegistrationRef, Entry>,
    registries: HashMap<Arc<str>, Known>,
    /// Whose formats get into whose consumers.
    neighbours: Neighbours,
    library: Library,
    /// What is in the objects that Registries name, as far as it has been told.
    sources: HashMap<Source, Content>,
    tenants: Tenants,
    staff: Staff,
    listed: Listed,
    lost: Lost,
    /// Since when anything is, as last told to the registrars.
    outdated: Option<Timestamp>,
    /// How far each kind has been heard and taken in.
    progress: Progress,
    /// Whether that is farther than the registrars were told.
    progressed: bool,
    /// Counts the complete lists of registrations and Registries: what is marked by an older one is gone.
    registration_list: u64,
    registry_list: u64,
    /// Registrations whose spec, or whole object, makes no sense, so that where their keys lie is not known.
    unclear: HashSet<RegistrationRef>,
    /// Whether there are any, as last told to the registrars.
    some_are_unclear: bool,
    /// Whether the registrars were told that Kubernetes has told everything.
    complete: bool,
    /// What a replica needs that starts while Kubernetes says nothing.
    state: watch::Sender<Option<State>>,
}

impl Intake {
    /// Nothing has been said yet. What is to outlive the process goes to `state`.
    pub fn new(context: Context, state: watch::Sender<Option<State>>, shutdown: CancellationToken) -> Self {
        Self {
            index: Index::new(),
            backlog: Backlog::default(),
            paces: Paces::default(),
            room: Arc::new(Semaphore::new(ON_THEIR_WAY as usize)),
            entries: HashMap::new(),
            registries: HashMap::new(),
            neighbours: Neighbours::default(),
            library: Library::default(),
            sources: HashMap::new(),
            tenants: Tenants::default(),
            staff: Staff::new(context, shutdown),
            listed: Listed::default(),
            lost: Lost::default(),
            outdated: None,
            progress: Progress::new(KINDS),
            progressed: false,
            registration_list: 0,
            registry_list: 0,
            unclear: HashSet::new(),
            some_are_unclear: false,
            complete: false,
            state,
        }
    }

    /// Takes in `news` until `shutdown`. An error means that a part has ended that never should.
    pub async fn run(
        mut self,
        mut news: mpsc::Receiver<News>,
        mut good: mpsc::UnboundedReceiver<(Arc<str>, Access)>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let (room, haste) = (self.room.clone(), self.staff.context().haste.clone());
        let mut passed_on = PassedOn::All;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                failure = self.staff.failure() => return Err(failure),
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
                // Not before half of it is free: the registrars take what comes together together.
                freed = room.acquire_many(ON_THEIR_WAY / 2), if passed_on == PassedOn::Enough => drop(freed),
                () = tokio::task::yield_now(), if passed_on == PassedOn::Some => {}
                () = passed_on.pause() => {}
                () = haste.begins() => {}
            }
            passed_on = self.pass_on();
            self.tell_progress();
            self.count();
        }
        self.staff.retire().await;
        Ok(())
    }

    /// Tells the registrars how far they have heard, after what they have heard.
    fn tell_progress(&mut self) {
        while let Some(Reached { what, version, present }) = self.backlog.take_reached() {
            self.progress.reach(what, version);
            if let Some((present, asked)) = present {
                self.progress.compare(what, present, asked);
            }
            self.progressed = true;
        }
        if std::mem::take(&mut self.progressed) {
            self.staff.order_all(|| Order::Progress(self.progress.clone()));
        }
    }

    fn count(&self) {
        let metrics = &self.staff.context().metrics;
        metrics.set_pods(self.index.pod_count());
        metrics.set_registrations(self.entries.len());
    }

    fn take(&mut self, news: News, now: Instant) {
        match news {
            News::Cluster(id) => self.cluster(id),
            News::Reached { what, version, present } => self.backlog.reach(Reached { what, version, present }),
            News::Pod(seen) => {
                note_lost(&mut self.lost.pods, &seen);
                self.pod(seen, now);
            }
            News::Registration(seen) => {
                note_lost(&mut self.lost.registrations, &seen);
                self.registration(seen, now);
            }
            News::Registry(seen) => {
                note_lost(&mut self.lost.registries, &seen);
                self.registry(seen, now);
                self.remember();
            }
            News::RecordFormat(seen) => {
                note_lost(&mut self.lost.record_formats, &seen);
                self.record_format(seen, now);
            }
            News::Source(source, content) => self.source(source, content, now),
            News::Namespace(seen) => {
                note_lost(&mut self.lost.namespaces, &seen);
                self.namespace(seen, now);
            }
        }
        // After what the list has told.
        let outdated = self.lost.first();
        if std::mem::replace(&mut self.outdated, outdated) != outdated {
            self.staff.order_all(|| Order::KubernetesIsOutdated(outdated));
        }
    }

    fn pod(&mut self, seen: Seen<Pod>, now: Instant) {
        match seen {
            // Before everything is known nobody is served, and so nobody waits.
            Seen::Applied(pod) if self.complete => return self.backlog.applied(pod, now),
            Seen::Deleted { namespace, name } if self.complete => {
                return self.backlog.deleted(&namespace, &name, now);
            }
            _ => {}
        }
        // Lists begin and end for all pods.
        self.pass_on_all();
        let touches = match seen {
            Seen::ListBegins => {
                self.index.begin_pod_relist();
                return;
            }
            Seen::Applied(pod) => self.index.apply_pod(&pod),
            Seen::Deleted { namespace, name } => self.index.delete_pod(&namespace, &name),
            Seen::Unreadable { namespace, name, .. } => {
                self.index.keep_pod(&namespace, &name);
                return;
            }
            Seen::Lost(_) => return,
            Seen::ListComplete => {
                let touches = self.index.end_pod_relist();
                self.forward_missing(touches, now);
                self.listed.pods = true;
                self.listed_one();
                return;
            }
        };
        self.forward(touches, now);
    }

    /// Passes on what waits, the namespaces in turn, for a while and as long as there is room.
    fn pass_on(&mut self) -> PassedOn {
        let (now, is_hasty) = (Instant::now(), self.staff.context().haste.is_needed());
        while !self.backlog.is_empty() {
            let Ok(slip) = self.room.clone().try_acquire_owned() else {
                return PassedOn::Enough;
            };
            let again_at = Cell::new(None::<Instant>);
            let next = self.backlog.next_of(|namespace| {
                let waits = self.paces.waits_until(namespace, now).filter(|_| !is_hasty);
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

    /// Passes on everything that waits, whether there is room or not.
    fn pass_on_all(&mut self) {
        let now = Instant::now();
        while let Some(next) = self.backlog.next_of(|_| true) {
            self.pass_on_this(next, None, now);
        }
    }

    fn pass_on_this(&mut self, next: Next, slip: Option<OwnedSemaphorePermit>, now: Instant) {
        match next {
            Next::Pod(name, mut heard) => {
                let mut cost = 1;
                if heard.deleted {
                    let touches = self.index.delete_pod(&name.0, &name.1);
                    cost += touches.len() / FINDING;
                    self.backlog.touch(&heard, touches, true);
                }
                if let Some(pod) = heard.last.take() {
                    let touches = self.index.apply_pod(&pod);
                    cost += touches.len() / FINDING;
                    self.backlog.touch(&heard, touches, false);
                }
                self.backlog.done_pod(&name, &heard, cost);
            }
            Next::Touch(Touch { registration, pod }, touched) => {
                if let Some((registry, order)) = self.order_of(&registration, pod, false, touched.at) {
                    self.staff
                        .order(registry, order.after_the_last(touched.deleted).with(slip));
                    let limits = self.registries.get(registry).map(|known| &known.spec().limits);
                    let per_second = limits.map_or(u32::MAX, |limits| limits.changes_per_second_per_namespace);
                    self.paces.spend(&registration.namespace, per_second, now);
                }
                self.backlog.done_touch(&touched);
            }
        }
    }

    /// Tells the registrars what has changed for which registration's pod.
    fn forward(&self, touches: Vec<Touch>, heard: Instant) {
        for Touch { registration, pod } in touches {
            self.forward_pod(&registration, pod, heard);
        }
    }

    fn forward_pod(&self, registration: &RegistrationRef, pod: Arc<str>, heard: Instant) {
        if let Some((registry, order)) = self.order_of(registration, pod, false, heard) {
            self.staff.order(registry, order);
        }
    }

    /// Tells each registrar at once what a list did not name: that many are missing shows only when all are known.
    fn forward_missing(&self, touches: Vec<Touch>, heard: Instant) {
        let mut orders: BTreeMap<&str, Vec<Order>> = BTreeMap::new();
        for Touch { registration, pod } in touches {
            if let Some((registry, order)) = self.order_of(&registration, pod, true, heard) {
                orders.entry(registry).or_default().push(order);
            }
        }
        for (registry, orders) in orders {
            self.staff.order(registry, Order::Together(orders));
        }
    }

    /// What is to be said of a registration's pod, and to the registrar of which Registry. `missing` when a list did
    /// not name the pod.
    fn order_of(
        &self,
        registration: &RegistrationRef,
        pod: Arc<str>,
        missing: bool,
        heard: Instant,
    ) -> Option<(&str, Order)> {
        let compiled = self.entries.get(registration).and_then(Entry::in_force)?;
        let if_ready = || self.index.view_if_ready(registration, &pod);
        let view = self.index.view(registration, &pod);
        let order = Order::Pod {
            registration: registration.clone(),
            presence: Presence::of(view, if_ready, missing, &compiled.outlets),
            pod,
            selected: self.index.selected_count(registration),
            heard,
            slip: None,
        };
        Some((&compiled.registration.registry, order))
    }

    /// Tells the registrars once that all kinds have been listed.
    fn listed_one(&mut self) {
        if self.listed.all() && !std::mem::replace(&mut self.complete, true) {
            tracing::info!(
                pods = self.index.pod_count(),
                registrations = self.entries.len(),
                registries = self.registries.len(),
                record_formats = self.library.len(),
                "Kubernetes has told everything"
            );
            self.staff.context().health.set_caches_complete(true);
            self.staff.order_all(|| Order::KubernetesIsComplete);
        }
    }
}

fn note_lost<T>(lost: &mut Option<Timestamp>, seen: &Seen<T>) {
    match seen {
        Seen::Lost(since) => *lost = Some(*since),
        Seen::ListComplete => *lost = None,
        Seen::ListBegins | Seen::Applied(_) | Seen::Deleted { .. } | Seen::Unreadable { .. } => {}
    }
}
