//! Property tests: after any events in any order, etcd holds what it should.

use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{desired, whole};
use super::world::World;
use super::{DesiredPod, RegistrationSettings};
use crate::model::Prefix;

pub(super) const REGISTRATIONS: [&str; 3] = ["a", "b", "c"];
pub(super) const PODS: [&str; 4] = ["p0", "p1", "p2", "p3"];
/// Some overlap: registrations share a prefix, or one's prefix lies in another's.
pub(super) const PREFIXES: [&str; 4] = ["/s/", "/s/x/", "/t/", "/tt/"];
/// Keys that foreign clients write, too.
pub(super) const KEYS: [&str; 6] = ["/s/p0", "/s/p1", "/s/x/p0", "/t/p1", "/tt/p0", "/s/elsewhere"];

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A pod is ready at an address, or is gone.
    Pod(usize, Option<u8>),
    /// A pod is no longer ready, an unconfirmed removal.
    Unconfirm(usize),
    Register(usize, Wish),
    Unregister(usize),
    ForeignPut(usize),
    Delete(usize),
    DeleteRecord(usize),
    LeaseLapses(usize),
    /// Asks the planner for its next step.
    Step,
    /// A transaction reaches etcd.
    Commit(usize),
    /// The answer to a transaction arrives or is lost. If the transaction has not reached etcd yet, it never will.
    Settle(usize, bool),
    GrantArrives(bool),
    Deliver(usize),
    Interrupt,
    Resume,
    NewLeader,
    Restart,
    KubernetesComplete,
    Retire,
    Save,
    Restore,
    /// etcd denies writing below a prefix, or allows it again.
    Deny(usize),
    Allow(usize),
    /// etcd rejects records below a prefix for their content, or accepts them again.
    Reject(usize),
    Accept(usize),
    /// The namespace may have so many keys, or any number.
    Quota(Option<usize>),
}

/// The spec of a registration.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub(super) struct Wish {
    pub prefixes: Vec<usize>,
    pub created: i64,
    pub long_ttl: bool,
    pub suspended: bool,
    pub keep_last: bool,
    /// The keys of a pod are written as one unit.
    pub whole: bool,
}

impl Wish {
    pub(super) fn settings(&self) -> RegistrationSettings {
        RegistrationSettings {
            created: self.created,
            ttl: if self.long_ttl { 60 } else { 30 },
            suspended: self.suspended,
            keep_last: self.keep_last,
            prefixes: self
                .prefixes
                .iter()
                .map(|prefix| Prefix::below(PREFIXES[*prefix]))
                .collect(),
        }
    }

    pub(super) fn desired(&self, pod: &str, address: u8) -> DesiredPod {
        let keys: Vec<String> = self
            .prefixes
            .iter()
            .map(|prefix| format!("{}{pod}", PREFIXES[*prefix]))
            .collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let make = if self.whole { whole } else { desired };
        make(pod, &keys, &format!("10.0.0.{address}"))
    }
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let prefixes = proptest::sample::subsequence((0..PREFIXES.len()).collect::<Vec<_>>(), 1..=2);
    let (suspended, keep_last) = (proptest::bool::weighted(0.15), proptest::bool::weighted(0.2));
    (prefixes, 0..3i64, any::<bool>(), suspended, keep_last, any::<bool>()).prop_map(
        |(prefixes, created, long_ttl, suspended, keep_last, whole)| Wish {
            prefixes,
            created,
            long_ttl,
            suspended,
            keep_last,
            whole,
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    let any_index = 0..8usize;
    prop_oneof![
        6 => (0..PODS.len(), proptest::option::weighted(0.7, 0..2u8)).prop_map(|(pod, at)| Event::Pod(pod, at)),
        4 => (0..PODS.len()).prop_map(Event::Unconfirm),
        4 => (0..REGISTRATIONS.len(), any_wish()).prop_map(|(name, wish)| Event::Register(name, wish)),
        1 => (0..REGISTRATIONS.len()).prop_map(Event::Unregister),
        1 => (0..KEYS.len()).prop_map(Event::ForeignPut),
        1 => (0..KEYS.len()).prop_map(Event::Delete),
        1 => any_index.clone().prop_map(Event::DeleteRecord),
        1 => any_index.clone().prop_map(Event::LeaseLapses),
        8 => Just(Event::Step),
        8 => any_index.clone().prop_map(Event::Commit),
        6 => (any_index.clone(), proptest::bool::weighted(0.2)).prop_map(|(which, lost)| Event::Settle(which, lost)),
        4 => proptest::bool::weighted(0.9).prop_map(Event::GrantArrives),
        8 => any_index.prop_map(Event::Deliver),
        1 => Just(Event::Interrupt),
        1 => Just(Event::Resume),
        1 => Just(Event::NewLeader),
        1 => Just(Event::Restart),
        3 => Just(Event::KubernetesComplete),
        1 => Just(Event::Retire),
        1 => Just(Event::Save),
        1 => Just(Event::Restore),
        2 => (0..PREFIXES.len()).prop_map(Event::Deny),
        2 => (0..PREFIXES.len()).prop_map(Event::Allow),
        2 => (0..PREFIXES.len()).prop_map(Event::Reject),
        2 => (0..PREFIXES.len()).prop_map(Event::Accept),
        1 => proptest::option::weighted(0.8, 0..6usize).prop_map(Event::Quota),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_etcd_ends_up_with_what_it_should_hold(events in vec(any_event(), 1..120)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.come_to_rest();
        world.check();

        let revision = world.etcd.revision();
        world.come_to_rest();
        prop_assert_eq!(world.etcd.revision(), revision, "a second plan changes something");

        // Which of several registrations with the same prefix has left the last key there is not known after a restart.
        if world.keeps_last() {
            return Ok(());
        }
        // Which pods are over the quota depends on what others have, such as a foreign client at that time.
        if world.is_any_over_quota() {
            return Ok(());
        }
        // Neither are the prefixes that a frozen registration had before it was edited. Its keys there are removed.
        if world.has_edited_frozen() {
            return Ok(());
        }
        world.restart();
        let elected = world.etcd.revision();
        world.come_to_rest();
        prop_assert_eq!(world.etcd.revision(), elected, "a restart changes something");
    }
}
