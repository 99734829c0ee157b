//! Plans transactions: takes work from the queue, compares the desired with the observed state of its keys, and turns
//! the differences into guarded writes. Each key has its own guard. The keys of a unit share the guards of all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::in_flight::Ticket;
use super::key_table::KeyState;
use super::lease_placement::Unplaced;
use super::lease_pool::Fit;
use super::meta::MetaKeys;
use super::planner::Planner;
use super::refresh::DesiredState;
use super::units::{Group, fitting};
use super::work::Work;
use crate::model::{Expect, Key, LeaseId, Op, QUANTUM, RegistrationRef, Revision, Transaction, Value};

/// Bytes of keys and values in one transaction: well below etcd's default limit of 1.5 MiB for a request.
const MAX_BYTES: usize = 512 * 1024;

/// Maximum number of items that are popped for one transaction. Items without a difference would otherwise delay
/// commands and observations.
const MAX_ITEMS: usize = 256;

/// Maximum number of pods that are computed for one transaction while several namespaces are active: few, because a pod of
/// another namespace waits meanwhile.
const MAX_COMPUTED: usize = 32;

/// About the maximum number of pods that are computed at once because unclaimed keys wait for them.
const MAX_BLOCKING: usize = 32;

/// Maximum number of items that are popped, and of keys, for one transaction of namespaces above their rate limit while
/// others are active: small, so that it delays them little.
const EXCESS_OPS: usize = 32;

/// The next step of the worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Commit this transaction, and report its outcome through [`Planner::complete`].
    Write(Ticket, Transaction),
    /// Nothing is to be written for the items that were looked at. Call again: more are queued.
    Continue,
}

/// The decision about one key.
#[derive(Debug)]
pub(super) enum Decision {
    /// No change: the key is as desired, is not ours, or more must be known first.
    Leave,
    /// Write this value: on the lease `stay` if the key's lease fits, else on a lease still to be chosen.
    Put {
        value: Value,
        expect: Expect,
        stay: Option<LeaseId>,
    },
    /// Remove the key if it was last written at this revision.
    Remove(Revision),
    /// Do not write the key, but make the rest of its unit depend on this guard.
    Check(Expect),
}

impl Planner {
    /// Returns the next step towards the `desired` state, with at most `max_ops` keys in a transaction; none if there is
    /// nothing to do for now, or only leases are missing: see [`Planner::grant_due`].
    pub fn next(&mut self, desired: &dyn DesiredState, max_ops: usize) -> Option<Step> {
        // The lease records show which keys are ours, and which leases have room.
        if !self.is_ready() {
            return None;
        }
        let max_ops = max_ops.min(Transaction::MAX_OPS);
        let has_more = self.refresh_blocking(desired, MAX_BLOCKING);
        self.work.set_more(has_more);
        self.decide_endpoints();
        self.decide_quotas();
        if let Some(records) = self.next_records(max_ops) {
            return Some(records);
        }
        if let Some(hold) = self
            .hold_op()
            .filter(|op| self.work.has_space() && !self.transactions.contain(op.key()))
        {
            return self.send_if_any(vec![hold]);
        }
        self.offer_room();
        // Namespaces with little work first: in one transaction with the work of others, their writes would be slow.
        if self.work.starts_with_small()
            && let Some(small) = self.gather_small(desired, max_ops)
        {
            self.work.served_small();
            return Some(small);
        }
        if let Some(all) = self.gather(desired, (max_ops, false), |_, _| true) {
            return Some(all);
        }
        if !self.work.has_more() && !self.transactions.has_excess() {
            let most = if self.work.do_limits_apply() {
                max_ops.min(EXCESS_OPS)
            } else {
                max_ops
            };
            let excess = self.gather(desired, (most, true), |_, _| true);
            if excess.is_some() {
                return excess;
            }
        }
        self.work.has_more().then_some(Step::Continue)
    }

