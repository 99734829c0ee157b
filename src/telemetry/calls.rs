//! Counts calls to other programs by outcome, and measures their duration.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The program that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An etcd that services are registered in.
    Etcd,
    Apiserver,
    /// Another replica of the operator.
    Replica,
}

impl EncodeLabelValue for Peer {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "apiserver",
            Self::Replica => "replica",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The peer did what was asked.
    Ok,
    /// The peer answered that it does not carry out the call: a guard that did not hold, a conflict, a lost election.
    Refused,
    /// The peer answered with an error, or could not be reached.
    Error,
    /// No answer within the time-out.
    Timeout,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Error => "error",
            Self::Timeout => "timeout",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    peer: Peer,
    call: &'static str,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TimedLabels {
    peer: Peer,
    call: &'static str,
}

/// The counters and histograms of calls to other programs.
#[derive(Clone, Debug)]
pub struct Calls {
    count: Family<Labels, Counter>,
    seconds: Family<TimedLabels, Histogram>,
}

impl Default for Calls {
    fn default() -> Self {
        // 0.5 ms (an idle etcd on the same host) to 16 s (longer than every time-out).
        let buckets = || {
            Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
                0.0005, 2.0, 16,
            ))
        };
        Self {
            count: Family::default(),
            seconds: Family::new_with_constructor(buckets),
        }
    }
}

impl Calls {
    /// Registers the metrics in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "calls",
            "Calls to etcd, the apiserver and other replicas, by outcome",
            self.count.clone(),
        );
        registry.register_with_unit(
            "call",
            "Duration of calls to etcd, the apiserver and other replicas, in seconds",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }

    /// Records one call. `call` is a fixed name such as `txn` or `patch_status`.
    pub fn observe(&self, peer: Peer, call: &'static str, outcome: Outcome, elapsed: Duration) {
        self.count.get_or_create(&Labels { peer, call, outcome }).inc();
        self.seconds
            .get_or_create(&TimedLabels { peer, call })
            .observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_by_its_outcome_and_timed() {
        let calls = Calls::default();
        let mut registry = Registry::default();
        calls.register(&mut registry);
        calls.observe(Peer::Etcd, "txn", Outcome::Refused, Duration::from_millis(3));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"calls_total{peer="etcd",call="txn",outcome="refused"} 1"#,
            r#"call_seconds_count{peer="etcd",call="txn"} 1"#,
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in:\n{text}");
        }
    }
}
