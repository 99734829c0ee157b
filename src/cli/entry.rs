//! The way into a Registry's etcd for commands that look once: what is in the Secrets that it names is read with the rights
//! of whoever asks.

use std::collections::BTreeMap;

use crate::api::RegistrySpec;
use crate::controller::{Unresolved, Wrong, resolve, sources};
use crate::etcd::Access;
use crate::kube::{Listing, ListingError};

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The objects cannot be read.
    #[error(transparent)]
    Cluster(#[from] ListingError),
    /// What is in them is of no use.
    #[error(transparent)]
    Wrong(Wrong),
}

/// How the etcd of a Registry is entered whose Secrets lie in `namespace`, the operator's own.
pub async fn access(listing: &Listing, spec: &RegistrySpec, namespace: &str) -> Result<Access, Closed> {
    let mut known = BTreeMap::new();
    for source in sources(spec) {
        let content = listing.source(namespace, &source).await?;
        known.insert(source, content);
    }
    resolve(spec, namespace, |source| known.get(source)).map_err(|cause| match cause {
        Unresolved::Wrong(cause) => Closed::Wrong(cause),
        Unresolved::Unheard => unreachable!("all sources were asked for"),
    })
}
