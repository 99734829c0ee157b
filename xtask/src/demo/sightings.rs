//! When this process saw a pod become ready, or be put into an EndpointSlice. The moments are on the clock on which the
//! history of etcd is timed, so the three can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::error::{Error, Result};

/// Pods by name, each with the moment since which it is there.
pub type Seen = BTreeMap<String, Instant>;

/// What one watch sees, until this value is dropped.
pub struct Sightings {
    what: &'static str,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Sightings {
    /// The ready pods of a namespace.
    pub fn of_ready_pods(client: Client, namespace: &str) -> Self {
        let pods = Api::<Pod>::namespaced(client, namespace);
        let events = changes(watcher(pods, watcher::Config::default()));
        Self::begin("ready pods", events, |pod| {
            let ready = is_ready(pod).then(|| pod.name_any());
            ready.into_iter().collect()
        })
    }

    /// The pods that are ready endpoints of a Service.
    pub fn of_endpoints(client: Client, namespace: &str, service: &str) -> Self {
        let slices = Api::<EndpointSlice>::namespaced(client, namespace);
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        Self::begin("endpoints", changes(watcher(slices, config)), ready_endpoints)
    }

    fn begin<K: ResourceExt + Send + 'static>(
        what: &'static str,
        mut changes: BoxStream<'static, Change<K>>,
        pods_of: impl Fn(&K) -> BTreeSet<String> + Send + 'static,
    ) -> Self {
        let (sender, seen) = watch::channel(Seen::new());
        let task = tokio::spawn(async move {
            let mut by_object = BTreeMap::new();
            while let Some(change) = changes.next().await {
                let now = Instant::now();
                match change {
                    Change::Is(object) => by_object.insert(object.name_any(), pods_of(&object)),
                    Change::Gone(object) => by_object.remove(&object.name_any()),
                };
                let there: BTreeSet<_> = by_object.values().flatten().cloned().collect();
                sender.send_modify(|seen| {
                    seen.retain(|pod, _| there.contains(pod));
                    for pod in there {
                        seen.entry(pod).or_insert(now);
                    }
                });
            }
        });
        Self { what, seen, task }
    }

    /// Waits until exactly `count` pods are there, and returns since when each is.
    pub async fn wait(&self, count: usize, deadline: Duration) -> Result<Seen> {
        let mut seen = self.seen.clone();
        match timeout(deadline, seen.wait_for(|seen| seen.len() == count)).await {
            Ok(Ok(seen)) => Ok(seen.clone()),
            Ok(Err(_)) | Err(_) => Err(Error::Broken(format!(
                "there should be {count} {} within {deadline:?}, and there are {}",
                self.what,
                self.seen.borrow().len()
            ))),
        }
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What happened to an object.
enum Change<K> {
    Is(K),
    Gone(K),
}

/// A watch that goes on after errors.
fn changes<K: Send + 'static>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
) -> BoxStream<'static, Change<K>> {
    let events = events.default_backoff().into_stream();
    let changes = events.filter_map(async |event| match event {
        Ok(Event::Apply(object) | Event::InitApply(object)) => Some(Change::Is(object)),
        Ok(Event::Delete(object)) => Some(Change::Gone(object)),
        Ok(Event::Init | Event::InitDone) | Err(_) => None,
    });
    changes.boxed()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

fn ready_endpoints(slice: &EndpointSlice) -> BTreeSet<String> {
    let endpoints = slice.endpoints.iter();
    let ready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        // No statement counts as ready, says the API.
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    ready
        .filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone())
        .collect()
}
