//! Whether removals are carried out or held back: many at once on a mere suspicion are more likely a mistake than the
//! truth.
//!
//! A pod that was deleted, terminates or has left its selector is a fact, and never comes here. That a pod is no longer
//! ready, or was missing from a list, is a suspicion: single ones are let go at once, and those that would cost a
//! Registry more of its keys within a window of time than its limit allows are held until the pods are back, until a
//! time has passed, or until somebody approves.
//!
//! What counts is the decision to let a key go, not the attempts to remove it: a key is suspected, held or let go, never
//! two of these at once, so it counts once however often it is looked at, written, or seen again.
//!
//! Only who leads decides. A replica that stands by collects suspicions, and a hold outlives its leader in a record in
//! etcd, whose id and end the next one goes on with.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::transaction::{Key, Prefix};
use super::work::Work;
use crate::index::RegistrationRef;

mod hold;

pub(super) use hold::Recorded;
pub use hold::{GuardEvent, Hold, Moment, Release};

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
pub struct GuardSettings {
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

impl GuardSettings {
    /// Holds nothing.
    pub const OFF: Self = Self {
        mode: GuardMode::Off,
        window: Duration::ZERO,
        max_loss_percent: 100,
        min_keys: usize::MAX,
        hold: Duration::ZERO,
    };

    /// Holds everything that is in doubt.
    pub const EVERYTHING: Self = Self {
        mode: GuardMode::Hold,
        window: Duration::ZERO,
        max_loss_percent: 0,
        min_keys: 1,
        hold: Duration::from_hours(1),
    };

