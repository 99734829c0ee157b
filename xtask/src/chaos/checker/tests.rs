//! Histories made by hand: each rule finds what breaks it, and nothing in what does not.

use std::time::Duration;

use serde_json::json;
use testbed::{Event, Kind as What};

use super::{Kind, Sample, Terms, check, differences};
use crate::chaos::{
    record::{Fault, FaultKind, ForeignWrite, Gate, Outcome, Part, Pod, Record, Sight, Sighting, Span},
    wanted::tests::{pod, registration},
};

pub const KEY: &str = "/services/shop/orders/a";
pub const VALUE: &str = "10.0.0.7:8080";
const LEADER: &str = "/leasehold/cluster/leader";
const RECORD: &str = "/leasehold/cluster/leases/0000000000000007";
pub const LEASE: i64 = 7;

pub fn terms() -> Terms {
    Terms {
        bound: Duration::from_secs(10),
        reach: Duration::from_secs(1),
        lag: Duration::from_secs(1),
        recovery: Duration::from_secs(5),
        takeover: Duration::from_secs(2),
        yielding: Duration::from_secs(30),
        session: Duration::from_secs(3),
        ttl: Duration::from_secs(15),
        gate_wait: Duration::from_secs(20),
    }
}

/// A record in the making; times are in seconds.
pub struct Story {
    pub record: Record,
    revision: i64,
}

impl Story {
    /// An operator leads and has recorded a lease; `orders` is registered.
    pub fn new() -> Self {
        let mut story = Self {
            record: Record::default(),
            revision: 0,
        };
        story.record.end = Duration::from_secs(100);
        story.put(LEADER, 0.0, "{}", 1);
        story.put(RECORD, 0.0, "{}", LEASE);
        story.register(0.0, &json!({}));
        story
    }

    /// The pod `a` is ready and registered from the second 1 on.
    pub fn registered() -> Self {
        let mut story = Self::new();
        story.ready(1.0, true);
        story.ours(1.1, VALUE);
        story
    }

    pub fn register(&mut self, at: f64, spec: &serde_json::Value) {
        self.sight(at, Sight::Registration("orders".to_owned(), Some(registration(spec))));
    }

    pub fn ready(&mut self, at: f64, ready: bool) {
        self.sight(at, Sight::Pod("a".to_owned(), Some(pod(ready))));
    }

    /// The pod `a` has a readiness gate in this state.
    pub fn gate(&mut self, at: f64, gate: Gate) {
        let pod = Pod {
            gate: Some(gate),
            waits: gate == Gate::Closed,
            ..pod(true)
        };
        self.sight(at, Sight::Pod("a".to_owned(), Some(pod)));
    }

    pub fn sight(&mut self, at: f64, sight: Sight) {
        let at = Duration::from_secs_f64(at);
        self.record.kubernetes.push(Sighting { at, sight });
    }

    pub fn ours(&mut self, at: f64, value: &str) {
        self.put(KEY, at, value, LEASE);
    }

    pub fn put(&mut self, key: &str, at: f64, value: &str, lease: i64) {
        let value = value.to_owned();
        self.revision += 1;
        self.event(key, at, What::Put { value, lease });
    }

    pub fn delete(&mut self, key: &str, at: f64) {
        self.revision += 1;
        self.event(key, at, What::Delete);
    }

    /// A lease ends, and the key on it.
    pub fn lapse(&mut self, at: f64) {
        self.revision += 1;
        self.event(KEY, at, What::Delete);
        self.event(RECORD, at, What::Delete);
    }

    fn event(&mut self, key: &str, at: f64, kind: What) {
        let event = Event {
            revision: self.revision,
            key: key.to_owned(),
            kind,
        };
        self.record.etcd.push((Duration::from_secs_f64(at), event));
    }

