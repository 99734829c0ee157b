//! Benchmarks of the planner: one pod's event from the watch to the answer of its write, a full plan, and an adoption; and
//! the bytes of a registered endpoint. Run with `cargo bench --bench plan`.
//!
//! A stand-in for etcd grants and answers at once. Its time is not part of an event's time, and is a small part of a
//! full plan's. Times are the median of several rounds; those of events run over all pods in a scattered order. Bytes are
//! those allocated and not freed, including the spare capacity of containers.

use std::alloc::System;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::api;
use leasehold::format::{Format, RecordFormats, Service};
use leasehold::index::{
    Addresses, DirtyMark, Index, Pod, PodChange, PodPort, Port, PortTarget, Registration, Selector, Target,
};
use leasehold::model::{
    Expect, Families, Key, KeyValue, LeaseId, Observation, Op, OpResult, Prefix, Protocol, RegistrationRef, Revision,
    Transaction, TxnOutcome, entries_below,
};
use leasehold::plan::{DesiredState, FormatBinding, MetaKeys, Planner, PodState, RegistrationSettings, Step};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZES: [u32; 3] = [1_000, 10_000, 50_000];
const NAMESPACES: u32 = 10;
const PODS_PER_SERVICE: u32 = 10;
const KEYS_PER_LEASE: usize = 256;
const ROUNDS: usize = 5;
const FORMATS: [api::FormatType; 2] = [api::FormatType::Plain, api::FormatType::EtcdGRPC];

fn namespace(service: u32) -> String {
    format!("team-{}", service % NAMESPACES)
}

fn pod(number: u32) -> Pod {
    pod_of(number / PODS_PER_SERVICE, number)
}

fn pod_of(service: u32, number: u32) -> Pod {
    Pod {
        namespace: namespace(service),
        name: format!("shop-backend-orders-{service:05}-7d9f6c-{number:05x}"),
        labels: BTreeMap::from([("app".to_owned(), format!("orders-{service:05}"))]),
        addresses: Addresses {
            v4: Some(Ipv4Addr::from_bits(0x0a00_0000 + number)),
            v6: None,
        },
        ports: vec![PodPort {
            name: "grpc".to_owned(),
            number: 8080,
            protocol: Protocol::Tcp,
            host_port: None,
        }],
        ready: true,
        ..Pod::default()
    }
}

fn registration(service: u32) -> Registration {
    let name: Arc<str> = format!("orders-{service:05}").into();
    Registration {
        reference: RegistrationRef::new(namespace(service), name.clone()),
        uid: "0b0e1f2a-93d4-4c55-8a6b-7c8d9e0f1a2b".into(),
        created: 1_763_700_000,
        generation: 1,
        selector: Selector {
            match_labels: BTreeMap::from([("app".into(), name.clone())]),
            ..Selector::default()
        },
        publish_not_ready: false,
        min_ready_seconds: None,
        target: Target::Pods,
        registry: "default".into(),
        service: name,
        ports: vec![Port {
            name: "grpc".into(),
            target: PortTarget::Name {
                name: "grpc".into(),
                protocol: None,
            },
            scheme: None,
        }],
        families: Families::default(),
        weight: None,
        version_label: None,
        metadata: Arc::default(),
        metadata_labels: Vec::new(),
        node_labels: Vec::new(),
    }
}

/// One key per pod for each of the formats.
fn bindings(registration: &Registration, formats: &[api::FormatType]) -> Vec<FormatBinding> {
    let spec = |kind: &api::FormatType| api::Format {
        kind: *kind,
        ..api::Format::default()
    };
    let specs: Vec<api::Format> = formats.iter().map(spec).collect();
    let service = Service {
        namespace: &registration.reference.namespace,
        name: &registration.service,
        ports: &[],
        ipv6: false,
        record_formats: &RecordFormats::new(),
    };
    let formats = Format::compile_all(&specs, &service);
    let binding = |format| FormatBinding {
        format,
        sole_port: true,
        pass: leasehold::plan::PrefixGrant::Free,
    };
    formats.expect("they are valid").into_iter().map(binding).collect()
}

