//! A simulated Kubernetes that sends watch events, an operator with an index and a planner, and an etcd in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::GuardMode;
use crate::format::{Format, RecordFormats, Service};
use crate::index::{
    Addresses, DirtyMark, Index, Pod, PodChange, PodPort, Port, PortTarget, Registration, Selector, Target,
};
use crate::model::{Families, Fence, Key, LeaseId, NamespaceScope, Protocol, RegistrationRef, Transaction, TxnOutcome};
use crate::plan::testing::{Etcd, meta, request_leases};
use crate::plan::{
    DesiredState, FormatBinding, GuardSettings, Moment, Planner, PodState, PrefixGrant, Quota, RegistrationSettings,
    Step, Ticket,
};

const NAMESPACE: &str = "shop";
const KEYS_PER_LEASE: usize = 3;
const MAX_OPS: usize = 4;
const GUARD: GuardSettings = GuardSettings {
    mode: GuardMode::Hold,
    window: Duration::from_mins(1),
    max_loss_percent: 40,
    min_endpoints: 2,
    hold: Duration::from_mins(5),
};

/// The spec of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub created: i64,
    /// The value of the label `app` that it selects.
    pub app: String,
    /// The prefix of its Plain format.
    pub prefix: String,
    /// It has a second format, some keys of which are written as one unit.
    pub whole: bool,
    pub ttl: u32,
    /// How long its pods must have been ready, in seconds.
    pub min_ready: u16,
    pub suspended: bool,
}

/// The objects in Kubernetes: the state that every watch reaches in the end.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub pods: BTreeMap<String, Pod>,
    pub wishes: BTreeMap<String, Wish>,
}

struct Sent {
    ticket: Ticket,
    transaction: Transaction,
    verdict: Option<TxnOutcome>,
}

/// One operator: index, planner and writes.
pub struct Operator {
    index: Index,
    pub planner: Planner,
    bindings: BTreeMap<RegistrationRef, Vec<FormatBinding>>,
    /// Whether all marked pods were resolved under the present fence.
    refreshed: bool,
    fence: Fence,
    sent: Vec<Sent>,
    grants: Vec<(LeaseId, u32)>,
    complete: bool,
    generation: i64,
    began: Instant,
    pub now: Instant,
}

pub fn reference(name: &str) -> RegistrationRef {
    RegistrationRef::new(NAMESPACE, name)
}

pub fn pod(name: &str, app: &str, address: u8, state: &str, since: u32) -> Pod {
    let port = |name: &str, number| PodPort {
        name: name.to_owned(),
        number,
        protocol: Protocol::Tcp,
        host_port: None,
    };
    Pod {
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        addresses: Addresses {
            v4: (address > 0).then(|| [10, 0, 0, address].into()),
            v6: None,
        },
        ports: vec![port("grpc", 8080), port("http", 80)],
        terminal: state == "done",
        terminating: state == "ending",
        ready: state != "unready",
        ready_since: NonZeroU32::new(since).filter(|_| state != "unready"),
        ..Pod::default()
    }
}

fn bindings(wish: &Wish) -> Vec<FormatBinding> {
    let mut kinds = vec![json!({"type": "Plain", "plain": {"prefix": wish.prefix}, "ports": ["grpc"]})];
    if wish.whole {
        kinds.push(json!({"type": "Traefik", "ports": ["http"]}));
    }
    let formats = RecordFormats::new();
    let service = Service {
        namespace: NAMESPACE,
        name: "orders",
        ports: &[],
        ipv6: false,
        record_formats: &formats,
    };
    let binding = |kind| {
        let spec = serde_json::from_value(kind).expect("decodes");
        FormatBinding {
            format: Format::compile(&spec, &service).unwrap_or_else(|error| panic!("{error}")),
            sole_port: true,
            pass: PrefixGrant::Free,
        }
    };
    kinds.into_iter().map(binding).collect()
}

/// The desired state: the pods, and the formats of each registration.
struct View<'a>(&'a Index, &'a BTreeMap<RegistrationRef, Vec<FormatBinding>>);

impl DesiredState for View<'_> {
    fn selecting(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef> {
        self.0.registering(namespace, pod)
    }

    fn selects(&self, registration: &RegistrationRef, pod: &str) -> bool {
        self.0.registers(registration, pod)
    }

    fn is_alive(&self, namespace: &str, pod: &str) -> bool {
        self.0.is_alive(namespace, pod)
    }

    fn pod_state(&self, registration: &RegistrationRef, pod: &str) -> Option<PodState> {
        let Self(index, bindings) = self;
        let if_ready = || index.view_if_ready(registration, pod);
        Some(PodState::of(
            index.view(registration, pod),
            if_ready,
            bindings.get(registration)?,
        ))
    }
}

