//! Predicts what the operator would write, by the operator's own code up to the point where it would write. For users
//! who want to know before they apply an object.
//!
//! Pure: the caller passes in what Kubernetes and etcd contain.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compile::{self, Compiled, Invalid, References, compile};
use super::worker::guard_settings;
use crate::api::{GuardMode, RegistrySpec, ServiceRegistration};
use crate::format::RecordFormats;
use crate::index::{EndpointSlice, Index, NamespaceCache, NamespaceLabels, Node, ObjectCache, Pod, Service};
use crate::model::{
    Key, KeyValue, LeaseId, Observation, Op, OpResult, Prefix, RegistrationRef, Revision, Transaction, TxnOutcome,
    Value,
};
use crate::plan::{Conflict, EndpointKind, GuardSettings, Holder, MetaKeys, Moment, Planner, PodState, Step};

/// Why a registration would be rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A prefix of the registration overlaps the Registry's metaPrefix.
    #[error("the prefix {scope} and the Registry's metaPrefix {meta} overlap: use a prefix outside of it")]
    Reserved {
        /// The registration's prefix.
        scope: String,
        /// The Registry's metaPrefix.
        meta: String,
    },
}

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
    /// When this was so, as the time since 1970.
    pub at: Duration,
    services: ObjectCache<Service>,
    slices: ObjectCache<EndpointSlice>,
}

impl ClusterState {
    pub fn add_service(&mut self, service: Service) {
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        self.services.apply(&namespace, &name, service);
    }

    /// Adds a Service as if its manifest were applied: the server keeps what it has allocated.
    pub fn apply_service(&mut self, mut service: Service) {
        let known = self.services.get(&service.namespace, &service.name);
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
        let (namespace, name) = (slice.namespace.clone(), slice.name.clone());
        self.slices.apply(&namespace, &name, slice);
    }

    fn references<'a>(&'a self, record_formats: &'a RecordFormats, registry: &'a RegistrySpec) -> References<'a> {
        References {
            record_formats,
            default_formats: &registry.defaults.formats,
            services: &self.services,
            slices: &self.slices,
        }
    }
}

/// Whether the prefixes of the two registrations overlap. An invalid registration has no prefixes.
pub fn meet(
    a: &ServiceRegistration,
    b: &ServiceRegistration,
    cluster: &ClusterState,
    record_formats: &RecordFormats,
    registry: &RegistrySpec,
) -> bool {
    let scopes = |registration| {
        let compiled = compile(registration, cluster.references(record_formats, registry));
        let bindings = compiled.map(|compiled| compiled.bindings).unwrap_or_default();
        bindings
            .into_iter()
            .map(|binding| binding.format.scope().clone())
            .collect()
    };
    let (a, b): (Vec<Prefix>, Vec<Prefix>) = (scopes(a), scopes(b));
    let near = |a: &Prefix, b: &Prefix| a.contains(b.prefix()) || b.contains(a.prefix());
    a.iter().any(|a| b.iter().any(|b| near(a, b)))
}

/// A registration of the preview.
struct Part {
    compiled: Compiled,
    /// Why some formats may not be written.
    denial: Option<String>,
    /// The prefixes of its keys, by its current and its earlier specs.
    scopes: BTreeSet<Prefix>,
}

/// Returns settings under which every unconfirmed removal is a decision of the guard.
fn decide_everything(spec: &RegistrySpec) -> GuardSettings {
    match spec.guard.mode {
        GuardMode::Off => GuardSettings::OFF,
        GuardMode::Warn | GuardMode::Hold => GuardSettings::EVERYTHING,
    }
}

/// The operator of one Registry, without connections to Kubernetes and etcd.
pub struct Preview {
    spec: RegistrySpec,
    cluster: ClusterState,
    index: Index,
    tenants: NamespaceCache,
    planner: Planner,
    parts: BTreeMap<RegistrationRef, Part>,
    in_etcd: BTreeMap<Key, KeyValue>,
    /// The endpoints of registrations that are not passed in.
    endpoints_of_others: usize,
    newest: Revision,
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

impl Preview {
    /// Returns a preview for the Registry `name` of the cluster `cluster_id`.
    pub fn new(cluster_id: &str, name: &str, spec: RegistrySpec, cluster: ClusterState) -> Self {
        let mut index = Index::new();
        index.begin_node_relist();
        for node in &cluster.nodes {
            index.apply_node(node);
        }
        index.end_node_relist();
        for pod in &cluster.pods {
            index.apply_pod(pod);
        }
        let meta = MetaKeys::of_registry(&spec.etcd.meta_prefix, cluster_id, name);
        let keys_per_lease = usize::try_from(spec.limits.keys_per_lease).unwrap_or(usize::MAX);
        let mut planner = Planner::new(meta, keys_per_lease);
        planner.set_time(Moment {
            now: Instant::now(),
            unix: cluster.at,
        });
        planner.set_guard(decide_everything(&spec));
        Self {
            planner,
            spec,
            cluster,
            index,
            tenants: NamespaceCache::default(),
            parts: BTreeMap::new(),
            in_etcd: BTreeMap::new(),
            endpoints_of_others: 0,
            newest: 0,
        }
    }

