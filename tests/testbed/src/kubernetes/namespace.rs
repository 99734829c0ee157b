//! A namespace of one test: what isolates tests that share a bed.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{NewPod, Objects, pod::container, random_name};
use crate::{
    error::{Doing, Result},
    wait::until,
};

/// How long pods may take to come or go. They take about a second.
const PODS: Duration = Duration::from_mins(1);

/// A namespace with a name that no other test has, and hands to move what is in it.
pub struct Namespace {
    name: String,
    pods: Api<Pod>,
    objects: Objects,
    client: Client,
}

impl Namespace {
    /// Creates `PREFIX-RANDOM`.
    pub(crate) async fn create(client: Client, prefix: &str) -> Result<Self> {
        Self::named(client, format!("{prefix}-{}", random_name(6)?)).await
    }

    /// Creates it by its very name unless it is there.
    pub(crate) async fn named(client: Client, name: String) -> Result<Self> {
        let objects = Objects::new(client.clone(), name.as_str());
        objects
            .apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await?;
        Ok(Self {
            pods: Api::namespaced(client.clone(), &name),
            name,
            objects,
            client,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client that may do everything, everywhere.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Objects of any kind in it.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Server-side apply of any object; see [`Objects::apply`].
    pub async fn apply(&self, object: Value) -> Result<Value> {
        self.objects.apply(object).await
    }

    /// Creates a Deployment whose pods have these labels and named container ports.
    pub async fn create_deployment(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        replicas: u32,
        ports: &[(&str, u16)],
    ) -> Result<()> {
        let labels: Value = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port)| json!({"name": name, "containerPort": port}))
            .collect();
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container(&ports)]}},
            },
        });
        self.apply(deployment).await.map(drop)
    }

    /// Sets the number of a Deployment's pods; see [`Namespace::wait_ready_pods`].
    pub async fn scale(&self, deployment: &str, replicas: u32) -> Result<()> {
        let deployments = Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(self.client(), &self.name);
        let change = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let scaled = deployments
            .patch_scale(deployment, &PatchParams::default(), &change)
            .await;
        scaled.map(drop).doing(|| format!("scale {deployment} to {replicas}"))
    }

    /// Creates a pod and waits until it runs.
    pub async fn create_pod(&self, pod: &NewPod) -> Result<Pod> {
        let applied = self.apply(pod.manifest()).await?;
        let name = applied["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        until(&format!("pod {name} to run"), PODS, || async {
            let pod = self.pods.get(&name).await.map_err(|error| error.to_string())?;
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            if phase.as_deref() == Some("Running") {
                Ok(pod)
            } else {
                Err(format!("its phase is {phase:?}"))
            }
        })
        .await
    }

    /// Flips a pod's Ready condition, as its kubelet would. It stays so.
    pub async fn set_ready(&self, pod: &str, ready: bool) -> Result<Pod> {
        let status = if ready { "True" } else { "False" };
        let condition = json!({"type": "Ready", "status": status, "lastTransitionTime": Timestamp::now().to_string()});
        self.change_pod_status(pod, &json!({"conditions": [condition]})).await
    }

    /// Changes a pod's address.
    pub async fn set_pod_ip(&self, pod: &str, address: &str) -> Result<Pod> {
        self.set_pod_ips(pod, &[address]).await
    }

    /// Changes a pod's addresses, of which the apiserver takes one per family.
    pub async fn set_pod_ips(&self, pod: &str, addresses: &[&str]) -> Result<Pod> {
        let all: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
        self.change_pod_status(pod, &json!({"podIP": addresses.first(), "podIPs": all}))
            .await
    }

    /// Strategic merge into a pod's status: conditions by their type, addresses replaced as a whole.
    async fn change_pod_status(&self, pod: &str, change: &Value) -> Result<Pod> {
        let mut change = json!({"status": change});
        if let Some(addresses) = change["status"].get_mut("podIPs").and_then(Value::as_array_mut) {
            // The list merges by address; without this the old one would stay.
            addresses.push(json!({"$patch": "replace"}));
        }
        let changed = self
            .pods
            .patch_status(pod, &PatchParams::default(), &Patch::Strategic(change))
            .await;
        changed.doing(|| format!("change the status of pod {pod}"))
    }

    /// Deletes a pod and waits until it has begun to terminate; it is gone in a moment unless something holds it.
    pub async fn delete_pod(&self, pod: &str) -> Result<()> {
        self.pods
            .delete(pod, &DeleteParams::default())
            .await
            .map(drop)
            .doing(|| format!("delete pod {pod}"))
    }

    /// Removes a pod's finalizers.
    pub async fn release(&self, pod: &str) -> Result<()> {
        let change = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let released = self.pods.patch(pod, &PatchParams::default(), &change).await;
        released
            .map(drop)
            .doing(|| format!("remove the finalizers of pod {pod}"))
    }

    /// Waits until there is no such pod.
    pub async fn wait_pod_gone(&self, pod: &str) -> Result<()> {
        until(&format!("pod {pod} to go"), PODS, || async {
            match self.pods.get_opt(pod).await {
                Ok(None) => Ok(()),
                Ok(Some(_)) => Err("it is there".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// The pods that a label selector such as `app=orders` matches (all when empty), terminating ones too, by name.
    pub async fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let found = self
            .pods
            .list(&ListParams::default().labels(selector))
            .await
            .doing(|| "list pods")?;
        Ok(found.items)
    }

    /// Waits until a selector matches exactly `n` pods and all of them are ready, with an address, and not terminating.
    pub async fn wait_ready_pods(&self, selector: &str, n: usize) -> Result<Vec<Pod>> {
        until(&format!("exactly {n} ready pods of {selector}"), PODS, || async {
            let pods = self.pods(selector).await.map_err(|error| error.to_string())?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            if ready == n && pods.len() == n {
                Ok(pods)
            } else {
                Err(format!("{ready} of {} are ready", pods.len()))
            }
        })
        .await
    }
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && status.is_some_and(|status| status.pod_ip.is_some())
        && conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}