/// Answers like an etcd without foreign clients.
#[derive(Default)]
struct StandIn {
    revision: Revision,
    keys: BTreeMap<Key, KeyValue>,
    leases: i64,
}

impl StandIn {
    /// Returns the same contents with texts of their own, as an operator that starts gets them.
    fn copy(&self) -> Self {
        let copied = |(key, held): (&Key, &KeyValue)| {
            let value = (*held.value).into();
            (Key::from(&**key), KeyValue { value, ..held.clone() })
        };
        Self {
            keys: self.keys.iter().map(copied).collect(),
            ..*self
        }
    }

    fn commit(&mut self, transaction: Transaction) -> TxnOutcome {
        self.revision += 1;
        let revision = self.revision;
        let results = vec![OpResult::Done; transaction.ops.len()];
        for op in transaction.ops {
            match op {
                Op::Put {
                    key,
                    value,
                    lease,
                    expect,
                } => {
                    let create_revision = match expect {
                        Expect::Absent => revision,
                        Expect::At(_) => self.keys[&key].create_revision,
                    };
                    let held = KeyValue {
                        value,
                        lease,
                        create_revision,
                        mod_revision: revision,
                    };
                    self.keys.insert(key, held);
                }
                Op::Delete { key, .. } => drop(self.keys.remove(&key)),
                Op::Check { .. } => {}
            }
        }
        TxnOutcome::Applied { revision, results }
    }
}

struct Operator {
    index: Index,
    bindings: HashMap<RegistrationRef, Vec<FormatBinding>>,
    planner: Planner,
    spent: Spent,
}

/// The parts of an event's time. None includes the time of the stand-in for etcd.
#[derive(Clone, Copy, Default)]
struct Spent {
    /// Index, keys, and the three parts below.
    all: Duration,
    mark: Duration,
    next: Duration,
    complete: Duration,
}

struct Desired<'a>(&'a Index, &'a HashMap<RegistrationRef, Vec<FormatBinding>>);

impl DesiredState for Desired<'_> {
    fn selecting(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef> {
        self.0.registering(namespace, pod)
    }

    fn selects(&self, registration: &RegistrationRef, pod: &str) -> bool {
        self.0.registers(registration, pod)
    }

    fn is_alive(&self, _: &str, _: &str) -> bool {
        true
    }

    fn pod_state(&self, registration: &RegistrationRef, pod: &str) -> Option<PodState> {
        let if_ready = || self.0.view_if_ready(registration, pod);
        let view = self.0.view(registration, pod);
        Some(PodState::of(view, if_ready, self.1.get(registration)?))
    }
}

impl Operator {
    fn new(services: u32, formats: &[api::FormatType]) -> Self {
        let (mut index, mut all) = (Index::new(), HashMap::new());
        let mut planner = Planner::new(MetaKeys::new("/leasehold/", "c1"), KEYS_PER_LEASE);
        for service in 0..services {
            let registration = registration(service);
            let bindings = bindings(&registration, formats);
            let settings = RegistrationSettings {
                created: registration.created,
                ttl: 30,
                suspended: false,
                keep_last: false,
                prefixes: bindings.iter().map(|binding| binding.format.prefix().clone()).collect(),
            };
            planner.set_settings(&registration.reference, settings);
            all.insert(registration.reference.clone(), bindings);
            index.apply_registration(registration);
        }
        Self {
            index,
            bindings: all,
            planner,
            spent: Spent::default(),
        }
    }

