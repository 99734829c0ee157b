//! Publishes Events: changes that a user may have to look into, shown by `kubectl describe` and `kubectl get events`.
//!
//! Events are best effort. An Event is dropped when the queue is full, when its object has used up its allowance, when
//! the API server refuses it, or when the API server has been unavailable or overloaded for two minutes. Essential
//! information belongs in the status.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::MANAGER;
use crate::api::{RecordFormat, Registry, ServiceRegistration};
use crate::model::{Backoff, RegistrationRef, fnv64};
use crate::telemetry::{Calls, Metrics, Outcome, Peer};

/// Capacity of the queue. When it is full, the newest Event is dropped.
const WAITING: usize = 256;
/// Time-out of one create request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an Event is retried while the API server is unavailable or overloaded. The Events behind it wait: they are
/// sent to the same API server.
const RETRIED_FOR: Duration = Duration::from_mins(2);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Events that one object may have at once, and the time until it may have one more.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_mins(1);
/// Number of counted objects from which on those with a full allowance are dropped.
const COUNTED: usize = 1024;
/// Kubernetes' limit for a note, in bytes.
const NOTE_MAX: usize = 1024;
/// Kubernetes' limit for a name is 253; a dot and 16 digits follow.
const NAME_MAX: usize = 253 - 17;
/// The namespace of Events about cluster-scoped objects.
const NAMESPACE: &str = "default";

/// The object of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Registration(RegistrationRef),
    Registry(Arc<str>),
    RecordFormat(Arc<str>),
    Pod {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    /// The Service with this namespace and name.
    Service(RegistrationRef),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub about: About,
    /// The object's UID. An object that is created again under the same name shows none of the former one's Events.
    pub uid: Arc<str>,
    pub is_warning: bool,
    /// What has happened, as one CamelCase word.
    pub reason: &'static str,
    /// A description for people.
    pub note: String,
    /// Distinguishes this occurrence from others of the same reason. If several processes publish the same occurrence,
    /// the API server keeps one Event.
    pub occurrence: String,
}

/// Accepts Events for publication. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Events {
    status_writer: mpsc::Sender<Notice>,
    metrics: Metrics,
}

impl Events {
    /// Returns the sender and the receiver of a new queue.
    pub fn new(metrics: Metrics) -> (Self, mpsc::Receiver<Notice>) {
        let (status_writer, notices) = mpsc::channel(WAITING);
        (Self { status_writer, metrics }, notices)
    }

    /// Queues an Event, or drops it if the queue is full.
    pub fn publish(&self, notice: Notice) {
        if self.status_writer.try_send(notice).is_err() {
            self.metrics.count_dropped_event();
        }
    }
}

/// Writes Events until `shutdown` or until `notices` closes, as the replica `identity`.
pub async fn publish_events(
    client: Client,
    identity: Arc<str>,
    mut notices: mpsc::Receiver<Notice>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let mut allowance = Allowance::default();
    loop {
        let notice = tokio::select! {
            () = shutdown.cancelled() => return,
            notice = notices.recv() => match notice {
                Some(notice) => notice,
                None => return,
            },
        };
        // Without a UID, the Event does not identify its object.
        if notice.uid.is_empty() || !allowance.take(&notice.uid, Instant::now()) {
            metrics.count_dropped_event();
            continue;
        }
        let event = event(&notice, &identity, Timestamp::now());
        tokio::select! {
            () = shutdown.cancelled() => return,
            taken = create(&client, &event, &metrics.calls) => if !taken {
                metrics.count_dropped_event();
            },
        }
    }
}

/// The Events that each object has used of its allowance, and since when the oldest of them is being restored.
#[derive(Default)]
struct Allowance(HashMap<Arc<str>, (u32, Instant)>);

impl Allowance {
    fn take(&mut self, uid: &Arc<str>, now: Instant) -> bool {
        if self.0.len() >= COUNTED {
            self.0
                .retain(|_, (spent, since)| now.duration_since(*since) < REFILL * *spent);
        }
        let (spent, since) = self.0.entry(uid.clone()).or_insert((0, now));
        while *spent > 0 && now.duration_since(*since) >= REFILL {
            *spent -= 1;
            *since += REFILL;
        }
        if *spent == 0 {
            *since = now;
        }
        let may = *spent < BURST;
        *spent += u32::from(may);
        may
    }
}

