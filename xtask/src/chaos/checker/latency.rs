//! How long keys took while the servers were well.

use std::time::Duration;

use super::Scene;
use crate::chaos::{
    holders::{Holder, Touch},
    record::{Moment, Span},
};

/// What was measured, both sorted.
#[derive(Debug, Default)]
pub struct Latencies {
    /// From the event that a pod is ready, or has another value, to that of its key.
    pub to_key: Vec<Sample>,
    /// From the event that a pod is no longer ready to the deletion of its key.
    pub to_gone: Vec<Sample>,
}

/// How long one key took.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// How long.
    pub took: Duration,
    /// Since when.
    pub at: Moment,
    /// Which one.
    pub key: String,
}

pub fn measure(scene: &Scene<'_>) -> Latencies {
    let mut latencies = Latencies::default();
    // A wait for a quota is no latency of the operator.
    for key in scene.desired.keys().filter(|key| !scene.quotas.limits(key)) {
        // The first is that there is nothing.
        for (wanted_value, span) in scene.desired.spans(key, scene.record.end).skip(1) {
            let Some(took) = follow(scene, key, wanted_value.value.as_deref(), span) else {
                continue;
            };
            let sample = Sample {
                took,
                at: wanted_value.from,
                key: key.clone(),
            };
            match wanted_value.value {
                Some(_) => latencies.to_key.push(sample),
                None => latencies.to_gone.push(sample),
            }
        }
    }
    latencies.to_key.sort_unstable();
    latencies.to_gone.sort_unstable();
    latencies
}

/// How long it took until a key was as wanted, if it had to change for that and all was well.
fn follow(scene: &Scene<'_>, key: &str, wanted: Option<&str>, span: Span) -> Option<Duration> {
    let lag = scene.terms.lag;
    let touches = scene.touches(key);
    let done = touches.iter().position(|touch| {
        let after = match &touch.after {
            Holder::Ours { value, .. } => Some(value.as_str()),
            Holder::Absent => None,
            Holder::Foreign => return false,
        };
        // The operator may have received the change before the recorder.
        touch.at + lag >= span.from && touch.at <= span.to && after == wanted
    })?;
    // A wait for the foreign client is no latency of the operator.
    let meanwhile = touches[..done].iter().rev();
    let in_the_way = |touch: &&Touch| touch.after == Holder::Foreign || touch.before == Holder::Foreign;
    if meanwhile
        .take_while(|touch| touch.at + lag >= span.from)
        .any(|touch| in_the_way(&touch))
        || touches[done].before == Holder::Foreign
    {
        return None;
    }
    let done = &touches[done];
    let whole = Span {
        from: span.from.saturating_sub(lag),
        to: done.at.max(span.from),
    };
    scene
        .health_of(key)
        .is_calm(whole)
        .then(|| done.at.saturating_sub(span.from))
}

/// The value below which so many of a hundred lie; none of nothing. The values are sorted.
pub fn percentile(sorted: &[Sample], of_hundred: usize) -> Option<&Sample> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * of_hundred).div_ceil(100))
}
