//! Programs written in Go: the Kubernetes control plane, kwok, helm, promtool, etcdctl, etcdutl, toxiproxy and traefik, built
//! from the modules pinned in `tools/`.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use super::{cache_folder, cached, last_words, pins};
use crate::error::{Doing, Error, Result};

/// A program that the bed builds for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The API server.
    KubeApiserver,
    /// Deployments, EndpointSlices, namespaces, garbage collection.
    KubeControllerManager,
    /// Binds pods to nodes.
    KubeScheduler,
    /// For people, and for tests of what people see.
    Kubectl,
    /// The kubelet of simulated nodes.
    Kwok,
    /// For people who look into the registration etcd.
    Etcdctl,
    /// Turns a snapshot of an etcd into a member's data.
    Etcdutl,
    /// A bad network between programs.
    Toxiproxy,
    /// Renders and installs charts.
    Helm,
    /// Evaluates alerts as Prometheus does.
    Promtool,
    /// A proxy that finds its servers in the registration etcd.
    Traefik,
}

/// How a tool is built.
struct Recipe {
    name: &'static str,
    /// Folder of its go.mod below `tools/`.
    module: &'static str,
    package: &'static str,
    link: &'static str,
    /// Build tags, separated by commas.
    tags: &'static str,
    /// Seconds on a cold machine of two cores, to tell a person who waits.
    usually: u32,
}

/// Without these the server calls itself v0.0.0-master.
const KUBERNETES_VERSION: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
     -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";

/// The folder of the go.mod that pins the oldest supported release.
const OLDEST_MODULE: &str = "kubernetes-1.31";

/// The version that this release calls itself.
const OLDEST_VERSION: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.31.14 \
     -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=31";

/// Without these helm takes the cluster of a chart that is only rendered for one of Kubernetes 1.20.
const HELM_KUBERNETES: &str = "-s -w -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
     -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36 -X helm.sh/helm/v3/internal/version.version=v3.21.4";

impl Tool {
    /// Those of every bed and of the people who use one, slowest build first. The others are built when a test
    /// wants them.
    pub const ALL: [Self; 6] = [
        Self::KubeApiserver,
        Self::Kwok,
        Self::KubeControllerManager,
        Self::Kubectl,
        Self::Etcdctl,
        Self::KubeScheduler,
    ];

    fn recipe(self) -> Recipe {
        let kubernetes = |name, package, usually| Recipe {
            name,
            module: "",
            package,
            link: KUBERNETES_VERSION,
            tags: "",
            usually,
        };
        let plain = |name, package, usually| Recipe {
            name,
            module: name,
            package,
            link: "-s -w",
            tags: "",
            usually,
        };
        match self {
            Self::KubeApiserver => kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 300),
            Self::KubeControllerManager => kubernetes(
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                90,
            ),
            Self::KubeScheduler => kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 10),
            Self::Kubectl => kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl", 45),
            Self::Kwok => plain("kwok", "sigs.k8s.io/kwok/cmd/kwok", 145),
            Self::Etcdctl => plain("etcdctl", "go.etcd.io/etcd/etcdctl/v3", 20),
            Self::Etcdutl => plain("etcdutl", "go.etcd.io/etcd/etcdutl/v3", 40),
            Self::Toxiproxy => plain("toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server", 15),
            Self::Helm => Recipe {
                link: HELM_KUBERNETES,
                ..plain("helm", "helm.sh/helm/v3/cmd/helm", 90)
            },
            Self::Promtool => Recipe {
                // Without the clients of all clouds that Prometheus finds its targets in.
                tags: "remove_all_sd",
                ..plain("promtool", "github.com/prometheus/prometheus/cmd/promtool", 160)
            },
            Self::Traefik => plain("traefik", "github.com/traefik/traefik/v3/cmd/traefik", 400),
        }
    }

    /// An error that says how to install Go when there is none to build a tool with. Fast, so that a person learns it
    /// before anything long begins.
    pub fn check_go() -> Result<()> {
        match Command::new("go").arg("version").output() {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(no_go("the Kubernetes control plane")),
            _ => Ok(()),
        }
    }

    /// Whether [`Tool::binary`] would return at once.
    pub fn is_built(self) -> Result<bool> {
        let recipe = self.recipe();
        Ok(recipe.given().is_some()
            || cache_folder()?
                .join("tools")
                .join(recipe.folder()?)
                .join(recipe.name)
                .exists())
    }

    /// The program's path: out of `KUBEBUILDER_ASSETS` when that folder holds it, else out of the cache, built first when
    /// it is not there. Blocks, for minutes when it builds, and says so on stderr.
    pub fn binary(self) -> Result<PathBuf> {
        let recipe = self.recipe();
        if let Some(given) = recipe.given() {
            return Ok(given);
        }
        cached(&recipe.folder()?, recipe.name, |to| build(&recipe, to))
    }
}

