//! Whether removals are carried out or held back: many at once on a mere suspicion are more likely a mistake than the
//! truth.
//!
//! A pod that was deleted, terminates or has left its selector is a fact, and never comes here. That a pod is no longer
//! ready, or was missing from a list, is a suspicion: single ones are let go at once, and those that would cost a
//! Registry more of its keys within a window of time than its limit allows are held until the pods are back, until a
//! time has passed, or until somebody approves.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::transaction::{Key, Scope};
use super::work::Work;
use crate::index::RegistrationRef;

/// How long a loss must have been within the limit for a hold to end: pods come back one after the other, and those
/// that come last would have their keys removed just before they do.
const RECOVERY: Duration = Duration::from_secs(10);

/// What the guard does about a loss above the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// Nothing: it does not even count.
    Off,
    /// It says so, and lets the keys go.
    Warn,
    /// It holds the keys.
    Hold,
}

/// The guard's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardTerms {
    /// What it does about a loss above them.
    pub mode: GuardMode,
    /// Losses within this time count together.
    pub window: Duration,
    /// The share of a Registry's keys that may go, in percent.
    pub max_loss_percent: usize,
    /// So many keys must be about to go at least; fewer are never held.
    pub min_keys: usize,
    /// How long keys are held.
    pub hold: Duration,
}

impl GuardTerms {
    /// Holds nothing.
    pub const OFF: Self = Self {
        mode: GuardMode::Off,
        window: Duration::ZERO,
        max_loss_percent: 100,
        min_keys: usize::MAX,
        hold: Duration::ZERO,
    };

    fn is_above(&self, lost: usize, of: usize) -> bool {
        self.mode != GuardMode::Off && lost >= self.min_keys && lost * 100 > of * self.max_loss_percent
    }
}

/// Removals that are held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Names it: who approves of it says which.
    pub id: String,
    /// When it ends by itself if nothing happens.
    pub until: Instant,
    /// Since when so many pods are back that what is left is within the limit.
    recovered: Option<Instant>,
    /// How many keys would have gone when it began, those that had gone already included.
    pub lost: usize,
    /// How many keys there were before.
    pub of: usize,
    /// The keys held, each with what is to be looked at when it is released.
    keys: BTreeMap<Key, Work>,
}

impl Hold {
    /// How many keys are held.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// When to decide about it again.
    pub fn wake_at(&self) -> Instant {
        let recovers = self.recovered.map(|since| since + RECOVERY);
        recovers.map_or(self.until, |at| at.min(self.until))
    }

    /// Whether none is held any more.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// What the guard has decided that somebody should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardNews {
    /// A hold has begun.
    Held,
    /// The limit was passed, and the keys are let go nevertheless.
    Warned {
        /// How many keys go.
        lost: usize,
        /// How many there were.
        of: usize,
    },
    /// A hold has ended.
    Released {
        /// Its id.
        id: String,
        /// How many keys go now.
        keys: usize,
        /// Why it has ended.
        why: Release,
    },
}

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// So many pods are back, or really gone, that what is left has been within the limit for a while.
    Resolved,
    /// Its time has passed.
    Expired,
    /// Somebody approved.
    Approved,
    /// The guard no longer holds anything.
    Unguarded,
}

