//! What a Registry's rules do to existing keys: forbidden keys are removed, and pods above the quota get none.

use super::*;
use crate::api::{FormatType, GuardMode};
use crate::model::RegistrationRef;
use crate::plan::guard::Cause;
use crate::plan::policy::Rule;
use crate::plan::{GuardSettings, Moment, PodState, Policy, PrefixGrant, Quota};

fn at(pod: &str) -> DesiredPod {
    desired(pod, &[&format!("/s/{pod}")], "1")
}

/// The grant of a namespace with one rule, which allows this prefix.
fn only(prefix: &str) -> PrefixGrant {
    let rule = Rule {
        name: "r".into(),
        prefixes: Some(vec![prefix.into()]),
        ..Rule::default()
    };
    let policy = Policy { rules: vec![rule] };
    policy
        .namespace_policy(&"shop".into(), |_| None)
        .pass(FormatType::Plain, 30)
}

impl Rig {
    /// A rig with these pods in etcd, and a guard that holds back nearly everything.
    fn guarded(pods: &[String]) -> Self {
        let mut rig = Self::new();
        rig.planner.set_guard(GuardSettings {
            mode: GuardMode::Hold,
            window: Duration::from_mins(1),
            max_loss_percent: 1,
            min_endpoints: 1,
            hold: Duration::from_hours(1),
        });
        rig.judge_now();
        for pod in pods {
            rig.planner
                .set_pod_state(&reference("orders"), &pod.as_str().into(), PodState::Ready(at(pod)));
        }
        rig.run();
        rig
    }

    fn judge_now(&mut self) {
        self.listen();
        let moment = Moment {
            now: Instant::now(),
            unix: Duration::from_secs(1),
        };
        self.planner.decide_removals(moment, None, || "h".to_owned());
    }

    fn kept_keys(&self) -> Vec<String> {
        self.etcd.data().map(|(key, _)| key["/s/".len()..].to_owned()).collect()
    }

    /// Changes the rules so that `orders` may write nothing below `/s/` any more.
    fn forbid(&mut self, settings: &RegistrationSettings, pods: &[String]) {
        let orders = reference("orders");
        self.planner.set_settings(
            &orders,
            RegistrationSettings {
                prefixes: Vec::new(),
                ..settings.clone()
            },
        );
        self.planner
            .forbid(&orders, vec![(Prefix::below("/s/"), only("/other"))]);
        for pod in pods {
            let nothing = desired(pod, &[], "1");
            self.planner
                .change_pod_state(&orders, &pod.as_str().into(), PodState::Ready(nothing), Cause::Edit);
        }
    }

    fn allow(&mut self, keys: usize) {
        let quota = Quota { keys, rule: "r".into() };
        self.planner.set_quota(&reference("orders").namespace, Some(quota));
    }

    fn succeed(&mut self) {
        self.etcd.forget_watches();
        self.fence = self.etcd.elect();
        self.planner = Planner::new(meta(), 256);
        self.planner.set_settings(&reference("orders"), settings(1));
    }
}

fn pods(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("p{i}")).collect()
}

#[test]
fn what_all_pods_are_forbidden_is_held_until_it_is_allowed_again() {
    let pods = pods(20);
    for settings in [settings(1), suspended(1)] {
        let mut rig = Rig::guarded(&pods);
        rig.planner.set_settings(&reference("orders"), settings.clone());
        rig.forbid(&settings, &pods);
        rig.judge_now();
        assert!(rig.run().is_empty());
        assert_eq!((rig.kept_keys().len(), rig.report("orders").held), (20, 20));
        // A change of a pod, which stays ready, releases nothing; its end does.
        let other = desired("p3", &[], "2");
        rig.planner
            .set_pod_state(&reference("orders"), &"p3".into(), PodState::Ready(other));
        rig.drop_pod("orders", "p4");
        rig.judge_now();
        rig.run();
        assert_eq!(rig.kept_keys().len(), 19);

        rig.planner.set_settings(&reference("orders"), settings.clone());
        rig.planner.forbid(&reference("orders"), Vec::new());
        for pod in pods.iter().filter(|pod| *pod != "p4") {
            rig.planner
                .set_pod_state(&reference("orders"), &pod.as_str().into(), PodState::Ready(at(pod)));
        }
        rig.judge_now();
        assert!(rig.run().is_empty(), "no key is written again");
        assert_eq!((rig.kept_keys().len(), rig.report("orders").held), (19, 0));
        assert!(rig.planner.hold().is_none());
    }
}

