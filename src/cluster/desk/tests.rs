//! What is written when, told by what is handed to the apiserver; nothing is sent.

use super::*;
use crate::api::{ConditionStatus, ConditionType, Reason, conditions};

type Desk = super::Desk<ServiceRegistration>;

fn desk() -> Desk {
    let nowhere = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
    let client = Client::try_from(nowhere).expect("a client");
    Desk::new(client, crate::telemetry::Metrics::new().0.calls)
}

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

fn status(ready: &str) -> ServiceRegistrationStatus {
    ServiceRegistrationStatus {
        ready: Some(ready.to_owned()),
        ..ServiceRegistrationStatus::default()
    }
}

fn seen(desk: &mut Desk, ready: Option<&str>) {
    desk.take(DeskNote::Seen(orders(), ready.map(status)));
}

fn want(desk: &mut Desk, ready: &str, insistence: Insistence) {
    desk.take(DeskNote::Wanted(orders(), status(ready), insistence));
}

/// Begins the write that is due; returns its number and what it writes.
fn begin(desk: &mut Desk) -> Option<(u64, String)> {
    desk.next()
        .map(|(_, number, status)| (number, status.ready.expect("set")))
}

fn end(desk: &mut Desk, (number, ready): (u64, String), written: &Written) {
    desk.written(orders(), number, status(&ready), written);
}

#[tokio::test]
async fn what_is_there_already_is_not_written() {
    let mut desk = desk();
    seen(&mut desk, Some("1/1"));
    want(&mut desk, "1/1", Insistence::Always);
    assert_eq!(begin(&mut desk), None);
    seen(&mut desk, Some("0/1"));
    assert_eq!(begin(&mut desk).expect("overruled").1, "1/1");
}

#[tokio::test]
async fn a_status_that_somebody_wrote_while_ours_was_on_its_way_is_overruled() {
    let mut desk = desk();
    want(&mut desk, "1/1", Insistence::Always);
    let write = begin(&mut desk).expect("blank");
    // The watch is quicker than the answer, and somebody else was quicker than both.
    seen(&mut desk, Some("1/1"));
    seen(&mut desk, Some("0/1"));
    end(&mut desk, write, &Written::Done);
    assert_eq!(begin(&mut desk).expect("again").1, "1/1");
}

#[tokio::test]
async fn what_is_wanted_once_is_not_repeated_when_others_know_better() {
    let mut desk = desk();
    seen(&mut desk, Some("2/2"));
    want(&mut desk, "1/1", Insistence::Once);
    let write = begin(&mut desk).expect("different");
    seen(&mut desk, Some("1/1"));
    seen(&mut desk, Some("2/2"));
    end(&mut desk, write, &Written::Done);
    assert_eq!(begin(&mut desk), None);
}

#[tokio::test]
async fn the_end_of_a_write_to_a_deleted_object_says_nothing_about_its_successor() {
    for written in [Written::Done, Written::Gone] {
        let mut desk = desk();
        want(&mut desk, "1/1", Insistence::Always);
        let former = begin(&mut desk).expect("blank");
        desk.take(DeskNote::Gone(orders()));
        seen(&mut desk, None);
        end(&mut desk, former, &written);
        want(&mut desk, "1/1", Insistence::Always);
        assert_eq!(begin(&mut desk).expect("it is blank").1, "1/1");
    }
}

#[tokio::test]
async fn a_status_wanted_for_an_object_created_anew_outlives_the_news_that_the_old_one_is_gone() {
    let mut desk = desk();
    want(&mut desk, "1/1", Insistence::Always);
    let write = begin(&mut desk).expect("blank");
    want(&mut desk, "0/0", Insistence::Always);
    end(&mut desk, write, &Written::Gone);
    let write = begin(&mut desk).expect("still wanted");
    assert_eq!(write.1, "0/0");
    end(&mut desk, write, &Written::Gone);
    assert_eq!(begin(&mut desk), None);
    assert!(desk.entries.is_empty(), "nothing is kept of what is gone");
}

#[tokio::test]
async fn writes_that_always_fail_leave_the_others_their_turn() {
    let mut desk = desk();
    let name = |number: usize| RegistrationRef::new("shop", format!("orders-{number}"));
    for number in 0..20 {
        desk.take(DeskNote::Wanted(name(number), status("1/1"), Insistence::Always));
    }
    let mut tried = Vec::new();
    for _ in 0..20 {
        let (name, number, status) = desk.next().expect("all are due");
        tried.push(name.clone());
        desk.written(name, number, status, &Written::Failed);
    }
    assert_eq!(tried, (0..20).map(name).collect::<Vec<_>>());
}

#[tokio::test]
async fn conditions_that_stay_as_they_are_keep_their_time() {
    let at = |second| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::constant(second, 0));
    let told = |ready: &str, second| {
        let mut status = status(ready);
        let (list, kind) = (&mut status.conditions, ConditionType::Ready);
        let reason = Reason::EndpointsRegistered;
        conditions::set(list, kind, ConditionStatus::True, reason, "", Some(1), &at(second));
        status
    };
    let mut desk = desk();
    desk.take(DeskNote::Seen(orders(), Some(told("1/1", 10))));
    desk.take(DeskNote::Wanted(orders(), told("2/2", 20), Insistence::Always));
    let (_, _, written) = desk.next().expect("different");
    assert_eq!(written.conditions[0].last_transition_time, at(10));
}

#[tokio::test]
async fn one_tenant_s_statuses_leave_room_for_the_others() {
    let mut desk = desk();
    let name = |namespace: &str, number: usize| RegistrationRef::new(namespace, format!("orders-{number}"));
    for number in 0..20 {
        desk.take(DeskNote::Wanted(
            name("flood", number),
            status("1/1"),
            Insistence::Always,
        ));
    }
    desk.take(DeskNote::Wanted(name("shop", 0), status("1/1"), Insistence::Always));
    let mut begun = Vec::new();
    while let Some((name, ..)) = desk.next() {
        desk.to_write.begin(&name);
        begun.push(name);
    }
    assert_eq!(begun, [name("flood", 0), name("flood", 1), name("shop", 0)]);
    desk.to_write.end(&name("flood", 0));
    assert_eq!(desk.next().map(|(name, ..)| name), Some(name("flood", 2)));
}

#[tokio::test]
async fn amendment_changes_what_is_there_once_and_never_what_is_wanted_always() {
    let mut desk = desk();
    let amend = |desk: &mut Desk| {
        let change = |status: &mut ServiceRegistrationStatus| status.service = Some("amended".to_owned());
        desk.take(DeskNote::Amended(orders(), Amendment::new(change)));
    };
    amend(&mut desk);
    assert!(desk.next().is_none(), "there is nothing to amend");
    seen(&mut desk, Some("1/1"));
    amend(&mut desk);
    let (name, number, written) = desk.next().expect("another one");
    assert_eq!(
        (written.ready.as_deref(), written.service.as_deref()),
        (Some("1/1"), Some("amended"))
    );
    desk.written(name, number, written, &Written::Done);
    seen(&mut desk, Some("2/2"));
    assert!(desk.next().is_none(), "another replica knows better");
    want(&mut desk, "2/2", Insistence::Always);
    amend(&mut desk);
    assert!(desk.next().is_none(), "this one knows better");
}
