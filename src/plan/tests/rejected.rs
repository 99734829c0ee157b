//! Record sets that etcd rejects for their content do not block others.

use super::super::testing::whole;
use super::*;
use crate::model::RegistrationRef;
use crate::plan::{Narrowed, Objection, Owner};

const CAUSE: &str = "etcdserver: request is too large";
/// The longest value that a format writes, and the most records of one RecordFormat.
const LONGEST: usize = 64 * 1024;
const MOST: usize = 8;

#[expect(clippy::unnecessary_wraps, reason = "an owner may be none")]
fn owner(name: &str) -> Owner {
    Some(reference(name))
}

/// Whether one of the written keys lies below `/s/bad`.
fn is_bad(transaction: &Transaction) -> bool {
    transaction
        .ops
        .iter()
        .any(|op| matches!(op, Op::Put { key, .. } if key.starts_with("/s/bad")))
}

impl Rig {
    /// Claims these keys as one unit.
    fn want_whole(&mut self, registration: &str, pod: &str, keys: &[&str], value: &str) {
        let desired = whole(pod, keys, value);
        self.planner
            .set_desired(&reference(registration), &pod.into(), Some(desired));
    }

    /// Carries out all steps in an etcd that rejects some transactions. Returns the number of rejected ones, and the
    /// accepted ones that write data keys.
    fn run_where(&mut self, is_rejected: impl Fn(&Transaction) -> bool) -> (usize, Vec<Transaction>) {
        let (mut rejected, mut written) = (0, Vec::new());
        while let Some((ticket, transaction)) = self.next() {
            assert!(written.len() + rejected < 500, "it does not come to rest");
            if is_rejected(&transaction) {
                rejected += 1;
                let narrowed = self.planner.reject(ticket, Objection::TooLarge, CAUSE, false);
                assert_ne!(narrowed, Narrowed::Bookkeeping);
                continue;
            }
            let verdict = self.commit(&transaction);
            self.planner.complete(ticket, Some(verdict));
            if !transaction.ops.iter().all(|op| op.key().starts_with("/leasehold/")) {
                written.push(transaction);
            }
        }
        (rejected, written)
    }

    fn with_bad() -> Self {
        let mut rig = Self::new();
        rig.planner.set_settings(&reference("bad"), settings(2));
        rig
    }
}

fn bytes(transaction: &Transaction) -> usize {
    let of = |op: &Op| match op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } | Op::Check { .. } => 0,
    };
    transaction.ops.iter().map(of).sum()
}

