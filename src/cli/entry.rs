//! Reads the credentials of a Registry's etcd for one-shot commands. The Secrets are read with the permissions of the
//! user who runs the command.

use std::collections::BTreeMap;

use crate::api::RegistrySpec;
use crate::backend::Access;
use crate::controller::{Unresolved, Wrong, resolve, sources};
use crate::kube::{Listing, ListingError};

#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The objects cannot be read.
    #[error(transparent)]
    Cluster(#[from] ListingError),
    /// The contents of the objects are not usable.
    #[error(transparent)]
    Wrong(Wrong),
}

/// Returns how to connect to the etcd of a Registry. `namespace` is the operator's own namespace, which holds the
/// Secrets.
pub async fn access(listing: &Listing, spec: &RegistrySpec, namespace: &str) -> Result<Access, Closed> {
    let mut known = BTreeMap::new();
    for source in sources(&spec.etcd) {
        let content = listing.source(namespace, &source).await?;
        known.insert(source, content);
    }
    resolve(&spec.etcd, namespace, |source| known.get(source)).map_err(|cause| match cause {
        Unresolved::Wrong(cause) => Closed::Wrong(cause),
        Unresolved::NotObserved => unreachable!("all sources were read"),
    })
}
