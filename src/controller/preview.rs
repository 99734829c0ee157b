//! Predicts what the operator would write, by the operator's own code up to the point where it would write. For users
//! who want to know before they apply an object.
//!
//! Makes no calls: the caller passes in what Kubernetes and etcd contain.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::iter;
use std::sync::Arc;

use kube::Resource;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::worker::{Context, PreviewWorker, guard_settings};
use super::workers::{NewWorker, Workers};
use super::{Controller, compile};
use crate::api::{Guard, GuardMode, RecordFormat, Registry, RegistrySpec, ServiceRegistration};
use crate::index::{EndpointSlice, NamespaceLabels, Node, Pod, Service};
use crate::kube::{ObjectEvent, WatchEvent};
use crate::model::{Key, KeyValue, NamespaceScope, Prefix, RegistrationRef, Revision, Value, entries_below};
use crate::plan::{Conflict, EndpointKind, Hold, Holder};

/// How long the lease of the election lasts, in seconds: longer than any preview.
const SESSION_TTL: u32 = 3600;

/// Why a registration would be rejected, in the operator's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// What would happen to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key already has the desired value.
    Keep(Value),
    /// The key would be created.
    Create(Value),
    /// The key would get another value.
    Replace {
        /// The current value.
        before: Value,
        after: Value,
    },
    /// The key would keep its value, but move to a lease with another TTL.
    Move(Value),
    /// The key would be removed; its current value.
    Remove(Value),
}

/// What would happen to one registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub registration: RegistrationRef,
    /// What it registers.
    pub kind: EndpointKind,
    /// Number of selected pods, or of nodes or addresses.
    pub selected: usize,
    /// Number of ready ones among them.
    pub ready: usize,
    /// The ready pods that would not be registered yet, because they have not been ready for `minReadySeconds`.
    pub waiting: Vec<Arc<str>>,
    pub suspended: bool,
    pub keys: BTreeMap<Key, Change>,
    /// The keys that the registration would not get, with their holders.
    pub conflicts: Vec<Conflict>,
    /// Problems as text, with the pods that have them.
    pub problems: BTreeMap<String, Vec<Arc<str>>>,
    /// The pod whose endpoint stays although the pod is not ready, because it is the last one.
    pub kept: Option<Arc<str>>,
    /// The keys to be removed that the Registry's guard would hold back first.
    pub held: BTreeSet<Key>,
}

impl Outcome {
    /// Whether any key would be written or removed.
    pub fn changes_anything(&self) -> bool {
        self.keys.values().any(|change| !matches!(change, Change::Keep(_)))
    }
}

/// What a cluster contains, as far as previews need it.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    pub pods: Vec<Pod>,
    pub nodes: Vec<Node>,
    /// By namespace and name.
    services: BTreeMap<(String, String), Service>,
    slices: BTreeMap<(String, String), EndpointSlice>,
}

impl ClusterState {
    pub fn add_service(&mut self, service: Service) {
        let key = (service.namespace.clone(), service.name.clone());
        self.services.insert(key, service);
    }

    /// Adds a Service as if its manifest were applied: the server keeps what it has allocated.
    pub fn apply_service(&mut self, mut service: Service) {
        let known = self.services.get(&(service.namespace.clone(), service.name.clone()));
        if let Some(known) = known.filter(|known| known.kind == service.kind) {
            if service.cluster_ips.is_empty() {
                service.cluster_ips = known.cluster_ips;
            }
            if service.ingress.is_empty() {
                service.ingress.clone_from(&known.ingress);
            }
            for port in service.ports.iter_mut().filter(|port| port.node_port.is_none()) {
                let mut same = known
                    .ports
                    .iter()
                    .filter(|other| (other.number, other.protocol) == (port.number, port.protocol));
                port.node_port = same.next().and_then(|other| other.node_port);
            }
        }
        self.add_service(service);
    }

    pub fn add_slice(&mut self, slice: EndpointSlice) {
        let key = (slice.namespace.clone(), slice.name.clone());
        self.slices.insert(key, slice);
    }
}

