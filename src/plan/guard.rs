//! Mass-removal protection: decides whether unconfirmed removals are carried out or held back. Many at once are more
//! likely a mistake than the truth.
//!
//! A pod that was deleted, is terminating or had its labels changed is a confirmed removal and does not pass through the
//! guard. A pod that is no longer ready, or that is missing from a list, is an unconfirmed removal. So is a pod that still
//! exists after its registration was deleted, or was edited and does not select it any more, and so are the keys that a
//! pod loses to another prefix or format, to access rules or to a quota. Single ones are released at once. When they
//! would cost more of a Registry's endpoints keys within a time window than its limit allows, the guard holds them until
//! the keys are desired again, their pods end, the hold expires, or a user approves. It holds those of the namespaces
//! that would lose more than this share of their own endpoints, if the rest is within the limit without them: a mistake
//! in one namespace does not delay the others.
//!
//! A hold of edits takes in removals by further edits only: a pod that is no longer ready during a planned migration
//! loses its keys at once, also those that the hold keeps. Only if too many pods are no longer ready, their removals are
//! held as well, and then the hold takes in all removals.
//!
//! An endpoint that loses one of its keys is lost, because the consumers of that key lose it. It counts once, in however
//! many formats it is registered, and new keys of the same endpoint replace nothing.
//!
//! The guard counts decisions, not attempts: a key is unconfirmed, held or released, never two of these at once. So
//! each endpoint counts once, however often the planner looks at its keys, writes them or observes them again.
//!
//! Only the leader decides. A standby replica collects unconfirmed removals. A hold outlives its leader in a record in
//! etcd; the next leader continues it with the same id and end.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::work::Work;
use crate::api::GuardMode;
use crate::model::{Key, Revision};

mod endpoints;
mod hold;

use self::endpoints::{Endpoints, distinct};
use self::hold::HeldKeys;
pub(super) use hold::Recorded;
pub use hold::{GuardEvent, Hold, Moment, Release};

/// The guard's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// What to do when a loss exceeds the limits. `Off` does not even count losses.
    pub mode: GuardMode,
    /// Losses within this time are added up.
    pub window: Duration,
    /// The share of a Registry's endpoints that may be lost, in percent.
    pub max_loss_percent: usize,
    /// Minimum number of lost endpoints before the guard acts; fewer are never held.
    pub min_endpoints: usize,
    /// How long a hold lasts.
    pub hold: Duration,
}

impl GuardSettings {
    /// Holds nothing.
    pub const OFF: Self = Self {
        mode: GuardMode::Off,
        window: Duration::ZERO,
        max_loss_percent: 100,
        min_endpoints: usize::MAX,
        hold: Duration::ZERO,
    };

    /// Holds every unconfirmed removal.
    #[cfg(test)]
    pub const EVERYTHING: Self = Self {
        mode: GuardMode::Hold,
        window: Duration::ZERO,
        max_loss_percent: 0,
        min_endpoints: 1,
        hold: Duration::from_hours(1),
    };

    /// Whether losing `lost` of a Registry's `of` endpoints exceeds the limits. Never true when the guard is off.
    pub fn is_above(&self, lost: usize, of: usize) -> bool {
        self.mode != GuardMode::Off && lost >= self.min_endpoints && lost * 100 > of * self.max_loss_percent
    }
}

/// Most namespaces to which a hold is limited. Their names are in its record.
const MAX_NAMESPACES: usize = 64;

/// What is known of a Registry's endpoints when the guard decides.
pub(super) struct Known<'a> {
    /// Whether the endpoint of this work is desired and etcd holds a key of it.
    pub is_registered: &'a dyn Fn(&Work) -> bool,
    /// Whether the endpoint of this work is to have other keys than those that it loses.
    pub is_desired: &'a dyn Fn(&Work) -> bool,
    /// Counts these endpoints by namespace, which takes long.
    pub registered: &'a dyn Fn() -> HashMap<Arc<str>, usize>,
    /// Counts the endpoints that are about to be registered, which takes long.
    pub to_come: &'a dyn Fn() -> usize,
}

