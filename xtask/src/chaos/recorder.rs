//! Records objects of Kubernetes with watches of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::watcher::{self, Event, watcher},
};
use tokio::{task::JoinHandle, time::sleep};

use super::{
    cluster::Cluster,
    manifests::{EXCLUDE, GATE, NAMESPACES, TO_BE_DELETED},
    record::{Gate, Moment, Node, Pod, Registry, Service, ServicePort, Sight, Sighting, Span},
    wanted::Registration,
};

/// Before a lost watch is begun again.
const RESPITE: Duration = Duration::from_millis(100);

/// The recorder of Kubernetes, until this value is dropped.
pub struct Recorder {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Seen {
    sightings: Vec<Sighting>,
    gaps: Vec<Span>,
    cluster: Cluster,
}

impl Recorder {
    /// Begins to watch; moments count from `epoch`.
    pub fn begin(client: &Client, epoch: Instant) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let began = SystemTime::now() - epoch.elapsed();
        let mut tasks = Vec::new();
        for namespace in NAMESPACES {
            let pods = Api::<v1::Pod>::namespaced(client.clone(), namespace);
            tasks.push(tokio::spawn(follow(
                watcher(pods, watcher::Config::default()),
                seen.clone(),
                epoch,
                move |name, pod| Sight::Pod(name, pod.map(|pod| read_pod(pod, began))),
            )));
            tasks.push(tokio::spawn(follow(
                watcher(registrations(client.clone(), namespace), watcher::Config::default()),
                seen.clone(),
                epoch,
                |name, object| Sight::Registration(name, object.and_then(read_registration)),
            )));
            let services = Api::<v1::Service>::namespaced(client.clone(), namespace);
            tasks.push(tokio::spawn(follow(
                watcher(services, watcher::Config::default()),
                seen.clone(),
                epoch,
                |name, service| Sight::Service(name, service.map(read_service)),
            )));
        }
        let nodes = Api::<v1::Node>::all(client.clone());
        tasks.push(tokio::spawn(follow(
            watcher(nodes, watcher::Config::default()),
            seen.clone(),
            epoch,
            |name, node| Sight::Node(name, node.map(read_node)),
        )));
        tasks.push(tokio::spawn(follow(
            watcher(registries(client.clone()), watcher::Config::default()),
            seen.clone(),
            epoch,
            |name, registry| Sight::Registry(name, registry.map(read_registry)),
        )));
        Self { seen, tasks }
    }

    /// What was seen up to now, and the times in which something may have been missed.
    pub fn seen(&self) -> (Vec<Sighting>, Vec<Span>) {
        let seen = lock(&self.seen);
        (seen.sightings.clone(), seen.gaps.clone())
    }

    /// The pods as they were seen last.
    pub fn pods(&self) -> BTreeMap<String, Pod> {
        lock(&self.seen).cluster.pods.clone()
    }

    /// The registrations as they were seen last.
    pub fn registrations(&self) -> BTreeMap<String, Registration> {
        lock(&self.seen).cluster.registrations.clone()
    }

    /// The nodes as they were seen last.
    pub fn nodes(&self) -> BTreeMap<String, Node> {
        lock(&self.seen).cluster.nodes.clone()
    }
}

/// The registrations of a namespace.
pub fn registrations(client: Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("leasehold.dev", "v1alpha1", "ServiceRegistration");
    let kind = ApiResource::from_gvk_with_plural(&kind, "serviceregistrations");
    Api::namespaced_with(client, namespace, &kind)
}

/// All Registries.
pub fn registries(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("leasehold.dev", "v1alpha1", "Registry");
    Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, "registries"))
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Seen {
    fn take(&mut self, at: Moment, sight: Sight) {
        self.cluster.take(&sight);
        self.sightings.push(Sighting { at, sight });
    }
}

/// Records every event of a watch, and restarts the watch when it is lost.
async fn follow<K: ResourceExt>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    seen: Arc<Mutex<Seen>>,
    epoch: Instant,
    sight: impl Fn(String, Option<&K>) -> Sight,
) {
    let mut events = std::pin::pin!(events);
    // Names with versions.
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut listed = BTreeMap::new();
    let (mut complete, mut lost_since): (bool, Option<Moment>) = (false, None);
    while let Some(event) = events.next().await {
        let now = epoch.elapsed();
        match event {
            Ok(Event::Apply(object)) => {
                lost_since = None;
                known.insert(object.name_any(), object.resource_version());
                lock(&seen).take(now, sight(object.name_any(), Some(&object)));
            }
            Ok(Event::Delete(object)) => {
                lost_since = None;
                known.remove(&object.name_any());
                lock(&seen).take(now, sight(object.name_any(), None));
            }
            Ok(Event::Init) => {
                lost_since = lost_since.or(Some(now));
                listed.clear();
            }
            Ok(Event::InitApply(object)) => {
                let (name, version) = (object.name_any(), object.resource_version());
                // What is as it was is no news.
                if known.get(&name) != Some(&version) {
                    lock(&seen).take(now, sight(name.clone(), Some(&object)));
                }
                listed.insert(name, version);
            }
            Ok(Event::InitDone) => {
                let mut seen = lock(&seen);
                for gone in known.keys().filter(|name| !listed.contains_key(*name)) {
                    seen.take(now, sight(gone.clone(), None));
                }
                known = std::mem::take(&mut listed);
                if let Some(from) = lost_since.take().filter(|_| complete) {
                    seen.gaps.push(Span { from, to: now });
                }
                complete = true;
            }
            Err(_) => {
                lost_since = lost_since.or(Some(now));
                sleep(RESPITE).await;
            }
        }
    }
}

