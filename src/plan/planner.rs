//! From the work list to transactions: the difference between the ledger's two columns, guarded key by key.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::ledger::{Ledger, Slot};
use super::meta::MetaKeys;
use super::transaction::{Expect, Held, Key, LeaseId, Op, OpResult, Revision, Transaction, Value, Verdict};
use super::work::Work;
use crate::index::RegistrationRef;

/// Bytes of keys and values in one transaction: well below etcd's default limit of 1.5 MiB for a request.
const MAX_BYTES: usize = 512 * 1024;

/// Names a transaction that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Commit this, and tell how it ended through [`Ledger::settle`].
    Write(Ticket, Transaction),
    /// Grant `count` leases of `ttl` seconds, and tell each through [`Ledger::granted`].
    Grant {
        /// Time to live in seconds.
        ttl: u32,
        /// How many.
        count: usize,
    },
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct InFlight {
    ops: Vec<Op>,
    works: Vec<Work>,
    /// Room kept on leases for its puts.
    reserved: Vec<LeaseId>,
}

/// What is to happen with one key.
enum Decision {
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
}

impl Ledger {
    /// The next step towards a state where etcd holds what it should, with at most `max_ops` keys in a
    /// transaction; none when there is nothing (more) to do. `leases_coming` grants are under way.
    pub fn next(&mut self, max_ops: usize, leases_coming: usize) -> Option<Step> {
        if !self.complete {
            return None;
        }
        let max_ops = max_ops.min(Transaction::MAX_OPS);
        if let Some(records) = self.next_records(max_ops) {
            return Some(records);
        }
        let mut plan = InFlight {
            ops: Vec::new(),
            works: Vec::new(),
            reserved: Vec::new(),
        };
        let mut bytes = 0;
        while plan.ops.len() < max_ops
            && let Some(work) = self.work.pop()
        {
            let Some(decisions) = self.decide(&work) else { continue };
            let alone = plan.ops.is_empty();
            let room = max_ops - plan.ops.len();
            if decisions.len() > room && !alone {
                self.work.push_front(work);
                break;
            }
            // Work too large for one transaction is done in parts: the rest comes up again when this part is settled.
            let part = decisions.len().min(room).min(self.leases.capacity());
            let size: usize = decisions.iter().take(part).map(size_of).sum();
            if bytes + size > MAX_BYTES && !alone {
                self.work.push_front(work);
                break;
            }
            match self.place(&work, decisions.into_iter().take(part)) {
                Ok((ops, reserved)) => {
                    bytes += size;
                    plan.ops.extend(ops);
                    plan.reserved.extend(reserved);
                    plan.works.push(work);
                }
                Err(Unplaced { ttl, keys }) => self.work.wait_for_lease(ttl, work, keys),
            }
        }
        if !plan.ops.is_empty() {
            return Some(self.send(plan));
        }
        let capacity = self.leases.capacity();
        let (ttl, keys) = self.work.shortage().next()?;
        let count = keys
            .div_ceil(capacity)
            .saturating_sub(leases_coming + self.leases.fresh());
        (count > 0).then_some(Step::Grant { ttl, count })
    }

    /// A lease of `ttl` seconds was granted under `lease`.
    pub fn granted(&mut self, lease: LeaseId, ttl: u32) {
        self.leases.granted(lease, ttl);
    }

