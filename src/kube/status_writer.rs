//! Writes the statuses of one kind. Keeps only the latest wanted status of each object, and writes a status only when
//! it differs from the observed one.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::core::{ClusterResourceScope, PartialObjectMeta};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client::MANAGER;
use crate::api::conditions::{keep_times, keep_undecided, same_status};
use crate::api::{
    RecordFormat, RecordFormatStatus, Registry, RegistryStatus, ServiceRegistration, ServiceRegistrationStatus,
};
use crate::model::{Counts, FairQueue, RegistrationRef};
use crate::telemetry::{Calls, Outcome, Peer};

/// Writes in flight at a time.
const IN_FLIGHT: usize = 8;
/// Writes in flight at a time of one tenant: each write loads the API server, which delays the watch events of the
/// other tenants.
const OF_ONE: usize = 2;
/// Waiting names of a tenant up to which it may always write.
const FEW: usize = 16;
/// The pause after a write of a tenant with more waiting names, as a multiple of the duration of the write: so a busy API
/// server gets fewer writes.
const REST: u32 = 4;
/// The longest of these pauses: a write that timed out says nothing about the next one.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Time-out of one write.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed write, before the retry.
const PAUSE: Duration = Duration::from_secs(2);

/// A kind whose status is written here.
pub trait Reported: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// Identifies an object of this kind.
    type Name: Clone + Eq + Hash + Debug + Send + Sync + 'static;
    type Status: Clone + Debug + PartialEq + Serialize + Send + Sync + 'static;

    /// Returns the API for the object `name`, and its bare name. Only the metadata of an answer is decoded, so that the
    /// status of an object that cannot be decoded can be written, too.
    fn locate(client: &Client, name: &Self::Name) -> (Api<PartialObjectMeta<Self>>, String);
    /// Returns the UID that the object must have, if `name` is limited to one object of that name.
    fn uid(_: &Self::Name) -> Option<&str> {
        None
    }
    /// Whether a tenant with many waiting statuses rests between its writes.
    const RESTS: bool = false;
    /// Returns the tenant that the status belongs to. The queue serves tenants in turn.
    fn namespace(name: &Self::Name) -> &Arc<str>;
    fn conditions(status: &mut Self::Status) -> &mut Vec<Condition>;
    /// Whether two statuses are equal apart from the times of their conditions.
    fn same(a: &Self::Status, b: &Self::Status) -> bool {
        timeless::<Self>(a) == timeless::<Self>(b)
    }
}

impl Reported for ServiceRegistration
where
    Self: Resource<Scope = NamespaceResourceScope>,
{
    type Name = RegistrationRef;
    type Status = ServiceRegistrationStatus;
    const RESTS: bool = true;

    fn locate(client: &Client, name: &RegistrationRef) -> (Api<PartialObjectMeta<Self>>, String) {
        (Api::namespaced(client.clone(), &name.namespace), name.name.to_string())
    }

    fn namespace(name: &RegistrationRef) -> &Arc<str> {
        &name.namespace
    }

    fn conditions(status: &mut Self::Status) -> &mut Vec<Condition> {
        &mut status.conditions
    }

    /// Compares without a copy: the status may hold a megabyte of endpoints.
    fn same(a: &Self::Status, b: &Self::Status) -> bool {
        same_status(a, b)
    }
}

impl Reported for Registry
where
    Self: Resource<Scope = ClusterResourceScope>,
{
    type Name = Arc<str>;
    type Status = RegistryStatus;

    fn locate(client: &Client, name: &Arc<str>) -> (Api<PartialObjectMeta<Self>>, String) {
        (Api::all(client.clone()), name.to_string())
    }

    fn namespace(name: &Arc<str>) -> &Arc<str> {
        name
    }

    fn conditions(status: &mut Self::Status) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

impl Reported for RecordFormat
where
    Self: Resource<Scope = ClusterResourceScope>,
{
    type Name = Arc<str>;
    type Status = RecordFormatStatus;

    fn namespace(name: &Arc<str>) -> &Arc<str> {
        name
    }

    fn locate(client: &Client, name: &Arc<str>) -> (Api<PartialObjectMeta<Self>>, String) {
        (Api::all(client.clone()), name.to_string())
    }

    fn conditions(status: &mut Self::Status) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

/// Returns a copy of the status in which all condition times are equal.
fn timeless<K: Reported>(status: &K::Status) -> K::Status {
    let mut status = status.clone();
    let epoch = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
    for condition in K::conditions(&mut status) {
        condition.last_transition_time = epoch.clone();
    }
    status
}

/// How long a status stays wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePolicy {
    /// Until it is replaced or released: a change by another client is overwritten.
    Always,
    /// Until it has been written: another replica may write a better status afterwards.
    Once,
    /// Until it has been written, and only if the object has no status yet.
    IfBlank,
}

/// A change to the observed status of an object.
pub struct Amendment<S>(Box<dyn FnOnce(&mut S) + Send>);

impl<S> Amendment<S> {
    pub fn new(change: impl FnOnce(&mut S) + Send + 'static) -> Self {
        Self(Box::new(change))
    }

    pub fn apply(self, status: &mut S) {
        (self.0)(status);
    }
}

impl<S> Debug for Amendment<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Amendment")
    }
}

