use super::*;

const MAX_WAIT: Duration = Duration::from_mins(1);

fn pod(name: &str) -> PodRef {
    PodRef {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("uid-{name}").into(),
    }
}

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

fn registering(registration: RegistrationRef, registry: &str, generation: i64) -> Registering {
    Registering {
        registration,
        registry: registry.into(),
        spec: spec(generation),
    }
}

fn spec(generation: i64) -> SpecVersion {
    SpecVersion {
        uid: "r1".into(),
        generation,
    }
}

impl ReadinessGates {
    /// Whether all records of the pod are in `default`, by the spec of this generation.
    fn report(&mut self, gated: GatedPod, generation: i64) {
        self.set_registered(gated, "default".into(), spec(generation));
    }
}

fn by_orders(generation: i64) -> Vec<Registering> {
    vec![registering(orders(), "default", generation)]
}

fn gated(name: &str, is_registered: bool) -> GatedPod {
    GatedPod {
        registration: orders(),
        pod: name.into(),
        uid: format!("uid-{name}").into(),
        is_registered,
    }
}

/// The gates of a leader of `default` with complete caches, and the pod `p`, which waits since the returned time.
fn leader() -> (ReadinessGates, Instant) {
    let (mut gates, start) = (ReadinessGates::new(MAX_WAIT), Instant::now());
    gates.kubernetes_is_complete();
    gates.set_leads("default".into(), true);
    gates.apply(GateChange::Waits(pod("p")), start);
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    (gates, start)
}

#[test]
fn the_leader_opens_a_gate_when_all_records_are_there() {
    let (mut gates, start) = leader();
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None);
    gates.report(gated("p", true), 1);
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), Some(Opening::Registered));
    gates.report(gated("p", true), 1);
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None, "it opens once");
}

#[test]
fn a_pod_that_no_registration_registers_is_not_held_up() {
    let (mut gates, start) = leader();
    assert_eq!(gates.decide(&pod("p"), Vec::new(), start), Some(Opening::NotSelected));
}

#[test]
fn records_by_a_former_spec_open_no_gate() {
    let (mut gates, start) = leader();
    gates.report(gated("p", true), 1);
    assert_eq!(gates.decide(&pod("p"), by_orders(2), start), None);
    gates.report(gated("p", true), 2);
    assert_eq!(gates.decide(&pod("p"), by_orders(2), start), Some(Opening::Registered));
}

#[test]
fn records_that_are_lost_again_open_no_gate() {
    let (mut gates, start) = leader();
    gates.report(gated("p", true), 1);
    gates.report(gated("p", false), 1);
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None);
}

#[test]
fn a_gate_waits_for_every_registry() {
    let (mut gates, start) = leader();
    let other = RegistrationRef::new("shop", "orders-edge");
    let both = || vec![by_orders(1).remove(0), registering(other.clone(), "edge", 1)];
    gates.report(gated("p", true), 1);
    assert_eq!(gates.decide(&pod("p"), both(), start), None);
    let there = GatedPod {
        registration: other.clone(),
        ..gated("p", true)
    };
    gates.set_registered(there, "edge".into(), spec(1));
    assert_eq!(gates.decide(&pod("p"), both(), start), Some(Opening::Registered));
}

#[test]
fn a_gate_opens_after_the_maximum_wait_and_names_what_is_missing() {
    let (mut gates, start) = leader();
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None);
    assert_eq!(gates.wake_at(), Some(start + MAX_WAIT));
    assert_eq!(gates.next_undecided(start + MAX_WAIT), Some(pod("p")));
    assert_eq!(
        gates.decide(&pod("p"), by_orders(1), start + MAX_WAIT),
        Some(Opening::WaitedTooLong(by_orders(1)))
    );
}

#[test]
fn a_standby_replica_opens_a_gate_later_than_the_leader() {
    let (mut gates, start) = leader();
    gates.set_leads("default".into(), false);
    gates.report(gated("p", true), 1);
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None);
    let due = start + STANDBY_DELAY;
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None);
    assert_eq!(
        gates.wake_at(),
        Some(due),
        "another decision does not start the delay again"
    );
    assert_eq!(gates.next_undecided(due), Some(pod("p")));
    assert_eq!(gates.decide(&pod("p"), by_orders(1), due), Some(Opening::Registered));
}

#[test]
fn a_new_leader_decides_again_about_all_pods() {
    let (mut gates, start) = leader();
    gates.set_leads("default".into(), false);
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    gates.report(gated("p", true), 1);
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None);
    gates.set_leads("default".into(), true);
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), Some(Opening::Registered));
}