#[test]
fn what_few_pods_are_forbidden_goes_once_the_guard_has_decided() {
    let pods = pods(3);
    let mut rig = Rig::guarded(&pods);
    rig.planner.set_guard(crate::plan::tests::unconfirmed::guard());
    rig.forbid(&settings(1), &pods);
    rig.judge_now();
    rig.run();
    assert_eq!(rig.kept_keys(), Vec::<String>::new());
}

#[test]
fn a_successor_holds_what_it_finds_forbidden() {
    let pods = pods(20);
    let mut rig = Rig::guarded(&pods);
    rig.succeed();
    rig.planner.set_guard(crate::plan::GuardSettings::EVERYTHING);
    rig.planner.set_settings(&reference("orders"), suspended(1));
    rig.planner
        .forbid(&reference("orders"), vec![(Prefix::below("/s/"), only("/other"))]);
    rig.planner.kubernetes_is_complete();
    rig.run();
    rig.judge_now();
    rig.run();
    assert_eq!((rig.kept_keys().len(), rig.report("orders").held), (20, 20));
}

#[test]
fn lowered_quota_removes_few_keys_at_once_and_many_after_the_hold() {
    let pods = pods(20);
    let mut rig = Rig::guarded(&pods);
    rig.planner.set_guard(crate::plan::tests::unconfirmed::guard());
    rig.allow(11);
    rig.judge_now();
    rig.run();
    rig.judge_now();
    rig.run();
    assert_eq!(rig.kept_keys().len(), 11, "9 of 20");
    rig.allow(2);
    rig.run();
    rig.judge_now();
    rig.run();
    assert_eq!((rig.kept_keys().len(), rig.report("orders").held), (11, 9), "18 of 20");
    // What is held counts for nobody; it is used again when there is room.
    rig.allow(6);
    rig.run();
    assert_eq!((rig.kept_keys().len(), rig.report("orders").held), (11, 5));
    rig.planner.set_quota(&reference("orders").namespace, None);
    rig.run();
    assert_eq!((rig.kept_keys().len(), rig.report("orders").held), (20, 0));
}

#[test]
fn what_is_held_back_stays_held_when_it_is_forbidden() {
    let pods = pods(20);
    let mut rig = Rig::guarded(&pods);
    for pod in &pods {
        rig.planner
            .set_pod_state(&reference("orders"), &pod.as_str().into(), PodState::Unready(at(pod)));
    }
    rig.judge_now();
    rig.run();
    assert_eq!(rig.kept_keys().len(), 20, "they are held back");
    let orders = reference("orders");
    rig.planner.set_settings(
        &orders,
        RegistrationSettings {
            prefixes: Vec::new(),
            ..settings(1)
        },
    );
    rig.planner
        .forbid(&orders, vec![(Prefix::below("/s/"), only("/other"))]);
    rig.judge_now();
    assert!(rig.run().is_empty());
    assert_eq!(rig.report("orders").held, 20);
    // The pods are ready again, and may not have the keys.
    for pod in &pods {
        let nothing = PodState::Ready(desired(pod, &[], "1"));
        rig.planner.set_pod_state(&orders, &pod.as_str().into(), nothing);
    }
    rig.judge_now();
    assert!(rig.run().is_empty());
    assert_eq!(rig.report("orders").held, 20);
}

#[test]
fn a_suspended_registration_keeps_nothing_that_is_forbidden() {
    let pods = pods(3);
    let mut rig = Rig::guarded(&pods);
    rig.planner.set_guard(GuardSettings::OFF);
    rig.planner.set_settings(&reference("orders"), suspended(1));
    rig.forbid(&suspended(1), &pods);
    rig.run();
    assert_eq!(rig.kept_keys(), Vec::<String>::new());
}

#[test]
fn a_suspended_registration_keeps_what_is_allowed_and_loses_the_rest() {
    let pods = pods(3);
    let mut rig = Rig::guarded(&pods);
    rig.planner.set_guard(GuardSettings::OFF);
    let orders = reference("orders");
    rig.planner.set_settings(&orders, suspended(1));
    rig.planner.forbid(&orders, vec![(Prefix::below("/s/"), only("/s/p1"))]);
    for pod in ["p0", "p2"] {
        let nothing = desired(pod, &[], "1");
        rig.planner
            .set_pod_state(&orders, &pod.into(), PodState::Ready(nothing));
    }
    rig.run();
    assert_eq!(rig.kept_keys(), ["p1"]);
}

