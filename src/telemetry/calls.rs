//! Every call to another program is counted by its outcome and timed.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Who was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Peer {
    /// A registration etcd.
    Etcd,
    /// The kube-apiserver.
    Apiserver,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// The peer did what was asked.
    Ok,
    /// The peer answered that it will not (a guard that did not hold, a conflict, a lost election).
    Refused,
    /// The peer answered with an error, or could not be reached.
    Error,
    /// No answer in time.
    Timeout,
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

/// Counts and times of calls to other programs.
#[derive(Clone, Debug)]
pub struct Calls {
    count: Family<Labels, Counter>,
    seconds: Family<TimedLabels, Histogram>,
}

impl Default for Calls {
    fn default() -> Self {
        // 0.5 ms (an idle etcd on the same host) to 16 s (beyond every time-out).
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
    /// Makes the counts visible under `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("calls", "Calls to other programs by outcome", self.count.clone());
        registry.register(
            "call_seconds",
            "Duration of calls to other programs",
            self.seconds.clone(),
        );
    }

    /// Counts one call. `call` is a fixed name such as `txn` or `patch_status`.
    pub fn observe(&self, peer: Peer, call: &'static str, outcome: Outcome, elapsed: Duration) {
        self.count.get_or_create(&Labels { peer, call, outcome }).inc();
        self.seconds
            .get_or_create(&TimedLabels { peer, call })
            .observe(elapsed.as_secs_f64());
    }
}
