//! The watches on pods, registrations, Registries, RecordFormats and namespaces, each one stream of news.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
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
use super::stripped::{StrippedNamespace, StrippedPod};
use super::watch_connection::WatchConnection;
use super::watch_scope::{NAMESPACES, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES};
use crate::api::{RecordFormat, Registry, ServiceRegistration};
use crate::index::{self, NamespaceScope};
use crate::plan::WatchTarget;
use crate::telemetry::{Metrics, Outcome, Peer};

/// A watch that cannot be opened is tried again after 200 ms, doubling up to 2 s: short, so that the return of an
/// apiserver is noticed at once, and there are few of them.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A watch lasts for this many seconds: then the apiserver ends it and another one goes on from there. One that it does
/// not end 5 s later (kube's margin) is dead, however well its connection looks: nothing else shows it, for where nothing
/// happens a watch says nothing, and kube speaks HTTP/1.1, which has no pings.
const WATCH: u32 = 10;
/// A watch that has failed for this long is not resumed but begun anew, with a list: its end is a sure sign that
/// nothing is missing, which a watch that is resumed and stays silent does not give.
const LOST: Duration = Duration::from_secs(10);
/// A failure so long after the one before it is another trouble: attempts that fail are not that far apart, so that it
/// was resumed in between, though where nothing happens nothing was seen of it.
const ANOTHER: Duration = Duration::from_mins(1);

