//! `leasehold doctor`: what keeps leasehold from working, or soon may, and what to do about it. It changes nothing but for
//! a lease that it has etcd grant and lets lapse.

mod finding;
mod kubernetes;
mod registry;
mod releases;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use self::finding::{Chapter, Grade};
use super::once;
use super::plan::Output;
use crate::kube::{ClientError, Listing, ListingError, WatchScope};

/// There are problems.
const PROBLEMS: u8 = 2;

/// Whom to examine, and how to tell of it.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The kubeconfig file of the cluster
    ///
    /// Without it, the file that KUBECONFIG names is used, or ~/.kube/config, or inside a cluster the pod's service
    /// account.
    #[arg(long, env = "LEASEHOLD_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Whose rights to look at: the operator's service account, as NAMESPACE/NAME
    ///
    /// Left out, those of whoever asks, which is right inside the operator's pod. To ask about somebody else, one needs
    /// the right to create subjectaccessreviews.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = account)]
    pub service_account: Option<String>,

    /// The namespaces that the operator watches, separated by commas, as it is told; all when none is named
    #[arg(
        long,
        env = "LEASEHOLD_WATCH_NAMESPACES",
        value_name = "NAMESPACES",
        value_delimiter = ',',
        value_parser = super::identity::namespace
    )]
    pub watch_namespaces: Vec<String>,

    /// Look at this Registry only
    #[arg(long, value_name = "NAME")]
    pub registry: Option<String>,

    /// The operator's own namespace, where the Secrets and ConfigMaps are that the Registries name
    #[arg(long, env = "LEASEHOLD_NAMESPACE", value_name = "NAME", default_value = "leasehold")]
    pub operator_namespace: String,

    /// Look also at the rights that `leasehold run --metrics-auth` needs
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

    /// Print the least role that the operator's user needs in the etcd of --registry, as lines for etcdctl, and nothing
    /// else
    ///
    /// It covers what present registrations write: grant it anew when others come.
    #[arg(long, requires = "registry")]
    pub etcd_role: bool,

    /// How the findings are printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// Why there is no examination.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cluster(#[from] ListingError),
    #[error("there is no Registry {0:?}: name one that kubectl get registries shows")]
    NoRegistry(String),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// A service account's name as a user.
fn account(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(format!("system:serviceaccount:{namespace}:{name}"))
        }
        _ => Err("write it as NAMESPACE/NAME, such as leasehold/leasehold".to_owned()),
    }
}

/// Prints what is found. Success when there is no problem, 2 when there is one, 1 when that cannot be told.
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

/// Prints the least role for one Registry.
fn role(args: &DoctorArgs) -> Result<(), Error> {
    let role = once::wait_for(async {
        let client = crate::kube::connect(args.kubeconfig.as_deref()).await?;
        let listing = Listing::new(client);
        let watch_scope = WatchScope::of(&args.watch_namespaces);
        registry::role(&listing, args.registry.as_deref().unwrap_or_default(), &watch_scope).await
    });
    let role = role.map_err(Error::Runtime)??;
    write(&format!("{role}\n"))
}

async fn examine(args: &DoctorArgs) -> Result<Vec<Chapter>, Error> {
    let client = crate::kube::connect(args.kubeconfig.as_deref()).await?;
    let watch_scope = WatchScope::of(&args.watch_namespaces);
    let mut chapters = vec![Chapter {
        about: "Kubernetes".to_owned(),
        findings: kubernetes::examine(
            &client,
            args.service_account.as_deref(),
            &watch_scope,
            args.metrics_auth,
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
        let told = account("leasehold/operator");
        assert_eq!(told.as_deref(), Ok("system:serviceaccount:leasehold:operator"));
        for wrong in ["operator", "/operator", "leasehold/", "a/b/c"] {
            assert!(account(wrong).is_err(), "{wrong}");
        }
    }
}
