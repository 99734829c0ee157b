//! Writes the registrations that the operator keeps for annotated Services. Keeps only the latest wanted change of each
//! registration, and reads the object before it writes: nothing is written that the object already is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::client::MANAGER;
use super::events::{About, Events, Notice};
use crate::api::{MANAGED_BY, ServiceRegistration, ServiceRegistrationSpec, annotated_registry};
use crate::model::{Backoff, FairQueue, LeaderFlag, RegistrationRef, fnv64};
use crate::telemetry::{Calls, Outcome, Peer};

/// Writes in flight at a time, and those of one namespace.
const IN_FLIGHT: usize = 4;
const OF_ONE: usize = 2;
/// Time-out of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses before a failed write is repeated, and before a change is repeated that another client has undone.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// A change that is undone later than this after it was made is repeated without a pause.
const QUIET: Duration = Duration::from_mins(10);

/// A change to a registration.
#[derive(Clone, Debug, PartialEq)]
pub enum RegistrationChange {
    /// Create it, or give it this spec.
    Apply(Box<ServiceRegistrationSpec>),
    /// Delete it, unless its Service asks for a registration in this Registry.
    DeleteFrom(String),
}

/// A change, and for which Service it is made.
#[derive(Clone, Debug)]
pub struct RegistrationWrite {
    /// The namespace and the name of the registration, which are those of its Service.
    pub registration: RegistrationRef,
    /// `metadata.uid` of the Service.
    pub service_uid: String,
    pub change: RegistrationChange,
    /// The change is dropped if this replica no longer leads the Registry.
    pub leader: LeaderFlag,
}

impl RegistrationWrite {
    fn is_same(&self, other: &Self) -> bool {
        (&self.service_uid, &self.change) == (&other.service_uid, &other.change)
    }
}

#[derive(Debug)]
pub enum WriterCommand {
    Wanted(RegistrationWrite),
    /// There is nothing left to do about this registration.
    Settled(RegistrationRef),
}

struct Entry {
    wanted: Option<RegistrationWrite>,
    /// When the wanted change is due, while it waits.
    due: Option<Instant>,
    is_writing: bool,
    /// The last change that was made, and when.
    made: Option<(RegistrationWrite, Instant)>,
    backoff: Backoff,
    /// Hash of the last refusal that was reported.
    refused: Option<u64>,
}

/// Why a change was not made.
enum Failure {
    /// The API server refuses the change: the object is invalid, or a right is missing.
    Refused { code: u16, message: String },
    /// The object has changed since it was read.
    Conflict,
    /// The API server is in trouble.
    Failed(String),
}

/// The writer of the registrations of annotated Services.
pub struct RegistrationWriter {
    client: Client,
    calls: Calls,
    events: Events,
    entries: HashMap<RegistrationRef, Entry>,
    waiting: BTreeSet<(Instant, RegistrationRef)>,
    ready: FairQueue<RegistrationRef>,
    /// Number of writes in flight of each namespace.
    writing: HashMap<Arc<str>, usize>,
    writes: JoinSet<(RegistrationWrite, Result<(), Failure>)>,
    /// Whether a missing right was logged.
    lack_logged: bool,
}

impl RegistrationWriter {
    pub fn new(client: Client, calls: Calls, events: Events) -> Self {
        Self {
            client,
            calls,
            events,
            entries: HashMap::new(),
            waiting: BTreeSet::new(),
            ready: FairQueue::default(),
            writing: HashMap::new(),
            writes: JoinSet::new(),
            lack_logged: false,
        }
    }