    pub fn fault(&mut self, kind: FaultKind, from: f64, to: f64, halts: bool) {
        let span = span(from, to);
        let is_slow = matches!(kind, FaultKind::SlowLink | FaultKind::SlowEtcdLink);
        let target = "one".to_owned();
        self.record.faults.push(Fault {
            kind,
            target,
            span,
            halts,
            relieved: kind.part() == Part::Operators && !halts && !is_slow,
            registry: None,
        });
    }

    fn foreign_delete(&mut self, at: f64, outcome: Outcome) {
        self.record.foreign_writes.push(ForeignWrite {
            key: KEY.to_owned(),
            delete: true,
            at: Duration::from_secs_f64(at),
            outcome,
        });
    }

    pub fn kinds(&self) -> Vec<Kind> {
        let violations = check(&self.record, &terms()).violations;
        violations.into_iter().map(|violation| violation.kind).collect()
    }
}

fn span(from: f64, to: f64) -> Span {
    Span {
        from: Duration::from_secs_f64(from),
        to: Duration::from_secs_f64(to),
    }
}

#[test]
fn a_pod_that_comes_flaps_and_goes_with_its_key_is_right_and_measured() {
    let mut story = Story::registered();
    story.ready(20.0, false);
    story.delete(KEY, 20.02);
    story.ready(20.1, true);
    story.ours(20.15, VALUE);
    story.sight(40.0, Sight::Pod("a".to_owned(), None));
    story.delete(KEY, 40.01);
    let verdict = check(&story.record, &terms());
    assert_eq!(verdict.violations, []);
    assert_eq!((verdict.events, verdict.keys), (4, 1));
    let measured = |samples: &[Sample]| samples.iter().map(|one| one.took.as_millis()).collect::<Vec<_>>();
    assert_eq!(measured(&verdict.latencies.to_key), [50, 100]);
    assert_eq!(measured(&verdict.latencies.to_gone), [10, 20]);
    assert_eq!(differences(&story.record), Vec::<String>::new());
}

#[test]
fn key_outliving_its_pod_is_a_ghost_only_after_a_calm_period() {
    let mut story = Story::registered();
    story.ready(20.0, false);
    assert_eq!(story.kinds(), [Kind::Ghost]);
    assert_eq!(differences(&story.record).len(), 1);
    // Never calm for longer than the bound.
    let mut from = 20.0;
    while from < 100.0 {
        story.fault(FaultKind::QuorumLoss, from, from + 1.0, true);
        from += 9.0;
    }
    assert_eq!(story.kinds(), []);
}

#[test]
fn operator_outage_excuses_a_ghost_only_until_a_takeover_is_possible() {
    let mut story = Story::registered();
    story.ready(20.0, false);
    story.delete(KEY, 40.0);
    story.fault(FaultKind::OperatorKill, 19.0, 41.0, false);
    // 40 s less the 19 + 3 + 2 after which another operator leads.
    assert!(story.kinds().contains(&Kind::Ghost));
    story.record.faults.clear();
    story.fault(FaultKind::OperatorsKill, 19.0, 41.0, true);
    assert_eq!(story.kinds(), []);
}

#[test]
fn operator_cut_off_from_kubernetes_excuses_a_ghost_until_a_takeover() {
    let mut story = Story::registered();
    story.ready(20.0, false);
    story.delete(KEY, 62.0);
    story.fault(FaultKind::OperatorCutOff, 19.0, 90.0, false);
    // 13 s after the 19 + 30 by which a replica with a view of Kubernetes leads.
    assert!(story.kinds().contains(&Kind::Ghost));
    story.record.faults[0].relieved = false;
    assert_eq!(story.kinds(), []);
}

