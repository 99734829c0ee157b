//! The key states of one Registry: which pods claim a key, what etcd holds under it, and what is under way for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::desired::DesiredPod;
use super::in_flight::Ticket;
use super::lease_pool::LeasePool;
use super::work::Work;
use crate::model::{Key, KeyValue, LeaseId, Prefix, RegistrationRef, Revision, Value, entries_below};

/// A pod of a registration that claims a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Claim {
    pub registration: RegistrationRef,
    pub pod: Arc<str>,
}

impl Claim {
    pub fn is_of(&self, registration: &RegistrationRef, pod: &Arc<str>) -> bool {
        self.registration == *registration && self.pod == *pod
    }

    /// The work that decides about the keys of the pod.
    pub fn work(&self) -> Work {
        Work::Pod(self.registration.clone(), self.pod.clone())
    }
}

/// The desired and the observed state of one key.
#[derive(Debug, Default)]
pub(super) struct KeyState {
    /// The pods that claim the key, nearly always one. The first claim wins.
    pub claims: SmallVec<[Claim; 1]>,
    /// The key as observed in etcd.
    pub held: Option<KeyValue>,
    /// The revision at which `held` was observed.
    seen: Revision,
    /// The `create_revision` under which the key was observed as ours. A foreign client that overwrites the key keeps
    /// it, so the key stays ours and is corrected. A foreign key that is created after a deletion has another one.
    born: Revision,
    /// None if there is nothing of it.
    rare: Option<Box<Rare>>,
}

/// What a key has only while it is written or removed, or if it is in a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rare {
    /// The last pod that gave up a claim, while no pod has one.
    last_claim: Option<Claim>,
    /// The transaction in flight that writes the key.
    in_flight: Option<Ticket>,
    /// The lease on which room is reserved for the key, because the outcome of a put on that lease is unknown;
    /// [`LeaseId::NONE`] if there is no such put.
    perhaps_on: LeaseId,
    /// The keys that are written and removed together with this key, which is included. None if the key was last
    /// claimed alone.
    unit: Option<Arc<[Key]>>,
}

impl KeyState {
    pub fn is_unclaimed(&self) -> bool {
        self.claims.is_empty()
    }

    /// Whether etcd holds the key, and it is ours.
    pub fn is_ours(&self, leases: &LeasePool) -> bool {
        let ours = |held: &KeyValue| leases.is_ours(held.lease) || held.create_revision == self.born;
        self.held.as_ref().is_some_and(ours)
    }

    /// Whether etcd may hold the key: it was observed, or a write is under way or of unknown outcome.
    pub fn may_exist(&self) -> bool {
        self.held.is_some() || self.may_appear()
    }

    /// Whether a write of the key is under way or of unknown outcome.
    pub fn may_appear(&self) -> bool {
        let rare = self.rare.as_deref();
        rare.is_some_and(|rare| rare.in_flight.is_some() || rare.perhaps_on != LeaseId::NONE)
    }

    /// The last pod that gave up a claim, while no pod has one.
    pub fn last_claim(&self) -> Option<&Claim> {
        self.rare.as_ref()?.last_claim.as_ref()
    }

    /// The transaction in flight that writes the key.
    pub fn in_flight(&self) -> Option<Ticket> {
        self.rare.as_ref()?.in_flight
    }

    /// The keys that are written and removed together with this key, which is included. None if the key was last
    /// claimed alone.
    pub fn unit(&self) -> Option<&Arc<[Key]>> {
        self.rare.as_ref()?.unit.as_ref()
    }

    /// Sets the lease of a put whose outcome is unknown, [`LeaseId::NONE`] if there is none. Returns the former lease.
    fn set_perhaps_on(&mut self, lease: LeaseId) -> Option<LeaseId> {
        let former = self.change_rare(|rare| std::mem::replace(&mut rare.perhaps_on, lease));
        (former != LeaseId::NONE).then_some(former)
    }

