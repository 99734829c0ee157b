//! A Kubernetes control plane on this machine, with simulated nodes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::credentials::Credentials;
use crate::{
    error::{Doing, Error, Result},
    etcd::{EtcdCluster, EtcdConfig},
    process::{Port, Process, Spec},
    tools::{EtcdVersion, Tool},
    wait::until,
};

/// How long the API server may take to be ready on a busy machine; it takes 3 to 5 seconds on an idle one.
const START: Duration = Duration::from_mins(2);
/// The nodes are kwok's, which plays their kubelets by these rules.
const STAGES: &str = include_str!("../../assets/stages.yaml");

/// kube-apiserver on its own etcd, kube-controller-manager, kube-scheduler and kwok. All end with this value.
pub struct ControlPlane {
    config: Config,
    kubeconfig: PathBuf,
    certificate: PathBuf,
    kubectl: PathBuf,
    kwok: Process,
    scheduler: Process,
    controller_manager: Process,
    apiserver: Process,
    etcd: EtcdCluster,
    port: Port,
}

/// The programs, found or built.
struct Programs {
    apiserver: PathBuf,
    controller_manager: PathBuf,
    scheduler: PathBuf,
    kubectl: PathBuf,
    kwok: PathBuf,
}

impl Programs {
    async fn get() -> Result<Self> {
        let find = || {
            Ok(Self {
                apiserver: Tool::KubeApiserver.binary()?,
                controller_manager: Tool::KubeControllerManager.binary()?,
                scheduler: Tool::KubeScheduler.binary()?,
                kubectl: Tool::Kubectl.binary()?,
                kwok: Tool::Kwok.binary()?,
            })
        };
        tokio::task::spawn_blocking(find)
            .await
            .expect("building does not panic")
    }
}

impl ControlPlane {
    /// Starts one in a folder, logging to another, and waits until pods can run on its nodes `node-0`, `node-1`, ...
    pub async fn start(nodes: usize, folder: &Path, logs: &Path) -> Result<Self> {
        let programs = Programs::get().await?;
        let config = EtcdConfig {
            version: EtcdVersion::V3_6,
            ..EtcdConfig::default()
        };
        let etcd = EtcdCluster::start_with(config, "kubernetes-etcd", folder, logs).await?;
        let credentials = Credentials::create(folder)?;
        let port = Port::reserve()?;
        let certificates = folder.join("certificates");
        let apiserver = Process::start(apiserver(&programs, &credentials, &etcd, &port, &certificates, logs))?;

        let kubeconfig = folder.join("kubeconfig");
        // Signed by itself on its first start, and kept for later ones.
        let certificate = certificates.join("apiserver.crt");
        let written = until("kube-apiserver to write its certificate", START, || async {
            match fs::read(&certificate) {
                Ok(text) if text.ends_with(b"-----END CERTIFICATE-----\n") => Ok(text),
                Ok(_) => Err("half a certificate".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        let text = apiserver.while_alive(written).await?;
        credentials.kubeconfig(&format!("https://{}", port.address()), &text, &kubeconfig)?;
        let config = configure(&kubeconfig).await?;
        wait_ready(&apiserver, &client_of(&config)).await?;

        let controller_manager = Process::start(controller_manager(&programs, &credentials, &kubeconfig, logs))?;
        let scheduler = Process::start(scheduler(&programs, &kubeconfig, logs))?;
        let stages = folder.join("stages.yaml");
        fs::write(&stages, STAGES).doing(|| format!("write {}", stages.display()))?;
        let kwok = Process::start(kwok(&programs, &kubeconfig, &stages, logs))?;
        let plane = Self {
            config,
            kubeconfig,
            certificate,
            kubectl: programs.kubectl,
            kwok,
            scheduler,
            controller_manager,
            apiserver,
            etcd,
            port,
        };
        for i in 0..nodes {
            plane.create_node(&format!("node-{i}"), &format!("zone-{i}")).await?;
        }
        for i in 0..nodes {
            plane.wait_node(&format!("node-{i}")).await?;
        }
        Ok(plane)
    }

    /// A new client that may do everything. Its connections end with the runtime it is used on, and every test has one
    /// of its own: so each takes its own client.
    pub fn client(&self) -> Client {
        client_of(&self.config)
    }

    /// The path of a kubeconfig that may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The file with the certificate that vouches for the API server.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Where the API server is reached.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The path of a kubectl of the same version.
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// The process kube-apiserver.
    pub fn apiserver(&self) -> &Process {
        &self.apiserver
    }

    /// The process kube-controller-manager.
    pub fn controller_manager(&self) -> &Process {
        &self.controller_manager
    }

    /// The process kube-scheduler.
    pub fn scheduler(&self) -> &Process {
        &self.scheduler
    }

    /// The process kwok. While it is stopped, pods neither start nor go.
    pub fn kwok(&self) -> &Process {
        &self.kwok
    }

    /// The etcd in which the API server keeps its objects; not the one to register in.
    pub fn etcd(&self) -> &EtcdCluster {
        &self.etcd
    }

    /// Kills kube-apiserver if it lives, starts it on its data at its address, and waits until it is ready.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.apiserver.restart().await?;
        self.wait_ready().await
    }

    /// Waits until the API server says that it is ready.
    pub async fn wait_ready(&self) -> Result<()> {
        wait_ready(&self.apiserver, &self.client()).await
    }

    /// Creates a simulated node in a zone.
    pub async fn create_node(&self, name: &str, zone: &str) -> Result<()> {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone},
            },
        });
        let nodes = Api::<Node>::all(self.client());
        let patch = PatchParams::apply("testbed");
        nodes
            .patch(name, &patch, &Patch::Apply(node))
            .await
            .doing(|| format!("create the node {name}"))?;
        Ok(())
    }

    /// Waits until a node takes pods.
    pub async fn wait_node(&self, name: &str) -> Result<()> {
        let nodes = Api::<Node>::all(self.client());
        until(&format!("{name} to take pods"), START, || async {
            for process in [&self.apiserver, &self.controller_manager, &self.scheduler, &self.kwok] {
                process.alive().map_err(|error| error.to_string())?;
            }
            let node = nodes.get(name).await.map_err(|error| error.to_string())?;
            let ready = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready = ready
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True");
            match node.spec.and_then(|spec| spec.taints) {
                None if ready => Ok(()),
                taints => Err(format!("ready: {ready}, taints: {taints:?}")),
            }
        })
        .await
    }
}

