//! `leasehold plan`: what applying a registration would write to etcd and remove from it.

mod error;
mod live;
mod manifests;
mod offline;
mod output;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use self::error::Error;
use self::manifests::Manifests;
use super::once;
use crate::controller::Outcome;

/// There are changes, as with diff tools.
const CHANGES: u8 = 2;

/// What to look at, and how to tell of it.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// A file of ServiceRegistrations in YAML or JSON, - for standard input; may be repeated
    ///
    /// It may hold RecordFormats, which are then used as if they were applied. With --pods it may hold the Registry
    /// too, whose TTL, limits and rules are then used, and Namespaces, whose labels the rules look at.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Ask nobody: take these pods, as from kubectl get pods -o json, and an etcd that holds nothing of ours
    #[arg(long, value_name = "FILE", conflicts_with = "kubeconfig")]
    pub pods: Option<PathBuf>,

    /// The namespace of registrations that name none
    ///
    /// Left out, the one that the kubeconfig names; with --pods that of the pods, if they are all in one.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// The kubeconfig file of the cluster
    ///
    /// Without it, the file that KUBECONFIG names is used, or ~/.kube/config, or inside a cluster the pod's service
    /// account.
    #[arg(long, env = "LEASEHOLD_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// The operator's own namespace, where the Secrets and ConfigMaps are that the Registry names
    #[arg(long, env = "LEASEHOLD_NAMESPACE", value_name = "NAME", default_value = "leasehold")]
    pub operator_namespace: String,

    /// How the plan is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// How a plan is printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A line for each key, for people
    Text,
    /// One JSON object, for programs
    Json,
}

/// What was found out.
struct Plan {
    /// One for each registration, in the order of the files.
    outcomes: Vec<Outcome>,
    /// With what was compared.
    compared: Compared,
}

/// What the plan was held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// The Registry's etcd.
    Etcd,
    /// Nothing: an etcd that is empty.
    Nothing,
}

/// Prints what would change. Success when nothing would, 2 when something would, 1 when that cannot be told.
pub fn plan(args: &PlanArgs) -> ExitCode {
    let printed = find(args).and_then(|plan| print(&plan, args.output, &mut io::stdout().lock()).map(|()| plan));
    match printed {
        Ok(plan) if plan.outcomes.iter().any(Outcome::changes_anything) => ExitCode::from(CHANGES),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn find(args: &PlanArgs) -> Result<Plan, Error> {
    let manifests = Manifests::read(&args.files)?;
    if let Some(pods) = &args.pods {
        return offline::find(manifests, pods, args.namespace.as_deref());
    }
    let found = live::find(
        manifests,
        args.kubeconfig.as_deref(),
        args.namespace.as_deref(),
        &args.operator_namespace,
    );
    once::wait_for(found).map_err(Error::Runtime)?
}

fn print(plan: &Plan, output: Output, out: &mut impl Write) -> Result<(), Error> {
    let text = match output {
        Output::Text => output::text(plan),
        Output::Json => output::json(plan),
    };
    once::write(&text, out).map_err(Error::Output)
}

#[cfg(test)]
mod tests;
