//! Since when what is known of Kubernetes may be outdated, for each kind of object.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// Points in time, as a person's clock tells them: subtracted from `time()` they are ages.
#[derive(Clone, Debug, Default)]
pub struct Staleness(Family<OfKind, Gauge<u64, AtomicU64>>);

impl Staleness {
    /// Makes them visible under `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "kubernetes_stale_since_timestamp",
            "Since when what is known of the objects of this kind may be outdated because the apiserver does not tell, \
             in seconds since 1970; 0 while it tells",
            Unit::Seconds,
            self.0.clone(),
        );
    }

    /// Nothing has been heard of this kind for so long.
    pub fn stale_for(&self, kind: &'static str, age: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(age).as_secs();
        self.0.get_or_create(&OfKind { kind }).set(since);
    }

    /// Of this kind everything is known.
    pub fn fresh(&self, kind: &'static str) {
        self.0.get_or_create(&OfKind { kind }).set(0);
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
        staleness.stale_for("pods", Duration::from_mins(1));
        assert!((before..=now() - 60).contains(&shown()), "{}", shown());
        staleness.fresh("pods");
        assert_eq!(shown(), 0);
    }
}
