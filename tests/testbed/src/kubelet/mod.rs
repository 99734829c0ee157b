//! A kubelet for the pods of leasehold's chart: each pod of a namespace that says so by its labels is run as a process of
//! this machine, as its manifest says, and no other pod is touched.
//!
//! Owns what is between a pod's manifest and its process: the image's files as the root of its file system, its command,
//! arguments and environment, its volumes, the token of its account, its user, its probes, and its status in Kubernetes.
//! Pods share this machine's network, so each has a loopback address of its own, and `0.0.0.0` or `[::]` in its arguments
//! is replaced by it: that is all that is not as the manifest says. (EndpointSlices take no loopback addresses, so Services
//! lead nowhere.) Pods of one container are played; what else a manifest
//! may ask for is refused in the pod's status.
//!
//! kwok leaves these pods alone: see `assets/stages.yaml`. Knows nothing of what the program does.

mod image;
mod life;
mod manifest;
mod probe;
mod root;
mod status;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::watch, task::JoinHandle};

pub use image::Image;

use crate::{
    Bed,
    error::{Doing, Result},
};

/// The pods that are ours to run, by the chart's labels.
const SELECTOR: &str = "app.kubernetes.io/part-of=leasehold,app.kubernetes.io/component in (operator,purge)";

/// Runs the pods of a namespace until it is dropped; they end with it.
pub struct Kubelet {
    watching: JoinHandle<()>,
    pods: Arc<Pods>,
}

/// What every pod's life needs to know.
struct Context {
    client: Client,
    namespace: String,
    image: Image,
    /// A folder for the roots of pods.
    place: PathBuf,
    logs: PathBuf,
    /// Host and port of the API server.
    apiserver: (String, String),
    /// What vouches for it.
    authority: String,
}

/// The pods that are played, by UID.
#[derive(Default)]
struct Pods(Mutex<BTreeMap<String, Played>>);

struct Played {
    /// True once the pod is to end.
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Starts to run the pods of a namespace by this image, whatever image they name. Their logs are `POD.log` beside
    /// those of the bed's servers.
    pub fn start(bed: &Bed, namespace: &str, image: &Image) -> Result<Self> {
        let address = bed.control_plane().address();
        let context = Arc::new(Context {
            client: bed.client(),
            namespace: namespace.to_owned(),
            image: image.clone(),
            place: bed.folder().folder(&format!("pods-{namespace}"))?,
            logs: bed.logs().to_owned(),
            apiserver: (address.ip().to_string(), address.port().to_string()),
            authority: std::fs::read_to_string(bed.control_plane().certificate())
                .doing(|| "read the API server's certificate")?,
        });
        let pods = Arc::new(Pods::default());
        let watching = tokio::spawn(play(context, pods.clone()));
        Ok(Self { watching, pods })
    }

    /// How many pods it runs now.
    pub fn running(&self) -> usize {
        self.pods.lock().values().filter(|pod| !pod.task.is_finished()).count()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.watching.abort();
        for pod in self.pods.lock().values() {
            pod.task.abort();
        }
    }
}

impl Pods {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Played>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the pods of the namespace.
async fn play(context: Arc<Context>, pods: Arc<Pods>) {
    let api = Api::<Pod>::namespaced(context.client.clone(), &context.namespace);
    let mut events = watcher(api, watcher::Config::default().labels(SELECTOR))
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => see(&context, &pods, pod),
            Ok(Event::Delete(pod)) => {
                if let Some(played) = pods.lock().get(&pod.uid().unwrap_or_default()) {
                    played.end.send_replace(true);
                }
            }
            Ok(Event::Init | Event::InitDone) | Err(_) => {}
        }
    }
}

fn see(context: &Arc<Context>, pods: &Pods, pod: Pod) {
    let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let ends = pod.metadata.deletion_timestamp.is_some();
    let over = status::is_over(&pod);
    let mut pods = pods.lock();
    match pods.get(&pod.uid().unwrap_or_default()) {
        Some(played) if ends => {
            played.end.send_replace(true);
        }
        None if scheduled && (ends || !over) => {
            let (end, told) = watch::channel(ends);
            let uid = pod.uid().unwrap_or_default();
            let task = tokio::spawn(life::live(context.clone(), pod, told));
            pods.insert(uid, Played { end, task });
        }
        _ => {}
    }
}
