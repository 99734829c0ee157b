//! Which lease takes a key, and which lease is dropped.

use super::*;
use crate::model::Prefix;
use crate::plan::LeaseGroup;

const A: LeaseId = LeaseId(0xa);
const B: LeaseId = LeaseId(0xb);

/// A pool with `A` and `B` recorded, of 30 seconds and two keys each.
fn pool() -> LeasePool {
    let mut leases = LeasePool::new(2);
    for lease in [A, B] {
        leases.granted(lease, 30);
        leases.recorded(lease, Some(30), 5);
    }
    leases
}

fn reserve(
    leases: &mut LeasePool,
    (ttl, group): (u32, &LeaseGroup),
    keys: usize,
    prefer: Option<LeaseId>,
) -> Option<LeaseId> {
    let needed = [needed(group, keys, prefer)];
    leases.reserve(ttl, &needed).ok()?.pop()
}

fn needed(group: &LeaseGroup, keys: usize, prefer: Option<LeaseId>) -> NeededRoom {
    NeededRoom {
        group: group.clone(),
        keys,
        prefer,
    }
}

fn place(leases: &mut LeasePool, key: &str) -> Option<LeaseId> {
    let lease = reserve(leases, (30, &LeaseGroup::Everything), 1, None)?;
    leases.release(lease, 1);
    leases.attach(lease, &key.into());
    Some(lease)
}

#[test]
fn a_fresh_lease_takes_no_key_before_it_is_recorded() {
    let mut leases = LeasePool::new(2);
    leases.granted(A, 30);
    assert_eq!(
        (
            leases.fresh_of(30),
            reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None)
        ),
        (1, None)
    );
    assert_eq!(leases.unrecorded(10), [(A, 30, Expect::Absent)]);
    leases.recorded(A, Some(30), 5);
    assert_eq!(
        (
            leases.fresh_of(30),
            reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None)
        ),
        (0, Some(A))
    );
}

#[test]
fn leases_take_keys_up_to_their_capacity_and_holes_are_filled_first() {
    let mut leases = pool();
    let placed = ["1", "2", "3", "4", "5"].map(|key| place(&mut leases, key));
    assert_eq!(placed, [Some(A), Some(A), Some(B), Some(B), None]);
    leases.detach(A, &"1".into());
    assert_eq!(place(&mut leases, "5"), Some(A));
    assert_eq!(leases.key_count(), 4);
}

#[test]
fn reserved_room_is_taken_until_it_is_released() {
    let mut leases = pool();
    assert_eq!(reserve(&mut leases, (30, &LeaseGroup::Everything), 2, None), Some(A));
    assert_eq!(reserve(&mut leases, (30, &LeaseGroup::Everything), 2, None), Some(B));
    assert_eq!(reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None), None);
    leases.release(A, 2);
    assert_eq!(reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None), Some(A));
}

#[test]
fn keys_that_belong_together_go_where_their_siblings_are_if_there_is_room() {
    let mut leases = pool();
    assert_eq!(reserve(&mut leases, (30, &LeaseGroup::Everything), 1, Some(B)), Some(B));
    assert_eq!(
        reserve(&mut leases, (30, &LeaseGroup::Everything), 2, Some(B)),
        Some(A),
        "only one fits beside its sibling"
    );
    assert_eq!(
        reserve(&mut leases, (60, &LeaseGroup::Everything), 1, Some(B)),
        None,
        "it lives another time"
    );
}

#[test]
fn a_greater_capacity_makes_room_and_a_smaller_one_moves_nothing() {
    let mut leases = pool();
    for key in ["1", "2", "3", "4"] {
        place(&mut leases, key);
    }
    leases.set_capacity(3);
    assert_eq!(place(&mut leases, "5"), Some(A));
    leases.set_capacity(1);
    assert_eq!(reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None), None);
    assert_eq!(leases.known[&A].keys.len(), 3);
    assert_eq!(leases.fit(A, 30), Fit::Stays);
}

#[test]
fn a_capacity_of_nothing_is_taken_as_one_key_a_lease() {
    assert_eq!(LeasePool::new(0).capacity(), 1);
}

