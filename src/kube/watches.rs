//! Watches pods, Services, nodes, registrations and the other kinds, with one watch per [`WatchTarget`], and sends what
//! they deliver as [`WatchEvent`]s. Advances the checkpoint before an event is sent.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::checkpoint::SharedCheckpoint;
use super::sources::{Content, Source};
use super::stripped::StrippedPod;
use super::stripped_objects::{
    MANAGED_BY_LABEL, SLICE_CONTROLLER, StrippedNamespace, StrippedNode, StrippedService, StrippedSlice,
};
use super::watch_clients::{DEAD_AFTER, WATCH, WatchClients};
use super::watch_connection::WatchConnection;
use super::watch_scope::{
    ENDPOINT_SLICES, NAMESPACES, NODES, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, SERVICES,
};
use crate::api::{RecordFormat, Registry, ServiceRegistration};
use crate::index::{self};
use crate::model::{Backoff, NamespaceScope, WatchTarget};
use crate::telemetry::{Metrics, Outcome, Peer};

/// A watch that cannot be opened is retried after 200 ms, doubling up to 2 s. The pauses are short, so that the return
/// of the API server is noticed at once; there are few watches.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A watch that has failed for this long is not resumed but restarted with a list. The end of a list proves that
/// nothing is missing; a resumed watch that stays silent does not.
const LOST: Duration = Duration::from_secs(10);
/// A failure this long after the previous one starts a new outage. Failed attempts are never that far apart, so the
/// watch was resumed in between, even if it was idle and delivered no event.
const ANOTHER: Duration = Duration::from_mins(1);

/// A change to the objects of one kind.
#[derive(Debug)]
pub enum ObjectEvent<T> {
    /// A complete list begins: objects cached before may be outdated.
    ListBegins,
    /// An object exists: it is part of a list, or was created or changed.
    Applied(T),
    Deleted {
        /// Empty for a cluster-scoped kind.
        namespace: String,
        name: String,
    },
    /// An object exists but cannot be decoded: its cached state stays.
    Unreadable {
        /// Empty for a cluster-scoped kind.
        namespace: String,
        name: String,
        /// `metadata.generation`.
        generation: i64,
        /// The decoding error.
        cause: String,
    },
    /// The list is complete: objects that were not in it do not exist.
    ListComplete,
    /// The watch has delivered nothing since this time: the cache is stale until the next list is complete.
    Lost(Timestamp),
}

/// What the watches deliver.
#[derive(Debug)]
pub enum WatchEvent {
    /// The UID of the cluster, sent once and before everything else.
    Cluster(Arc<str>),
    /// All changes up to a resourceVersion of a watch target have been sent.
    Bookmark {
        target: WatchTarget,
        /// The resourceVersion.
        version: u64,
        /// The API server's own resourceVersion and the time of the request for it, if there was one.
        present: Option<(u64, std::time::Instant)>,
    },
    Pod(NamespaceScope, ObjectEvent<index::Pod>),
    Registration(NamespaceScope, ObjectEvent<Box<ServiceRegistration>>),
    Registry(ObjectEvent<Box<Registry>>),
    Namespace(NamespaceScope, ObjectEvent<index::NamespaceLabels>),
    RecordFormat(ObjectEvent<Box<RecordFormat>>),
    Service(NamespaceScope, ObjectEvent<index::Service>),
    /// An EndpointSlice that Kubernetes' own controller does not write.
    EndpointSlice(NamespaceScope, ObjectEvent<index::EndpointSlice>),
    Node(ObjectEvent<index::Node>),
    /// The content of a Secret or ConfigMap that a Registry names.
    Source(Source, Content),
}

/// The receivers of watch events and checkpoints.
#[derive(Clone)]
struct Outputs {
    metrics: Metrics,
    checkpoint: SharedCheckpoint,
    event_sender: mpsc::Sender<WatchEvent>,
}