#[test]
fn slow_links_to_etcd_excuse_a_late_write_but_no_ghost_loss_or_lapse() {
    // A change that is over when it is written.
    let late = |kind: Option<FaultKind>| {
        let mut story = Story::registered();
        story.ready(20.0, false);
        story.ready(20.5, true);
        story.delete(KEY, 22.0);
        story.ours(22.1, VALUE);
        if let Some(kind) = kind {
            story.fault(kind, 19.0, 30.0, false);
        }
        story.kinds()
    };
    assert_eq!(late(None), [Kind::Flap]);
    assert_eq!(late(Some(FaultKind::SlowEtcdLink)), []);
    let long = |kind: FaultKind| {
        let mut story = Story::registered();
        story.ready(20.0, false);
        story.delete(KEY, 32.0);
        story.ready(40.0, true);
        story.ours(52.0, VALUE);
        story.lapse(70.0);
        story.put(RECORD, 70.0, "{}", LEASE);
        story.ours(70.1, VALUE);
        story.fault(kind, 19.0, 80.0, false);
        story.kinds()
    };
    assert_eq!(long(FaultKind::SlowEtcdLink), [Kind::Ghost, Kind::Loss, Kind::Lapse]);
    assert_eq!(long(FaultKind::SlowLink), [Kind::Lapse]);
}

#[test]
fn a_ready_pod_without_its_key_or_with_another_value_is_a_loss() {
    let mut story = Story::new();
    story.ready(1.0, true);
    assert_eq!(story.kinds(), [Kind::Loss]);
    assert_eq!(differences(&story.record).len(), 1);
    story.ours(1.5, VALUE);
    assert_eq!(story.kinds(), []);
    story.register(
        30.0,
        &json!({"formats": [{"type": "Plain", "plain": {"value": "JSON"}}]}),
    );
    assert_eq!(story.kinds(), [Kind::Loss]);
}

#[test]
fn foreign_key_is_no_loss_until_it_is_free() {
    let mut story = Story::new();
    story.put(KEY, 0.5, "foreign 1", 0);
    story.ready(1.0, true);
    assert_eq!(story.kinds(), []);
    story.delete(KEY, 50.0);
    story.foreign_delete(50.0, Outcome::Done(story.revision));
    assert_eq!(story.kinds(), [Kind::Loss]);
    story.ours(50.1, VALUE);
    assert_eq!(story.kinds(), []);
}

#[test]
fn wait_for_a_foreign_key_is_not_counted_as_latency() {
    let mut story = Story::new();
    story.put(KEY, 0.5, "foreign 1", 0);
    story.ready(1.0, true);
    story.delete(KEY, 4.0);
    story.foreign_delete(4.0, Outcome::Done(story.revision));
    story.ours(4.1, VALUE);
    assert_eq!(check(&story.record, &terms()).latencies.to_key, []);
}

#[test]
fn key_restored_while_its_pod_stays_is_a_flap_even_during_a_fault() {
    let mut story = Story::registered();
    story.delete(KEY, 30.0);
    story.ours(30.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Flap]);
    story.fault(FaultKind::OperatorStall, 25.0, 31.0, false);
    assert_eq!(story.kinds(), [Kind::Flap]);
}

#[test]
fn flap_is_excused_by_a_change_noticed_late_because_of_a_fault() {
    let mut story = Story::registered();
    story.ready(20.0, false);
    story.ready(20.5, true);
    story.delete(KEY, 27.0);
    story.ours(27.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Flap]);
    story.fault(FaultKind::OperatorStall, 19.0, 26.0, true);
    assert_eq!(story.kinds(), []);
}

#[test]
fn late_write_of_a_stale_leader_after_its_successor_is_detected() {
    let mut story = Story::registered();
    // Unready: the leader is paused before it deletes the key. Its successor does, and puts it back when the pod is ready.
    story.ready(20.0, false);
    story.fault(FaultKind::OperatorStall, 20.0, 30.0, false);
    story.delete(LEADER, 23.0);
    story.put(LEADER, 23.1, "{}", 2);
    story.delete(KEY, 23.2);
    story.ready(25.0, true);
    story.ours(25.1, VALUE);
    assert_eq!(story.kinds(), []);
    story.delete(KEY, 30.1);
    story.ours(30.2, VALUE);
    assert_eq!(story.kinds(), [Kind::Stale]);
}

