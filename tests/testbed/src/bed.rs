//! A bed: a control plane and an etcd to register in.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::Client;
use serde_json::{Value, json};

use crate::{
    error::{Doing, Error, Result},
    etcd::{EtcdCluster, EtcdConfig, Security},
    kubernetes::{ControlPlane, Namespace, Objects, client_by},
    process::Folder,
    rights::Identity,
    tools::EtcdVersion,
    wait::until,
};

/// How long a kind that was just defined may take to be served.
const SERVED: Duration = Duration::from_secs(30);

/// What a bed is to be.
#[derive(Clone, Debug)]
pub struct BedConfig {
    /// The release of the registration etcd.
    pub etcd_version: EtcdVersion,
    /// Its members, one to seven.
    pub etcd_members: usize,
    /// Further flags of its members.
    pub etcd_args: Vec<String>,
    /// Its members speak https with their clients; http if none.
    pub etcd_security: Option<Security>,
    /// Simulated nodes `node-0` in `zone-0`, `node-1` in `zone-1`, ...
    pub nodes: usize,
}

impl Default for BedConfig {
    fn default() -> Self {
        Self {
            etcd_version: EtcdVersion::default(),
            etcd_members: 1,
            etcd_args: Vec::new(),
            etcd_security: None,
            nodes: 1,
        }
    }
}

/// A control plane with simulated nodes, and an etcd cluster to register in. When it is dropped every process of it has
/// ended and its folder is gone; when its owner is killed the same happens a moment later.
pub struct Bed {
    control_plane: ControlPlane,
    registry: EtcdCluster,
    operator: Identity,
    logs: PathBuf,
    // After the processes, so that it is removed once they are gone.
    folder: Folder,
}

impl Bed {
    /// Starts one and waits until pods can run. Takes some seconds; minutes when programs must be built first.
    pub async fn start(config: BedConfig) -> Result<Self> {
        let folder = Folder::new("bed")?;
        let logs = folder.folder("logs")?;
        let etcd = EtcdConfig {
            version: config.etcd_version,
            members: config.etcd_members,
            args: config.etcd_args,
            security: config.etcd_security,
            ..EtcdConfig::default()
        };
        let (registry, control_plane) = tokio::try_join!(
            EtcdCluster::start_with(etcd, "registry-etcd", folder.path(), &logs),
            ControlPlane::start(config.nodes, folder.path(), &logs),
        )?;
        Ok(Self {
            control_plane,
            registry,
            operator: Identity::default(),
            logs,
            folder,
        })
    }

    /// A new client that may do everything, for the runtime it is first used on.
    pub fn client(&self) -> Client {
        self.control_plane.client()
    }

    /// The path of a kubeconfig that may do everything.
    pub fn kubeconfig(&self) -> &Path {
        self.control_plane.kubeconfig()
    }

    /// The path of the operator's kubeconfig: that of the chart's account, with no more rights than the chart gives it.
    /// There is none before [`Bed::apply_crds`].
    pub fn operator_kubeconfig(&self) -> Result<&Path> {
        self.operator.kubeconfig()
    }

    /// The path of a new kubeconfig `NAME.kubeconfig` of the operator's, that leads to the API server by another way:
    /// by the URL `server`.
    pub fn operator_kubeconfig_by(&self, name: &str, server: &str) -> Result<PathBuf> {
        let path = self.logs.join(format!("{name}.kubeconfig"));
        let account = self.operator.account()?;
        account.kubeconfig(self.kubeconfig(), Some(server), &path)?;
        Ok(path)
    }

    /// A new client that may do what the operator may.
    pub async fn operator_client(&self) -> Result<Client> {
        client_by(self.operator.kubeconfig()?).await
    }

    /// The path of a kubectl.
    pub fn kubectl(&self) -> &Path {
        self.control_plane.kubectl()
    }

    /// The etcd to register in.
    pub fn registry(&self) -> &EtcdCluster {
        &self.registry
    }

