//! A test's turn with the control plane: operators serve the whole cluster, so those of one test would be replicas of
//! those of another. Each test brings its own etcd, which its last operator leaves behind as it is.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use testbed::{Bed, EtcdCluster, EtcdConfig, Namespace, NewPod, Objects, Result, shared, until};
use tokio::sync::{Mutex, MutexGuard};

use super::support::{API, plain_prefix, registration};

static TURN: Mutex<()> = Mutex::const_new(());
/// Whether the control plane was restarted and no pod has run since.
static UNPROVEN: AtomicBool = AtomicBool::new(false);

/// A test's turn: the bed, an etcd of its own served as the Registry `default`, and a namespace.
pub struct Turn {
    /// The control plane.
    pub bed: &'static Bed,
    /// The etcd that registrations go to.
    pub etcd: EtcdCluster,
    /// The namespace.
    pub namespace: Namespace,
    _guard: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits for it, with an etcd of so many members.
    pub async fn take(name: &str, members: usize, ttl_seconds: u32) -> Result<Self> {
        let config = EtcdConfig {
            members,
            ..EtcdConfig::default()
        };
        Self::take_with(name, config, ttl_seconds).await
    }

    /// Waits for it, with an etcd of this kind.
    pub async fn take_with(name: &str, config: EtcdConfig, ttl_seconds: u32) -> Result<Self> {
        let turn = TURN.lock().await;
        let bed = shared().await?;
        let apiserver = bed.control_plane().apiserver();
        apiserver.cont()?;
        if apiserver.exit_status().is_some() {
            bring_back_apiserver(bed).await?;
        }
        if UNPROVEN.load(Ordering::Relaxed) {
            prove_control_plane(bed).await?;
            UNPROVEN.store(false, Ordering::Relaxed);
        }
        bed.apply_crds().await?;
        // What an earlier test left, however it ended. A namespace goes when its controller comes to it; without its
        // registrations nothing of it is registered meanwhile.
        for namespace in bed.objects().list("v1", "Namespace").await? {
            let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
            if name.starts_with("turn-") {
                let objects = Objects::new(bed.client(), name);
                for registration in objects.list(API, "ServiceRegistration").await? {
                    let name = registration["metadata"]["name"].as_str().unwrap_or_default();
                    objects.delete(API, "ServiceRegistration", name).await?;
                }
                bed.objects().delete("v1", "Namespace", name).await?;
            }
        }
        bed.objects().delete(API, "Registry", "default").await?;
        let etcd = EtcdCluster::temporary_with(config).await?;
        bed.create_registry("default", &etcd.endpoints(), ttl_seconds).await?;
        Ok(Self {
            bed,
            etcd,
            namespace: bed.namespace(&format!("turn-{name}")).await?,
            _guard: turn,
        })
    }

    /// Registers the pods `app: orders` in two formats under each of `services`.
    pub async fn register(&self, services: &[&str]) -> Result<()> {
        for service in services {
            let spec = json!({
                "selector": {"matchLabels": {"app": "orders"}},
                "formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}],
            });
            self.namespace.apply(registration(service, &spec)).await?;
        }
        Ok(())
    }

    /// A Deployment of this many ready pods `app: orders`.
    pub async fn deploy(&self, pods: u32) -> Result<()> {
        let ports = [("grpc", 8080)];
        self.namespace
            .create_deployment("orders", &[("app", "orders")], pods, &ports)
            .await?;
        let count = usize::try_from(pods).expect("it fits");
        self.namespace.wait_ready_pods("app=orders", count).await.map(drop)
    }

    /// The name of one of the pods.
    pub async fn some_pod(&self) -> Result<String> {
        let pods = self.namespace.pods("app=orders").await?;
        Ok(pods[0].metadata.name.clone().expect("a pod has a name"))
    }

    /// Where one of the services is written as Plain.
    pub fn plain(&self, service: &str) -> String {
        plain_prefix(&self.namespace, service)
    }

    /// Who leads by etcd's word.
    pub async fn leader(&self) -> Result<Option<String>> {
        let held = self.etcd.dump("/leasehold/").await?;
        let leader = held.into_iter().find(|(key, _)| key.ends_with("/leader"));
        let parsed = leader.map(|(_, held)| serde_json::from_str::<serde_json::Value>(&held.value));
        Ok(parsed.and_then(|value| value.ok()?["identity"].as_str().map(str::to_owned)))
    }
}

/// Starts the apiserver again, and with it those that serve Kubernetes through it: they would notice its return only
/// after a minute or more.
pub async fn bring_back_apiserver(bed: &Bed) -> Result<()> {
    UNPROVEN.store(true, Ordering::Relaxed);
    bed.control_plane().restart_apiserver().await?;
    restart_controllers(bed).await
}

async fn restart_controllers(bed: &Bed) -> Result<()> {
    let plane = bed.control_plane();
    for process in [plane.controller_manager(), plane.scheduler(), plane.kwok()] {
        process.restart().await?;
    }
    Ok(())
}

/// Waits until pods run again after a restart of the control plane. What does not serve is restarted, as the kubelet of
/// its node would: first the controllers, then the API server, too. The logs of what was restarted are printed.
async fn prove_control_plane(bed: &Bed) -> Result<()> {
    for (i, restarts_apiserver) in [false, true].into_iter().enumerate() {
        let namespace = bed.namespace(&format!("turn-probe-{i}")).await?;
        let Err(error) = namespace.create_pod(&NewPod::new("probe")).await else {
            return Ok(());
        };
        let plane = bed.control_plane();
        for process in [
            plane.apiserver(),
            plane.controller_manager(),
            plane.scheduler(),
            plane.kwok(),
        ] {
            let state = process.exit_status().map(|status| status.to_string());
            eprintln!("{} (ended: {state:?}):\n{}", process.name(), process.log_tail());
        }
        eprintln!("no pod runs after a restart of the control plane ({error}): restarting it");
        if restarts_apiserver {
            plane.restart_apiserver().await?;
        }
        restart_controllers(bed).await?;
    }
    let namespace = bed.namespace("turn-probe").await?;
    namespace.create_pod(&NewPod::new("probe")).await.map(drop)
}

/// Waits until `name` leads by etcd's word.
pub async fn wait_leader(turn: &Turn, name: &str, patience: Duration) -> Result<()> {
    until(&format!("{name} to lead"), patience, || async {
        match turn.leader().await {
            Ok(Some(leader)) if leader == name => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