fn read_pod(pod: &v1::Pod, began: SystemTime) -> Pod {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let find = |kind: &str| conditions.iter().find(|one| one.type_ == kind);
    let is_true = |kind: &str| find(kind).is_some_and(|one| one.status == "True");
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let addresses = status.pod_ips.unwrap_or_default().into_iter().map(|one| one.ip);
    let (ipv4, ipv6): (Vec<String>, Vec<String>) = addresses.chain(status.pod_ip).partition(|one| one.contains('.'));
    let spec = pod.spec.clone().unwrap_or_default();
    let gates = spec.readiness_gates.unwrap_or_default();
    let gate = gates
        .iter()
        .find(|gate| gate.condition_type == GATE)
        .map(|_| match find(GATE) {
            Some(open) if open.status == "True" => match open.reason.as_deref() {
                Some("Registered") => Gate::Registered,
                Some("NotSelected") => Gate::NotSelected,
                _ => Gate::WaitedTooLong,
            },
            _ => Gate::Closed,
        });
    // The kubelet makes a pod ready a moment after its gate has opened.
    let waits_for_kubelet = find("Ready").is_some_and(|one| one.reason.as_deref() == Some("ReadinessGatesNotReady"));
    let waits = !is_true("Ready")
        && gate.is_some_and(|gate| gate == Gate::Closed || waits_for_kubelet)
        && is_true("ContainersReady");
    let ready = (is_true("Ready") || waits) && !ended && pod.metadata.deletion_timestamp.is_none();
    // The gate has no part in how long a pod has been ready.
    let since = find(if gate.is_some() { "ContainersReady" } else { "Ready" }).filter(|_| ready);
    let since = since.and_then(|condition| condition.last_transition_time.as_ref());
    let since = since.map(|time| SystemTime::from(time.0).duration_since(began).unwrap_or_default());
    let ports = spec
        .containers
        .into_iter()
        .flat_map(|one| one.ports.unwrap_or_default());
    let ports: Vec<v1::ContainerPort> = ports.collect();
    let numbers = |number: fn(&v1::ContainerPort) -> Option<i32>| {
        let of = |port: &v1::ContainerPort| Some((port.name.clone()?, u16::try_from(number(port)?).ok()?));
        ports.iter().filter_map(of).collect()
    };
    Pod {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ready,
        waits,
        since,
        gate,
        address: ipv4.into_iter().next(),
        ipv6: ipv6.into_iter().next(),
        node: spec.node_name,
        host: status.host_ip.filter(|address| address.contains('.')),
        ports: numbers(|port| Some(port.container_port)),
        host_ports: numbers(|port| port.host_port),
    }
}

fn read_node(node: &v1::Node) -> Node {
    let status = node.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.into_iter().flatten();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let is_removed = taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == TO_BE_DELETED));
    let addresses = status.addresses.unwrap_or_default();
    let address = |kind: &str| {
        let mut addresses = addresses.iter().filter(|one| one.type_ == kind);
        addresses.find(|one| one.address.contains('.'))
    };
    Node {
        ready: conditions.any(|one| one.type_ == "Ready" && one.status == "True"),
        excluded: labels.contains_key(EXCLUDE) || is_removed || node.metadata.deletion_timestamp.is_some(),
        external: address("ExternalIP").map(|one| one.address.clone()),
        internal: address("InternalIP").map(|one| one.address.clone()),
        labels,
    }
}

fn read_service(service: &v1::Service) -> Service {
    let spec = service.spec.clone().unwrap_or_default();
    let port = |port: v1::ServicePort| ServicePort {
        name: port.name.unwrap_or_default(),
        port: u64::try_from(port.port).unwrap_or_default(),
        node_port: port.node_port.and_then(|port| u64::try_from(port).ok()),
    };
    let ingress = service.status.clone().and_then(|status| status.load_balancer?.ingress);
    let ingress = ingress.into_iter().flatten();
    Service {
        cluster_ip: spec.cluster_ip.filter(|address| address.contains('.')),
        external_ips: spec.external_ips.unwrap_or_default(),
        ingress: ingress.filter_map(|one| one.ip.or(one.hostname)).collect(),
        local: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: spec.ports.into_iter().flatten().map(port).collect(),
    }
}

fn read_registry(object: &DynamicObject) -> Registry {
    let labels = object.data["spec"]["nodeLabels"].as_array();
    let labels = labels.into_iter().flatten();
    let rules = object.data["spec"]["access"]["rules"].as_array();
    let quotas = rules.into_iter().flatten();
    let quotas = quotas.filter_map(|rule| usize::try_from(rule["keysPerNamespace"].as_u64()?).ok());
    Registry {
        keys_per_namespace: quotas.max(),
        node_labels: labels.filter_map(|label| Some(label.as_str()?.to_owned())).collect(),
    }
}

fn read_registration(object: &DynamicObject) -> Option<Registration> {
    let object = serde_json::to_value(object).ok()?;
    Registration::read(&object).filter(|_| object["metadata"]["deletionTimestamp"].is_null())
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
