//! Which namespaces are watched, and the streams of news that this makes.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::index::NamespaceScope;
use crate::plan::WatchTarget;

/// The kinds that are watched, by the names of their resources.
pub const PODS: &str = "pods";
/// See [`PODS`].
pub const REGISTRATIONS: &str = "serviceregistrations";
/// See [`PODS`].
pub const REGISTRIES: &str = "registries";
/// See [`PODS`].
pub const RECORD_FORMATS: &str = "recordformats";
/// See [`PODS`].
pub const NAMESPACES: &str = "namespaces";
/// Those of which each namespace has its own: the last one has only itself.
const OF_NAMESPACES: [&str; 3] = [PODS, REGISTRATIONS, NAMESPACES];
/// Those that are in no namespace.
const OF_CLUSTER: [&str; 2] = [REGISTRIES, RECORD_FORMATS];

/// The namespaces that are watched: all, or some. Wherever there is one stream of news for the whole cluster, there is
/// one for each namespace otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchScope(Arc<[NamespaceScope]>);

impl Default for WatchScope {
    fn default() -> Self {
        Self(Arc::new([NamespaceScope::Cluster]))
    }
}

impl WatchScope {
    /// The most namespaces that are watched one by one: each costs three streams, and each of those a connection.
    pub const MOST: usize = 50;

    /// These namespaces, or all where none is named.
    pub fn of(namespaces: &[String]) -> Self {
        if namespaces.is_empty() {
            return Self::default();
        }
        let areas: BTreeSet<NamespaceScope> = namespaces.iter().map(|name| NamespaceScope::namespace(name)).collect();
        Self(areas.into_iter().collect())
    }

    /// The areas that are watched, each on its own.
    pub fn areas(&self) -> &[NamespaceScope] {
        &self.0
    }

    /// All streams of news.
    pub fn streams(&self) -> impl Iterator<Item = WatchTarget> {
        let of_cluster = OF_CLUSTER.into_iter().map(WatchTarget::of_cluster);
        let in_area = |area: &NamespaceScope| OF_NAMESPACES.map(|kind| WatchTarget::new(kind, area.clone()));
        of_cluster.chain(self.0.iter().flat_map(in_area))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(namespaces: &[&str]) -> Vec<String> {
        let names: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
        WatchScope::of(&names).streams().map(String::from).collect()
    }

    #[test]
    fn without_a_list_of_namespaces_every_kind_has_one_stream() {
        assert_eq!(
            streams(&[]),
            [
                "registries",
                "recordformats",
                "pods",
                "serviceregistrations",
                "namespaces"
            ]
        );
    }

    #[test]
    fn each_namespace_that_is_named_has_streams_of_its_own_once() {
        assert_eq!(
            streams(&["shop", "bank", "shop"]),
            [
                "registries",
                "recordformats",
                "pods/bank",
                "serviceregistrations/bank",
                "namespaces/bank",
                "pods/shop",
                "serviceregistrations/shop",
                "namespaces/shop",
            ]
        );
    }
}