    /// Makes the changes that `commands` ask for, until the channel closes or `shutdown`.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<WriterCommand>, shutdown: CancellationToken) {
        let mut clean_at = Instant::now() + QUIET;
        loop {
            let now = Instant::now();
            if now >= clean_at {
                clean_at = now + QUIET;
                self.forget_settled(now);
            }
            self.write(now);
            let wake = self.waiting.first().map_or(clean_at, |(due, _)| clean_at.min(*due));
            tokio::select! {
                () = shutdown.cancelled() => return,
                command = commands.recv() => match command {
                    Some(command) => self.take(command, Instant::now()),
                    None => return,
                },
                Some(written) = self.writes.join_next() => match written {
                    Ok((write, result)) => self.written(&write, result, Instant::now()),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take(&mut self, command: WriterCommand, now: Instant) {
        let write = match command {
            WriterCommand::Wanted(write) => write,
            WriterCommand::Settled(reference) => {
                if let Some(entry) = self.entries.get_mut(&reference) {
                    entry.wanted = None;
                    entry.refused = None;
                }
                return;
            }
        };
        let reference = write.registration.clone();
        let entry = self.entries.entry(reference.clone()).or_insert_with(|| Entry {
            wanted: None,
            due: None,
            is_writing: false,
            made: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            refused: None,
        });
        if entry.wanted.as_ref().is_some_and(|wanted| wanted.is_same(&write)) {
            entry.wanted = Some(write);
            return;
        }
        let is_recent = |(made, at): &(RegistrationWrite, Instant)| made.is_same(&write) && now < *at + QUIET;
        let due = if entry.made.as_ref().is_some_and(is_recent) {
            now + entry.backoff.next_pause()
        } else {
            entry.backoff.reset();
            now
        };
        entry.wanted = Some(write);
        self.schedule(&reference, due);
    }

    fn schedule(&mut self, reference: &RegistrationRef, due: Instant) {
        let Some(entry) = self.entries.get_mut(reference) else {
            return;
        };
        if let Some(former) = entry.due.replace(due) {
            self.waiting.remove(&(former, reference.clone()));
        }
        self.waiting.insert((due, reference.clone()));
    }

    fn write(&mut self, now: Instant) {
        while self.waiting.first().is_some_and(|(due, _)| *due <= now)
            && let Some((_, reference)) = self.waiting.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&reference) {
                entry.due = None;
            }
            let namespace = reference.namespace.clone();
            self.ready.push(&namespace, reference);
        }
        while self.writes.len() < IN_FLIGHT {
            let writing = &self.writing;
            let may = |namespace: &str, _| writing.get(namespace).is_none_or(|count| *count < OF_ONE);
            let Some(reference) = self.ready.pop_of(may) else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&reference) else {
                continue;
            };
            // When the write in flight ends, `written` schedules the next one.
            if entry.is_writing {
                continue;
            }
            let Some(write) = entry.wanted.clone() else { continue };
            if !write.leader.is_set() {
                entry.wanted = None;
                continue;
            }
            entry.is_writing = true;
            *self.writing.entry(reference.namespace.clone()).or_default() += 1;
            let requests = Requests {
                client: self.client.clone(),
                calls: self.calls.clone(),
            };
            self.writes.spawn(async move {
                let result = requests.make(&write).await;
                (write, result)
            });
        }
    }

    fn written(&mut self, write: &RegistrationWrite, result: Result<(), Failure>, now: Instant) {
        let reference = &write.registration;
        if let Some(count) = self.writing.get_mut(&reference.namespace) {
            *count -= 1;
            if *count == 0 {
                self.writing.remove(&reference.namespace);
            }
        }
        let refusal = match &result {
            Err(Failure::Refused { code, message }) => Some((*code, message.clone())),
            _ => None,
        };
        let Some(entry) = self.entries.get_mut(reference) else {
            return;
        };
        entry.is_writing = false;
        let is_current = entry.wanted.as_ref().is_some_and(|wanted| wanted.is_same(write));
        let pause = match result {
            Ok(()) => {
                entry.made = Some((write.clone(), now));
                entry.refused = None;
                entry.wanted.take_if(|_| is_current);
                Duration::ZERO
            }
            Err(failure) => {
                if let Failure::Failed(cause) = failure {
                    tracing::warn!(registration = %reference, cause, "cannot write this registration; trying again");
                }
                entry.backoff.next_pause()
            }
        };
        if entry.wanted.is_some() {
            self.schedule(reference, now + if is_current { pause } else { Duration::ZERO });
        }
        if let Some((code, message)) = refusal.filter(|_| is_current) {
            self.refused(write, code, &message);
        }
    }

    /// Reports that the API server refuses a change, once while the reason stays the same.
    fn refused(&mut self, write: &RegistrationWrite, code: u16, message: &str) {
        // An admission webhook refuses with the same code, but in other words.
        let is_right_missing = code == 403 && message.contains(" cannot ");
        if is_right_missing && !std::mem::replace(&mut self.lack_logged, true) {
            tracing::warn!(
                message,
                "cannot write the registrations of annotated Services: grant the operator create, update and delete on \
                 serviceregistrations, as the chart does, or start it with --service-annotations=false"
            );
        }
        let hash = fnv64(&[message]);
        let Some(entry) = self.entries.get_mut(&write.registration) else {
            return;
        };
        if entry.refused.replace(hash) == Some(hash) {
            return;
        }
        self.events.publish(Notice {
            about: About::Service(write.registration.clone()),
            uid: write.service_uid.as_str().into(),
            is_warning: true,
            reason: "RegistrationRefused",
            note: format!("The kube-apiserver refuses the registration that the annotations ask for: {message}"),
            occurrence: format!("{hash:016x}"),
        });
    }

