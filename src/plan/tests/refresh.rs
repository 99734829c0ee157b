//! Marked pods: computed when their work is popped, or sooner when something waits for them.

use super::*;
use crate::model::{Key, RegistrationRef};
use crate::plan::{DesiredState, PodState};

/// The desired records of each ready pod in each registration that selects it.
#[derive(Default)]
struct Pods {
    selected: Vec<(RegistrationRef, &'static str, DesiredPod)>,
    /// Whether the other pods exist.
    are_others_alive: bool,
}

impl Pods {
    fn of(registration: &str, pods: &[&'static str]) -> Self {
        let of = |pod: &&'static str| {
            (
                reference(registration),
                *pod,
                desired(pod, &[&format!("/s/{pod}")], "1"),
            )
        };
        Self {
            selected: pods.iter().map(of).collect(),
            are_others_alive: false,
        }
    }

    fn find(&self, registration: &RegistrationRef, pod: &str) -> Option<&DesiredPod> {
        let mut all = self.selected.iter();
        all.find(|(of, name, _)| of == registration && *name == pod)
            .map(|(_, _, desired)| desired)
    }
}

fn as_pods(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

impl DesiredState for Pods {
    fn selecting(&self, namespace: &str, pod: &str) -> Vec<RegistrationRef> {
        let selecting = self
            .selected
            .iter()
            .filter(|(of, name, _)| *of.namespace == *namespace && *name == pod);
        selecting.map(|(of, _, _)| of.clone()).collect()
    }

    fn selects(&self, registration: &RegistrationRef, pod: &str) -> bool {
        self.find(registration, pod).is_some()
    }

    fn is_alive(&self, _: &str, _: &str) -> bool {
        self.are_others_alive
    }

    fn pod_state(&self, registration: &RegistrationRef, pod: &str) -> Option<PodState> {
        let desired = self.find(registration, pod).cloned();
        Some(desired.map_or(PodState::Gone(Vec::new()), PodState::Ready))
    }
}

impl Rig {
    fn mark(&mut self, registration: &str, pod: &str) {
        self.planner
            .mark_changed(&reference(registration), &pod.into(), false, Instant::now());
    }

    /// Carries out all steps towards `desired`; returns the data keys that were written, in order.
    fn reconcile(&mut self, desired: &Pods) -> Vec<Key> {
        self.transactions(desired, 4).concat()
    }

    /// The same by transaction, with at most `max_ops` in each.
    fn transactions(&mut self, desired: &Pods, max_ops: usize) -> Vec<Vec<Key>> {
        let mut written = Vec::new();
        for _ in 0..1000 {
            self.listen();
            match self.step(desired, max_ops) {
                None => return written,
                Some(Step::Continue) => {}
                Some(Step::Write(ticket, transaction)) => {
                    let verdict = self.commit(&transaction);
                    self.planner.complete(ticket, Some(verdict));
                    let data = transaction.ops.iter().map(Op::key).filter(|key| key.starts_with("/s/"));
                    written.push(data.cloned().collect());
                }
            }
        }
        panic!("it does not come to rest");
    }
}

#[test]
fn pod_that_moves_to_another_registration_keeps_its_key() {
    let mut rig = Rig::new();
    rig.planner.set_settings(&reference("carts"), settings(1));
    rig.mark("orders", "a");
    rig.reconcile(&Pods::of("orders", &["a"]));
    let before = rig.etcd.held("/s/a").cloned().expect("it is registered");
    // In this order the queue serves them.
    rig.mark("orders", "a");
    rig.mark("carts", "a");
    rig.reconcile(&Pods::of("carts", &["a"]));
    let after = rig.etcd.held("/s/a").expect("it stays registered");
    assert_eq!(after.create_revision, before.create_revision, "it was never removed");
}

#[test]
fn registration_that_is_replaced_at_once_keeps_its_keys() {
    let mut rig = Rig::new();
    let names = ["a", "b", "c", "d", "e"];
    let (orders, pods) = (reference("orders"), Pods::of("orders", &names));
    rig.planner.mark_edited(&orders, as_pods(&names), Instant::now());
    assert_eq!(rig.reconcile(&pods).len(), names.len());
    rig.planner.remove_registration(&orders);
    rig.planner.set_settings(&orders, settings(2));
    rig.planner.mark_edited(&orders, as_pods(&names), Instant::now());
    assert_eq!(rig.report("orders").outstanding, names.len());
    assert_eq!(rig.reconcile(&pods), [] as [Key; 0]);
    assert_eq!(rig.report("orders").outstanding, 0);
    assert!(names.iter().all(|name| rig.etcd.held(&format!("/s/{name}")).is_some()));
}

#[test]
fn pod_of_another_namespace_does_not_wait_for_all_pods_of_an_edited_registration() {
    let mut rig = Rig::new();
    let names: Vec<&'static str> = (0..1000).map(|i| &*format!("p{i}").leak()).collect();
    let mut pods = Pods::of("orders", &names);
    rig.planner
        .mark_edited(&reference("orders"), as_pods(&names), Instant::now());
    let quiet = RegistrationRef::new("quiet", "carts");
    let quiet_pod = desired("a", &["/s/a"], "1");
    pods.selected.push((quiet.clone(), "a", quiet_pod));
    rig.planner.set_settings(&quiet, settings(1));
    rig.planner.mark_changed(&quiet, &"a".into(), false, Instant::now());
    let written = rig.reconcile(&pods);
    let place = written.iter().position(|key| **key == *"/s/a");
    assert_eq!(written.len(), 1001);
    assert!(place.is_some_and(|place| place < 50), "{place:?}");
}

#[test]
fn edit_that_comes_during_another_one_concerns_each_pod_once_more() {
    let mut rig = Rig::new();
    let names: Vec<&'static str> = (0..20).map(|i| &*format!("p{i}").leak()).collect();
    let orders = reference("orders");
    rig.planner.mark_edited(&orders, as_pods(&names), Instant::now());
    let mut pods = Pods::of("orders", &names);
    while rig.report("orders").outstanding > names.len() / 2 {
        rig.listen();
        if let Some(Step::Write(ticket, transaction)) = rig.step(&pods, 4) {
            let verdict = rig.commit(&transaction);
            rig.planner.complete(ticket, Some(verdict));
        }
    }
    rig.planner.mark_edited(&orders, as_pods(&names), Instant::now());
    for (_, name, pod) in &mut pods.selected {
        *pod = desired(name, &[&format!("/s/{name}")], "2");
    }
    rig.reconcile(&pods);
    let is_new = |name: &&str| {
        rig.etcd
            .held(&format!("/s/{name}"))
            .is_some_and(|held| &*held.value == b"2")
    };
    assert!(names.iter().all(is_new));
    assert_eq!(rig.report("orders").outstanding, 0);
}

#[test]
fn removal_of_an_unclaimed_key_does_not_wait_for_marked_pods() {
    let mut rig = Rig::new();
    rig.planner.set_settings(&reference("carts"), settings(1));
    rig.mark("carts", "gone");
    rig.reconcile(&Pods::of("carts", &["gone"]));
    let names: Vec<&'static str> = (0..100).map(|i| &*format!("p{i}").leak()).collect();
    for name in &names {
        rig.mark("orders", name);
    }
    rig.planner.remove_registration(&reference("carts"));
    let written = rig.reconcile(&Pods::of("orders", &names));
    let place = written.iter().position(|key| **key == *"/s/gone");
    assert_eq!(written.len(), 101);
    assert!(place.is_some_and(|place| place < 20), "{place:?} in {written:?}");
}

#[test]
fn work_above_the_rate_limit_is_not_due_before_the_planner_can_serve_it() {
    let mut planner = Planner::new(meta(), 256);
    planner.set_rate_limit(1);
    planner.set_settings(&reference("orders"), settings(1));
    let now = Instant::now();
    for i in 0..20 {
        planner.mark_changed(&reference("orders"), &i.to_string().into(), false, now);
    }
    assert!(!planner.has_excess(), "Kubernetes is not listed");
}

#[test]
fn key_that_its_pod_has_dropped_waits_for_no_other_pod() {
    let mut rig = Rig::new();
    rig.mark("orders", "a");
    let (ready, none) = (Pods::of("orders", &["a"]), Pods::default());
    let (ticket, transaction) = loop {
        rig.listen();
        match rig.step(&ready, 4) {
            Some(Step::Write(ticket, transaction)) if transaction.ops[0].key().starts_with("/s/") => {
                break (ticket, transaction);
            }
            Some(Step::Write(ticket, transaction)) => {
                let verdict = rig.commit(&transaction);
                rig.planner.complete(ticket, Some(verdict));
            }
            other => panic!("{other:?}"),
        }
    };
    // The pod is gone while its key is being written, and other pods change.
    rig.mark("orders", "a");
    assert_eq!(rig.planner.next(&none, 4), None);
    rig.mark("orders", "b");
    let verdict = rig.commit(&transaction);
    rig.planner.complete(ticket, Some(verdict));
    rig.listen();
    assert_eq!(
        rig.planner.work.blocking(),
        None,
        "the key is removed with its pod's work"
    );
    assert_eq!(rig.reconcile(&none), [Key::from("/s/a")]);
    assert!(rig.etcd.held("/s/a").is_none());
}

#[test]
fn pods_above_the_rate_limit_are_computed_only_on_request() {
    let mut rig = Rig::new();
    rig.planner.set_rate_limit(1);
    for i in 0..20 {
        rig.mark("orders", &i.to_string());
    }
    let none = Pods::default();
    assert!(!rig.planner.refresh_within_limits(&none, usize::MAX));
    assert!(rig.planner.work.oldest_marked(false).is_none());
    assert!(rig.planner.work.oldest_marked(true).is_some());
    assert!(!rig.planner.refresh_all(&none, usize::MAX));
    assert!(rig.planner.work.oldest_marked(true).is_none());
}

#[test]
fn pods_that_an_edit_leaves_are_held_and_those_that_leave_or_end_are_not() {
    for (edited, are_others_alive, left) in [(true, true, 20), (false, true, 0), (true, false, 0)] {
        let mut rig = unconfirmed::registered();
        let pods: Vec<_> = (0..unconfirmed::PODS).map(unconfirmed::pod).collect();
        if edited {
            rig.planner
                .mark_edited(&reference("orders"), pods.clone(), Instant::now());
            // It changes before the edit has come to it, and is left all the same.
            rig.mark("orders", &pods[unconfirmed::PODS - 1]);
        } else {
            for pod in &pods {
                rig.mark("orders", pod);
            }
        }
        let none = Pods {
            are_others_alive,
            ..Pods::default()
        };
        rig.reconcile(&none);
        rig.judge(Instant::now());
        rig.reconcile(&none);
        assert_eq!(rig.left(), left, "edited: {edited}, alive: {are_others_alive}");
    }
}

#[test]
fn pod_that_is_deleted_while_its_registration_is_edited_is_not_held() {
    let mut rig = unconfirmed::registered();
    let (orders, now) = (reference("orders"), Instant::now());
    for number in 0..unconfirmed::PODS {
        let pod = unconfirmed::pod(number);
        rig.planner.mark_edited(&orders, vec![pod.clone()], now);
        rig.planner.mark_changed(&orders, &pod, true, now);
    }
    let pods = Pods {
        are_others_alive: true,
        ..Pods::default()
    };
    rig.reconcile(&pods);
    assert_eq!(rig.left(), 0);
}

#[test]
fn transactions_of_a_tenant_are_small_only_while_another_one_is_active() {
    let names: Vec<&'static str> = (0..200).map(|i| &*format!("p{i}").leak()).collect();
    let pods = Pods::of("orders", &names);
    let largest = |is_shared: bool| {
        let mut rig = Rig::new();
        for pod in &names {
            rig.mark("orders", pod);
        }
        rig.planner.set_activity(Some(Instant::now()), is_shared);
        let written = rig.transactions(&pods, Transaction::MAX_OPS);
        written.iter().map(Vec::len).max()
    };
    // Work that waited for a lease was computed before.
    assert!(largest(true).is_some_and(|ops| ops < 64));
    assert_eq!(largest(false), Some(Transaction::MAX_OPS));
}

#[test]
fn keys_and_values_are_stored_once() {
    let mut rig = Rig::new();
    let pods = Pods::of("orders", &["a"]);
    rig.mark("orders", "a");
    rig.reconcile(&pods);
    rig.listen();
    rig.mark("orders", "a");
    let mut edited = Pods::of("orders", &["a"]);
    edited.selected[0].2.gated = Some("10.0.0.7".into());
    rig.reconcile(&edited);
    let registrations = &rig.planner.registrations;
    let desired = registrations
        .desired(&reference("orders"), &"a".into())
        .expect("it is registered");
    let record = &desired.by_endpoint[0].records[0];
    let (known, state) = rig.planner.keys.iter().next().expect("one key");
    assert!(Arc::ptr_eq(&record.key, known));
    let held = state.held.as_ref().expect("it is in etcd");
    assert!(Arc::ptr_eq(&record.value, &held.value));
}