    /// Returns the time to live, in seconds, of the lease to grant next, given the number of grants in flight for each
    /// time to live. Among those with a shortage, returns the one with the fewest leases granted or in flight. Call
    /// [`Planner::offer_room`] before.
    pub fn grant_due(&self, under_way: &BTreeMap<u32, usize>) -> Option<u32> {
        if !self.is_kubernetes_complete {
            return None;
        }
        let shortage = self.work.shortage(self.leases.capacity()).into_iter();
        let short = shortage.filter_map(|(ttl, needed)| {
            let coming = under_way.get(&ttl).copied().unwrap_or_default() + self.leases.fresh_of(ttl);
            (needed > coming).then_some((coming, ttl))
        });
        short.min().map(|(_, ttl)| ttl)
    }

    pub fn waits_for_lease(&self) -> bool {
        self.work.is_waiting()
    }

    /// Queues work that waits for a lease again, if a lease may have got room. Returns whether there is such work.
    pub fn offer_room(&mut self) -> bool {
        if !self.work.is_waiting() {
            self.leases.forget_offered();
            return false;
        }
        let mut is_any = false;
        for (ttl, lease_use, room) in self.leases.take_offered() {
            is_any |= self.work.release(ttl, &lease_use, room);
        }
        is_any
    }

    /// Returns a transaction for namespaces with little work and nothing in flight. The worker keeps a reserve for such
    /// transactions beyond its limits.
    pub fn next_small(&mut self, desired: &dyn DesiredState, max_ops: usize) -> Option<Step> {
        if !self.is_ready() || self.hold_op().is_some() {
            return None;
        }
        self.refresh_blocking(desired, MAX_BLOCKING);
        self.decide_endpoints();
        self.decide_quotas();
        self.offer_room();
        // A lease without a record delays namespaces that have nothing in flight.
        let max_ops = max_ops.min(Transaction::MAX_OPS);
        self.next_records(max_ops)
            .or_else(|| self.gather_small(desired, max_ops))
    }

    /// Whether the planner knows enough to plan: all of Kubernetes, and the records of the leases.
    pub(super) fn is_ready(&self) -> bool {
        self.is_kubernetes_complete && self.prefixes.is_listed(self.meta.prefix().as_str())
    }

    /// Sets whether etcd has no space for new data. While it has none, only removals are planned.
    pub fn set_full(&mut self, full: bool) {
        self.work.set_space(!full);
    }

    /// Whether the transaction `ticket` is in flight and puts no key.
    pub fn only_removes(&self, ticket: Ticket) -> bool {
        let sent = self.transactions.get(ticket);
        sent.is_some_and(|sent| Op::put_nothing(&sent.ops))
    }

    fn gather_small(&mut self, desired: &dyn DesiredState, max_ops: usize) -> Option<Step> {
        let busy = self.transactions.namespaces();
        let little = QUANTUM.unsigned_abs();
        self.gather(desired, (max_ops, false), |namespace, waiting| {
            u64::try_from(waiting).is_ok_and(|waiting| waiting <= little) && !busy.contains(namespace)
        })
    }

    /// Returns a transaction of queued work of the namespaces that `may` admits; none if there is nothing to write.
    /// `may` gets the namespace and the number of its queued items. `excess` means work above the rate limit.
    fn gather(
        &mut self,
        desired: &dyn DesiredState,
        (max_ops, excess): (usize, bool),
        may: impl Fn(&str, usize) -> bool,
    ) -> Option<Step> {
        let ticket = self.transactions.open(Vec::new());
        let (transaction, undecided) = self.gather_into(desired, ticket, (max_ops, excess), may);
        let has_undecided = !undecided.is_empty();
        for work in undecided {
            self.work.push_back(work, excess);
        }
        if has_undecided {
            self.decide_quotas();
        }
        if transaction.ops.is_empty() {
            self.transactions.close(ticket);
            if has_undecided {
                self.work.set_more(true);
            }
            return None;
        }
        if excess {
            self.transactions.set_excess(ticket);
        }
        Some(Step::Write(ticket, transaction))
    }

