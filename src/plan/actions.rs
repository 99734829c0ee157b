//! From the work list to transactions: the difference between the ledger's two columns, guarded key by key, or unit by
//! unit where several keys make sense together only.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::in_flight::{InFlight, Ticket};
use super::lease_placement::Unplaced;
use super::leases::Fit;
use super::meta::MetaKeys;
use super::planner::{KeyState, Planner};
use super::units::{Group, fitting};
use super::work::Work;
use crate::model::QUANTUM;
use crate::model::RegistrationRef;
use crate::model::{Expect, Key, LeaseId, Op, Revision, Transaction, Value};

/// Bytes of keys and values in one transaction: well below etcd's default limit of 1.5 MiB for a request.
const MAX_BYTES: usize = 512 * 1024;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Commit this, and tell how it ended through [`Planner::settle`].
    Write(Ticket, Transaction),
    /// Grant `count` leases of `ttl` seconds, and tell each through [`Planner::granted`].
    Grant {
        /// Time to live in seconds.
        ttl: u32,
        /// How many.
        count: usize,
    },
}

/// What is to happen with one key.
#[derive(Debug)]
pub(super) enum Decision {
    /// It is as it should be, or not ours to change.
    Leave,
    /// Write this value; on `stay` if the key has a lease that suits, else on one to be chosen.
    Put {
        value: Value,
        expect: Expect,
        stay: Option<LeaseId>,
    },
    /// Remove what was written at this revision.
    Remove(Revision),
    /// Leave it as it is, and do the rest of its unit only if it is so.
    Check(Expect),
}

impl Planner {
    /// The next step towards a state where etcd holds what it should, with at most `max_ops` keys in a
    /// transaction; none when there is nothing (more) to do. `leases_coming` grants are under way.
    pub fn next(&mut self, max_ops: usize, leases_coming: usize) -> Option<Step> {
        // The lease records tell whose a key is, and where there is room.
        if !self.complete || !self.is_surveyed(self.meta.scope().prefix()) {
            return None;
        }
        let max_ops = max_ops.min(Transaction::MAX_OPS);
        self.settle_last();
        self.settle_quotas();
        if let Some(records) = self.next_records(max_ops) {
            return Some(records);
        }
        if let Some(hold) = self
            .hold_op()
            .filter(|op| self.without_space.is_none() && !self.is_under_way(op.key()))
        {
            return self.send_if_any(vec![hold]);
        }
        self.offer_room();
        // Before any other work: a grant takes no key's place, and what waits for it would otherwise wait for as long as
        // there is other work.
        let coming = leases_coming.saturating_add(self.leases.fresh());
        let short = |(ttl, needed): (u32, usize)| {
            let count = needed.saturating_sub(coming);
            (count > 0).then_some(Step::Grant { ttl, count })
        };
        let shortage = self.work.shortage(self.leases.capacity());
        if let Some(grant) = shortage.into_iter().find_map(short) {
            return Some(grant);
        }
        // Those first who ask for little: what others ask for would make theirs large, and slow. Every other time all,
        // so that the others come on however many these are.
        if !std::mem::take(&mut self.small_was_last)
            && let Some(small) = self.gather_small(max_ops)
        {
            self.small_was_last = true;
            return Some(small);
        }
        if let Some(all) = self.gather(max_ops, |_, _| true) {
            return Some(all);
        }
        // What was looked at for the first time may need a lease.
        let shortage = self.work.shortage(self.leases.capacity());
        shortage.into_iter().find_map(short)
    }

    /// The time to live of a lease that is to be granted next, while so many of each are under way: of those that are
    /// short, the one with the fewest on their way.
    pub fn grant_due(&mut self, under_way: &BTreeMap<u32, usize>) -> Option<u32> {
        if !self.complete || !self.work.is_waiting() {
            return None;
        }
        self.offer_room();
        let shortage = self.work.shortage(self.leases.capacity()).into_iter();
        let short = shortage.filter_map(|(ttl, needed)| {
            let coming = under_way.get(&ttl).copied().unwrap_or_default() + self.leases.fresh_of(ttl);
            (needed > coming).then_some((coming, ttl))
        });
        short.min().map(|(_, ttl)| ttl)
    }

    /// Whether any work waits for a lease.
    pub fn waits_for_lease(&self) -> bool {
        self.work.is_waiting()
    }

    /// Work that waits for a lease is to be looked at again where one has room by now.
    fn offer_room(&mut self) {
        if !self.work.is_waiting() {
            return self.leases.forget_offered();
        }
        for (ttl, home, room) in self.leases.take_offered() {
            self.work.release(ttl, &home, room);
        }
    }