#[test]
fn put_of_a_former_value_is_stale_and_of_another_value_is_unwanted() {
    let mut story = Story::registered();
    story.ready(20.0, false);
    story.delete(KEY, 20.1);
    story.ours(40.0, VALUE);
    story.delete(KEY, 40.1);
    assert_eq!(story.kinds(), [Kind::Stale]);
    let mut story = Story::registered();
    story.ours(40.0, "10.0.0.8:8080");
    story.ours(40.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Unwanted]);
}

#[test]
fn pods_and_registrations_may_be_observed_in_another_order() {
    let mut story = Story::new();
    story.register(
        20.0,
        &json!({"formats": [{"type": "Plain", "plain": {"prefix": "/x"}}]}),
    );
    story.ready(20.01, true);
    // An operator that received the pod first wrote what the registration said before.
    story.ours(20.02, VALUE);
    story.delete(KEY, 20.03);
    story.put("/x/a", 20.03, VALUE, LEASE);
    assert_eq!(story.kinds(), []);
}

#[test]
fn registration_observed_first_may_still_follow_its_pod_once() {
    let mut story = Story::registered();
    story.ready(20.0, false);
    story.register(20.1, &json!({"ports": [{"name": "admin", "port": 9090}]}));
    story.ready(20.2, true);
    // By the new registration and the pod as it was at first; then comes what happened to the pod.
    story.ours(20.5, "10.0.0.7:9090");
    story.delete(KEY, 20.6);
    story.ours(20.7, "10.0.0.7:9090");
    assert_eq!(story.kinds(), []);
    // But only once.
    story.delete(KEY, 20.8);
    story.ours(20.9, "10.0.0.7:9090");
    assert_eq!(story.kinds(), [Kind::Stale]);
}

#[test]
fn the_same_value_written_again_is_found() {
    let mut story = Story::registered();
    story.ours(30.0, VALUE);
    assert_eq!(story.kinds(), [Kind::Rewrite]);
}

#[test]
fn lapse_requires_a_period_in_which_no_replica_could_renew() {
    let mut story = Story::registered();
    story.lapse(40.0);
    story.put(RECORD, 40.0, "{}", LEASE);
    story.ours(40.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Lapse]);
    story.fault(FaultKind::OperatorsKill, 30.0, 33.0, true);
    assert_eq!(story.kinds(), [Kind::Lapse]);
    story.record.faults.clear();
    story.fault(FaultKind::OperatorsGone, 24.0, 42.0, true);
    let verdict = check(&story.record, &terms());
    assert_eq!(verdict.violations, []);
    assert_eq!(verdict.lapses, 1);
}

#[test]
fn new_credentials_excuse_a_lapse_only_if_nothing_could_be_renewed_for_long() {
    let lapse = |until: f64| {
        let mut story = Story::registered();
        story.lapse(40.0);
        story.put(RECORD, 40.0, "{}", LEASE);
        story.ours(40.1, VALUE);
        story.fault(FaultKind::CredentialRotation, 30.0, until, true);
        story.kinds()
    };
    assert_eq!(lapse(33.0), [Kind::Lapse]);
    assert_eq!(lapse(39.5), []);
}

#[test]
fn a_lapse_has_no_reason_in_what_was_so_a_moment_before() {
    let mut story = Story::registered();
    story.ready(37.0, false);
    story.delete(KEY, 37.1);
    story.ready(37.2, true);
    story.ours(37.3, VALUE);
    story.fault(FaultKind::MemberKill, 37.5, 39.0, false);
    story.lapse(40.0);
    story.put(RECORD, 40.0, "{}", LEASE);
    story.ours(40.1, VALUE);
    assert_eq!(story.kinds(), [Kind::Lapse]);
}