/// The operator of one Registry, without connections to Kubernetes and etcd: the controller, fed with what was listed,
/// and a worker on a store in memory with the keys of etcd.
pub struct Preview {
    name: Arc<str>,
    spec: RegistrySpec,
    controller: Box<Controller>,
    /// The workers that the controller starts.
    started: mpsc::UnboundedReceiver<NewWorker>,
    worker: Option<Box<PreviewWorker>>,
    /// The number of objects passed in. It is the generation of each: whatever is passed in again counts as edited.
    generation: i64,
    /// The prefixes of the keys of each registration, by its current and its earlier specs.
    prefixes: BTreeMap<RegistrationRef, BTreeSet<Prefix>>,
    in_etcd: BTreeMap<Key, KeyValue>,
    /// The endpoints of registrations that are not passed in.
    endpoints_of_others: usize,
}

/// What the guard would decide about.
#[derive(Debug, Default)]
struct UnconfirmedRemovals {
    keys: BTreeSet<Key>,
    /// The endpoints that would lose these keys.
    lost: usize,
    /// The known endpoints.
    of: usize,
}

/// The events of a watch that lists these objects.
fn list<T>(
    event: impl Fn(ObjectEvent<T>) -> WatchEvent,
    objects: impl IntoIterator<Item = T>,
) -> impl Iterator<Item = WatchEvent> {
    let objects = objects.into_iter().map(ObjectEvent::Applied);
    let all = iter::once(ObjectEvent::ListBegins).chain(objects);
    all.chain([ObjectEvent::ListComplete]).map(event)
}

impl Preview {
    /// Returns a preview for the Registry `name` of the cluster `cluster_id`.
    pub fn new(cluster_id: &str, name: &str, spec: RegistrySpec, cluster: ClusterState) -> Self {
        const ALL: NamespaceScope = NamespaceScope::Cluster;
        let context = Context {
            session_ttl: SESSION_TTL,
            ..Context::detached(cluster_id, "leasehold-plan")
        };
        let (starts, started) = mpsc::unbounded_channel();
        // The receiver lives as long as the controller.
        let launch = move |new, _: &mut _| drop(starts.send(new));
        let workers = Workers::new(context, CancellationToken::new(), launch);
        let mut controller = Box::new(Controller::new(workers, watch::Sender::new(None)));
        let objects = iter::once(WatchEvent::Cluster(cluster_id.into()))
            .chain(list(WatchEvent::Registry, []))
            .chain(list(WatchEvent::RecordFormat, []))
            .chain(list(|event| WatchEvent::Namespace(ALL, event), []))
            .chain(list(WatchEvent::Node, cluster.nodes))
            .chain(list(
                |event| WatchEvent::Service(ALL, event),
                cluster.services.into_values(),
            ))
            .chain(list(
                |event| WatchEvent::EndpointSlice(ALL, event),
                cluster.slices.into_values(),
            ))
            .chain(list(|event| WatchEvent::Pod(ALL, event), cluster.pods))
            .chain(list(|event| WatchEvent::Registration(ALL, event), []));
        controller.take_all(objects);
        let mut preview = Self {
            name: name.into(),
            spec: spec.clone(),
            controller,
            started,
            worker: None,
            generation: 0,
            prefixes: BTreeMap::new(),
            in_etcd: BTreeMap::new(),
            endpoints_of_others: 0,
        };
        preview.reconfigure(spec);
        preview
    }

    fn apply(&mut self, event: WatchEvent) {
        self.controller.take_all(iter::once(event));
        while let Ok(new) = self.started.try_recv() {
            self.worker = Some(Box::new(PreviewWorker::new(new)));
        }
    }

    /// Returns an object as the apiserver would return it after another edit.
    fn edited<K: Resource + Clone>(&mut self, object: &K) -> K {
        self.generation += 1;
        let mut object = object.clone();
        object.meta_mut().generation = Some(self.generation);
        object
    }

