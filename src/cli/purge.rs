//! `leasehold purge`: removes the keys that the operator registered from etcd, at once instead of when their lease
//! expires.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kube::ResourceExt;
use tokio::time::timeout;

use super::entry::{Closed, access};
use super::once;
use crate::api::Registry;
use crate::controller::{Purge, PurgeError};
use crate::kube::Listing;
use crate::telemetry::Calls;

/// The time-out for answers of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of keys that are shown before the confirmation prompt.
const SHOWN: usize = 20;

/// Which keys to remove.
#[derive(Args, Clone, Debug)]
pub struct PurgeArgs {
    /// The Registry whose keys are removed; may be repeated. All Registries of the cluster by default
    #[arg(long = "registry", value_name = "NAME")]
    pub registries: Vec<String>,

    /// Only the Registries of this class, or those without a class if NAME is empty
    #[arg(long, value_name = "NAME", conflicts_with = "registries")]
    pub class: Option<String>,

    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,

    /// Remove the keys even if an operator is leading. It registers them again as soon as it notices
    #[arg(long)]
    pub force: bool,

    /// How long to wait for a leading operator to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u32,

    /// The operator's own namespace, with the Secrets and ConfigMaps that the Registries refer to
    #[arg(long, env = "LEASEHOLD_NAMESPACE", value_name = "NAME", default_value = "leasehold")]
    pub operator_namespace: String,

    /// The kubeconfig file of the cluster
    ///
    /// Defaults to the file in KUBECONFIG, then ~/.kube/config, then, inside a cluster, the pod's service account.
    #[arg(long, env = "LEASEHOLD_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] crate::kube::ClientError),
    #[error(
        "cannot read the namespace kube-system, whose UID identifies this cluster: check that the kube-apiserver is reachable and that you may get this namespace"
    )]
    NoCluster,
    #[error(transparent)]
    Registries(#[from] crate::kube::ListingError),
    #[error("there is no Registry {name}; the cluster has: {has}")]
    NoRegistry { name: String, has: String },
    #[error("Registry {registry}: {cause}")]
    Purge { registry: String, cause: PurgeError },
    #[error("no usable credentials for the etcd of Registry {registry}: {cause}")]
    Closed { registry: String, cause: Closed },
    #[error("cannot ask for confirmation, because standard input is not a terminal: confirm with --yes")]
    NoAnswer,
    #[error("no more keys were removed: the answer was not yes")]
    Declined,
    #[error("cannot read or write the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// Removes the keys that this cluster registered, after confirmation. Succeeds when no such key is left, except for
/// keys that another client has changed meanwhile.
pub fn purge(args: &PurgeArgs) -> ExitCode {
    match once::wait_for(Box::pin(all(args))).map_err(Error::Terminal).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn all(args: &PurgeArgs) -> Result<(), Error> {
    let client = crate::kube::connect(args.kubeconfig.as_deref())?;
    let cluster_id = crate::kube::cluster_id(client.clone(), PATIENCE, Calls::default());
    let cluster_id = timeout(PATIENCE, cluster_id).await.map_err(|_| Error::NoCluster)?;
    let listing = Listing::new(client);
    let registries = listing.registries().await?;
    let names: Vec<String> = registries.iter().map(ResourceExt::name_any).collect();
    if let Some(name) = args.registries.iter().find(|name| !names.contains(name)) {
        return Err(Error::NoRegistry {
            name: name.clone(),
            has: names.join(", "),
        });
    }
    let wanted = |name: &String, registry: &Registry| {
        let class = registry.spec.class.as_deref().unwrap_or_default();
        let is_of_class = args.class.as_ref().is_none_or(|wanted| wanted == class);
        is_of_class && (args.registries.is_empty() || args.registries.contains(name))
    };
    let all = names.iter().zip(&registries);
    for (name, registry) in all.filter(|(name, registry)| wanted(name, registry)) {
        let of = |cause| Error::Purge {
            registry: name.clone(),
            cause,
        };
        let patience = Duration::from_secs(args.wait.into());
        let closed = |cause| Error::Closed {
            registry: name.clone(),
            cause,
        };
        let access = access(&listing, &registry.spec, &args.operator_namespace)
            .await
            .map_err(closed)?;
        let found = Purge::find(&cluster_id, name, (registry, &access), patience, args.force)
            .await
            .map_err(of)?;
        if found.is_empty() {
            println!("Registry {name}: nothing to remove");
            continue;
        }
        if !args.yes {
            ask(name, &found)?;
        }
        let purged = found.carry_out().await.map_err(of)?;
        println!("Registry {name}: {} keys removed", purged.keys);
        if purged.left > 0 {
            println!(
                "Registry {name}: {} keys were changed by another client in the meantime and left unchanged",
                purged.left
            );
        }
    }
    Ok(())
}

/// Shows the keys to remove, and asks for confirmation.
fn ask(registry: &str, found: &Purge) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let count = found.keys().len();
    writeln!(out, "Registry {registry}: {count} keys of this cluster found")?;
    for key in found.keys().take(SHOWN) {
        writeln!(out, "  {key}")?;
    }
    if count > SHOWN {
        writeln!(out, "  ... and {} more", count - SHOWN)?;
    }
    if !io::stdin().is_terminal() {
        return Err(Error::NoAnswer);
    }
    write!(out, "Consumers lose these keys at once. Remove them? Type yes: ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        Ok(())
    } else {
        Err(Error::Declined)
    }
}