fn apiserver(
    programs: &Programs,
    credentials: &Credentials,
    etcd: &EtcdCluster,
    port: &Port,
    certificates: &Path,
    logs: &Path,
) -> Spec {
    Spec::new("kube-apiserver", &programs.apiserver, logs)
        .args([
            format!("--etcd-servers={}", etcd.endpoints().join(",")),
            format!("--cert-dir={}", certificates.display()),
            format!("--secure-port={}", port.number()),
            format!("--token-auth-file={}", credentials.tokens.display()),
            format!(
                "--service-account-signing-key-file={}",
                credentials.signing_key.display()
            ),
            format!("--service-account-key-file={}", credentials.public_key.display()),
        ])
        .args([
            "--service-account-issuer=https://kubernetes.default.svc",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            // No client uses the Service `kubernetes`, whose endpoint may not be a loopback address.
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            // Pods need no account, and so do not wait for their namespace to have one.
            "--disable-admission-plugins=ServiceAccount",
            // One client is all of the load: it need not be protected from others.
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=3000",
            "--max-mutating-requests-inflight=1000",
            "--profiling=false",
        ])
}

fn controller_manager(programs: &Programs, credentials: &Credentials, kubeconfig: &Path, logs: &Path) -> Spec {
    Spec::new("kube-controller-manager", &programs.controller_manager, logs)
        .args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!(
                "--service-account-private-key-file={}",
                credentials.signing_key.display()
            ),
        ])
        .args([
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--secure-port=0",
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
            "--concurrent-deployment-syncs=10",
            "--concurrent-replicaset-syncs=10",
            // Simulated nodes send no heartbeats, so that a bed at rest writes nothing.
            "--node-monitor-grace-period=24h",
            "--profiling=false",
        ])
}

fn scheduler(programs: &Programs, kubeconfig: &Path, logs: &Path) -> Spec {
    Spec::new("kube-scheduler", &programs.scheduler, logs)
        .args([format!("--kubeconfig={}", kubeconfig.display())])
        .args([
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
            "--profiling=false",
        ])
}

fn kwok(programs: &Programs, kubeconfig: &Path, stages: &Path, logs: &Path) -> Spec {
    Spec::new("kwok", &programs.kwok, logs)
        .args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--config={}", stages.display()),
        ])
        .args([
            "--manage-all-nodes=true",
            "--cidr=10.0.0.0/16",
            "--node-ip=10.1.0.1",
            "--node-lease-duration-seconds=0",
        ])
}

pub(super) async fn configure(kubeconfig: &Path) -> Result<Config> {
    let unusable = |error: &dyn std::error::Error| Error::Invalid(format!("{}: {error}", kubeconfig.display()));
    let read = Kubeconfig::read_from(kubeconfig).map_err(|error| unusable(&error))?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    config.map_err(|error| unusable(&error))
}

pub(super) fn client_of(config: &Config) -> Client {
    Client::try_from(config.clone()).expect("a kubeconfig that we wrote ourselves is usable")
}

async fn wait_ready(apiserver: &Process, client: &Client) -> Result<()> {
    let ready = until("kube-apiserver to be ready", START, || async {
        let request = http::Request::get("/readyz").body(Vec::new()).expect("a valid request");
        client.request_text(request).await.map(drop)
    });
    apiserver.while_alive(ready).await
}
