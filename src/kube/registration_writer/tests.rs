//! Tests which changes are made and when, against an API server that answers from a list.

use http::Method;
use serde_json::{Value, json};

use super::requests::new_registration;
use super::*;
use crate::api::ServiceRegistration;
use crate::kube::answering::{Arrived, answering};
use crate::telemetry::Metrics;

/// The status and the body of the answer to a request.
type Answer = fn(&Method, &str) -> (u16, Value);

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

fn spec(weight: u32) -> Box<ServiceRegistrationSpec> {
    serde_json::from_value(json!({"service": {"name": "orders"}, "weight": weight})).expect("decodes")
}

fn apply(weight: u32) -> RegistrationWrite {
    RegistrationWrite {
        registration: orders(),
        service_uid: "u1".to_owned(),
        annotations: BTreeMap::from([(REGISTER.to_owned(), String::new())]),
        change: RegistrationChange::Apply(spec(weight)),
        leader: LeaderFlag::raised(),
    }
}

fn delete_from(registry: &str) -> RegistrationWrite {
    RegistrationWrite {
        annotations: BTreeMap::new(),
        change: RegistrationChange::DeleteFrom {
            registry: registry.to_owned(),
            next: None,
        },
        ..apply(0)
    }
}

const REGISTER: &str = "leasehold.dev/register";

/// The Service `orders` with the UID `u1` and these annotations.
fn service(annotations: &Value) -> (u16, Value) {
    list(&[json!({"metadata": {"name": "orders", "uid": "u1", "annotations": annotations}})])
}

fn annotated() -> (u16, Value) {
    service(&json!({"leasehold.dev/register": "", "example.org/other": "x"}))
}

fn is_of_services(path: &str) -> bool {
    path.ends_with("/services")
}

fn list(items: &[Value]) -> (u16, Value) {
    (200, json!({"metadata": {"resourceVersion": "9"}, "items": items}))
}

/// The registration `orders` of the Service `u1` with the weight 1.
fn kept() -> Value {
    let mut object = serde_json::to_value(new_registration(&apply(1), &spec(1))).expect("encodes");
    object["metadata"]["uid"] = json!("r1");
    object["metadata"]["resourceVersion"] = json!("7");
    object
}

fn refusal(code: u16) -> (u16, Value) {
    let message = "User \"x\" cannot create resource";
    (
        code,
        json!({"kind": "Status", "status": "Failure", "message": message, "reason": "no", "code": code}),
    )
}

async fn make(client: Client, write: RegistrationWrite) -> Result<(), Failure> {
    let calls = Metrics::new().0.calls;
    Requests { client, calls }.make(&write).await
}

fn methods(arrived: &Arrived) -> Vec<Method> {
    let arrived = arrived.lock().expect("no panic");
    arrived.iter().map(|(method, ..)| method.clone()).collect()
}

fn writer() -> (RegistrationWriter, mpsc::Receiver<Notice>) {
    let (metrics, _) = Metrics::new();
    let (events, notices) = Events::new(metrics.clone());
    let (client, _) = answering(|_, _| list(&[]));
    (RegistrationWriter::new(client, metrics.calls, events), notices)
}

/// Begins the write that is due. Its answer is the caller's.
fn begin(writer: &mut RegistrationWriter, now: Instant) {
    writer.write(now);
    assert_eq!(writer.writes.len(), 1);
    writer.writes = JoinSet::new();
}

#[tokio::test]
async fn registration_that_is_as_wanted_or_a_users_is_not_written() {
    let (client, arrived) = answering(|_, _| list(&[kept()]));
    assert!(make(client, apply(1)).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET]);
    let (client, arrived) = answering(|_, _| {
        let mut object = kept();
        object["metadata"]["labels"] = json!({});
        list(&[object])
    });
    assert!(make(client.clone(), apply(2)).await.is_ok());
    assert!(make(client, delete_from("default")).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET]);
}

