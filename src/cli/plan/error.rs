//! The errors of `leasehold plan`.

use std::io;
use std::path::PathBuf;

use crate::backend::etcd;
use crate::controller::{Refusal, Wrong};
use crate::kube::{ClientError, ListingError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{} is neither YAML nor JSON: {cause}", path.display())]
    Parse { path: PathBuf, cause: String },
    #[error("{} contains a {kind}: -f takes leasehold's kinds, Namespaces, Services and EndpointSlices; --pods takes pods, Services, EndpointSlices and nodes", path.display())]
    Kind { path: PathBuf, kind: String },
    #[error("{}: the {kind} {name:?} does not match its schema: {cause}", path.display())]
    Object {
        path: PathBuf,
        kind: &'static str,
        name: String,
        cause: String,
    },
    #[error(
        "the files that -f names contain no ServiceRegistration, no Service with the annotation leasehold.dev/register, and without --pods no Registry"
    )]
    Nothing,
    #[error("the Service {service:?} has annotations that the operator would not carry out: {problems}")]
    Annotations { service: String, problems: String },
    #[error(
        "a user's ServiceRegistration has the name of the Service {service:?}, so the operator would not carry out the annotation leasehold.dev/register: remove one of the two"
    )]
    Taken { service: String },
    #[error("the operator would reject {registration}: {cause}")]
    Refused { registration: String, cause: Refusal },
    #[error("{registration} uses the Registry {registry:?}, which does not exist: create it first")]
    NoRegistry { registration: String, registry: String },
    #[error(
        "cannot read the namespace kube-system, whose UID identifies this cluster: check that the kube-apiserver is reachable and that you may get this namespace"
    )]
    NoCluster,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cluster(#[from] ListingError),
    #[error("cannot read the keys in the etcd of Registry {registry:?}: {cause}")]
    Etcd { registry: String, cause: etcd::Error },
    #[error(
        "no usable credentials for the etcd of Registry {registry:?}: {cause}; set --operator-namespace to the namespace of its Secrets"
    )]
    Credentials { registry: String, cause: Wrong },
    #[error("cannot start the async runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}
