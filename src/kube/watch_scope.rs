//! The namespaces that are watched, and the watch targets that follow from them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{NamespaceScope, WatchTarget};

/// Names of the watched resources.
pub const PODS: &str = "pods";
pub const REGISTRATIONS: &str = "serviceregistrations";
pub const REGISTRIES: &str = "registries";
pub const RECORD_FORMATS: &str = "recordformats";
pub const NAMESPACES: &str = "namespaces";
pub const SERVICES: &str = "services";
/// Those that Kubernetes' own controller does not write.
pub const ENDPOINT_SLICES: &str = "endpointslices";
pub const NODES: &str = "nodes";
/// Resources with one watch per namespace scope. For Namespace objects, that watch is limited to the one name.
const OF_NAMESPACES: [&str; 5] = [PODS, REGISTRATIONS, NAMESPACES, SERVICES, ENDPOINT_SLICES];
/// Cluster-scoped resources with one watch for the whole cluster.
const OF_CLUSTER: [&str; 3] = [REGISTRIES, RECORD_FORMATS, NODES];

/// The watched namespaces: all, or a list. Each kind of `OF_NAMESPACES` has one watch for the whole cluster with "all",
/// and one watch for each namespace with a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchScope(Arc<[NamespaceScope]>);

impl Default for WatchScope {
    fn default() -> Self {
        Self(Arc::new([NamespaceScope::Cluster]))
    }
}

impl WatchScope {
    /// Maximum number of listed namespaces: each costs five watches, and each watch a connection.
    pub const MOST: usize = 50;

    /// Watches these namespaces, or all if the list is empty.
    pub fn of(namespaces: &[String]) -> Self {
        if namespaces.is_empty() {
            return Self::default();
        }
        let scopes: BTreeSet<NamespaceScope> = namespaces.iter().map(|name| NamespaceScope::namespace(name)).collect();
        Self(scopes.into_iter().collect())
    }

    pub fn scopes(&self) -> &[NamespaceScope] {
        &self.0
    }

    /// Returns the names of the listed namespaces; empty if all are watched.
    pub fn namespaces(&self) -> BTreeSet<Arc<str>> {
        self.0.iter().filter_map(NamespaceScope::name).map(Arc::from).collect()
    }

    /// Returns all watch targets.
    pub fn targets(&self) -> impl Iterator<Item = WatchTarget> {
        let of_cluster = OF_CLUSTER.into_iter().map(WatchTarget::of_cluster);
        let in_area =
            |namespaces: &NamespaceScope| OF_NAMESPACES.map(|kind| WatchTarget::new(kind, namespaces.clone()));
        of_cluster.chain(self.0.iter().flat_map(in_area))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(namespaces: &[&str]) -> Vec<String> {
        let names: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
        WatchScope::of(&names).targets().map(String::from).collect()
    }

    #[test]
    fn without_a_list_of_namespaces_every_kind_has_one_stream() {
        assert_eq!(
            targets(&[]),
            [
                "registries",
                "recordformats",
                "nodes",
                "pods",
                "serviceregistrations",
                "namespaces",
                "services",
                "endpointslices"
            ]
        );
    }

    #[test]
    fn each_namespace_that_is_named_has_streams_of_its_own_once() {
        assert_eq!(
            targets(&["shop", "bank", "shop"]),
            [
                "registries",
                "recordformats",
                "nodes",
                "pods/bank",
                "serviceregistrations/bank",
                "namespaces/bank",
                "services/bank",
                "endpointslices/bank",
                "pods/shop",
                "serviceregistrations/shop",
                "namespaces/shop",
                "services/shop",
                "endpointslices/shop",
            ]
        );
    }
}