    /// Moves work from the queue into the transaction `ticket`, until the transaction is full or no work is left. Also
    /// returns the work whose quota must be decided first, because the desired records were just computed.
    fn gather_into(
        &mut self,
        desired: &dyn DesiredState,
        ticket: Ticket,
        (max_ops, excess): (usize, bool),
        may: impl Fn(&str, usize) -> bool,
    ) -> (Transaction, Vec<Work>) {
        let (mut gathered, mut undecided) = (Transaction::default(), Vec::new());
        let (mut bytes, mut most) = (0_usize, max_ops);
        let max_items = if excess && self.work.do_limits_apply() {
            EXCESS_OPS
        } else {
            MAX_ITEMS
        };
        let max_computed = if self.work.is_shared(excess) {
            MAX_COMPUTED
        } else {
            MAX_ITEMS
        };
        let (mut popped, mut computed) = (0, 0);
        loop {
            if gathered.ops.len() >= most {
                break;
            }
            if popped >= max_items || computed >= max_computed {
                if gathered.ops.is_empty() {
                    self.work.set_more(true);
                }
                break;
            }
            let Some(work) = self.work.next_of(&may, excess) else {
                break;
            };
            // While the work counts as queued, a change of its records does not queue it again.
            let marked = self.mark_pods_of(desired, &work);
            popped += marked.max(1);
            let is_refreshed = self.refresh(desired, &work);
            self.work.popped(&work);
            computed += usize::from(is_refreshed);
            // An edited registration that has more pods.
            let has_more = self.work.is_marked(&work);
            if has_more {
                self.work.push_back(work.clone(), excess);
            }
            if marked > 0 {
                self.work.charge(&work, marked, excess);
                if excess {
                    // The marked pods may be within the rate limit, although this work was above it.
                    self.work.set_more(true);
                }
            }
            if has_more {
                continue;
            }
            if is_refreshed && self.quotas.limits(work.namespace()) {
                undecided.push(work);
                continue;
            }
            let Some(mut groups) = self.decide(&work) else { continue };
            self.leave_out_rejected(&work, &mut groups);
            if groups.is_empty() {
                continue;
            }
            // Records are removed together with the put of their replacements, so all of the work waits for space.
            let puts = |(_, decision): &(Key, Decision)| matches!(decision, Decision::Put { .. });
            if !self.work.has_space() && groups.iter().flatten().any(puts) {
                self.work.wait_for_space(work);
                continue;
            }
            let alone = gathered.ops.is_empty();
            let limit = self.rejected.limit(&work).map_or(most, |limit| limit.min(most));
            // A single record set may be larger than that. It is then sent alone.
            let room = MAX_BYTES.saturating_sub(bytes);
            let (part, size) = fitting(&groups, &gathered, (limit, self.leases.capacity()), room);
            // Work too large for one transaction is done in parts. The rest is queued when this part is settled.
            if part < groups.len() && !alone {
                self.work.push_front(work, excess);
                break;
            }
            groups.truncate(part);
            let units: Vec<usize> = groups.iter().map(Vec::len).collect();
            match self.place(&work, groups.into_iter().flatten()) {
                Ok((ops, reserved)) => {
                    bytes += size;
                    most = limit;
                    self.work.charge(&work, ops.len(), excess);
                    for op in &ops {
                        self.keys.begin(op.key(), ticket);
                    }
                    self.transactions.add(ticket, (work, units.len()), &ops, reserved);
                    gathered.add(ops, &units);
                }
                Err(Unplaced { ttl, lacking }) => self.work.wait_for_lease(ttl, lacking.group, work, lacking.keys),
            }
        }
        (gathered, undecided)
    }

    /// Drops queued work that needs no write now, for example because the leader has done it. The standby replica takes
    /// no steps, so without this its queue would grow with every pod that ever existed.
    pub fn tidy(&mut self) {
        if !self.is_kubernetes_complete {
            return;
        }
        for (work, excess) in self.work.take() {
            if self.decide(&work).is_some() {
                self.work.push_back(work, excess);
            }
        }
        let (keys, registrations) = (&self.keys, &self.registrations);
        self.rejected.keep(|work| match work {
            Work::Changed(..) | Work::Edited(_) => false,
            Work::Key(key) => keys.contains(key),
            Work::Pod(registration, _) => registrations.contains(registration),
        });
        self.drop_former_prefixes();
    }

