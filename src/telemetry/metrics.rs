//! The operator's metrics: their names, their labels and their help texts.

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

/// The prefix of every metric's name.
const PREFIX: &str = "leasehold";

/// A gauge of an unsigned integer.
type Level = Gauge<u64, AtomicU64>;

/// All metrics of the operator. Clones share the same values; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub calls: Calls,
    /// How stale the caches of Kubernetes objects are.
    pub staleness: Staleness,
    pods: Level,
    registrations: Level,
    ready_to_key: Histogram,
    dropped_events: Counter,
    peers: Level,
    peer_key: Level,
    registries: Registries,
}

/// The metrics that exist once per Registry.
#[derive(Clone, Debug, Default)]
struct Registries {
    leader: Family<OfRegistry, Level>,
    connected: Family<OfRegistry, Level>,
    not_adopted: Family<OfRegistry, Level>,
    leases: Family<OfRegistry, Level>,
    keys: Family<OfRegistry, Level>,
    backlog: Family<OfRegistry, Level>,
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
            "1 while the Registry's etcd answers this replica and accepts its writes, else 0",
            self.connected.clone(),
        );
        to.register(
            "spec_not_adopted",
            "1 while this replica uses other endpoints or credentials than the Registry specifies, because those do not \
             work, else 0",
            self.not_adopted.clone(),
        );
        to.register(
            "leases",
            "Recorded leases of this cluster in the Registry",
            self.leases.clone(),
        );
        to.register("keys", "Keys of this cluster in the Registry's etcd", self.keys.clone());
        to.register(
            "backlog",
            "Pods and stray keys that are still to be reconciled with etcd",
            self.backlog.clone(),
        );
        to.register(
            "key_writes",
            "Keys that were put in etcd, deleted, or refused by their guard",
            self.writes.clone(),
        );
        to.register(
            "fenced_transactions",
            "Transactions that etcd refused because this replica no longer led",
            self.fenced.clone(),
        );
        to.register(
            "lapsed_leases",
            "Recorded leases, with keys on them, that were gone before they could be renewed",
            self.lapsed.clone(),
        );
        to.register(
            "held_keys",
            "Keys kept although they are not desired, because too many endpoints would lose keys at once",
            self.held.clone(),
        );
        to.register(
            "denied_scopes",
            "Prefixes of registrations that the Registry's etcd does not allow this replica to read or write",
            self.denied.clone(),
        );
        to.register(
            "guard_trips",
            "Number of times that more keys were to be removed than spec.guard of the Registry allows, held or not",
            self.guard_trips.clone(),
        );
        to.register_with_unit(
            "leases_end_timestamp",
            "Time when the first of the Registry's leases expires if this replica renews none any more, in seconds since \
             1970; 0 without leases",
            Unit::Seconds,
            self.leases_end.clone(),
        );
        to.register_with_unit(
            "certificate_not_after_timestamp",
            "Expiry time of the operator's certificate for the Registry's etcd (client), and the latest expiry time of the \
             trusted CA certificates (authority), in seconds since 1970; 0 without one",
            Unit::Seconds,
            self.not_after.clone(),
        );
    }
}