    /// Changes the spec of the Registry. It applies to the registrations that are added afterwards, also to those that are
    /// added again.
    pub fn reconfigure(&mut self, spec: RegistrySpec) {
        self.planner.set_guard(decide_everything(&spec));
        self.spec = spec;
    }

    /// Adds a namespace. If the Registry has access rules, its namespaces must be added before their registrations:
    /// otherwise nothing is written for these.
    pub fn settle(&mut self, tenant: NamespaceLabels) {
        self.tenants.apply(tenant);
    }

    /// Adds a registration. It replaces one of the same name, like a change of the object. `record_formats` must
    /// contain the formats that it uses.
    pub fn register(
        &mut self,
        registration: &ServiceRegistration,
        record_formats: &RecordFormats,
    ) -> Result<RegistrationRef, Refusal> {
        let references = self.cluster.references(record_formats, &self.spec);
        let mut compiled = compile(registration, references)?;
        if let Some(reserved) = compiled.reserved([("", &self.spec)].into_iter()) {
            return Err(Refusal::Reserved {
                scope: reserved.scope.prefix().to_owned(),
                meta: self.spec.etcd.meta_prefix.clone(),
            });
        }
        let reference = compile::reference(registration);
        if let Some(former) = self.parts.get(&reference)
            && !former.compiled.identity.is_same(&compiled.identity)
        {
            let previous = Compiled {
                previous: None,
                ..former.compiled.clone()
            };
            compiled.previous = Some(Box::new(previous));
        }
        let verdict = compiled.submit(&self.spec, &self.tenants);
        let settings = compiled.settings(&self.spec);
        let mut scopes: BTreeSet<Prefix> = settings.prefixes.iter().cloned().collect();
        self.planner.set_settings(&reference, settings);
        self.planner.set_quota(&reference.namespace, verdict.quota);
        self.planner.forbid(&reference, verdict.forbidden);
        if let Some(former) = self.parts.get(&reference)
            && former.compiled.registration == compiled.registration
        {
            // A RecordFormat may have changed what the formats write, and the index does not see that.
            self.index.delete_registration(&reference);
        }
        for touch in self.index.apply_registration(compiled.registration.clone()) {
            let if_ready = || self.index.view_if_ready(&reference, &touch.pod);
            let view = self.index.view(&reference, &touch.pod);
            let presence = PodState::of(view, if_ready, &compiled.bindings)
                .keeping(|| compiled.previously(&self.index, &touch.pod), false);
            self.planner.set_pod_state(&reference, &touch.pod, presence);
        }
        if let Some(former) = self.parts.remove(&reference) {
            scopes.extend(former.scopes);
        }
        let part = Part {
            compiled,
            denial: verdict.denial,
            scopes,
        };
        self.parts.insert(reference.clone(), part);
        Ok(reference)
    }

    /// Returns the prefixes to pass to [`Self::observe`]: the operator's own records and those of the registrations.
    pub fn scopes(&mut self) -> BTreeSet<Prefix> {
        self.planner.take_changed_prefixes().unwrap_or_default()
    }

    /// Adds the endpoints of registrations that are not passed in. The guard measures a loss against them, too.
    pub fn add_endpoints(&mut self, count: usize) {
        self.endpoints_of_others += count;
    }

    /// Adds the keys that etcd has below `scope` at `revision`.
    pub fn observe(&mut self, scope: Prefix, revision: Revision, entries: Vec<(Key, KeyValue)>) {
        self.newest = self.newest.max(revision);
        self.in_etcd.extend(entries.iter().cloned());
        self.planner.observe(Observation::Snapshot {
            scope,
            revision,
            entries,
        });
    }

    /// Simulates the planner's transactions until nothing is left to do. Returns the outcome of each registration of
    /// `wanted`.
    pub fn outcomes(mut self, wanted: &[RegistrationRef]) -> Vec<Outcome> {
        self.planner.kubernetes_is_complete();
        let mut unconfirmed = UnconfirmedRemovals::default();
        let mut written: BTreeMap<Key, Option<Value>> = BTreeMap::new();
        let mut next_lease = i64::MAX;
        self.approve(&mut unconfirmed);
        // What the newest spec replaces is in doubt only once its keys can be written.
        loop {
            self.carry_out(&mut written, &mut next_lease);
            if !self.approve(&mut unconfirmed) {
                break;
            }
        }
        let held = self.held_back(unconfirmed);
        let outcome = |registration| self.outcome(registration, &written, &held);
        wanted.iter().filter_map(outcome).collect()
    }