    /// Changes the rare state. Allocates it when there is something of it, and drops it when there is not.
    fn change_rare<T>(&mut self, change: impl FnOnce(&mut Rare) -> T) -> T {
        let Some(rare) = self.rare.as_deref_mut() else {
            let mut rare = Rare::default();
            let result = change(&mut rare);
            self.rare = (rare != Rare::default()).then(|| Box::new(rare));
            return result;
        };
        let result = change(rare);
        if *rare == Rare::default() {
            self.rare = None;
        }
        result
    }

    /// Whether etcd may hold the key, and no foreign client wrote it.
    pub fn may_be_ours(&self, leases: &LeasePool) -> bool {
        self.may_exist() && (self.held.is_none() || self.is_ours(leases))
    }
}

/// A key of which only is known that etcd holds it without a lease. Nobody writes over it, so its revisions do not matter, but
/// 0 would mean that it is ours.
fn foreign() -> KeyValue {
    KeyValue {
        value: Value::from([].as_slice()),
        lease: LeaseId::NONE,
        create_revision: 1,
        mod_revision: 1,
    }
}

/// What an observation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// A newer state is known.
    Outdated,
    Unchanged,
    Changed,
}

/// The states of all keys that are claimed, observed in etcd or under way.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    /// Boxed, because a B-tree whose keys are inserted in order leaves nearly half of its slots empty.
    states: BTreeMap<Key, Box<KeyState>>,
}