impl Metrics {
    /// Creates the metrics, all zero, and their exposition.
    pub fn new() -> (Self, Exposition) {
        let metrics = Self {
            calls: Calls::default(),
            staleness: Staleness::default(),
            pods: Level::default(),
            registrations: Level::default(),
            // 1 ms (an idle etcd nearby) to 33 s (after an outage of the etcd).
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
        registry.register("pods", "Pods in the index, selected or not", metrics.pods.clone());
        registry.register(
            "registrations",
            "ServiceRegistrations in the index",
            metrics.registrations.clone(),
        );
        registry.register_with_unit(
            "ready_to_key",
            "Time from the watch event of a ready pod to the confirmed write of its last key, in seconds",
            Unit::Seconds,
            metrics.ready_to_key.clone(),
        );
        registry.register(
            "dropped_events",
            "Kubernetes Events that were not published, because there were too many or the apiserver did not accept them",
            metrics.dropped_events.clone(),
        );
        registry.register(
            "peers",
            "Other replicas of the operator that this replica is connected to",
            metrics.peers.clone(),
        );
        registry.register(
            "peer_key",
            "1 while this replica has the key that authenticates replicas to each other, else 0",
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

    /// Sets the number of replicas that this one is connected to.
    pub fn set_peers(&self, count: usize) {
        set(&self.peers, count);
    }

    /// Sets whether this replica has the key that authenticates replicas to each other.
    pub fn set_peer_key(&self, known: bool) {
        self.peer_key.set(known.into());
    }

    pub fn set_pods(&self, count: usize) {
        set(&self.pods, count);
    }

    pub fn set_registrations(&self, count: usize) {
        set(&self.registrations, count);
    }

    /// Records the time from the watch event of a ready pod to the confirmed write of its last key.
    pub fn observe_ready_to_key(&self, elapsed: Duration) {
        self.ready_to_key.observe(elapsed.as_secs_f64());
    }

    /// Returns the metrics of the Registry `name`, to be kept and used without a look-up. They are exposed from now on.
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
            backlog: self.registries.backlog.get_or_create_owned(&of),
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

    /// Stops exposing the metrics of the Registry `name`. Values that are still added to one of its [`RegistryMetrics`]
    /// are lost.
    pub fn forget(&self, name: &str) {
        // Without `..`, so that the compiler reports a family that is missing here: it would expose a deleted Registry
        // for ever.
        let Registries {
            leader,
            connected,
            not_adopted,
            leases,
            keys,
            backlog,
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
            backlog,
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

/// The metrics of one Registry. Clones share the same values.
#[derive(Clone, Debug)]
pub struct RegistryMetrics {
    leader: Level,
    connected: Level,
    not_adopted: Level,
    leases: Level,
    keys: Level,
    backlog: Level,
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
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    pub fn set_connected(&self, connected: bool) {
        self.connected.set(connected.into());
    }

    /// Sets whether the endpoints or credentials of the Registry were tried and are not in use.
    pub fn set_not_adopted(&self, not_adopted: bool) {
        self.not_adopted.set(not_adopted.into());
    }

    /// Sets the number of recorded leases of this cluster.
    pub fn set_leases(&self, count: usize) {
        set(&self.leases, count);
    }

    /// Sets the number of keys of this cluster in etcd.
    pub fn set_keys(&self, count: usize) {
        set(&self.keys, count);
    }

    /// Sets the number of pods and stray keys that are still to be reconciled.
    pub fn set_backlog(&self, count: usize) {
        set(&self.backlog, count);
    }

    /// Counts keys whose write had this outcome.
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

    /// Sets the number of held keys.
    pub fn set_held(&self, count: usize) {
        set(&self.held, count);
    }

    /// Sets the number of prefixes that etcd does not let this replica read or write.
    pub fn set_denied(&self, count: usize) {
        set(&self.denied, count);
    }

    /// Counts a loss above the guard's limit.
    pub fn count_guard_trip(&self) {
        self.guard_trips.inc();
    }

    /// Sets in how long the first lease expires if this replica renews none any more; `None` without leases.
    pub fn set_leases_end(&self, left: Option<Duration>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.leases_end.set(left.map_or(0, |left| (now + left).as_secs()));
    }

    /// Sets until when the operator's certificate and those of the CAs are valid, in seconds since 1970; `None` without
    /// one.
    pub fn set_not_after(&self, client: Option<i64>, authority: Option<i64>) {
        let shown = |end: Option<i64>| end.map_or(0, |end| u64::try_from(end).unwrap_or_default());
        self.client_not_after.set(shown(client));
        self.authority_not_after.set(shown(authority));
    }

    /// Counts leases that expired before they could be renewed.
    pub fn count_lapsed(&self, leases: usize) {
        self.lapsed.inc_by(number(leases));
    }
}

/// Encodes the current metrics as text. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Exposition {
    registry: Arc<Registry>,
    last: Arc<Mutex<Option<Encoded>>>,
}

/// The encoded text of all metrics.
#[derive(Debug)]
struct Encoded {
    text: Bytes,
    at: Instant,
    took: Duration,
}

impl Encoded {
    /// The text is reused for this multiple of the time that its encoding took, so that encoding takes a small share of
    /// the CPU however often the text is requested.
    const SHARE: u32 = 20;
    /// The text is reused for no longer than this.
    const LONGEST: Duration = Duration::from_secs(1);

    fn is_good(&self, now: Instant) -> bool {
        now.duration_since(self.at) < (self.took * Self::SHARE).min(Self::LONGEST)
    }
}

impl Exposition {
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Encodes all metrics in the text format of OpenMetrics 1.0.
    pub fn text(&self) -> String {
        let mut buffer = String::new();
        text::encode(&mut buffer, &self.registry).expect("writing to a string does not fail");
        buffer
    }

    /// Returns a text that is at most one second old. One text is encoded at a time, on a thread for blocking work;
    /// callers that arrive meanwhile get the same bytes.
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
