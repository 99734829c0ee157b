//! What the guard holds and what it releases: single decisions, and random orders of events.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::hold::RECOVERY;
use super::*;
use crate::model::LeaseId;
use crate::model::RegistrationRef;
use crate::plan::meta::HoldRecord;

const SETTINGS: GuardSettings = GuardSettings {
    mode: GuardMode::Hold,
    window: Duration::from_mins(1),
    max_loss_percent: 50,
    min_endpoints: 10,
    hold: Duration::from_mins(5),
};

/// When the wall clock starts.
const UNIX: Duration = Duration::from_secs(1_800_000_001);

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A guard, the keys that etcd holds, and a clock.
struct Rig {
    guard: Guard,
    etcd: BTreeSet<Key>,
    began: Instant,
    now: Instant,
    approved: Option<String>,
    holds: usize,
    /// The number of keys that are about to be written.
    to_come: usize,
    /// Whether edits give the endpoints other keys.
    is_moved: bool,
    /// How many keys each namespace has, one after the other; without any, no namespace is known.
    namespaces: Vec<(&'static str, usize)>,
}

fn key(number: usize) -> Key {
    format!("/s/{number:02}").into()
}

impl Rig {
    fn new(keys: usize, settings: GuardSettings) -> Self {
        let mut guard = Guard::new();
        guard.set_settings(settings);
        guard.started();
        Self {
            guard,
            etcd: (0..keys).map(key).collect(),
            began: Instant::now(),
            now: Instant::now(),
            approved: None,
            holds: 0,
            to_come: 0,
            is_moved: false,
            namespaces: Vec::new(),
        }
    }

    /// Several namespaces with so many keys each, one after the other.
    fn of_namespaces(namespaces: &[(&'static str, usize)]) -> Self {
        let keys = namespaces.iter().map(|(_, keys)| keys).sum();
        Self {
            namespaces: namespaces.to_vec(),
            ..Self::new(keys, SETTINGS)
        }
    }

    fn namespace_of(&self, key: &Key) -> &'static str {
        let number: usize = key.rsplit('/').next().expect("a number").parse().expect("a number");
        let mut end = 0;
        let its = self.namespaces.iter().find(|(_, keys)| {
            end += keys;
            number < end
        });
        its.map_or("", |(name, _)| name)
    }

    fn work(&self, number: usize) -> Work {
        match self.namespace_of(&key(number)) {
            "" => Work::Key(key(number)),
            namespace => Work::Pod(
                RegistrationRef::new(namespace, "orders"),
                number.to_string().as_str().into(),
            ),
        }
    }

    fn mark_unconfirmed(&mut self, numbers: impl IntoIterator<Item = usize>) {
        self.mark(Cause::Pod, numbers);
    }

    fn mark(&mut self, cause: Cause, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            let removal = Removal::new(cause, self.work(number));
            self.guard.mark_unconfirmed(&key(number), removal);
        }
    }

    /// Lets the guard decide. Returns the released keys, which are still in etcd.
    fn decide(&mut self) -> (Option<GuardEvent>, Vec<Key>) {
        let id = format!("hold-{}", self.holds);
        let moment = Moment {
            now: self.now,
            unix: UNIX + self.now.duration_since(self.began),
        };
        // Taken out, because the closures read the rig.
        let mut guard = std::mem::replace(&mut self.guard, Guard::new());
        let (event, works) = self.with_known(|known| guard.decide(known, moment, self.approved.as_deref(), || id));
        self.guard = guard;
        self.holds += usize::from(matches!(event, Some(GuardEvent::Held | GuardEvent::Widened)));
        (event, works.into_keys().collect())
    }

