//! `cargo xtask demo --addresses`: a client outside the cluster that cannot reach pods finds the nodes that lead to them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testbed::{EtcdVersion, Namespace, NewPod};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    shop::{NAME, NAMESPACE, PATIENCE},
    story::Story,
};
use crate::{
    error::{Error, Result, doing},
    stage::{Stage, StageConfig},
};

const PREFIX: &str = "/services/shop/orders/";
/// The nodes, each with an address on which this machine listens.
const NODES: [(&str, &str); 3] = [
    ("node-0", "127.0.0.11"),
    ("edge-1", "127.0.0.12"),
    ("edge-2", "127.0.0.13"),
];
/// The addresses of the pods: reserved for documentation, so that no network routes them.
const PODS: [(&str, &str); 2] = [("orders-a", "192.0.2.1"), ("orders-b", "192.0.2.2")];
/// How long the client waits for a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// What the pods answer.
const ANSWER: &str = "orders";

pub async fn run() -> Result<()> {
    let begin = Instant::now();
    let stage = Stage::set(&StageConfig {
        etcd_version: EtcdVersion::default(),
        etcd_members: 1,
        operators: 1,
        registry_ttl: 30,
    })
    .await?;
    let scene = Scene {
        namespace: stage.bed.namespace_named(NAMESPACE).await?,
        stage: &stage,
    };
    let mut story = Story::default();
    scene.by_pods(&mut story).await?;
    let port = scene.by_nodes(&mut story).await?;
    scene.lose_pods(&mut story).await?;
    scene.drain(&mut story, port).await?;
    story.end(begin.elapsed());
    Ok(())
}

struct Scene<'a> {
    stage: &'a Stage,
    namespace: Namespace,
}

