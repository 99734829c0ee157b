//! The operator's metrics: their names, their labels, and what each of them counts.

mod labels;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use self::labels::{OfCertificate, OfRegistry, OfWrite, Owner};
use super::calls::Calls;
use super::staleness::Staleness;

pub use self::labels::KeyWrite;

/// What every metric's name begins with.
const PREFIX: &str = "leasehold";

/// A number that rises and falls, never below zero.
type Level = Gauge<u64, AtomicU64>;

/// All metrics of the operator. Clones show and change the same numbers; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Calls to other programs.
    pub calls: Calls,
    /// How old what is known of Kubernetes is.
    pub staleness: Staleness,
    pods: Level,
    registrations: Level,
    ready_to_key: Histogram,
    dropped_events: Counter,
    peers: Level,
    peer_key: Level,
    registries: Registries,
}

/// What there is once for each Registry.
#[derive(Clone, Debug, Default)]
struct Registries {
    leader: Family<OfRegistry, Level>,
    connected: Family<OfRegistry, Level>,
    not_adopted: Family<OfRegistry, Level>,
    leases: Family<OfRegistry, Level>,
    keys: Family<OfRegistry, Level>,
    queue: Family<OfRegistry, Level>,
    held: Family<OfRegistry, Level>,
    denied: Family<OfRegistry, Level>,
    writes: Family<OfWrite, Counter>,
    fenced: Family<OfRegistry, Counter>,
    lapsed: Family<OfRegistry, Counter>,
    guard_trips: Family<OfRegistry, Counter>,
    leases_end: Family<OfRegistry, Level>,
    not_after: Family<OfCertificate, Level>,
}

impl Registries {
    fn register(&self, to: &mut Registry) {
        to.register(
            "leader",
            "1 while this replica leads the Registry and writes its keys, else 0",
            self.leader.clone(),
        );
        to.register(
            "connected",
            "1 while the Registry's etcd answers this replica and takes its writes, else 0",
            self.connected.clone(),
        );
        to.register(
            "spec_not_adopted",
            "1 while this replica uses other endpoints or credentials than the Registry names, because those do not work, \
             else 0",
            self.not_adopted.clone(),
        );
        to.register(
            "leases",
            "Recorded leases of this cluster in the Registry, in leases",
            self.leases.clone(),
        );
        to.register(
            "keys",
            "Keys of this cluster that the Registry's etcd holds, in keys",
            self.keys.clone(),
        );
        to.register(
            "backlog",
            "Pods and stray keys whose keys in etcd are still to be looked at, in pods and keys",
            self.queue.clone(),
        );
        to.register(
            "key_writes",
            "Keys put, deleted, or refused by their guard in etcd, in keys",
            self.writes.clone(),
        );
        to.register(
            "fenced_transactions",
            "Transactions that etcd refused because this replica no longer led, in transactions",
            self.fenced.clone(),
        );
        to.register(
            "lapsed_leases",
            "Recorded leases with keys that were gone before they could be renewed, in leases",
            self.lapsed.clone(),
        );
        to.register(
            "held_keys",
            "Keys kept though their pods do not seem to be ready, because too many would go at once, in keys",
            self.held.clone(),
        );
        to.register(
            "denied_scopes",
            "Places of registrations that the Registry's etcd does not let this replica read or write, in places",
            self.denied.clone(),
        );
        to.register(
            "guard_trips",
            "Times that more keys were about to go than spec.guard of the Registry allows, held or not, in times",
            self.guard_trips.clone(),
        );
        to.register_with_unit(
            "leases_end_timestamp",
            "When the first of the Registry's leases would end if this replica renewed none any more, in seconds since \
             1970; 0 without leases",
            Unit::Seconds,
            self.leases_end.clone(),
        );
        to.register_with_unit(
            "certificate_not_after_timestamp",
            "Until when the operator's certificate for the Registry's etcd (client), and the last of those of its \
             authorities (authority), are valid, in seconds since 1970; 0 without one",
            Unit::Seconds,
            self.not_after.clone(),
        );
    }
}

