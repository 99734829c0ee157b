//! What every test here begins with: a service of real servers, registered in every format that a consumer here reads,
//! and those consumers.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use testbed::{Operator, Result, until};

use crate::Turn;
use crate::consumer::Consumer;
use crate::kubelet::{Kubelet, SELECTOR};
use crate::programs::{self, CoreDns, ZONE};
use crate::support::{SOON, operator, registration};

/// The Registry's TTL in seconds: the shortest that it takes.
pub const TTL: u32 = 5;

pub struct Scene {
    // Before the turn: nothing here may outlive it.
    pub grpc: Consumer,
    pub python: Consumer,
    pub node: Consumer,
    pub dns: Consumer,
    pub core_dns: CoreDns,
    pub operator: Operator,
    pub kubelet: Kubelet,
    pub turn: Arc<Turn>,
}

impl Scene {
    /// Three pods that serve, in etcd, and every consumer knows them.
    pub async fn start(name: &str) -> Result<Self> {
        let turn = Arc::new(Turn::take(name, 1, TTL).await?);
        let_go(&turn).await?;
        let operator = operator(turn.bed, "operator-0");
        turn.namespace
            .apply(registration("orders", &formats("orders", &turn)))
            .await?;
        let kubelet = Kubelet::start(&turn).await?;
        kubelet.deploy(&turn, 3, "1").await?;
        until("three pods to be registered", SOON, || async {
            match turn.etcd.dump(turn.namespace.name()).await {
                Ok(held) if held.len() == 3 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        let core_dns = CoreDns::start(&turn, None).await?;
        let scene = Self {
            grpc: programs::grpc(&turn, "orders")?,
            python: programs::python(&turn, &text_prefix("orders", &turn))?,
            node: programs::node(&turn, &json_prefix("orders", &turn))?,
            dns: core_dns.client(&turn, &domain("orders", &turn))?,
            core_dns,
            operator,
            kubelet,
            turn,
        };
        scene.wait_view(&scene.serving()).await?;
        Ok(scene)
    }

    pub fn consumers(&self) -> [&Consumer; 4] {
        [&self.grpc, &self.python, &self.node, &self.dns]
    }

    /// The addresses of the pods that have a server.
    pub fn serving(&self) -> BTreeSet<String> {
        self.kubelet.addresses().into_values().collect()
    }

    /// Waits until each consumer has received these addresses, each once.
    pub async fn wait_view(&self, expected: &BTreeSet<String>) -> Result<()> {
        for consumer in self.consumers() {
            consumer.wait_view(expected).await?;
        }
        Ok(())
    }

    /// How many views each consumer has received so far.
    pub fn counts(&self) -> [usize; 4] {
        self.consumers().map(|consumer| consumer.views().len())
    }

    /// Panics unless each consumer has received exactly one view more than `counts`.
    pub fn assert_one_more(&self, counts: [usize; 4]) {
        for (consumer, count) in self.consumers().into_iter().zip(counts) {
            let views = consumer.views();
            assert_eq!(views.len(), count + 1, "{}: {views:?}", consumer.name());
        }
    }
}

/// Releases the pods of earlier tests, which no test drains any more. While one of them stays, the registration of its
/// namespace stays, too.
async fn let_go(turn: &Turn) -> Result<()> {
    for namespace in turn.bed.objects().list("v1", "Namespace").await? {
        if namespace["status"]["phase"] == "Terminating" {
            let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
            let namespace = turn.bed.namespace_named(name).await?;
            for pod in namespace.pods(SELECTOR).await? {
                // It may have gone meanwhile.
                let _ = namespace.release(&pod.metadata.name.unwrap_or_default()).await;
            }
        }
    }
    Ok(())
}

/// All formats that the consumers here read.
pub fn formats(service: &str, turn: &Turn) -> Value {
    let below = |prefix: &str| prefix.trim_end_matches('/').to_owned();
    json!({
        "selector": {"matchLabels": {"app": "orders"}},
        "formats": [
            {"type": "EtcdGRPC"},
            {"type": "Plain", "plain": {"prefix": below(&text_prefix(service, turn))}},
            {"type": "Plain", "plain": {"prefix": below(&json_prefix(service, turn)), "value": "JSON"}},
            {"type": "CoreDNS", "coreDNS": {"domain": domain(service, turn)}},
        ],
    })
}

/// The name under which DNS knows a service.
pub fn domain(service: &str, turn: &Turn) -> String {
    format!("{service}.{}.{ZONE}", turn.namespace.name())
}

/// Below which the addresses of a service are written as Plain text.
pub fn text_prefix(service: &str, turn: &Turn) -> String {
    format!("/text/{}/{service}/", turn.namespace.name())
}

fn json_prefix(service: &str, turn: &Turn) -> String {
    format!("/json/{}/{service}/", turn.namespace.name())
}