impl Scene<'_> {
    /// Registers the pods at their own addresses.
    async fn by_pods(&self, story: &mut Story) -> Result<()> {
        story.step("A Service with 2 pods, registered at the addresses of the pods");
        self.service().await?;
        for (name, address) in PODS {
            let pod = NewPod::new(name).label("app", NAME).port("grpc", 8080).ip(address);
            self.namespace.create_pod(&pod).await?;
        }
        self.namespace.apply(registration("PodIP")).await?;
        let endpoints = self.endpoints(PODS.len()).await?;
        let mut reached = 0;
        for (name, address) in &endpoints {
            let said = ask(address).await;
            story.show(&format!(
                "{name}  {address}  {}",
                said.as_deref().unwrap_or("cannot be reached from here")
            ));
            reached += usize::from(said.is_some());
        }
        story.holds(
            reached == 0,
            "the client outside the cluster finds both pods and reaches neither",
        )
    }

    /// Registers the nodes. Returns the node port.
    async fn by_nodes(&self, story: &mut Story) -> Result<u64> {
        story.step("The same registration with `address: {type: NodePort}`");
        for (name, address) in NODES {
            self.node(name, address).await?;
        }
        let port = self.service().await?["spec"]["ports"][0]["nodePort"].as_u64();
        let port = port.ok_or_else(|| Error::Broken("the Service has a node port".to_owned()))?;
        let listeners = forward(port).await?;
        let begin = Instant::now();
        self.namespace.apply(registration("NodePort")).await?;
        let endpoints = self.endpoints(NODES.len()).await?;
        let after = begin.elapsed();
        let mut reached = 0;
        for (name, address) in &endpoints {
            let said = ask(address).await;
            story.show(&format!(
                "{name}  {address}  {}",
                said.as_deref().unwrap_or("cannot be reached")
            ));
            reached += usize::from(said.as_deref() == Some(ANSWER));
        }
        drop(listeners);
        story.holds(
            reached == NODES.len(),
            &format!(
                "all {reached} nodes are registered after {:.0} ms, and each leads to the Service",
                millis(after)
            ),
        )?;
        Ok(port)
    }

    /// No pod is ready for a while.
    async fn lose_pods(&self, story: &mut Story) -> Result<()> {
        story.step("No pod is ready for a while");
        for (ready, count) in [(false, 0), (true, NODES.len())] {
            let begin = Instant::now();
            for (name, _) in PODS {
                self.namespace.set_ready(name, ready).await?;
            }
            self.endpoints(count).await?;
            let what = if ready { "back" } else { "gone" };
            story.holds(
                true,
                &format!(
                    "the {} nodes are {what} after {:.0} ms",
                    NODES.len(),
                    millis(begin.elapsed())
                ),
            )?;
        }
        Ok(())
    }

    /// An administrator takes a node out of all load balancers.
    async fn drain(&self, story: &mut Story, port: u64) -> Result<()> {
        story.step("A node gets the label node.kubernetes.io/exclude-from-external-load-balancers");
        let (name, _) = NODES[2];
        let label = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"node.kubernetes.io/exclude-from-external-load-balancers": "true"}},
        });
        self.stage.bed.objects().apply(label).await?;
        let endpoints = self.endpoints(NODES.len() - 1).await?;
        let expected = NODES[..2].iter().map(|(_, address)| format!("{address}:{port}"));
        let mut expected: Vec<String> = expected.collect();
        let mut found: Vec<String> = endpoints.into_iter().map(|(_, address)| address).collect();
        expected.sort();
        found.sort();
        story.show(&found.join("\n"));
        story.holds(found == expected, "the two other nodes stay registered")
    }

    async fn service(&self) -> Result<Value> {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {
                "type": "NodePort",
                "selector": {"app": NAME},
                "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc", "protocol": "TCP"}],
            },
        });
        Ok(self.namespace.apply(service).await?)
    }

    /// Adds a node, or gives the one of this name another address.
    async fn node(&self, name: &str, address: &str) -> Result<()> {
        let plane = self.stage.bed.control_plane();
        plane.create_node(name, "zone-0").await?;
        plane.wait_node(name).await?;
        let reported = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        });
        self.stage.bed.objects().merge_status(reported).await?;
        Ok(())
    }

    /// Waits for this number of keys, all at addresses that belong together. Returns the name and address of each.
    async fn endpoints(&self, count: usize) -> Result<Vec<(String, String)>> {
        let what = format!("{count} keys below {PREFIX}");
        let found = testbed::until(&what, PATIENCE, || async {
            let held = self.stage.bed.registry().dump(PREFIX).await;
            let held = held.map_err(|error| error.to_string())?;
            let name = |key: &str| key[PREFIX.len()..].to_owned();
            let all: Vec<(String, String)> = held.into_iter().map(|(key, held)| (name(&key), held.value)).collect();
            let is_node = |name: &str| NODES.iter().any(|(node, _)| *node == name);
            let nodes = all.iter().filter(|(name, _)| is_node(name)).count();
            if all.len() == count && (nodes == 0 || nodes == count) {
                Ok(all)
            } else {
                Err(format!("{all:?}"))
            }
        });
        Ok(found.await?)
    }
}

/// The shortest registration of the Service.
fn registration(address: &str) -> Value {
    json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "ServiceRegistration",
        "metadata": {"name": NAME},
        "spec": {
            "service": {"name": NAME},
            "address": {"type": address},
            "formats": [{"type": "Plain"}],
        },
    })
}

/// Answers at the node port of each node, as kube-proxy and a pod would together: the nodes of this cluster are simulated.
/// Ends when the set is dropped.
async fn forward(port: u64) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for (_, address) in NODES {
        let listener = TcpListener::bind(format!("{address}:{port}"));
        let listener = listener.await.map_err(doing("listen at the node port"))?;
        tasks.spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                // A client that is gone needs no answer.
                let _ = connection.write_all(ANSWER.as_bytes()).await;
            }
        });
    }
    Ok(tasks)
}

/// Returns the answer at an address that the client outside found in etcd, or `None` if it cannot connect.
async fn ask(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().ok()?;
    let mut connection = timeout(CONNECT, TcpStream::connect(address)).await.ok()?.ok()?;
    let mut said = String::new();
    timeout(CONNECT, connection.read_to_string(&mut said))
        .await
        .ok()?
        .ok()?;
    Some(said)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