impl Metrics {
    /// The metrics, all zero, and the text they make.
    pub fn new() -> (Self, Exposition) {
        let metrics = Self {
            calls: Calls::default(),
            staleness: Staleness::default(),
            pods: Level::default(),
            registrations: Level::default(),
            // 1 ms (an idle etcd next door) to 33 s (an etcd that was away).
            ready_to_key: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            dropped_events: Counter::default(),
            peers: Level::default(),
            peer_key: Level::default(),
            registries: Registries::default(),
        };
        let mut registry = Registry::with_prefix(PREFIX);
        metrics.calls.register(&mut registry);
        metrics.staleness.register(&mut registry);
        metrics.registries.register(&mut registry);
        registry.register(
            "pods",
            "Pods in the index, selected or not, in pods",
            metrics.pods.clone(),
        );
        registry.register(
            "registrations",
            "ServiceRegistrations in the index, in objects",
            metrics.registrations.clone(),
        );
        registry.register_with_unit(
            "ready_to_key",
            "From the receipt of the news that a pod is ready to the confirmed write of its last key, in seconds",
            Unit::Seconds,
            metrics.ready_to_key.clone(),
        );
        registry.register(
            "dropped_events",
            "Kubernetes Events that were not published, because they were too many or the apiserver did not take them, in events",
            metrics.dropped_events.clone(),
        );
        registry.register(
            "peers",
            "Other replicas of the operator that this one is connected to, in replicas",
            metrics.peers.clone(),
        );
        registry.register(
            "peer_key",
            "1 while this replica has the key by which replicas trust each other, else 0",
            metrics.peer_key.clone(),
        );
        let exposition = Exposition {
            registry: Arc::new(registry),
            last: Arc::default(),
        };
        (metrics, exposition)
    }

    /// Counts a Kubernetes Event that was not published.
    pub fn count_dropped_event(&self) {
        self.dropped_events.inc();
    }

    /// To how many other replicas this one is connected.
    pub fn set_peers(&self, count: usize) {
        set(&self.peers, count);
    }

    /// Whether this replica has the key by which replicas trust each other.
    pub fn set_peer_key(&self, known: bool) {
        self.peer_key.set(known.into());
    }

    /// How many pods are in the index.
    pub fn set_pods(&self, count: usize) {
        set(&self.pods, count);
    }

    /// How many registrations are in the index.
    pub fn set_registrations(&self, count: usize) {
        set(&self.registrations, count);
    }

    /// Records how long it took from the news of a ready pod to the confirmed write of its last key.
    pub fn observe_ready_to_key(&self, elapsed: Duration) {
        self.ready_to_key.observe(elapsed.as_secs_f64());
    }

    /// The metrics of the Registry `name`, to be kept and used without a look-up. They show from now on.
    pub fn registry(&self, name: &str) -> RegistryMetrics {
        let of = OfRegistry { registry: name.into() };
        let writes = |kind| {
            let registry = of.registry.clone();
            self.registries.writes.get_or_create_owned(&OfWrite { registry, kind })
        };
        let not_after = |certificate| {
            let registry = of.registry.clone();
            let of = OfCertificate { registry, certificate };
            self.registries.not_after.get_or_create_owned(&of)
        };
        RegistryMetrics {
            leader: self.registries.leader.get_or_create_owned(&of),
            connected: self.registries.connected.get_or_create_owned(&of),
            not_adopted: self.registries.not_adopted.get_or_create_owned(&of),
            leases: self.registries.leases.get_or_create_owned(&of),
            keys: self.registries.keys.get_or_create_owned(&of),
            queue: self.registries.queue.get_or_create_owned(&of),
            put: writes(KeyWrite::Put),
            delete: writes(KeyWrite::Delete),
            refused: writes(KeyWrite::Refused),
            fenced: self.registries.fenced.get_or_create_owned(&of),
            lapsed: self.registries.lapsed.get_or_create_owned(&of),
            held: self.registries.held.get_or_create_owned(&of),
            denied: self.registries.denied.get_or_create_owned(&of),
            guard_trips: self.registries.guard_trips.get_or_create_owned(&of),
            leases_end: self.registries.leases_end.get_or_create_owned(&of),
            client_not_after: not_after(Owner::Client),
            authority_not_after: not_after(Owner::Authority),
        }
    }

    /// Shows the Registry `name` no longer. What still counts into a [`RegistryMetrics`] of it is not seen any more.
    pub fn forget(&self, name: &str) {
        // Without `..`: a family that is forgotten here would show a deleted Registry for ever.
        let Registries {
            leader,
            connected,
            not_adopted,
            leases,
            keys,
            queue,
            writes,
            fenced,
            lapsed,
            held,
            denied,
            guard_trips,
            leases_end,
            not_after,
        } = &self.registries;
        let of = OfRegistry { registry: name.into() };
        for levels in [
            leader,
            connected,
            not_adopted,
            leases,
            keys,
            queue,
            held,
            denied,
            leases_end,
        ] {
            levels.remove(&of);
        }
        for counters in [fenced, lapsed, guard_trips] {
            counters.remove(&of);
        }
        for certificate in [Owner::Client, Owner::Authority] {
            let registry = of.registry.clone();
            not_after.remove(&OfCertificate { registry, certificate });
        }
        for kind in [KeyWrite::Put, KeyWrite::Delete, KeyWrite::Refused] {
            let registry = of.registry.clone();
            writes.remove(&OfWrite { registry, kind });
        }
    }
}

