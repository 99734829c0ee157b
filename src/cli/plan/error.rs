//! The errors of `leasehold plan`.

use std::io;
use std::path::PathBuf;

use crate::controller::{Refusal, Wrong};
use crate::etcd;
use crate::kube::{ClientError, ListingError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{} is neither YAML nor JSON: {cause}", path.display())]
    Parse { path: PathBuf, cause: String },
    #[error("{} holds a {kind}: give -f ServiceRegistrations, and --pods pods", path.display())]
    Kind { path: PathBuf, kind: String },
    #[error("{} holds a {kind} {name:?} that is not as the CRD describes it: {cause}", path.display())]
    Object {
        path: PathBuf,
        kind: &'static str,
        name: String,
        cause: String,
    },
    #[error("there is no ServiceRegistration in what -f names")]
    Nothing,
    #[error("{registration} would not be carried out: {cause}")]
    Refused { registration: String, cause: Refusal },
    #[error("{registration} is to be registered in the Registry {registry:?}, which is not there: create it first")]
    NoRegistry { registration: String, registry: String },
    #[error(
        "the namespace kube-system, whose UID names this cluster, cannot be read: give --kubeconfig a user that may"
    )]
    NoCluster,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cluster(#[from] ListingError),
    #[error("the Registry {registry:?} cannot be read: {cause}")]
    Etcd { registry: String, cause: etcd::Error },
    #[error(
        "the Registry {registry:?} cannot be entered: {cause}; the operator's namespace is given with --operator-namespace"
    )]
    Credentials { registry: String, cause: Wrong },
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}
