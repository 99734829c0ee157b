//! `leasehold plan`: what applying a registration or a Registry would write to etcd and remove from it.

mod error;
mod live;
mod manifests;
mod offline;
mod output;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use kube::ResourceExt;

use self::error::Error;
use self::manifests::Manifests;
use super::once;
use crate::api::ServiceRegistration;
use crate::controller::{Outcome, Refusal};
use crate::model::RegistrationRef;

/// The exit code when there are changes, as with diff tools.
const CHANGES: u8 = 2;

/// What to plan, and how to print the plan.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// A file with ServiceRegistrations, annotated Services or Registries in YAML or JSON, or - for standard input; may be repeated
    ///
    /// Services with the annotation leasehold.dev/register count as the ServiceRegistrations that the operator keeps for
    /// them. It may contain RecordFormats and Registries, which are used as if they were applied. For a Registry,
    /// the plan shows each registration in the cluster whose keys would differ from those in etcd. With --pods it may also contain Namespaces, whose
    /// labels the access rules of the Registry match.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Offline mode: read pods from FILE, as printed by kubectl get pods -o json, and assume that etcd has none of our
    /// keys
    #[arg(long, value_name = "FILE", conflicts_with = "kubeconfig")]
    pub pods: Option<PathBuf>,

    /// The namespace of registrations without a namespace
    ///
    /// Defaults to the namespace in the kubeconfig. With --pods, defaults to the namespace of the pods if they all have
    /// the same one.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// The kubeconfig file of the cluster
    ///
    /// Defaults to the file in KUBECONFIG, then ~/.kube/config, then, inside a cluster, the pod's service account.
    #[arg(long, env = "LEASEHOLD_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// The operator's own namespace, with the Secrets and ConfigMaps that the Registry refers to
    #[arg(long, env = "LEASEHOLD_NAMESPACE", value_name = "NAME", default_value = "leasehold")]
    pub operator_namespace: String,

    /// The output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// The output format.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// One line per key, for people
    Text,
    /// One JSON object, for programs
    Json,
}

struct Plan {
    /// One outcome per registration, in the order of the files; then those registrations in the cluster that a Registry in
    /// the files changes.
    outcomes: Vec<Outcome>,
    /// The registrations in the cluster that the operator would reject because of a Registry in the files, each with the
    /// cause.
    refused: Vec<(RegistrationRef, Refusal)>,
    /// The Registries in the files whose etcd has other settings than the present one, which was read.
    other_etcd: Vec<String>,
    compared: Compared,
}

impl Plan {
    fn changes_anything(&self) -> bool {
        !self.refused.is_empty() || self.outcomes.iter().any(Outcome::changes_anything)
    }
}

/// The state that the plan is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// The Registry's etcd.
    Etcd,
    /// An empty etcd (offline mode).
    Nothing,
}

/// Prints the plan. Exits with success if nothing would change, with 2 if something would, with 1 on an error.
pub fn plan(args: &PlanArgs) -> ExitCode {
    let printed = find(args).and_then(|plan| print(&plan, args.output, &mut io::stdout().lock()).map(|()| plan));
    match printed {
        Ok(plan) if plan.changes_anything() => ExitCode::from(CHANGES),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn find(args: &PlanArgs) -> Result<Plan, Error> {
    let manifests = Manifests::read(&args.files)?;
    let namespace = args.namespace.as_deref();
    let found = async {
        match &args.pods {
            Some(pods) => Box::pin(offline::find(manifests, pods, namespace)).await,
            None => {
                live::find(
                    manifests,
                    args.kubeconfig.as_deref(),
                    namespace,
                    &args.operator_namespace,
                )
                .await
            }
        }
    };
    once::wait_for(found).map_err(Error::Runtime)?
}

fn print(plan: &Plan, output: Output, out: &mut impl Write) -> Result<(), Error> {
    let text = match output {
        Output::Text => output::text(plan),
        Output::Json => output::json(plan),
    };
    once::write(&text, out).map_err(Error::Output)
}

fn reference(registration: &ServiceRegistration) -> RegistrationRef {
    RegistrationRef::new(registration.namespace().unwrap_or_default(), registration.name_any())
}

#[cfg(test)]
mod tests;