    /// A transaction for those who ask for little and have nothing under way, for whom there is always room left.
    pub fn next_small(&mut self, max_ops: usize) -> Option<Step> {
        if !self.complete || !self.is_surveyed(self.meta.scope().prefix()) || self.hold_op().is_some() {
            return None;
        }
        self.settle_last();
        self.settle_quotas();
        self.offer_room();
        // A lease whose record is missing keeps those waiting who have nothing under way.
        let max_ops = max_ops.min(Transaction::MAX_OPS);
        self.next_records(max_ops).or_else(|| self.gather_small(max_ops))
    }

    /// Sets whether etcd has no space for new data. While it has none, only removals are planned.
    pub fn set_full(&mut self, full: bool) {
        if full {
            self.without_space.get_or_insert_default();
            return;
        }
        for work in self.without_space.take().into_iter().flatten() {
            self.work.push(work);
        }
    }

    /// Whether the transaction `ticket` puts nothing.
    pub fn only_removes(&self, ticket: Ticket) -> bool {
        let sent = self.in_flight.get(&ticket);
        sent.is_some_and(|sent| !sent.ops.iter().any(|op| matches!(op, Op::Put { .. })))
    }

    fn gather_small(&mut self, max_ops: usize) -> Option<Step> {
        let works = self.in_flight.values().flat_map(|sent| &sent.works);
        let busy: HashSet<Arc<str>> = works.map(|work| work.tenant().clone()).collect();
        let little = QUANTUM.unsigned_abs();
        self.gather(max_ops, |tenant, waiting| {
            u64::try_from(waiting).is_ok_and(|waiting| waiting <= little) && !busy.contains(tenant)
        })
    }

    /// A transaction of work from the list that is done for those who `may` have their turn; none if nothing is.
    fn gather(&mut self, max_ops: usize, may: impl Fn(&str, usize) -> bool) -> Option<Step> {
        self.next_ticket = self.next_ticket.next();
        let ticket = self.next_ticket;
        self.in_flight.insert(ticket, InFlight::default());
        let transaction = self.gather_into(ticket, max_ops, may);
        if transaction.ops.is_empty() {
            self.in_flight.remove(&ticket);
            return None;
        }
        Some(Step::Write(ticket, transaction))
    }

    /// Takes work from the list into the transaction `ticket`, until that is full or nothing is left to do.
    fn gather_into(&mut self, ticket: Ticket, max_ops: usize, may: impl Fn(&str, usize) -> bool) -> Transaction {
        let mut gathered = Transaction::default();
        let (mut bytes, mut most) = (0_usize, max_ops);
        while gathered.ops.len() < most
            && let Some(work) = self.work.pop_of(&may)
        {
            let Some(mut groups) = self.decide(&work) else { continue };
            self.leave_out_rejected(&work, &mut groups);
            if groups.is_empty() {
                continue;
            }
            // Removed records wait for the records that replace them, so all of the work waits.
            let puts = |(_, decision): &(Key, Decision)| matches!(decision, Decision::Put { .. });
            if let Some(waiting) = &mut self.without_space
                && groups.iter().flatten().any(puts)
            {
                waiting.insert(work);
                continue;
            }
            let alone = gathered.ops.is_empty();
            let limit = self.rejected.limit(&work).map_or(most, |limit| limit.min(most));
            // One record set may be larger than that: it is sent alone.
            let room = MAX_BYTES.saturating_sub(bytes);
            let (part, size) = fitting(&groups, &gathered, (limit, self.leases.capacity()), room);
            // Work too large for one transaction is done in parts: the rest comes up again when this part is settled.
            if part < groups.len() && !alone {
                self.work.push_front(work);
                break;
            }
            groups.truncate(part);
            let units: Vec<usize> = groups.iter().map(Vec::len).collect();
            match self.place(&work, groups.into_iter().flatten()) {
                Ok((ops, reserved)) => {
                    bytes += size;
                    most = limit;
                    self.work.charge(&work, ops.len());
                    for op in &ops {
                        if let Some(slot) = self.slots.get_mut(op.key()) {
                            slot.in_flight = Some(ticket);
                        }
                    }
                    if let Some(plan) = self.in_flight.get_mut(&ticket) {
                        plan.ops.extend(ops.iter().cloned());
                        plan.reserved.extend(reserved);
                        plan.gathered.push((work.clone(), units.len()));
                        plan.works.insert(work);
                    }
                    gathered.add(ops, &units);
                }
                Err(Unplaced { ttl, domain, keys }) => self.work.wait_for_lease(ttl, domain, work, keys),
            }
        }
        gathered
    }