#[test]
fn lease_is_retired_after_ten_minutes_without_keys() {
    let mut leases = LeasePool::new(2);
    leases.granted(A, 30);
    leases.recorded(A, Some(30), 5);
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(leases.retirable(start), []);
    assert_eq!(leases.retirable(after(599)), []);
    let key: Key = "1".into();
    leases.attach(A, &key);
    assert_eq!(leases.retirable(after(600)), [], "it has a key");
    leases.detach(A, &key);
    assert_eq!(leases.retirable(after(601)), []);
    assert_eq!(leases.retirable(after(1201)), [(A, 5)]);
    leases.retire(A);
    assert_eq!(
        reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None),
        None,
        "no key goes on it any more"
    );
    leases.record_missing(A, 9);
    assert_eq!(leases.len(), 0);
}

#[test]
fn a_lease_on_which_a_key_is_being_written_is_not_let_go() {
    let mut leases = LeasePool::new(2);
    leases.granted(A, 30);
    leases.recorded(A, Some(30), 5);
    reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None);
    let start = Instant::now();
    assert_eq!(leases.retirable(start), []);
    assert_eq!(leases.retirable(start + Duration::from_hours(1)), []);
}

#[test]
fn keys_seen_before_the_record_of_their_lease_are_ours_by_it() {
    let mut leases = LeasePool::new(2);
    leases.attach(A, &"1".into());
    assert!(!leases.is_ours(A));
    assert_eq!(leases.key_count(), 0);
    assert_eq!(leases.recorded(A, Some(30), 5), [Key::from("1")]);
    assert_eq!((leases.is_ours(A), leases.key_count()), (true, 1));
}

#[test]
fn removed_foreign_key_is_not_owned_after_its_lease_is_recorded() {
    let mut leases = LeasePool::new(2);
    leases.attach(A, &"1".into());
    leases.detach(A, &"1".into());
    assert_eq!(leases.recorded(A, Some(30), 5), Vec::<Key>::new());
}

#[test]
fn lease_with_lost_record_is_unconfirmed_with_keys_else_forgotten() {
    let mut leases = pool();
    place(&mut leases, "1");
    leases.record_missing(A, 9);
    leases.record_missing(B, 9);
    assert_eq!(leases.ids().collect::<Vec<_>>(), [A]);
    assert_eq!(
        (
            leases.fit(A, 30),
            reserve(&mut leases, (30, &LeaseGroup::Everything), 1, None)
        ),
        (Fit::Unconfirmed, None)
    );
    assert_eq!(leases.unrecorded(10), [(A, 30, Expect::Absent)]);
    assert_eq!(
        leases.recorded(A, Some(30), 10),
        [Key::from("1")],
        "its keys waited for this"
    );
    assert_eq!(leases.fit(A, 30), Fit::Stays);
}

#[test]
fn outdated_record_event_changes_nothing() {
    let mut leases = pool();
    place(&mut leases, "1");
    leases.record_missing(A, 4);
    leases.record_spoilt(A, 4);
    assert_eq!(leases.fit(A, 30), Fit::Stays);
    leases.record_missing(A, 9);
    leases.recorded(A, Some(30), 5);
    assert_eq!(leases.fit(A, 30), Fit::Unconfirmed);
}

#[test]
fn unconfirmed_lease_is_confirmed_alone_before_new_ones_are_recorded() {
    let mut leases = pool();
    place(&mut leases, "1");
    leases.granted(LeaseId(0xc), 30);
    leases.record_spoilt(A, 9);
    assert_eq!(leases.unrecorded(10), [(A, 30, Expect::At(9))]);
    leases.recorded(A, Some(30), 10);
    assert_eq!(leases.unrecorded(10), [(LeaseId(0xc), 30, Expect::Absent)]);
}

