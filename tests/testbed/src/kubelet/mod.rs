//! A kubelet for the pods of leasehold's chart, and for those that a test labels so: each such pod of a namespace is run as
//! a process of this machine, as its manifest says, and no other pod is touched.
//!
//! Owns what is between a pod's manifest and its process: the image's files as the root of its file system, its command,
//! arguments and environment, its volumes, the token of its account, its user, its probes, its readiness gates, its `preStop.sleep`, and its status in
//! Kubernetes.
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
    time::Duration,
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

/// The pods of the chart, by their labels.
const CHART: &str = "app.kubernetes.io/part-of=leasehold,app.kubernetes.io/component in (operator,purge)";
/// The label by which kwok leaves any other pod to this kubelet, with any value.
pub const LABEL: &str = "testbed.leasehold.dev/kubelet";

/// Runs the pods of a namespace until it is dropped; they end with it.
pub struct Kubelet {
    watching: JoinHandle<()>,
    pods: Arc<Pods>,
    context: Arc<Context>,
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
    /// How long pods waited for their readiness gates.
    gate_waits: Mutex<Vec<Duration>>,
}

/// The pods that are played, by UID.
#[derive(Default)]
struct Pods(Mutex<BTreeMap<String, Played>>);

struct Played {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

/// What Kubernetes says of a pod, as far as its life depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// The pod is to end.
    ends: bool,
    /// All of its readiness gates are True.
    gates_open: bool,
}

impl Kubelet {
    /// Starts to run the chart's pods of a namespace by this image, whatever image they name. Their logs are `POD.log`
    /// beside those of the bed's servers.
    pub fn start(bed: &Bed, namespace: &str, image: &Image) -> Result<Self> {
        Self::start_for(bed, namespace, CHART, image)
    }

    /// The same for the pods with the label [`LABEL`].
    pub fn start_labelled(bed: &Bed, namespace: &str, image: &Image) -> Result<Self> {
        Self::start_for(bed, namespace, LABEL, image)
    }

    fn start_for(bed: &Bed, namespace: &str, selector: &'static str, image: &Image) -> Result<Self> {
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
            gate_waits: Mutex::default(),
        });
        let pods = Arc::new(Pods::default());
        let watching = tokio::spawn(play(context.clone(), selector, pods.clone()));
        Ok(Self {
            watching,
            pods,
            context,
        })
    }

    /// How many pods it runs now.
    pub fn running(&self) -> usize {
        self.pods.lock().values().filter(|pod| !pod.task.is_finished()).count()
    }

    /// How long the pods whose readiness gates have opened waited for them after their program was ready.
    pub fn gate_waits(&self) -> Vec<Duration> {
        self.context.gate_waits.lock().expect("nobody panics with it").clone()
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
async fn play(context: Arc<Context>, selector: &str, pods: Arc<Pods>) {
    let api = Api::<Pod>::namespaced(context.client.clone(), &context.namespace);
    let mut events = watcher(api, watcher::Config::default().labels(selector))
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => see(&context, &pods, pod),
            Ok(Event::Delete(pod)) => {
                if let Some(played) = pods.lock().get(&pod.uid().unwrap_or_default()) {
                    played.wanted.send_modify(|wanted| wanted.ends = true);
                }
            }
            Ok(Event::Init | Event::InitDone) | Err(_) => {}
        }
    }
}

fn see(context: &Arc<Context>, pods: &Pods, pod: Pod) {
    let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let wanted = Wanted {
        ends: pod.metadata.deletion_timestamp.is_some(),
        gates_open: status::are_gates_open(&pod),
    };
    let over = status::is_over(&pod);
    let mut pods = pods.lock();
    match pods.get(&pod.uid().unwrap_or_default()) {
        Some(played) => {
            // An event without a change must not wake the task of the pod.
            played
                .wanted
                .send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
        }
        None if scheduled && (wanted.ends || !over) => {
            let (sender, wanted) = watch::channel(wanted);
            let uid = pod.uid().unwrap_or_default();
            let task = tokio::spawn(life::live(context.clone(), pod, wanted));
            pods.insert(uid, Played { wanted: sender, task });
        }
        None => {}
    }
}
