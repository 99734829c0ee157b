//! What every fault befalls: an operator that keeps the pods of one registration in an etcd.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use testbed::{EtcdConfig, Held, Operator, Result, until};

use crate::Turn;
use crate::support::{API, SOON, condition, operator, pod, wait_condition, wait_in_sync, wait_keys};

/// Promised are 5 s from the repair on; the rest is for a busy machine.
pub const CONVERGED: Duration = Duration::from_secs(45);

/// The pods `a`, `b` and `c`, registered as `orders`.
pub struct Scene {
    // Before the turn, so that it ends before its etcd.
    pub operator: Operator,
    pub turn: Turn,
    pid: u32,
}

impl Scene {
    /// With an etcd of so many members.
    pub async fn of(name: &str, members: usize, ttl_seconds: u32) -> Result<Self> {
        let config = EtcdConfig {
            members,
            ..EtcdConfig::default()
        };
        Self::with(name, config, ttl_seconds).await
    }

    /// With an etcd of this kind.
    pub async fn with(name: &str, config: EtcdConfig, ttl_seconds: u32) -> Result<Self> {
        Self::on(Turn::take_with(name, config, ttl_seconds).await?).await
    }

    /// In this turn, once all is registered.
    pub async fn on(turn: Turn) -> Result<Self> {
        turn.register(&["orders"]).await?;
        for name in ["a", "b", "c"] {
            turn.namespace.create_pod(&pod(name, "orders")).await?;
        }
        let operator = operator(turn.bed, "operator-0");
        operator.wait_ready(SOON).await?;
        let scene = Self {
            pid: operator.pid(),
            operator,
            turn,
        };
        scene.wait(&["a", "b", "c"]).await;
        scene.wait_well(3).await?;
        Ok(scene)
    }

    /// Waits until these pods are registered and no others.
    pub async fn wait(&self, pods: &[&str]) -> BTreeMap<String, Held> {
        wait_keys(&self.turn.etcd, &self.turn.plain("orders"), pods).await
    }

    /// Waits until these pods are registered and no others, by the same process, and nothing is left of what is gone:
    /// soon after `repair`.
    pub async fn wait_converged(&self, repair: Instant, pods: &[&str]) -> Result<BTreeMap<String, Held>> {
        let held = self.wait(pods).await;
        until("both formats to tell the same", SOON, || async {
            let all = self.turn.etcd.dump("").await.map_err(|error| error.to_string())?;
            // Those of earlier tests may be going still.
            let of_pods = all.keys().filter(|key| key.contains(self.turn.namespace.name()));
            match of_pods.count() {
                count if count == 2 * pods.len() => Ok(()),
                count => Err(format!("there are {count} keys")),
            }
        })
        .await?;
        let took = repair.elapsed();
        eprintln!("converged {} ms after the repair", took.as_millis());
        assert!(took < CONVERGED, "{took:?}");
        self.assert_lives()?;
        Ok(held)
    }

    /// `a` is not ready any more: its keys go, soon.
    pub async fn lose_a(&self) -> Result<()> {
        self.turn.namespace.set_ready("a", false).await?;
        self.wait_converged(Instant::now(), &["b", "c"]).await.map(drop)
    }

    /// `a` is ready again: its keys are back, soon.
    pub async fn regain_a(&self) -> Result<()> {
        self.turn.namespace.set_ready("a", true).await?;
        self.wait_converged(Instant::now(), &["a", "b", "c"]).await.map(drop)
    }

    /// Waits until the Registry, the registration and the metrics report the trouble, the Registry with this reason.
    pub async fn wait_trouble(&self, reason: &str) -> Result<()> {
        self.wait_registry("False", reason).await?;
        wait_condition(
            self.turn.namespace.objects(),
            "orders",
            "Synced",
            "Unknown",
            "RegistryUnreachable",
        )
        .await;
        self.wait_connected(false).await
    }

    /// Waits until none of them reports trouble and the registration reports this number of registered pods.
    pub async fn wait_well(&self, pods: u32) -> Result<()> {
        self.wait_registry("True", "Connected").await?;
        wait_in_sync(self.turn.namespace.objects(), "orders", pods).await;
        self.wait_connected(true).await
    }

    /// Waits until the Registry says so.
    pub async fn wait_registry(&self, status: &str, reason: &str) -> Result<()> {
        let wanted = (status.to_owned(), reason.to_owned());
        let reported = |object: &serde_json::Value| condition(object, "Connected") == wanted;
        let registry = (API, "Registry", "default");
        self.turn.bed.objects().wait(registry, reported, SOON).await.map(drop)
    }

    /// Waits until the metric says so.
    pub async fn wait_connected(&self, connected: bool) -> Result<()> {
        let wanted = Some(f64::from(u8::from(connected)));
        until("leasehold_connected to say so", SOON, || async {
            match self.operator.metric("leasehold_connected").await {
                Ok(reported) if reported == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Asserts that it is still the process that it was.
    pub fn assert_lives(&self) -> Result<()> {
        assert_eq!(self.operator.pid(), self.pid);
        self.operator.process().alive()
    }
}