    /// What is known when the guard decides. Each key is one endpoint.
    fn with_known<T>(&self, decide: impl FnOnce(&Known<'_>) -> T) -> T {
        let registered = || {
            let mut counts = HashMap::new();
            for key in &self.etcd {
                *counts.entry(self.namespace_of(key).into()).or_default() += 1;
            }
            counts
        };
        let is_registered = |work: &Work| match work {
            Work::Key(key) => self.etcd.contains(key),
            Work::Pod(_, pod) => self.etcd.contains(&key(pod.parse().expect("a number"))),
            Work::Changed(..) | Work::Edited(_) => false,
        };
        decide(&Known {
            is_registered: &is_registered,
            is_desired: &|_| self.is_moved,
            registered: &registered,
            to_come: &|| self.to_come,
        })
    }

    fn is_near_limit(&self) -> bool {
        self.guard.is_loss_near_limit(self.etcd.len() - self.guard.lost.len())
    }

    /// Lets the guard decide and removes the released keys from etcd. Returns their number.
    fn carry_out(&mut self) -> (Option<GuardEvent>, usize) {
        let (event, keys) = self.decide();
        for key in &keys {
            assert!(!self.guard.holds(key), "{key}");
            self.etcd.remove(key);
            self.guard.gone(key);
        }
        (event, keys.len())
    }

    fn record(&mut self, hold: Option<HoldRecord>) {
        let recorded = hold.map(|hold| Recorded {
            hold: Some(hold),
            lease: LeaseId(1),
            mod_revision: 1,
        });
        self.guard.observe_record(recorded, 1);
    }

    fn back(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            self.guard.back(&key(number));
            self.etcd.insert(key(number));
        }
    }
}

fn released(why: Release, keys: usize) -> GuardEvent {
    let id = "hold-0".to_owned();
    GuardEvent::Released { id, keys, why }
}

#[test]
fn all_at_once_are_held_as_a_whole() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 0));
    let hold = rig.guard.hold().expect("a hold");
    assert_eq!((hold.len(), hold.lost, hold.of), (20, 20, 20));
    assert!(rig.guard.holds("/s/07"));
}

#[test]
fn a_namespace_that_loses_most_holds_up_no_other() {
    let mut rig = Rig::of_namespaces(&[("shop", 12), ("bank", 8)]);
    // Two pods of the other namespace lose their readiness at the same time.
    rig.mark_unconfirmed((0..12).chain(12..14));
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 2));
    let hold = rig.guard.hold().expect("a hold");
    assert_eq!((hold.len(), hold.lost, hold.of), (12, 14, 20));
    assert_eq!(hold.namespace_count(), Some(1));
    rig.mark_unconfirmed(14..16);
    assert_eq!(rig.carry_out(), (None, 2), "it goes on like that");
    rig.back(0..1);
    rig.mark_unconfirmed(0..1);
    assert_eq!(rig.carry_out(), (None, 0), "the hold takes in what its namespace loses");
    rig.approved = Some("hold-0".to_owned());
    assert_eq!(rig.carry_out(), (Some(released(Release::Approved, 12)), 12));
}

#[test]
fn a_loss_of_all_namespaces_is_held_in_all_of_them() {
    let mut rig = Rig::of_namespaces(&[("shop", 12), ("bank", 8), ("news", 4)]);
    rig.mark_unconfirmed(0..24);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 0));
    assert_eq!(rig.guard.hold().map(Hold::len), Some(24));
}

#[test]
fn what_the_others_lose_while_one_namespace_is_held_counts_as_well() {
    let mut rig = Rig::of_namespaces(&[("shop", 11), ("bank", 29)]);
    rig.mark_unconfirmed((0..11).chain(11..21));
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 10));
    rig.mark_unconfirmed(21..25);
    assert_eq!(rig.carry_out(), (None, 4), "14 of 29 are lost");
    rig.mark_unconfirmed(25..26);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Widened), 0));
    let hold = rig.guard.hold().expect("a hold");
    assert_eq!((hold.len(), hold.namespace_count()), (12, Some(2)));
    assert_eq!((hold.id.as_str(), hold.lost, hold.of), ("hold-1", 26, 40));
    rig.approved = Some("hold-0".to_owned());
    assert_eq!(rig.carry_out(), (None, 0), "the former hold was another one");
}

#[test]
fn a_small_loss_of_others_in_many_namespaces_widens_a_hold_to_all() {
    let mut rig = Rig::of_namespaces(&[("shop", 12), ("a", 4), ("b", 4), ("c", 4)]);
    rig.mark_unconfirmed(0..12);
    rig.mark_unconfirmed([12]);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 1));
    rig.mark_unconfirmed([13, 16, 17, 20, 21]);
    assert_eq!(rig.carry_out(), (None, 5), "half of each, and a quarter of all");
    rig.mark_unconfirmed([14]);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Widened), 0));
    assert_eq!(rig.guard.hold().and_then(Hold::namespace_count), Some(2));
}

