//! Decides from the record of a run whether consumers were served as promised.
//!
//! Owns the rules. It shares no code with the operator: what a key should hold is derived only from what was seen in
//! Kubernetes ([`Desired`]), what it held from what was seen in etcd ([`holders`]), and when the servers were well from the
//! faults that were injected ([`Health`]). Pure: no server, no clock.

#[cfg(test)]
mod edit_tests;
#[cfg(test)]
mod family_tests;
mod foreign;
mod gates;
mod latency;
mod min_ready;
#[cfg(test)]
mod min_ready_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod quota_tests;
mod quotas;
mod reasons;
#[cfg(test)]
mod registry_tests;
mod retained;
#[cfg(test)]
mod service_tests;
mod silence;
mod standing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

use testbed::Kind as What;

use self::{quotas::Quotas, retained::Retained};
use super::{
    desired::Desired,
    health::Health,
    holders::{self, Holder, Touch},
    record::{Gate, Moment, Pod, Record, Span},
    wanted::canonical,
};

pub use latency::{Latencies, Sample, percentile};

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long a key may be wrong while the servers are well.
    pub bound: Duration,
    /// How far back the state lies that may still explain a write while the servers are well.
    pub reach: Duration,
    /// How much later than an operator the recorder may receive a change in Kubernetes.
    pub lag: Duration,
    /// For how long after a repair a write may still be explained by what was before.
    pub recovery: Duration,
    /// How long after the end of its session a leader may be missed.
    pub takeover: Duration,
    /// How soon a leader that has lost its view of Kubernetes is replaced by a replica that has one.
    pub yielding: Duration,
    /// How long a session lasts.
    pub session: Duration,
    /// How long a lease lasts.
    pub ttl: Duration,
    /// How long a readiness gate stays closed at most.
    pub gate_wait: Duration,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule is broken.
    pub kind: Kind,
    /// The key, if it is about one.
    pub key: Option<String>,
    /// When.
    pub at: Moment,
    /// What was seen.
    pub why: String,
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A key is there that should not be.
    Ghost,
    /// A key that should be there is not, or has another value.
    Loss,
    /// A key went and came although its pod stayed.
    Flap,
    /// A key went with its lease although nothing kept the operators from renewing it.
    Lapse,
    /// A key was written with the value it had.
    Rewrite,
    /// A write that was right before another one took its place.
    Stale,
    /// A write that never was right.
    Unwanted,
    /// A pod was registered before it had been ready for as long as its registration asks for.
    Early,
    /// A write while no replica held the leader key, or on a lease that no operator has recorded.
    Unfenced,
    /// a foreign client's key was changed.
    Foreign,
    /// A readiness gate opened before the keys of its pod were there.
    Gate,
    /// A namespace had more keys than its quota allows.
    Quota,
    /// Something happened while nothing should.
    Noise,
    /// etcd does not come to what it should hold.
    Unconverged,
    /// An operator ended although the run did not stop it, or did not start again.
    Death,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ghost => "ghost",
            Self::Loss => "loss",
            Self::Flap => "flap",
            Self::Lapse => "lapse",
            Self::Rewrite => "rewrite",
            Self::Stale => "stale write",
            Self::Unwanted => "unwanted write",
            Self::Early => "registered too early",
            Self::Unfenced => "unfenced write",
            Self::Foreign => "foreign key touched",
            Self::Gate => "gate opened too early",
            Self::Quota => "quota exceeded",
            Self::Noise => "noise",
            Self::Unconverged => "unconverged",
            Self::Death => "death",
        })
    }
}

/// What the checker found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Everything that is wrong, by time.
    pub violations: Vec<Violation>,
    /// How many events on data keys were judged.
    pub events: usize,
    /// How many keys they were about.
    pub keys: usize,
    /// Keys that went with their lease, as a fault explains, or were not wanted any more.
    pub lapses: usize,
    /// Writes that cannot be checked because of a gap in the record of Kubernetes.
    pub unjudged: usize,
    /// For how long a namespace had as many keys as its quota allows.
    pub quota_used_up: Duration,
    /// How long keys took.
    pub latencies: Latencies,
}

/// What all rules look at.
struct Scene<'a> {
    record: &'a Record,
    terms: &'a Terms,
    desired: Desired,
    touches: BTreeMap<String, Vec<Touch>>,
    /// By all faults.
    health: Health,
    /// By the faults that affect the operators of a Registry, by its name.
    health_by_registry: BTreeMap<String, Health>,
    /// The Registry of each prefix.
    registries: BTreeMap<String, String>,
    retained: Retained,
    quotas: Quotas,
}

