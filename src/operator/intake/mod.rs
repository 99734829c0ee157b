//! All that Kubernetes says goes through here: pods into the index, registrations to the registrar of their Registry,
//! and what the index says has changed after them.
//!
//! Owns the index and the decision whether a registration can be carried out ([`admission`]). Knows nothing of etcd.

mod admission;
mod credentials;
mod record_formats;
mod registries;
mod staff;
mod streams;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::admission::Entry;
use self::record_formats::Library;
use self::registries::Known;
use self::staff::Staff;
use self::streams::Streams;
use super::failure::Failure;
use super::neighbours::Neighbours;
use super::registrar::{Context, Order, Outdated};
use super::state::State;
use crate::cluster::{Content, NAMESPACES, News, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, Seen, Source};
use crate::etcd::Access;
use crate::index::{Area, Index, Pod, RegistrationRef, Relists, Tenants, Touch};
use crate::plan::Presence;

/// News taken in without a look at anything else.
const BATCH: usize = 256;

/// What Kubernetes has said so far.
pub struct Intake {
    index: Index,
    entries: HashMap<RegistrationRef, Entry>,
    registries: HashMap<Arc<str>, Known>,
    /// Whose formats get into whose consumers.
    neighbours: Neighbours,
    library: Library,
    /// What is in the objects that Registries name, as far as it has been told.
    sources: HashMap<Source, Content>,
    tenants: Tenants,
    staff: Staff,
    streams: Streams,
    /// What is outdated and since when, as last told to the registrars.
    outdated: Option<Outdated>,
    registration_lists: Relists,
    /// Counts the complete lists of Registries: what is marked by an older one is gone.
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
        let streams = Streams::new(context.hearing.territory());
        Self {
            index: Index::new(),
            entries: HashMap::new(),
            registries: HashMap::new(),
            neighbours: Neighbours::default(),
            library: Library::default(),
            sources: HashMap::new(),
            tenants: Tenants::default(),
            staff: Staff::new(context, shutdown),
            streams,
            outdated: None,
            registration_lists: Relists::default(),
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
                    self.tell_progress();
                    self.count();
                }
            }
        }
        self.staff.retire().await;
        Ok(())
    }

    /// Tells the registrars how far they have heard, after what they have heard.
    fn tell_progress(&mut self) {
        if let Some(progress) = self.streams.take_progress() {
            self.staff.order_all(|| Order::Progress(progress.clone()));
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
            News::Reached {
                stream,
                version,
                present,
            } => self.streams.reach(&stream, version, present),
            News::Pod(area, seen) => {
                self.streams.note(PODS, &area, &seen);
                self.pod(&area, seen, now);
            }
            News::Registration(area, seen) => {
                self.streams.note(REGISTRATIONS, &area, &seen);
                self.registration(&area, seen, now);
            }
            News::Registry(seen) => {
                self.streams.note(REGISTRIES, &Area::Cluster, &seen);
                self.registry(seen, now);
                self.remember();
            }
            News::RecordFormat(seen) => {
                self.streams.note(RECORD_FORMATS, &Area::Cluster, &seen);
                self.record_format(seen, now);
            }
            News::Source(source, content) => self.source(source, content, now),
            News::Namespace(area, seen) => {
                self.streams.note(NAMESPACES, &area, &seen);
                self.namespace(&area, seen, now);
            }
        }
    }

    /// After news of how a stream stands, and after what a list has told: what is known to be outdated may have changed.
    fn weigh(&mut self, now: Instant) {
        for stream in self.streams.find_void(&self.tenants) {
            tracing::info!(%stream, "cannot be watched, and there are none: the namespace does not exist");
            if stream.kind == PODS {
                // Its pods went with it, though nobody told.
                self.index.begin_pod_relist(&stream.area);
                let touches = self.index.end_pod_relist(&stream.area);
                self.forward_missing(touches, now);
            }
        }
        self.tell_complete();
        let outdated = self.streams.outdated();
        if self.outdated != outdated {
            self.outdated.clone_from(&outdated);
            self.staff.order_all(|| Order::KubernetesIsOutdated(outdated.clone()));
        }
    }

    fn pod(&mut self, area: &Area, seen: Seen<Pod>, now: Instant) {
        let touches = match seen {
            Seen::ListBegins => {
                self.index.begin_pod_relist(area);
                return;
            }
            Seen::Applied(pod) => self.index.apply_pod(&pod),
            Seen::Deleted { namespace, name } => self.index.delete_pod(&namespace, &name),
            Seen::Unreadable { namespace, name, .. } => {
                self.index.keep_pod(&namespace, &name);
                return;
            }
            Seen::Lost(_) => return self.weigh(now),
            Seen::ListComplete => {
                let touches = self.index.end_pod_relist(area);
                self.forward_missing(touches, now);
                self.streams.listed(PODS, area);
                return self.weigh(now);
            }
        };
        self.forward(touches, now);
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
        };
        Some((&compiled.registration.registry, order))
    }

    /// Tells the registrars once that all streams have told everything.
    fn tell_complete(&mut self) {
        if self.streams.are_complete() && !std::mem::replace(&mut self.complete, true) {
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