#[test]
fn new_leader_keeps_a_hold_without_knowing_earlier_releases() {
    let mut rig = Rig::of_namespaces(&[("shop", 11), ("bank", 29)]);
    rig.mark_unconfirmed((0..11).chain(11..21));
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 10));
    let record = rig.guard.hold().map(Hold::record);
    rig.guard = Guard::new();
    rig.guard.set_settings(SETTINGS);
    rig.guard.started();
    rig.record(record);
    for number in 0..11 {
        rig.guard
            .mark_unconfirmed(&key(number), Removal::new(Cause::Edit, Work::Key(key(number))));
    }
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Resumed), 0));
    assert_eq!(rig.carry_out(), (None, 0));
    rig.now += 2 * RECOVERY;
    assert_eq!(rig.carry_out(), (None, 0));
    rig.back(0..1);
    assert_eq!(rig.carry_out(), (None, 0), "20 of 40 are within the limit");
    rig.now += RECOVERY;
    assert_eq!(rig.carry_out(), (Some(released(Release::Resolved, 10)), 10));
}

#[test]
fn new_leader_resumes_a_namespace_hold_without_knowing_key_owners() {
    let mut rig = Rig::of_namespaces(&[("shop", 12), ("bank", 8)]);
    rig.mark_unconfirmed(0..12);
    rig.carry_out();
    let record = rig.guard.hold().map(Hold::record);
    rig.guard = Guard::new();
    rig.guard.set_settings(SETTINGS);
    rig.guard.started();
    rig.record(record);
    for number in 0..9 {
        rig.guard
            .mark_unconfirmed(&key(number), Removal::new(Cause::Edit, Work::Key(key(number))));
    }
    rig.mark_unconfirmed(12..14);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Resumed), 0));
    assert_eq!(rig.carry_out(), (None, 2), "those of the other namespace go");
    let hold = rig.guard.hold().expect("a hold");
    assert_eq!((hold.len(), hold.namespace_count()), (9, Some(1)));
}

#[test]
fn keys_that_replace_the_lost_ones_count_before_they_are_written() {
    for (to_come, outcome) in [(20, (None, 20)), (19, (Some(GuardEvent::Held), 0))] {
        let mut rig = Rig::new(20, SETTINGS);
        rig.to_come = to_come;
        rig.mark_unconfirmed(0..20);
        assert_eq!(rig.carry_out(), outcome, "{to_come} to come");
    }
}

#[test]
fn keys_are_known_by_their_pods_until_etcd_has_lost_them() {
    let mut rig = Rig::new(2, SETTINGS);
    let pod = |name: &str| -> Arc<str> { name.into() };
    let registration = RegistrationRef::new("shop", "orders");
    for (number, name) in [(0, "a"), (1, "b")] {
        let work = Work::Pod(registration.clone(), pod(name));
        rig.guard.mark_unconfirmed(&key(number), Removal::new(Cause::Pod, work));
    }
    let keys = |rig: &Rig, name: &str| rig.guard.keys_of_pod(&pod("shop"), &pod(name));
    assert_eq!((keys(&rig, "a"), keys(&rig, "b")), (vec![key(0)], vec![key(1)]));
    assert!(rig.guard.keys_of_pod(&pod("other"), &pod("a")).is_empty());
    rig.guard.clear_unconfirmed(&key(0));
    assert!(keys(&rig, "a").is_empty());
    rig.guard.stand_by();
    rig.guard.mark_released_unconfirmed();
    assert_eq!(keys(&rig, "b"), [key(1)]);
    rig.guard.gone(&key(1));
    assert!(rig.guard.by_pod.is_empty());
}

#[test]
fn one_after_the_other_they_go_up_to_the_limit_and_no_further() {
    let mut rig = Rig::new(20, SETTINGS);
    let mut gone = 0;
    for number in 0..20 {
        rig.mark_unconfirmed([number]);
        gone += rig.carry_out().1;
    }
    assert_eq!(gone, 10);
    assert_eq!(rig.guard.hold().map(Hold::len), Some(10));
}

#[test]
fn what_is_let_go_and_still_in_etcd_is_not_counted_twice() {
    let mut rig = Rig::new(20, SETTINGS);
    let mut gone = 0;
    for number in 0..20 {
        rig.mark_unconfirmed([number]);
        gone += rig.decide().1.len();
    }
    assert_eq!(gone, 10);
}

#[test]
fn a_small_loss_is_let_go_whatever_its_share() {
    let mut rig = Rig::new(9, SETTINGS);
    rig.mark_unconfirmed(0..9);
    assert_eq!(rig.carry_out(), (None, 9));
}