    fn apply(&mut self, pod: &Pod) {
        let start = Instant::now();
        let change = self.index.apply_pod(pod);
        let applied = Instant::now();
        match change {
            PodChange::None => {}
            PodChange::Facts | PodChange::Ending => {
                let (namespace, pod) = (pod.namespace.as_str().into(), pod.name.as_str().into());
                self.planner.mark_pod(&namespace, &pod, false, start);
            }
            PodChange::Selection(marks) => {
                for DirtyMark { registration, pod } in marks {
                    self.planner.mark_changed(&registration, &pod, false, start);
                }
            }
        }
        self.spent.mark += applied.elapsed();
        self.spent.all += start.elapsed();
    }

    /// Sends the contents of every prefix to the planner.
    fn survey(&mut self, etcd: &StandIn) {
        let revision = etcd.revision;
        let records = self.planner.meta().prefix().clone();
        let changes = self.planner.take_changed_prefixes().unwrap_or_default();
        for prefix in changes.added.into_iter().chain([records]) {
            let entries = entries(etcd, &prefix);
            self.planner.observe(Observation::Snapshot {
                prefix,
                revision,
                entries,
            });
        }
    }

    /// Executes all pending work; returns the number of keys written or removed.
    fn run(&mut self, etcd: &mut StandIn) -> usize {
        let mut written = 0;
        while let Some(step) = self.next(etcd) {
            match step {
                Step::Write(ticket, transaction) => {
                    written += transaction.ops.len();
                    let verdict = etcd.commit(transaction);
                    let start = Instant::now();
                    self.planner.complete(ticket, Some(verdict));
                    self.spent.complete += start.elapsed();
                    self.spent.all += start.elapsed();
                }
                Step::Continue => {}
            }
        }
        written
    }

    fn next(&mut self, etcd: &mut StandIn) -> Option<Step> {
        let start = Instant::now();
        let desired = Desired(&self.index, &self.bindings);
        let step = loop {
            let mut is_any = self.planner.offer_room();
            while let Some(ttl) = self.planner.grant_due(&[].into()) {
                etcd.leases += 1;
                self.planner.granted(LeaseId(etcd.leases), ttl);
                is_any = true;
            }
            let step = self.planner.next(&desired, Transaction::MAX_OPS);
            if step.is_some() || !is_any && self.planner.grant_due(&[].into()).is_none() {
                break step;
            }
        };
        let took = start.elapsed();
        self.spent.next += took;
        self.spent.all += took;
        step
    }
}

fn entries(etcd: &StandIn, prefix: &Prefix) -> Vec<(Key, KeyValue)> {
    let inside = entries_below(&etcd.keys, prefix.as_str());
    inside.map(|(key, held)| (key.clone(), held.clone())).collect()
}

fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
}

/// Plans everything from an empty state: two keys for each of `pods`. Total time, without decoding.
fn full_plan(pods: &[Pod]) -> (Operator, StandIn, Duration) {
    let count = u32::try_from(pods.len()).expect("a benchmark's size is small");
    let (mut operator, mut etcd) = (Operator::new(count / PODS_PER_SERVICE, &FORMATS), StandIn::default());
    operator.survey(&etcd);
    let start = Instant::now();
    for pod in pods {
        operator.apply(pod);
    }
    operator.planner.kubernetes_is_complete();
    let written = operator.run(&mut etcd);
    let took = start.elapsed();
    assert_eq!(operator.planner.key_count(), 2 * pods.len());
    assert_eq!(written, 2 * pods.len() + operator.planner.lease_ids().len());
    (operator, etcd, took)
}

/// Starts a new operator that finds everything in the desired state. Total time.
fn adoption(pods: &[Pod], etcd: &mut StandIn) -> Duration {
    let count = u32::try_from(pods.len()).expect("a benchmark's size is small");
    let mut operator = Operator::new(count / PODS_PER_SERVICE, &FORMATS);
    let start = Instant::now();
    operator.survey(etcd);
    for pod in pods {
        operator.apply(pod);
    }
    operator.planner.kubernetes_is_complete();
    assert_eq!(operator.run(etcd), 0, "nothing is written");
    start.elapsed()
}

