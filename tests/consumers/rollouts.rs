//! A Deployment of real servers under load, and everything that replaces its pods: rolling updates, scaling, a drained
//! node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, EvictParams};
use serde_json::{Value, json};
use testbed::kubelet::LABEL;
use testbed::tools::Tool;
use testbed::{Image, Kubelet, Operator, Result, until};

use crate::Turn;
use crate::load::{Counts, Load, go_zero_key};
use crate::programs::{self, CoreDns, Traefik};
use crate::scene::domain;
use crate::support::{SOON, operator, operator_with_gates, registration};

/// How long a step may take in which pods are replaced one after the other, each of which serves on while it drains.
const PATIENCE: Duration = Duration::from_mins(3);
/// The Registry's TTL in seconds: longer than a test leaves its pods without an operator.
const TTL: u32 = 30;
/// How long CoreDNS keeps an answer, in seconds.
const CACHE: u32 = 5;
/// The `preStop.sleep` of a pod in seconds: for as long as CoreDNS answers with its address after its records have gone,
/// and a margin. Kitex polls as often, and Traefik applies changes every 2 seconds.
const DRAIN: u32 = CACHE + 3;
/// The pods at rest. During a round there are two more for a while.
const PODS: u32 = 3;
const GRPC: u16 = 8080;
const HTTP: u16 = 8081;
const NODES: [&str; 2] = ["node-0", "node-1"];
const SELECTOR: &str = "app=orders";
/// The registration of the port for HTTP.
const OVER_HTTP: &str = "orders-http";
const GATE: &str = "leasehold.dev/registered";

/// What a rollout under load is to be.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The rollout support is on: the operator serves readiness gates, and the pods have the gate and drain.
    pub gate: bool,
    /// A Traefik is among the consumers. Its first build takes minutes.
    pub traefik: bool,
    pub operators: usize,
}

/// A Deployment that is registered and called.
pub struct Rollouts {
    // Before the turn: nothing here may outlive it.
    loads: Vec<Load>,
    core_dns: CoreDns,
    traefik: Option<Traefik>,
    pub operators: Vec<Operator>,
    pub kubelet: Kubelet,
    pub turn: Arc<Turn>,
    shape: Shape,
    revision: u32,
}

impl Rollouts {
    /// Three registered pods, and consumers that call them.
    pub async fn start(name: &str, shape: Shape) -> Result<Self> {
        // The first builds take longer than a test waits for anything, and longer than servers should idle.
        let program = tokio::task::spawn_blocking(move || {
            if shape.traefik {
                Tool::Traefik.binary()?;
            }
            programs::build_load()
        });
        let program = program.await.expect("building does not panic")?;
        let turn = Arc::new(Turn::take(name, 1, TTL).await?);
        let plane = turn.bed.control_plane();
        for (i, node) in NODES.iter().enumerate() {
            plane.create_node(node, &format!("zone-{i}")).await?;
            plane.wait_node(node).await?;
        }
        let image = turn
            .bed
            .folder()
            .path()
            .join(format!("image-{}", turn.namespace.name()));
        let image = Image::of_program(&program, &image)?;
        let kubelet = Kubelet::start_labelled(turn.bed, turn.namespace.name(), &image)?;
        let mut operators = Vec::new();
        for i in 0..shape.operators {
            let name = format!("operator-{i}");
            operators.push(if shape.gate {
                operator_with_gates(turn.bed, &name).await?
            } else {
                operator(turn.bed, &name)
            });
        }
        for manifest in registrations(&turn) {
            turn.namespace.apply(manifest).await?;
        }
        turn.namespace.apply(disruption_budget()).await?;
        let core_dns = CoreDns::start(&turn, Some(CACHE)).await?;
        let traefik = if shape.traefik {
            // The name by which the format writes a service unless the registration names another.
            let service = format!("{}-{OVER_HTTP}", turn.namespace.name());
            Some(Traefik::start(&turn, &service).await?)
        } else {
            None
        };
        let mut scene = Self {
            loads: Vec::new(),
            core_dns,
            traefik,
            operators,
            kubelet,
            turn,
            shape,
            revision: 0,
        };
        scene.update().await?;
        scene.wait_rolled_out(PODS).await?;
        scene.wait_registered().await?;
        scene.loads = Load::start_all(&scene.turn, &scene.core_dns, scene.traefik.as_ref(), HTTP).await?;
        Ok(scene)
    }

    /// Everything that replaces pods, once: a rolling update, two pods more and two pods fewer, and a drained node.
    pub async fn round(&mut self) -> Result<()> {
        self.update().await?;
        self.wait_rolled_out(PODS).await?;
        self.scale(PODS + 2).await?;
        self.scale(PODS).await?;
        self.drain_node().await?;
        self.wait_at_rest().await
    }

    /// Begins a rolling update.
    pub async fn update(&mut self) -> Result<()> {
        self.revision += 1;
        let deployment = deployment(self.revision, self.shape.gate);
        self.turn.namespace.apply(deployment).await.map(drop)
    }