#[test]
fn write_without_leader_or_on_an_unrecorded_lease_is_unfenced() {
    let mut story = Story::registered();
    story.delete(LEADER, 19.0);
    story.ready(20.0, false);
    story.delete(KEY, 20.1);
    assert_eq!(story.kinds(), [Kind::Unfenced]);
    let mut story = Story::new();
    story.ready(1.0, true);
    story.put(KEY, 1.1, VALUE, 8);
    assert_eq!(story.kinds(), [Kind::Unfenced]);
}

#[test]
fn foreign_key_may_be_changed_only_by_its_owner() {
    let taken = || {
        let mut story = Story::new();
        story.put(KEY, 1.0, "foreign 1", 0);
        story
    };
    let mut story = taken();
    story.delete(KEY, 5.0);
    assert_eq!(story.kinds(), [Kind::Foreign]);
    story.foreign_delete(4.9, Outcome::Refused);
    assert_eq!(story.kinds(), [Kind::Foreign]);
    story.foreign_delete(4.9, Outcome::Unknown);
    assert_eq!(story.kinds(), []);

    let mut story = taken();
    story.put(KEY, 4.0, "foreign 2", 0);
    assert_eq!(story.kinds(), []);
    story.ready(4.5, true);
    story.ours(5.0, VALUE);
    assert_eq!(story.kinds(), [Kind::Foreign]);
}

#[test]
fn what_happens_in_a_quiet_time_is_noise() {
    let mut story = Story::registered();
    story.record.quiets.push(span(20.0, 24.0));
    story.register(19.9, &json!({}));
    assert_eq!(story.kinds(), []);
    story.register(21.0, &json!({}));
    assert_eq!(story.kinds(), [Kind::Noise]);
    story.put("/beside", 22.0, "foreign 1", 0);
    assert_eq!(story.kinds(), [Kind::Noise, Kind::Noise]);
}

#[test]
fn what_a_hole_in_the_record_hides_is_not_judged_but_counted() {
    let mut story = Story::registered();
    story.delete(KEY, 30.0);
    story.ours(30.1, VALUE);
    story.record.gaps.push(span(29.0, 29.5));
    let verdict = check(&story.record, &terms());
    assert_eq!(verdict.violations, []);
    assert_eq!(verdict.unjudged, 1);
}

/// An edit moves the keys of `orders` to `/x/`, where a foreign client holds that of the pod from the second 25 to 60, or never.
fn moved(barred: bool) -> Story {
    let mut story = Story::registered();
    if barred {
        story.put("/x/a", 25.0, "foreign 1", 0);
    }
    story.register(
        30.0,
        &json!({"formats": [{"type": "Plain", "plain": {"prefix": "/x"}}]}),
    );
    story.ready(40.0, false);
    story.delete(KEY, 40.1);
    story.ready(42.0, true);
    story.ours(42.1, VALUE);
    if barred {
        let key = "/x/a".to_owned();
        let at = Duration::from_secs_f64(59.9);
        story.delete(&key, 60.0);
        story.record.foreign_writes.push(ForeignWrite {
            key,
            delete: true,
            at,
            outcome: Outcome::Unknown,
        });
    }
    story.put("/x/a", 60.1, VALUE, LEASE);
    story.delete(KEY, 60.1);
    story
}

#[test]
fn previous_spec_keys_may_stay_while_a_foreign_key_blocks_the_new_ones() {
    assert_eq!(moved(true).kinds(), []);
    let kinds = moved(false).kinds();
    assert!(
        kinds.contains(&Kind::Stale) && kinds.contains(&Kind::Ghost),
        "{kinds:?}"
    );
}

