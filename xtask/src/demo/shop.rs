//! The scene of the demo: the Deployment `orders` in the namespace `shop`, what registers it, and its keys.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testbed::{Bed, Held, History, Kind, Namespace, Operator};

use super::sightings::Sightings;
use crate::{
    error::{Error, Result, doing},
    stage::Stage,
};

pub const NAMESPACE: &str = "shop";
/// Of the Deployment, its Service and its registration.
pub const NAME: &str = "orders";
pub const SELECTOR: &str = "app=orders";
/// The two formats' prefixes for `orders`.
pub const PREFIXES: [&str; 2] = ["/services/shop/orders/", "shop/orders/"];
/// How long anything may take that is not measured.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The namespace and what watches it.
pub struct Shop<'a> {
    pub bed: &'a Bed,
    pub operator: &'a Operator,
    pub namespace: Namespace,
    pub ready: Sightings,
    pub endpoints: Sightings,
}

impl<'a> Shop<'a> {
    /// Makes the namespace with a Service for the pods to come, and begins to watch.
    pub async fn open(stage: &'a Stage) -> Result<Self> {
        let bed = &stage.bed;
        let namespace = bed.namespace_named(NAMESPACE).await?;
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc"}]},
        });
        namespace.apply(service).await?;
        Ok(Self {
            bed,
            operator: &stage.operators[0],
            ready: Sightings::of_ready_pods(bed.client(), NAMESPACE),
            endpoints: Sightings::of_endpoints(bed.client(), NAMESPACE, NAME),
            namespace,
        })
    }

    /// Everything under some prefixes.
    pub async fn keys(&self, prefixes: &[&str]) -> Result<BTreeMap<String, Held>> {
        let mut keys = BTreeMap::new();
        for prefix in prefixes {
            keys.extend(self.bed.registry().dump(prefix).await?);
        }
        Ok(keys)
    }

    /// Waits until there are exactly this many keys under some prefixes.
    pub async fn wait_keys(
        &self,
        prefixes: &[&str],
        count: usize,
        deadline: Duration,
    ) -> Result<BTreeMap<String, Held>> {
        let what = format!("exactly {count} keys under {}", prefixes.join(" and "));
        let keys = testbed::until(&what, deadline, || async {
            let keys = self.keys(prefixes).await.map_err(|error| error.to_string())?;
            if keys.len() == count {
                Ok(keys)
            } else {
                Err(format!("{} keys", keys.len()))
            }
        });
        Ok(keys.await?)
    }

    /// What happens to the keys of `orders` from now on, one history for each format.
    pub async fn histories(&self) -> Result<[History; 2]> {
        let registry = self.bed.registry();
        let [plain, grpc] = PREFIXES;
        Ok([
            History::watch(registry, plain, 0).await?,
            History::watch(registry, grpc, 0).await?,
        ])
    }

    /// Waits until the registration's status says that this many endpoints are registered, all that are ready.
    pub async fn wait_status(&self, registration: &str, endpoints: usize) -> Result<()> {
        let object = ("leasehold.dev/v1alpha1", "ServiceRegistration", registration);
        let enough = |object: &Value| {
            let pods = &object["status"]["pods"];
            pods["registered"] == endpoints && pods["ready"] == endpoints
        };
        self.namespace.objects().wait(object, enough, PATIENCE).await?;
        Ok(())
    }

    /// What `kubectl get svcreg -o wide` prints, under the command.
    pub async fn kubectl(&self) -> Result<String> {
        let mut kubectl = Command::new(self.bed.kubectl());
        kubectl.args(["get", "svcreg", "-n", NAMESPACE, "-o", "wide"]);
        kubectl.env("KUBECONFIG", self.bed.kubeconfig());
        let output = tokio::task::spawn_blocking(move || kubectl.output())
            .await
            .expect("running does not panic")
            .map_err(doing("run kubectl"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Broken(format!(
                "kubectl get svcreg answers, but it says: {said}"
            )));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(format!("$ kubectl get svcreg -n {NAMESPACE} -o wide\n{said}"))
    }
}

/// A registration of the pods of `orders` in a Registry.
pub fn registration(name: &str, registry: &str, formats: &[&str]) -> Value {
    let formats: Vec<_> = formats.iter().map(|format| json!({"type": format})).collect();
    json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "ServiceRegistration",
        "metadata": {"name": name},
        "spec": {
            "registryRef": {"name": registry},
            "selector": {"matchLabels": {"app": NAME}},
            "ports": [{"name": "grpc"}],
            "formats": formats,
        },
    })
}

/// When each pod's key under one format's prefix was written last.
pub fn written(history: &History) -> BTreeMap<String, Instant> {
    let puts = history
        .arrivals()
        .into_iter()
        .filter(|(_, event)| matches!(event.kind, Kind::Put { .. }));
    puts.map(|(at, event)| (pod_of(&event.key).to_owned(), at)).collect()
}

/// The pod that a key is about: its last segment.
pub fn pod_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, pod)| pod)
}

/// Keys with their values and leases, the leases as etcdctl writes them.
pub fn listed(keys: &BTreeMap<String, Held>) -> String {
    let width = keys.keys().map(String::len).max().unwrap_or(0);
    let line = |(key, held): (&String, &Held)| format!("{key:<width$}  lease {:016x}  {}\n", held.lease, held.value);
    keys.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_with_their_leases_as_etcdctl_writes_them() {
        let held = Held {
            value: "10.0.0.1:80".to_owned(),
            lease: 0x1f,
            create_revision: 1,
            mod_revision: 1,
        };
        let keys = BTreeMap::from([("/a/b".to_owned(), held)]);
        assert_eq!(listed(&keys), "/a/b  lease 000000000000001f  10.0.0.1:80\n");
        assert_eq!(pod_of("/a/b"), "b");
    }
}
