//! What an edit leaves in place: as long as a foreign client holds a key that the newest spec newly asks for, a pod keeps the
//! keys of the spec before, and gets none of the new ones. It also keeps them if it does not have a port that the newest
//! spec asks for, and that of the spec before. See `kubectl explain svcreg.status.lastSynced`.

use std::collections::BTreeMap;

use crate::chaos::{
    desired::Desired,
    holders::{Holder, Touch},
    record::{Moment, Span},
    wanted::Registration,
};

/// How many specs back the one may lie that was carried out last.
const DEPTH: usize = 16;

/// When which keys are as the spec before asks for.
#[derive(Debug, Default)]
pub struct Retained(BTreeMap<String, Vec<Retention>>);

/// A key for a while.
#[derive(Debug)]
struct Retention {
    span: Span,
    /// Its value by the spec before; none for a key that only the newest spec asks for.
    value: Option<String>,
}

impl Retained {
    /// By what was seen in Kubernetes and of the foreign client in etcd.
    pub fn of(desired: &Desired, touches: &BTreeMap<String, Vec<Touch>>) -> Self {
        let taken = taken(touches);
        let mut retained = Self::default();
        for specs in desired.registration_states() {
            for (i, newest) in specs.iter().enumerate() {
                let Some(spec) = newest.value else { continue };
                let earlier: Vec<&Registration> = specs[i.saturating_sub(DEPTH)..i]
                    .iter()
                    .filter_map(|state| state.value)
                    .collect();
                for (name, state) in desired.pod_states(newest.span()) {
                    let Some(pod) = state.value else { continue };
                    let both = meet(newest.span(), state.span());
                    for node in desired.node_states(pod, both) {
                        let alive = meet(both, node.span());
                        let wanted = spec.keys(name, pod, node.value);
                        let is_barred = wanted.keys().any(|key| taken.contains_key(key.as_str()));
                        let lacks = spec.lacks_port(pod);
                        if !is_barred && !lacks {
                            continue;
                        }
                        // What the Registry allows holds for the spec before, too.
                        let former = earlier.iter().filter(|one| !lacks || !one.lacks_port(pod));
                        let former = former.flat_map(|one| [(*one).clone(), one.with_allowed(spec.allowed())]);
                        let had: Vec<_> = former.map(|one| one.keys(name, pod, node.value)).collect();
                        if lacks {
                            for had in &had {
                                retained.add(alive, &wanted, had);
                            }
                        } else {
                            retained.add_barred(alive, &wanted, &had, &taken);
                        }
                    }
                }
            }
        }
        retained
    }

    /// While a foreign client has one of the keys that a pod is wanted to have: by each earlier spec that did not ask for that key.
    fn add_barred(
        &mut self,
        alive: Span,
        wanted: &BTreeMap<String, String>,
        earlier: &[BTreeMap<String, String>],
        taken: &BTreeMap<&str, Vec<Span>>,
    ) {
        for key in wanted.keys() {
            for span in taken.get(key.as_str()).into_iter().flatten() {
                let span = meet(*span, alive);
                if span.from >= span.to {
                    continue;
                }
                for had in earlier.iter().filter(|had| !had.contains_key(key)) {
                    self.add(span, wanted, had);
                }
            }
        }
    }

    fn add(&mut self, span: Span, wanted: &BTreeMap<String, String>, had: &BTreeMap<String, String>) {
        let kept = had.iter().filter(|(key, _)| !wanted.contains_key(*key));
        let kept = kept.map(|(key, value)| (key, Some(value.clone())));
        let awaited = wanted.keys().filter(|key| !had.contains_key(*key));
        for (key, value) in kept.chain(awaited.map(|key| (key, None))) {
            self.0.entry(key.clone()).or_default().push(Retention { span, value });
        }
    }

    /// Whether `key` may have `value` at some time of `span`, or is not to be there yet.
    pub fn allows(&self, key: &str, value: Option<&str>, span: Span) -> bool {
        self.of_key(key)
            .any(|one| one.value.as_deref() == value && one.span.from <= span.to && one.span.to >= span.from)
    }

    /// The parts of `span` in which nothing allows that `key` has `value`, or is not there.
    pub fn not_allowed(&self, key: &str, value: Option<&str>, span: Span) -> Vec<Span> {
        let allowed = self.of_key(key).filter(|one| one.value.as_deref() == value);
        span.without(allowed.map(|one| one.span))
    }

    fn of_key(&self, key: &str) -> impl Iterator<Item = &Retention> {
        self.0.get(key).into_iter().flatten()
    }
}

/// When the foreign client held which keys.
fn taken(touches: &BTreeMap<String, Vec<Touch>>) -> BTreeMap<&str, Vec<Span>> {
    let mut taken: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for (key, touches) in touches {
        let ends = touches.iter().skip(1).map(|touch| touch.at).chain([Moment::MAX]);
        for (touch, to) in touches.iter().zip(ends) {
            if touch.after == Holder::Foreign {
                taken.entry(key).or_default().push(Span { from: touch.at, to });
            }
        }
    }
    taken
}

fn meet(one: Span, other: Span) -> Span {
    Span {
        from: one.from.max(other.from),
        to: one.to.min(other.to),
    }
}