#[test]
fn half_of_the_keys_is_not_more_than_half() {
    let mut rig = Rig::new(40, SETTINGS);
    rig.mark_unconfirmed(0..20);
    assert_eq!(rig.carry_out(), (None, 20));
}

#[test]
fn a_slow_loss_is_no_burst() {
    let mut rig = Rig::new(20, SETTINGS);
    for number in 0..20 {
        rig.mark_unconfirmed([number]);
        assert_eq!(rig.carry_out(), (None, 1));
        rig.now += second(10);
    }
}

#[test]
fn a_hold_ends_when_its_time_has_passed_and_not_before() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    rig.carry_out();
    rig.now += second(299);
    assert_eq!(rig.carry_out(), (None, 0));
    rig.now += second(1);
    assert_eq!(rig.carry_out(), (Some(released(Release::Expired, 20)), 20));
    assert_eq!(rig.guard.hold(), None);
}

#[test]
fn a_hold_ends_at_once_for_its_own_id_and_for_no_other() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    rig.carry_out();
    rig.approved = Some("hold-1".to_owned());
    assert_eq!(rig.carry_out(), (None, 0));
    rig.approved = Some("hold-0".to_owned());
    assert_eq!(rig.carry_out(), (Some(released(Release::Approved, 20)), 20));
    // An approval is valid once: the next hold has another id.
    rig.back(0..20);
    rig.mark_unconfirmed(0..20);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 0));
}

#[test]
fn when_enough_pods_are_back_the_rest_goes() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    rig.carry_out();
    rig.back(0..9);
    assert_eq!(rig.carry_out(), (None, 0), "11 of 20 are still more than half");
    rig.back(9..10);
    assert_eq!(rig.carry_out(), (None, 0), "others may be about to come back");
    assert_eq!(rig.guard.hold().map(Hold::wake_at), Some(rig.now + RECOVERY));
    rig.now += RECOVERY;
    assert_eq!(rig.carry_out(), (Some(released(Release::Resolved, 10)), 10));
}

#[test]
fn when_all_pods_are_back_the_hold_ends_at_once() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    rig.carry_out();
    rig.back(0..20);
    assert_eq!(rig.carry_out(), (Some(released(Release::Resolved, 0)), 0));
}

#[test]
fn pods_that_return_and_leave_again_restart_the_recovery() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    rig.carry_out();
    rig.back(0..10);
    rig.carry_out();
    rig.mark_unconfirmed([0]);
    rig.carry_out();
    rig.now += RECOVERY;
    assert_eq!(rig.carry_out(), (None, 0));
}

#[test]
fn what_had_gone_before_a_hold_began_still_counts_when_the_window_is_over() {
    let mut rig = Rig::new(18, SETTINGS);
    for number in 0..18 {
        rig.mark_unconfirmed([number]);
        rig.carry_out();
    }
    assert_eq!(rig.guard.hold().map(Hold::len), Some(9));
    rig.now += second(200);
    assert_eq!(rig.carry_out(), (None, 0));
}

#[test]
fn a_fact_goes_from_a_hold_at_once() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    rig.carry_out();
    assert!(rig.guard.clear_unconfirmed(&key(3)), "it was detained");
    assert!(!rig.guard.holds("/s/03"));
    assert!(rig.guard.holds("/s/04"));
}

#[test]
fn a_guard_that_only_warns_says_so_once_and_lets_go() {
    let settings = GuardSettings {
        mode: GuardMode::Warn,
        ..SETTINGS
    };
    let mut rig = Rig::new(20, settings);
    rig.mark_unconfirmed(0..20);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Warned { lost: 20, of: 20 }), 20));
}

#[test]
fn a_guard_that_is_turned_off_lets_go_of_what_it_held() {
    let mut rig = Rig::new(20, SETTINGS);
    rig.mark_unconfirmed(0..20);
    rig.carry_out();
    rig.guard.set_settings(GuardSettings::OFF);
    assert_eq!(rig.carry_out(), (Some(released(Release::Unguarded, 20)), 20));
}

