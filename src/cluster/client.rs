//! How the kube-apiserver is reached, and which cluster it serves.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::telemetry::{Calls, Outcome, Peer};

/// The field manager and user agent of everything written to Kubernetes.
pub const MANAGER: &str = "leasehold";

/// The namespace whose UID names a Kubernetes cluster: it exists in every one and cannot be deleted.
const CLUSTER_NAMESPACE: &str = "kube-system";

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
    /// The configuration is not usable.
    #[error("cannot set up the connection to the kube-apiserver: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// A client by the given kubeconfig file, or else by what the environment provides (KUBECONFIG, a service account).
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let unusable = |cause: kube::config::KubeconfigError| ClientError::Kubeconfig {
                path: path.display().to_string(),
                cause: cause.to_string(),
            };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?
        }
        None => Config::infer()
            .await
            .map_err(|cause| ClientError::NoConfig(cause.to_string()))?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    // Longer than any watch lasts: whatever has said nothing for so long is dead, be it in the midst of a list.
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|cause| Box::new(cause).into())
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