#[tokio::test]
async fn absent_registration_is_created_with_owner_and_changed_is_replaced() {
    let (client, arrived) = answering(|method, path| match *method {
        Method::GET if is_of_services(path) => annotated(),
        Method::GET => list(&[]),
        _ => (201, kept()),
    });
    assert!(make(client, apply(1)).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET, Method::POST]);
    let created = arrived.lock().expect("no panic")[2].2.clone();
    let created: ServiceRegistration = serde_json::from_value(created).expect("decodes");
    assert_eq!(created.owning_service(), Some("u1"));

    let (client, arrived) = answering(|method, path| match *method {
        Method::GET if is_of_services(path) => annotated(),
        Method::GET => list(&[kept()]),
        _ => (200, kept()),
    });
    assert!(make(client, apply(2)).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET, Method::PUT]);
    let replaced = arrived.lock().expect("no panic")[2].2.clone();
    assert_eq!(
        (&replaced["spec"]["weight"], &replaced["metadata"]["resourceVersion"]),
        (&json!(2), &json!("7"))
    );
}

#[tokio::test]
async fn registration_is_deleted_only_if_its_service_no_longer_requests_it() {
    let (client, arrived) = answering(|method, path| match (method, path.ends_with("/services")) {
        (&Method::GET, true) => list(&[json!({"metadata": {"name": "orders", "uid": "u1", "annotations": {}}})]),
        (&Method::GET, false) => list(&[kept()]),
        _ => (200, kept()),
    });
    assert!(make(client, delete_from("default")).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET, Method::DELETE]);
    let preconditions = arrived.lock().expect("no panic")[2].2["preconditions"].clone();
    assert_eq!(preconditions, json!({"uid": "r1", "resourceVersion": "7"}));

    let annotated = |method: &Method, path: &str| match (method, path.ends_with("/services")) {
        (&Method::GET, true) => {
            list(&[json!({"metadata": {"name": "orders", "uid": "u1", "annotations": {"leasehold.dev/register": ""}}})])
        }
        _ => list(&[kept()]),
    };
    let (client, arrived) = answering(annotated);
    assert!(make(client, delete_from("default")).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET]);

    let of_another = |_: &Method, path: &str| {
        if path.ends_with("/services") {
            list(&[json!({"metadata": {"name": "orders", "uid": "u2"}})])
        } else {
            list(&[kept()])
        }
    };
    let (client, arrived) = answering(of_another);
    assert!(make(client, delete_from("default")).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET]);
}

#[tokio::test]
async fn stale_annotations_or_lost_leadership_write_nothing() {
    let stale: Answer = |method, path| match *method {
        Method::GET if is_of_services(path) => service(&json!({REGISTER: "", "leasehold.dev/weight": "2"})),
        Method::GET => list(&[kept()]),
        _ => (200, kept()),
    };
    let (client, arrived) = answering(stale);
    assert!(make(client, apply(2)).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET]);
    let current: Answer = |method, path| match *method {
        Method::GET if is_of_services(path) => annotated(),
        _ => list(&[]),
    };
    let (client, arrived) = answering(current);
    let former = RegistrationWrite {
        leader: LeaderFlag::default(),
        ..apply(1)
    };
    assert!(make(client, former).await.is_ok());
    assert_eq!(methods(&arrived), [Method::GET, Method::GET]);
}

#[tokio::test]
async fn registration_that_cannot_be_created_in_another_registry_is_not_deleted() {
    let moving = || RegistrationWrite {
        change: RegistrationChange::DeleteFrom {
            registry: "default".to_owned(),
            next: Some(spec(1)),
        },
        ..apply(1)
    };
    let (client, arrived) = answering(|method, path| match *method {
        Method::GET if is_of_services(path) => annotated(),
        Method::GET => list(&[kept()]),
        Method::POST => refusal(422),
        _ => (200, kept()),
    });
    assert!(matches!(
        make(client, moving()).await,
        Err(Failure::Refused { code: 422, .. })
    ));
    assert_eq!(methods(&arrived), [Method::GET, Method::POST]);
    let (client, arrived) = answering(|method, path| match *method {
        Method::GET if is_of_services(path) => annotated(),
        Method::GET => list(&[kept()]),
        _ => (200, kept()),
    });
    assert!(make(client, moving()).await.is_ok());
    let expected = [Method::GET, Method::POST, Method::GET, Method::DELETE];
    assert_eq!(methods(&arrived), expected);
}

