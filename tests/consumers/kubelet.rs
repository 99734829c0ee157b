//! What a kubelet would do for pods that are more than records: each has a server of its own on a loopback address, is
//! ready once that answers, and is drained before it ends.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use testbed::process::Port;
use testbed::{Namespace, Process, Result};
use tokio::task::JoinHandle;

use crate::support::SOON;
use crate::{Turn, programs};

/// Between two looks at the pods.
const LOOK: Duration = Duration::from_millis(30);
/// How long a terminating pod goes on serving, as by a preStop hook: longer than any consumer needs to let go of it.
const DRAIN: Duration = Duration::from_secs(2);
/// Holds a terminating pod until it has been drained.
const FINALIZER: &str = "consumers.leasehold.dev/drain";
/// The pods' label.
pub const SELECTOR: &str = "app=orders";

/// Looks after the pods `app: orders` of a turn until it is dropped.
pub struct Kubelet {
    /// All pods listen on this one, each on its own address.
    port: Port,
    servers: Servers,
    task: JoinHandle<()>,
}

/// The servers by the names of their pods.
type Servers = Arc<Mutex<BTreeMap<String, Arc<Server>>>>;

struct Server {
    address: String,
    process: Process,
}

impl Kubelet {
    pub async fn start(turn: &Arc<Turn>) -> Result<Self> {
        // The first build takes longer than a pod is waited for.
        tokio::task::spawn_blocking(programs::build_health_server)
            .await
            .expect("building does not panic")?;
        let port = Port::reserve()?;
        let servers = Servers::default();
        let namespace = Arc::new(turn.bed.namespace_named(turn.namespace.name()).await?);
        let task = tokio::spawn(look_after(turn.clone(), namespace, port.number(), servers.clone()));
        Ok(Self { port, servers, task })
    }

    /// A Deployment of this many pods under its care. Another `revision` is another template: the pods are replaced one
    /// by one, never fewer than these at a time.
    pub async fn deploy(&self, turn: &Turn, pods: u32, revision: &str) -> Result<()> {
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "orders"},
            "spec": {
                "replicas": pods,
                // These pods have no readiness gate: nothing else keeps an old pod until its successor is registered.
                "minReadySeconds": 1,
                "selector": {"matchLabels": {"app": "orders"}},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {
                        "labels": {"app": "orders"},
                        "annotations": {"testbed.leasehold.dev/ready": "false", "revision": revision},
                        "finalizers": [FINALIZER],
                    },
                    "spec": {"containers": [{
                        "name": "main",
                        "image": "leasehold.test/main",
                        "ports": [{"name": "grpc", "containerPort": self.port.number()}],
                    }]},
                },
            },
        });
        turn.namespace.apply(deployment).await.map(drop)
    }

    /// Where the pods that have not ended listen, by their names.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        let servers = self.servers.lock().expect("nobody panics with it");
        servers
            .iter()
            .map(|(pod, server)| (pod.clone(), server.address.clone()))
            .collect()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look_after(turn: Arc<Turn>, namespace: Arc<Namespace>, port: u16, servers: Servers) {
    let (mut begun, mut ending) = (HashSet::new(), HashSet::new());
    loop {
        // What fails is tried again: the test waits for the outcome, with a deadline.
        for pod in namespace.pods(SELECTOR).await.unwrap_or_default() {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let running = pod.status.and_then(|status| status.phase).as_deref() == Some("Running");
            if pod.metadata.deletion_timestamp.is_some() {
                if ending.insert(name.clone()) {
                    tokio::spawn(end(namespace.clone(), name, servers.clone()));
                }
            } else if running && begun.insert(name.clone()) {
                tokio::spawn(begin(turn.clone(), namespace.clone(), name, port, servers.clone()));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Starts a pod's server and lets the pod be ready.
async fn begin(turn: Arc<Turn>, namespace: Arc<Namespace>, pod: String, port: u16, servers: Servers) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let ip = format!("127.64.0.{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let address = format!("{ip}:{port}");
    let process = programs::health_server(&turn, &address)
        .await
        .expect("a server answers");
    let server = Arc::new(Server { address, process });
    servers
        .lock()
        .expect("nobody panics with it")
        .insert(pod.clone(), server);
    namespace.set_pod_ip(&pod, &ip).await.expect("an address is taken");
    namespace.set_ready(&pod, true).await.expect("readiness is taken");
}

/// Lets a pod's server finish what it has begun, and then the pod go.
async fn end(namespace: Arc<Namespace>, pod: String, servers: Servers) {
    tokio::time::sleep(DRAIN).await;
    let server = servers.lock().expect("nobody panics with it").remove(&pod);
    if let Some(server) = server {
        server.process.terminate().expect("a server can be told to end");
        server.process.wait_exit(SOON).await.expect("it ends");
    }
    namespace.release(&pod).await.expect("a pod can be let go");
}
