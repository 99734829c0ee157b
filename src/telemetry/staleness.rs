//! Since when what is known of Kubernetes may be outdated, for each kind of object.

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

/// A kind, and the namespace; empty if it is heard of as a whole.
type WatchTarget = (String, String);

/// Points in time, as a person's clock tells them: subtracted from `time()` they are ages. A kind that is heard of
/// namespace by namespace is as stale as the one that has been for longest.
#[derive(Clone, Debug, Default)]
pub struct Staleness {
    shown: Family<OfKind, Gauge<u64, AtomicU64>>,
    /// Of which kinds, and where, nothing is heard, and since when.
    stale: Arc<Mutex<BTreeMap<WatchTarget, u64>>>,
}

impl Staleness {
    /// Makes them visible under `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "kubernetes_stale_since_timestamp",
            "Since when what is known of the objects of this kind may be outdated because the apiserver does not tell, \
             in seconds since 1970; 0 while it tells",
            Unit::Seconds,
            self.shown.clone(),
        );
    }

    /// Nothing has been heard of this kind for so long, in this namespace if it is heard of namespace by namespace.
    pub fn stale_for(&self, kind: &str, namespace: Option<&str>, age: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set(kind, namespace, Some(now.saturating_sub(age).as_secs()));
    }

    /// Of this kind everything is known, or everything in this namespace.
    pub fn fresh(&self, kind: &str, namespace: Option<&str>) {
        self.set(kind, namespace, None);
    }

    fn set(&self, kind: &str, namespace: Option<&str>, since: Option<u64>) {
        let stream = (kind.to_owned(), namespace.unwrap_or_default().to_owned());
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            Some(since) => drop(stale.insert(stream, since)),
            None => drop(stale.remove(&stream)),
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
    fn a_kind_is_stale_since_it_was_last_heard_of_until_it_is_known_again() {
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
            "another one is stale: {}",
            shown()
        );
        staleness.fresh("pods", Some("bank"));
        assert_eq!(shown(), 0);
    }
}
