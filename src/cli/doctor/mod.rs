//! `leasehold doctor`: diagnoses present and likely problems and suggests fixes. Its only write is a lease that it
//! grants in etcd and lets expire.

mod finding;
mod kubernetes;
mod registry;
mod releases;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use self::finding::{Chapter, Grade};
use super::once;
use super::plan::Output;
use crate::kube::{ClientError, Features, Listing, ListingError, WatchScope};

/// The exit code when there are problems.
const PROBLEMS: u8 = 2;

/// What to examine, and how to print the findings.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The kubeconfig file of the cluster
    ///
    /// Defaults to the file in KUBECONFIG, then ~/.kube/config, then, inside a cluster, the pod's service account.
    #[arg(long, env = "LEASEHOLD_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// The operator's service account, whose permissions are checked, as NAMESPACE/NAME
    ///
    /// Defaults to the user who runs this command, which is right inside the operator's pod. To check another account,
    /// the user needs permission to create subjectaccessreviews.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = account)]
    pub service_account: Option<String>,

    /// The namespaces that the operator watches, separated by commas, as in its own flag; all namespaces by default
    #[arg(
        long,
        env = "LEASEHOLD_WATCH_NAMESPACES",
        value_name = "NAMESPACES",
        value_delimiter = ',',
        value_parser = super::identity::namespace
    )]
    pub watch_namespaces: Vec<String>,

    /// Check only this Registry
    #[arg(long, value_name = "NAME")]
    pub registry: Option<String>,

    /// The operator's own namespace, with the Secrets and ConfigMaps that the Registries refer to
    #[arg(long, env = "LEASEHOLD_NAMESPACE", value_name = "NAME", default_value = "leasehold")]
    pub operator_namespace: String,

    /// Also check the permissions that `leasehold run --metrics-auth` needs
    #[arg(
        long,
        env = "LEASEHOLD_METRICS_AUTH",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub metrics_auth: bool,

    /// Also check the permission that `leasehold run --readiness-gate-max-wait` needs
    #[arg(
        long,
        env = "LEASEHOLD_READINESS_GATE_MAX_WAIT",
        value_name = "SECONDS",
        value_parser = super::flags::max_wait
    )]
    pub readiness_gate_max_wait: Option<Duration>,

    /// Also check the permissions that `leasehold run --service-annotations` needs, which is the default there
    #[arg(
        long,
        env = "LEASEHOLD_SERVICE_ANNOTATIONS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub service_annotations: bool,

    /// Print only the least-privilege role that the operator's user needs in the etcd of --registry, as etcdctl
    /// commands
    ///
    /// The role covers the prefixes of the present registrations: update it when others are added.
    #[arg(long, requires = "registry")]
    pub etcd_role: bool,

    /// The output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cluster(#[from] ListingError),
    #[error("there is no Registry {0:?}: use a name from kubectl get registries")]
    NoRegistry(String),
    #[error("cannot start the async runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Parses NAMESPACE/NAME and returns the user name of the service account.
fn account(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(format!("system:serviceaccount:{namespace}:{name}"))
        }
        _ => Err("write it as NAMESPACE/NAME, such as leasehold/leasehold".to_owned()),
    }
}

/// Prints the findings. Exits with success if there is no problem, with 2 if there is one, with 1 on an error.
pub fn doctor(args: &DoctorArgs) -> ExitCode {
    if args.etcd_role {
        return match role(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    match find(args).and_then(|chapters| print(&chapters, args.output).map(|()| finding::worst(&chapters))) {
        Ok(Grade::Problem) => ExitCode::from(PROBLEMS),
        Ok(Grade::Well | Grade::Warning) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn find(args: &DoctorArgs) -> Result<Vec<Chapter>, Error> {
    once::wait_for(examine(args)).map_err(Error::Runtime)?
}

/// Prints the least-privilege role for one Registry.
fn role(args: &DoctorArgs) -> Result<(), Error> {
    let role = once::wait_for(async {
        let client = crate::kube::connect(args.kubeconfig.as_deref())?;
        let listing = Listing::new(client);
        let watch_scope = WatchScope::of(&args.watch_namespaces);
        registry::role(&listing, args.registry.as_deref().unwrap_or_default(), &watch_scope).await
    });
    let role = role.map_err(Error::Runtime)??;
    write(&format!("{role}\n"))
}

async fn examine(args: &DoctorArgs) -> Result<Vec<Chapter>, Error> {
    let client = crate::kube::connect(args.kubeconfig.as_deref())?;
    let watch_scope = WatchScope::of(&args.watch_namespaces);
    let mut chapters = vec![Chapter {
        about: "Kubernetes".to_owned(),
        findings: kubernetes::examine(
            &client,
            args.service_account.as_deref(),
            &watch_scope,
            Features {
                metrics_auth: args.metrics_auth,
                service_annotations: args.service_annotations,
                readiness_gates: args.readiness_gate_max_wait.is_some(),
            },
        )
        .await,
    }];
    chapters.extend(
        registry::examine(
            &Listing::new(client),
            args.registry.as_deref(),
            &args.operator_namespace,
            &watch_scope,
        )
        .await,
    );
    Ok(chapters)
}

fn print(chapters: &[Chapter], output: Output) -> Result<(), Error> {
    let text = match output {
        Output::Text => finding::text(chapters),
        Output::Json => finding::json(chapters),
    };
    write(&text)
}

fn write(text: &str) -> Result<(), Error> {
    once::write(text, &mut io::stdout().lock()).map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_named_by_its_namespace_and_its_name() {
        let name = account("leasehold/operator");
        assert_eq!(name.as_deref(), Ok("system:serviceaccount:leasehold:operator"));
        for wrong in ["operator", "/operator", "leasehold/", "a/b/c"] {
            assert!(account(wrong).is_err(), "{wrong}");
        }
    }
}