#[test]
fn renewals_are_reported_only_when_they_change() {
    let mut leases = pool();
    assert_eq!(leases.take_changed_renewals(), Some(BTreeMap::from([(A, 30), (B, 30)])));
    place(&mut leases, "1");
    assert_eq!(leases.take_changed_renewals(), None);
    assert_eq!(leases.gone(A), [Key::from("1")]);
    assert_eq!(leases.take_changed_renewals(), Some(BTreeMap::from([(B, 30)])));
    leases.clear(std::iter::empty());
    assert_eq!(leases.take_changed_renewals(), Some(BTreeMap::new()));
}

#[test]
fn keys_are_counted_on_our_leases_only_and_each_once() {
    let mut leases = pool();
    let c = LeaseId(0xc);
    for (lease, key) in [(A, "1"), (A, "1"), (A, "2"), (B, "3"), (c, "4"), (c, "5")] {
        leases.attach(lease, &key.into());
    }
    assert_eq!(leases.key_count(), 3, "whose C is, is not known yet");
    leases.recorded(c, Some(30), 6);
    leases.recorded(c, Some(30), 7);
    assert_eq!(leases.key_count(), 5);
    leases.detach(c, &"4".into());
    leases.detach(c, &"4".into());
    assert_eq!(leases.key_count(), 4);
    leases.gone(A);
    assert_eq!(leases.key_count(), 2);
    leases.clear(std::iter::empty());
    assert_eq!(leases.key_count(), 0);
}

#[test]
fn a_lease_that_is_gone_is_asked_for_no_record() {
    let mut leases = pool();
    leases.granted(LeaseId(0xc), 30);
    leases.attach(A, &"1".into());
    leases.mark_unconfirmed(A);
    leases.gone(A);
    assert_eq!(leases.unrecorded(10), [(LeaseId(0xc), 30, Expect::Absent)]);
    leases.clear(std::iter::empty());
    assert_eq!((leases.fresh_of(30), leases.unrecorded(10).len()), (0, 0));
}

#[test]
fn lease_of_a_write_in_flight_over_a_restore_takes_no_other_lease_group() {
    let mut groups = LeaseGroups::default();
    for folder in ["/s/", "/t/"] {
        groups.add(Prefix::below(folder));
    }
    let group = |key: &str| groups.of(key).expect("the group is known");
    let mut leases = LeasePool::new(2);
    leases.set_groups(groups.clone());
    leases.granted(A, 30);
    leases.recorded(A, Some(30), 5);
    assert_eq!(reserve(&mut leases, (30, &group("/s/a")), 1, None), Some(A));
    leases.clear([("/s/a".into(), A)].into_iter());
    leases.recorded(A, Some(30), 3);
    assert_eq!(reserve(&mut leases, (30, &group("/t/a")), 1, None), None);
    assert_eq!(reserve(&mut leases, (30, &group("/s/b")), 1, None), Some(A));
    leases.release(A, 2);
    assert_eq!(reserve(&mut leases, (30, &group("/t/a")), 1, None), Some(A));
    // A write that ended before its lease was recorded again leaves nothing behind.
    leases.clear([("/t/a".into(), A)].into_iter());
    leases.release(A, 1);
    leases.recorded(A, Some(30), 3);
    assert_eq!(reserve(&mut leases, (30, &group("/s/a")), 2, None), Some(A));
}

#[test]
fn room_is_reserved_for_all_groups_or_for_none() {
    let groups = ["/s/", "/t/"].map(|folder| LeaseGroup::Below(Prefix::below(folder)));
    let both = groups.each_ref().map(|group| needed(group, 1, None));
    let mut leases = LeasePool::new(2);
    leases.granted(A, 30);
    leases.recorded(A, Some(30), 5);
    leases.take_offered();
    let lacking = leases.reserve(30, &both).map_err(|lacking| &lacking.group);
    assert_eq!(lacking, Err(&groups[1]), "one lease cannot take both");
    assert_eq!(
        (leases.room(A), leases.take_offered()),
        (2, vec![]),
        "nothing was changed"
    );
    leases.granted(B, 30);
    leases.recorded(B, Some(30), 6);
    assert_eq!(leases.reserve(30, &both).ok(), Some(vec![A, B]));
}
