//! A bed with operators, both recorders, and the log of what was broken and done.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use serde_json::Value;
use testbed::{Authority, Bed, EtcdVersion, History, Kind, Link, Namespace, Network, Operator, OperatorConfig};
use tokio::time::sleep;

use super::{
    access::{self, Access},
    checker::{self, Terms, Violation},
    etcd_links::EtcdLinks,
    manifests::{self, NAMESPACES, REGISTRIES},
    plan::{APPS, NODES},
    record::{Fault, ForeignWrite, Moment, Record, Span},
    recorder::{self, Recorder},
    wanted::Registration,
};
use crate::{
    error::{Result, doing},
    stage,
};

/// How long an operator may take to be ready.
pub const READY: Duration = Duration::from_mins(1);
/// The operators of the second Registry.
const EDGE_OPERATORS: usize = 2;
/// How long it must have been silent to count as rest.
const REST: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What the chaos runs on.
pub struct SceneConfig {
    pub etcd_version: EtcdVersion,
    pub etcd_members: usize,
    pub operators: usize,
    /// Whether etcd requires TLS, client certificates and a user.
    pub etcd_tls_auth: bool,
    pub terms: Terms,
}

/// The place, and what is known of it.
pub struct Scene {
    // Before the bed, so that they end first.
    /// First those of the first Registry, then those of the second one.
    pub operators: Vec<Operator>,
    /// The way of each operator to kube-apiserver.
    pub links: Vec<Link>,
    /// The ways of all operators to etcd.
    pub etcd: EtcdLinks,
    /// The credentials of the operators, if etcd requires any.
    pub access: Option<Access>,
    pub history: History,
    pub recorder: Recorder,
    /// In the order of [`NAMESPACES`].
    namespaces: Vec<Namespace>,
    pub terms: Terms,
    log: Mutex<Log>,
    epoch: Instant,
    pub bed: Bed,
}

/// What the run itself did and found.
#[derive(Default)]
struct Log {
    faults: Vec<Fault>,
    foreign_writes: Vec<ForeignWrite>,
    quiets: Vec<Span>,
    violations: Vec<Violation>,
    actions: BTreeMap<&'static str, Tally>,
}

/// How often something was tried, and how often that failed.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub tried: usize,
    pub failed: usize,
}

/// Whether everything comes to rest.
pub enum Rest {
    /// It does; etcd holds what it should.
    Reached,
    /// It does not, because of these differences.
    Never(Vec<String>),
}

impl Scene {
    /// Builds what is missing, starts everything and waits until it is ready.
    pub async fn set(config: SceneConfig) -> Result<Self> {
        let binary = stage::build(config.etcd_version).await?;
        let authority = config.etcd_tls_auth.then(|| Authority::new("chaos"));
        let security = authority.as_ref().map(access::security);
        let bed = stage::start_bed(config.etcd_version, config.etcd_members, security, NODES).await?;
        // Operators are restarted all the time, and a build meanwhile must not replace the tested one.
        let own = bed.folder().path().join("leasehold");
        std::fs::copy(&binary, &own).map_err(doing(format!("copy {}", binary.display())))?;
        bed.apply_crds().await?;
        bed.allow_pod_status().await?;
        let access = match authority {
            Some(authority) => Some(Access::establish(&bed, authority).await?),
            None => None,
        };
        let epoch = Instant::now();
        let history = History::watch(bed.registry(), "", 0).await?;
        let ttl = u32::try_from(config.terms.ttl.as_secs()).expect("it fits");
        let network = Network::start(bed.logs()).await?;
        let operators = config.operators + EDGE_OPERATORS;
        let etcd = EtcdLinks::open(&network, bed.registry(), operators).await?;
        for number in 0..REGISTRIES.len() {
            let mut registry = manifests::registry(number, &etcd.endpoints(), ttl);
            if access.is_some() {
                merge(&mut registry["spec"]["etcd"], access::references());
            }
            bed.objects().apply(registry).await?;
        }
        let mut namespaces = Vec::new();
        for namespace in NAMESPACES {
            namespaces.push(bed.namespace_named(namespace).await?);
        }
        let recorder = Recorder::begin(&bed.client(), epoch);
        let mut links = Vec::new();
        for _ in 0..operators {
            links.push(network.link(bed.control_plane().address()).await?);
        }
        let start = |i: usize| {
            let edge = i.checked_sub(config.operators);
            let name = edge.map_or_else(|| format!("operator-{i}"), |i| format!("edge-{i}"));
            let by = format!("https://{}", links[i].address());
            let kubeconfig = bed.operator_kubeconfig_by(&name, &by)?;
            let mut operator = OperatorConfig::new(name, &own);
            operator.kubeconfig = Some(kubeconfig);
            operator.session_ttl = u32::try_from(config.terms.session.as_secs()).ok();
            let state = bed.folder().path().join(format!("state-{i}"));
            operator.args = vec!["--state-dir".into(), state.into()];
            operator.args.extend(["--namespace".into(), access::NAMESPACE.into()]);
            let wait = format!("--readiness-gate-max-wait={}", config.terms.gate_wait.as_secs());
            operator.args.push(wait.into());
            if let (Some(_), (_, _, Some(class))) = (edge, REGISTRIES[1]) {
                operator.args.extend(["--class".into(), class.into()]);
            }
            Operator::start(&bed, operator)
        };
        let operators = (0..operators).map(start).collect::<Result<Vec<_>, _>>()?;
        etcd.introduce(&operators);
        for operator in &operators {
            operator.wait_ready(READY).await?;
        }
        Ok(Self {
            operators,
            links,
            etcd,
            access,
            history,
            recorder,
            namespaces,
            terms: config.terms,
            log: Mutex::default(),
            epoch,
            bed,
        })
    }

