//! A pod with a registration of its own, whose readiness is changed to see how long its key takes.

use std::time::{Duration, Instant};

use serde_json::json;
use testbed::{Bed, Event, History, Kind, Namespace, NewPod, until};

use super::{
    PATIENCE,
    figures::Times,
    scene::{register, wait_registered},
};
use crate::error::Result;

pub struct Probe {
    namespace: Namespace,
    pod: String,
    history: History,
    is_ready: bool,
    /// Events of the key so far.
    events: usize,
}

impl Probe {
    /// Registers a new pod in `namespace`.
    pub async fn register(bed: &Bed, namespace: Namespace, pod: &str) -> Result<Self> {
        namespace.create_pod(&NewPod::new(pod).port("grpc", 8080)).await?;
        register(&namespace, pod, json!({"selector": {"matchLabels": {"app": pod}}})).await?;
        wait_registered(&namespace, pod, 1).await?;
        let history = History::watch(bed.registry(), &key(&namespace, pod), 0).await?;
        let pod = pod.to_owned();
        Ok(Self {
            namespace,
            pod,
            history,
            is_ready: true,
            events: 0,
        })
    }

    /// Changes the readiness once; returns the time from the request until the key has followed.
    pub async fn change(&mut self) -> Result<Duration> {
        let sent = Instant::now();
        self.is_ready = !self.is_ready;
        self.namespace.set_ready(&self.pod, self.is_ready).await?;
        self.next_event(sent).await
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
    pub async fn measure(&mut self, tries: u32) -> Result<Times> {
        let mut times = Vec::new();
        for _ in 0..tries {
            times.push(self.change().await?);
        }
        Ok(Times::of(times))
    }

    /// Changes the readiness until `load` has ended.
    pub async fn beside<T>(&mut self, load: impl Future<Output = Result<T>>) -> Result<(Times, T)> {
        let mut load = std::pin::pin!(load);
        let mut times = Vec::new();
        loop {
            let change = self.change();
            let mut change = std::pin::pin!(change);
            tokio::select! {
                done = &mut load => {
                    times.push(change.await?);
                    return Ok((Times::of(times), done?));
                }
                time = &mut change => times.push(time?),
            }
        }
    }
}

fn key(namespace: &Namespace, pod: &str) -> String {
    format!("/services/{}/{pod}/{pod}", namespace.name())
}