#[test]
fn denied_registration_does_not_forbid_keys_of_another() {
    let mut rig = Rig::guarded(&pods(2));
    rig.planner.set_settings(
        &reference("thief"),
        RegistrationSettings {
            prefixes: Vec::new(),
            ..settings(2)
        },
    );
    rig.planner
        .forbid(&reference("thief"), vec![(Prefix::below("/s/"), only("/other"))]);
    assert!(rig.run().is_empty());
    assert_eq!(rig.kept_keys(), ["p0", "p1"]);
}

#[test]
fn quota_prefers_the_older_registration_but_removes_no_existing_key() {
    let mut rig = Rig::new();
    rig.allow(2);
    rig.planner.set_settings(&reference("younger"), settings(9));
    rig.want("younger", "y0", &["/s/y0"], "1");
    rig.run();
    for pod in ["o0", "o1", "o2"] {
        rig.want("orders", pod, &[&format!("/s/{pod}")], "1");
    }
    rig.run();
    assert_eq!(rig.kept_keys(), ["o0", "y0"]);
    let problem = rig
        .report("orders")
        .problems
        .keys()
        .next()
        .cloned()
        .expect("it is told");
    assert!(
        problem.contains("the rule r") && problem.contains("2 keys"),
        "{problem}"
    );
    assert_eq!(rig.report("orders").ruled_out, Some(crate::api::Reason::QuotaExceeded));
    // Free room is given to the older registration, although a pod of the younger one waits, too.
    rig.want("younger", "a", &["/s/a"], "1");
    rig.drop_pod("younger", "y0");
    rig.run();
    assert_eq!(rig.kept_keys(), ["o0", "o1"]);
    rig.drop_pod("orders", "o0");
    rig.run();
    assert_eq!(rig.kept_keys(), ["o1", "o2"]);
}

#[test]
fn pod_with_an_earlier_name_does_not_replace_a_registered_pod() {
    let mut rig = Rig::new();
    rig.allow(1);
    rig.want("orders", "b", &["/s/b"], "1");
    rig.run();
    rig.want("orders", "a", &["/s/a"], "1");
    assert!(rig.run().is_empty(), "nothing is written");
    assert_eq!(rig.kept_keys(), ["b"]);
    // Setting the same again changes nothing.
    rig.want("orders", "b", &["/s/b"], "1");
    rig.want("orders", "a", &["/s/a"], "1");
    assert!(rig.run().is_empty());
    rig.want("orders", "b", &["/s/b"], "2");
    rig.run();
    assert_eq!(
        (rig.kept_keys(), rig.etcd.value("/s/b").as_deref()),
        (vec!["b".to_owned()], Some("2"))
    );
}

#[test]
fn lowered_quota_removes_the_youngest_and_raised_quota_restores_it() {
    let mut rig = Rig::new();
    rig.planner.set_settings(&reference("younger"), settings(9));
    rig.want("orders", "z", &["/s/z"], "1");
    rig.want("younger", "a", &["/s/a"], "1");
    rig.allow(2);
    rig.run();
    assert_eq!(rig.kept_keys(), ["a", "z"]);
    rig.allow(1);
    rig.run();
    assert_eq!(rig.kept_keys(), ["z"]);
    rig.planner.set_quota(&reference("orders").namespace, None);
    rig.run();
    assert_eq!(rig.kept_keys(), ["a", "z"]);
}

#[test]
fn the_next_leader_decides_as_the_one_before() {
    let mut rig = Rig::new();
    rig.allow(2);
    rig.want("orders", "x", &["/s/x"], "1");
    rig.want("orders", "y", &["/s/y"], "1");
    rig.run();
    let revision = rig.etcd.held("/s/x").map(|held| held.mod_revision);
    rig.succeed();
    rig.allow(2);
    for pod in ["a", "b", "x", "y"] {
        rig.want("orders", pod, &[&format!("/s/{pod}")], "1");
    }
    rig.planner.kubernetes_is_complete();
    assert!(rig.run().is_empty(), "nothing is written");
    assert_eq!(rig.kept_keys(), ["x", "y"]);
    assert_eq!(rig.etcd.held("/s/x").map(|held| held.mod_revision), revision);
}