impl<'a> Scene<'a> {
    fn of(record: &'a Record, terms: &'a Terms) -> Self {
        let (desired, touches) = (Desired::of(&record.kubernetes), holders::touches(&record.etcd));
        let registries: BTreeMap<String, String> = desired
            .owners_of_prefixes()
            .into_iter()
            .map(|(prefix, (registry, _))| (prefix.to_owned(), registry.to_owned()))
            .collect();
        let of_registry = |registry: &String| {
            let faults = record.faults.iter();
            let faults = faults.filter(|fault| fault.registry.as_ref().is_none_or(|one| one == registry));
            (registry.clone(), Health::of(faults, terms))
        };
        Self {
            record,
            terms,
            health_by_registry: registries.values().map(of_registry).collect(),
            registries,
            retained: Retained::of(&desired, &touches),
            quotas: Quotas::of(&desired, &touches),
            desired,
            touches,
            health: Health::of(record.faults.iter(), terms),
        }
    }

    /// The Registry that a key belongs to, if a registration ever had a prefix of it.
    fn registry_of(&self, key: &str) -> Option<&str> {
        let mut prefixes = self.registries.iter();
        let found = prefixes.find(|(prefix, _)| key.starts_with(prefix.as_str()))?;
        Some(found.1)
    }

    /// When the servers that keep a key were well.
    fn health_of(&self, key: &str) -> &Health {
        let of_registry = self
            .registry_of(key)
            .and_then(|registry| self.health_by_registry.get(registry));
        of_registry.unwrap_or(&self.health)
    }

    fn touches(&self, key: &str) -> &[Touch] {
        self.touches.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Judges a record.
pub fn check(record: &Record, terms: &Terms) -> Verdict {
    let scene = Scene::of(record, terms);
    let mut verdict = Verdict {
        events: scene.touches.values().map(Vec::len).sum(),
        keys: scene.touches.len(),
        quota_used_up: scene.quotas.used_up(record.end),
        latencies: latency::measure(&scene),
        ..Verdict::default()
    };
    reasons::judge(&scene, &mut verdict);
    verdict.violations.extend(standing::violations(&scene));
    verdict.violations.extend(quotas::violations(&scene));
    verdict.violations.extend(foreign::violations(&scene));
    verdict.violations.extend(gates::violations(&scene));
    verdict.violations.extend(silence::violations(&scene));
    verdict.violations.sort_by_key(|violation| violation.at);
    verdict
}

/// What still keeps etcd from holding exactly what it should by all that was seen: one line for each key.
pub fn differences(record: &Record) -> Vec<String> {
    let desired = Desired::of(&record.kubernetes);
    let touches = holders::touches(&record.etcd);
    let (retained, quotas) = (Retained::of(&desired, &touches), Quotas::of(&desired, &touches));
    let now = Span {
        from: record.end,
        to: record.end,
    };
    let mut held: BTreeMap<&str, &str> = BTreeMap::new();
    for (_, event) in &record.etcd {
        if !holders::is_data(&event.key) {
            continue;
        }
        match &event.kind {
            What::Put { value, .. } => held.insert(&event.key, value),
            What::Delete => held.remove(event.key.as_str()),
        };
    }
    let mut differences = quotas.exceeded(now);
    for key in desired.keys() {
        match (desired.last(key), held.get(key.as_str())) {
            (Some(_), None) if retained.allows(key, None, now) || quotas.is_full(key, now) => {}
            (Some(wanted), None) => differences.push(format!("{key} is missing, it should be {wanted}")),
            (Some(wanted), Some(held)) if !holders::is_foreign(held) && canonical(held) != wanted => {
                differences.push(format!("{key} is {held}, it should be {wanted}"));
            }
            _ => {}
        }
    }
    for (name, state) in desired.pod_states(now) {
        let waits = |pod: &Pod| pod.ready && pod.gate == Some(Gate::Closed);
        // One on a node that is not ready waits until that is.
        let is_lost = |pod: &Pod| {
            let nodes = desired.node_states(pod, now);
            nodes.iter().any(|node| node.value.is_some_and(|node| !node.ready))
        };
        if state.value.is_some_and(|pod| waits(pod) && !is_lost(pod)) && state.to > record.end {
            differences.push(format!("{name} waits for its readiness gate"));
        }
    }
    for (key, value) in held {
        let is_retained = || retained.allows(key, Some(&canonical(value)), now);
        if !holders::is_foreign(value) && desired.last(key).is_none() && !is_retained() {
            differences.push(format!("{key} is there, it should not be"));
        }
    }
    differences
}

/// The span between two moments, in words.
fn during(span: Span) -> String {
    format!(
        "from {:.3} s to {:.3} s",
        span.from.as_secs_f64(),
        span.to.as_secs_f64()
    )
}

/// What a holder is called.
fn named(holder: &Holder) -> &str {
    match holder {
        Holder::Absent => "absent",
        Holder::Ours { value, .. } => value,
        Holder::Foreign => "a key of the foreign client",
    }
}
