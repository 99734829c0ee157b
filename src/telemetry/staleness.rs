//! For each kind of object, the time since when the operator's cache of it may be stale.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

/// The kind and the namespace; the namespace is empty if one watch covers all namespaces.
type WatchTarget = (String, String);

/// Wall-clock times: `time()` minus such a value is an age. A kind that is watched per namespace shows the time of the
/// namespace that has been stale for the longest.
#[derive(Clone, Debug, Default)]
pub struct Staleness {
    shown: Family<OfKind, Gauge<u64, AtomicU64>>,
    /// The stale targets, with the time in seconds since 1970 since when they are stale.
    stale: Arc<Mutex<BTreeMap<WatchTarget, u64>>>,
}

impl Staleness {
    /// Registers the metric in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "kubernetes_stale_since_timestamp",
            "Time since when the cache of this kind may be stale because the apiserver sends no updates, in seconds since \
             1970; 0 while the cache is up to date",
            Unit::Seconds,
            self.shown.clone(),
        );
    }

    /// Marks the kind as stale for `age`, in this namespace if the kind is watched per namespace.
    pub fn stale_for(&self, kind: &str, namespace: Option<&str>, age: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set(kind, namespace, Some(now.saturating_sub(age).as_secs()));
    }

    /// Marks the kind as up to date, in this namespace if the kind is watched per namespace.
    pub fn fresh(&self, kind: &str, namespace: Option<&str>) {
        self.set(kind, namespace, None);
    }

    fn set(&self, kind: &str, namespace: Option<&str>, since: Option<u64>) {
        let target = (kind.to_owned(), namespace.unwrap_or_default().to_owned());
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            Some(since) => drop(stale.insert(target, since)),
            None => drop(stale.remove(&target)),
        }
        let of_kind = stale.iter().filter(|((other, _), _)| other == kind);
        let oldest = of_kind.map(|(_, since)| *since).min();
        let kind = kind.to_owned();
        self.shown.get_or_create(&OfKind { kind }).set(oldest.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_stale_since_its_oldest_stale_target_until_refreshed() {
        let staleness = Staleness::default();
        let mut registry = Registry::default();
        staleness.register(&mut registry);
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with("kubernetes_stale_since_timestamp_seconds{kind=\"pods\"} "));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            value.unwrap_or_else(|| panic!("no value in:\n{text}"))
        };
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let before = now() - 60;
        staleness.stale_for("pods", Some("shop"), Duration::from_mins(1));
        staleness.stale_for("pods", Some("bank"), Duration::from_secs(1));
        staleness.stale_for("registries", None, Duration::from_hours(1));
        assert!((before..=now() - 60).contains(&shown()), "{}", shown());
        staleness.fresh("pods", Some("shop"));
        assert!(
            (before + 59..=now()).contains(&shown()),
            "another target is stale: {}",
            shown()
        );
        staleness.fresh("pods", Some("bank"));
        assert_eq!(shown(), 0);
    }
}