    /// The servers of Kubernetes.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The folder with a log of every process, gone with the bed unless `TESTBED_KEEP=1` is in the environment.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// A folder of the bed's own, removed with it.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A new namespace `PREFIX-RANDOM`.
    pub async fn namespace(&self, prefix: &str) -> Result<Namespace> {
        Namespace::create(self.client(), prefix).await
    }

    /// The namespace of this very name, created unless it is there.
    pub async fn namespace_named(&self, name: &str) -> Result<Namespace> {
        Namespace::named(self.client(), name.to_owned()).await
    }

    /// Objects of any kind that are in no namespace, or in `default`.
    pub fn objects(&self) -> Objects {
        Objects::new(self.client(), "default")
    }

    /// Gives the operator's account the right to open readiness gates, as `rollouts.enabled` of the chart does.
    pub async fn allow_pod_status(&self) -> Result<()> {
        self.operator.allow_pod_status(self).await
    }

    /// Applies every definition in the workspace's folder `crds` and waits until the API server serves them. The operator
    /// gets its account with it, and any right back that a test has taken away.
    pub async fn apply_crds(&self) -> Result<()> {
        self.apply_crds_of(&workspace().join("crds")).await?;
        self.apply_rights_of(&workspace()).await
    }

    /// Gives the operator's account the rights that the release in the folder `tree` gives it, and no others.
    pub async fn apply_rights_of(&self, tree: &Path) -> Result<()> {
        self.operator.establish(self, tree).await
    }

    /// Applies every definition in the `*.yaml` files of a folder and waits until the API server serves them.
    pub async fn apply_crds_of(&self, folder: &Path) -> Result<()> {
        let objects = self.objects();
        let mut applied = Vec::new();
        for manifest in manifests(folder)? {
            applied.push(objects.apply(manifest).await?);
        }
        for crd in applied {
            let name = crd["metadata"]["name"].as_str().unwrap_or_default();
            let object = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", name);
            objects.wait(object, is_established, SERVED).await?;
            self.wait_watchable(&crd["spec"]).await?;
        }
        Ok(())
    }

    /// Waits until the objects of a definition can be watched. The first requests for a new kind only make the API server
    /// fill its cache; until then it turns watches away for a second, which would be measured as the operator's slowness.
    async fn wait_watchable(&self, spec: &Value) -> Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
        let path = format!("/apis/{group}/{}/{plural}", text(&spec["versions"][0]["name"]));
        let client = self.client();
        until(&format!("{path} to be watchable"), SERVED, || async {
            let watch = http::Request::get(format!("{path}?watch=1&resourceVersion=0&timeoutSeconds=1"));
            let watch = watch.body(kube::client::Body::empty()).expect("a valid request");
            let answer = client.send(watch).await.map_err(|error| error.to_string())?;
            match answer.status() {
                http::StatusCode::OK => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await
    }

    /// Applies a `Registry` for these endpoints with this default TTL in seconds.
    pub async fn create_registry(&self, name: &str, endpoints: &[String], ttl_seconds: u32) -> Result<Value> {
        let registry = json!({
            "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "Registry",
            "metadata": {"name": name},
            "spec": {"etcd": {"endpoints": endpoints}, "defaults": {"leaseTTLSeconds": ttl_seconds}},
        });
        self.objects().apply(registry).await
    }
}

/// The root of the workspace that this crate was built in.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate is two folders deep")
        .to_owned()
}

fn manifests(folder: &Path) -> Result<Vec<Value>> {
    let entries = std::fs::read_dir(folder).doing(|| format!("list the folder {}", folder.display()))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .doing(|| "list")?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut manifests = Vec::new();
    for path in files {
        manifests.extend(read_manifests(&path)?);
    }
    if manifests.is_empty() {
        return Err(Error::Invalid(format!(
            "no *.yaml in {}; generate them first",
            folder.display()
        )));
    }
    Ok(manifests)
}

/// The manifests in a file.
pub(crate) fn read_manifests(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
    serde_saphyr::from_multiple(&text)
        .map_err(|error| Error::Invalid(format!("{} is not valid YAML: {error}", path.display())))
}

fn is_established(crd: &Value) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == "Established" && one["status"] == "True")
    })
}