    /// Changes the spec of the Registry.
    pub fn reconfigure(&mut self, spec: RegistrySpec) {
        let mut registry = Registry::new(&self.name, spec.clone());
        let changed = &mut registry.spec;
        // The preview reads an etcd that the caller has connected to, and serves the Registry whatever its class is. One
        // worker lives through every change, like that of an operator that tests other endpoints first.
        (changed.class, changed.etcd.tls, changed.etcd.auth) = (None, None, None);
        changed.etcd.endpoints = Vec::new();
        // Limits change when something is written, not what.
        changed.limits.keys_per_second = u32::MAX;
        changed.limits.changes_per_second_per_namespace = u32::MAX;
        // Every unconfirmed removal is a decision of the guard, so that the plan can show all of them.
        if changed.guard.mode != GuardMode::Off {
            changed.guard = Guard {
                mode: GuardMode::Hold,
                window_seconds: 0,
                max_loss_percent: 0,
                min_endpoints: 1,
                ..Guard::default()
            };
        }
        self.spec = spec;
        let registry = Box::new(self.edited(&registry));
        self.apply(WatchEvent::Registry(ObjectEvent::Applied(registry)));
    }

    /// Adds a namespace. If the Registry has access rules, its namespaces must be added before their registrations:
    /// otherwise nothing is written for these.
    pub fn settle(&mut self, namespace: NamespaceLabels) {
        self.apply(WatchEvent::Namespace(
            NamespaceScope::Cluster,
            ObjectEvent::Applied(namespace),
        ));
    }

    /// Adds or replaces a RecordFormat.
    pub fn add_record_format(&mut self, format: &RecordFormat) {
        let format = Box::new(self.edited(format));
        self.apply(WatchEvent::RecordFormat(ObjectEvent::Applied(format)));
    }

    /// Adds a registration. It replaces one of the same name, like a change of the object. Of two registrations that
    /// overlap, and that have never been carried out, the first one counts as the earlier one.
    pub fn register(&mut self, registration: &ServiceRegistration) -> Result<RegistrationRef, Refusal> {
        let reference = compile::reference(registration);
        let object = ObjectEvent::Applied(Box::new(self.edited(registration)));
        self.apply(WatchEvent::Registration(NamespaceScope::Cluster, object));
        let cache = self.controller.cache.read();
        let entry = &cache.entries[&reference];
        if let Some(compiled) = entry.in_force() {
            let prefixes = self.prefixes.entry(reference.clone()).or_default();
            prefixes.extend(compiled.settings(&self.spec).prefixes);
        }
        match entry.why_refused() {
            Some(cause) => Err(Refusal(cause.trim_end_matches('.').to_owned())),
            None => Ok(reference),
        }
    }

    /// Returns the registrations without which it is not known what those of `wanted` would write: they share a namespace
    /// and so its quota, they have keys below the same prefixes, or their formats overlap.
    pub fn concerned(&self, wanted: &HashSet<RegistrationRef>) -> HashSet<RegistrationRef> {
        let namespaces: HashSet<&Arc<str>> = wanted.iter().map(|one| &one.namespace).collect();
        let prefixes: Vec<&Prefix> = wanted
            .iter()
            .filter_map(|one| self.prefixes.get(one))
            .flatten()
            .collect();
        let near = |a: &Prefix, b: &Prefix| a.contains(b.as_str()) || b.contains(a.as_str());
        let is_near = |theirs: &BTreeSet<Prefix>| theirs.iter().any(|a| prefixes.iter().any(|b| near(a, b)));
        let is_concerned = |(one, theirs): &(&RegistrationRef, &BTreeSet<Prefix>)| {
            namespaces.contains(&one.namespace) || is_near(theirs)
        };
        let concerned = self.prefixes.iter().filter(is_concerned).map(|(one, _)| one.clone());
        let overlapping = wanted.iter().flat_map(|one| self.controller.overlaps.overlapping(one));
        concerned.chain(overlapping).collect()
    }

    fn worker(&mut self) -> &mut PreviewWorker {
        self.worker.as_mut().expect("the Registry was applied")
    }

    /// Returns the prefixes to pass to [`Self::observe`]: the operator's own records and those of the registrations.
    pub fn prefixes(&mut self) -> BTreeSet<Prefix> {
        self.worker().prefixes()
    }

    /// Adds the endpoints of registrations that are not passed in. The guard measures a loss against them, too.
    pub fn add_endpoints(&mut self, count: usize) {
        self.endpoints_of_others += count;
    }