#[test]
fn previous_spec_keys_are_ghosts_once_the_foreign_key_is_gone() {
    let mut story = moved(true);
    story.record.etcd.truncate(story.record.etcd.len() - 2);
    assert_eq!(story.kinds(), [Kind::Ghost, Kind::Loss]);
    let mut before = moved(true);
    before.record.end = Duration::from_secs(50);
    before.record.etcd.retain(|(at, _)| *at < before.record.end);
    assert_eq!(differences(&before.record), Vec::<String>::new());
    before.record.etcd.retain(|(_, event)| event.key != "/x/a");
    assert_eq!(differences(&before.record).len(), 2);
}

#[test]
fn a_gate_that_opens_before_the_key_is_there_is_found() {
    let mut story = Story::new();
    story.fault(FaultKind::QuorumLoss, 0.5, 9.0, true);
    story.gate(1.0, Gate::Closed);
    story.gate(3.0, Gate::Registered);
    story.ours(9.5, VALUE);
    assert_eq!(story.kinds(), [Kind::Gate]);
}

#[test]
fn a_gate_that_opens_with_the_key_or_after_the_maximum_wait_is_right() {
    let mut story = Story::new();
    story.gate(1.0, Gate::Closed);
    story.ours(1.1, VALUE);
    story.gate(1.2, Gate::Registered);
    assert_eq!(story.kinds(), []);
    let mut story = Story::new();
    story.fault(FaultKind::QuorumLoss, 0.5, 29.0, true);
    story.gate(1.0, Gate::Closed);
    story.gate(21.0, Gate::WaitedTooLong);
    story.ours(29.5, VALUE);
    assert_eq!(story.kinds(), []);
}

#[test]
fn gate_opened_by_a_key_that_a_paused_etcd_member_reports_late_is_right() {
    let with_key_at = |at: f64| {
        let mut story = Story::new();
        story.fault(FaultKind::MemberPause, 0.5, 6.0, true);
        story.gate(1.0, Gate::Closed);
        story.gate(3.0, Gate::Registered);
        story.ours(at, VALUE);
        story.kinds()
    };
    assert_eq!(with_key_at(6.5), []);
    assert_eq!(with_key_at(7.5), [Kind::Gate]);
}

#[test]
fn gate_is_not_judged_by_a_concurrent_registration_or_label_change() {
    let late = |from: f64| {
        let mut story = Story::new();
        story.fault(FaultKind::ApiserverKill, 10.0, 20.0, false);
        story.gate(from, Gate::Closed);
        story.gate(from + 0.1, Gate::Registered);
        // The watch of the registrations has missed this until now.
        story.sight(24.0, Sight::Registration("orders".to_owned(), None));
        story.record.end = Duration::from_secs(25);
        story.kinds()
    };
    assert_eq!(late(21.0), []);
    assert_eq!(late(5.0), [Kind::Gate]);

    let mut story = Story::new();
    story.fault(FaultKind::ApiserverKill, 10.0, 13.0, false);
    story.gate(12.0, Gate::Closed);
    story.ours(12.1, VALUE);
    story.gate(12.2, Gate::Registered);
    let late = registration(&json!({"serviceName": "late"}));
    story.sight(21.0, Sight::Registration("late".to_owned(), Some(late)));
    story.record.end = Duration::from_secs(22);
    assert_eq!(story.kinds(), [], "a registration that was created afterwards");

    let mut story = Story::new();
    let other = Pod {
        labels: [("app".to_owned(), "other".to_owned())].into(),
        gate: Some(Gate::Closed),
        ..pod(true)
    };
    story.sight(1.0, Sight::Pod("a".to_owned(), Some(other)));
    story.gate(1.1, Gate::Closed);
    story.gate(1.2, Gate::Registered);
    story.ours(3.0, VALUE);
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_pod_that_waits_for_its_gate_is_not_at_rest() {
    let mut story = Story::new();
    story.gate(1.0, Gate::Closed);
    story.ours(1.1, VALUE);
    assert_eq!(differences(&story.record), ["a waits for its readiness gate"]);
    story.gate(1.2, Gate::Registered);
    assert_eq!(differences(&story.record), [""; 0]);
}