/// Why a key is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cause {
    /// Its pod is not ready, or is missing from a list.
    Pod,
    /// An edit takes the key from a pod that may be ready; or the cause is not known, because a predecessor left the key.
    Edit,
}

/// An unconfirmed removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removal {
    pub cause: Cause,
    /// The work that removes the key. It names the endpoint.
    pub work: Work,
}

impl Removal {
    pub fn new(cause: Cause, work: Work) -> Self {
        Self { cause, work }
    }

    fn is_edit(&self) -> bool {
        self.cause == Cause::Edit
    }
}

/// The guard's state for one Registry.
#[derive(Debug)]
pub(super) struct Guard {
    settings: GuardSettings,
    /// True until the keys that a predecessor left have been decided. Until then an unclaimed key stays, unless its
    /// removal is confirmed.
    starting: bool,
    /// While `starting`: keys whose removal is confirmed.
    facts: HashSet<Key>,
    /// Unconfirmed removals that have not been decided yet.
    fresh: BTreeMap<Key, Removal>,
    /// Unconfirmed keys that disappeared from etcd since the last [`Guard::look`]: the leader of that time released them.
    went: HashMap<Key, Removal>,
    /// Unconfirmed keys that were released within the window and have not been claimed again.
    let_go: HashMap<Key, (Instant, Removal)>,
    /// The endpoints of the keys in `fresh`, `hold` and `let_go`.
    lost: Endpoints,
    /// A lower bound of the number of endpoints before the loss, so that it is not counted at each decision.
    at_least: usize,
    /// The entries of `let_go` in the order of their time, and entries of keys that have been claimed again since.
    order: VecDeque<(Instant, Key)>,
    /// Released keys that etcd may still hold.
    leaving: HashMap<Key, Removal>,
    hold: Option<Hold>,
    /// The keys in `fresh`, `hold` and `leaving` by the namespace and the name of their pods.
    by_pod: HashMap<(Arc<str>, Arc<str>), HashSet<Key>>,
    /// The record of a hold in etcd, written by this replica or a predecessor.
    recorded: Option<Recorded>,
    /// The revision at which the record, or its absence, was observed.
    recorded_at: Revision,
    /// The id of the hold that ended last. Its record may still exist.
    ended: Option<String>,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            settings: GuardSettings::OFF,
            starting: true,
            facts: HashSet::new(),
            fresh: BTreeMap::new(),
            went: HashMap::new(),
            let_go: HashMap::new(),
            lost: Endpoints::default(),
            at_least: 0,
            order: VecDeque::new(),
            leaving: HashMap::new(),
            hold: None,
            by_pod: HashMap::new(),
            recorded: None,
            recorded_at: 0,
            ended: None,
        }
    }

    pub(super) fn set_settings(&mut self, settings: GuardSettings) {
        self.settings = settings;
    }

    pub(super) fn is_on(&self) -> bool {
        self.settings.mode != GuardMode::Off
    }

    pub(super) fn is_starting(&self) -> bool {
        self.starting
    }

    /// Ends the start phase: the keys that a predecessor left have been marked unconfirmed where necessary.
    pub(super) fn started(&mut self) {
        self.starting = false;
        self.facts = HashSet::new();
    }

    /// Whether removals wait for a decision.
    pub(super) fn has_undecided(&self) -> bool {
        !self.fresh.is_empty()
    }

    pub(super) fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Whether `key`, which no pod claims, must not be removed for now.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.is_on() && self.starting && !self.facts.contains(key) || self.is_unconfirmed(key)
    }

    /// Whether `key` is undecided or held, or is released and not removed yet.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.is_unconfirmed(key) || self.leaving.contains_key(key)
    }

    fn is_unconfirmed(&self, key: &str) -> bool {
        self.unconfirmed(key).is_some()
    }

    /// Returns the removal of `key` if it is undecided or held.
    fn unconfirmed(&self, key: &str) -> Option<&Removal> {
        let held = || self.hold.as_ref()?.keys.get(key);
        self.fresh.get(key).or_else(held)
    }

    /// Marks the removal of `key`, which etcd may hold, as unconfirmed. A key that is already unconfirmed or held, or that
    /// is released and not removed yet, keeps its state; but one that an edit would remove is decided again when its pod
    /// is no longer ready.
    pub(super) fn mark_unconfirmed(&mut self, key: &Key, removal: Removal) {
        if removal.cause == Cause::Pod && self.unconfirmed(key).is_some_and(Removal::is_edit) {
            self.forget(key);
        }
        if !self.knows(key) {
            self.forget_loss(key);
            self.lost.add(&removal);
            if let Some(pod) = pod_of(&removal.work) {
                self.by_pod.entry(pod).or_default().insert(key.clone());
            }
            self.fresh.insert(key.clone(), removal);
        }
    }

    /// Whether an edit removes `key`, which is released and not removed yet.
    pub(super) fn has_released_edit(&self, key: &Key) -> bool {
        self.leaving.get(key).is_some_and(Removal::is_edit)
    }

    /// Whether an edit would remove `key`, which is undecided or held.
    pub(super) fn is_edited(&self, key: &Key) -> bool {
        self.unconfirmed(key).is_some_and(Removal::is_edit)
    }

    /// Returns the undecided and held keys that edits would remove from the endpoint of `work`.
    pub(super) fn edited_keys_of(&self, work: &Work) -> Vec<Key> {
        let keys = pod_of(work).and_then(|pod| self.by_pod.get(&pod));
        let is_its = |key: &&Key| {
            let removal = self.unconfirmed(key);
            removal.is_some_and(|removal| removal.is_edit() && removal.work == *work)
        };
        keys.into_iter().flatten().filter(is_its).cloned().collect()
    }

    /// Returns the unconfirmed, held and released keys of a pod, for whichever registration.
    pub(super) fn keys_of_pod(&self, namespace: &Arc<str>, pod: &Arc<str>) -> Vec<Key> {
        let keys = self.by_pod.get(&(namespace.clone(), pod.clone()));
        keys.into_iter().flatten().cloned().collect()
    }

    /// Removes `key` from the unconfirmed, held and released keys. Returns whether it was held back until now.
    fn forget(&mut self, key: &Key) -> bool {
        let leaving = self.leaving.remove(key);
        let fresh = self.fresh.remove(key);
        let held = self.hold.as_mut().and_then(|hold| hold.keys.remove(key));
        let was_held = fresh.is_some() || held.is_some();
        if let Some(removal) = fresh.as_ref().or(held.as_ref()) {
            self.lost.remove(removal);
        }
        let removal = leaving.or(fresh).or(held);
        if let Some(pod) = removal.and_then(|removal| pod_of(&removal.work))
            && let Entry::Occupied(mut keys) = self.by_pod.entry(pod)
        {
            keys.get_mut().remove(key);
            if keys.get().is_empty() {
                keys.remove();
            }
        }
        was_held
    }

    /// Records that the removal of `key` is confirmed, so it does not count as a loss. Returns whether the key was held
    /// back until now.
    pub(super) fn clear_unconfirmed(&mut self, key: &Key) -> bool {
        if self.starting {
            self.facts.insert(key.clone());
        }
        self.forget_loss(key);
        self.went.remove(key);
        self.at_least = self.at_least.saturating_sub(1);
        self.forget(key)
    }

    /// Records that `key` is desired again.
    pub(super) fn back(&mut self, key: &Key) {
        self.clear_unconfirmed(key);
        self.facts.remove(key);
    }

    /// Records that etcd no longer holds `key`.
    pub(super) fn gone(&mut self, key: &Key) {
        if let Some(removal) = self.fresh.get(key) {
            self.went.insert(key.clone(), removal.clone());
        }
        self.at_least = self.at_least.saturating_sub(1);
        self.forget(key);
    }

    /// Prepares for a new term of leadership: released keys that are not removed yet become unconfirmed again, because
    /// another leader may have held them in between.
    pub(super) fn mark_released_unconfirmed(&mut self) {
        self.ended = None;
        for (key, removal) in std::mem::take(&mut self.leaving) {
            self.mark_unconfirmed(&key, removal);
        }
    }

    /// Hands undecided keys over to another leader.
    pub(super) fn stand_by(&mut self) {
        self.mark_released_unconfirmed();
        if let Some(hold) = self.hold.take() {
            self.fresh.extend(hold.keys.into_removals());
        }
    }

    /// Records what etcd holds under the key of the hold's record at `revision`, unless a newer state is known.
    pub(super) fn observe_record(&mut self, recorded: Option<Recorded>, revision: Revision) {
        if revision >= self.recorded_at {
            self.recorded = recorded;
            self.recorded_at = revision;
        }
    }

    /// Drops the record: etcd's history has been replaced.
    pub(super) fn forget_record(&mut self) {
        self.recorded = None;
        self.recorded_at = 0;
        self.at_least = 0;
    }

    pub(super) fn recorded(&self) -> Option<&Recorded> {
        self.recorded.as_ref()
    }

    /// Whether the record in etcd is to be deleted: its hold has ended and none of the keys it released is there
    /// according to `is_there`, or the record is invalid. Until then the record shows a successor that the remaining
    /// keys were approved or that their hold expired.
    pub(super) fn is_record_void(&self, is_there: impl Fn(&Key) -> bool) -> bool {
        let Some(recorded) = &self.recorded else { return false };
        match &recorded.hold {
            Some(hold) => self.ended.as_ref() == Some(&hold.id) && !self.leaving.keys().any(is_there),
            None => true,
        }
    }

    /// Updates the loss counters with the current time, without deciding anything.
    pub(super) fn look(&mut self, now: Instant) {
        for (key, removal) in std::mem::take(&mut self.went) {
            self.count(&key, removal, now);
        }
        // No loss leaves the window while a hold lasts: the keys lost before it began belong to the same loss.
        if self.hold.is_none() {
            self.forget_old(now);
        }
        if self.lost.len() == 0 {
            self.at_least = 0;
        }
    }

    /// Whether twice the loss would be above the limit, and some further removals would not be held yet. `desired` counts
    /// the endpoints that are to be registered: those that are registered now are not counted, because this is asked often.
    pub(super) fn is_loss_near_limit(&self, desired: usize) -> bool {
        let lost = match &self.hold {
            None => self.lost.len(),
            Some(hold) if hold.takes_in_all() => return false,
            Some(_) => self.decided_and_fresh().len(),
        };
        self.is_on() && 2 * lost >= self.settings.min_endpoints && self.settings.is_above(2 * lost, desired + lost)
    }

    /// Returns the endpoints that have lost keys, or will unless they are held.
    fn decided_and_fresh(&self) -> HashSet<&Work> {
        self.decided(true).into_iter().chain(distinct(&self.fresh)).collect()
    }

    /// Returns the endpoints that have lost keys: those that have others after an edit only if `with_edits`.
    fn decided(&self, with_edits: bool) -> HashSet<&Work> {
        let let_go = self.let_go.values().map(|(_, removal)| removal);
        let counts = let_go.filter(|removal| with_edits || !removal.is_edit());
        counts.map(|removal| &removal.work).collect()
    }

    /// Returns how many endpoints there were, if losing `lost` of them exceeds the limits.
    fn above(&mut self, lost: usize, known: &Known<'_>) -> Option<usize> {
        if !self.settings.is_above(lost, self.at_least) {
            return None;
        }
        let registered: usize = (known.registered)().values().sum();
        let others = self.lost.iter().filter(|work| !(known.is_registered)(work));
        self.at_least = registered + others.count();
        if !self.settings.is_above(lost, self.at_least) {
            return None;
        }
        // An edit may replace all endpoints by others, as a switch from one set of pods to another does.
        let of = self.at_least + (known.to_come)();
        self.settings.is_above(lost, of).then_some(of)
    }

    /// Decides about all unconfirmed removals at once. Returns the event to report, and the work to queue because its
    /// removal is no longer held back.
    pub(super) fn decide(
        &mut self,
        known: &Known<'_>,
        moment: Moment,
        approved: Option<&str>,
        id: impl FnOnce() -> String,
    ) -> (Option<GuardEvent>, BTreeMap<Key, Work>) {
        let now = moment.now;
        self.look(now);
        let resumed = self.resume(moment);
        if let Some(hold) = &mut self.hold {
            hold.take_in(&mut self.fresh);
            let (ended, works) = self.decide_hold(now, approved);
            if ended.is_some() || resumed.is_some() {
                return (ended.or(resumed), works);
            }
        }
        let (event, mut released) = self.decide_fresh(known, moment, id);
        released.append(&mut self.release_fresh(known, now, |_| true));
        if matches!(event, Some(GuardEvent::Warned { .. })) {
            // Report the loss once, not again with every key.
            self.forget_all();
        }
        (event, released)
    }

    /// Decides which of the undecided removals are held, and moves them into the hold. The others are to be released; those
    /// that had to be released before the decision are returned.
    fn decide_fresh(
        &mut self,
        known: &Known<'_>,
        moment: Moment,
        id: impl FnOnce() -> String,
    ) -> (Option<GuardEvent>, BTreeMap<Key, Work>) {
        // What is held counts: the other namespaces may lose too much as well. But edits do not keep the keys of pods that
        // are no longer ready: what an edit would remove is still there, and what a move has removed was replaced.
        let is_any = self.fresh.values().any(|removal| !removal.is_edit());
        let (mut lost, mut edits_only, mut released) = (self.lost.by_pods(), false, BTreeMap::new());
        let mut above = if is_any { self.above(lost, known) } else { None };
        if above.is_none() {
            released = self.release_fresh(known, moment.now, |removal| !removal.is_edit());
            if !self.fresh.is_empty() {
                (lost, edits_only) = (self.lost.len(), true);
                above = self.above(lost, known);
            }
        }
        let Some(of) = above else { return (None, released) };
        if self.settings.mode != GuardMode::Hold {
            return (Some(GuardEvent::Warned { lost, of }), released);
        }
        let namespaces = self.namespaces_above(known, of, edits_only);
        if self.hold.is_some() && namespaces.as_ref().is_some_and(BTreeSet::is_empty) {
            return (None, released);
        }
        let event = self.begin_hold((lost, of), (namespaces, edits_only), moment, id());
        (Some(event), released)
    }

    /// Begins a hold of the undecided removals of `namespaces`, or of all. It replaces a hold that concerns less, because it is
    /// approved and ends by itself.
    fn begin_hold(
        &mut self,
        (lost, of): (usize, usize),
        (mut namespaces, mut edits_only): (Option<BTreeSet<Arc<str>>>, bool),
        moment: Moment,
        id: String,
    ) -> GuardEvent {
        let (mut event, mut keys) = (GuardEvent::Held, HeldKeys::default());
        if let Some(former) = self.hold.take() {
            self.ended = Some(former.id);
            edits_only &= former.edits_only;
            let both = namespaces.zip(former.namespaces);
            namespaces = both.map(|(its, former)| its.into_iter().chain(former).collect());
            (event, keys) = (GuardEvent::Widened, former.keys);
        }
        let until = moment.unix + self.settings.hold;
        let mut hold = Hold {
            id,
            until: moment.now + self.settings.hold,
            until_unix: until.as_secs() + u64::from(until.subsec_nanos() > 0),
            recovered: None,
            lost,
            of,
            released: 0,
            keys,
            namespaces,
            edits_only,
            adopted: false,
        };
        hold.take_in(&mut self.fresh);
        hold.released = lost.saturating_sub(hold.keys.endpoints());
        self.hold = Some(hold);
        event
    }

    /// Returns the namespaces among those of undecided removals that would lose more than the allowed share of their own
    /// endpoints, if the loss of the Registry, which has `of` endpoints, is within the limit without what they, and unknown
    /// namespaces, would still lose. Otherwise none, for all namespaces.
    fn namespaces_above(&self, known: &Known<'_>, of: usize, with_edits: bool) -> Option<BTreeSet<Arc<str>>> {
        let mut all = (known.registered)();
        for work in self.lost.iter().filter(|work| !(known.is_registered)(work)) {
            *all.entry(work.namespace().clone()).or_default() += 1;
        }
        let (let_go, fresh) = (self.decided(with_edits), distinct(&self.fresh));
        let mut lost: HashMap<&Arc<str>, usize> = HashMap::new();
        for work in let_go.union(&fresh) {
            *lost.entry(work.namespace()).or_default() += 1;
        }
        let share = GuardSettings {
            min_endpoints: 1,
            ..self.settings
        };
        let count = |namespace: &Arc<str>| all.get(namespace).copied().unwrap_or_default();
        let is_above =
            |namespace: &&Arc<str>| !namespace.is_empty() && share.is_above(lost[namespace], count(namespace));
        let concerned: BTreeSet<&Arc<str>> = fresh.iter().map(|work| work.namespace()).collect();
        let above: BTreeSet<Arc<str>> = concerned.into_iter().filter(is_above).cloned().collect();
        let is_rest = |work: &&&Work| {
            !work.namespace().is_empty() && !above.contains(work.namespace()) && !let_go.contains(**work)
        };
        let rest = fresh.iter().filter(is_rest).count();
        let is_enough = !self.settings.is_above(let_go.len() + rest, of);
        (is_enough && above.len() <= MAX_NAMESPACES).then_some(above)
    }

    /// Releases the undecided removals that `is_released` chooses, and counts them.
    fn release_fresh(
        &mut self,
        known: &Known<'_>,
        now: Instant,
        is_released: impl Fn(&Removal) -> bool,
    ) -> BTreeMap<Key, Work> {
        let released: BTreeMap<Key, Removal> = self.fresh.extract_if(.., |_, removal| is_released(removal)).collect();
        for (key, removal) in &released {
            self.lost.remove(removal);
            // An endpoint that has no keys after an edit is lost like that of a pod that is not ready.
            let cause = match removal.cause {
                Cause::Edit if (known.is_desired)(&removal.work) => Cause::Edit,
                _ => Cause::Pod,
            };
            self.count(key, Removal::new(cause, removal.work.clone()), now);
        }
        self.release(released)
    }

    /// Whether the record in etcd is of a hold that this process has not adopted yet.
    pub(super) fn is_to_resume(&self) -> bool {
        let record = self.recorded.as_ref().and_then(|recorded| recorded.hold.as_ref());
        let is_known =
            |id: &String| self.ended.as_ref() == Some(id) || self.hold.as_ref().is_some_and(|it| it.id == *id);
        record.is_some_and(|record| !is_known(&record.id))
    }

    /// Adopts the hold that is recorded in etcd, unless it is the current one or the one that ended last.
    fn resume(&mut self, moment: Moment) -> Option<GuardEvent> {
        if !self.is_to_resume() {
            return None;
        }
        let record = self.recorded.as_ref()?.hold.as_ref()?;
        let until = Duration::from_secs(record.until);
        if until.saturating_add(self.settings.hold) < moment.unix {
            // The record is out of date: etcd was restored from a snapshot. It does not apply to the current removals.
            self.ended = Some(record.id.clone());
            return None;
        }
        // Clocks differ: limit the hold to its full configured duration.
        let left = until.saturating_sub(moment.unix);
        self.hold = Some(Hold {
            id: record.id.clone(),
            until: moment.now + left.min(self.settings.hold),
            until_unix: record.until,
            recovered: None,
            lost: record.lost,
            // Of a hold that counted keys, the share of the loss is not known: it ends by time, by approval, or when few
            // endpoints are left.
            of: if record.endpoints { record.of } else { 0 },
            released: if record.endpoints { record.released } else { 0 },
            keys: self.hold.take().map(|hold| hold.keys).unwrap_or_default(),
            namespaces: record.namespaces.as_ref().map(|names| names.iter().cloned().collect()),
            edits_only: record.edits,
            adopted: true,
        });
        Some(GuardEvent::Resumed)
    }

    fn decide_hold(&mut self, now: Instant, approved: Option<&str>) -> (Option<GuardEvent>, BTreeMap<Key, Work>) {
        // Another process may have released more than this one knows of.
        let released = self
            .hold
            .as_ref()
            .map_or(0, |hold| if hold.adopted { hold.released } else { 0 });
        let unknown = if released > 0 {
            released.saturating_sub(self.decided(true).len())
        } else {
            0
        };
        let Some(hold) = &mut self.hold else {
            return (None, BTreeMap::new());
        };
        let above = self.settings.is_above(self.lost.len() + unknown, hold.of);
        hold.recovered = hold.recovered.or(Some(now)).filter(|_| !above);
        let why = if self.settings.mode != GuardMode::Hold {
            Release::Unguarded
        } else if approved == Some(&hold.id) {
            Release::Approved
        } else if now >= hold.until {
            Release::Expired
        } else if hold.is_empty() && !hold.adopted || hold.has_recovered(now) {
            Release::Resolved
        } else {
            return (None, BTreeMap::new());
        };
        let Some(Hold { id, keys, .. }) = self.hold.take() else {
            return (None, BTreeMap::new());
        };
        self.ended = Some(id.clone());
        let keys = keys.into_removals();
        for removal in keys.values() {
            self.lost.remove(removal);
        }
        if why == Release::Resolved {
            // The loss is within the limit again. It counts like any other loss within the limit.
            for (key, removal) in &keys {
                self.count(key, removal.clone(), now);
            }
        } else {
            self.forget_all();
        }
        let count = keys.len();
        let event = GuardEvent::Released { id, keys: count, why };
        (Some(event), self.release(keys))
    }

    fn release(&mut self, keys: BTreeMap<Key, Removal>) -> BTreeMap<Key, Work> {
        self.leaving
            .extend(keys.iter().map(|(key, removal)| (key.clone(), removal.clone())));
        keys.into_iter().map(|(key, removal)| (key, removal.work)).collect()
    }

    /// Counts `key` as lost.
    fn count(&mut self, key: &Key, removal: Removal, now: Instant) {
        self.forget_loss(key);
        self.lost.add(&removal);
        self.let_go.insert(key.clone(), (now, removal));
        self.order.push_back((now, key.clone()));
    }

    /// Does not count `key` as lost any more.
    fn forget_loss(&mut self, key: &Key) {
        if let Some((_, removal)) = self.let_go.remove(key) {
            self.lost.remove(&removal);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front()
            && *at + self.settings.window <= now
            && let Some((at, key)) = self.order.pop_front()
        {
            if self.let_go.get(&key).is_some_and(|(since, _)| *since == at) {
                self.forget_loss(&key);
                // An endpoint that is not registered counts only while it is lost.
                self.at_least = self.at_least.saturating_sub(1);
            }
        }
    }

    fn forget_all(&mut self) {
        self.at_least = 0;
        for (_, removal) in std::mem::take(&mut self.let_go).into_values() {
            self.lost.remove(&removal);
        }
        self.order.clear();
    }
}

/// The namespace and the name of the pod that `work` is about.
fn pod_of(work: &Work) -> Option<(Arc<str>, Arc<str>)> {
    match work {
        Work::Pod(registration, pod) => Some((registration.namespace.clone(), pod.clone())),
        Work::Changed(..) | Work::Edited(_) | Work::Key(_) => None,
    }
}

#[cfg(test)]
mod tests;