impl Rig {
    /// `orders` keeps its last endpoint. With an older registration, it shares a quota of two keys, which two pods use: one
    /// of each. `older` and `second` wait for room if they are among `ready`. The pod `first` of `orders` is not ready.
    fn show_kept_at_quota(&mut self, ready: &[&str]) {
        let keeping = RegistrationSettings {
            keep_last: true,
            ..settings(2)
        };
        self.planner.set_settings(&reference("orders"), keeping);
        self.planner.set_settings(&reference("other"), settings(1));
        self.allow(2);
        let unready = PodState::Unready(at("first"));
        self.planner
            .set_pod_state(&reference("orders"), &"first".into(), unready);
        for pod in ready {
            let registration = if *pod == "second" { "orders" } else { "other" };
            self.want(registration, pod, &[&format!("/s/{pod}")], "1");
        }
    }

    fn settle_removals(&mut self) {
        self.run();
        self.judge_now();
        self.run();
    }
}

#[test]
fn kept_last_endpoint_is_removed_once_a_pod_above_the_quota_is_registered() {
    let mut rig = Rig::new();
    rig.allow(2);
    rig.want("orders", "first", &["/s/first"], "1");
    rig.run();
    rig.show_kept_at_quota(&["o", "older"]);
    rig.settle_removals();
    assert_eq!(rig.kept_keys(), ["first", "o"]);
    // The quota has no room for another pod of it.
    rig.want("orders", "second", &["/s/second"], "1");
    rig.settle_removals();
    assert_eq!(rig.kept_keys(), ["first", "o"], "the service is not emptied");
    rig.succeed();
    rig.show_kept_at_quota(&["o", "older", "second"]);
    rig.planner.kubernetes_is_complete();
    rig.settle_removals();
    assert_eq!(rig.kept_keys(), ["first", "o"], "nor by the next leader");
    rig.drop_pod("other", "o");
    rig.settle_removals();
    assert_eq!(rig.kept_keys(), ["first", "older"], "the older one comes first");
    rig.drop_pod("other", "older");
    rig.settle_removals();
    assert_eq!(rig.kept_keys(), ["second"]);
}

#[test]
fn room_of_a_pod_whose_keys_are_held_is_free_only_when_they_are_gone() {
    let pods = pods(3);
    let mut rig = Rig::guarded(&pods);
    rig.allow(3);
    rig.want("orders", "waits", &["/s/waits"], "1");
    let show = |rig: &mut Rig, pod_state: PodState| {
        rig.planner.set_pod_state(&reference("orders"), &"p0".into(), pod_state);
        rig.settle_removals();
    };
    show(&mut rig, PodState::Unready(at("p0")));
    assert_eq!((rig.kept_keys(), rig.report("orders").held), (pods.clone(), 1));
    let revision = rig.etcd.revision();
    show(&mut rig, PodState::Ready(at("p0")));
    assert_eq!(rig.kept_keys(), pods, "no pod loses its key to the one that is back");
    assert_eq!(
        rig.etcd.held("/s/p0").map(|held| held.mod_revision < revision),
        Some(true)
    );
    rig.drop_pod("orders", "p1");
    rig.settle_removals();
    assert_eq!(rig.kept_keys(), ["p0", "p2", "waits"]);
}

#[test]
fn switch_to_as_many_other_pods_at_a_full_quota_is_not_held() {
    for cause in [Cause::Edit, Cause::Pod] {
        let mut rig = unconfirmed::registered();
        rig.allow(unconfirmed::PODS);
        let others: Vec<String> = (0..unconfirmed::PODS).map(|i| format!("other-{i:02}")).collect();
        for pod in &others {
            rig.want("orders", pod, &[&format!("/s/{pod}")], "1");
        }
        assert!(rig.run().is_empty(), "they wait");
        for number in 0..unconfirmed::PODS {
            let pod = unconfirmed::pod(number);
            let pod_state = match cause {
                Cause::Edit => PodState::Missing,
                Cause::Pod => PodState::Unready(desired(&pod, &[&unconfirmed::key(number)], "1")),
            };
            rig.planner
                .change_pod_state(&reference("orders"), &pod, pod_state, cause);
        }
        rig.settle_removals();
        assert_eq!(rig.kept_keys(), others, "{cause:?}");
    }
}