/// Flips the readiness of each pod once, from the index to the completed write. Time per event.
fn event(operator: &mut Operator, etcd: &mut StandIn, pods: &mut [Pod]) -> Spent {
    let count = pods.len();
    operator.spent = Spent::default();
    for step in 0..count {
        // 7919 is prime and divides none of the sizes, so each pod is visited once.
        let pod = &mut pods[step * 7919 % count];
        pod.ready = !pod.ready;
        operator.apply(pod);
        assert_eq!(operator.run(etcd), 2);
    }
    let Spent {
        all,
        mark,
        next,
        complete,
    } = operator.spent;
    let [all, mark, next, complete] =
        [all, mark, next, complete].map(|spent| spent / u32::try_from(count).expect("a benchmark's size is small"));
    Spent {
        all,
        mark,
        next,
        complete,
    }
}

/// Bytes allocated and not freed since `region` began, for each of `pods`.
fn held_by_each(region: &Region<'_, System>, pods: u32) -> isize {
    let change = region.change();
    let held = change.bytes_allocated.cast_signed() - change.bytes_deallocated.cast_signed();
    held / isize::try_from(pods).expect("a benchmark's size is small")
}

/// Registers `pods` of one registration in one format, or finds them registered. Returns the bytes that each pod holds in
/// the index and the planner.
fn bytes_per_endpoint(pods: u32, is_registered: bool) -> isize {
    let start = || Operator::new(1, &FORMATS[..1]);
    let fill = |operator: &mut Operator, etcd: &mut StandIn| {
        operator.survey(etcd);
        for number in 0..pods {
            operator.apply(&pod_of(0, number));
        }
        operator.planner.kubernetes_is_complete();
        operator.run(etcd);
        assert_eq!(operator.planner.key_count(), pods as usize);
    };
    let mut registered = StandIn::default();
    if is_registered {
        fill(&mut start(), &mut registered);
    }
    let mut operator = start();
    let region = Region::new(ALLOCATOR);
    let mut etcd = registered.copy();
    fill(&mut operator, &mut etcd);
    drop(etcd);
    held_by_each(&region, pods)
}

fn main() {
    for size in SIZES {
        let (written, found) = (bytes_per_endpoint(size, false), bytes_per_endpoint(size, true));
        println!("{size:>6} pods, 1 key each: {written} bytes an endpoint, {found} if it was registered before");
    }
    let mut all = Vec::new();
    for size in SIZES {
        let mut pods: Vec<Pod> = (0..size).map(pod).collect();
        let full = median((0..ROUNDS).map(|_| full_plan(&pods).2).collect());
        let (mut operator, mut etcd, _) = full_plan(&pods);
        let adopted = median((0..ROUNDS).map(|_| adoption(&pods, &mut etcd)).collect());
        // An even number of flips: each pod ends as it began, and as many events remove as write.
        let flips: Vec<Spent> = (0..2 * ROUNDS)
            .map(|_| event(&mut operator, &mut etcd, &mut pods))
            .collect();
        let of = |part: fn(&Spent) -> Duration| median(flips.iter().map(part).collect());
        let event = of(|spent| spent.all);
        println!("{size:>6} pods, 2 keys each: event {event:?}, full plan {full:?}, adoption {adopted:?}");
        let (mark, next, complete) = (
            of(|spent| spent.mark),
            of(|spent| spent.next),
            of(|spent| spent.complete),
        );
        println!("             of an event: mark {mark:?}, next {next:?}, complete {complete:?}");
        all.push((event, full / size, adopted / size));
    }
    let ratio =
        |of: fn(&(Duration, Duration, Duration)) -> Duration| of(&all[2]).as_secs_f64() / of(&all[0]).as_secs_f64();
    println!(
        "50k pods against 1k: an event costs {:.2} times as much, a pod of a full plan {:.2}, of an adoption {:.2}",
        ratio(|cost| cost.0),
        ratio(|cost| cost.1),
        ratio(|cost| cost.2)
    );
}