    /// Waits until the rolling update is done, as `kubectl rollout status` does.
    pub async fn wait_rolled_out(&self, pods: u32) -> Result<()> {
        let done = |deployment: &Value| {
            let (status, metadata) = (&deployment["status"], &deployment["metadata"]);
            let counts = ["replicas", "updatedReplicas", "availableReplicas"];
            status["observedGeneration"] == metadata["generation"] && counts.iter().all(|count| status[count] == pods)
        };
        let objects = self.turn.namespace.objects();
        let rolled_out = objects.wait(("apps/v1", "Deployment", "orders"), done, PATIENCE);
        rolled_out.await.map(drop)
    }

    async fn scale(&self, pods: u32) -> Result<()> {
        self.turn.namespace.scale("orders", pods).await?;
        self.wait_rolled_out(pods).await
    }

    /// Drains the node that most pods are on, as `kubectl drain` does, and lets it take pods again.
    async fn drain_node(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.turn.bed.client());
        let pods: Api<Pod> = Api::namespaced(self.turn.bed.client(), self.turn.namespace.name());
        let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in self.living().await? {
            let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
            by_node
                .entry(node)
                .or_default()
                .push(pod.metadata.name.unwrap_or_default());
        }
        let (node, evicted) = by_node.into_iter().max_by_key(|(_, pods)| pods.len()).expect("pods");
        nodes.cordon(&node).await.expect("a node can be cordoned");
        let eviction = EvictParams::default();
        for pod in evicted {
            // Refused while the disruption budget is used up.
            until(&format!("{pod} to be evicted"), PATIENCE, || {
                pods.evict(&pod, &eviction)
            })
            .await?;
        }
        self.wait_rolled_out(PODS).await?;
        nodes.uncordon(&node).await.expect("a node can be uncordoned");
        Ok(())
    }

    /// The pods that are not terminating.
    pub async fn living(&self) -> Result<Vec<Pod>> {
        let mut pods = self.turn.namespace.pods(SELECTOR).await?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Waits until no pod terminates any more.
    async fn wait_at_rest(&self) -> Result<()> {
        self.turn
            .namespace
            .wait_ready_pods(SELECTOR, PODS as usize)
            .await
            .map(drop)
    }

    /// Waits until etcd holds all records of the pods.
    async fn wait_registered(&self) -> Result<()> {
        let records = registrations(&self.turn).iter().map(formats).sum::<usize>() * PODS as usize;
        until("all pods to be registered", SOON, || async {
            let held = self.turn.etcd.dump("").await.map_err(|error| error.to_string())?;
            let held = held.keys().filter(|key| !key.starts_with("/leasehold/")).count();
            if held == records {
                Ok(())
            } else {
                Err(format!("{held} of {records} records"))
            }
        })
        .await
    }

    /// SIGKILL for the operator that leads, which is started again after `pause`.
    pub async fn kill_leader(&self, pause: Duration) -> Result<()> {
        let leader = self.turn.leader().await?;
        let leading = |operator: &&Operator| leader.as_deref() == Some(operator.name());
        let operator = self.operators.iter().find(leading).unwrap_or(&self.operators[0]);
        operator.kill().await?;
        tokio::time::sleep(pause).await;
        operator.restart().await
    }

    /// Ends the load, counts its calls, and lets the pods go.
    pub async fn end(&self) -> Result<Vec<Counts>> {
        let mut counts = Vec::new();
        for load in &self.loads {
            counts.push(load.end().await?);
        }
        let namespace = &self.turn.namespace;
        namespace.objects().delete("apps/v1", "Deployment", "orders").await?;
        namespace.wait_ready_pods(SELECTOR, 0).await?;
        Ok(counts)
    }
}

/// How many records a registration has for a pod.
fn formats(registration: &Value) -> usize {
    registration["spec"]["formats"].as_array().map_or(0, Vec::len)
}

/// Two registrations of the same pods, of a port each: the gate waits for the records of both.
fn registrations(turn: &Turn) -> [Value; 2] {
    let selector = json!({"matchLabels": {"app": "orders"}});
    let grpc = json!({
        "selector": selector,
        "formats": [
            {"type": "EtcdGRPC"},
            {"type": "GoZero", "goZero": {"key": go_zero_key(turn)}},
            {"type": "Kitex"},
        ],
    });
    let http = json!({
        "selector": selector,
        "ports": [{"name": "http"}],
        "formats": [{"type": "CoreDNS", "coreDNS": {"domain": domain("orders", turn)}}, {"type": "Traefik"}],
    });
    [registration("orders", &grpc), registration(OVER_HTTP, &http)]
}

fn disruption_budget() -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "orders"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "orders"}}},
    })
}

fn deployment(revision: u32, gate: bool) -> Value {
    let mut template = json!({
        "metadata": {
            "labels": {"app": "orders", LABEL: "true"},
            "annotations": {"revision": revision.to_string()},
        },
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": DRAIN + 10,
            "containers": [{
                "name": "main",
                "image": "leasehold.test/load",
                "args": ["server", "0.0.0.0", GRPC.to_string(), HTTP.to_string()],
                "ports": [{"name": "grpc", "containerPort": GRPC}, {"name": "http", "containerPort": HTTP}],
                "readinessProbe": {
                    "httpGet": {"path": "/", "port": "http"},
                    "periodSeconds": 1,
                    "timeoutSeconds": 5,
                },
            }],
        },
    });
    if gate {
        template["spec"]["readinessGates"] = json!([{"conditionType": GATE}]);
        template["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": DRAIN}}});
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "orders"},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": {"app": "orders"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        },
    })
}
