//! The watches on pods, registrations, Registries and namespaces, as one stream of news.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::lean::{LeanNamespace, LeanPod};
use super::line::Line;
use crate::api::{Registry, ServiceRegistration};
use crate::index;
use crate::telemetry::{Metrics, Outcome, Peer};

/// The kinds, by the names of their resources.
const PODS: &str = "pods";
const REGISTRATIONS: &str = "serviceregistrations";
const REGISTRIES: &str = "registries";
const NAMESPACES: &str = "namespaces";
/// A watch that cannot be opened is tried again after 200 ms, doubling up to 2 s: short, so that the return of an
/// apiserver is noticed at once, and there are only four of them.
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
pub enum Seen<T> {
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
pub enum News {
    /// Which cluster it is, by its UID: told once, before anything else.
    Cluster(Arc<str>),
    /// About pods.
    Pod(Seen<index::Pod>),
    /// About registrations.
    Registration(Seen<Box<ServiceRegistration>>),
    /// About Registries.
    Registry(Seen<Box<Registry>>),
    /// About namespaces.
    Namespace(Seen<index::Tenant>),
}

/// Watches all kinds and sends what is seen, for ever: trouble with the apiserver is retried, and never taken for
/// an absence of objects. Begins once `cluster_id` is known.
pub async fn watch(
    client: Client,
    cluster_id: impl Future<Output = String>,
    metrics: Metrics,
    news: mpsc::Sender<News>,
    shutdown: CancellationToken,
) {
    for kind in [PODS, REGISTRATIONS, REGISTRIES, NAMESPACES] {
        metrics.staleness.stale_for(kind, Duration::ZERO);
    }
    let pods = follow::<LeanPod, _>(client.clone(), PODS, &metrics, &news, |seen| {
        News::Pod(seen.map(Into::into))
    });
    let registrations = follow::<ServiceRegistration, _>(client.clone(), REGISTRATIONS, &metrics, &news, |seen| {
        News::Registration(seen.map(Box::new))
    });
    let registries = follow::<Registry, _>(client.clone(), REGISTRIES, &metrics, &news, |seen| {
        News::Registry(seen.map(Box::new))
    });
    let namespaces = follow::<LeanNamespace, _>(client, NAMESPACES, &metrics, &news, |seen| {
        News::Namespace(seen.map(Into::into))
    });
    let all = async {
        let told = news.send(News::Cluster(cluster_id.await.into())).await;
        if told.is_ok() {
            futures::future::join4(pods, registrations, registries, namespaces).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = all => {}
    }
}

async fn follow<K, F>(client: Client, what: &'static str, metrics: &Metrics, news: &mpsc::Sender<News>, wrap: F)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Fn(Seen<K>) -> News,
{
    let (line, client) = Line::open(client);
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let begin = || watcher(api.clone(), Config::default().page_size(500).timeout(WATCH)).boxed();
    let mut events = begin();
    let mut pauses = Pauses::default();
    // Since when, and when it failed again.
    let mut broken: Option<(Instant, Instant)> = None;
    let mut lost = false;
    while let Some(event) = events.next().await {
        let seen = match event {
            // Told before the apiserver is asked for the list: no sign that it is there.
            Ok(Event::Init) => Seen::ListBegins,
            Ok(event) => {
                line.hear();
                if broken.take().is_some() {
                    info!(what, "the watch is back");
                }
                lost = false;
                pauses.reset();
                if matches!(event, Event::InitDone) {
                    metrics.staleness.fresh(what);
                }
                told(what, event)
            }
            Err(error) => {
                metrics
                    .calls
                    .observe(Peer::Apiserver, "watch", Outcome::Error, Duration::ZERO);
                let now = Instant::now();
                let since = match broken {
                    Some((since, again)) if now < again + ANOTHER => since,
                    _ => {
                        warn!(what, cause = %cause(&error), "the watch broke; what is known stays, trying again");
                        now
                    }
                };
                broken = Some((since, now));
                let forgetful = line.take_forgetful();
                if !forgetful {
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
                metrics.staleness.stale_for(what, age);
                events = begin();
                Seen::Lost(Timestamp::now() - age)
            }
        };
        if news.send(wrap(seen)).await.is_err() {
            return;
        }
    }
}

fn told<K: Resource<DynamicType = ()> + Clone>(what: &'static str, event: Event<DeserializeGuard<K>>) -> Seen<K> {
    match event {
        Event::Init => Seen::ListBegins,
        Event::InitDone => Seen::ListComplete,
        Event::Apply(object) | Event::InitApply(object) => {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            match object.0 {
                Ok(object) => Seen::Applied(object),
                Err(invalid) => {
                    warn!(what, namespace, name, cause = %invalid, "cannot read this object; what is known of it stays");
                    Seen::Unreadable {
                        namespace,
                        name,
                        generation: invalid.metadata.generation.unwrap_or_default(),
                        cause: invalid.error,
                    }
                }
            }
        }
        Event::Delete(object) => Seen::Deleted {
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
fn cause(error: &watcher::Error) -> String {
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

impl<T> Seen<T> {
    fn map<U>(self, convert: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::ListBegins => Seen::ListBegins,
            Self::Applied(object) => Seen::Applied(convert(object)),
            Self::Deleted { namespace, name } => Seen::Deleted { namespace, name },
            Self::Unreadable {
                namespace,
                name,
                generation,
                cause,
            } => Seen::Unreadable {
                namespace,
                name,
                generation,
                cause,
            },
            Self::ListComplete => Seen::ListComplete,
            Self::Lost(since) => Seen::Lost(since),
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