    /// Tells how the transaction `ticket` ended; none when that is not known (it may or may not have happened).
    pub fn settle(&mut self, ticket: Ticket, verdict: Option<Verdict>) {
        let Some(sent) = self.in_flight.remove(&ticket) else {
            return;
        };
        let keys: Vec<Key> = sent.ops.iter().map(|op| op.key().clone()).collect();
        for key in &keys {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.in_flight = false;
            }
        }
        for lease in sent.reserved {
            self.leases.release(lease, 1);
        }
        match verdict {
            Some(Verdict::Applied { revision, results }) => {
                for (op, result) in sent.ops.into_iter().zip(results) {
                    self.settle_op(op, result, revision);
                }
            }
            Some(Verdict::LeaseGone) => self.settle_lease_gone(&sent.ops),
            // Nothing was written, or it is not known: the same work comes up again, and the guards see to the rest.
            Some(Verdict::Fenced) | None => {}
        }
        // Both who asked for the writes and who wants the keys by now may have more to do.
        for work in sent.works {
            self.work.push(work);
        }
        for key in &keys {
            self.enqueue(key);
        }
        self.settle_lingering();
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
        let unrecorded = self.leases.unrecorded(max).into_iter();
        let put = |(lease, ttl)| Op::Put {
            key: self.meta.record_key(lease),
            value: MetaKeys::record_value(ttl),
            lease,
            expect: Expect::Absent,
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
        let plan = InFlight {
            ops,
            works: Vec::new(),
            reserved: Vec::new(),
        };
        (!plan.ops.is_empty()).then(|| self.send(plan))
    }

    fn send(&mut self, plan: InFlight) -> Step {
        for op in &plan.ops {
            if let Some(slot) = self.slots.get_mut(op.key()) {
                slot.in_flight = true;
            }
        }
        let transaction = Transaction { ops: plan.ops.clone() };
        self.next_ticket.0 += 1;
        self.in_flight.insert(self.next_ticket, plan);
        Step::Write(self.next_ticket, transaction)
    }

    /// What is to be done about `work`; none when nothing is, or not now.
    fn decide(&mut self, work: &Work) -> Option<Vec<(Key, Decision)>> {
        let keys = match work {
            Work::Key(key) => {
                if self.is_frozen(key) {
                    return None;
                }
                vec![key.clone()]
            }
            Work::Pod(registration, pod) => self.keys_of(registration, pod)?,
        };
        let slot_of = |key: &Key| self.slots.get(key);
        // The transaction under way brings this work up again when it ends; a survey does so when it is done.
        if keys.iter().any(|key| slot_of(key).is_some_and(|slot| slot.in_flight)) {
            return None;
        }
        let mut decisions = Vec::new();
        for key in keys {
            let Some(slot) = self.slots.get(&key) else { continue };
            let mine = match (slot.claims.first(), work) {
                (Some(claim), Work::Pod(registration, pod)) => claim.registration == *registration && claim.pod == *pod,
                (Some(_), Work::Key(_)) => false,
                (None, _) => true,
            };
            if !mine {
                continue;
            }
            match self.decide_key(&key, slot) {
                Decision::Leave => self.forget_if_unused(&key),
                decision => decisions.push((key, decision)),
            }
        }
        (!decisions.is_empty()).then_some(decisions)
    }