    /// Adds the keys that etcd has below `prefix` at `revision`.
    pub fn observe(&mut self, prefix: Prefix, revision: Revision, entries: Vec<(Key, KeyValue)>) {
        self.in_etcd.extend(entries.iter().cloned());
        self.worker().observe(prefix, revision, entries);
    }

    /// Has the worker carry out everything. Returns the outcome of each registration of `wanted`.
    pub async fn outcomes(&mut self, wanted: &[RegistrationRef]) -> Vec<Outcome> {
        let mut unconfirmed = UnconfirmedRemovals::default();
        let on_hold = |hold: &Hold| {
            unconfirmed.keys.extend(hold.keys().cloned());
            unconfirmed.lost += hold.lost_so_far();
            unconfirmed.of = unconfirmed.of.max(hold.of);
        };
        Box::pin(self.worker().carry_out(on_hold)).await;
        let held = self.held_back(unconfirmed);
        wanted
            .iter()
            .filter_map(|registration| self.outcome(registration, &held))
            .collect()
    }

    /// Returns the keys that the guard would hold back.
    fn held_back(&self, unconfirmed: UnconfirmedRemovals) -> BTreeSet<Key> {
        let settings = guard_settings(&self.spec.guard);
        let of = unconfirmed.of + self.endpoints_of_others;
        let is_held = settings.mode == GuardMode::Hold && settings.is_above(unconfirmed.lost, of);
        if is_held { unconfirmed.keys } else { BTreeSet::new() }
    }

    fn outcome(&self, registration: &RegistrationRef, held: &BTreeSet<Key>) -> Option<Outcome> {
        let worker = self.worker.as_ref()?;
        let cache = self.controller.cache.read();
        let compiled = cache.entries.get(registration)?.in_force()?;
        let report = worker.planner().report(registration)?;
        let is_other = |conflict: &&Conflict| conflict.holder != Holder::Registration(registration.clone());
        let others = report.conflicts.iter().filter(is_other);
        let others: HashSet<&Key> = others.map(|conflict| &conflict.key).collect();
        let mine = report.endpoints.iter().flat_map(|endpoint| &endpoint.keys);
        let mine = mine.filter(|key| !others.contains(key));
        let before = self.prefixes.get(registration).into_iter().flatten();
        let before = before.flat_map(|prefix| entries_below(&self.in_etcd, prefix.as_str()));
        let removed = before.map(|(key, _)| key).filter(|key| worker.get(key).is_none());
        let changes = mine
            .chain(removed)
            .filter_map(|key| Some((key.clone(), self.change(key, worker)?)));
        let keys: BTreeMap<Key, Change> = changes.collect();
        let mut problems = report.problems;
        let obstacles = compiled.obstacle.iter().chain(&compiled.missing);
        let obstacles = obstacles.map(|obstacle| obstacle.message.as_str());
        for problem in worker.objections(registration).chain(obstacles) {
            problems.entry(problem.to_owned()).or_default();
        }
        let is_removed = |key: &&Key| matches!(keys.get(*key), Some(Change::Remove(_)));
        let waiting = report.waiting.into_iter().filter(|pod| report.kept != Some(*pod));
        Some(Outcome {
            kept: report.kept.cloned(),
            held: held.iter().filter(is_removed).cloned().collect(),
            registration: registration.clone(),
            kind: compiled.kind(),
            selected: cache.index.selected_count(registration),
            ready: report.ready,
            waiting: waiting.cloned().collect(),
            suspended: compiled.suspended,
            keys,
            conflicts: report.conflicts,
            problems,
        })
    }

    /// Returns what happens to a key, by what etcd has and what the store in memory has at the end.
    fn change(&self, key: &Key, worker: &PreviewWorker) -> Option<Change> {
        Some(match (self.in_etcd.get(key), worker.get(key)) {
            (None, Some(after)) => Change::Create(after.value),
            (Some(before), Some(after)) if before.mod_revision == after.mod_revision => Change::Keep(after.value),
            (Some(before), Some(after)) if before.value == after.value => Change::Move(after.value),
            (Some(before), Some(after)) => Change::Replace {
                before: before.value.clone(),
                after: after.value,
            },
            (Some(before), None) => Change::Remove(before.value.clone()),
            (None, None) => return None,
        })
    }
}

#[cfg(test)]
mod tests;