fn event(notice: &Notice, identity: &str, now: Timestamp) -> Event {
    let Notice {
        about,
        uid,
        is_warning,
        reason,
        note,
        occurrence,
    } = notice;
    let (kind, api_version, namespace, name) = match about {
        About::Registration(registration) => (
            ServiceRegistration::kind(&()),
            ServiceRegistration::api_version(&()),
            Some(&registration.namespace),
            &registration.name,
        ),
        About::Service(service) => (
            Service::kind(&()),
            Service::api_version(&()),
            Some(&service.namespace),
            &service.name,
        ),
        About::Registry(name) => (Registry::kind(&()), Registry::api_version(&()), None, name),
        About::Pod { namespace, name } => (Pod::kind(&()), Pod::api_version(&()), Some(namespace), name),
        About::RecordFormat(name) => (RecordFormat::kind(&()), RecordFormat::api_version(&()), None, name),
    };
    let digest = fnv64(&[uid, reason, occurrence]);
    let stem = name[..name.floor_char_boundary(NAME_MAX)].trim_end_matches(['.', '-']);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{digest:016x}")),
            namespace: Some(namespace.map_or(NAMESPACE, |namespace| namespace).to_owned()),
            ..ObjectMeta::default()
        },
        regarding: Some(ObjectReference {
            api_version: Some(api_version.into_owned()),
            kind: Some(kind.into_owned()),
            namespace: namespace.map(ToString::to_string),
            name: Some(name.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectReference::default()
        }),
        type_: Some(if *is_warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some((*reason).to_owned()),
        action: Some("Register".to_owned()),
        note: Some(note[..note.floor_char_boundary(NOTE_MAX)].to_owned()),
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(MANAGER.to_owned()),
        reporting_instance: Some(identity[..identity.floor_char_boundary(128)].to_owned()),
        ..Event::default()
    }
}

/// Creates the Event, with retries; returns whether it exists.
async fn create(client: &Client, event: &Event, calls: &Calls) -> bool {
    let started = Instant::now();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let cause = loop {
        match attempt(client, event, calls).await {
            Attempt::Created => return true,
            Attempt::Failed(cause) if started.elapsed() < RETRIED_FOR => {
                tracing::debug!(cause, reason = event.reason, "cannot create an Event; retrying");
                sleep(backoff.next_pause()).await;
            }
            Attempt::Failed(cause) | Attempt::Refused(cause) => break cause,
        }
    };
    tracing::warn!(
        cause,
        reason = event.reason,
        "an Event was dropped: check that the API server answers and that the operator may create events.k8s.io"
    );
    false
}

/// The result of one create request.
enum Attempt {
    /// The Event exists, perhaps because another process created it.
    Created,
    /// Another attempt may succeed.
    Failed(String),
    /// Another attempt would be refused too.
    Refused(String),
}