impl Operator {
    /// An operator that leads and has received no events yet.
    pub fn new(etcd: &mut Etcd) -> Self {
        etcd.forget_watches();
        let mut planner = Planner::new(meta(), KEYS_PER_LEASE);
        planner.set_guard(GUARD);
        planner.set_rate_limit(1);
        Self {
            index: Index::new(),
            planner,
            bindings: BTreeMap::new(),
            refreshed: false,
            fence: etcd.elect(),
            sent: Vec::new(),
            grants: Vec::new(),
            complete: false,
            generation: 0,
            began: Instant::now(),
            now: Instant::now(),
        }
    }

    pub fn elect(&mut self, etcd: &mut Etcd) {
        self.fence = etcd.elect();
        self.planner.becomes_leader();
        self.refreshed = false;
    }

    pub fn set_quota(&mut self, keys: Option<usize>) {
        let quota = keys.map(|keys| Quota { keys, rule: "r".into() });
        self.planner.set_quota(&NAMESPACE.into(), quota);
    }

    // ---- watch events ----

    pub fn pod_applied(&mut self, pod: &Pod) {
        match self.index.apply_pod(pod) {
            PodChange::None => {}
            change @ (PodChange::Facts | PodChange::Ending) => {
                let is_ending = change == PodChange::Ending;
                self.planner
                    .mark_pod(&NAMESPACE.into(), &pod.name.as_str().into(), is_ending, self.now);
            }
            PodChange::Selection(marks) => self.mark_changed(&marks, false),
        }
    }

    pub fn pod_deleted(&mut self, name: &str) {
        let marks = self.index.delete_pod(NAMESPACE, name);
        self.mark_changed(&marks, true);
    }

    pub fn pod_list_begins(&mut self) {
        self.index.begin_pod_relist(&NamespaceScope::Cluster);
    }

    pub fn pod_kept(&mut self, name: &str) {
        self.index.keep_pod(NAMESPACE, name);
    }

    pub fn pod_list_ends(&mut self) {
        for (DirtyMark { registration, pod }, ended) in self.index.end_pod_relist(&NamespaceScope::Cluster) {
            self.planner.set_missing(&registration, &pod, ended);
        }
    }

    pub fn registration_applied(&mut self, name: &str, wish: &Wish) {
        let reference = reference(name);
        let bindings = bindings(wish);
        let settings = RegistrationSettings {
            created: wish.created,
            ttl: wish.ttl,
            suspended: wish.suspended,
            keep_last: false,
            prefixes: bindings.iter().map(|binding| binding.format.prefix().clone()).collect(),
        };
        self.planner.set_settings(&reference, settings);
        self.bindings.insert(reference.clone(), bindings);
        self.generation += 1;
        let port = |name: &str| Port {
            name: name.into(),
            target: PortTarget::Name {
                name: name.into(),
                protocol: None,
            },
            scheme: None,
        };
        let registration = Registration {
            reference,
            uid: name.into(),
            created: wish.created,
            generation: self.generation,
            selector: Selector {
                match_labels: BTreeMap::from([("app".into(), wish.app.as_str().into())]),
                match_expressions: Vec::new(),
            },
            publish_not_ready: false,
            min_ready_seconds: NonZeroU16::new(wish.min_ready),
            target: Target::Pods,
            registry: "default".into(),
            service: "orders".into(),
            ports: vec![port("grpc"), port("http")],
            families: Families::default(),
            weight: wish.whole.then_some(1),
            version_label: None,
            metadata: Arc::default(),
            metadata_labels: Vec::new(),
            node_labels: Vec::new(),
        };
        let reference = registration.reference.clone();
        let marks = self.index.apply_registration(registration).into_iter();
        let pods = marks.map(|mark| mark.pod).collect();
        self.planner.mark_edited(&reference, pods, self.now);
    }

    pub fn registration_deleted(&mut self, name: &str) {
        let reference = reference(name);
        self.index.delete_registration(&reference);
        self.bindings.remove(&reference);
        self.planner.remove_registration(&reference);
    }

    /// Delivers a full list of `truth`: objects that are not in it are gone.
    pub fn hear_all(&mut self, truth: &Truth) {
        let stale: Vec<_> = self.bindings.keys().map(|known| known.name.to_string()).collect();
        for name in stale.iter().filter(|name| !truth.wishes.contains_key(*name)) {
            self.registration_deleted(name);
        }
        for (name, wish) in &truth.wishes {
            self.registration_applied(name, wish);
        }
        self.pod_list_begins();
        for pod in truth.pods.values() {
            self.pod_applied(pod);
        }
        self.pod_list_ends();
        self.complete();
        assert_eq!(self.index.pod_count(), truth.pods.len());
    }

    pub fn complete(&mut self) {
        self.complete = true;
        self.planner.kubernetes_is_complete();
    }

    fn mark_changed(&mut self, marks: &[DirtyMark], deleted: bool) {
        for DirtyMark { registration, pod } in marks {
            self.planner.mark_changed(registration, pod, deleted, self.now);
        }
    }

    // ---- steps of the operator ----

