//! A control plane, an etcd and one operator of a release build, and the objects that are measured.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use testbed::{Bed, EtcdVersion, Namespace, NewPod, Operator, OperatorConfig, build_released_operator};

use super::PATIENCE;
use crate::{
    error::{Error, Result, doing},
    stage::{build_tools, start_bed},
};

pub const NAMESPACE: &str = "bench";
pub const API: &str = "leasehold.dev/v1alpha1";
/// Requests that create objects, at once.
const AT_ONCE: usize = 16;
/// The label `app` of the pods that are registered together.
pub const MANY: &str = "many";
/// The kernel's unit of CPU time in `/proc`, in all Linux systems of the last decades.
const TICK: Duration = Duration::from_millis(10);

/// The source of a registration, each with a pod of its own.
#[derive(Clone, Copy)]
pub enum Source {
    Selector,
    Service,
}

impl Source {
    pub fn pod(self) -> &'static str {
        match self {
            Self::Selector => "by-selector",
            Self::Service => "by-service",
        }
    }
}

pub struct Scene {
    // Before the bed, so that it ends first.
    pub operator: Operator,
    pub namespace: Namespace,
    pub bed: Bed,
}

impl Scene {
    /// Builds what is missing, and starts everything.
    pub async fn set() -> Result<Self> {
        let etcd = EtcdVersion::default();
        let build = move || {
            eprintln!(
                "building the operator's release (usually 6 minutes on two cores when cold, seconds when warm) ..."
            );
            let operator = build_released_operator()?;
            build_tools(&[etcd])?;
            Ok::<_, Error>(operator)
        };
        let binary = tokio::task::spawn_blocking(build).await.expect("it does not panic")?;
        let bed = start_bed(etcd, 1, None, 1).await?;
        bed.apply_crds().await?;
        bed.create_registry("default", &bed.registry().endpoints(), 30).await?;
        let operator = Operator::start(&bed, OperatorConfig::new("operator-0", binary))?;
        let namespace = bed.namespace_named(NAMESPACE).await?;
        let scene = Self {
            operator,
            namespace,
            bed,
        };
        scene.wait_leader().await?;
        Ok(scene)
    }

    /// Waits until the operator is ready, hence leads.
    pub async fn wait_leader(&self) -> Result<()> {
        Ok(self.operator.wait_ready(PATIENCE).await?)
    }

    /// Returns the operator's resident memory in bytes, once it has stayed the same for a second.
    pub async fn memory_at_rest(&self) -> Result<u64> {
        let (mut last, mut since) = (self.status("VmRSS:")?, Instant::now());
        let begin = since;
        while since.elapsed() < Duration::from_secs(1) && begin.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.status("VmRSS:")?;
            if now.abs_diff(last) > 100 {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last * 1024)
    }

    /// Returns a number of `/proc/PID/status`.
    fn status(&self, field: &str) -> Result<u64> {
        let text = self.proc("status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| Error::Broken(format!("the status of the operator's process has no {field}")))
    }

    /// Returns the CPU time that the operator has used.
    pub fn cpu(&self) -> Result<Duration> {
        let text = self.proc("stat")?;
        // After the name, which may contain spaces: utime and stime are the fields 14 and 15 of proc(5).
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let mut times = fields.split(' ').skip(11).map(str::parse::<u32>);
        match (times.next(), times.next()) {
            (Some(Ok(user)), Some(Ok(system))) => Ok(TICK * (user + system)),
            _ => Err(Error::Broken("the operator's process has no CPU times".to_owned())),
        }
    }

    /// Returns how many calls of a kind the operator has made.
    pub async fn calls(&self, call: &str) -> Result<f64> {
        let text = self.operator.metrics().await?;
        Ok(sum(
            &text,
            "leasehold_call_seconds_count{",
            &[&format!("call=\"{call}\"")],
        ))
    }

    /// Returns how many requests to list or watch registrations the API server has got. A watch counts when it ends.
    pub async fn apiserver_requests(&self) -> Result<f64> {
        let request = http::Request::get("/metrics")
            .body(Vec::new())
            .expect("it is a request");
        let text = self.bed.client().request_text(request).await?;
        let of = |verb| {
            sum(
                &text,
                "apiserver_request_total{",
                &["resource=\"serviceregistrations\"", verb],
            )
        };
        Ok(of("verb=\"LIST\"") + of("verb=\"WATCH\""))
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.operator.pid());
        fs::read_to_string(&path).map_err(doing(format!("read {path}")))
    }

    /// Registers a pod for each source.
    pub async fn register_probes(&self) -> Result<()> {
        for source in [Source::Selector, Source::Service] {
            let name = source.pod();
            self.namespace.create_pod(&NewPod::new(name).port("grpc", 8080)).await?;
            let spec = match source {
                Source::Selector => json!({"selector": {"matchLabels": {"app": name}}}),
                Source::Service => {
                    self.namespace.apply(service(name)).await?;
                    json!({"service": {"name": name}})
                }
            };
            register(&self.namespace, name, spec).await?;
            wait_registered(&self.namespace, name, 1).await?;
        }
        Ok(())
    }