    /// Now.
    pub fn now(&self) -> Moment {
        self.epoch.elapsed()
    }

    /// Writes down a fault that is over.
    pub fn record_fault(&self, fault: Fault) {
        self.log().faults.push(fault);
    }

    /// Writes down what the foreign client tried.
    pub fn record_foreign_write(&self, foreign_write: ForeignWrite) {
        self.log().foreign_writes.push(foreign_write);
    }

    /// Writes down an action.
    pub fn acted(&self, name: &'static str, failed: bool) {
        let mut log = self.log();
        let tally = log.actions.entry(name).or_default();
        tally.tried += 1;
        tally.failed += usize::from(failed);
    }

    /// Records a violation that is in no history.
    pub fn found(&self, violation: Violation) {
        self.log().violations.push(violation);
    }

    /// How often each action was tried.
    pub fn actions(&self) -> BTreeMap<&'static str, Tally> {
        self.log().actions.clone()
    }

    /// The violations that are in no history.
    pub fn violations(&self) -> Vec<Violation> {
        self.log().violations.clone()
    }

    /// Where the processes' logs are.
    pub fn logs(&self) -> PathBuf {
        self.bed.logs().to_owned()
    }

    /// Everything that was seen up to now.
    pub fn record(&self) -> Record {
        let (kubernetes, gaps) = self.recorder.seen();
        let arrivals = self.history.arrivals().into_iter();
        let etcd = arrivals.map(|(at, event)| (at.saturating_duration_since(self.epoch), event));
        let log = self.log();
        Record {
            etcd: etcd.collect(),
            kubernetes,
            gaps,
            faults: log.faults.clone(),
            foreign_writes: log.foreign_writes.clone(),
            quiets: log.quiets.clone(),
            end: self.now(),
        }
    }

    /// A namespace, by its name; the first one if there is none of this name.
    pub fn namespace(&self, name: &str) -> &Namespace {
        let mut all = self.namespaces.iter();
        all.find(|one| one.name() == name).unwrap_or(&self.namespaces[0])
    }

    /// The namespace of an app.
    pub fn namespace_of(&self, app: usize) -> &Namespace {
        self.namespace(manifests::namespace_of(app))
    }

    /// The operators of a Registry, counted from 0.
    pub fn operators_of(&self, registry: usize) -> Range<usize> {
        let edge = self.operators.len() - EDGE_OPERATORS;
        if registry == 0 {
            0..edge
        } else {
            edge..self.operators.len()
        }
    }

    /// The operator that leads a Registry by etcd's word.
    pub fn leader(&self, registry: usize) -> Option<usize> {
        let (_, meta_prefix, _) = REGISTRIES[registry];
        let is_leader = |key: &str| key.starts_with(meta_prefix) && key.ends_with("/leader");
        let events = self.history.events();
        let last = events.iter().rev().find(|event| is_leader(&event.key))?;
        let Kind::Put { value, .. } = &last.kind else {
            return None;
        };
        let value: Value = serde_json::from_str(value).ok()?;
        let name = value["identity"].as_str()?;
        self.operators.iter().position(|operator| operator.name() == name)
    }

    /// Waits until etcd holds what it should and nothing has happened for a while. Nothing may be under way any more that
    /// changes Kubernetes.
    pub async fn rest(&self, patience: Duration) -> Rest {
        let begin = self.now();
        let mut last = String::new();
        loop {
            sleep(LOOK).await;
            let settled = self.history.settled().await;
            let record = self.record();
            let mut differences = checker::differences(&record);
            let recent = record.end.saturating_sub(REST);
            let last_event = record
                .etcd
                .iter()
                .rev()
                .find(|(_, event)| super::holders::is_data(&event.key));
            if last_event.is_some_and(|(at, _)| *at >= recent) {
                differences.push("keys are still being written".to_owned());
            }
            if let Some(last) = record.kubernetes.last().filter(|last| last.at >= recent) {
                differences.push(format!("{} is still being written in Kubernetes", last.sight.name()));
            }
            if let Err(error) = settled {
                differences.push(error.to_string());
            }
            if differences.is_empty() {
                differences.extend(self.not_kept().await);
            }
            let waited = self.now().saturating_sub(begin);
            let Some(first) = differences.first() else {
                let (at, took) = (self.now().as_secs_f64(), waited.as_secs_f64());
                eprintln!("{at:8.3} s  converged after {took:.1} s, last difference: {last}");
                return Rest::Reached;
            };
            last.clone_from(first);
            if waited > patience {
                return Rest::Never(differences);
            }
        }
    }

    /// What the annotations of Services ask for and the registrations are not: one line for each Service.
    async fn not_kept(&self) -> Vec<String> {
        let mut services = Vec::new();
        for namespace in NAMESPACES {
            let of_namespace = Api::<v1::Service>::namespaced(self.bed.client(), namespace);
            match of_namespace.list(&ListParams::default()).await {
                Ok(list) => services.extend(list),
                Err(error) => return vec![format!("the Services cannot be listed: {error}")],
            }
        }
        let registrations = self.recorder.registrations();
        let difference = |service: v1::Service| {
            let name = service.name_any();
            let shape = service.annotations().get(manifests::SHAPE);
            let number = (0..APPS).find(|number| manifests::app(*number) == name)?;
            let wanted = shape.and_then(|shape| shape.parse().ok());
            let wanted = wanted.and_then(|shape| Registration::read(&manifests::annotated(number, shape)));
            let kept = registrations.get(&name);
            // What its Registry allows is not the question.
            let kept = kept.map(|one| one.with_allowed(&BTreeSet::new()));
            (kept != wanted)
                .then(|| format!("the registration {name} is {kept:?}, by the annotations of its Service {wanted:?}"))
        };
        services.into_iter().filter_map(difference).collect()
    }

    /// The conditions by which operators say that something is wrong, and what they say: one line for each.
    pub async fn bad_conditions(&self) -> Vec<String> {
        let registries = recorder::registries(self.bed.client());
        let of_namespaces = NAMESPACES.map(|namespace| recorder::registrations(self.bed.client(), namespace));
        let mut lines = Vec::new();
        for objects in [registries].into_iter().chain(of_namespaces) {
            match objects.list(&ListParams::default()).await {
                Ok(list) => lines.extend(list.iter().flat_map(bad_conditions_of)),
                Err(error) => lines.push(format!("conditions cannot be listed: {error}")),
            }
        }
        lines
    }

    /// Lets a quiet time pass, and writes it down.
    pub async fn quiet(&self, lasting: Duration) -> Result<()> {
        let from = self.now();
        sleep(lasting).await;
        let to = self.now();
        // What happened until now has been seen after this.
        self.history.settled().await?;
        self.log().quiets.push(Span { from, to });
        Ok(())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bad_conditions_of(object: &DynamicObject) -> Vec<String> {
    let conditions = object.data["status"]["conditions"].as_array();
    let conditions = conditions.into_iter().flatten().filter(|condition| {
        let is_wrong_if_true = matches!(condition["type"].as_str(), Some("Conflict" | "RemovalsHeld"));
        condition["status"] != if is_wrong_if_true { "False" } else { "True" }
    });
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions
        .map(|condition| {
            let [of_type, status, reason, message] =
                ["type", "status", "reason", "message"].map(|field| text(condition, field));
            format!(
                "{kind} {}: {of_type} is {status}, {reason}: {message}",
                object.name_any()
            )
        })
        .collect()
}

/// Adds the fields of an object to another one.
fn merge(object: &mut Value, fields: Value) {
    if let (Value::Object(object), Value::Object(fields)) = (object, fields) {
        object.extend(fields);
    }
}