/// Watches all kinds in the scope of `checkpoint` and sends what the watches deliver, until `shutdown`. Errors of the
/// API server are retried, and never taken for an absence of objects. Begins once `cluster_id` is known.
/// Advances `checkpoint` before it sends an event.
pub async fn watch(
    mut clients: WatchClients,
    cluster_id: impl Future<Output = String>,
    metrics: Metrics,
    checkpoint: SharedCheckpoint,
    event_sender: mpsc::Sender<WatchEvent>,
    shutdown: CancellationToken,
) {
    let watch_scope = checkpoint.watch_scope().clone();
    for target in watch_scope.targets() {
        metrics
            .staleness
            .stale_for(&target.kind, target.namespaces.name(), Duration::ZERO);
    }
    let outputs = Outputs {
        metrics,
        checkpoint,
        event_sender,
    };
    let mut watches = JoinSet::new();
    let all = async {
        let sent = outputs
            .event_sender
            .send(WatchEvent::Cluster(cluster_id.await.into()))
            .await;
        if sent.is_err() {
            return;
        }
        // One task per watch, so that a kind with much to read does not delay the others.
        for target in watch_scope.targets() {
            watches.spawn(follow_kind(clients.client(), target, &outputs));
        }
        while let Some(ended) = watches.join_next().await {
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = all => {}
    }
}

fn follow_kind(client: Client, target: WatchTarget, outputs: &Outputs) -> BoxFuture<'static, ()> {
    let (outputs, namespaces) = (outputs.clone(), target.namespaces.clone());
    match &*target.kind {
        PODS => {
            let wrap = move |seen: ObjectEvent<StrippedPod>| WatchEvent::Pod(namespaces.clone(), seen.map(Into::into));
            follow(client, target, namespaced, outputs, wrap).boxed()
        }
        REGISTRATIONS => {
            let wrap = move |seen: ObjectEvent<ServiceRegistration>| {
                WatchEvent::Registration(namespaces.clone(), seen.map(Box::new))
            };
            follow(client, target, namespaced, outputs, wrap).boxed()
        }
        NAMESPACES => {
            let wrap = move |seen: ObjectEvent<StrippedNamespace>| {
                WatchEvent::Namespace(namespaces.clone(), seen.map(Into::into))
            };
            follow(client, target, named, outputs, wrap).boxed()
        }
        SERVICES => {
            let wrap =
                move |seen: ObjectEvent<StrippedService>| WatchEvent::Service(namespaces.clone(), seen.map(Into::into));
            follow(client, target, namespaced, outputs, wrap).boxed()
        }
        ENDPOINT_SLICES => {
            let wrap = move |seen: ObjectEvent<StrippedSlice>| {
                WatchEvent::EndpointSlice(namespaces.clone(), seen.map(Into::into))
            };
            follow(client, target, foreign_slices, outputs, wrap).boxed()
        }
        NODES => {
            let wrap = |seen: ObjectEvent<StrippedNode>| WatchEvent::Node(seen.map(Into::into));
            follow(client, target, named, outputs, wrap).boxed()
        }
        REGISTRIES => {
            let wrap = |seen: ObjectEvent<Registry>| WatchEvent::Registry(seen.map(Box::new));
            follow(client, target, named, outputs, wrap).boxed()
        }
        RECORD_FORMATS => {
            let wrap = |seen: ObjectEvent<RecordFormat>| WatchEvent::RecordFormat(seen.map(Box::new));
            follow(client, target, named, outputs, wrap).boxed()
        }
        other => unreachable!("a watch scope has no target of {other}"),
    }
}

/// The API and the selection for a list or watch of the objects of one namespace scope.
type Asking<K> = (Api<DeserializeGuard<K>>, Config);

/// Asks for namespaced objects in their namespace.
fn namespaced<K>(client: Client, namespaces: &NamespaceScope) -> Asking<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = match namespaces.name() {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    (api, Config::default())
}

/// Asks for the EndpointSlices that Kubernetes' own controller does not write: those of Services with a selector, which
/// are resolved on pods, would be an event for each change of a pod.
fn foreign_slices<K>(client: Client, namespaces: &NamespaceScope) -> Asking<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let (api, config) = namespaced(client, namespaces);
    (api, config.labels(&format!("{MANAGED_BY_LABEL}!={SLICE_CONTROLLER}")))
}

/// Asks for cluster-scoped objects; for a Namespace object by its name, since a service account that may see no other
/// namespaces is still allowed that request.
fn named<K: Resource<DynamicType = ()>>(client: Client, namespaces: &NamespaceScope) -> Asking<K> {
    let config = match namespaces.name() {
        Some(name) => Config::default().fields(&format!("metadata.name={name}")),
        None => Config::default(),
    };
    (Api::all(client), config)
}