    /// The keys that `pod` has or is to have for `registration`; none when the registration is suspended or gone.
    fn keys_of(&mut self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<Vec<Key>> {
        let book = self.books.get_mut(registration).filter(|book| !book.terms.suspended)?;
        let mut keys: Vec<Key> = Vec::new();
        if let Some(tenancy) = book.tenancies.get(pod) {
            keys.extend(tenancy.records().map(|record| record.key.clone()));
        }
        if let Some(dropped) = book.dropped.get_mut(pod) {
            dropped.retain(|key| self.slots.get(key).is_some_and(|slot| slot.held.is_some()));
            keys.extend(dropped.iter().cloned());
            if dropped.is_empty() {
                book.dropped.remove(pod);
            }
        }
        Some(keys)
    }

    fn decide_key(&self, key: &Key, slot: &Slot) -> Decision {
        let Some(claim) = slot.claims.first() else {
            return match &slot.held {
                Some(held) if self.is_ours(slot) => Decision::Remove(held.mod_revision),
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
                let stay = self
                    .leases
                    .suits(held.lease, self.ttl_of(claim.registration.clone()))
                    .then_some(held.lease);
                if held.value == *value && stay.is_some() {
                    Decision::Leave
                } else {
                    put(Expect::At(held.mod_revision), stay)
                }
            }
            Some(_) => Decision::Leave,
        }
    }

    fn ttl_of(&self, registration: RegistrationRef) -> u32 {
        self.books.get(&registration).map_or(0, |book| book.terms.ttl)
    }

    /// Chooses leases for the puts among `decisions`, all on one if possible, and reserves room there.
    fn place(
        &mut self,
        work: &Work,
        decisions: impl Iterator<Item = (Key, Decision)>,
    ) -> Result<(Vec<Op>, Vec<LeaseId>), Unplaced> {
        let decisions: Vec<(Key, Decision)> = decisions.collect();
        let homeless = |(_, decision): &&(Key, Decision)| matches!(decision, Decision::Put { stay: None, .. });
        let count = decisions.iter().filter(homeless).count();
        let mut reserved = Vec::new();
        if count > 0
            && let Work::Pod(registration, pod) = work
        {
            let ttl = self.ttl_of(registration.clone());
            let sibling = self.lease_of_siblings(registration, pod);
            if let Some(lease) = self.leases.reserve(ttl, count, sibling) {
                reserved = vec![lease; count];
            } else {
                return Err(Unplaced { ttl, keys: count });
            }
        }
        let mut homes = reserved.iter();
        let ops = decisions.into_iter().map(|(key, decision)| match decision {
            Decision::Put { value, expect, stay } => Op::Put {
                key,
                value,
                lease: stay
                    .or_else(|| homes.next().copied())
                    .expect("room was reserved for every homeless key"),
                expect,
            },
            Decision::Remove(mod_revision) => Op::Delete { key, mod_revision },
            Decision::Leave => unreachable!("what is left alone is not planned"),
        });
        Ok((ops.collect(), reserved))
    }

    /// The lease that carries other keys of the same pod: they should come and go together.
    fn lease_of_siblings(&self, registration: &RegistrationRef, pod: &Arc<str>) -> Option<LeaseId> {
        let tenancy = self.books.get(registration)?.tenancies.get(pod)?;
        let held = tenancy
            .records()
            .filter_map(|record| self.slots.get(&record.key)?.held.as_ref());
        held.map(|held| held.lease).find(|lease| self.leases.is_ours(*lease))
    }

    fn settle_op(&mut self, op: Op, result: OpResult, revision: Revision) {
        let born = self
            .slots
            .get(op.key())
            .and_then(|slot| slot.held.as_ref())
            .map(|held| held.create_revision);
        let (key, held) = match (op, result) {
            (op, OpResult::Refused(held)) => (op.key().clone(), held),
            (Op::Delete { key, .. }, OpResult::Done) => (key, None),
            (
                Op::Put {
                    key,
                    value,
                    lease,
                    expect,
                },
                OpResult::Done,
            ) => {
                let create_revision = match expect {
                    Expect::Absent => revision,
                    Expect::At(_) => born.unwrap_or(revision),
                };
                let held = Held {
                    value,
                    lease,
                    create_revision,
                    mod_revision: revision,
                };
                (key, Some(held))
            }
        };
        self.observe_key(&key, held, revision);
    }

    /// A transaction named a lease that does not exist. If it named only one, that is the one; otherwise each has
    /// to be confirmed by its record.
    fn settle_lease_gone(&mut self, ops: &[Op]) {
        let leases: HashSet<LeaseId> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => Some(*lease),
                Op::Delete { .. } => None,
            })
            .collect();
        match leases.iter().next() {
            Some(only) if leases.len() == 1 => self.lease_is_gone(*only),
            _ => leases.into_iter().for_each(|lease| self.leases.doubt(lease)),
        }
    }

    /// A key that nobody wants and that is not there needs no slot.
    fn forget_if_unused(&mut self, key: &Key) {
        if self
            .slots
            .get(key)
            .is_some_and(|slot| slot.claims.is_empty() && slot.held.is_none())
        {
            self.slots.remove(key);
        }
    }
}

/// No lease has room.
struct Unplaced {
    ttl: u32,
    keys: usize,
}

fn size_of((key, decision): &(Key, Decision)) -> usize {
    match decision {
        Decision::Put { value, .. } => key.len() + value.len(),
        Decision::Leave | Decision::Remove(_) => key.len(),
    }
}