#[test]
fn edit_that_is_reverted_while_it_is_held_gives_all_pods_their_room_back() {
    let mut rig = unconfirmed::registered();
    rig.allow(unconfirmed::PODS);
    rig.planner.set_settings(&reference("older"), settings(0));
    for i in 0..5 {
        rig.want("older", &format!("waits-{i}"), &[&format!("/s/waits-{i}")], "1");
    }
    assert!(rig.run().is_empty(), "they wait");
    let registered = rig.kept_keys();
    let mut edit = |pod_state: fn(usize) -> PodState| {
        for number in 0..unconfirmed::PODS {
            let pod = unconfirmed::pod(number);
            let orders = reference("orders");
            rig.planner
                .change_pod_state(&orders, &pod, pod_state(number), Cause::Edit);
        }
        rig.settle_removals();
        assert_eq!(rig.kept_keys(), registered);
    };
    edit(|_| PodState::Missing);
    edit(|number| PodState::Ready(desired(&unconfirmed::pod(number), &[&unconfirmed::key(number)], "1")));
}

#[test]
fn key_that_pods_of_two_namespaces_had_uses_the_quota_of_one() {
    let mut rig = Rig::guarded(&[]);
    let crew = RegistrationRef::new("crew", "orders");
    rig.planner.set_settings(&crew, settings(2));
    let both = [reference("orders"), crew];
    let show = |rig: &mut Rig, pod: &str, pod_state: [PodState; 2]| {
        for (registration, pod_state) in both.iter().zip(pod_state) {
            rig.planner.set_pod_state(registration, &pod.into(), pod_state);
        }
        rig.settle_removals();
    };
    show(&mut rig, "a", [PodState::Ready(at("a")), PodState::Ready(at("a"))]);
    for registration in &both {
        let quota = Quota {
            keys: 1,
            rule: "r".into(),
        };
        rig.planner.set_quota(&registration.namespace, Some(quota));
    }
    show(&mut rig, "b", [PodState::Ready(at("b")), PodState::Ready(at("c"))]);
    show(&mut rig, "a", [PodState::Unready(at("a")), PodState::Unready(at("a"))]);
    let waiting = both
        .iter()
        .filter(|registration| rig.planner.is_over_quota(registration, &"b".into()));
    assert_eq!(waiting.count(), 1);
    show(&mut rig, "a", [PodState::Gone(Vec::new()), PodState::Gone(Vec::new())]);
    assert_eq!(rig.kept_keys(), ["b", "c"]);
}

#[test]
fn a_pod_has_all_of_its_keys_or_none() {
    let mut rig = Rig::new();
    rig.allow(3);
    rig.want("orders", "a", &["/s/a1", "/s/a2"], "1");
    rig.want("orders", "b", &["/s/b1", "/s/b2"], "1");
    rig.run();
    assert_eq!(rig.kept_keys(), ["a1", "a2"]);
}

#[test]
fn one_namespace_that_asks_for_much_holds_up_no_other() {
    let mut rig = Rig::new();
    let other = crate::model::RegistrationRef::new("other", "small");
    rig.planner.set_settings(&other, settings(5));
    rig.want("orders", "first", &["/s/first"], "1");
    rig.run();
    for i in 0..1000 {
        rig.want("orders", &format!("p{i:04}"), &[&format!("/s/p{i:04}")], "1");
    }
    let desired = desired("small", &["/s/small"], "1");
    rig.planner.set_desired(&other, &"small".into(), Some(desired));
    let written = rig.run();
    let first = written.first().expect("something is written");
    assert!(keys(first).contains(&"/s/small"), "not in {:?}", keys(first));
    assert!(written.len() > 5, "the flood is more than one transaction");
}

#[test]
fn deciding_about_changed_pods_comes_to_the_same_as_deciding_about_all() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rigs = [Rig::new(), Rig::new()];
        for rig in &mut rigs {
            rig.planner.set_settings(&reference("younger"), settings(9));
            rig.allow(4);
        }
        for step in 0..30 {
            let (owner, pod) = (random.choice(["orders", "younger"]), random.u8(0..6));
            let name = format!("{}{pod}", &owner.expect("there are two")[..1]);
            let keys: Vec<String> = (0..random.u8(1..3)).map(|i| format!("/s/{name}-{i}")).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let (change, limit) = (random.u8(0..10), random.usize(1..7));
            let is_settled = random.bool();
            for (rig, about_all) in rigs.iter_mut().zip([false, true]) {
                match change {
                    0..6 => rig.want(owner.expect("there are two"), &name, &keys, "1"),
                    6..9 => rig.drop_pod(owner.expect("there are two"), &name),
                    _ => rig.allow(limit),
                }
                if about_all {
                    rig.planner.quotas.mark_all_undecided();
                }
                if is_settled {
                    rig.run();
                }
            }
            if is_settled {
                let [changed, all] = &rigs;
                assert_eq!(changed.kept_keys(), all.kept_keys(), "seed {seed}, step {step}");
            }
        }
    }
}