/// The metrics of one Registry. Clones change the same numbers.
#[derive(Clone, Debug)]
pub struct RegistryMetrics {
    leader: Level,
    connected: Level,
    not_adopted: Level,
    leases: Level,
    keys: Level,
    queue: Level,
    put: Counter,
    delete: Counter,
    refused: Counter,
    fenced: Counter,
    lapsed: Counter,
    held: Level,
    denied: Level,
    guard_trips: Counter,
    leases_end: Level,
    client_not_after: Level,
    authority_not_after: Level,
}

impl RegistryMetrics {
    /// Whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Whether etcd answers this replica.
    pub fn set_connected(&self, connected: bool) {
        self.connected.set(connected.into());
    }

    /// Whether what the Registry names was tried and is not used.
    pub fn set_not_adopted(&self, not_adopted: bool) {
        self.not_adopted.set(not_adopted.into());
    }

    /// How many leases of this cluster are recorded.
    pub fn set_leases(&self, count: usize) {
        set(&self.leases, count);
    }

    /// How many keys of this cluster etcd holds.
    pub fn set_keys(&self, count: usize) {
        set(&self.keys, count);
    }

    /// How many pods and stray keys are still to be looked at.
    pub fn set_backlog(&self, count: usize) {
        set(&self.queue, count);
    }

    /// Counts keys whose write ended in this way.
    pub fn count_writes(&self, kind: KeyWrite, keys: usize) {
        let counter = match kind {
            KeyWrite::Put => &self.put,
            KeyWrite::Delete => &self.delete,
            KeyWrite::Refused => &self.refused,
        };
        counter.inc_by(number(keys));
    }

    /// Counts a transaction that etcd refused because this replica no longer led.
    pub fn count_fenced(&self) {
        self.fenced.inc();
    }

    /// How many keys are held back.
    pub fn set_held(&self, count: usize) {
        set(&self.held, count);
    }

    /// In how many places etcd does not let us read or write.
    pub fn set_denied(&self, count: usize) {
        set(&self.denied, count);
    }

    /// Counts a loss above the guard's limit.
    pub fn count_guard_trip(&self) {
        self.guard_trips.inc();
    }

    /// In how long the first lease ends if none is renewed any more; none without leases.
    pub fn set_leases_end(&self, left: Option<Duration>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.leases_end.set(left.map_or(0, |left| (now + left).as_secs()));
    }

    /// Until when our certificate and that of the authorities are valid, in seconds since 1970; none without one.
    pub fn set_not_after(&self, client: Option<i64>, authority: Option<i64>) {
        let shown = |end: Option<i64>| end.map_or(0, |end| u64::try_from(end).unwrap_or_default());
        self.client_not_after.set(shown(client));
        self.authority_not_after.set(shown(authority));
    }

    /// Counts leases that were gone before they could be renewed.
    pub fn count_lapsed(&self, leases: usize) {
        self.lapsed.inc_by(number(leases));
    }
}

/// The metrics as text, as they are at the moment of asking. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Exposition {
    registry: Arc<Registry>,
    last: Arc<Mutex<Option<Encoded>>>,
}

/// The text of all metrics as it was a moment ago.
#[derive(Debug)]
struct Encoded {
    text: Bytes,
    at: Instant,
    took: Duration,
}

impl Encoded {
    /// How many times as long as it took to encode a text is good for, so that encoding takes little of the CPU however
    /// often it is asked for.
    const SHARE: u32 = 20;
    /// A text is good for no longer than this.
    const LONGEST: Duration = Duration::from_secs(1);

    fn is_good(&self, now: Instant) -> bool {
        now.duration_since(self.at) < (self.took * Self::SHARE).min(Self::LONGEST)
    }
}

impl Exposition {
    /// The media type of the text.
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// All metrics in the text format of OpenMetrics 1.0.
    pub fn text(&self) -> String {
        let mut buffer = String::new();
        text::encode(&mut buffer, &self.registry).expect("writing to a string does not fail");
        buffer
    }

    /// The same, not older than a second. Texts are encoded one at a time, and not in the way of other tasks; who asks
    /// meanwhile gets the same bytes.
    pub async fn recent(&self) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.is_good(Instant::now())) {
            return last.text.clone();
        }
        let exposition = self.clone();
        let encoded = spawn_blocking(move || {
            let at = Instant::now();
            let text = exposition.text().into();
            let took = at.elapsed();
            Encoded { text, at, took }
        });
        let encoded = encoded.await.expect("encoding does not panic");
        last.insert(encoded).text.clone()
    }
}

fn set(level: &Level, count: usize) {
    level.set(number(count));
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