    /// Forgets the work that is done already: by another replica, while this one stands by and takes no steps. Without
    /// this its lists would grow with every pod that ever came and went.
    pub fn tidy(&mut self) {
        if !self.complete {
            return;
        }
        for work in self.work.take() {
            if self.decide(&work).is_some() {
                self.work.push(work);
            }
        }
        let (slots, books) = (&self.slots, &self.books);
        self.rejected.keep(|work| match work {
            Work::Key(key) => slots.contains_key(key),
            Work::Pod(registration, _) => books.contains_key(registration),
        });
        self.settle_lingering();
    }

    /// A lease of `ttl` seconds was granted under `lease`.
    pub fn granted(&mut self, lease: LeaseId, ttl: u32) {
        self.leases.granted(lease, ttl);
    }

    /// A transaction that lets go of the leases that have been empty for long, if there are any: it removes their
    /// records, so that nobody renews them any more.
    pub fn retire_leases(&mut self, now: Instant) -> Option<Step> {
        let retirable = self.leases.retirable(now);
        let mut ops = Vec::new();
        for (lease, mod_revision) in retirable.into_iter().take(Transaction::MAX_OPS) {
            let key = self.meta.record_key(lease);
            if !self.is_under_way(&key) {
                self.leases.retire(lease);
                ops.push(Op::Delete { key, mod_revision });
            }
        }
        self.send_if_any(ops)
    }

    /// Records for leases that have none (any more).
    fn next_records(&mut self, max: usize) -> Option<Step> {
        if self.without_space.is_some() {
            return None;
        }
        let unrecorded = self.leases.unrecorded(max).into_iter();
        let put = |(lease, ttl, expect)| Op::Put {
            key: self.meta.record_key(lease),
            value: MetaKeys::record_value(ttl),
            lease,
            expect,
        };
        let ops = unrecorded.map(put).filter(|op| !self.is_under_way(op.key())).collect();
        self.send_if_any(ops)
    }

    /// Whether a write to one of our own bookkeeping keys is under way.
    fn is_under_way(&self, key: &Key) -> bool {
        self.in_flight
            .values()
            .any(|sent| sent.ops.iter().any(|op| op.key() == key))
    }

    fn send_if_any(&mut self, ops: Vec<Op>) -> Option<Step> {
        if ops.is_empty() {
            return None;
        }
        self.next_ticket = self.next_ticket.next();
        let plan = InFlight {
            ops: ops.clone(),
            ..InFlight::default()
        };
        self.in_flight.insert(self.next_ticket, plan);
        Some(Step::Write(self.next_ticket, Transaction::of(ops)))
    }