    /// Drops what no pause depends on any more.
    fn forget_settled(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            let is_recent = entry.made.as_ref().is_some_and(|(_, at)| now < *at + QUIET);
            entry.wanted.is_some() || entry.is_writing || entry.due.is_some() || is_recent
        });
    }
}

/// The requests of one write.
struct Requests {
    client: Client,
    calls: Calls,
}

impl Requests {
    async fn make(&self, write: &RegistrationWrite) -> Result<(), Failure> {
        let RegistrationRef { namespace, name } = &write.registration;
        let registrations: Api<ServiceRegistration> = Api::namespaced(self.client.clone(), namespace);
        // A list, because the operator has the right to list anyway. It is never answered from an outdated cache.
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.ask("list_registration", registrations.list(&named)).await?;
        let (present, params) = (found.items.into_iter().next(), params());
        let is_kept = |object: &ServiceRegistration| object.owning_service() == Some(&*write.service_uid);
        match (&write.change, present) {
            (RegistrationChange::Apply(spec), None) => {
                let object = new_registration(write, spec);
                let created = registrations.create(&params, &object);
                self.ask("create_registration", created).await.map(drop)
            }
            (RegistrationChange::Apply(spec), Some(mut object)) if is_kept(&object) && object.spec != **spec => {
                object.spec = (**spec).clone();
                object.status = None;
                object.metadata.managed_fields = None;
                let replaced = registrations.replace(name, &params, &object);
                self.ask("update_registration", replaced).await.map(drop)
            }
            (RegistrationChange::DeleteFrom(registry), Some(object)) if is_kept(&object) => {
                // The cached Service may be older than the one for which another replica has created the registration.
                let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
                let found = self.ask("list_service", services.list_metadata(&named)).await?;
                let is_unwanted = |service: &kube::core::PartialObjectMeta<Service>| {
                    let annotations = service.metadata.annotations.clone().unwrap_or_default();
                    service.metadata.uid.as_deref() == Some(&*write.service_uid)
                        && service.metadata.deletion_timestamp.is_none()
                        && annotated_registry(&annotations) != Some(registry.as_str())
                };
                if !found.items.first().is_some_and(is_unwanted) {
                    return Ok(());
                }
                let exactly = DeleteParams::default().preconditions(Preconditions {
                    uid: object.metadata.uid,
                    resource_version: object.metadata.resource_version,
                });
                let deleted = registrations.delete(name, &exactly);
                self.ask("delete_registration", deleted).await.map(drop)
            }
            // Nothing to do. If the object has changed since the decision, the watch is about to report it.
            _ => Ok(()),
        }
    }

    /// Waits for the answer to one request, and counts it.
    async fn ask<T>(&self, call: &'static str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        let start = Instant::now();
        let (outcome, result) = match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => (Outcome::Ok, Ok(answer)),
            Ok(Err(kube::Error::Api(answer))) => match answer.code {
                409 => (Outcome::Refused, Err(Failure::Conflict)),
                code @ (400 | 403 | 422) => {
                    let message = answer.message.clone();
                    (Outcome::Refused, Err(Failure::Refused { code, message }))
                }
                _ => (Outcome::Error, Err(Failure::Failed(answer.to_string()))),
            },
            Ok(Err(error)) => (Outcome::Error, Err(Failure::Failed(error.to_string()))),
            Err(_) => {
                let cause = format!("no answer within {REQUEST_TIMEOUT:?}");
                (Outcome::Timeout, Err(Failure::Failed(cause)))
            }
        };
        self.calls.observe(Peer::Apiserver, call, outcome, start.elapsed());
        result
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn new_registration(write: &RegistrationWrite, spec: &ServiceRegistrationSpec) -> ServiceRegistration {
    let (label, value) = MANAGED_BY;
    let RegistrationRef { namespace, name } = &write.registration;
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.to_string(),
        uid: write.service_uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    };
    ServiceRegistration {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(namespace.to_string()),
            labels: Some([(label.to_owned(), value.to_owned())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests;