    /// Whether `lost` keys are more than may go of a Registry's `of` keys without being held, or told of.
    pub fn is_above(&self, lost: usize, of: usize) -> bool {
        self.mode != GuardMode::Off && lost >= self.min_keys && lost * 100 > of * self.max_loss_percent
    }
}

/// What the guard knows about the keys of one Registry.
#[derive(Debug)]
pub(super) struct Guard {
    terms: GuardSettings,
    /// Until what a predecessor left has been judged, nothing that nobody claims is removed.
    starting: bool,
    /// Until then: keys of pods that are known to go.
    facts: HashSet<Key>,
    /// Suspicions that have not been judged yet.
    fresh: BTreeMap<Key, Work>,
    /// Of those, what somebody else has removed since the last look: whoever led let it go.
    went: HashSet<Key>,
    /// Suspicions that were let go within the window, and have not come back.
    let_go: HashMap<Key, Instant>,
    /// The same in the order of their time, and more that has come back since.
    order: VecDeque<(Instant, Key)>,
    /// Keys let go that etcd may still hold.
    leaving: HashMap<Key, Work>,
    hold: Option<Hold>,
    /// The record of a hold in etcd, ours or a predecessor's.
    recorded: Option<Recorded>,
    /// The hold that was ended last, whose record may still be there.
    ended: Option<String>,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            terms: GuardSettings::OFF,
            starting: true,
            facts: HashSet::new(),
            fresh: BTreeMap::new(),
            went: HashSet::new(),
            let_go: HashMap::new(),
            order: VecDeque::new(),
            leaving: HashMap::new(),
            hold: None,
            recorded: None,
            ended: None,
        }
    }

    pub(super) fn set_terms(&mut self, terms: GuardSettings) {
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
        self.is_on() && self.starting && !self.facts.contains(key) || self.is_suspect(key)
    }

    /// Whether what becomes of `key` is undecided, or decided and not done yet.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.is_suspect(key) || self.leaving.contains_key(key)
    }

    fn is_suspect(&self, key: &str) -> bool {
        let held = |hold: &Hold| hold.keys.contains_key(key);
        self.fresh.contains_key(key) || self.hold.as_ref().is_some_and(held)
    }

    /// How many keys in `scope` are held that are `registration`'s, or nobody is known to have wanted.
    pub(super) fn held_in(&self, scope: &Prefix, registration: &RegistrationRef) -> usize {
        let Some(hold) = &self.hold else { return 0 };
        let its = |(_, work): &(&Key, &Work)| match work {
            Work::Pod(other, _) => other == registration,
            Work::Key(_) => true,
        };
        hold.keys_in(scope).filter(its).count()
    }

    /// `key`, which etcd may hold, is to go, on a suspicion only; `work` does it. One that is suspect already, or that
    /// was let go and is still on its way out, stays what it is.
    pub(super) fn mark_unconfirmed(&mut self, key: &Key, work: Work) {
        if !self.knows(key) {
            self.let_go.remove(key);
            self.fresh.insert(key.clone(), work);
        }
    }

    /// `key` is to go for a fact, which is no loss that counts; returns whether it was detained until now.
    pub(super) fn clear_unconfirmed(&mut self, key: &Key) -> bool {
        if self.starting {
            self.facts.insert(key.clone());
        }
        self.leaving.remove(key);
        self.let_go.remove(key);
        self.went.remove(key);
        let held = self.hold.as_mut().and_then(|hold| hold.keys.remove(key));
        self.fresh.remove(key).is_some() || held.is_some()
    }

    /// `key` is wanted again.
    pub(super) fn back(&mut self, key: &Key) {
        self.clear_unconfirmed(key);
        self.facts.remove(key);
    }

    /// etcd does not hold `key` any more.
    pub(super) fn gone(&mut self, key: &Key) {
        self.leaving.remove(key);
        if self.fresh.remove(key).is_some() {
            self.went.insert(key.clone());
        }
        if let Some(hold) = &mut self.hold {
            hold.keys.remove(key);
        }
    }

    /// This replica leads anew: what was let go and is still there is suspect again, for another one may have led
    /// meanwhile and held it.
    pub(super) fn doubt_again(&mut self) {
        self.ended = None;
        for (key, work) in std::mem::take(&mut self.leaving) {
            self.mark_unconfirmed(&key, work);
        }
    }

    /// Another replica leads: what is undecided is for that one to decide.
    pub(super) fn stand_by(&mut self) {
        self.doubt_again();
        if let Some(hold) = self.hold.take() {
            self.fresh.extend(hold.keys);
        }
    }

    /// What etcd holds under the key of the hold's record.
    pub(super) fn set_recorded(&mut self, recorded: Option<Recorded>) {
        self.recorded = recorded;
    }

    /// The record of a hold in etcd.
    pub(super) fn recorded(&self) -> Option<&Recorded> {
        self.recorded.as_ref()
    }

    /// Whether the record in etcd is to go: its hold is over and so is what it held, as far as `is_there` tells, or it
    /// makes no sense. Until then it tells a successor that whatever is left was approved, or has had its time.
    pub(super) fn is_record_void(&self, is_there: impl Fn(&Key) -> bool) -> bool {
        let Some(recorded) = &self.recorded else { return false };
        match &recorded.hold {
            Some(hold) => self.ended.as_ref() == Some(&hold.id) && !self.leaving.keys().any(is_there),
            None => true,
        }
    }

    /// Notes the time of what has happened, without deciding anything.
    pub(super) fn look(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.went) {
            self.count([&key], now);
        }
        // Nothing grows old while a hold lasts: what had gone before it began still belongs to the same loss.
        if self.hold.is_none() {
            self.forget_old(now);
        }
    }

    /// Decides about all suspicions at once, `present` keys being in etcd, each of which `is_there`. Returns what
    /// somebody should hear of, and what is to be looked at because its removal is no longer held back.
    pub(super) fn judge(
        &mut self,
        (present, is_there): (usize, impl Fn(&Key) -> bool),
        moment: Moment,
        approved: Option<&str>,
        id: impl FnOnce() -> String,
    ) -> (Option<GuardEvent>, BTreeMap<Key, Work>) {
        let now = moment.now;
        self.look(now);
        let resumed = self.resume(moment);
        if let Some(hold) = &mut self.hold {
            hold.keys.append(&mut self.fresh);
            let (ended, works) = self.judge_hold(now, approved);
            return (ended.or(resumed), works);
        }
        if self.fresh.is_empty() {
            return (None, BTreeMap::new());
        }
        let lost = self.let_go.len() + self.fresh.len();
        let absent = |keys: &mut dyn Iterator<Item = &Key>| keys.filter(|key| !is_there(key)).count();
        let of = present + absent(&mut self.let_go.keys()) + absent(&mut self.fresh.keys());
        let fresh = std::mem::take(&mut self.fresh);
        let above = self.terms.is_above(lost, of);
        if above && self.terms.mode == GuardMode::Hold {
            let until = moment.unix + self.terms.hold;
            self.hold = Some(Hold {
                id: id(),
                until: now + self.terms.hold,
                until_unix: until.as_secs() + u64::from(until.subsec_nanos() > 0),
                recovered: None,
                lost,
                of,
                keys: fresh,
                adopted: false,
            });
            return (Some(GuardEvent::Held), BTreeMap::new());
        }
        self.count(fresh.keys(), now);
        let news = above.then(|| {
            // Said once, not anew with every key.
            self.forget_all();
            GuardEvent::Warned { lost, of }
        });
        (news, self.release(fresh))
    }

    /// Goes on with the hold that is recorded in etcd, if that is not the one there is.
    fn resume(&mut self, moment: Moment) -> Option<GuardEvent> {
        let record = self.recorded.as_ref()?.hold.as_ref()?;
        let is_present = self.hold.as_ref().is_some_and(|hold| hold.id == record.id);
        if is_present || self.ended.as_ref() == Some(&record.id) {
            return None;
        }
        let until = Duration::from_secs(record.until);
        if until.saturating_add(self.terms.hold) < moment.unix {
            // Of another time: etcd was restored from a snapshot. It says nothing about what is in doubt now.
            self.ended = Some(record.id.clone());
            return None;
        }
        // Clocks differ: it is not to last longer than it might have in all.
        let left = until.saturating_sub(moment.unix);
        self.hold = Some(Hold {
            id: record.id.clone(),
            until: moment.now + left.min(self.terms.hold),
            until_unix: record.until,
            recovered: None,
            lost: record.lost,
            of: record.of,
            keys: self.hold.take().map(|hold| hold.keys).unwrap_or_default(),
            adopted: true,
        });
        Some(GuardEvent::Resumed)
    }

    fn judge_hold(&mut self, now: Instant, approved: Option<&str>) -> (Option<GuardEvent>, BTreeMap<Key, Work>) {
        let (let_go, terms) = (self.let_go.len(), self.terms);
        let Some(hold) = &mut self.hold else {
            return (None, BTreeMap::new());
        };
        let above = terms.is_above(let_go + hold.keys.len(), hold.of);
        hold.recovered = hold.recovered.or(Some(now)).filter(|_| !above);
        let why = if self.terms.mode != GuardMode::Hold {
            Release::Unguarded
        } else if approved == Some(&hold.id) {
            Release::Approved
        } else if now >= hold.until {
            Release::Expired
        } else if hold.keys.is_empty() && !hold.adopted || hold.has_recovered(now) {
            Release::Resolved
        } else {
            return (None, BTreeMap::new());
        };
        let Some(Hold { id, keys, .. }) = self.hold.take() else {
            return (None, BTreeMap::new());
        };
        self.ended = Some(id.clone());
        if why == Release::Resolved {
            // Within the limit after all; it counts like any other loss within the limit.
            self.count(keys.keys(), now);
        } else {
            self.forget_all();
        }
        let count = keys.len();
        let news = GuardEvent::Released { id, keys: count, why };
        (Some(news), self.release(keys))
    }

    fn release(&mut self, keys: BTreeMap<Key, Work>) -> BTreeMap<Key, Work> {
        self.leaving
            .extend(keys.iter().map(|(key, work)| (key.clone(), work.clone())));
        keys
    }

    fn count<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>, now: Instant) {
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
