//! How the kube-apiserver is reached, by a proxy or directly, and which cluster it serves.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::client::ClientBuilder;
use kube::config::{Cluster, ExecAuthCluster, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::{Instant, timeout};
use tower::util::MapErrLayer;
use tracing::{info, warn};

use super::proxy::{Proxy, proxy};

use crate::telemetry::{Calls, Outcome, Peer};

/// The field manager and user agent of everything written to Kubernetes.
pub const MANAGER: &str = "leasehold";

/// The namespace whose UID names a Kubernetes cluster: it exists in every one and cannot be deleted.
const CLUSTER_NAMESPACE: &str = "kube-system";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a connection may be silent: it is closed then, and another one is made.
const SILENCE: Duration = Duration::from_secs(30);

/// The kube-apiserver cannot be set up as a peer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig file is not usable.
    #[error(
        "cannot use the kubeconfig {path}: {cause}; give a readable one with --kubeconfig, or none inside a cluster"
    )]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Neither a kubeconfig nor a service account is there.
    #[error("no way to the kube-apiserver: {0}; give --kubeconfig, or run with a service account inside a cluster")]
    NoConfig(String),
    /// A proxy is to be used that cannot be.
    #[error("cannot reach the kube-apiserver: {0}")]
    Proxy(String),
    /// The configuration is not usable.
    #[error("cannot set up the connection to the kube-apiserver: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// A client by the given kubeconfig file, or else by what the environment provides (KUBECONFIG, a service account).
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let (mut config, proxy_url) = match kubeconfig {
        Some(path) => {
            let unusable = |cause: KubeconfigError| ClientError::Kubeconfig {
                path: path.display().to_string(),
                cause: cause.to_string(),
            };
            let (config, cluster) = Kubeconfig::read_from(path).and_then(by_file).map_err(unusable)?;
            (config, Some(cluster.proxy_url))
        }
        None => match Kubeconfig::read().and_then(by_file) {
            Ok((mut config, cluster)) => {
                config.apply_debug_overrides();
                (config, Some(cluster.proxy_url))
            }
            Err(no_file) => {
                let no_config = |no_account| ClientError::NoConfig(format!("{no_file}; {no_account}"));
                // Inside the cluster there is no proxy between a pod and the apiserver.
                (Config::incluster().map_err(no_config)?, None)
            }
        },
    };
    let proxy = match proxy_url {
        None => None,
        Some(proxy_url) => proxy(&config.cluster_url, proxy_url.as_deref(), |name| {
            std::env::var(name).ok()
        })
        .map_err(|unusable| ClientError::Proxy(unusable.to_string()))?,
    };
    config.proxy_url = proxy.as_ref().map(|proxy| proxy.url.clone());
    config.connect_timeout = Some(Duration::from_secs(5));
    // Longer than any watch lasts: whatever has said nothing for so long is dead, be it in the midst of a list.
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    let unusable = |cause| ClientError::Client(Box::new(cause));
    let Some(proxy) = proxy else {
        return Client::try_from(config).map_err(unusable);
    };
    info!("the kube-apiserver is asked through {proxy}");
    let builder = ClientBuilder::try_from(config).map_err(unusable)?;
    // What fails may be the proxy's fault: whoever reads that should know that there is one, and who says so.
    let layer = MapErrLayer::new(move |cause| told_with(&proxy, &cause));
    Ok(builder.with_layer(&layer).build())
}

fn told_with(proxy: &Proxy, cause: &BoxError) -> BoxError {
    let mut told = format!("through {proxy}: {cause}");
    let mut inner = cause.source();
    while let Some(next) = inner {
        told = format!("{told}: {next}");
        inner = next.source();
    }
    told.into()
}

/// The configuration that a kubeconfig describes in its current context, and the cluster of that. kube's own way from the
/// one to the other reads the variables of proxies, too, and cannot be told not to.
fn by_file(file: Kubeconfig) -> Result<(Config, Cluster), KubeconfigError> {
    let name = file.current_context.ok_or(KubeconfigError::CurrentContextNotSet)?;
    let context = file.contexts.into_iter().find(|context| context.name == name);
    let context = context.and_then(|context| context.context);
    let context = context.ok_or(KubeconfigError::LoadContext(name))?;
    let cluster = file
        .clusters
        .into_iter()
        .find(|cluster| cluster.name == context.cluster);
    let cluster = cluster.and_then(|cluster| cluster.cluster);
    let cluster = cluster.ok_or(KubeconfigError::LoadClusterOfContext(context.cluster))?;
    let user = file
        .auth_infos
        .into_iter()
        .find(|user| Some(&user.name) == context.user.as_ref());
    let mut user = user.and_then(|user| user.auth_info).unwrap_or_default();
    let described = ExecAuthCluster::try_from(&cluster)?;
    let server = cluster.server.clone().ok_or(KubeconfigError::MissingClusterUrl)?;
    let mut config = Config::new(server.parse().map_err(KubeconfigError::ParseClusterUrl)?);
    config.root_cert = described.certificate_authority_data.as_deref().map(certificates);
    if let Some(exec) = user.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        exec.cluster = Some(described);
    }
    config.auth_info = user;
    config.default_namespace = context.namespace.unwrap_or(config.default_namespace);
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    Ok((config, cluster))
}

/// The certificates in PEM blocks; what is none is passed over, and nothing is trusted for it.
fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let all = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    all.map(|certificate| certificate.to_vec()).collect()
}

/// The UID that names the Kubernetes cluster. Asks until it is told: without it nothing can be done.
pub async fn cluster_id(client: Client, patience: Duration, calls: Calls) -> String {
    let namespaces: Api<Namespace> = Api::all(client);
    let mut pause = Duration::from_millis(200);
    loop {
        let start = Instant::now();
        let (outcome, cause) = match timeout(patience, namespaces.get(CLUSTER_NAMESPACE)).await {
            Ok(Ok(namespace)) => match namespace.metadata.uid {
                Some(uid) => {
                    calls.observe(Peer::Apiserver, "get_cluster_id", Outcome::Ok, start.elapsed());
                    return uid;
                }
                None => (Outcome::Error, "it has no UID".to_owned()),
            },
            Ok(Err(error)) => (Outcome::Error, error.to_string()),
            Err(_) => (Outcome::Timeout, format!("no answer within {patience:?}")),
        };
        calls.observe(Peer::Apiserver, "get_cluster_id", outcome, start.elapsed());
        warn!(
            cause,
            "cannot read the namespace {CLUSTER_NAMESPACE}, whose UID names this cluster; trying again"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