    /// Adds the granted lease `lease` of `ttl` seconds.
    pub fn granted(&mut self, lease: LeaseId, ttl: u32) {
        self.leases.granted(lease, ttl);
    }

    /// Returns a transaction that removes the records of leases that have been empty for long, so that no replica
    /// renews them any more; none if there are no such leases.
    pub fn retire_leases(&mut self, now: Instant) -> Option<Step> {
        let retirable = self.leases.retirable(now);
        let mut ops = Vec::new();
        for (lease, mod_revision) in retirable.into_iter().take(Transaction::MAX_OPS) {
            let key = self.meta.record_key(lease);
            if !self.transactions.contain(&key) {
                self.leases.retire(lease);
                ops.push(Op::Delete { key, mod_revision });
            }
        }
        self.send_if_any(ops)
    }

    /// Returns a transaction that records leases without a record.
    fn next_records(&mut self, max: usize) -> Option<Step> {
        if !self.work.has_space() {
            return None;
        }
        let unrecorded = self.leases.unrecorded(max).into_iter();
        let put = |(lease, ttl, expect)| Op::Put {
            key: self.meta.record_key(lease),
            value: MetaKeys::record_value(ttl),
            lease,
            expect,
        };
        let ops = unrecorded
            .map(put)
            .filter(|op| !self.transactions.contain(op.key()))
            .collect();
        self.send_if_any(ops)
    }

    fn send_if_any(&mut self, ops: Vec<Op>) -> Option<Step> {
        if ops.is_empty() {
            return None;
        }
        let ticket = self.transactions.open(ops.clone());
        Some(Step::Write(ticket, Transaction::of(ops)))
    }

    /// Decides what to write for `work`; none if nothing must or can be written now.
    fn decide(&mut self, work: &Work) -> Option<Vec<Group>> {
        let mut groups = match work {
            Work::Changed(..) | Work::Edited(_) => return None,
            Work::Key(key) => {
                if self.registrations.is_frozen(key) && !self.is_forbidden(key) {
                    return None;
                }
                // A pod that must no longer have the key writes its replacement in the same transaction, or before.
                if let Some(work @ Work::Pod(..)) = self.work_of(key) {
                    self.work.push(work);
                    return None;
                }
                vec![self.leftover_with(key)]
            }
            Work::Pod(registration, pod) => {
                self.weigh_previous(registration, pod);
                self.groups_of(registration, pod)?
            }
        };
        // Groups that etcd denies or rejects are queued again later. They do not delay the pod's other groups.
        groups.retain(|group| {
            !group
                .iter()
                .any(|key| self.is_denied(key) || self.rejected.blocks(work, key))
        });
        let mine = |key: &Key| match (self.keys.first_claim(key), work) {
            (Some(claim), Work::Pod(registration, pod)) => claim.is_of(registration, pod),
            (Some(_), Work::Changed(..) | Work::Edited(_) | Work::Key(_)) => false,
            (None, _) => true,
        };
        // All claimed keys must be listed first, and their lease groups known. The list, or the answer about the groups,
        // queues the work again.
        let is_claimed = |key: &Key| self.keys.first_claim(key).is_some() && mine(key);
        if groups
            .iter()
            .flatten()
            .any(|key| is_claimed(key) && !(self.prefixes.is_listed(key) && self.leases.group_of(key).is_some()))
        {
            return None;
        }
        let under_way = |key: &Key| self.keys.get(key)?.in_flight();
        if let Some(ticket) = groups.iter().flatten().filter(|key| mine(key)).find_map(under_way) {
            self.transactions.wait(ticket, work.clone());
            return None;
        }
        let (mut decided, mut idle) = (Vec::new(), Vec::new());
        for group in groups {
            if let [key] = &group[..] {
                let state = self.keys.get(key).filter(|_| mine(key));
                // If the key must be listed first, the list queues the work again.
                match state.map(|state| self.decide_key(key, state)) {
                    None => {}
                    Some(Decision::Leave) => idle.extend(group),
                    Some(decision) => decided.push(vec![(key.clone(), decision)]),
                }
                continue;
            }
            let unit = self.decide_unit(&group, mine);
            if unit.is_empty() {
                idle.extend(group);
            } else {
                decided.push(unit);
            }
        }
        for key in &idle {
            self.keys.drop_if_unused(key);
        }
        (!decided.is_empty()).then_some(decided)
    }