    /// What is to be done about `work`; none when nothing is, or not now.
    fn decide(&mut self, work: &Work) -> Option<Vec<Group>> {
        let mut leaving = HashSet::new();
        let mut groups = match work {
            Work::Key(key) => {
                if self.is_frozen(key) && !self.is_forbidden(key) {
                    return None;
                }
                vec![self.leftover_with(key)]
            }
            Work::Pod(registration, pod) => {
                leaving = self.weigh_previous(registration, pod);
                self.groups_of(registration, pod)?
            }
        };
        // What etcd denies comes up again when it no longer does, and holds up nothing else of the pod.
        groups.retain(|group| {
            !group
                .iter()
                .any(|key| self.is_denied(key) || self.rejected.blocks(work, key))
        });
        let mine = |key: &Key| match (self.slots.get(key).and_then(|slot| slot.claims.first()), work) {
            (Some(claim), Work::Pod(registration, pod)) => claim.registration == *registration && claim.pod == *pod,
            (Some(_), Work::Key(_)) => false,
            (None, _) => true,
        };
        // What is written together is read first as a whole: the survey brings the work up again.
        let is_claimed = |key: &Key| self.slots.get(key).is_some_and(|slot| !slot.claims.is_empty()) && mine(key);
        if groups
            .iter()
            .flatten()
            .any(|key| is_claimed(key) && !(self.is_surveyed(key) && self.leases.domain_of(key).is_some()))
        {
            return None;
        }
        let under_way = |key: &Key| self.slots.get(key)?.in_flight;
        if let Some(ticket) = groups.iter().flatten().filter(|key| mine(key)).find_map(under_way) {
            if let Some(blocking) = self.in_flight.get_mut(&ticket) {
                blocking.works.insert(work.clone());
            }
            return None;
        }
        let (mut decided, mut idle) = (Vec::new(), Vec::new());
        for group in groups {
            if group.iter().any(|key| leaving.contains(key)) {
                let removal = self.removal_of_previous(&group, mine);
                if !removal.is_empty() {
                    decided.push(removal);
                }
                continue;
            }
            if let [key] = &group[..] {
                let slot = self.slots.get(key).filter(|_| mine(key));
                // Where the answer is that etcd has to be read first, the survey brings the work up again.
                match slot.map(|slot| self.decide_key(key, slot)) {
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
            self.forget_if_unused(key);
        }
        (!decided.is_empty()).then_some(decided)
    }

    /// The keys that `pod` has or is to have for `registration`, by what is written as one; none when the registration is
    /// suspended or gone. Of a suspended one only what is forbidden goes.
    fn groups_of(&mut self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<Vec<Vec<Key>>> {
        let book = self.books.get(registration)?;
        if book.terms.suspended {
            let forbidden = book.dropped.get(pod)?.iter().filter(|key| self.is_forbidden(key));
            return Some(forbidden.map(|key| vec![key.clone()]).collect());
        }
        let book = self.books.get_mut(registration)?;
        let mut groups: Vec<Vec<Key>> = Vec::new();
        if let Some(desired) = book.desired_pods.get(pod) {
            for group in desired.groups() {
                let known = |key: &Key| groups.iter().flatten().any(|known| known == key);
                let keys = group.iter().map(|record| &record.key);
                let keys: Vec<Key> = keys.filter(|key| !known(key)).cloned().collect();
                if !keys.is_empty() {
                    groups.push(keys);
                }
            }
            let previous = desired.previous.as_ref().filter(|_| !book.released.contains(pod));
            for group in previous.iter().flat_map(|previous| previous.groups()) {
                groups.push(group.iter().map(|record| record.key.clone()).collect());
            }
        }
        let mut dropped_now = Vec::new();
        if let Some(dropped) = book.dropped.get_mut(pod) {
            let there = |slot: &KeyState| slot.held.is_some() || slot.in_flight.is_some();
            let before = dropped.len();
            dropped.retain(|key| self.slots.get(key).is_some_and(there));
            if dropped.len() < before {
                // Told as on its way out until now, and nobody claims it, who would be told of otherwise.
                self.changed.insert(registration.clone());
            }
            dropped_now.clone_from(dropped);
            if dropped.is_empty() {
                book.dropped.remove(pod);
            }
        }
        for key in dropped_now {
            if !groups.iter().flatten().any(|known| *known == key) {
                groups.push(self.dropped_with(key));
            }
        }
        Some(groups)
    }

    pub(super) fn decide_key(&self, key: &Key, slot: &KeyState) -> Decision {
        let Some(claim) = slot.claims.first() else {
            return match &slot.held {
                Some(held) if self.is_ours(slot) && !self.guard.detains(key) => Decision::Remove(held.mod_revision),
                _ => Decision::Leave,
            };
        };
        let Some(value) = self.wanted(key, claim) else {
            return Decision::Leave;
        };
        let put = |expect, stay| Decision::Put {
            value: value.clone(),
            expect,
            stay,
        };
        match &slot.held {
            // Where the scope has not been read yet, the key may well be there.
            None if !self.is_surveyed(key) => Decision::Leave,
            None => put(Expect::Absent, None),
            Some(held) if self.is_ours(slot) => {
                match self.leases.fit(held.lease, self.ttl_of(&claim.registration)) {
                    Fit::Stays if held.value == *value => Decision::Leave,
                    Fit::Stays => put(Expect::At(held.mod_revision), Some(held.lease)),
                    Fit::Moves => put(Expect::At(held.mod_revision), None),
                    // The lease's record is being written: that tells, and brings the work up again.
                    Fit::InDoubt => Decision::Leave,
                }
            }
            Some(_) => Decision::Leave,
        }
    }

    pub(super) fn ttl_of(&self, registration: &RegistrationRef) -> u32 {
        self.books.get(registration).map_or(0, |book| book.terms.ttl)
    }

    /// A key that nobody wants and that is not there needs no slot.
    pub(super) fn forget_if_unused(&mut self, key: &Key) {
        if self
            .slots
            .get(key)
            .is_some_and(|slot| slot.claims.is_empty() && slot.held.is_none() && slot.perhaps_on.is_none())
        {
            self.slots.remove(key);
        }
    }
}