/// A command or an observation for the status writer.
#[derive(Debug)]
pub enum StatusUpdate<K: Reported> {
    /// The observed status of the object (`None`: no status yet).
    Observed(K::Name, Option<K::Status>),
    /// The status that the object should have.
    Wanted(K::Name, K::Status, WritePolicy),
    /// A change to apply once to the observed status. Ignored if the object has no status, or if a status is wanted
    /// with [`WritePolicy::Always`].
    Amended(K::Name, Amendment<K::Status>),
    /// This replica must not write the object's status any more.
    Released(K::Name),
    /// This replica must not insist on the object's status any more: drops a status that is wanted with
    /// [`WritePolicy::Always`].
    NotInsisted(K::Name),
    Gone(K::Name),
}

struct Entry<S> {
    seen: Option<S>,
    wanted: Option<(Wanted<S>, WritePolicy)>,
    writing: Option<Write>,
}

/// A wanted status. The status of a registration may hold a megabyte of endpoints, so that one that was written is not
/// stored twice.
enum Wanted<S> {
    Status(S),
    /// The observed status.
    AsSeen,
}

impl<S> Entry<S> {
    /// Replaces the observed status. A wanted one stays what it is.
    fn see(&mut self, status: Option<S>, same: impl Fn(&S, &S) -> bool) {
        let former = std::mem::replace(&mut self.seen, status);
        if let (Some((wanted @ Wanted::AsSeen, _)), Some(former)) = (&mut self.wanted, former)
            && !self.seen.as_ref().is_some_and(|seen| same(seen, &former))
        {
            *wanted = Wanted::Status(former);
        }
    }
}

/// A write in flight, and what arrived since it began.
struct Write {
    /// Distinguishes this write from one to an earlier object of the same name.
    number: u64,
    /// A status was observed. It may be older or newer than the written one.
    seen_since: bool,
    /// Another status was wanted.
    wanted_since: bool,
}

/// Names of objects to look at, each once. Tenants take turns, and the names of one tenant keep their order. A name
/// whose write fails is queued behind all others of its tenant.
struct Queue<K: Reported> {
    order: FairQueue<K::Name>,
    waiting: HashSet<K::Name>,
    /// Number of writes in flight of each tenant.
    writing: Counts<Arc<str>>,
    /// When the next write of a tenant may begin.
    resting: HashMap<Arc<str>, Instant>,
}

impl<K: Reported> Queue<K> {
    fn push(&mut self, name: K::Name) {
        if self.waiting.insert(name.clone()) {
            let namespace = K::namespace(&name).clone();
            self.order.push(&namespace, name);
        }
    }

    /// Returns the next name of a tenant that has fewer than [`OF_ONE`] writes in flight and does not rest.
    fn pop(&mut self, now: Instant) -> Option<K::Name> {
        self.resting.retain(|_, until| *until > now);
        let (writing, resting) = (&self.writing, &self.resting);
        let is_free = |namespace: &str| writing.of(namespace) < OF_ONE;
        let may = |namespace: &str, _| is_free(namespace) && !resting.contains_key(namespace);
        let name = self.order.pop_of(may)?;
        self.waiting.remove(&name);
        Some(name)
    }

    /// Counts a write that begins.
    fn begin(&mut self, name: &K::Name) {
        self.writing.add(K::namespace(name).clone());
    }

    /// When the next tenant has rested.
    fn rested_at(&self) -> Option<Instant> {
        self.resting.values().min().copied()
    }

