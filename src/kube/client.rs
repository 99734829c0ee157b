//! Connects to the kube-apiserver, directly or through a proxy, and reads the UID of the cluster.

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
use super::watch_clients::WatchClients;
use crate::model::Backoff;
use crate::telemetry::{Calls, Outcome, Peer};

/// The field manager of everything written to Kubernetes, and the reporting controller of Events.
pub const MANAGER: &str = "leasehold";

/// The namespace whose UID identifies a Kubernetes cluster: every cluster has it, and it cannot be deleted.
const CLUSTER_NAMESPACE: &str = "kube-system";

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Time without data after which a connection is closed and replaced, and a list has failed.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// The client for the kube-apiserver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "cannot use the kubeconfig {path}: {cause}; set --kubeconfig to a readable one, or omit it inside a cluster"
    )]
    Kubeconfig {
        /// The path given with --kubeconfig.
        path: String,
        cause: String,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error("no configuration for the kube-apiserver: {0}; set --kubeconfig, or use a service account in a cluster")]
    NoConfig(String),
    /// The configured proxy is not usable.
    #[error("cannot reach the kube-apiserver: {0}")]
    Proxy(String),
    #[error("cannot set up the connection to the kube-apiserver: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// Where the kube-apiserver is, and how to reach it.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) config: Config,
    pub(super) proxy: Option<Proxy>,
}

/// The clients for the watches of kinds, and for those of the single objects that Registries name.
pub struct Watching {
    pub kinds: WatchClients,
    pub sources: WatchClients,
}

/// Returns a client for the given kubeconfig file, or else for what the environment provides (KUBECONFIG, a service
/// account). Called within a Tokio runtime.
pub fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    Endpoint::find(kubeconfig)?.client()
}

/// Returns a client as [`connect`] does, and those for watches.
pub fn connect_and_watch(kubeconfig: Option<&Path>) -> Result<(Client, Watching), ClientError> {
    let endpoint = Endpoint::find(kubeconfig)?;
    if let Some(proxy) = &endpoint.proxy {
        info!("connecting to the kube-apiserver through {proxy}");
    }
    let client = endpoint.client()?;
    let watching = Watching {
        kinds: WatchClients::new(endpoint.clone())?,
        sources: WatchClients::new(endpoint)?,
    };
    Ok((client, watching))
}

impl Endpoint {
    fn find(kubeconfig: Option<&Path>) -> Result<Self, ClientError> {
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
                    // Inside the cluster, no proxy is used between a pod and the API server.
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
        // A connection without data for this long is dead, even in the middle of a list.
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        Ok(Self { config, proxy })
    }

    pub(super) fn client(&self) -> Result<Client, ClientError> {
        let config = self.config.clone();
        let unusable = |cause| ClientError::Client(Box::new(cause));
        let Some(proxy) = self.proxy.clone() else {
            return Client::try_from(config).map_err(unusable);
        };
        let builder = ClientBuilder::try_from(config).map_err(unusable)?;
        // The proxy may cause a failure, so each error names the proxy and where it is configured.
        let layer = MapErrLayer::new(move |cause| error_with_proxy(&proxy, &cause));
        Ok(builder.with_layer(&layer).build())
    }
}

fn error_with_proxy(proxy: &Proxy, cause: &BoxError) -> BoxError {
    let mut message = format!("through {proxy}: {cause}");
    let mut inner = cause.source();
    while let Some(next) = inner {
        message = format!("{message}: {next}");
        inner = next.source();
    }
    message.into()
}

/// Returns the configuration of the kubeconfig's current context, and the cluster of that context. kube's own
/// conversion also reads the proxy variables of the environment, which cannot be disabled.
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

/// Returns the certificates among PEM blocks. Other blocks are skipped, and nothing is trusted because of them.
fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let all = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    all.map(|certificate| certificate.to_vec()).collect()
}

/// Returns the UID of `kube-system`, which identifies the Kubernetes cluster. Retries until the API server answers: the
/// operator can do nothing without that UID.
pub async fn cluster_id(client: Client, request_timeout: Duration, calls: Calls) -> String {
    let namespaces: Api<Namespace> = Api::all(client);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    loop {
        let start = Instant::now();
        let (outcome, cause) = match timeout(request_timeout, namespaces.get(CLUSTER_NAMESPACE)).await {
            Ok(Ok(namespace)) => match namespace.metadata.uid {
                Some(uid) => {
                    calls.observe(Peer::Apiserver, "get_cluster_id", Outcome::Ok, start.elapsed());
                    return uid;
                }
                None => (Outcome::Error, "it has no UID".to_owned()),
            },
            Ok(Err(error)) => (Outcome::Error, error.to_string()),
            Err(_) => (Outcome::Timeout, format!("no answer within {request_timeout:?}")),
        };
        calls.observe(Peer::Apiserver, "get_cluster_id", outcome, start.elapsed());
        warn!(
            cause,
            "cannot read the namespace {CLUSTER_NAMESPACE}, whose UID identifies this cluster; trying again"
        );
        tokio::time::sleep(backoff.next_pause()).await;
    }
}