#[test]
fn new_leader_marks_released_but_not_removed_keys_unconfirmed_again() {
    let mut rig = Rig::new(20, SETTINGS);
    for number in 0..20 {
        rig.mark_unconfirmed([number]);
        // A standby replica removes nothing: the keys it releases stay in etcd.
        rig.decide();
    }
    rig.guard.mark_released_unconfirmed();
    rig.carry_out();
    assert_eq!(
        rig.guard.hold().map(Hold::len),
        Some(20),
        "its predecessor held them all"
    );
}

#[test]
fn until_it_has_judged_what_a_predecessor_left_nothing_but_facts_goes() {
    let mut guard = Guard::new();
    guard.set_settings(SETTINGS);
    assert!(guard.holds("/s/00"));
    guard.clear_unconfirmed(&key(0));
    assert!(!guard.holds("/s/00"));
    assert!(guard.holds("/s/01"));
    guard.started();
    assert!(!guard.holds("/s/01"));
}

#[derive(Clone, Debug)]
enum Event {
    Unconfirmed(BTreeSet<usize>),
    Back(BTreeSet<usize>),
    Fact(usize),
    Passes(u64),
    Takeover,
}

const KEYS: usize = 24;

fn any_event() -> impl Strategy<Value = Event> {
    let some = |most| proptest::collection::btree_set(0..KEYS, 1..most);
    prop_oneof![
        8 => some(6).prop_map(Event::Unconfirmed),
        1 => some(KEYS).prop_map(Event::Unconfirmed),
        3 => some(6).prop_map(Event::Back),
        1 => (0..KEYS).prop_map(Event::Fact),
        3 => (1..50u64).prop_map(Event::Passes),
        1 => Just(Event::Takeover),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn confirmed_removals_pass_and_excess_unconfirmed_wait_for_hold_end(events in vec(any_event(), 1..80)) {
        let mut rig = Rig::new(KEYS, SETTINGS);
        // When keys were released on an unconfirmed removal, without those that are back.
        let mut went: BTreeMap<Key, Instant> = BTreeMap::new();
        let mut hold_began = None;
        for event in events {
            match event {
                Event::Unconfirmed(numbers) => {
                    let numbers: Vec<_> = numbers.into_iter().filter(|number| rig.etcd.contains(&key(*number))).collect();
                    rig.mark_unconfirmed(numbers);
                }
                Event::Back(numbers) => {
                    went.retain(|gone, _| !numbers.iter().any(|number| key(*number) == *gone));
                    rig.back(numbers);
                }
                Event::Fact(number) => {
                    rig.guard.clear_unconfirmed(&key(number));
                    prop_assert!(!rig.guard.holds(&key(number)), "a fact is held");
                    rig.etcd.remove(&key(number));
                    rig.guard.gone(&key(number));
                    went.remove(&key(number));
                }
                Event::Passes(seconds) => rig.now += second(seconds),
                Event::Takeover => {
                    rig.guard.stand_by();
                    rig.guard.mark_released_unconfirmed();
                }
            }
            went.retain(|_, at| hold_began.is_some() || *at + SETTINGS.window > rig.now);
            let before = rig.etcd.clone();
            let (event, count) = rig.carry_out();
            match event {
                Some(GuardEvent::Held) => {
                    prop_assert_eq!(count, 0);
                    let hold = rig.guard.hold().expect("it began");
                    let lost: BTreeSet<&Key> = went.keys().chain(hold.keys()).collect();
                    let of: BTreeSet<&Key> = went.keys().chain(&rig.etcd).collect();
                    prop_assert_eq!((hold.lost, hold.of), (lost.len(), of.len()), "each counts once");
                    let record = hold.record();
                    rig.record(Some(record));
                    hold_began = Some(rig.now);
                }
                Some(GuardEvent::Released { why, .. }) => {
                    let began = hold_began.take().expect("it began");
                    rig.record(None);
                    prop_assert!(why == Release::Resolved || rig.now >= began + SETTINGS.hold, "{why:?}");
                    if why == Release::Expired {
                        went.clear();
                        continue;
                    }
                }
                _ => prop_assert!(hold_began.is_none() || count == 0, "{count} go from a hold that goes on"),
            }
            for key in before.difference(&rig.etcd) {
                went.insert(key.clone(), rig.now);
            }
            went.retain(|_, at| hold_began.is_some() || *at + SETTINGS.window > rig.now);
            let of = rig.etcd.len() + went.keys().filter(|key| !rig.etcd.contains(*key)).count();
            // A confirmed removal reduces the keys that are left, so that the earlier loss may become a larger share.
            // No key may be released on top of that.
            if count > 0 && event.is_none() {
                let lost = went.len();
                prop_assert!(lost < SETTINGS.min_endpoints || lost * 100 <= of * SETTINGS.max_loss_percent, "{lost} of {of}");
            }
        }
    }
}

#[test]
fn loss_above_half_the_limit_is_near_it_until_a_hold_begins() {
    let mut rig = Rig::new(40, SETTINGS);
    rig.mark_unconfirmed(0..10);
    assert!(!rig.is_near_limit());
    rig.mark_unconfirmed(10..11);
    assert!(rig.is_near_limit());
    rig.mark_unconfirmed(11..40);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 0));
    assert!(!rig.is_near_limit());
    assert!(!Rig::new(40, GuardSettings::OFF).is_near_limit());
}

