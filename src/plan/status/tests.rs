//! What the author of a registration reads in each situation.

use crate::api::conditions::{keep_times, keep_undecided, same_status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::model::{LeaseId, RegistrationRef};
use crate::plan::EndpointAddress;
use crate::plan::testing;

const SUBJECT: Subject<'_> = Subject {
    suppressed: &[],
    generation: 3,
    service: "orders",
    registry: "default",
    kind: EndpointKind::SelectedPods,
    selected: 2,
    obstacle: None,
    missing: None,
    holding: &Holding::Nothing,
};

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn endpoint(pod: &str, port: u16) -> (Arc<str>, EndpointAddress) {
    (pod.into(), testing::endpoint(pod, port).into())
}

/// A report of `ready` pods of which `endpoints` are registered, each with one port.
fn report<'a>(ready: usize, endpoints: &'a [(Arc<str>, EndpointAddress)]) -> Report<'a> {
    let registered = |(pod, endpoint): &'a (Arc<str>, EndpointAddress)| Registered {
        pod,
        endpoint,
        keys: vec!["/s/p".into()],
    };
    Report {
        kept: None,
        waiting: Vec::new(),
        suspended: false,
        ready,
        registered: endpoints.len(),
        endpoints: endpoints.iter().map(registered).collect(),
        outstanding: 0,
        held: 0,
        conflicts: Vec::new(),
        problems: BTreeMap::new(),
        ruled_out: None,
        denied: Vec::new(),
        rejected: None,
        retained: 0,
        retained_at: BTreeSet::new(),
        carried_out: false,
    }
}

