//! A release of the chart on the bed, whose pods the bed's kubelet runs.

use std::time::Duration;

use serde_json::Value;
use testbed::{Bed, EtcdCluster, Image, Kubelet, Namespace, Result, until};

use super::helm::{chart, helm};
use super::support::API;

/// How long helm may wait for pods on a busy machine. They are ready in seconds.
pub const ROLLOUT: &str = "3m";
/// The same for what tests wait for themselves.
pub const LONG: Duration = Duration::from_mins(1);
/// The TTL of its Registry, in seconds: the least there is.
pub const TTL: u64 = 15;

/// A namespace with a kubelet, to install a release in.
pub struct Release<'a> {
    pub bed: &'a Bed,
    pub home: Namespace,
    pub registry: String,
    values: Vec<String>,
    _kubelet: Kubelet,
}

impl<'a> Release<'a> {
    /// Prepares one with a Registry of its own on this etcd.
    pub async fn prepare(bed: &'a Bed, name: &str, etcd: &EtcdCluster) -> Result<Self> {
        let home = bed.namespace(name).await?;
        let root = bed.folder().path().join(format!("image-{}", home.name()));
        let image = Image::of_program(env!("CARGO_BIN_EXE_leasehold").as_ref(), &root)?;
        let kubelet = Kubelet::start(bed, home.name(), &image)?;
        let registry = home.name().to_owned();
        let values = vec![
            format!("registry.create=true,registry.name={registry}"),
            format!("registry.endpoints={{{}}}", etcd.endpoints().join(",")),
            format!("registry.spec.defaults.leaseTTLSeconds={TTL}"),
        ];
        Ok(Self {
            bed,
            home,
            registry,
            values,
            _kubelet: kubelet,
        })
    }

    /// `helm install` or `helm upgrade` with these values beside those of the Registry; returns its notes.
    pub async fn apply(&self, command: &str, values: &[&str]) -> String {
        let chart = chart().display().to_string();
        let mut words = vec![command, "leasehold", &chart, "--wait", "--timeout", ROLLOUT];
        let all = self.values.iter().map(String::as_str).chain(values.iter().copied());
        words.extend(all.flat_map(|value| ["--set", value]));
        self.helm(&words).await
    }

    /// Helm in the release's namespace, which must succeed.
    pub async fn helm(&self, words: &[&str]) -> String {
        let words: Vec<_> = words.iter().copied().chain(["--namespace", self.home.name()]).collect();
        let reported = helm(self.bed.kubeconfig(), &words).await;
        match reported {
            Ok(reported) => reported,
            Err(error) => panic!("helm {}: {error}\n{}", words.join(" "), self.logs().await),
        }
    }

    /// `helm uninstall`, which waits until the pods are gone.
    pub async fn uninstall(&self) {
        self.helm(&["uninstall", "leasehold", "--wait", "--timeout", ROLLOUT])
            .await;
    }

    /// Names and addresses of the operator's ready pods, as many as there are to be.
    pub async fn pods(&self, count: usize) -> Result<Vec<(String, String)>> {
        let pods = self
            .home
            .wait_ready_pods("app.kubernetes.io/component=operator", count)
            .await?;
        let of = |pod: &k8s_openapi::api::core::v1::Pod| {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            Some((pod.metadata.name.clone()?, address?))
        };
        Ok(pods.iter().filter_map(of).collect())
    }

    /// The Registry that the chart made.
    pub async fn registry(&self) -> Result<Option<Value>> {
        self.bed.objects().get(API, "Registry", &self.registry).await
    }

    /// Waits until exactly one of these pods says by its metrics that it leads, and returns its name.
    pub async fn leader(&self, pods: &[(String, String)]) -> Result<String> {
        let leads = format!("leasehold_leader{{registry=\"{}\"}} 1", self.registry);
        until("exactly one pod to lead", LONG, || async {
            let mut leaders = Vec::new();
            for (name, address) in pods {
                let server = format!("{address}:8080").parse().expect("an address");
                let answer = testbed::process::http::get(server, "/metrics").await;
                let (_, metrics) = answer.map_err(|error| format!("{name}: {error}"))?;
                if metrics.contains(&leads) {
                    leaders.push(name.clone());
                }
            }
            match leaders.as_slice() {
                [leader] => Ok(leader.clone()),
                _ => Err(format!("{leaders:?} lead")),
            }
        })
        .await
    }

    /// The end of every pod's log.
    async fn logs(&self) -> String {
        let pods = self.home.pods("").await.unwrap_or_default();
        let names = pods.iter().filter_map(|pod| pod.metadata.name.clone());
        let tail = |name: String| {
            let log = std::fs::read_to_string(self.bed.logs().join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(10).collect();
            format!("{name}:\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        names.map(tail).collect()
    }
}