    /// Simulates transactions until the planner has nothing to do.
    fn carry_out(&mut self, written: &mut BTreeMap<Key, Option<Value>>, next_lease: &mut i64) {
        while let Some(step) = self.planner.next(&(), Transaction::MAX_OPS, 0) {
            match step {
                Step::Continue => {}
                Step::Grant { ttl, count } => {
                    for _ in 0..count {
                        self.planner.granted(LeaseId(*next_lease), ttl);
                        *next_lease -= 1;
                    }
                }
                Step::Write(ticket, transaction) => {
                    self.newest += 1;
                    let verdict = TxnOutcome::Applied {
                        revision: self.newest,
                        results: transaction.ops.iter().map(|_| OpResult::Done).collect(),
                    };
                    self.planner.complete(ticket, Some(verdict));
                    written.extend(transaction.ops.into_iter().filter_map(|op| match op {
                        Op::Put { key, value, .. } => Some((key, Some(value))),
                        Op::Delete { key, .. } => Some((key, None)),
                        Op::Check { .. } => None,
                    }));
                }
            }
        }
    }

    /// Approves the removals that are unconfirmed, so that the plan continues, and adds them to `unconfirmed`. Returns whether
    /// there were any.
    fn approve(&mut self, unconfirmed: &mut UnconfirmedRemovals) -> bool {
        // The guard uses only the time between two moments, and here is only one.
        let moment = Moment {
            now: Instant::now(),
            unix: Duration::ZERO,
        };
        self.planner.decide_removals(moment, None, || "plan".to_owned());
        let Some(hold) = self.planner.hold() else {
            return false;
        };
        unconfirmed.keys.extend(hold.keys().cloned());
        unconfirmed.lost += hold.lost;
        unconfirmed.of = unconfirmed.of.max(hold.of);
        let id = hold.id.clone();
        self.planner.decide_removals(moment, Some(&id), String::new);
        true
    }

    /// Returns the keys that the guard would hold back.
    fn held_back(&self, unconfirmed: UnconfirmedRemovals) -> BTreeSet<Key> {
        let settings = guard_settings(&self.spec.guard);
        let of = unconfirmed.of + self.endpoints_of_others;
        let is_held = settings.mode == GuardMode::Hold && settings.is_above(unconfirmed.lost, of);
        if is_held { unconfirmed.keys } else { BTreeSet::new() }
    }

    fn outcome(
        &self,
        registration: &RegistrationRef,
        written: &BTreeMap<Key, Option<Value>>,
        held: &BTreeSet<Key>,
    ) -> Option<Outcome> {
        let (part, report) = (self.parts.get(registration)?, self.planner.report(registration)?);
        let others: HashSet<&Key> = report
            .conflicts
            .iter()
            .filter(|conflict| conflict.holder != Holder::Registration(registration.clone()))
            .map(|conflict| &conflict.key)
            .collect();
        let mut keys = BTreeMap::new();
        for key in report.endpoints.iter().flat_map(|endpoint| &endpoint.keys) {
            if let Some(change) = self.change(key, written).filter(|_| !others.contains(key)) {
                keys.insert(key.clone(), change);
            }
        }
        for (key, _) in written.iter().filter(|(_, value)| value.is_none()) {
            if part.scopes.iter().any(|scope| scope.contains(key))
                && let Some(held) = self.in_etcd.get(key)
            {
                keys.insert(key.clone(), Change::Remove(held.value.clone()));
            }
        }
        let mut problems = report.problems;
        let obstacles = part.compiled.obstacle.iter().chain(&part.compiled.missing);
        let obstacles = obstacles.map(|obstacle| &obstacle.message);
        for problem in part.denial.iter().chain(obstacles) {
            problems.entry(problem.clone()).or_default();
        }
        let removed = |key: &&Key| matches!(keys.get(*key), Some(Change::Remove(_)));
        Some(Outcome {
            kept: report.kept.cloned(),
            held: held.iter().filter(removed).cloned().collect(),
            registration: registration.clone(),
            kind: part.compiled.kind(),
            selected: self.index.selected_count(registration),
            ready: report.ready,
            waiting: report
                .waiting
                .into_iter()
                .filter(|pod| report.kept != Some(*pod))
                .cloned()
                .collect(),
            suspended: part.compiled.suspended,
            keys,
            conflicts: report.conflicts,
            problems,
        })
    }

    /// Returns what would happen to a key that exists at the end.
    fn change(&self, key: &Key, written: &BTreeMap<Key, Option<Value>>) -> Option<Change> {
        let before = self.in_etcd.get(key).map(|held| held.value.clone());
        match (before, written.get(key)) {
            (None, Some(Some(after))) => Some(Change::Create(after.clone())),
            (Some(before), Some(Some(after))) if before == *after => Some(Change::Move(before)),
            (Some(before), Some(Some(after))) => Some(Change::Replace {
                before,
                after: after.clone(),
            }),
            (Some(before), None) => Some(Change::Keep(before)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
