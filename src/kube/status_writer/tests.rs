//! Tests which statuses are written and when, by the statuses due for a write. No request is sent.

use super::*;
use crate::api::{ConditionStatus, ConditionType, Reason, conditions};

type StatusWriter = super::StatusWriter<ServiceRegistration>;

fn status_writer() -> StatusWriter {
    let nowhere = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
    let client = Client::try_from(nowhere).expect("a client");
    StatusWriter::new(client, crate::telemetry::Metrics::new().0.calls)
}

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

fn status(ready: &str) -> ServiceRegistrationStatus {
    ServiceRegistrationStatus {
        service_name: Some(ready.to_owned()),
        ..ServiceRegistrationStatus::default()
    }
}

fn seen(status_writer: &mut StatusWriter, ready: Option<&str>) {
    status_writer.take(StatusUpdate::Observed(orders(), ready.map(status)));
}

fn want(status_writer: &mut StatusWriter, ready: &str, write_policy: WritePolicy) {
    status_writer.take(StatusUpdate::Wanted(orders(), status(ready), write_policy));
}

/// Begins the write that is due. Returns its number and what it writes.
fn begin(status_writer: &mut StatusWriter) -> Option<(u64, String)> {
    status_writer
        .next(Instant::now())
        .map(|(_, number, status)| (number, status.service_name.expect("set")))
}

fn end(status_writer: &mut StatusWriter, (number, ready): (u64, String), written: &Written) {
    status_writer.written(orders(), number, status(&ready), written);
}

#[tokio::test]
async fn unchanged_status_is_not_written() {
    let mut status_writer = status_writer();
    seen(&mut status_writer, Some("1/1"));
    want(&mut status_writer, "1/1", WritePolicy::Always);
    assert_eq!(begin(&mut status_writer), None);
    seen(&mut status_writer, Some("0/1"));
    assert_eq!(begin(&mut status_writer).expect("overruled").1, "1/1");
}

#[tokio::test]
async fn concurrent_status_write_by_another_client_is_overwritten() {
    let mut status_writer = status_writer();
    want(&mut status_writer, "1/1", WritePolicy::Always);
    let write = begin(&mut status_writer).expect("blank");
    // The watch delivers our status before the answer to our write arrives, and after that another client's status.
    seen(&mut status_writer, Some("1/1"));
    seen(&mut status_writer, Some("0/1"));
    end(&mut status_writer, write, &Written::Done);
    assert_eq!(begin(&mut status_writer).expect("again").1, "1/1");
}

#[tokio::test]
async fn status_written_once_is_not_repeated_after_another_client_writes() {
    let mut status_writer = status_writer();
    seen(&mut status_writer, Some("2/2"));
    want(&mut status_writer, "1/1", WritePolicy::Once);
    let write = begin(&mut status_writer).expect("different");
    seen(&mut status_writer, Some("1/1"));
    seen(&mut status_writer, Some("2/2"));
    end(&mut status_writer, write, &Written::Done);
    assert_eq!(begin(&mut status_writer), None);
}

#[tokio::test]
async fn write_result_of_a_deleted_object_is_ignored_after_recreation() {
    for written in [Written::Done, Written::Gone] {
        let mut status_writer = status_writer();
        want(&mut status_writer, "1/1", WritePolicy::Always);
        let former = begin(&mut status_writer).expect("blank");
        status_writer.take(StatusUpdate::Gone(orders()));
        seen(&mut status_writer, None);
        end(&mut status_writer, former, &written);
        want(&mut status_writer, "1/1", WritePolicy::Always);
        assert_eq!(begin(&mut status_writer).expect("a blank status").1, "1/1");
    }
}

#[tokio::test]
async fn pending_status_survives_a_not_found_after_recreation() {
    let mut status_writer = status_writer();
    want(&mut status_writer, "1/1", WritePolicy::Always);
    let write = begin(&mut status_writer).expect("blank");
    want(&mut status_writer, "0/0", WritePolicy::Always);
    end(&mut status_writer, write, &Written::Gone);
    let write = begin(&mut status_writer).expect("still wanted");
    assert_eq!(write.1, "0/0");
    end(&mut status_writer, write, &Written::Gone);
    assert_eq!(begin(&mut status_writer), None);
    assert!(status_writer.entries.is_empty(), "no entry of a deleted object is kept");
}

