//! Readiness gates that open too early: while a key of the pod is not there.

use super::{Kind, Scene, Violation, standing::held};
use crate::chaos::{
    desired::State,
    holders::Holder,
    record::{Gate, Moment, Pod, Span},
};

pub fn violations(scene: &Scene<'_>) -> Vec<Violation> {
    let ever = Span {
        from: Moment::ZERO,
        to: Moment::MAX,
    };
    let states: Vec<(&str, State<'_, Pod>)> = scene.desired.pod_states(ever).collect();
    let openings = states.windows(2).filter_map(|pair| {
        let [(before_name, before), (name, after)] = pair else {
            return None;
        };
        let (before, at) = (before.value?, after.span().from);
        let after = after.value.filter(|_| before_name == name)?;
        let opens = before.gate == Some(Gate::Closed) && after.gate == Some(Gate::Registered);
        opens.then_some((*name, before, after, at))
    });
    openings.flat_map(|opening| of_opening(scene, opening)).collect()
}

/// What was missing when the gate of a pod opened.
fn of_opening(scene: &Scene<'_>, (name, before, after, at): (&str, &Pod, &Pod, Moment)) -> Vec<Violation> {
    // The news of etcd and of Kubernetes come in no order, and the watches of the operator and of this record each return at
    // a time of their own after a fault.
    let around = scene.health.explaining(at);
    let waited = scene.desired.pod_states(around).filter_map(|(other, state)| {
        let pod = state.value.filter(|_| other == name)?;
        (pod.ready && pod.gate == Some(Gate::Closed)).then_some(pod)
    });
    let waited: Vec<&Pod> = waited.chain([before]).collect();
    let mut violations = Vec::new();
    for states in scene.desired.registration_states() {
        let mut alive = states.into_iter().filter(|state| {
            let span = state.span();
            span.from <= around.to && span.to >= around.from
        });
        // Of a registration that is created or changes just then, it is open which keys count.
        let (Some(state), None) = (alive.next(), alive.next()) else {
            continue;
        };
        let Some(registration) = state.value.filter(|_| state.span().from <= around.from) else {
            continue;
        };
        let of_pod = |pod: &Pod| scene.desired.keys_on_nodes(registration, name, pod, around);
        let mut on_nodes = of_pod(after);
        // Of a pod that is relabelled while the request that opens its gate is on its way, too, or whose node changes then.
        on_nodes.extend(waited.iter().flat_map(|pod| of_pod(pod)));
        let keys = on_nodes.swap_remove(0);
        if on_nodes.iter().any(|others| *others != keys) {
            continue;
        }
        for (key, value) in keys {
            let is_it = |holder: &Holder| matches!(holder, Holder::Ours { value: held, .. } if *held == value);
            let recorded = Span {
                to: around.to.max(scene.health.etcd_recorded_by(at)),
                ..around
            };
            if !held(scene, &key, recorded).iter().any(|(holder, _)| is_it(holder)) {
                violations.push(Violation {
                    kind: Kind::Gate,
                    key: Some(key.clone()),
                    at,
                    why: format!("the readiness gate of {name} opened although the key was not {value}"),
                });
            }
        }
    }
    violations
}