#[test]
fn permission_denied_precedes_pending_writes_and_says_how_to_grant() {
    let prefix = |prefix: &str| crate::model::Prefix::below(prefix);
    let report = Report {
        outstanding: 2,
        denied: vec![
            (prefix("/shop/orders"), crate::plan::Right::Write),
            (prefix("/other/orders"), crate::plan::Right::Read),
        ],
        ..report(1, &[])
    };
    let status = status(&report, &Readiness::Firm);
    let (holds, reason, message) = reported(&status, ConditionType::Synced);
    assert_eq!((holds, reason), ("False", "PermissionDenied"));
    for part in [
        "write below /shop/orders/ and read what lies below /other/orders/",
        "leasehold doctor --etcd-role",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

fn status(report: &Report<'_>, readiness: &Readiness) -> ServiceRegistrationStatus {
    status_of(report, readiness, SUBJECT, &at(100))
}

/// Status, reason and message of a condition.
fn reported(status: &ServiceRegistrationStatus, kind: ConditionType) -> (&str, &str, &str) {
    let conditions = &status.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind.as_str());
    let found = found.unwrap_or_else(|| panic!("there is no condition {}", kind.as_str()));
    assert_eq!(found.observed_generation, Some(3));
    (&found.status, &found.reason, &found.message)
}

/// Status and reason of a condition.
fn said(status: &ServiceRegistrationStatus, kind: ConditionType) -> (&str, &str) {
    let (holds, reason, _) = reported(status, kind);
    (holds, reason)
}

#[expect(clippy::unnecessary_wraps, reason = "as the status has it")]
fn pods(selected: u32, ready: u32, registered: u32) -> Option<PodCounts> {
    Some(PodCounts {
        selected,
        ready,
        registered,
    })
}

fn conflict(key: &str, holder: Holder) -> Conflict {
    Conflict {
        key: key.into(),
        holder,
        along: Vec::new(),
    }
}

#[test]
fn all_is_well_when_every_ready_pod_is_in_etcd() {
    let endpoints = [endpoint("p", 8080)];
    let status = status(&report(1, &endpoints), &Readiness::Firm);
    assert_eq!(said(&status, ConditionType::Accepted), ("True", "Accepted"));
    assert_eq!(said(&status, ConditionType::Synced), ("True", "InSync"));
    assert_eq!(said(&status, ConditionType::Ready), ("True", "EndpointsRegistered"));
    assert_eq!(said(&status, ConditionType::Conflict), ("False", "NoConflict"));
    assert_eq!(status.pods, pods(2, 1, 1));
    assert_eq!((status.observed_generation, status.endpoints_omitted), (Some(3), None));
    assert_eq!(status.service_name.as_deref(), Some("orders"));
}

#[test]
fn each_endpoint_is_listed_with_its_pod_address_port_and_keys() {
    let endpoints = [endpoint("p", 8080)];
    let listed = status(&report(1, &endpoints), &Readiness::Firm).endpoints;
    let expected = EndpointStatus {
        address: "10.0.0.7".to_owned(),
        port: 8080,
        port_name: "grpc".to_owned(),
        pod: "p".to_owned(),
        keys: vec!["/s/p".to_owned()],
    };
    assert_eq!(listed, [expected]);
}

#[test]
fn without_a_ready_pod_it_is_in_sync_and_not_ready() {
    let status = status(&report(0, &[]), &Readiness::Firm);
    assert_eq!(said(&status, ConditionType::Synced), ("True", "InSync"));
    let (holds, reason, message) = reported(&status, ConditionType::Ready);
    assert_eq!((holds, reason), ("False", "NoReadyPods"));
    assert!(message.starts_with("None of the 2 selected pods is ready"), "{message}");
    assert_eq!(status.pods, pods(2, 0, 0));
}

#[test]
fn pods_that_wait_for_min_ready_seconds_are_no_error() {
    let endpoints = [endpoint("p", 8080)];
    let waits: Arc<str> = "q".into();
    let one = Report {
        waiting: vec![&waits],
        ..report(2, &endpoints)
    };
    let one = status(&one, &Readiness::Firm);
    assert_eq!(
        reported(&one, ConditionType::Synced),
        (
            "True",
            "InSync",
            "1 of 2 ready pods are registered. Not ready for spec.minReadySeconds yet: 1."
        )
    );
    assert_eq!(said(&one, ConditionType::Ready), ("True", "EndpointsRegistered"));
    let none = Report {
        waiting: vec![&waits],
        ..report(1, &[])
    };
    let none = status(&none, &Readiness::Firm);
    assert_eq!(said(&none, ConditionType::Synced), ("True", "InSync"));
    let (holds, reason, message) = reported(&none, ConditionType::Ready);
    assert_eq!((holds, reason), ("False", "NoAvailablePods"));
    assert!(message.contains("spec.minReadySeconds"), "{message}");
}

#[test]
fn a_generation_without_pods_is_ready_and_says_that_there_are_none() {
    let none_selected = Subject { selected: 0, ..SUBJECT };
    let empty = status_of(&report(0, &[]), &Readiness::Firm, none_selected, &at(100));
    assert_eq!(said(&empty, ConditionType::Synced), ("True", "InSync"));
    let (holds, reason, message) = reported(&empty, ConditionType::Ready);
    assert_eq!((holds, reason), ("True", "NoPods"));
    for part in [
        "normal for a workload that is scaled to zero",
        "kubectl get pods --show-labels",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let suspended = Report {
        suspended: true,
        ..report(0, &[])
    };
    let suspended = status_of(&suspended, &Readiness::Firm, none_selected, &at(100));
    assert_eq!(said(&suspended, ConditionType::Ready), ("True", "NoPods"));
}

#[test]
fn a_generation_without_pods_is_not_ready_before_it_is_carried_out() {
    let none_selected = Subject { selected: 0, ..SUBJECT };
    let removing = Report {
        outstanding: 1,
        ..report(0, &[])
    };
    let removing = status_of(&removing, &Readiness::Firm, none_selected, &at(100));
    let (holds, reason, message) = reported(&removing, ConditionType::Ready);
    assert_eq!((holds, reason), ("False", "NoPods"));
    assert!(message.contains("see the condition Synced"), "{message}");
    for readiness in [Readiness::Starting, Readiness::Unreachable("gone".to_owned())] {
        let unknown = status_of(&report(0, &[]), &readiness, none_selected, &at(100));
        assert_eq!(said(&unknown, ConditionType::Ready), ("Unknown", "NoPods"));
    }
}

#[test]
fn what_is_still_in_etcd_counts_more_than_how_many_pods_are_selected() {
    let none_selected = Subject { selected: 0, ..SUBJECT };
    let endpoints = [endpoint("p", 8080)];
    let registered = status_of(&report(1, &endpoints), &Readiness::Firm, none_selected, &at(100));
    assert_eq!(said(&registered, ConditionType::Ready), ("True", "EndpointsRegistered"));
    let waiting = status_of(&report(1, &[]), &Readiness::Firm, none_selected, &at(100));
    assert_eq!(said(&waiting, ConditionType::Ready), ("False", "NothingRegistered"));
}

#[test]
fn pending_writes_are_reported_with_their_count() {
    let mut report = report(2, &[]);
    (report.outstanding, report.registered) = (2, 0);
    let status = status(&report, &Readiness::Firm);
    let (holds, reason, message) = reported(&status, ConditionType::Synced);
    assert_eq!((holds, reason), ("False", "Writing"));
    assert_eq!(
        message,
        "0 of 2 ready pods are registered. 2 keys are being written or removed."
    );
    assert_eq!(said(&status, ConditionType::Ready), ("False", "NothingRegistered"));
}

#[test]
fn synced_is_unknown_while_etcd_is_unreachable_or_unread() {
    let endpoints = [endpoint("p", 8080)];
    let mut report = report(2, &endpoints);
    report.outstanding = 1;
    let unreachable = status(&report, &Readiness::Unreachable("no member answers".to_owned()));
    let (holds, reason, message) = reported(&unreachable, ConditionType::Synced);
    assert_eq!((holds, reason), ("Unknown", "RegistryUnreachable"));
    assert!(message.ends_with("no member answers"));
    assert_eq!(
        said(&unreachable, ConditionType::Ready),
        ("True", "EndpointsRegistered")
    );
    let starting = status(&report, &Readiness::Starting);
    assert_eq!(said(&starting, ConditionType::Synced), ("Unknown", "Starting"));
}

#[test]
fn a_suspended_registration_says_so_whatever_else_is_the_matter() {
    let mut report = report(2, &[]);
    (report.suspended, report.outstanding) = (true, 2);
    for readiness in [
        Readiness::Firm,
        Readiness::Starting,
        Readiness::Unreachable(String::new()),
    ] {
        assert_eq!(
            said(&status(&report, &readiness), ConditionType::Synced),
            ("False", "Frozen")
        );
    }
}

#[test]
fn foreign_key_is_reported_with_lease_and_age() {
    let mut report = report(2, &[]);
    let holder = |lease| Holder::OtherClient {
        lease,
        create_revision: 7,
    };
    report.conflicts = vec![
        conflict("/s/p", holder(LeaseId(0xab))),
        conflict("/s/q", holder(LeaseId::NONE)),
    ];
    report.registered = 0;
    let status = status(&report, &Readiness::Firm);
    let (holds, reason, message) = reported(&status, ConditionType::Conflict);
    assert_eq!((holds, reason), ("True", "HeldByOther"));
    assert!(
        message
            .contains("/s/p is held by someone outside this cluster (lease 00000000000000ab, created at revision 7)")
    );
    assert!(message.contains("/s/q is held by someone outside this cluster (no lease, created at revision 7)"));
    assert_eq!(said(&status, ConditionType::Synced), ("False", "KeysHeld"));
}

#[test]
fn older_registration_holding_the_key_is_reported_by_name() {
    let mut report = report(1, &[]);
    let elder = Holder::Registration(RegistrationRef::new("shop", "elder"));
    report.conflicts = vec![conflict("/s/p", elder)];
    let status = status(&report, &Readiness::Firm);
    let (holds, reason, message) = reported(&status, ConditionType::Conflict);
    assert_eq!((holds, reason), ("True", "HeldByRegistration"));
    assert!(
        message.contains("/s/p is held by the registration shop/elder, which claimed it first"),
        "{message}"
    );
}

#[test]
fn long_list_is_shortened_to_three_items_and_a_count() {
    let mut report = report(5, &[]);
    let pods: Vec<Arc<str>> = (0..5).map(|pod| format!("p{pod}").into()).collect();
    report.problems = BTreeMap::from([("no port".to_owned(), pods)]);
    report.registered = 0;
    let status = status(&report, &Readiness::Firm);
    let (holds, reason, message) = reported(&status, ConditionType::Synced);
    assert_eq!((holds, reason), ("False", "EndpointsRefused"));
    assert_eq!(message, "no port (p0, p1, p2 and 2 more)");
}

#[test]
fn a_registration_that_is_refused_says_why_in_one_place() {
    let status = refused_status(Reason::RegistryNotFound, "there is no Registry", SUBJECT, &at(100));
    let accepted = reported(&status, ConditionType::Accepted);
    assert_eq!(accepted, ("False", "RegistryNotFound", "there is no Registry"));
    for kind in [ConditionType::Synced, ConditionType::Ready] {
        assert_eq!(said(&status, kind), ("False", "NotAccepted"));
    }
    assert_eq!((status.pods, status.endpoints.len()), (None, 0));
}

#[test]
fn a_list_too_long_for_an_object_is_cut_and_says_how_much_is_missing() {
    let endpoints: Vec<_> = (0..20_000)
        .map(|pod| endpoint(&format!("orders-{pod:05}"), 8080))
        .collect();
    let status = status(&report(20_000, &endpoints), &Readiness::Firm);
    assert_eq!(
        status.endpoints.len() + status.endpoints_omitted.unwrap() as usize,
        20_000
    );
    assert_eq!(status.endpoints.len(), 1000);
    assert_eq!(status.pods, pods(2, 20_000, 20_000), "the counts are not cut");
}

#[test]
fn a_list_of_large_endpoints_is_cut_by_its_bytes() {
    let endpoints: Vec<_> = (0..900)
        .map(|pod| endpoint(&format!("orders-{pod:03}"), 8080))
        .collect();
    let mut report = report(900, &endpoints);
    for registered in &mut report.endpoints {
        registered.keys = vec!["/".repeat(2_000).into()];
    }
    let status = status(&report, &Readiness::Firm);
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!((900_000..1_010_000).contains(&bytes), "{bytes} bytes");
    assert_eq!(status.endpoints.len() + status.endpoints_omitted.unwrap() as usize, 900);
}

#[test]
fn statuses_that_differ_in_times_only_are_the_same() {
    let endpoints = [endpoint("p", 8080)];
    let (full, empty) = (report(1, &endpoints), report(0, &[]));
    let before = status_of(&full, &Readiness::Firm, SUBJECT, &at(1));
    let later = status_of(&full, &Readiness::Firm, SUBJECT, &at(2));
    assert_ne!(before, later);
    assert!(same_status(&before, &later));
    assert!(!same_status(
        &before,
        &status_of(&empty, &Readiness::Firm, SUBJECT, &at(1))
    ));
    let changed = Subject {
        generation: 4,
        ..SUBJECT
    };
    assert!(!same_status(
        &before,
        &status_of(&full, &Readiness::Firm, changed, &at(1))
    ));
}

#[test]
fn a_condition_that_stays_as_it_was_keeps_its_time() {
    let endpoints = [endpoint("p", 8080)];
    let before = status_of(&report(0, &[]), &Readiness::Firm, SUBJECT, &at(1));
    let mut now = status_of(&report(1, &endpoints), &Readiness::Firm, SUBJECT, &at(2));
    keep_times(&mut now.conditions, &before.conditions);
    let time = |kind: ConditionType| {
        let found = now.conditions.iter().find(|condition| condition.type_ == kind.as_str());
        found.map(|condition| condition.last_transition_time.clone())
    };
    assert_eq!(time(ConditionType::Accepted), Some(at(1)));
    assert_eq!(time(ConditionType::Ready), Some(at(2)), "it became true");
}

#[test]
fn held_keys_are_reported_with_a_pointer_to_the_hold() {
    let report = Report {
        held: 12,
        ..report(0, &[])
    };
    let holding = Holding::Some("20 of 20 keys would have gone.".into());
    let subject = Subject {
        holding: &holding,
        ..SUBJECT
    };
    let status = status_of(&report, &Readiness::Firm, subject, &at(100));
    let (holds, reason, message) = reported(&status, ConditionType::RemovalsHeld);
    assert_eq!((holds, reason), ("True", "LossAboveLimit"));
    assert_eq!(
        message,
        "12 keys are kept in etcd though they are not desired: 20 of 20 keys would have gone."
    );
    assert_eq!(said(&status, ConditionType::Synced), ("False", "RemovalsHeld"));
    let (holds, reason, message) = reported(&status, ConditionType::Ready);
    assert_eq!((holds, reason), ("False", "NoReadyPods"));
    assert!(message.ends_with("see the condition RemovalsHeld."), "{message}");
}

#[test]
fn a_kept_last_endpoint_is_in_sync_but_no_ready_pod_is_registered() {
    let (endpoints, pod) = ([endpoint("p", 8080)], "p".into());
    let report = Report {
        kept: Some(&pod),
        registered: 0,
        ..report(0, &endpoints)
    };
    let status = status(&report, &Readiness::Firm);
    assert_eq!(said(&status, ConditionType::Synced), ("True", "LastEndpointKept"));
    let (holds, reason, message) = reported(&status, ConditionType::Ready);
    assert_eq!((holds, reason), ("False", "LastEndpointKept"));
    assert!(
        message.contains("The endpoint of p, which was the last one, is kept"),
        "{message}"
    );
    assert_eq!((status.pods, status.endpoints.len()), (pods(2, 0, 0), 1));
}

#[test]
fn records_are_counted_by_the_location_of_their_format() {
    let endpoints = [endpoint("p", 8080), endpoint("q", 8080)];
    let mut report = report(2, &endpoints);
    report.endpoints[0].keys = vec!["/s/p".into(), "traefik/x/url".into(), "traefik/x/weight".into()];
    report.endpoints[1].keys = vec!["/s/q".into(), "/s-2/q".into()];
    let counts = ["/s/", "traefik/", "/else/"].map(|location| report.records_below(location));
    assert_eq!(counts, [2, 2, 0]);
}

#[test]
fn what_is_held_for_others_is_none_of_a_registration_s_business() {
    let holding = Holding::Some("20 of 20 keys would have gone.".into());
    let subject = Subject {
        holding: &holding,
        ..SUBJECT
    };
    let status = status_of(&report(0, &[]), &Readiness::Firm, subject, &at(100));
    assert_eq!(said(&status, ConditionType::RemovalsHeld), ("False", "NothingHeld"));
}

#[test]
fn hold_of_a_predecessor_stays_reported_until_it_is_decided() {
    let holding = Holding::Undecided;
    let subject = Subject {
        holding: &holding,
        ..SUBJECT
    };
    let mut status = status_of(&report(0, &[]), &Readiness::Firm, subject, &at(200));
    assert_eq!(said(&status, ConditionType::RemovalsHeld), ("Unknown", "Undecided"));
    let holding = Holding::Some("20 of 20 keys would have gone.".into());
    let subject = Subject {
        holding: &holding,
        ..SUBJECT
    };
    let report = Report {
        held: 12,
        ..report(0, &[])
    };
    let before = status_of(&report, &Readiness::Firm, subject, &at(100));
    keep_undecided(&mut status.conditions, &before.conditions);
    let held = |status: &ServiceRegistrationStatus| {
        let is_it = |condition: &&Condition| condition.type_ == ConditionType::RemovalsHeld.as_str();
        status.conditions.iter().find(is_it).cloned()
    };
    assert_eq!(held(&status), held(&before), "its time included");
    assert_eq!(
        said(&status, ConditionType::Ready),
        ("False", "NoReadyPods"),
        "all else is news"
    );
}

#[test]
fn suppressed_format_is_a_conflict_and_no_pod_counts_as_complete() {
    let endpoints = [endpoint("p", 8080)];
    let suppressed = ["spec.formats[0] (Plain) clashes with shop/older".to_owned()];
    let subject = Subject {
        suppressed: &suppressed,
        ..SUBJECT
    };
    let status = status_of(&report(1, &endpoints), &Readiness::Firm, subject, &at(0));
    assert_eq!(said(&status, ConditionType::Conflict), ("True", "FormatsClash"));
    assert_eq!(said(&status, ConditionType::Synced), ("False", "FormatsClash"));
    assert_eq!(
        said(&status, ConditionType::Ready),
        ("True", "EndpointsRegistered"),
        "by other formats"
    );
    assert_eq!(status.pods, pods(2, 1, 0));
    assert!(reported(&status, ConditionType::Conflict).2.contains("shop/older"));
}

#[test]
fn what_is_kept_of_the_spec_before_is_said_beside_what_hinders_the_newest() {
    let mut report = report(2, &[]);
    report.retained = 2;
    report.retained_at = BTreeSet::from(["/services/old/".into()]);
    report.problems = BTreeMap::from([("no such port".to_owned(), vec!["p".into()])]);
    let status = status(&report, &Readiness::Firm);
    let synced = status.conditions.iter().find(|reported| reported.type_ == "Synced");
    let synced = synced.expect("it is told");
    assert_eq!((&*synced.status, &*synced.reason), ("False", "EndpointsRefused"));
    for part in ["2 pods", "/services/old/", "no such port (p)"] {
        assert!(synced.message.contains(part), "{}", synced.message);
    }
}

#[test]
fn missing_attributes_are_reported_and_endpoints_count_as_registered() {
    let subject = Subject {
        missing: Some((Reason::AccessDenied, "No record contains the attributes cell.")),
        ..SUBJECT
    };
    let endpoints = [endpoint("p", 8080)];
    let status = status_of(&report(1, &endpoints), &Readiness::Firm, subject, &at(1));
    let reason = |kind| {
        let (status, reason, _) = reported(&status, kind);
        (status, reason)
    };
    assert_eq!(reason(ConditionType::Accepted), ("False", "AccessDenied"));
    assert_eq!(reason(ConditionType::Synced), ("False", "NotAccepted"));
    assert_eq!(reason(ConditionType::Ready), ("True", "EndpointsRegistered"));
}