    /// Counts a write that has ended and took so long.
    fn end(&mut self, name: &K::Name, took: Duration, now: Instant) {
        let namespace = K::namespace(name);
        self.writing.remove(namespace);
        if K::RESTS && self.order.len_of(namespace) > FEW {
            let until = now + (took * REST).min(LONGEST_REST);
            let resting = self.resting.entry(namespace.clone()).or_insert(until);
            *resting = until.max(*resting);
        }
    }
}

/// The writer of the statuses of one kind.
pub struct StatusWriter<K: Reported> {
    client: Client,
    calls: Calls,
    entries: HashMap<K::Name, Entry<K::Status>>,
    to_write: Queue<K>,
    writes: JoinSet<EndedWrite<K>>,
    last_write: u64,
}

struct EndedWrite<K: Reported> {
    name: K::Name,
    number: u64,
    status: K::Status,
    written: Written,
    /// How long the API server took.
    took: Duration,
}

enum Written {
    Done,
    Gone,
    Failed,
}

impl<K: Reported> StatusWriter<K> {
    pub fn new(client: Client, calls: Calls) -> Self {
        Self {
            client,
            calls,
            entries: HashMap::new(),
            to_write: Queue {
                order: FairQueue::default(),
                waiting: HashSet::new(),
                writing: Counts::default(),
                resting: HashMap::new(),
            },
            writes: JoinSet::new(),
            last_write: 0,
        }
    }

    /// Writes the statuses that `notes` ask for, until the channel closes or `shutdown`.
    pub async fn run(mut self, mut notes: mpsc::UnboundedReceiver<StatusUpdate<K>>, shutdown: CancellationToken) {
        loop {
            let has_room = self.writes.len() < IN_FLIGHT;
            let rested_at = self.to_write.rested_at().filter(|_| has_room);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(rested_at.unwrap_or_else(Instant::now)), if rested_at.is_some() => {}
                note = notes.recv() => match note {
                    Some(note) => self.take(note),
                    None => return,
                },
                Some(written) = self.writes.join_next() => match written {
                    Ok(ended) => {
                        self.to_write.end(&ended.name, ended.took, Instant::now());
                        self.written(ended.name, ended.number, ended.status, &ended.written);
                    }
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
            }
            self.write(Instant::now());
        }
    }

