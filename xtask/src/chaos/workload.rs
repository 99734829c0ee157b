//! What people and controllers do while things break.

use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    foreign_client::ForeignClient,
    manifests::{
        API, EXTERNAL_IPS, NAMESPACES, PORTS, REGISTRIES, allowed_labels, annotations, app, app_of_pod,
        app_of_registration, bare_pod, load_balancer, namespace_of, new_pod, no_annotations, registration,
        registration_name,
    },
    nodes,
    plan::{Action, Actions, BARE_PODS},
    record::{Gate, Pod},
    recorder,
    rng::index,
    scene::Scene,
    wanted::Registration,
};
use crate::error::Result;

/// How long one action may take. One that takes longer, since something is down, may still have an effect.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the actions of a seed for ever. A holder of `turn` stops it between two of them.
pub async fn run(scene: &Scene, seed: u64, turn: &Mutex<()>) {
    let mut workload = Workload {
        scene,
        foreign_client: ForeignClient::default(),
    };
    for (pause, action) in Actions::new(seed) {
        sleep(pause).await;
        let turn = turn.lock().await;
        let done = timeout(PATIENCE, workload.act(action)).await;
        scene.acted(action.name(), !matches!(done, Ok(Ok(true))));
        drop(turn);
    }
}

struct Workload<'a> {
    scene: &'a Scene,
    foreign_client: ForeignClient,
}