/// One piece of news about objects of one kind.
#[derive(Debug)]
pub enum ObjectEvent<T> {
    /// A complete list begins: what was known may be outdated.
    ListBegins,
    /// An object is there, as part of a list or because it was created or changed.
    Applied(T),
    /// An object is gone.
    Deleted {
        /// Its namespace, empty for a kind without.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An object is there, but cannot be read: what is known of it stays.
    Unreadable {
        /// Its namespace, empty for a kind without.
        namespace: String,
        /// Its name.
        name: String,
        /// Its `metadata.generation`.
        generation: i64,
        /// What cannot be read in it.
        cause: String,
    },
    /// The list is complete: what was not in it is gone.
    ListComplete,
    /// Nothing has been heard for long, since then: what is known is outdated until the next list is complete.
    Lost(Timestamp),
}

/// One piece of news.
#[derive(Debug)]
pub enum WatchEvent {
    /// Which cluster it is, by its UID: told once, before anything else.
    Cluster(Arc<str>),
    /// Everything up to a version of the objects of a stream has been told.
    Bookmark {
        /// The stream.
        stream: WatchTarget,
        /// The version (`metadata.resourceVersion`).
        version: u64,
        /// The apiserver's own version and when it was asked for it, if it was.
        present: Option<(u64, std::time::Instant)>,
    },
    /// About the pods of an area.
    Pod(NamespaceScope, ObjectEvent<index::Pod>),
    /// About the registrations of an area.
    Registration(NamespaceScope, ObjectEvent<Box<ServiceRegistration>>),
    /// About Registries.
    Registry(ObjectEvent<Box<Registry>>),
    /// About the namespaces of an area.
    Namespace(NamespaceScope, ObjectEvent<index::NamespaceLabels>),
    /// About RecordFormats.
    RecordFormat(ObjectEvent<Box<RecordFormat>>),
    /// What is in an object that a Registry names.
    Source(Source, Content),
}

/// Where what is heard goes.
#[derive(Clone)]
struct Ends {
    metrics: Metrics,
    hearing: SharedCheckpoint,
    news: mpsc::Sender<WatchEvent>,
}

/// Watches all kinds in the territory of `hearing` and sends what is seen, for ever: trouble with the apiserver is retried, and never
/// taken for an absence of objects. Begins once `cluster_id` is known. How far each stream has been heard is noted in
/// `hearing` before it is told.
pub async fn watch(
    client: Client,
    cluster_id: impl Future<Output = String>,
    metrics: Metrics,
    hearing: SharedCheckpoint,
    news: mpsc::Sender<WatchEvent>,
    shutdown: CancellationToken,
) {
    let watch_scope = hearing.watch_scope().clone();
    for stream in watch_scope.streams() {
        metrics
            .staleness
            .stale_for(&stream.kind, stream.area.name(), Duration::ZERO);
    }
    let ends = Ends { metrics, hearing, news };
    let mut watches = JoinSet::new();
    let all = async {
        let told = ends.news.send(WatchEvent::Cluster(cluster_id.await.into())).await;
        if told.is_err() {
            return;
        }
        // Each is a task of its own: where there is much to read of one kind, the others are read meanwhile.
        for stream in watch_scope.streams() {
            watches.spawn(follow_kind(&client, stream, &ends));
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

/// Watches one stream.
fn follow_kind(client: &Client, stream: WatchTarget, ends: &Ends) -> BoxFuture<'static, ()> {
    let (client, ends, area) = (client.clone(), ends.clone(), stream.area.clone());
    match &*stream.kind {
        PODS => {
            let told = move |seen: ObjectEvent<StrippedPod>| WatchEvent::Pod(area.clone(), seen.map(Into::into));
            follow(client, stream, namespaced, ends, told).boxed()
        }
        REGISTRATIONS => {
            let told = move |seen: ObjectEvent<ServiceRegistration>| {
                WatchEvent::Registration(area.clone(), seen.map(Box::new))
            };
            follow(client, stream, namespaced, ends, told).boxed()
        }
        NAMESPACES => {
            let told =
                move |seen: ObjectEvent<StrippedNamespace>| WatchEvent::Namespace(area.clone(), seen.map(Into::into));
            follow(client, stream, named, ends, told).boxed()
        }
        REGISTRIES => {
            let told = |seen: ObjectEvent<Registry>| WatchEvent::Registry(seen.map(Box::new));
            follow(client, stream, named, ends, told).boxed()
        }
        RECORD_FORMATS => {
            let told = |seen: ObjectEvent<RecordFormat>| WatchEvent::RecordFormat(seen.map(Box::new));
            follow(client, stream, named, ends, told).boxed()
        }
        other => unreachable!("a territory has no stream of {other}"),
    }
}

/// How the objects of an area are asked for: where, and which.
type Asking<K> = (Api<DeserializeGuard<K>>, Config);

/// Objects that are in a namespace are asked for there.
fn namespaced<K>(client: Client, area: &NamespaceScope) -> Asking<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = match area.name() {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    (api, Config::default())
}

/// Others are asked for in the cluster, a namespace by its name: who may see no others may ask so.
fn named<K: Resource<DynamicType = ()>>(client: Client, area: &NamespaceScope) -> Asking<K> {
    let config = match area.name() {
        Some(name) => Config::default().fields(&format!("metadata.name={name}")),
        None => Config::default(),
    };
    (Api::all(client), config)
}

async fn follow<K, F>(
    client: Client,
    stream: WatchTarget,
    asking: impl FnOnce(Client, &NamespaceScope) -> Asking<K>,
    Ends { metrics, hearing, news }: Ends,
    wrap: F,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Fn(ObjectEvent<K>) -> WatchEvent + Send,
{
    let what = stream.to_string();
    let (line, client) = WatchConnection::open(client, stream.clone(), news.clone());
    let (api, config) = asking(client, &stream.area);
    let config = config.page_size(500).timeout(WATCH);
    let begin = || watcher(api.clone(), config.clone()).boxed();
    let mut events = begin();
    let mut pauses = Pauses::default();
    // Since when, and when it failed again.
    let mut broken: Option<(Instant, Instant)> = None;
    let mut lost = false;
    while let Some(event) = events.next().await {
        let mut version = None;
        let seen = match event {
            // Told before the apiserver is asked for the list: no sign that it is there.
            Ok(Event::Init) => ObjectEvent::ListBegins,
            Ok(event) => {
                line.hear();
                if broken.take().is_some() {
                    info!(%what, "the watch is back");
                }
                lost = false;
                pauses.reset();
                if matches!(event, Event::InitDone) {
                    metrics.staleness.fresh(&stream.kind, stream.area.name());
                }
                version = heard(&stream, &event, &hearing);
                told(&what, event)
            }
            Err(error) => {
                metrics
                    .calls
                    .observe(Peer::Apiserver, "watch", Outcome::Error, Duration::ZERO);
                let now = Instant::now();
                let since = match broken {
                    Some((since, again)) if now < again + ANOTHER => since,
                    _ => {
                        warn!(%what, cause = %cause(&error), "the watch broke; what is known stays, trying again");
                        now
                    }
                };
                broken = Some((since, now));
                let forgetful = line.take_forgetful();
                if forgetful {
                    hearing.forget(&stream);
                } else {
                    tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
                }
                let silent = line.silent_for() >= LOST + Duration::from_secs(WATCH.into());
                if lost || !(forgetful || silent || since.elapsed() >= LOST) {
                    if is_expired(&error) {
                        // kube would ask for the same for ever.
                        events = begin();
                    }
                    continue;
                }
                lost = true;
                // What answers and then fails is heard of, and tells nothing.
                let age = since.elapsed().max(line.silent_for());
                metrics.staleness.stale_for(&stream.kind, stream.area.name(), age);
                events = begin();
                ObjectEvent::Lost(Timestamp::now() - age)
            }
        };
        if news.send(wrap(seen)).await.is_err() {
            return;
        }
        if let Some(version) = version {
            let reached = WatchEvent::Bookmark {
                stream: stream.clone(),
                version,
                present: None,
            };
            let _ = news.send(reached).await;
        }
    }
}

/// Notes the version of what is about to be told. Returns up to which version that makes everything known: the objects
/// of a list come in no order of versions, and the watch that follows tells of it.
fn heard<K: Resource>(
    stream: &WatchTarget,
    event: &Event<DeserializeGuard<K>>,
    hearing: &SharedCheckpoint,
) -> Option<u64>
where
    DeserializeGuard<K>: ResourceExt,
{
    match event {
        Event::Init | Event::InitDone => None,
        Event::InitApply(object) => {
            hearing.hear(stream, object.meta().resource_version.as_deref());
            None
        }
        Event::Apply(object) | Event::Delete(object) => hearing.hear(stream, object.meta().resource_version.as_deref()),
    }
}

fn told<K: Resource<DynamicType = ()> + Clone>(what: &str, event: Event<DeserializeGuard<K>>) -> ObjectEvent<K> {
    match event {
        Event::Init => ObjectEvent::ListBegins,
        Event::InitDone => ObjectEvent::ListComplete,
        Event::Apply(object) | Event::InitApply(object) => {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            match object.0 {
                Ok(object) => ObjectEvent::Applied(object),
                Err(invalid) => {
                    warn!(what, namespace, name, cause = %invalid, "cannot read this object; what is known of it stays");
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

/// Whether the apiserver has forgotten what was to be watched from, and says so before the watch begins: there is
/// nothing for it but to list anew.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// The whole chain of causes: kube's outermost error says only which step failed.
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

/// The pauses between attempts.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = FIRST_PAUSE;
    }
}
