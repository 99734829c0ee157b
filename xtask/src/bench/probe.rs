//! A pod with a registration of its own, whose readiness is changed to see how long its key takes.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use testbed::{Bed, Event, History, Kind, Namespace, NewPod, until};

use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    PATIENCE,
    figures::Times,
    load,
    scene::{register, wait_registered},
};
use crate::error::{Error, Result};

/// How long a key takes to follow changes of readiness, and where that time passes.
pub struct Followed {
    /// From the request to the key.
    pub key: Times,
    /// From the request until a client that watches the pod receives the change.
    pub observed: Times,
    /// From then to the key: the time of the operator and etcd.
    pub after: Times,
}

impl Followed {
    fn of(changes: &[Change]) -> Self {
        let times = |time: fn(&Change) -> Duration| Times::of(changes.iter().map(time).collect());
        Self {
            key: times(|change| change.key),
            observed: times(|change| change.observed),
            after: times(|change| change.key.saturating_sub(change.observed)),
        }
    }
}

/// The times of one change, from the request on.
pub struct Change {
    pub key: Duration,
    observed: Duration,
}

pub struct Probe {
    namespace: Namespace,
    pod: String,
    history: History,
    is_ready: bool,
    /// Events of the key so far.
    events: usize,
    /// The readiness of the pod, and when a client that only watches the pod received it.
    observed: mpsc::UnboundedReceiver<(bool, Instant)>,
    _watch: JoinSet<()>,
}

impl Probe {
    /// Registers a new pod in `namespace`.
    pub async fn register(bed: &Bed, namespace: Namespace, pod: &str) -> Result<Self> {
        namespace.create_pod(&NewPod::new(pod).port("grpc", 8080)).await?;
        register(&namespace, pod, json!({"selector": {"matchLabels": {"app": pod}}})).await?;
        wait_registered(&namespace, pod, 1).await?;
        let history = History::watch(bed.registry(), &key(&namespace, pod), 0).await?;
        let pod = pod.to_owned();
        let (observed_sender, observed) = mpsc::unbounded_channel();
        let config = watcher::Config::default().fields(&format!("metadata.name={pod}"));
        let mut seen = watcher(load::pods(&namespace), config).applied_objects().boxed();
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            while let Ok(Some(pod)) = seen.try_next().await {
                let _ = observed_sender.send((is_ready(&pod), Instant::now()));
            }
        });
        Ok(Self {
            namespace,
            pod,
            history,
            is_ready: true,
            events: 0,
            observed,
            _watch: watch,
        })
    }

    /// Changes the readiness once, and waits until the key has followed.
    pub async fn change(&mut self) -> Result<Change> {
        let sent = Instant::now();
        self.is_ready = !self.is_ready;
        self.namespace.set_ready(&self.pod, self.is_ready).await?;
        let key = self.next_event(sent).await?;
        let observed = timeout(PATIENCE, async {
            while let Some((is_ready, at)) = self.observed.recv().await {
                if is_ready == self.is_ready && at >= sent {
                    return Some(at.duration_since(sent));
                }
            }
            None
        });
        let observed = observed.await.ok().flatten();
        let broken = || Error::Broken("a client that watches the pod receives its change".to_owned());
        Ok(Change {
            key,
            observed: observed.ok_or_else(broken)?,
        })
    }

    /// Deletes the key as another client would, `etcd`; returns the time from the request until the operator has
    /// written it again.
    pub async fn lose_key(&mut self, etcd: &mut etcd_client::Client) -> Result<Duration> {
        if !self.is_ready {
            self.change().await?;
        }
        let sent = Instant::now();
        etcd.delete(key(&self.namespace, &self.pod), None).await?;
        self.next_event(sent).await?;
        self.next_event(sent).await
    }

    /// Waits until the key is there, after a call of [`Self::lose_key`] that was not awaited to its end.
    pub async fn resume(&mut self) -> Result<()> {
        let is_there = |events: &[Event]| events.last().is_none_or(|event| event.kind != Kind::Delete);
        until("the key to be back", PATIENCE, || async {
            match self.history.settled().await {
                Ok(events) if is_there(&events) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        self.events = self.history.settled().await?.len();
        Ok(())
    }

    async fn next_event(&mut self, since: Instant) -> Result<Duration> {
        self.events += 1;
        let wanted = self.events;
        self.history.wait_for(|events| events.len() >= wanted, PATIENCE).await?;
        Ok(self.history.arrivals()[wanted - 1].0.saturating_duration_since(since))
    }

    /// Changes the readiness so many times.
    pub async fn measure(&mut self, tries: u32) -> Result<Followed> {
        let mut changes = Vec::new();
        for _ in 0..tries {
            changes.push(self.change().await?);
        }
        Ok(Followed::of(&changes))
    }

    /// Changes the readiness until `load` has ended.
    pub async fn beside<T>(&mut self, load: impl Future<Output = Result<T>>) -> Result<(Followed, T)> {
        let mut load = std::pin::pin!(load);
        let mut changes = Vec::new();
        loop {
            let change = self.change();
            let mut change = std::pin::pin!(change);
            tokio::select! {
                done = &mut load => {
                    changes.push(change.await?);
                    return Ok((Followed::of(&changes), done?));
                }
                change = &mut change => changes.push(change?),
            }
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref());
    let mut ready = conditions.flatten().filter(|condition| condition.type_ == "Ready");
    ready.any(|condition| condition.status == "True")
}

fn key(namespace: &Namespace, pod: &str) -> String {
    format!("/services/{}/{pod}/{pod}", namespace.name())
}
