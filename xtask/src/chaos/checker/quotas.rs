//! Quotas: how many keys a namespace may have in a Registry. Which pods get them is open, so only their number is judged: a key
//! may be missing while its namespace has as many keys as it may have. Where there is a quota, each pod has one key for each
//! registration.

use std::{collections::BTreeMap, time::Duration};

use super::{Kind, Scene, Violation, during};
use crate::chaos::{
    desired::Desired,
    holders::{Holder, Touch},
    record::{Moment, Span},
};

/// The quotas and how far they were used.
#[derive(Debug, Default)]
pub struct Quotas {
    /// Which of the uses a prefix belongs to.
    prefixes: BTreeMap<String, usize>,
    uses: Vec<Use>,
}

/// How far the quota of a namespace in a Registry was used.
#[derive(Debug)]
struct Use {
    namespace: String,
    limit: usize,
    /// The numbers of keys, each from a moment on.
    counts: Vec<(Moment, usize)>,
    /// When the namespace had as many keys as it may have, or more.
    full: Vec<Span>,
    /// When it had more.
    exceeded: Vec<Span>,
}

impl Quotas {
    /// By what was seen in Kubernetes and in etcd.
    pub fn of(desired: &Desired, touches: &BTreeMap<String, Vec<Touch>>) -> Self {
        let mut quotas = Self::default();
        let mut known: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (prefix, (registry, namespace)) in desired.owners_of_prefixes() {
            let Some(limit) = desired.quota(registry) else { continue };
            let number = *known.entry((registry, namespace)).or_insert_with(|| {
                quotas.uses.push(Use {
                    namespace: namespace.to_owned(),
                    limit,
                    counts: Vec::new(),
                    full: Vec::new(),
                    exceeded: Vec::new(),
                });
                quotas.uses.len() - 1
            });
            quotas.prefixes.insert(prefix.to_owned(), number);
        }
        for number in 0..quotas.uses.len() {
            let of_use = touches.iter().filter(|(key, _)| quotas.number(key) == Some(number));
            let mut of_use: Vec<&Touch> = of_use.flat_map(|(_, touches)| touches).collect();
            of_use.sort_by_key(|touch| touch.revision);
            quotas.uses[number].count(&of_use);
        }
        quotas
    }

    fn number(&self, key: &str) -> Option<usize> {
        let mut prefixes = self.prefixes.iter();
        let found = prefixes.find(|(prefix, _)| key.starts_with(prefix.as_str()))?;
        Some(*found.1)
    }

    fn of_key(&self, key: &str) -> Option<&Use> {
        self.number(key).map(|number| &self.uses[number])
    }

    /// Whether a key counts for a quota.
    pub fn limits(&self, key: &str) -> bool {
        self.number(key).is_some()
    }

    /// When the quota that a key counts for was used up.
    pub fn full(&self, key: &str) -> &[Span] {
        self.of_key(key).map_or(&[], |one| one.full.as_slice())
    }

    /// Whether the quota that a key counts for was used up at some time of a span.
    pub fn is_full(&self, key: &str, within: Span) -> bool {
        self.full(key).iter().any(|span| span.meets(within))
    }

    /// For how long a quota was used up until the end of the record.
    pub fn used_up(&self, end: Moment) -> Duration {
        let spans = self.uses.iter().flat_map(|one| &one.full);
        spans.map(|span| span.to.min(end).saturating_sub(span.from)).sum()
    }

    /// The namespaces that had too many keys at some time of a span: one line for each.
    pub fn exceeded(&self, within: Span) -> Vec<String> {
        let exceeded = self
            .uses
            .iter()
            .filter(|one| one.exceeded.iter().any(|span| span.meets(within)));
        let line = |one: &Use| {
            format!(
                "the namespace {} has more keys than its quota of {}",
                one.namespace, one.limit
            )
        };
        exceeded.map(line).collect()
    }
}

impl Use {
    /// Counts the keys, by their touches in order.
    fn count(&mut self, touches: &[&Touch]) {
        let mut count = 0_usize;
        for (i, touch) in touches.iter().enumerate() {
            let is_ours = |holder: &Holder| matches!(holder, Holder::Ours { .. });
            match (is_ours(&touch.before), is_ours(&touch.after)) {
                (false, true) => count += 1,
                (true, false) => count = count.saturating_sub(1),
                _ => {}
            }
            // What a transaction does happens at once.
            if touches.get(i + 1).is_none_or(|next| next.revision != touch.revision) {
                self.counts.push((touch.at, count));
            }
        }
        self.full = self.spans(|count| count >= self.limit);
        self.exceeded = self.spans(|count| count > self.limit);
    }

    /// When the number of keys was such.
    fn spans(&self, is_such: impl Fn(usize) -> bool) -> Vec<Span> {
        let ends = self.counts.iter().skip(1).map(|(at, _)| *at).chain([Moment::MAX]);
        let mut spans: Vec<Span> = Vec::new();
        for ((from, count), to) in self.counts.iter().zip(ends) {
            if !is_such(*count) {
                continue;
            }
            match spans.last_mut() {
                Some(last) if last.to == *from => last.to = to,
                _ => spans.push(Span { from: *from, to }),
            }
        }
        spans
    }
}

/// The namespaces that had too many keys for longer than the bound while the servers were well.
pub fn violations(scene: &Scene<'_>) -> Vec<Violation> {
    let of_use = |one: &Use| {
        let exceeded = one.exceeded.iter().map(|span| Span {
            from: span.from,
            to: span.to.min(scene.record.end),
        });
        let exceeded = exceeded.filter(|span| scene.health.longest_calm(*span) > scene.terms.bound);
        let violation = |span: Span| Violation {
            kind: Kind::Quota,
            key: None,
            at: span.from,
            why: format!(
                "the namespace {} had more keys than its quota of {} {}",
                one.namespace,
                one.limit,
                during(span)
            ),
        };
        exceeded.map(violation).collect::<Vec<_>>()
    };
    scene.quotas.uses.iter().flat_map(of_use).collect()
}