#[test]
fn hold_of_edits_keeps_no_key_of_a_pod_that_is_not_ready() {
    let mut rig = Rig::new(40, SETTINGS);
    rig.mark(Cause::Edit, 0..30);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 0));
    assert!(rig.guard.hold().is_some_and(Hold::is_of_edits));
    rig.mark(Cause::Pod, [35]);
    assert_eq!(rig.carry_out(), (None, 1), "a pod that the edit does not concern");
    rig.mark(Cause::Pod, [3]);
    assert_eq!(rig.carry_out(), (None, 1), "a pod whose key the hold keeps");
    rig.mark(Cause::Edit, [36]);
    assert_eq!(rig.carry_out(), (None, 0));
    assert_eq!(
        rig.guard.hold().map(Hold::len),
        Some(30),
        "29 of the 30, and the later edit"
    );
}

#[test]
fn hold_of_edits_takes_in_pods_that_are_not_ready_when_these_are_too_many() {
    let mut rig = Rig::of_namespaces(&[("shop", 40)]);
    rig.mark(Cause::Edit, 0..30);
    rig.carry_out();
    rig.mark(Cause::Pod, 10..35);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Widened), 0));
    let hold = rig.guard.hold().expect("a hold");
    assert_eq!(
        (hold.id.as_str(), hold.len(), hold.is_of_edits()),
        ("hold-1", 35, false)
    );
    rig.mark(Cause::Pod, [38]);
    assert_eq!(rig.carry_out(), (None, 0), "it takes in every removal now");
}

#[test]
fn unready_pods_are_released_while_an_edit_is_held() {
    let mut rig = Rig::new(40, SETTINGS);
    rig.mark(Cause::Pod, 0..5);
    rig.mark(Cause::Edit, 10..40);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 5));
    let hold = rig.guard.hold().expect("a hold");
    assert_eq!((hold.len(), hold.lost, hold.of, hold.released), (30, 35, 40, 5));
}

#[test]
fn successor_goes_on_with_a_hold_of_edits() {
    let mut rig = Rig::new(40, SETTINGS);
    rig.mark(Cause::Edit, 0..30);
    rig.carry_out();
    let record = rig.guard.hold().map(Hold::record);
    assert!(record.as_ref().is_some_and(|record| record.edits));
    rig.guard = Guard::new();
    rig.guard.set_settings(SETTINGS);
    rig.guard.started();
    rig.record(record);
    rig.mark(Cause::Edit, 0..30);
    rig.mark(Cause::Pod, [35]);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Resumed), 0));
    assert_eq!(rig.carry_out(), (None, 1));
    assert!(rig.guard.hold().is_some_and(Hold::is_of_edits));
}

#[test]
fn edit_within_the_limit_does_not_hold_later_unready_pods() {
    let mut rig = Rig::of_namespaces(&[("shop", 48), ("bank", 52)]);
    rig.is_moved = true;
    rig.mark(Cause::Edit, 0..48);
    assert_eq!(rig.carry_out(), (None, 48));
    rig.mark(Cause::Pod, 50..54);
    assert_eq!(rig.carry_out(), (None, 4));
    // A further edit counts together with both.
    rig.mark(Cause::Edit, 60..64);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 0));

    // An edit that takes the last keys counts like pods that are not ready.
    let mut rig = Rig::of_namespaces(&[("shop", 48), ("bank", 52)]);
    rig.mark(Cause::Edit, 0..48);
    assert_eq!(rig.carry_out(), (None, 48));
    rig.mark(Cause::Pod, 50..54);
    assert_eq!(rig.carry_out(), (Some(GuardEvent::Held), 0));
}