impl Workload<'_> {
    /// Whether it went as it should. What is impossible just now counts as done.
    async fn act(&mut self, action: Action) -> Result<bool> {
        let scene = self.scene;
        match action {
            Action::Scale { app: number, replicas } => scene.namespace_of(number).scale(&app(number), replicas).await?,
            Action::CreatePod { slot } => drop(
                scene
                    .namespace_of(app_of_pod(slot))
                    .apply(new_pod(slot).manifest())
                    .await?,
            ),
            Action::DeletePod { slot } => {
                let objects = scene.namespace_of(app_of_pod(slot)).objects();
                objects.delete("v1", "Pod", &bare_pod(slot)).await?;
            }
            Action::DeletePods { app: number } => {
                let its = ListParams::default().labels(&format!("app={}", app(number)));
                self.pods(namespace_of(number))
                    .delete_collection(&DeleteParams::default(), &its)
                    .await?;
            }
            Action::UnregisterAll => {
                let (how, all) = (DeleteParams::default(), ListParams::default());
                for namespace in NAMESPACES {
                    let registrations = recorder::registrations(scene.bed.client(), namespace);
                    registrations.delete_collection(&how, &all).await?;
                }
            }
            Action::Relabel { slot, app: number } => self.relabel(slot, number).await?,
            Action::Toggle { pick } => {
                if let Some((name, pod)) = self.some_pod(pick) {
                    scene.namespace(&pod.namespace).set_ready(&name, !pod.ready).await?;
                }
            }
            Action::Flap { pick } => {
                if let Some((name, pod)) = self.some_pod(pick) {
                    let namespace = scene.namespace(&pod.namespace);
                    namespace.set_ready(&name, false).await?;
                    sleep(Duration::from_millis(pick % 60)).await;
                    namespace.set_ready(&name, true).await?;
                }
            }
            Action::Register { slot, shape } => {
                let namespace = scene.namespace_of(app_of_registration(slot));
                namespace.apply(registration(slot, shape)).await?;
            }
            Action::Unregister { slot } => {
                let name = registration_name(slot);
                let objects = scene.namespace_of(app_of_registration(slot)).objects();
                objects.delete(API, "ServiceRegistration", &name).await?;
            }
            Action::Annotate { app: number, shape } => self.annotate(number, &annotations(number, shape)).await?,
            Action::Unannotate { app: number } => self.annotate(number, &no_annotations()).await?,
            Action::Meddle { app: number, pick } => self.meddle(number, pick).await?,
            Action::RelabelNode { node, pick } => nodes::relabel(scene, node, pick).await?,
            Action::ToggleNode { node } => nodes::toggle(scene, node).await?,
            Action::ReserveNode { node, pick } => nodes::reserve(scene, node, pick).await?,
            Action::ReachNode { node, pick } => nodes::reach(scene, node, pick).await?,
            Action::AllowLabels { pick } => {
                let change = Patch::Merge(allowed_labels(pick));
                let registries = recorder::registries(scene.bed.client());
                let (registry, ..) = REGISTRIES[index(pick >> 8, REGISTRIES.len())];
                registries.patch(registry, &PatchParams::default(), &change).await?;
            }
            Action::Route { app: number, local } => {
                let policy = if local { "Local" } else { "Cluster" };
                self.change_service(number, &json!({"spec": {"externalTrafficPolicy": policy}}))
                    .await?;
            }
            Action::Lead { app: number, pick } => self.lead(number, pick).await?,
            Action::Readdress { pick } => {
                if let Some((name, pod)) = self.some_pod(pick) {
                    let ipv6 = pod
                        .ipv6
                        .is_none()
                        .then(|| format!("fd00::{:x}", pick >> 8 & 0xffff | 1));
                    let addresses: Vec<&str> = pod.address.iter().chain(&ipv6).map(String::as_str).collect();
                    scene.namespace(&pod.namespace).set_pod_ips(&name, &addresses).await?;
                }
            }
            Action::ForeignNear { pick } => return Ok(self.near(pick).await),
            Action::ForeignTakes { slot, pick } => return self.takes(slot, pick).await,
            Action::ForeignChanges { pick } => return Ok(self.foreign_client.change(scene, pick).await),
            Action::ForeignLeaves { pick } => return Ok(self.foreign_client.leave(scene, pick).await),
        }
        Ok(true)
    }

    /// One that runs, rather one that is not ready: or else ever fewer would be.
    fn some_pod(&self, pick: u64) -> Option<(String, Pod)> {
        let pods = self.scene.recorder.pods();
        // No kubelet makes a pod ready whose gate is closed.
        let is_free = |pod: &Pod| pod.address.is_some() && pod.gate != Some(Gate::Closed);
        let running = pods.into_iter().filter(|(_, pod)| is_free(pod));
        let mut pods: Vec<_> = running.collect();
        let unready = pods.iter().filter(|(_, pod)| !pod.ready).count();
        if unready * 3 > pods.len() {
            pods.retain(|(_, pod)| !pod.ready);
        }
        (!pods.is_empty()).then(|| pods.swap_remove(index(pick, pods.len())))
    }

    fn pods(&self, namespace: &str) -> Api<v1::Pod> {
        Api::namespaced(self.scene.bed.client(), namespace)
    }

    async fn relabel(&self, slot: usize, number: usize) -> Result<()> {
        let name = bare_pod(slot);
        if !self.scene.recorder.pods().contains_key(&name) {
            return Ok(());
        }
        let change = Patch::Merge(json!({"metadata": {"labels": {"app": app(number)}}}));
        self.pods(namespace_of(app_of_pod(slot)))
            .patch(&name, &PatchParams::default(), &change)
            .await?;
        Ok(())
    }

    async fn annotate(&self, number: usize, annotations: &Value) -> Result<()> {
        self.change_service(number, &json!({"metadata": {"annotations": annotations}}))
            .await
    }

    /// Changes where a Service is reached: its external IPs, or the addresses of its load balancer.
    async fn lead(&self, number: usize, pick: u64) -> Result<()> {
        let most = index(pick >> 8, 3);
        if pick.is_multiple_of(2) {
            let addresses = &EXTERNAL_IPS[..most];
            return self
                .change_service(number, &json!({"spec": {"externalIPs": addresses}}))
                .await;
        }
        let change = load_balancer(number, most);
        self.scene.namespace_of(number).objects().merge_status(change).await?;
        Ok(())
    }

    async fn change_service(&self, number: usize, change: &Value) -> Result<()> {
        let services = Api::<v1::Service>::namespaced(self.scene.bed.client(), namespace_of(number));
        let change = Patch::Merge(change);
        services.patch(&app(number), &PatchParams::default(), &change).await?;
        Ok(())
    }

    /// Edits or deletes a registration that the operator keeps, if it is there.
    async fn meddle(&self, number: usize, pick: u64) -> Result<()> {
        let name = &app(number);
        if !self.scene.recorder.registrations().contains_key(name) {
            return Ok(());
        }
        let registrations = recorder::registrations(self.scene.bed.client(), namespace_of(number));
        if pick.is_multiple_of(2) {
            registrations.delete(name, &DeleteParams::default()).await?;
        } else {
            let change = Patch::Merge(json!({"spec": {"weight": 7}}));
            registrations.patch(name, &PatchParams::default(), &change).await?;
        }
        Ok(())
    }

    /// A key that looks as if it were one of a registration's: in its prefix, below a pod's key, or in a prefix that begins
    /// like it.
    async fn near(&mut self, pick: u64) -> bool {
        let registrations = self.scene.recorder.registrations();
        let prefixes: Vec<&str> = registrations.values().flat_map(Registration::prefixes).collect();
        if prefixes.is_empty() {
            return true;
        }
        let prefix = prefixes[index(pick >> 8, prefixes.len())];
        let (slot, number) = (index(pick >> 16, BARE_PODS), (pick >> 24) % 20);
        let key = match pick % 4 {
            0 => format!("{prefix}foreign-{number}"),
            1 => format!("{prefix}{}/below-{number}", bare_pod(slot)),
            2 => format!("{}-sibling/{}", prefix.trim_end_matches('/'), bare_pod(slot)),
            _ => prefix.trim_end_matches('/').to_owned(),
        };
        self.foreign_client.take(self.scene, key).await
    }

    /// The key of a bare pod: of one that becomes ready at the same moment, or is created after that.
    async fn takes(&mut self, slot: usize, pick: u64) -> Result<bool> {
        let (name, namespace) = (bare_pod(slot), self.scene.namespace_of(app_of_pod(slot)));
        let there = self.scene.recorder.pods().remove(&name);
        let registrations = self.scene.recorder.registrations();
        let label = there.as_ref().and_then(|pod| pod.labels.get("app").cloned());
        let label = label.unwrap_or_else(|| app(app_of_pod(slot)));
        let keys: Vec<String> = registrations
            .values()
            // What another client takes may or may not count for a quota.
            .filter(|one| one.labels().get("app") == Some(&label) && one.registry() == REGISTRIES[0].0)
            .flat_map(|one| {
                let ports = PORTS.map(|(port, number)| (port.to_owned(), number));
                let pod = Pod {
                    namespace: namespace.name().to_owned(),
                    labels: one.labels().clone(),
                    ready: true,
                    address: Some(String::new()),
                    ports: ports.into(),
                    ..Pod::default()
                };
                one.keys(&name, &pod, None).into_keys()
            })
            .collect();
        if keys.is_empty() {
            return Ok(true);
        }
        let key = keys[index(pick, keys.len())].clone();
        let Some(pod) = there else {
            let taken = self.foreign_client.take(self.scene, key).await;
            namespace.apply(new_pod(slot).manifest()).await?;
            return Ok(taken);
        };
        if pod.gate == Some(Gate::Closed) {
            return Ok(self.foreign_client.take(self.scene, key).await);
        }
        if pod.ready {
            namespace.set_ready(&name, false).await?;
            sleep(Duration::from_millis(150)).await;
        }
        // Both want it at the same time: which of them comes first is open.
        let late = async {
            sleep(Duration::from_millis((pick >> 8) % 24)).await;
            self.foreign_client.take(self.scene, key).await
        };
        let (ready, taken) = tokio::join!(namespace.set_ready(&name, true), late);
        ready?;
        Ok(taken)
    }
}
