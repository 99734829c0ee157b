//! Watches the Secrets and ConfigMaps that Registries name. Each object has a watch limited to its name, so that the
//! operator needs no permission to read others, and reads no others if it has that permission.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::watch_clients::{WATCH, WatchClients};
use super::watches::{WatchEvent, cause};
use crate::secret::SecretString;
use crate::telemetry::{Metrics, Outcome, Peer};

/// Pause before a failed watch is restarted.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    Secret,
    ConfigMap,
}

impl SourceKind {
    /// Returns the kind as Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// An object in the operator's namespace that a Registry names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub kind: SourceKind,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The object does not exist.
    Absent,
    /// The values by their keys; `None` for a value that is not UTF-8.
    Present(BTreeMap<String, Option<SecretString>>),
    /// The API server refuses to let the operator read the object; with its error message.
    Forbidden(String),
}

/// A kind of object that carries data.
pub(super) trait Holder: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    fn content(self) -> Content;
}

impl Holder for Secret {
    fn content(self) -> Content {
        let text = |ByteString(bytes)| String::from_utf8(bytes).ok().map(SecretString::from);
        let data = self.data.unwrap_or_default().into_iter();
        Content::Present(data.map(|(key, bytes)| (key, text(bytes))).collect())
    }
}

impl Holder for ConfigMap {
    fn content(self) -> Content {
        let data = self.data.unwrap_or_default().into_iter();
        Content::Present(data.map(|(key, text)| (key, Some(SecretString::from(text)))).collect())
    }
}

/// Watches the `wanted` objects in `namespace` and sends their content, until `shutdown`. Errors of the API server are
/// retried, and never taken for an absence of objects.
pub async fn watch_sources(
    mut clients: WatchClients,
    namespace: Arc<str>,
    mut wanted: watch::Receiver<BTreeSet<Source>>,
    metrics: Metrics,
    event_sender: mpsc::Sender<WatchEvent>,
    shutdown: CancellationToken,
) {
    // Dropping the set when this function returns aborts the tasks.
    let mut tasks = JoinSet::new();
    let mut watched: HashMap<Source, AbortHandle> = HashMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        watched.retain(|source, task| {
            let keep = now.contains(source);
            if !keep {
                task.abort();
            }
            keep
        });
        for source in now {
            watched.entry(source).or_insert_with_key(|source| {
                let (client, namespace) = (clients.client(), namespace.clone());
                tasks.spawn(follow(
                    client,
                    namespace,
                    source.clone(),
                    metrics.clone(),
                    event_sender.clone(),
                ))
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            Some(Err(ended)) = tasks.join_next() => if let Ok(panic) = ended.try_into_panic() {
                std::panic::resume_unwind(panic);
            },
        }
    }
}

async fn follow(
    client: Client,
    namespace: Arc<str>,
    source: Source,
    metrics: Metrics,
    event_sender: mpsc::Sender<WatchEvent>,
) {
    match source.kind {
        SourceKind::Secret => {
            follow_one(
                Api::<Secret>::namespaced(client, &namespace),
                source,
                metrics,
                event_sender,
            )
            .await;
        }
        SourceKind::ConfigMap => {
            follow_one(
                Api::<ConfigMap>::namespaced(client, &namespace),
                source,
                metrics,
                event_sender,
            )
            .await;
        }
    }
}

async fn follow_one<K: Holder>(api: Api<K>, source: Source, metrics: Metrics, event_sender: mpsc::Sender<WatchEvent>) {
    let (kind, name) = (source.kind.as_str(), source.name.clone());
    let config = Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(WATCH);
    let begin = || watcher(api.clone(), config.clone()).boxed();
    let mut events = begin();
    let mut listed = false;
    let mut failing = false;
    while let Some(event) = events.next().await {
        if event.is_ok() && !matches!(event, Ok(Event::Init)) && std::mem::take(&mut failing) {
            info!(kind, %name, "the watch works again");
        }
        let content = match event {
            Ok(Event::Init) => {
                listed = false;
                continue;
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                listed = true;
                object.content()
            }
            Ok(Event::InitDone) if listed => continue,
            Ok(Event::InitDone | Event::Delete(_)) => Content::Absent,
            Err(error) => {
                metrics
                    .calls
                    .observe(Peer::Apiserver, "watch", Outcome::Error, Duration::ZERO);
                let cause = cause(&error);
                if !std::mem::replace(&mut failing, true) {
                    warn!(kind, %name, %cause, "the watch failed; the cached state stays, trying again");
                }
                tokio::time::sleep(PAUSE).await;
                // The list of one object costs no more than a resumed watch.
                events = begin();
                if !is_forbidden(&error) {
                    continue;
                }
                Content::Forbidden(cause)
            }
        };
        let source = source.clone();
        if event_sender.send(WatchEvent::Source(source, content)).await.is_err() {
            return;
        }
    }
}

/// Whether the API server forbids even the list. If it allows the list and forbids the watch, the object is listed
/// again and again, and the log reports each failure.
fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403)
}
