//! Every write of an operator needs a reason: a state of Kubernetes in which it was right, not older than what explains the
//! write before, and recent enough that it may just have been learnt. That finds flaps (there is no such state at all), and
//! what a stale leader wrote (there is one, but the key has been moved on from it already).
//!
//! Who wrote a key is not in etcd's history, only on which lease it is; and every replica's view of Kubernetes is another one.
//! So the checker detects staleness by the effect, which is all that consumers see. A write also needs a leader at its
//! revision, as the fence demands, and a lease that is recorded.

use super::{Kind, Scene, Verdict, Violation, during, min_ready, named};
use crate::chaos::{
    desired::DesiredValue,
    health::Health,
    holders::{Holder, Touch},
    record::Span,
};

pub fn judge(scene: &Scene<'_>, verdict: &mut Verdict) {
    for (key, touches) in &scene.touches {
        let mut history = History {
            scene,
            key,
            health: scene.health_of(key),
            desired: scene.desired.of_key(key),
            reached: 0,
        };
        for touch in touches {
            // What the foreign client did with a free key or its own.
            if touch.after == Holder::Foreign || touch.before == Holder::Foreign && touch.after == Holder::Absent {
                continue;
            }
            match history.judge(touch) {
                Judgement::Right => {}
                Judgement::Lapsed => verdict.lapses += 1,
                Judgement::Unknown => verdict.unjudged += 1,
                Judgement::Wrong(kind, why) => verdict.violations.push(Violation {
                    kind,
                    key: Some(key.clone()),
                    at: touch.at,
                    why,
                }),
            }
        }
    }
}

enum Judgement {
    Right,
    Lapsed,
    Unknown,
    Wrong(Kind, String),
}

/// One key, judged from its first event on.
struct History<'a> {
    scene: &'a Scene<'a>,
    key: &'a str,
    health: &'a Health,
    desired: &'a [DesiredValue],
    /// The desired value that explains the last write.
    reached: usize,
}

impl History<'_> {
    fn judge(&mut self, touch: &Touch) -> Judgement {
        let within = self.health.explaining(touch.at);
        if touch.lapse {
            return self.judge_lapse(touch);
        }
        if !touch.led {
            let why = format!(
                "{} was written while no operator of its Registry was the leader",
                named(&touch.after)
            );
            return Judgement::Wrong(Kind::Unfenced, why);
        }
        if !touch.recorded {
            let why = "the key was put on a lease that no operator has recorded".to_owned();
            return Judgement::Wrong(Kind::Unfenced, why);
        }
        if let (Some(own), Some(other)) = (self.scene.registry_of(self.key), touch.registry)
            && own != other
        {
            let why = format!("the key belongs to the Registry {own}, and the lease to the Registry {other}");
            return Judgement::Wrong(Kind::Unfenced, why);
        }
        let value = match &touch.after {
            Holder::Ours { value, .. } => Some(value.as_str()),
            Holder::Absent | Holder::Foreign => None,
        };
        if let (Holder::Ours { value: before, .. }, Some(value)) = (&touch.before, value)
            && before == value
        {
            return Judgement::Wrong(Kind::Rewrite, format!("{value} was written over the same value"));
        }
        let right = self
            .recent(within)
            .filter(|i| self.desired[*i].value.as_deref() == value);
        let right: Vec<usize> = right.collect();
        let known = if self.health.view_returns(touch.at) {
            within.from
        } else {
            self.desired[self.reached].from
        };
        let is_hidden = self.scene.record.gaps.iter().any(|gap| gap.meets(within));
        if let Some(why) = min_ready::too_early(self.scene, self.key, touch, within, known)
            && !is_hidden
        {
            return Judgement::Wrong(Kind::Early, why);
        }
        let is_calm = self.health.is_calm(within);
        let otherwise = value.map(|value| {
            let desired = &self.scene.desired;
            desired.could_be(self.key, value, within, known, is_calm)
        });
        let otherwise = otherwise.unwrap_or_default();
        if let Some(reached) = right.iter().find(|i| **i >= self.reached) {
            // Maybe it was written by an older state of the pod, what came after which is yet to be followed.
            let older = otherwise.since.map_or(*reached, |since| {
                self.desired.partition_point(|wanted_value| wanted_value.from <= since) - 1
            });
            self.reached = self.reached.max(older.min(*reached));
            return Judgement::Right;
        }
        if is_hidden {
            return Judgement::Unknown;
        }
        let desired = &self.scene.desired;
        let is_open = value.is_none() && desired.could_be_gone(self.key, within)
            || desired.service_could_be(self.key, value, within, is_calm);
        if otherwise.is_right || is_open || self.scene.retained.allows(self.key, value, within) {
            return Judgement::Right;
        }
        self.wrong(value, &right, within)
    }

    /// The indices of the desired values that were good at some time of a span.
    fn recent(&self, within: Span) -> impl Iterator<Item = usize> {
        let ends = self
            .desired
            .iter()
            .skip(1)
            .map(|wanted_value| wanted_value.from)
            .chain([super::Moment::MAX]);
        let desired = self.desired.iter().zip(ends).enumerate();
        desired
            .filter(move |(_, (wanted_value, end))| wanted_value.from <= within.to && *end >= within.from)
            .map(|(i, _)| i)
    }

    fn judge_lapse(&self, touch: &Touch) -> Judgement {
        // A lease does not expire because an operator received an event late.
        let lag = self.scene.terms.lag;
        let within = Span {
            from: touch.at.saturating_sub(lag),
            to: touch.at + lag,
        };
        let unwanted = self.recent(within).any(|i| self.desired[i].value.is_none());
        if unwanted || self.health.explains_lapse(touch.at) {
            return Judgement::Lapsed;
        }
        let why = "the key expired with its lease, and no fault kept the operators from renewing it".to_owned();
        Judgement::Wrong(Kind::Lapse, why)
    }

    fn wrong(&self, value: Option<&str>, right_before: &[usize], within: Span) -> Judgement {
        let when = during(within);
        match value {
            None if right_before.is_empty() => {
                let why = format!("the key was deleted although its pod was ready and registered all the time {when}");
                Judgement::Wrong(Kind::Flap, why)
            }
            None => {
                let why = format!(
                    "the key was deleted for a reason that was over and that the operators had acted on ({when})"
                );
                Judgement::Wrong(Kind::Stale, why)
            }
            Some(value) => {
                let ever = self
                    .desired
                    .iter()
                    .any(|wanted_value| wanted_value.value.as_deref() == Some(value));
                let (kind, when) = if ever {
                    (Kind::Stale, format!("which was correct once, but not {when}"))
                } else {
                    (Kind::Unwanted, "which was never correct".to_owned())
                };
                Judgement::Wrong(kind, format!("{value} was written, {when}"))
            }
        }
    }
}