    /// Registers the pods of [`Self::create_pods`] under a name.
    pub async fn register_pods(&self, name: &str) -> Result<()> {
        register(
            &self.namespace,
            name,
            json!({"selector": {"matchLabels": {"app": MANY}}}),
        )
        .await
    }

    /// Sets fields of the Registry's spec, and no others.
    pub async fn configure(&self, fields: &Value) -> Result<()> {
        self.apply_registry("default", fields).await
    }

    /// Creates or changes a Registry of the etcd.
    pub async fn apply_registry(&self, name: &str, fields: &Value) -> Result<()> {
        let mut spec = json!({
            "etcd": {"endpoints": self.bed.registry().endpoints()},
            "defaults": {"leaseTTLSeconds": 30},
        });
        for (field, value) in fields.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let object = json!({"apiVersion": API, "kind": "Registry", "metadata": {"name": name}, "spec": spec});
        self.bed.objects().apply(object).await?;
        Ok(())
    }

    pub async fn create_services(&self, count: u32) -> Result<()> {
        let services: Api<Service> = self.api();
        create(&services, count, |i| service(&format!("service-{i}"))).await
    }

    /// Creates EndpointSlices of another controller, with one endpoint each.
    pub async fn create_slices(&self, count: u32) -> Result<()> {
        let slices: Api<EndpointSlice> = self.api();
        let slice = |i: u32| {
            json!({
                "metadata": {"name": format!("slice-{i}"), "labels": {
                    "kubernetes.io/service-name": format!("service-{i}"),
                    "endpointslice.kubernetes.io/managed-by": "bench",
                }},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address(i)]}],
                "ports": [{"name": "grpc", "port": 8080}],
            })
        };
        create(&slices, count, slice).await
    }

    pub async fn create_nodes(&self, count: u32) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.bed.client());
        let node = |i: u32| {
            let name = format!("bench-{i}");
            json!({"metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", i % 3),
            }}})
        };
        create(&nodes, count, node).await
    }

    /// Creates ready pods that no scheduler and no kubelet touches.
    pub async fn create_pods(&self, count: u32) -> Result<()> {
        create_pods(&self.namespace, count).await
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.bed.client(), NAMESPACE)
    }
}

/// Registers what `spec` selects in the format `Plain`.
pub async fn register(namespace: &Namespace, name: &str, mut spec: Value) -> Result<()> {
    spec["formats"] = json!([{"type": "Plain"}]);
    if spec["service"].is_null() {
        spec["ports"] = json!([{"name": "grpc"}]);
    }
    let object = json!({"apiVersion": API, "kind": "ServiceRegistration", "metadata": {"name": name}, "spec": spec});
    namespace.apply(object).await?;
    Ok(())
}

/// Waits until the status of a registration says that so many pods are registered.
pub async fn wait_registered(namespace: &Namespace, name: &str, pods: u32) -> Result<()> {
    let is_registered = |object: &Value| object["status"]["pods"]["registered"] == pods;
    let object = (API, "ServiceRegistration", name);
    namespace.objects().wait(object, is_registered, PATIENCE).await?;
    Ok(())
}

/// The name of one of the pods of [`create_pods`].
pub fn pod_name(i: u32) -> String {
    format!("{MANY}-6d5f9c7b84-{i:05}")
}

/// Creates ready pods in `namespace` that no scheduler and no kubelet touches.
pub async fn create_pods(namespace: &Namespace, count: u32) -> Result<()> {
    let pods = Api::<Pod>::namespaced(namespace.client(), namespace.name());
    let more = json!({"spec": {"schedulerName": "none"}});
    let pod = |i: u32| {
        let pod = NewPod::new(&pod_name(i));
        pod.label("app", MANY).port("grpc", 8080).with(&more).manifest()
    };
    create(&pods, count, pod).await?;
    let set_ready = |i: u32| {
        let (pods, name) = (&pods, pod_name(i));
        let status = json!({"status": {
            "phase": "Running",
            "podIP": address(i),
            "podIPs": [{"ip": address(i)}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
        }});
        async move {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                .await
                .map(drop)
        }
    };
    let all = stream::iter(0..count).map(set_ready).buffer_unordered(AT_ONCE);
    Ok(all.try_collect::<()>().await?)
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "clusterIP": "None",
        "selector": {"app": name},
        "ports": [{"name": "grpc", "port": 80, "targetPort": "grpc"}],
    }})
}

fn address(i: u32) -> String {
    format!("10.{}.{}.{}", 100 + i / 62_500, i / 250 % 250, 1 + i % 250)
}

/// Creates so many objects, several at a time.
pub async fn create<K>(api: &Api<K>, count: u32, manifest: impl Fn(u32) -> Value) -> Result<()>
where
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    eprintln!("creating {count} objects ...");
    let one = |i: u32| {
        let object = serde_json::from_value::<K>(manifest(i));
        async move {
            let object = object.map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &object).await.map(drop)
        }
    };
    let all = stream::iter(0..count).map(one).buffer_unordered(AT_ONCE);
    Ok(all.try_collect::<()>().await?)
}

/// Sums up the samples of a metric whose labels contain all of `labels`.
fn sum(metrics: &str, start: &str, labels: &[&str]) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(start));
    let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}