async fn attempt(client: &Client, event: &Event, calls: &Calls) -> Attempt {
    let namespace = event.metadata.namespace.as_deref().unwrap_or(NAMESPACE);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let start = Instant::now();
    let (outcome, result) = match timeout(REQUEST_TIMEOUT, events.create(&PostParams::default(), event)).await {
        Ok(Ok(_)) => (Outcome::Ok, Attempt::Created),
        Ok(Err(kube::Error::Api(answer))) if answer.is_already_exists() => (Outcome::Ok, Attempt::Created),
        Ok(Err(kube::Error::Api(answer))) if answer.code == 429 || answer.code >= 500 => {
            (Outcome::Error, Attempt::Failed(answer.to_string()))
        }
        Ok(Err(kube::Error::Api(answer))) => (Outcome::Refused, Attempt::Refused(answer.to_string())),
        Ok(Err(error)) => (Outcome::Error, Attempt::Failed(error.to_string())),
        Err(_) => (
            Outcome::Timeout,
            Attempt::Failed(format!("no answer within {REQUEST_TIMEOUT:?}")),
        ),
    };
    calls.observe(Peer::Apiserver, "create_event", outcome, start.elapsed());
    result
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn notice(name: &str, occurrence: &str) -> Notice {
        Notice {
            about: About::Registration(RegistrationRef::new("shop", name)),
            uid: "u1".into(),
            is_warning: true,
            reason: "RemovalsHeld",
            note: "20 of 20 keys".to_owned(),
            occurrence: occurrence.to_owned(),
        }
    }

    fn name(notice: &Notice, identity: &str) -> String {
        let event = event(notice, identity, Timestamp::UNIX_EPOCH);
        event.metadata.name.expect("a name")
    }

    #[test]
    fn replicas_name_the_event_of_one_occurrence_identically() {
        let first = name(&notice("orders", "hold-1"), "operator-0");
        assert_eq!(first, "orders.be4ba6a584803dbe");
        assert_eq!(first, name(&notice("orders", "hold-1"), "operator-1"));
        assert_ne!(first, name(&notice("orders", "hold-2"), "operator-0"));
    }

    #[test]
    fn event_namespace_is_that_of_its_object_or_default() {
        let published = event(&notice("orders", "1"), "me", Timestamp::UNIX_EPOCH);
        assert_eq!(published.metadata.namespace.as_deref(), Some("shop"));
        let regarding = published.regarding.expect("an object");
        assert_eq!(regarding.namespace.as_deref(), Some("shop"));
        let registry = Notice {
            about: About::Registry("main".into()),
            ..notice("", "1")
        };
        let published = event(&registry, "me", Timestamp::UNIX_EPOCH);
        assert_eq!(published.metadata.namespace.as_deref(), Some("default"));
        let regarding = published.regarding.expect("an object");
        assert_eq!(
            (
                regarding.kind.as_deref(),
                regarding.namespace,
                regarding.name.as_deref()
            ),
            (Some("Registry"), None, Some("main"))
        );
    }

    #[test]
    fn event_fields_are_truncated_to_the_limits_of_kubernetes() {
        let long = Notice {
            note: "é".repeat(NOTE_MAX),
            ..notice(&format!("{}.{}", "a".repeat(NAME_MAX - 1), "b".repeat(16)), "1")
        };
        let published = event(&long, &"i".repeat(300), Timestamp::UNIX_EPOCH);
        assert_eq!(published.note.map(|note| note.len()), Some(NOTE_MAX));
        assert_eq!(published.reporting_instance.map(|text| text.len()), Some(128));
        let name = published.metadata.name.expect("a name");
        assert!(
            name.len() <= 253 && !name.contains("-.") && !name.contains(".."),
            "{name}"
        );
    }

    #[test]
    fn one_object_with_too_many_events_does_not_cost_others_theirs() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        let (flapping, quiet): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let taken = (0..100).filter(|_| allowance.take(&flapping, now)).count();
        assert_eq!(taken, 25);
        assert!(allowance.take(&quiet, now));
        let later = now + 2 * REFILL;
        let taken = (0..100).filter(|_| allowance.take(&flapping, later)).count();
        assert_eq!(taken, 2);
    }

    #[test]
    fn objects_without_events_are_forgotten_before_they_are_too_many() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for number in 0..COUNTED {
            allowance.take(&format!("{number}").into(), now);
        }
        allowance.take(&"another".into(), now + REFILL);
        assert_eq!(allowance.0.len(), 1);
    }

    /// A client whose API server answers with these statuses, the last one again and again, and the number of requests.
    fn answering(statuses: &'static [u16]) -> (Client, Arc<AtomicUsize>) {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let service = tower::service_fn(move |_| {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let code = statuses[number.min(statuses.len() - 1)];
            let body = if code < 300 {
                serde_json::json!({"metadata": {"name": "e"}, "eventTime": null})
            } else {
                serde_json::json!({"kind": "Status", "status": "Failure", "message": "no", "reason": "no", "code": code})
            };
            let answer = http::Response::builder().status(code);
            let body = kube::client::Body::from(body.to_string().into_bytes());
            std::future::ready(Ok::<_, std::convert::Infallible>(answer.body(body).unwrap()))
        });
        (Client::new(service, "default"), requests)
    }

    #[tokio::test]
    async fn event_is_retried_on_overload_and_dropped_on_refusal() {
        let event = event(&notice("orders", "1"), "me", Timestamp::UNIX_EPOCH);
        let calls = Metrics::new().0.calls;
        let (overloaded, requests) = answering(&[429, 503, 201]);
        assert!(create(&overloaded, &event, &calls).await);
        assert_eq!(requests.load(Ordering::Relaxed), 3);
        let (forbidding, requests) = answering(&[403]);
        assert!(!create(&forbidding, &event, &calls).await);
        assert_eq!(requests.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_event_for_which_there_is_no_room_is_dropped_and_counted() {
        let (metrics, exposition) = Metrics::new();
        let (events, _notices) = Events::new(metrics);
        for _ in 0..=WAITING {
            events.publish(notice("orders", "1"));
        }
        let text = exposition.text();
        assert!(text.contains("leasehold_dropped_events_total 1\n"), "{text}");
    }
}
