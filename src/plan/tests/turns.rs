//! Fairness: namespaces with much work, and those with little beside them.

use super::*;
use crate::model::RegistrationRef;

/// More keys than two transactions carry.
const MANY: usize = 300;

/// A rig with a namespace `flood` that has many keys, and the namespace of `orders` that has one.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.planner.set_settings(&flood(), settings(1));
    rig.want("orders", "p", &["/s/p"], "1");
    rig.flood("1");
    rig.run();
    rig
}

fn flood() -> RegistrationRef {
    RegistrationRef::new("flood", "orders")
}

impl Rig {
    fn flood(&mut self, value: &str) {
        for i in 0..MANY {
            let pod = format!("f{i}");
            let desired = desired(&pod, &[&format!("/s/{pod}")], value);
            self.planner.set_desired(&flood(), &pod.as_str().into(), Some(desired));
        }
    }

    /// The keys of the next transaction for namespaces with little work.
    fn next_small(&mut self) -> Option<(super::super::Ticket, Vec<String>)> {
        match self.planner.next_small(&(), 32)? {
            Step::Continue => None,
            Step::Write(ticket, transaction) => {
                Some((ticket, keys(&transaction).iter().map(ToString::to_string).collect()))
            }
        }
    }
}

#[test]
fn small_request_gets_a_transaction_of_its_own() {
    let mut rig = rig();
    rig.flood("2");
    rig.want("orders", "p", &["/s/p"], "2");
    let (_, first) = rig.next().expect("there is much to do");
    assert_eq!(keys(&first), ["/s/p"]);
    let (_, second) = rig.next().expect("there is much to do");
    assert_eq!(second.ops.len(), Transaction::MAX_OPS);
}

#[test]
fn small_request_without_writes_in_flight_is_admitted_beyond_limit() {
    let mut rig = rig();
    rig.flood("2");
    rig.next().expect("there is much to do");
    assert_eq!(rig.next_small(), None, "the flood has enough");
    rig.want("orders", "p", &["/s/p"], "2");
    let (ticket, small) = rig.next_small().expect("there is room");
    assert_eq!(small, ["/s/p"]);
    rig.want("orders", "q", &["/s/q"], "1");
    assert_eq!(rig.next_small(), None, "it has something under way");
    rig.planner.complete(ticket, None);
    let (_, small) = rig.next_small().expect("it has nothing under way");
    assert_eq!(small.len(), 2);
}

#[test]
fn many_small_requests_do_not_starve_a_large_one() {
    let mut rig = rig();
    rig.flood("2");
    rig.want("orders", "p", &["/s/p"], "2");
    let (ticket, small) = rig.next().expect("there is much to do");
    let verdict = rig.commit(&small);
    rig.planner.complete(ticket, Some(verdict));
    rig.want("orders", "p", &["/s/p"], "3");
    let (_, next) = rig.next().expect("there is much to do");
    assert_eq!(next.ops.len(), Transaction::MAX_OPS);
    assert!(keys(&next).contains(&"/s/p"), "nobody waits for that");
}

#[test]
fn p10_a_lease_that_is_waited_for_is_granted_before_other_work() {
    let mut rig = rig();
    rig.flood("2");
    rig.planner
        .set_settings(&reference("late"), RegistrationSettings { ttl: 60, ..settings(2) });
    rig.want("late", "l", &["/s/l"], "1");
    let mut before = 0;
    // The namespace `flood` always has more work.
    while rig.planner.grant_due(&[].into()) != Some(60) {
        assert!(matches!(rig.planner.next(&(), 10), Some(Step::Write(..))));
        before += 1;
        assert!(before < 3, "the work of others comes first");
    }
    assert_eq!(rig.planner.grant_due(&[(60, 1)].into()), None, "it is under way");
    assert_eq!(
        rig.planner.grant_due(&[(30, 8)].into()),
        Some(60),
        "those of others do not count"
    );
    let lease = rig.etcd.grant();
    rig.planner.granted(lease, 60);
    assert_eq!(rig.planner.grant_due(&[].into()), None, "it is there");
    let (ticket, record) = rig.next().expect("it is recorded");
    assert_eq!(keys(&record), [&*meta().record_key(lease)], "before all else");
    let verdict = rig.commit(&record);
    rig.planner.complete(ticket, Some(verdict));
    let (_, small) = rig.next_small().expect("it is written beside the flood");
    assert_eq!(small, ["/s/l"]);
}

#[test]
fn p10_lease_grants_prefer_the_ttl_with_the_fewest_in_flight() {
    let mut rig = rig();
    rig.planner.leases().set_capacity(1);
    for (name, ttl, pods) in [("much", 40, 20), ("little", 60, 1)] {
        rig.planner
            .set_settings(&reference(name), RegistrationSettings { ttl, ..settings(2) });
        for pod in 0..pods {
            rig.want(name, &format!("{name}{pod}"), &[&format!("/s/{name}{pod}")], "1");
        }
    }
    while matches!(rig.planner.next(&(), Transaction::MAX_OPS), Some(Step::Write(..))) {}
    assert_eq!(rig.planner.grant_due(&[].into()), Some(40));
    assert_eq!(rig.planner.grant_due(&[(40, 1)].into()), Some(60));
    assert_eq!(rig.planner.grant_due(&[(40, 8), (60, 1)].into()), Some(40));
}

#[test]
fn p10_freed_lease_capacity_is_offered_to_waiting_keys() {
    let mut rig = Rig::new();
    rig.planner.leases().set_capacity(1);
    rig.want("orders", "a", &["/s/a"], "1");
    rig.run();
    let lease = rig.lease_of("/s/a");
    rig.want("orders", "b", &["/s/b"], "1");
    // etcd grants no leases.
    assert_eq!(rig.planner.next(&(), Transaction::MAX_OPS), None, "there is no room");
    rig.drop_pod("orders", "a");
    while let Some(Step::Write(ticket, transaction)) = rig.planner.next(&(), Transaction::MAX_OPS) {
        let verdict = rig.commit(&transaction);
        rig.planner.complete(ticket, Some(verdict));
    }
    assert_eq!((rig.etcd.value("/s/a"), rig.lease_of("/s/b")), (None, lease));
}