impl Recipe {
    /// The program in the folder `KUBEBUILDER_ASSETS`, if it holds it.
    fn given(&self) -> Option<PathBuf> {
        let given = Path::new(&std::env::var_os("KUBEBUILDER_ASSETS")?).join(self.name);
        given.is_file().then_some(given)
    }

    /// Where its go.mod is.
    fn module(&self) -> PathBuf {
        pins().join(self.module)
    }

    /// The folder in the cache: another one for every change of the pins.
    fn folder(&self) -> Result<String> {
        let mut pin = Vec::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.module().join(file);
            pin.extend(fs::read(&path).doing(|| format!("read {}", path.display()))?);
        }
        let hash = xxhash_rust::xxh3::xxh3_64(&pin);
        let name = if self.module.is_empty() {
            "kubernetes"
        } else {
            self.module
        };
        Ok(format!("{name}-{hash:016x}"))
    }
}

/// kube-apiserver of the oldest Kubernetes that the operator supports: out of the cache, built first when it is not there.
/// Blocks, for minutes when it builds, and says so on stderr.
pub fn oldest_kube_apiserver() -> Result<PathBuf> {
    let recipe = Recipe {
        name: "kube-apiserver",
        module: OLDEST_MODULE,
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
        link: OLDEST_VERSION,
        tags: "",
        usually: 600,
    };
    // Not out of KUBEBUILDER_ASSETS: a file there does not say which release it is.
    cached(&recipe.folder()?, recipe.name, |to| build(&recipe, to))
}

fn no_go(purpose: &str) -> Error {
    Error::MissingTool {
        tool: "go",
        purpose: format!("build {purpose}"),
        install: "`sudo apt-get install golang-go` or `brew install go` (1.21 or newer: it fetches the toolchain that \
                  go.mod names by itself)",
    }
}

fn build(recipe: &Recipe, to: &Path) -> Result<()> {
    let Recipe {
        name,
        package,
        link,
        tags,
        usually,
        ..
    } = recipe;
    eprintln!(
        "testbed: building {name} from its pinned Go module, once (usually up to {usually} s on two cores, cold)"
    );
    compile(name, &recipe.module(), None, package, (link, tags), to)
}

/// Builds `package` of the Go module in a folder, for a program that goes by `name`, with these flags for the linker, these
/// build tags, and `modfile` in place of its go.mod.
pub(super) fn compile(
    name: &str,
    module: &Path,
    modfile: Option<&str>,
    package: &str,
    (link, tags): (&str, &str),
    to: &Path,
) -> Result<()> {
    let begin = Instant::now();
    let output = Command::new("go")
        .args(["build", "-trimpath", "-tags", tags, "-ldflags", link, "-o"])
        .arg(to)
        .args(modfile.map(|file| format!("-modfile={file}")))
        .arg(package)
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .output();
    let output = match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(no_go(name));
        }
        output => output.doing(|| "run go")?,
    };
    if !output.status.success() {
        return Err(Error::Build {
            tool: name.to_owned(),
            command: format!("cd {} && CGO_ENABLED=0 go build {package}", module.display()),
            output: last_words(&output.stderr),
        });
    }
    eprintln!("testbed: built {name} in {} s", begin.elapsed().as_secs());
    Ok(())
}