#[test]
fn a_record_set_larger_than_a_batch_is_written_alone() {
    let mut rig = Rig::new();
    let value = "x".repeat(LONGEST);
    for pod in 0..6 {
        let keys: Vec<String> = (0..MOST).map(|record| format!("/s/p{pod}/{record}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        rig.want_whole("orders", &format!("p{pod}"), &keys, &value);
    }
    rig.want("orders", "small", &["/s/small"], "1");
    let written = rig.run();
    let largest = written.iter().map(bytes).max().expect("something is written");
    assert_eq!(largest, MOST * LONGEST, "one record set at a time");
    assert_eq!(rig.report("orders").registered, 7);
}

#[test]
fn largest_record_set_fits_the_default_etcd_request_limit() {
    let keys: Vec<crate::model::Key> = (0..MOST).map(|i| format!("{i}{}", "k".repeat(1023)).into()).collect();
    let size = super::super::units::request_size(keys.iter().map(|key| (key, LONGEST)));
    assert!(size < 1_572_864 / 2, "{size}");
}

#[test]
fn a_rejected_record_set_is_found_in_few_steps_and_all_others_are_written() {
    let mut rig = Rig::with_bad();
    for pod in 0..300 {
        rig.want("orders", &format!("p{pod}"), &[&format!("/s/p{pod}")], "1");
    }
    rig.want_whole("bad", "q", &["/s/bad/1", "/s/bad/2"], "large");
    let (rejected, _) = rig.run_where(is_bad);
    assert!((1..=9).contains(&rejected), "{rejected} transactions were rejected");
    assert_eq!(rig.report("orders").registered, 300);
    assert!(rig.report("orders").rejected.is_none());
    let report = rig.report("bad");
    let rejection = report.rejected.expect("it is told");
    assert_eq!((rejection.records, &*rejection.cause), (2, CAUSE));
    assert!(rejection.bytes > "large".len() * 2, "{}", rejection.bytes);
    assert_eq!((report.registered, report.outstanding), (0, 0), "nothing is on its way");
    let pods: Vec<_> = report.problems.values().flatten().map(|pod| &**pod).collect();
    assert_eq!(pods, ["q"]);
    // Later work is not blocked, and not even sent twice.
    rig.want("orders", "late", &["/s/late"], "1");
    let (rejected, written) = rig.run_where(is_bad);
    assert_eq!((rejected, written.len()), (0, 1));
}

#[test]
fn further_pods_of_a_rejected_registration_cost_no_request_each() {
    let mut rig = Rig::with_bad();
    rig.want_whole("bad", "q0", &["/s/bad/q0/1", "/s/bad/q0/2"], "large");
    assert_eq!(rig.run_where(is_bad).0, 1);
    for pod in 1..50 {
        let keys = [format!("/s/bad/q{pod:02}/1"), format!("/s/bad/q{pod:02}/2")];
        rig.want_whole("bad", &format!("q{pod}"), &[&keys[0], &keys[1]], "large");
    }
    rig.want("bad", "small", &["/s/small"], "1");
    let (rejected, written) = rig.run_where(is_bad);
    assert_eq!((rejected, written.len()), (0, 1), "what is smaller is written");
    let report = rig.report("bad");
    assert_eq!((report.registered, report.outstanding), (1, 0));
    assert_eq!(report.problems.values().flatten().count(), 50);
}

#[test]
fn a_retry_tries_one_record_set_and_its_success_all_of_the_registration() {
    let mut rig = Rig::with_bad();
    for pod in 0..20 {
        rig.want_whole(
            "bad",
            &format!("q{pod}"),
            &[&format!("/s/bad/{pod:02}a"), &format!("/s/bad/{pod:02}b")],
            "v",
        );
    }
    rig.run_where(is_bad);
    assert!(rig.planner.retry_rejected(&owner("bad")));
    let (rejected, _) = rig.run_where(is_bad);
    assert_eq!(rejected, 1, "one is tried, the others wait for it");
    assert!(rig.report("bad").rejected.is_some());
    assert!(rig.planner.retry_rejected(&owner("bad")));
    let (rejected, _) = rig.run_where(|_| false);
    assert_eq!((rejected, rig.report("bad").registered), (0, 20));
    assert!(rig.report("bad").rejected.is_none() && rig.report("bad").problems.is_empty());
    assert!(
        !rig.planner.retry_rejected(&owner("bad")),
        "nothing is left to be tried"
    );
    // Work of this registration shares transactions again.
    for pod in 0..20 {
        rig.want_whole(
            "bad",
            &format!("q{pod}"),
            &[&format!("/s/bad/{pod:02}a"), &format!("/s/bad/{pod:02}b")],
            "w",
        );
    }
    assert_eq!(rig.run_where(|_| false).1.len(), 1);
}

#[test]
fn a_retry_that_is_rejected_again_says_so() {
    let mut rig = Rig::with_bad();
    rig.want("bad", "q", &["/s/bad/q"], "large");
    rig.run_where(is_bad);
    rig.planner.retry_rejected(&owner("bad"));
    let (ticket, _) = rig.next().expect("it is tried again");
    let narrowed = rig.planner.reject(ticket, Objection::TooLarge, CAUSE, false);
    let (owner, again) = (owner("bad"), true);
    assert_eq!(narrowed, Narrowed::Found { owner, again });
}

#[test]
fn changed_records_are_retried_at_once_and_a_deleted_pod_is_removed() {
    let mut rig = Rig::with_bad();
    rig.want("bad", "q", &["/s/bad/q"], "1");
    rig.run();
    let is_large = |transaction: &Transaction| bytes(transaction) > 100;
    rig.want("bad", "q", &["/s/bad/q"], &"x".repeat(200));
    assert_eq!(rig.run_where(is_large).0, 1);
    assert_eq!(rig.etcd.value("/s/bad/q").as_deref(), Some("1"), "what was there stays");
    rig.want("bad", "q", &["/s/bad/q"], "2");
    assert_eq!(rig.run_where(is_large).0, 0);
    assert_eq!(rig.etcd.value("/s/bad/q").as_deref(), Some("2"));
    assert!(rig.report("bad").rejected.is_none());
    rig.want("bad", "q", &["/s/bad/q"], &"x".repeat(200));
    assert_eq!(rig.run_where(is_large).0, 1);
    rig.drop_pod("bad", "q");
    assert_eq!(rig.run_where(is_large).0, 0);
    assert_eq!(rig.etcd.value("/s/bad/q"), None, "a removal is not rejected");
    assert!(rig.report("bad").rejected.is_none());
}

#[test]
fn stricter_etcd_limits_are_met_with_smaller_transactions() {
    let mut rig = Rig::new();
    for pod in 0..300 {
        rig.want("orders", &format!("p{pod}"), &[&format!("/s/p{pod}")], "1");
    }
    let (_, written) = rig.run_where(|transaction| transaction.ops.len() > 10);
    assert!(written.iter().all(|transaction| transaction.ops.len() <= 10));
    let report = rig.report("orders");
    assert_eq!((report.registered, report.rejected), (300, None));
}

#[test]
fn of_a_pod_with_one_rejected_record_set_the_others_are_written() {
    let mut rig = Rig::with_bad();
    // The rejected record set is the larger one.
    rig.want("bad", "q", &["/s/bad/which-is-long/q", "/s/good/q"], "1");
    rig.run_where(is_bad);
    assert_eq!(rig.etcd.value("/s/good/q").as_deref(), Some("1"));
    assert_eq!(rig.etcd.value("/s/bad/which-is-long/q"), None);
}

#[test]
fn rejected_bookkeeping_is_not_attributed_to_a_record_set() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    let (ticket, record) = rig.next().expect("a lease is recorded");
    assert!(keys(&record)[0].starts_with("/leasehold/"), "{record:?}");
    let narrowed = rig.planner.reject(ticket, Objection::TooLarge, CAUSE, false);
    assert_eq!(narrowed, Narrowed::Bookkeeping);
    rig.planner.complete(ticket, None);
    rig.run();
    assert_eq!(rig.report("orders").registered, 1);
}

#[test]
fn a_registration_that_is_gone_leaves_nothing_to_be_tried_again() {
    let mut rig = Rig::with_bad();
    let other = RegistrationRef::new("flood", "orders");
    rig.planner.set_settings(&other, settings(3));
    rig.want("bad", "q", &["/s/bad/q"], "large");
    rig.run_where(is_bad);
    rig.planner.remove_registration(&reference("bad"));
    assert!(!rig.planner.retry_rejected(&owner("bad")));
    // Another registration may have the key, and writing it is tried.
    let desired = desired("f", &["/s/bad/q"], "small");
    rig.planner.set_desired(&other, &"f".into(), Some(desired));
    assert_eq!(rig.run_where(|_| false).1.len(), 1);
}

#[test]
fn registration_gaining_a_key_of_rejected_records_writes_its_own() {
    let mut rig = Rig::with_bad();
    // The registration `bad` has the key until the other one is found to have claimed the prefix earlier.
    let since = |at| [(crate::model::Prefix::below("/s/"), crate::plan::Since::Created(at))].into();
    rig.planner.set_since(&reference("bad"), since(1));
    rig.planner.set_since(&reference("orders"), since(2));
    rig.want("orders", "p", &["/s/bad/q"], "small");
    rig.want("bad", "q", &["/s/bad/q"], "large");
    let is_large = |transaction: &Transaction| {
        let is_large = |op: &Op| matches!(op, Op::Put { value, .. } if &**value == b"large");
        transaction.ops.iter().any(is_large)
    };
    rig.run_where(is_large);
    assert_eq!(rig.etcd.value("/s/bad/q"), None);
    rig.planner.set_since(&reference("orders"), since(0));
    rig.run_where(is_large);
    assert_eq!(rig.etcd.value("/s/bad/q").as_deref(), Some("small"));
    assert!(
        !rig.planner.retry_rejected(&owner("bad")),
        "nothing of it is to be tried"
    );
    rig.run_where(is_large);
    assert_eq!(rig.etcd.value("/s/bad/q").as_deref(), Some("small"));
}
