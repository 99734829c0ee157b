//! When the servers were well, and what follows from it for what may be expected.

use std::time::Duration;

use super::{
    checker::Terms,
    record::{Fault, FaultKind, Moment, Part, Span},
};

/// All troubles of a run.
#[derive(Debug)]
pub struct Health {
    terms: Terms,
    troubles: Vec<Trouble>,
}

#[derive(Clone, Debug)]
struct Trouble {
    kind: FaultKind,
    /// While it is felt.
    span: Span,
    kubernetes: bool,
    /// An operator has an old view of Kubernetes.
    cut_off: bool,
    halts: Option<Span>,
}

impl Trouble {
    /// Whether the recorder of etcd may watch the member that is affected, while the others serve.
    fn hides_etcd(&self) -> bool {
        use FaultKind::{MemberKill, MemberPause, MemberReplacement};
        matches!(self.kind, MemberKill | MemberPause | MemberReplacement)
    }

    /// Whether it delays writes only, by less than what the checker allows while the servers are well.
    fn only_delays(&self) -> bool {
        self.kind == FaultKind::SlowEtcdLink
    }
}

impl Health {
    /// Of these faults.
    pub fn of<'a>(faults: impl Iterator<Item = &'a Fault>, terms: &Terms) -> Self {
        let trouble = |fault: &Fault| {
            let mut span = fault.span;
            let cut_off = matches!(fault.kind, FaultKind::OperatorCutOff | FaultKind::SlowLink);
            if fault.relieved {
                // Another one takes over, however long this one is away.
                let takeover = if cut_off {
                    terms.yielding
                } else {
                    terms.session + terms.takeover
                };
                span.to = span.to.min(span.from + takeover);
            }
            Trouble {
                span,
                kind: fault.kind,
                cut_off,
                kubernetes: cut_off || fault.kind.part() == Part::Kubernetes,
                halts: fault.halts.then_some(fault.span),
            }
        };
        Self {
            terms: terms.clone(),
            troubles: faults.map(trouble).collect(),
        }
    }

    /// The longest stretch of a span without any trouble that keeps an operator from writing.
    pub fn longest_calm(&self, span: Span) -> Duration {
        let troubles = self.troubles.iter().filter(|trouble| !trouble.only_delays());
        let mut troubles: Vec<Span> = troubles.map(|trouble| trouble.span).collect();
        troubles.sort_by_key(|trouble| trouble.from);
        let (mut longest, mut calm_since) = (Duration::ZERO, span.from);
        for trouble in troubles {
            if trouble.to <= calm_since || trouble.from >= span.to {
                continue;
            }
            longest = longest.max(trouble.from.saturating_sub(calm_since));
            calm_since = trouble.to;
        }
        longest.max(span.to.saturating_sub(calm_since))
    }

    /// Whether a span has no trouble, nor what was left of one.
    pub fn is_calm(&self, span: Span) -> bool {
        let recovering =
            |trouble: &Trouble| trouble.span.from <= span.to && trouble.span.to + self.terms.recovery >= span.from;
        !self.troubles.iter().any(recovering)
    }

    /// The time whose state of Kubernetes may explain a write that was seen at `at`. It begins with the last state that
    /// every operator must have received by then. It ends after `at`, because the recorder's watch may be slower.
    pub fn explaining(&self, at: Moment) -> Span {
        let reach = self.terms.reach;
        let mut from = at.saturating_sub(reach);
        // Each trouble that is met reaches further back, maybe into an earlier one.
        loop {
            let met = self
                .troubles
                .iter()
                .filter(|trouble| trouble.span.from <= at && trouble.span.to + self.terms.recovery >= from);
            let further = met.map(|trouble| trouble.span.from.saturating_sub(reach)).min();
            match further {
                Some(further) if further < from => from = further,
                _ => break,
            }
        }
        let blind = self.troubles.iter().any(|trouble| {
            trouble.kubernetes && trouble.span.from <= at && trouble.span.to + self.terms.recovery >= at
        });
        let lag = if blind { self.terms.bound } else { self.terms.lag };
        Span { from, to: at + lag }
    }

    /// When the recorder of etcd has received everything that etcd held at `at`.
    pub fn etcd_recorded_by(&self, at: Moment) -> Moment {
        let hiding = self.troubles.iter().filter(|trouble| trouble.hides_etcd());
        let hiding = hiding.filter(|trouble| trouble.span.from <= at && at <= trouble.span.to);
        let end = hiding.map(|trouble| trouble.span.to).max();
        end.unwrap_or(at) + self.terms.lag
    }

    /// Whether an operator that was cut off, or whose link is slow, may be getting its view of Kubernetes back: in parts, for the watches of pods
    /// and registrations know nothing of each other.
    pub fn view_returns(&self, at: Moment) -> bool {
        let returns = |trouble: &Trouble| {
            trouble.cut_off && trouble.span.from <= at && trouble.span.to + self.terms.recovery >= at
        };
        self.troubles.iter().any(returns)
    }

    /// Whether a lease may expire at `at`: no operator could renew it for two thirds of a TTL, for it is renewed three
    /// times per TTL.
    pub fn explains_lapse(&self, at: Moment) -> bool {
        let mut halts: Vec<Span> = self.troubles.iter().filter_map(|trouble| trouble.halts).collect();
        halts.sort_by_key(|halt| halt.from);
        let mut merged: Vec<Span> = Vec::new();
        for halt in halts {
            match merged.last_mut() {
                // Too short a pause to count on a renewal in it.
                Some(last) if halt.from <= last.to + self.terms.recovery => last.to = last.to.max(halt.to),
                _ => merged.push(halt),
            }
        }
        let enough = (self.terms.ttl * 2 / 3).saturating_sub(Duration::from_secs(1));
        merged.iter().any(|halt| {
            let felt = halt.to.min(at).saturating_sub(halt.from);
            halt.from <= at && halt.to + self.terms.ttl >= at && felt >= enough
        })
    }
}