impl KeyTable {
    pub fn get(&self, key: &str) -> Option<&KeyState> {
        self.states.get(key).map(|state| &**state)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.states.contains_key(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &KeyState)> {
        self.states.iter().map(|(key, state)| (key, &**state))
    }

    /// The keys that start with `prefix`.
    pub fn below(&self, prefix: &str) -> impl Iterator<Item = (&Key, &KeyState)> {
        entries_below(&self.states, prefix).map(|(key, state)| (key, &**state))
    }

    pub fn keys_in(&self, prefix: &Prefix) -> Vec<Key> {
        self.below(prefix.as_str()).map(|(key, _)| key.clone()).collect()
    }

    pub fn is_unclaimed(&self, key: &str) -> bool {
        self.get(key).is_some_and(KeyState::is_unclaimed)
    }

    /// The claim that has `key`.
    pub fn first_claim(&self, key: &str) -> Option<&Claim> {
        self.get(key)?.claims.first()
    }

    /// The key as observed in etcd.
    pub fn held(&self, key: &str) -> Option<&KeyValue> {
        self.get(key)?.held.as_ref()
    }

    pub fn is_ours(&self, key: &str, leases: &LeasePool) -> bool {
        self.get(key).is_some_and(|state| state.is_ours(leases))
    }

    /// Returns `key`, which no pod claims any more, and the unclaimed keys of its unit.
    pub fn dropped_with(&self, key: &Key) -> Vec<Key> {
        let goes = |other: &&Key| *other == key || self.is_unclaimed(other);
        match self.get(key).and_then(|state| state.unit()) {
            Some(unit) => unit.iter().filter(goes).cloned().collect(),
            None => vec![key.clone()],
        }
    }

    /// Replaces the keys and values of `desired` by equal ones that are known, so that they are stored once.
    pub fn share(&self, desired: &mut DesiredPod) {
        let records = desired
            .by_endpoint
            .iter_mut()
            .flat_map(|endpoint| &mut endpoint.records);
        for record in records {
            let Some((key, state)) = self.states.get_key_value(&*record.key) else {
                continue;
            };
            record.key = key.clone();
            if let Some(held) = state.held.as_ref().filter(|held| held.value == record.value) {
                record.value = held.value.clone();
            }
        }
    }

    // ---- desired ----

    /// Adds a claim. Returns whether other pods claim the key, too, so that the claims must be sorted. A key that is new
    /// here is foreign if etcd holds it without a lease.
    pub fn claim(&mut self, key: &Key, claim: Claim, is_without_lease: bool) -> bool {
        let state = self.states.entry(key.clone()).or_insert_with(|| {
            Box::new(KeyState {
                held: is_without_lease.then(foreign),
                ..KeyState::default()
            })
        });
        state.change_rare(|rare| {
            rare.unit = None;
            rare.last_claim = None;
        });
        let is_new = !state.claims.contains(&claim);
        if is_new {
            state.claims.push(claim);
        }
        is_new && state.claims.len() > 1
    }

    /// Removes a claim. Returns the remaining ones.
    pub fn unclaim(&mut self, key: &str, registration: &RegistrationRef, pod: &Arc<str>) -> &[Claim] {
        let Some(state) = self.states.get_mut(key) else {
            return &[];
        };
        if let Some(at) = state.claims.iter().position(|claim| claim.is_of(registration, pod)) {
            let claim = state.claims.remove(at);
            if state.claims.is_empty() {
                state.change_rare(|rare| rare.last_claim = Some(claim));
            }
        }
        &state.claims
    }

    /// Sorts the claims of `key` by `precedence`, and returns them.
    pub fn sort_claims<P: Ord>(&mut self, key: &str, precedence: impl Fn(&Claim) -> P) -> &[Claim] {
        let Some(state) = self.states.get_mut(key) else {
            return &[];
        };
        let claims = &mut state.claims;
        claims.sort_by(|a, b| (precedence(a), a).cmp(&(precedence(b), b)));
        &state.claims
    }

    /// Stores that the keys of `unit`, which were just claimed, are written and removed together.
    pub fn set_unit(&mut self, unit: &Arc<[Key]>) {
        for key in &**unit {
            if let Some(state) = self.states.get_mut(key) {
                state.change_rare(|rare| rare.unit = Some(unit.clone()));
            }
        }
    }

    // ---- under way ----

    /// Records that the transaction `ticket` writes `key`.
    pub fn begin(&mut self, key: &str, ticket: Ticket) {
        if let Some(state) = self.states.get_mut(key) {
            state.change_rare(|rare| rare.in_flight = Some(ticket));
        }
    }

    /// Records that the transaction that writes `key` has ended.
    pub fn end(&mut self, key: &str) {
        if let Some(state) = self.states.get_mut(key) {
            state.change_rare(|rare| rare.in_flight = None);
        }
    }

    /// Records that the outcome of a put of `key` on `lease` is unknown. Returns the lease on which the key needs no
    /// room any more.
    pub fn perhaps_put(&mut self, key: &str, lease: LeaseId) -> Option<LeaseId> {
        match self.states.get_mut(key) {
            Some(state) => state.set_perhaps_on(lease),
            None => Some(lease),
        }
    }

    // ---- observed ----

    /// Records what etcd holds under `key` at `revision`, unless a newer state is known.
    pub fn observe(
        &mut self,
        key: &Key,
        held: Option<KeyValue>,
        revision: Revision,
        leases: &mut LeasePool,
    ) -> Observed {
        let is_on_lease = held.as_ref().is_some_and(|held| held.lease != LeaseId::NONE);
        if !is_on_lease && !self.contains(key) {
            // An absent key gets no key state: otherwise every key that ever existed would leave an empty one. Neither does
            // a key without a lease: it is foreign, and a prefix may have any number of them. It gets one when a pod claims it.
            return Observed::Unchanged;
        }
        // The known text of the key is kept, so that it is stored once.
        let known = self.states.get_key_value(&**key).map(|(known, _)| known.clone());
        let key = known.as_ref().unwrap_or(key);
        let state = self.states.entry(key.clone()).or_default();
        if revision < state.seen {
            return Observed::Outdated;
        }
        state.seen = revision;
        let lease_of = |held: &Option<KeyValue>| held.as_ref().map_or(LeaseId::NONE, |held| held.lease);
        let (before, after) = (lease_of(&state.held), lease_of(&held));
        if before != after {
            leases.detach(before, key);
            leases.attach(after, key);
        }
        if let Some(lease) = state.set_perhaps_on(LeaseId::NONE) {
            leases.release(lease, 1);
        }
        match &held {
            Some(now) if leases.is_ours(now.lease) => state.born = now.create_revision,
            Some(_) => {}
            None => state.born = 0,
        }
        if state.held == held {
            return Observed::Unchanged;
        }
        state.held = held;
        Observed::Changed
    }

    /// Records that `key` is ours as it is: its lease is.
    pub fn confirm_ours(&mut self, key: &str) {
        if let Some(state) = self.states.get_mut(key) {
            state.born = state.held.as_ref().map_or(0, |held| held.create_revision);
        }
    }

    /// Records that `key` vanished together with its lease.
    pub fn expire(&mut self, key: &str) {
        if let Some(state) = self.states.get_mut(key) {
            state.held = None;
            state.born = 0;
        }
    }

    /// Drops all that was observed, because etcd's history was replaced. Unclaimed keys are dropped altogether, except
    /// those to `keep`.
    pub fn forget_observed(&mut self, keep: impl Fn(&Key) -> bool) {
        self.states.retain(|key, state| !state.is_unclaimed() || keep(key));
        for state in self.states.values_mut() {
            state.held = None;
            state.seen = 0;
            state.born = 0;
            state.set_perhaps_on(LeaseId::NONE);
        }
    }

    /// Drops the state of `key` if no pod claims the key, etcd does not hold it, and no put of it has an unknown
    /// outcome.
    pub fn drop_if_unused(&mut self, key: &str) {
        let is_unused = |state: &KeyState| state.is_unclaimed() && !state.may_exist();
        if self.get(key).is_some_and(is_unused) {
            self.states.remove(key);
        }
    }

    /// Drops the state of `key`, which is not watched any more, unless a pod claims it or a transaction writes it.
    /// Returns whether it was dropped.
    pub fn drop_unwatched(&mut self, key: &Key, leases: &mut LeasePool) -> bool {
        let is_unused = |state: &KeyState| state.is_unclaimed() && state.in_flight().is_none();
        if !self.get(key).is_some_and(is_unused) {
            return false;
        }
        let mut state = self.states.remove(key).unwrap_or_default();
        if let Some(held) = state.held.take() {
            leases.detach(held.lease, key);
        }
        if let Some(lease) = state.set_perhaps_on(LeaseId::NONE) {
            leases.release(lease, 1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every registered endpoint has at least one such state.
    #[test]
    fn key_of_one_record_is_small_and_has_no_rare_state_at_rest() {
        assert!(size_of::<KeyState>() <= 96, "{} bytes", size_of::<KeyState>());
        let (mut keys, mut leases) = (KeyTable::default(), LeasePool::new(1));
        let key = Key::from("/s/a");
        let claim = Claim {
            registration: RegistrationRef::new("shop", "orders"),
            pod: "a".into(),
        };
        keys.claim(&key, claim.clone(), false);
        keys.begin(&key, Ticket::FIRST);
        keys.perhaps_put(&key, LeaseId(1));
        keys.end(&key);
        let state = |keys: &KeyTable| {
            let state = keys.get(&key).expect("it is claimed");
            (state.may_appear(), state.rare.is_some())
        };
        assert_eq!(state(&keys), (true, true), "the outcome of the put is unknown");
        let held = KeyValue {
            value: Value::from(*b"1"),
            lease: LeaseId(1),
            create_revision: 2,
            mod_revision: 2,
        };
        keys.observe(&key, Some(held), 2, &mut leases);
        assert_eq!(state(&keys), (false, false));
        keys.unclaim(&key, &claim.registration, &claim.pod);
        let last = keys.get(&key).and_then(KeyState::last_claim);
        assert_eq!(last, Some(&claim));
    }
}