#[test]
fn no_gate_opens_early_before_the_caches_are_complete() {
    let (mut gates, start) = (ReadinessGates::new(MAX_WAIT), Instant::now());
    gates.set_leads("default".into(), true);
    gates.apply(GateChange::Waits(pod("p")), start);
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    assert_eq!(gates.decide(&pod("p"), Vec::new(), start), None);
    gates.kubernetes_is_complete();
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    assert_eq!(gates.decide(&pod("p"), Vec::new(), start), Some(Opening::NotSelected));
}

#[test]
fn a_pod_that_is_gone_or_replaced_leaves_nothing_behind() {
    let (mut gates, start) = leader();
    gates.decide(&pod("p"), by_orders(1), start);
    gates.apply(GateChange::WaitsNoLonger(pod("p")), start);
    assert_eq!(gates.wake_at(), None);
    // The records of the former pod say nothing about another one of that name.
    let next = PodRef {
        uid: "next".into(),
        ..pod("p")
    };
    gates.apply(GateChange::Waits(next.clone()), start);
    gates.report(gated("p", true), 1);
    assert_eq!(gates.decide(&next, by_orders(1), start), None);
}

#[test]
fn edited_registration_requeues_waiting_pods_of_its_namespace() {
    let (mut gates, start) = leader();
    gates.decide(&pod("p"), by_orders(1), start);
    gates.apply(GateChange::Registrations("shop".into()), start);
    assert_eq!(gates.next_undecided(start), Some(pod("p")));
    gates.apply(GateChange::Registrations("bank".into()), start);
    assert_eq!(gates.next_undecided(start), None);
}

#[test]
fn a_gate_opens_after_the_maximum_wait_though_the_caches_are_not_complete() {
    let (mut gates, start) = (ReadinessGates::new(MAX_WAIT), Instant::now());
    gates.apply(GateChange::Waits(pod("p")), start);
    assert_eq!(gates.decide(&pod("p"), Vec::new(), start), None);
    let due = start + MAX_WAIT + STANDBY_DELAY;
    assert_eq!(gates.wake_at(), Some(due));
    assert_eq!(
        gates.decide(&pod("p"), Vec::new(), due),
        Some(Opening::WaitedTooLong(Vec::new()))
    );
}

#[test]
fn what_was_said_of_another_registration_or_another_etcd_opens_no_gate() {
    let (mut gates, start) = leader();
    gates.report(gated("p", true), 1);
    let mut created_again = by_orders(1);
    created_again[0].spec.uid = "r2".into();
    assert_eq!(gates.decide(&pod("p"), created_again, start), None);
    let moved = vec![registering(orders(), "edge", 1)];
    assert_eq!(gates.decide(&pod("p"), moved, start), None);
    gates.forget(&"default".into());
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), None);
}

#[test]
fn reselected_waiting_pod_keeps_its_recorded_state() {
    let (mut gates, start) = leader();
    gates.report(gated("p", true), 1);
    gates.apply(GateChange::Waits(pod("p")), start + MAX_WAIT);
    assert_eq!(gates.decide(&pod("p"), by_orders(1), start), Some(Opening::Registered));
}

#[test]
fn gate_of_other_installation_is_opened_only_after_standby_delay() {
    let of_others = |generation| registering(RegistrationRef::new("shop", "theirs"), "edge", generation);
    let (mut gates, start) = leader();
    let last = start + MAX_WAIT + STANDBY_DELAY;
    assert_eq!(gates.decide(&pod("p"), vec![of_others(1)], start + MAX_WAIT), None);
    assert_eq!(gates.wake_at(), Some(last));
    let opening = gates.decide(&pod("p"), vec![of_others(1)], last);
    assert_eq!(opening, Some(Opening::WaitedTooLong(vec![of_others(1)])));

    // A pod of both waits for both.
    let (mut gates, start) = leader();
    let both = || vec![by_orders(1).remove(0), of_others(1)];
    gates.report(gated("p", true), 1);
    assert_eq!(gates.decide(&pod("p"), both(), start), None);
    let theirs = GatedPod {
        registration: RegistrationRef::new("shop", "theirs"),
        ..gated("p", true)
    };
    gates.set_registered(theirs, "edge".into(), spec(1));
    assert_eq!(gates.decide(&pod("p"), both(), start), Some(Opening::Registered));
}
