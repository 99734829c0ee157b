//! Ghosts and losses: a key that is not as it should be for longer than the bound while the servers are well.

use super::{Kind, Scene, Violation, during, named};
use crate::chaos::{
    desired::DesiredValue,
    holders::Holder,
    record::{Moment, Span},
};

pub fn violations(scene: &Scene<'_>) -> Vec<Violation> {
    let mut keys: Vec<&String> = scene.desired.keys().chain(scene.touches.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().flat_map(|key| of_key(scene, key)).collect()
}

fn of_key(scene: &Scene<'_>, key: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (wanted_value, desired_span) in scene.desired.spans(key, scene.record.end) {
        for (holder, span) in held(scene, key, desired_span) {
            let Some(kind) = mismatch(wanted_value, holder) else {
                continue;
            };
            let value = match holder {
                Holder::Ours { value, .. } => Some(value.as_str()),
                Holder::Absent | Holder::Foreign => None,
            };
            let wrong = scene.retained.not_allowed(key, value, span).into_iter();
            // Of the pods above a quota it is open which ones have keys.
            let full = if *holder == Holder::Absent {
                scene.quotas.full(key)
            } else {
                &[]
            };
            let calm = wrong
                .flat_map(|part| part.without(full.iter().copied()))
                .map(|part| scene.health_of(key).longest_calm(part))
                .max()
                .unwrap_or_default();
            if calm <= scene.terms.bound {
                continue;
            }
            let wanted = wanted_value.value.as_deref().unwrap_or("absent");
            let (is, bound) = (named(holder), scene.terms.bound.as_secs());
            violations.push(Violation {
                kind,
                key: Some(key.to_owned()),
                at: span.from,
                why: format!(
                    "the key should be {wanted} and is {is} {}, {:.1} s of that with healthy servers ({bound} s allowed)",
                    during(span),
                    calm.as_secs_f64()
                ),
            });
        }
    }
    violations
}

fn mismatch(wanted_value: &DesiredValue, holder: &Holder) -> Option<Kind> {
    match (&wanted_value.value, holder) {
        (None, Holder::Ours { .. }) => Some(Kind::Ghost),
        (Some(_), Holder::Absent) => Some(Kind::Loss),
        (Some(wanted), Holder::Ours { value, .. }) if value != wanted => Some(Kind::Loss),
        // What the foreign client holds is the foreign client's.
        _ => None,
    }
}

/// Who held a key in the course of a span; equal neighbours are one.
pub fn held<'a>(scene: &'a Scene<'_>, key: &str, span: Span) -> Vec<(&'a Holder, Span)> {
    let touches = scene.touches(key);
    let mut held: Vec<(&Holder, Span)> = Vec::new();
    let mut from = Moment::ZERO;
    let mut holder = &Holder::Absent;
    let last = touches.last().map_or(&Holder::Absent, |touch| &touch.after);
    let changes = touches
        .iter()
        .map(|touch| (touch.at, &touch.after))
        .chain([(Moment::MAX, last)]);
    for (at, after) in changes {
        let part = Span {
            from: from.max(span.from),
            to: at.min(span.to),
        };
        if part.from < part.to {
            match held.last_mut() {
                Some((before, whole)) if *before == holder => whole.to = part.to,
                _ => held.push((holder, part)),
            }
        }
        (from, holder) = (at, after);
    }
    held
}