#[tokio::test]
async fn change_that_is_wanted_again_while_it_is_written_is_made_again() {
    let (mut writer, _notices) = writer();
    let now = Instant::now();
    writer.take(WriterCommand::Wanted(apply(1)), now);
    writer.write(now);
    assert_eq!((writer.writes.len(), writer.waiting.len()), (1, 0));
    writer.take(WriterCommand::Settled(orders()), now);
    writer.take(WriterCommand::Wanted(apply(1)), now);
    writer.write(now);
    assert_eq!(writer.writes.len(), 1, "one write at a time");
    writer.written(&apply(1), Ok(()), now);
    assert_eq!(writer.waiting.len(), 1, "the registration may have been edited again");
}

#[tokio::test]
async fn refusals_conflicts_and_failures_are_distinguished() {
    let cases: [(Answer, &str); 3] = [
        (|_, _| refusal(403), "refused"),
        (|_, _| refusal(409), "conflict"),
        (|_, _| refusal(500), "failed"),
    ];
    for (answer, expected) in cases {
        let found = match make(answering(answer).0, apply(1)).await {
            Ok(()) => "made",
            Err(Failure::Refused { code: 403, .. }) => "refused",
            Err(Failure::Refused { .. }) => "refused otherwise",
            Err(Failure::Conflict) => "conflict",
            Err(Failure::Failed(_)) => "failed",
        };
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn change_that_is_undone_again_and_again_is_repeated_after_growing_pauses() {
    let (mut writer, _notices) = writer();
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        writer.take(WriterCommand::Wanted(apply(1)), now);
        let due = writer.waiting.first().expect("it waits").0;
        pauses.push(due.duration_since(now));
        now = due;
        begin(&mut writer, now);
        writer.written(&apply(1), Ok(()), now);
    }
    let millis = [0, 500, 1000, 2000].map(Duration::from_millis);
    assert_eq!(pauses, millis);
    writer.take(WriterCommand::Wanted(apply(2)), now);
    let due = writer.waiting.first().expect("it waits").0;
    assert_eq!(due, now, "another change is the user's");
}

#[tokio::test]
async fn settled_change_and_that_of_a_former_leader_are_dropped() {
    let (mut writer, _notices) = writer();
    let now = Instant::now();
    writer.take(WriterCommand::Wanted(apply(1)), now);
    writer.take(WriterCommand::Settled(orders()), now);
    writer.write(now);
    assert_eq!(writer.writes.len(), 0);
    let former = RegistrationWrite {
        leader: LeaderFlag::default(),
        ..apply(1)
    };
    writer.take(WriterCommand::Wanted(former), now);
    writer.write(now);
    assert_eq!(writer.writes.len(), 0);
    writer.take(WriterCommand::Wanted(apply(1)), now);
    writer.write(now);
    assert_eq!(writer.writes.len(), 1);
    writer.forget_settled(now + 2 * QUIET);
    assert_eq!(writer.entries.len(), 1, "a write is in flight");
}

#[tokio::test]
async fn refusal_is_reported_once_and_retried() {
    let (mut writer, mut notices) = writer();
    let now = Instant::now();
    writer.take(WriterCommand::Wanted(apply(1)), now);
    for later in 0..2 {
        begin(&mut writer, now + later * LONGEST_PAUSE);
        let message = "spec.formats: Invalid value".to_owned();
        writer.written(&apply(1), Err(Failure::Refused { code: 422, message }), now);
        assert_eq!(writer.waiting.len(), 1, "it is retried");
    }
    let notice = notices.try_recv().expect("an Event");
    assert_eq!(
        (&notice.about, notice.reason),
        (&About::Service(orders()), "RegistrationRefused")
    );
    assert!(notice.note.contains("spec.formats: Invalid value"), "{}", notice.note);
    assert!(notices.try_recv().is_err());
}