    fn take(&mut self, note: StatusUpdate<K>) {
        match note {
            StatusUpdate::Observed(name, status) => {
                let entry = self.entry(&name);
                entry.see(status, K::same);
                if let Some(write) = &mut entry.writing {
                    write.seen_since = true;
                }
                self.to_write.push(name);
            }
            StatusUpdate::Wanted(name, status, write_policy) => {
                let entry = self.entry(&name);
                entry.wanted = Some((Wanted::Status(status), write_policy));
                if let Some(write) = &mut entry.writing {
                    write.wanted_since = true;
                }
                self.to_write.push(name);
            }
            StatusUpdate::Amended(name, amendment) => {
                let entry = self.entry(&name);
                let is_wanted = matches!(entry.wanted, Some((_, WritePolicy::Always)));
                if let Some(mut status) = entry.seen.clone().filter(|_| !is_wanted) {
                    amendment.apply(&mut status);
                    self.take(StatusUpdate::Wanted(name, status, WritePolicy::Once));
                }
            }
            StatusUpdate::Released(name) => {
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry.wanted = None;
                }
            }
            StatusUpdate::NotInsisted(name) => {
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry
                        .wanted
                        .take_if(|(_, write_policy)| *write_policy == WritePolicy::Always);
                }
            }
            StatusUpdate::Gone(name) => {
                self.entries.remove(&name);
            }
        }
    }

    fn entry(&mut self, name: &K::Name) -> &mut Entry<K::Status> {
        self.entries.entry(name.clone()).or_insert_with(|| Entry {
            seen: None,
            wanted: None,
            writing: None,
        })
    }

    fn write(&mut self, now: Instant) {
        while self.writes.len() < IN_FLIGHT
            && let Some((name, number, status)) = self.next(now)
        {
            let (client, calls) = (self.client.clone(), self.calls.clone());
            self.to_write.begin(&name);
            self.writes.spawn(async move {
                let (written, took) = patch::<K>(&client, &name, &status, &calls).await;
                EndedWrite {
                    name,
                    number,
                    status,
                    written,
                    took,
                }
            });
        }
    }

    /// Returns the next status to write, and the number of that write.
    fn next(&mut self, now: Instant) -> Option<(K::Name, u64, K::Status)> {
        loop {
            let name = self.to_write.pop(now)?;
            if let Some(status) = self.due(&name) {
                self.last_write += 1;
                self.entry(&name).writing = Some(Write {
                    number: self.last_write,
                    seen_since: false,
                    wanted_since: false,
                });
                return Some((name, self.last_write, status));
            }
        }
    }

    /// Returns the status of `name` if it must be written now.
    fn due(&mut self, name: &K::Name) -> Option<K::Status> {
        let entry = self.entries.get_mut(name)?;
        // When the write in flight ends, `written` queues this name again.
        if entry.writing.is_some() {
            return None;
        }
        let (wanted, write_policy) = entry.wanted.as_mut()?;
        let Wanted::Status(wanted_status) = wanted else {
            return None;
        };
        let mut status = wanted_status.clone();
        if let Some(seen) = &mut entry.seen {
            let is_undecided = keep_undecided(K::conditions(&mut status), K::conditions(seen));
            let settled = *write_policy == WritePolicy::IfBlank || K::same(&status, seen);
            if settled {
                match write_policy {
                    WritePolicy::Always if is_undecided => {}
                    WritePolicy::Always => *wanted = Wanted::AsSeen,
                    WritePolicy::Once | WritePolicy::IfBlank => entry.wanted = None,
                }
                return None;
            }
            keep_times(K::conditions(&mut status), K::conditions(seen));
        }
        Some(status)
    }

    fn written(&mut self, name: K::Name, number: u64, status: K::Status, written: &Written) {
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        let Some(write) = entry.writing.take_if(|write| write.number == number) else {
            return;
        };
        match written {
            Written::Done => {
                // A status observed since the write began may be newer than the written one. If it is older, the watch
                // is about to deliver the written one.
                if !write.seen_since {
                    entry.see(Some(status), K::same);
                }
                if !write.wanted_since {
                    entry
                        .wanted
                        .take_if(|(_, write_policy)| *write_policy != WritePolicy::Always);
                }
            }
            // The object may have been created again since.
            Written::Gone if write.wanted_since => {}
            Written::Gone if write.seen_since => entry.wanted = None,
            Written::Gone => {
                self.entries.remove(&name);
                return;
            }
            Written::Failed => {}
        }
        self.to_write.push(name);
    }
}

/// What is applied. Serialized from the status itself: as a JSON value, a long list of endpoints would take megabytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a, S> {
    api_version: Cow<'a, str>,
    kind: Cow<'a, str>,
    metadata: Metadata<'a>,
    status: &'a S,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

/// Writes the status. Returns the result, and how long the API server took.
async fn patch<K: Reported>(
    client: &Client,
    object: &K::Name,
    status: &K::Status,
    calls: &Calls,
) -> (Written, Duration) {
    let (api, name) = K::locate(client, object);
    let body = Body {
        api_version: K::api_version(&()),
        kind: K::kind(&()),
        metadata: Metadata {
            name: &name,
            uid: K::uid(object),
        },
        status,
    };
    let start = Instant::now();
    let params = PatchParams::apply(MANAGER).force();
    let answer = timeout(REQUEST_TIMEOUT, api.patch_status(&name, &params, &Patch::Apply(&body))).await;
    let (outcome, written, cause) = match answer {
        Ok(Ok(_)) => (Outcome::Ok, Written::Done, None),
        Ok(Err(kube::Error::Api(answer))) if answer.is_not_found() => (Outcome::Refused, Written::Gone, None),
        Ok(Err(error)) => (Outcome::Error, Written::Failed, Some(error.to_string())),
        Err(_) => (
            Outcome::Timeout,
            Written::Failed,
            Some(format!("no answer within {REQUEST_TIMEOUT:?}")),
        ),
    };
    let took = start.elapsed();
    calls.observe(Peer::Apiserver, "patch_status", outcome, took);
    if let Some(cause) = cause {
        warn!(kind = %K::kind(&()), name, cause, "cannot write this status; trying again");
        // A failed write keeps its place among the writes in flight during the pause, which reduces the load on an API
        // server in trouble.
        tokio::time::sleep(PAUSE).await;
    }
    (written, took)
}

#[cfg(test)]
mod tests;