/// What the guard knows about the keys of one Registry.
#[derive(Debug)]
pub(super) struct Guard {
    terms: GuardTerms,
    /// Until what a predecessor left has been judged, nothing that nobody claims is removed.
    starting: bool,
    /// Until then: keys of pods that are known to go.
    facts: HashSet<Key>,
    /// Suspicions that have not been judged yet.
    fresh: BTreeMap<Key, Work>,
    /// Suspicions that were let go within the window, and have not come back.
    let_go: HashMap<Key, Instant>,
    /// The same in the order of their time, and more that has come back since.
    order: VecDeque<(Instant, Key)>,
    /// Keys let go that etcd may still hold.
    leaving: HashMap<Key, Work>,
    hold: Option<Hold>,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            terms: GuardTerms::OFF,
            starting: true,
            facts: HashSet::new(),
            fresh: BTreeMap::new(),
            let_go: HashMap::new(),
            order: VecDeque::new(),
            leaving: HashMap::new(),
            hold: None,
        }
    }

    pub(super) fn set_terms(&mut self, terms: GuardTerms) {
        self.terms = terms;
    }

    pub(super) fn is_on(&self) -> bool {
        self.terms.mode != GuardMode::Off
    }

    pub(super) fn is_starting(&self) -> bool {
        self.starting
    }

    /// What a predecessor left has been suspected as far as it is to be.
    pub(super) fn started(&mut self) {
        self.starting = false;
        self.facts = HashSet::new();
    }

    pub(super) fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Whether `key`, which nobody claims, must stay for now.
    pub(super) fn detains(&self, key: &str) -> bool {
        let held = |hold: &Hold| hold.keys.contains_key(key);
        self.is_on() && self.starting && !self.facts.contains(key)
            || self.fresh.contains_key(key)
            || self.hold.as_ref().is_some_and(held)
    }

    /// How many keys in `scope` are held that are `registration`'s, or nobody is known to have wanted.
    pub(super) fn held_in(&self, scope: &Scope, registration: &RegistrationRef) -> usize {
        let Some(hold) = &self.hold else { return 0 };
        let its = |(_, work): &(&Key, &Work)| match work {
            Work::Pod(other, _) => other == registration,
            Work::Key(_) => true,
        };
        let from = (Bound::Included(scope.prefix()), Bound::Unbounded);
        let behind = hold.keys.range::<str, _>(from);
        behind.take_while(|(key, _)| scope.contains(key)).filter(its).count()
    }

    /// `key` is to go, on a suspicion only; `work` does it.
    pub(super) fn suspect(&mut self, key: &Key, work: Work) {
        if !self.detains(key) || self.starting {
            self.fresh.entry(key.clone()).or_insert(work);
        }
    }

    /// `key` is to go for a fact; returns whether it was detained until now.
    pub(super) fn acquit(&mut self, key: &Key) -> bool {
        if self.starting {
            self.facts.insert(key.clone());
        }
        self.leaving.remove(key);
        let held = self.hold.as_mut().and_then(|hold| hold.keys.remove(key));
        self.fresh.remove(key).is_some() || held.is_some()
    }

    /// `key` is wanted again.
    pub(super) fn back(&mut self, key: &Key) {
        self.acquit(key);
        self.facts.remove(key);
        self.let_go.remove(key);
    }

    /// etcd does not hold `key` any more.
    pub(super) fn gone(&mut self, key: &Key) {
        self.leaving.remove(key);
        self.fresh.remove(key);
        if let Some(hold) = &mut self.hold {
            hold.keys.remove(key);
        }
    }

    /// What was let go and is still there is suspect again: another replica may have held it.
    pub(super) fn doubt_again(&mut self) {
        for (key, work) in std::mem::take(&mut self.leaving) {
            self.let_go.remove(&key);
            self.suspect(&key, work);
        }
    }

    /// Decides about all suspicions at once, `present` keys being in etcd. Returns what somebody should hear of, and
    /// what is to be looked at because its removal is no longer held back.
    pub(super) fn judge(
        &mut self,
        present: usize,
        now: Instant,
        approved: Option<&str>,
        id: impl FnOnce() -> String,
    ) -> (Option<GuardNews>, Vec<Work>) {
        if let Some(hold) = &mut self.hold {
            hold.keys.append(&mut self.fresh);
            return self.judge_hold(now, approved);
        }
        if self.fresh.is_empty() {
            return (None, Vec::new());
        }
        self.forget_old(now);
        let lost = self.let_go.len() + self.fresh.len();
        let of = present.saturating_sub(self.leaving.len()) + self.let_go.len();
        let fresh = std::mem::take(&mut self.fresh);
        let above = self.terms.is_above(lost, of);
        if above && self.terms.mode == GuardMode::Hold {
            self.hold = Some(Hold {
                id: id(),
                until: now + self.terms.hold,
                recovered: None,
                lost,
                of,
                keys: fresh,
            });
            return (Some(GuardNews::Held), Vec::new());
        }
        self.count(fresh.keys(), now);
        let news = above.then(|| {
            // Said once, not anew with every key.
            self.forget_all();
            GuardNews::Warned { lost, of }
        });
        (news, self.release(fresh))
    }

    fn judge_hold(&mut self, now: Instant, approved: Option<&str>) -> (Option<GuardNews>, Vec<Work>) {
        let (let_go, terms) = (self.let_go.len(), self.terms);
        let Some(hold) = &mut self.hold else {
            return (None, Vec::new());
        };
        // Nothing grows old while a hold lasts: what had gone before it began still belongs to the same loss.
        let above = terms.is_above(let_go + hold.keys.len(), hold.of);
        hold.recovered = hold.recovered.or(Some(now)).filter(|_| !above);
        let why = if self.terms.mode != GuardMode::Hold {
            Release::Unguarded
        } else if approved == Some(&hold.id) {
            Release::Approved
        } else if now >= hold.until {
            Release::Expired
        } else if hold.keys.is_empty() || hold.recovered.is_some_and(|since| now >= since + RECOVERY) {
            Release::Resolved
        } else {
            return (None, Vec::new());
        };
        let Some(Hold { id, keys, .. }) = self.hold.take() else {
            return (None, Vec::new());
        };
        if why == Release::Resolved {
            // Within the limit after all; it counts like any other loss within the limit.
            self.count(keys.keys(), now);
        } else {
            self.forget_all();
        }
        let count = keys.len();
        let news = GuardNews::Released { id, keys: count, why };
        (Some(news), self.release(keys))
    }

    fn release(&mut self, keys: BTreeMap<Key, Work>) -> Vec<Work> {
        let works = keys.values().cloned().collect();
        self.leaving.extend(keys);
        works
    }

    fn count<'a>(&mut self, keys: impl Iterator<Item = &'a Key>, now: Instant) {
        for key in keys {
            self.let_go.insert(key.clone(), now);
            self.order.push_back((now, key.clone()));
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front()
            && *at + self.terms.window <= now
            && let Some((at, key)) = self.order.pop_front()
        {
            if self.let_go.get(&key) == Some(&at) {
                self.let_go.remove(&key);
            }
        }
    }

    fn forget_all(&mut self) {
        self.let_go.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests;
