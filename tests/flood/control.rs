//! The control: what a plain client needs from the news of a pod to a key in etcd, on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A client that watches one pod and writes what it says under one key.
pub struct Control {
    observed: mpsc::UnboundedReceiver<Instant>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts one for the pod `name`, which writes under `key`, and waits until it knows the pod.
    pub async fn start(
        kubeconfig: PathBuf,
        endpoints: Vec<String>,
        (namespace, name): (String, &'static str),
        key: String,
    ) -> Self {
        let (reported, mut observed) = mpsc::unbounded_channel();
        let end = Arc::new(AtomicBool::new(false));
        let asked = end.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let follow = async {
                let pods = Api::<Pod>::namespaced(client(&kubeconfig).await, &namespace);
                let mut etcd = etcd_client::Client::connect(endpoints, None)
                    .await
                    .expect("etcd is there");
                let pod = pods.get(name).await.expect("the pod is there");
                let mut version = pod.metadata.resource_version.clone().expect("a version");
                let mut known = is_ready(&pod);
                let _ = reported.send(Instant::now());
                while !asked.load(Ordering::Relaxed) {
                    let only = WatchParams::default()
                        .fields(&format!("metadata.name={name}"))
                        .timeout(10);
                    let mut watch = pods.watch(&only, &version).await.expect("a watch begins").boxed();
                    while !asked.load(Ordering::Relaxed) {
                        let event = match timeout(Duration::from_millis(200), watch.next()).await {
                            Ok(Some(Ok(event))) => event,
                            // The next one goes on from there.
                            Ok(None | Some(Err(_))) => break,
                            Err(_) => continue,
                        };
                        let WatchEvent::Modified(pod) = event else { continue };
                        version = pod.metadata.resource_version.clone().expect("a version");
                        if std::mem::replace(&mut known, is_ready(&pod)) != is_ready(&pod) {
                            let _ = reported.send(Instant::now());
                            etcd.put(key.as_str(), version.as_str(), None)
                                .await
                                .expect("etcd takes it");
                        }
                    }
                }
            };
            runtime.expect("a runtime starts").block_on(follow);
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(run);
        let thread = Some(thread.expect("a thread starts"));
        // It knows the pod, and misses nothing from now on.
        observed.recv().await.expect("the control works");
        Self { observed, end, thread }
    }

    /// When the control next observes that the pod is ready, or no longer ready.
    pub async fn observed(&mut self) -> Instant {
        self.observed.recv().await.expect("the control works")
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|one| one.type_ == "Ready" && one.status == "True")
}

/// A client that may do everything, for the runtime it is made on.
pub async fn client(kubeconfig: &Path) -> Client {
    leasehold::kube::connect(Some(kubeconfig)).expect("a client")
}