#[tokio::test]
async fn writes_that_always_fail_leave_the_others_their_turn() {
    let mut status_writer = status_writer();
    let name = |number: usize| RegistrationRef::new("shop", format!("orders-{number}"));
    for number in 0..20 {
        status_writer.take(StatusUpdate::Wanted(name(number), status("1/1"), WritePolicy::Always));
    }
    let mut tried = Vec::new();
    for _ in 0..20 {
        let (name, number, status) = status_writer.next(Instant::now()).expect("a due write");
        tried.push(name.clone());
        status_writer.written(name, number, status, &Written::Failed);
    }
    assert_eq!(tried, (0..20).map(name).collect::<Vec<_>>());
}

#[tokio::test]
async fn conditions_that_stay_as_they_are_keep_their_time() {
    let at = |second| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::constant(second, 0));
    let status_at = |ready: &str, second| {
        let mut status = status(ready);
        let (list, kind) = (&mut status.conditions, ConditionType::Ready);
        let reason = Reason::EndpointsRegistered;
        conditions::set(list, kind, ConditionStatus::True, reason, "", Some(1), &at(second));
        status
    };
    let mut status_writer = status_writer();
    status_writer.take(StatusUpdate::Observed(orders(), Some(status_at("1/1", 10))));
    status_writer.take(StatusUpdate::Wanted(
        orders(),
        status_at("2/2", 20),
        WritePolicy::Always,
    ));
    let (_, _, written) = status_writer.next(Instant::now()).expect("different");
    assert_eq!(written.conditions[0].last_transition_time, at(10));
}

#[tokio::test]
async fn one_tenant_s_statuses_leave_room_for_the_others() {
    let mut status_writer = status_writer();
    let name = |namespace: &str, number: usize| RegistrationRef::new(namespace, format!("orders-{number}"));
    for number in 0..20 {
        status_writer.take(StatusUpdate::Wanted(
            name("flood", number),
            status("1/1"),
            WritePolicy::Always,
        ));
    }
    status_writer.take(StatusUpdate::Wanted(
        name("shop", 0),
        status("1/1"),
        WritePolicy::Always,
    ));
    let mut begun = Vec::new();
    while let Some((name, ..)) = status_writer.next(Instant::now()) {
        status_writer.to_write.begin(&name);
        begun.push(name);
    }
    assert_eq!(begun, [name("flood", 0), name("flood", 1), name("shop", 0)]);
    let (now, took) = (Instant::now(), Duration::from_millis(20));
    status_writer.to_write.end(&name("flood", 0), took, now);
    assert!(
        status_writer.next(now).is_none(),
        "it rests while many of its statuses wait"
    );
    assert_eq!(status_writer.to_write.rested_at(), Some(now + 4 * took));
    let next = status_writer.next(now + 4 * took);
    assert_eq!(next.map(|(name, ..)| name), Some(name("flood", 2)));
    assert!(status_writer.next(now + 4 * took).is_some(), "one of 16 that wait");
    status_writer.to_write.end(&name("flood", 2), took, now);
    assert_eq!(status_writer.to_write.rested_at(), None, "few of its statuses wait");
}

#[tokio::test]
async fn amendment_applies_once_and_yields_to_a_wanted_status() {
    let mut status_writer = status_writer();
    let amend = |status_writer: &mut StatusWriter| {
        let change = |status: &mut ServiceRegistrationStatus| status.endpoints_omitted = Some(7);
        status_writer.take(StatusUpdate::Amended(orders(), Amendment::new(change)));
    };
    amend(&mut status_writer);
    assert!(
        status_writer.next(Instant::now()).is_none(),
        "there is no status to amend"
    );
    seen(&mut status_writer, Some("1/1"));
    amend(&mut status_writer);
    let (name, number, written) = status_writer.next(Instant::now()).expect("another one");
    assert_eq!(
        (written.service_name.as_deref(), written.endpoints_omitted),
        (Some("1/1"), Some(7))
    );
    status_writer.written(name, number, written, &Written::Done);
    seen(&mut status_writer, Some("2/2"));
    assert!(
        status_writer.next(Instant::now()).is_none(),
        "the status of another replica stays"
    );
    want(&mut status_writer, "2/2", WritePolicy::Always);
    amend(&mut status_writer);
    assert!(
        status_writer.next(Instant::now()).is_none(),
        "a wanted status takes precedence"
    );
}