    pub fn step(&mut self, etcd: &mut Etcd) -> bool {
        let moment = Moment {
            now: self.now,
            unix: self.now.duration_since(self.began),
        };
        self.planner.set_time(moment);
        let is_granted = self.grant(etcd);
        let desired = View(&self.index, &self.bindings);
        if !self.refreshed || !self.planner.has_decided_leftovers() {
            self.planner.refresh_all(&desired, usize::MAX);
            self.refreshed = self.complete;
        }
        // Other namespaces are active until everything that was sent is answered.
        self.planner
            .set_activity((!self.sent.is_empty()).then_some(self.now), !self.sent.is_empty());
        let mut event = None;
        let step = loop {
            event = self.planner.decide_removals(moment, None, || "h".to_owned()).or(event);
            let step = self.planner.next(&desired, MAX_OPS);
            if step.is_some() || !self.planner.has_undecided() {
                break step;
            }
        };
        if let Some(prefixes) = self.planner.take_changed_prefixes() {
            etcd.watch(prefixes);
        }
        let Some(step) = step else {
            return is_granted | self.grant(etcd) | event.is_some();
        };
        assert!(self.complete, "nothing is done before all is heard: {step:?}");
        self.take(step);
        true
    }

    fn grant(&mut self, etcd: &mut Etcd) -> bool {
        let is_any = request_leases(&mut self.planner, etcd, &mut self.grants);
        assert!(self.grants.len() <= 40, "these are far more leases than all keys need");
        is_any
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(ticket, transaction) => self.sent.push(Sent {
                ticket,
                transaction,
                verdict: None,
            }),
            Step::Continue => {}
        }
    }

    pub fn commit(&mut self, etcd: &mut Etcd, which: usize) {
        let count = self.sent.len().max(1);
        if let Some(sent) = self.sent.get_mut(which % count)
            && sent.verdict.is_none()
        {
            sent.verdict = Some(etcd.commit(&self.fence, &sent.transaction));
        }
    }

    pub fn settle(&mut self, which: usize, lost: bool) {
        if !self.sent.is_empty() {
            let sent = self.sent.swap_remove(which % self.sent.len());
            self.planner.complete(sent.ticket, sent.verdict.filter(|_| !lost));
        }
    }

    pub fn grant_arrives(&mut self, succeeds: bool) -> bool {
        let Some((lease, ttl)) = self.grants.pop() else {
            return false;
        };
        if succeeds {
            self.planner.granted(lease, ttl);
        }
        true
    }

    pub fn deliver(&mut self, etcd: &mut Etcd, pick: usize) -> bool {
        let reported = etcd.deliver(pick);
        reported.map(|observation| self.planner.observe(observation)).is_some()
    }

    pub fn retire(&mut self) {
        for _ in 0..2 {
            if let Some(step) = self.planner.retire_leases(self.now) {
                self.take(step);
            }
            self.now += Duration::from_secs(700);
        }
    }

    /// Lets everything under way arrive and holds end, until nothing changes any more.
    pub fn come_to_rest(&mut self, etcd: &mut Etcd) {
        etcd.resume();
        for _ in 0..800 {
            let mut moved = self.step(etcd);
            while self.deliver(etcd, 0) || self.grant_arrives(true) {
                moved = true;
            }
            while !self.sent.is_empty() {
                self.commit(etcd, 0);
                self.settle(0, false);
                moved = true;
            }
            moved =
                moved || self.find_leftovers(etcd) || self.leases_lapse(etcd) || self.hold_ends() || self.wait_ends();
            if !moved {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn hold_ends(&mut self) -> bool {
        let Some(hold) = self.planner.hold() else { return false };
        self.now = self.now.max(hold.wake_at());
        true
    }

    fn wait_ends(&mut self) -> bool {
        let end = self.planner.next_available_at();
        self.now = end.map_or(self.now, |end| self.now.max(end));
        end.is_some()
    }

    /// Expires the leases that the operator does not renew.
    fn leases_lapse(&self, etcd: &mut Etcd) -> bool {
        let renewed = self.planner.lease_ids();
        let forgotten: Vec<_> = etcd.leases().filter(|lease| !renewed.contains(lease)).collect();
        for lease in &forgotten {
            etcd.expire(*lease);
        }
        !forgotten.is_empty()
    }

    fn find_leftovers(&mut self, etcd: &Etcd) -> bool {
        let leases = self.planner.lease_ids();
        let keys: BTreeSet<Key> = leases.iter().flat_map(|lease| etcd.keys_on(*lease)).collect();
        let unknown = self.planner.unknown_keys(keys.into_iter().collect::<Vec<_>>());
        for key in &unknown {
            self.planner.find_stray(key, etcd.held(key).cloned(), etcd.revision());
        }
        !unknown.is_empty()
    }
}

/// The data keys with their values. Each must be on a lease that is recorded as ours.
pub fn content(etcd: &Etcd) -> BTreeMap<Key, String> {
    let recorded = etcd.recorded();
    let of = |(key, held): (&Key, &crate::model::KeyValue)| {
        assert!(
            recorded.contains(&held.lease),
            "{key} is on {}, which nobody renews",
            held.lease
        );
        (key.clone(), String::from_utf8_lossy(&held.value).into_owned())
    };
    etcd.data().map(of).collect()
}
