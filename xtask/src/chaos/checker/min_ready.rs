//! Pods that are registered before they have been ready for as long as their registration asks for.

use std::time::Duration;

use super::{Scene, standing::held};
use crate::chaos::{
    desired::{self, State},
    holders::{Holder, Touch},
    record::{Moment, Pod, Span},
    wanted::Registration,
};

/// How far the clocks of the record and of an operator may be apart, which are those of one machine.
const SLACK: Duration = Duration::from_millis(100);

/// Why a write of a key is too early, if it registers a pod that should have waited by each state of the pod and the
/// registration that can explain the write, by one who knew what the pod was at `known`.
pub fn too_early(scene: &Scene<'_>, key: &str, touch: &Touch, within: Span, known: Moment) -> Option<String> {
    let (Holder::Ours { value, .. }, Holder::Absent | Holder::Foreign) = (&touch.after, &touch.before) else {
        return None;
    };
    let name = desired::named(key);
    let pods: Vec<(&Pod, State<'_, Pod>)> = scene
        .desired
        .pod_states(within)
        .filter(|(one, state)| *one == name && state.to > known)
        .filter_map(|(_, state)| Some((state.value?, state)))
        .collect();
    let mut least: Option<Moment> = None;
    for specs in scene.desired.registration_states() {
        let recent = specs.iter().filter(|spec| spec.span().meets(within));
        for spec in recent.filter_map(|spec| spec.value) {
            for (pod, state) in &pods {
                let keys = scene.desired.keys_on_nodes(spec, name, pod, within);
                if !keys.iter().any(|keys| keys.get(key) == Some(value)) {
                    continue;
                }
                let since = pod.since.unwrap_or_default();
                let available = available(&specs, since, within);
                if available <= touch.at + SLACK
                    || was_registered(scene, &specs, key, begin(&pods, state), touch, within)
                {
                    return None;
                }
                least = Some(least.map_or(available, |least| least.min(available)));
            }
        }
    }
    let available = least?.as_secs_f64();
    Some(format!(
        "{value} was written, but {name} had been ready for long enough only at {available:.3} s"
    ))
}

/// From when on a pod that has been ready since a moment could be registered by any spec of pods that there was since.
fn available(specs: &[State<'_, Registration>], since: Moment, within: Span) -> Moment {
    let span = Span {
        from: within.from.min(since),
        to: within.to,
    };
    let specs = specs.iter().filter(|spec| spec.span().meets(span));
    let specs = specs.filter_map(|spec| spec.value);
    let specs = specs.filter(|spec| spec.registers().are_pods());
    let least = specs.map(Registration::min_ready).min();
    since + least.unwrap_or_default()
}

/// When a pod was seen to be ready as it is in a state.
fn begin(pods: &[(&Pod, State<'_, Pod>)], state: &State<'_, Pod>) -> Moment {
    let since = state.value.map(|pod| pod.since);
    let same = pods.iter().filter(|(pod, _)| pod.ready && Some(pod.since) == since);
    same.map(|(_, state)| state.from).min().unwrap_or(state.from)
}

/// Whether the pod had a key of the registration before, from which an edit has moved it on: only registering waits.
fn was_registered(
    scene: &Scene<'_>,
    specs: &[State<'_, Registration>],
    key: &str,
    begin: Moment,
    touch: &Touch,
    within: Span,
) -> bool {
    let (name, is_calm) = (desired::named(key), scene.health_of(key).is_calm(within));
    // The former records stay until the new ones are written; which of them are is learnt late only in trouble.
    let from = if is_calm {
        touch.at.saturating_sub(SLACK).max(begin)
    } else {
        within.from
    };
    let span = Span { from, to: touch.at };
    let prefixes = || {
        specs
            .iter()
            .filter_map(|spec| spec.value)
            .flat_map(Registration::prefixes)
    };
    let of_pod = scene.touches.keys().filter(|key| desired::named(key) == name);
    let mut of_pod = of_pod.filter(|key| prefixes().any(|prefix| key.starts_with(prefix)));
    of_pod.any(|key| {
        let held = held(scene, key, span);
        held.iter().any(|(holder, _)| matches!(holder, Holder::Ours { .. }))
    })
}