async fn follow<K, F>(
    client: Client,
    target: WatchTarget,
    asking: impl FnOnce(Client, &NamespaceScope) -> Asking<K>,
    Outputs {
        metrics,
        checkpoint,
        event_sender,
    }: Outputs,
    wrap: F,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Fn(ObjectEvent<K>) -> WatchEvent + Send,
{
    let what = target.to_string();
    let (line, client) = WatchConnection::open(client, target.clone(), event_sender.clone());
    let (api, config) = asking(client, &target.namespaces);
    let config = config.page_size(500).timeout(WATCH);
    let begin = || watcher(api.clone(), config.clone()).boxed();
    let mut events = begin();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    // Times of the first and of the latest failure of this outage.
    let mut broken: Option<(Instant, Instant)> = None;
    let mut lost = false;
    let mut listing = true;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // A list that has begun shows the present state as well.
            () = checkpoint.is_to_relist(&target) => {
                if !listing {
                    events = begin();
                }
                continue;
            }
        };
        let Some(event) = event else { return };
        match event {
            Ok(Event::Init) => listing = true,
            Ok(Event::InitDone) => listing = false,
            _ => {}
        }
        let mut version = None;
        let seen = match event {
            // kube emits `Init` before it sends the list request, so `Init` does not prove that the API server answers.
            Ok(Event::Init) => ObjectEvent::ListBegins,
            Ok(event) => {
                line.record_receipt();
                if broken.take().is_some() {
                    info!(%what, "the watch works again");
                }
                lost = false;
                backoff.reset();
                if matches!(event, Event::InitDone) {
                    metrics.staleness.fresh(&target.kind, target.namespaces.name());
                }
                version = record_version(&target, &event, &checkpoint);
                object_event(&what, event)
            }
            Err(error) => {
                metrics
                    .calls
                    .observe(Peer::Apiserver, "watch", Outcome::Error, Duration::ZERO);
                let now = Instant::now();
                let since = match broken {
                    Some((since, again)) if now < again + ANOTHER => since,
                    _ => {
                        warn!(%what, cause = %cause(&error), "the watch failed; the cached state stays, trying again");
                        now
                    }
                };
                broken = Some((since, now));
                let forgetful = line.take_forgetful();
                if forgetful {
                    checkpoint.forget(&target);
                } else {
                    tokio::time::sleep(backoff.next_pause()).await;
                }
                if lost || !(forgetful || since.elapsed() >= LOST) {
                    if is_expired(&error) {
                        // kube would repeat the same request forever.
                        events = begin();
                    }
                    continue;
                }
                lost = true;
                // A connection that answers and then fails counts as alive but delivers no events, hence the maximum.
                // A dead connection is noticed late. Before that, an idle watch may have received nothing for longer.
                let silent_for = line.silent_for().min(since.elapsed() + DEAD_AFTER);
                let age = since.elapsed().max(silent_for);
                metrics.staleness.stale_for(&target.kind, target.namespaces.name(), age);
                events = begin();
                ObjectEvent::Lost(Timestamp::now() - age)
            }
        };
        if event_sender.send(wrap(seen)).await.is_err() {
            return;
        }
        if let Some(version) = version {
            let reached = WatchEvent::Bookmark {
                target: target.clone(),
                version,
                present: None,
            };
            let _ = event_sender.send(reached).await;
        }
    }
}

/// Advances the checkpoint by the resourceVersion of an event that is about to be sent. Returns the version up to which
/// everything is known after that event. Returns `None` for an object of a list: lists are not ordered by version, and
/// the watch that follows the list reports its version.
fn record_version<K: Resource>(
    target: &WatchTarget,
    event: &Event<DeserializeGuard<K>>,
    checkpoint: &SharedCheckpoint,
) -> Option<u64>
where
    DeserializeGuard<K>: ResourceExt,
{
    match event {
        Event::Init | Event::InitDone => None,
        Event::InitApply(object) => {
            checkpoint.record(target, object.meta().resource_version.as_deref());
            None
        }
        Event::Apply(object) | Event::Delete(object) => {
            checkpoint.record(target, object.meta().resource_version.as_deref())
        }
    }
}

fn object_event<K: Resource<DynamicType = ()> + Clone>(
    what: &str,
    event: Event<DeserializeGuard<K>>,
) -> ObjectEvent<K> {
    match event {
        Event::Init => ObjectEvent::ListBegins,
        Event::InitDone => ObjectEvent::ListComplete,
        Event::Apply(object) | Event::InitApply(object) => {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            match object.0 {
                Ok(object) => ObjectEvent::Applied(object),
                Err(invalid) => {
                    warn!(what, namespace, name, cause = %invalid, "cannot decode this object; its known state stays");
                    ObjectEvent::Unreadable {
                        namespace,
                        name,
                        generation: invalid.metadata.generation.unwrap_or_default(),
                        cause: invalid.error,
                    }
                }
            }
        }
        Event::Delete(object) => ObjectEvent::Deleted {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        },
    }
}

/// Whether the API server no longer has the resourceVersion to watch from, and says so before the watch begins. Only a
/// new list helps.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// Returns the whole chain of causes: kube's outermost error names only the step that failed.
pub(super) fn cause(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

impl<T> ObjectEvent<T> {
    fn map<U>(self, convert: impl FnOnce(T) -> U) -> ObjectEvent<U> {
        match self {
            Self::ListBegins => ObjectEvent::ListBegins,
            Self::Applied(object) => ObjectEvent::Applied(convert(object)),
            Self::Deleted { namespace, name } => ObjectEvent::Deleted { namespace, name },
            Self::Unreadable {
                namespace,
                name,
                generation,
                cause,
            } => ObjectEvent::Unreadable {
                namespace,
                name,
                generation,
                cause,
            },
            Self::ListComplete => ObjectEvent::ListComplete,
            Self::Lost(since) => ObjectEvent::Lost(since),
        }
    }
}