    /// Returns the present and desired keys of `pod` for `registration`, grouped by what is written together; none if
    /// the registration does not exist. For a suspended registration, returns only the dropped keys that are forbidden,
    /// each in a group alone.
    fn groups_of(&mut self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<Vec<Vec<Key>>> {
        let state = self.registrations.get(registration)?;
        if state.settings.suspended {
            let forbidden = state.dropped_by(pod).iter().filter(|key| self.is_forbidden(key));
            return Some(forbidden.map(|key| vec![key.clone()]).collect());
        }
        let is_there = |key: &KeyState| key.held.is_some() || key.in_flight().is_some();
        let is_removed = |key: &&Key| !self.keys.get(key).is_some_and(is_there);
        let removed: Vec<Key> = state.dropped_by(pod).iter().filter(is_removed).cloned().collect();
        self.registrations
            .retain_dropped(registration, pod, |key| !removed.contains(key));
        for key in &removed {
            self.keys.drop_if_unused(key);
        }
        let state = self.registrations.get(registration)?;
        let mut groups: Vec<Vec<Key>> = Vec::new();
        if let Some(desired) = state.pods.get(pod) {
            for group in desired.groups() {
                let known = |key: &Key| groups.iter().flatten().any(|known| known == key);
                let keys = group.iter().map(|record| &record.key);
                let keys: Vec<Key> = keys.filter(|key| !known(key)).cloned().collect();
                if !keys.is_empty() {
                    groups.push(keys);
                }
            }
            let previous = desired.previous.as_ref().filter(|_| !state.released.contains(pod));
            for group in previous.iter().flat_map(|previous| previous.groups()) {
                groups.push(group.iter().map(|record| record.key.clone()).collect());
            }
        }
        for key in state.dropped_by(pod) {
            if !groups.iter().flatten().any(|known| known == key) {
                groups.push(self.keys.dropped_with(key));
            }
        }
        Some(groups)
    }

    pub(super) fn decide_key(&self, key: &Key, state: &KeyState) -> Decision {
        let Some(claim) = state.claims.first() else {
            return match &state.held {
                Some(held) if state.is_ours(&self.leases) && !self.guard.holds(key) => {
                    Decision::Remove(held.mod_revision)
                }
                _ => Decision::Leave,
            };
        };
        let Some(value) = self.registrations.value_of(key, claim) else {
            return Decision::Leave;
        };
        let put = |expect, stay| Decision::Put {
            value: value.clone(),
            expect,
            stay,
        };
        match &state.held {
            // The key may exist: its prefix has not been listed yet.
            None if !self.prefixes.is_listed(key) => Decision::Leave,
            None => put(Expect::Absent, None),
            Some(held) if state.is_ours(&self.leases) => {
                match self
                    .leases
                    .fit(held.lease, self.registrations.ttl_of(&claim.registration))
                {
                    Fit::Stays if held.value == *value => Decision::Leave,
                    Fit::Stays => put(Expect::At(held.mod_revision), Some(held.lease)),
                    Fit::Moves => put(Expect::At(held.mod_revision), None),
                    // The lease's record is being written. The outcome shows whether the lease exists, and queues the
                    // work again.
                    Fit::Unconfirmed => Decision::Leave,
                }
            }
            Some(_) => Decision::Leave,
        }
    }
}
