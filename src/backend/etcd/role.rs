//! The minimal permissions of the operator in an etcd with authentication.

use std::collections::BTreeSet;
use std::fmt;

/// The permissions of one user: readwrite below some prefixes, and nothing else. Leases need no permission: etcd lets a
/// user renew a lease if the user may write all its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    prefixes: BTreeSet<String>,
}

/// Returns the role for a Registry with this meta prefix whose registrations write below `data_prefixes`.
pub fn role<I>(meta_prefix: &str, data_prefixes: I) -> Role
where
    I: IntoIterator<Item: AsRef<str>>,
{
    let bounded = |prefix: &str| format!("{}/", prefix.trim_end_matches('/'));
    let mut all: BTreeSet<String> = data_prefixes
        .into_iter()
        .map(|prefix| bounded(prefix.as_ref()))
        .collect();
    all.insert(bounded(meta_prefix));
    // In this order a prefix comes directly before all prefixes that it contains.
    let mut prefixes: BTreeSet<String> = BTreeSet::new();
    for prefix in all {
        if prefixes.last().is_none_or(|wider| !prefix.starts_with(wider.as_str())) {
            prefixes.insert(prefix);
        }
    }
    Role { prefixes }
}

impl Role {
    /// Returns the granted prefixes, each with a trailing slash.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.prefixes.iter().map(String::as_str)
    }

    /// Returns the etcdctl commands that create the role as `name`.
    pub fn etcdctl(&self, name: &str) -> Vec<String> {
        let grants = self
            .prefixes()
            .map(|prefix| format!("etcdctl role grant-permission {name} --prefix=true readwrite {prefix}"));
        std::iter::once(format!("etcdctl role add {name}"))
            .chain(grants)
            .collect()
    }
}

impl fmt::Display for Role {
    /// Writes the commands for a role named `leasehold`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.etcdctl("leasehold").join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_readwrite_on_each_prefix_once() {
        let role = role("/leasehold/", ["/services", "/services/shop/", "/services-old/", "/a/"]);
        assert_eq!(
            role.to_string(),
            "etcdctl role add leasehold\n\
             etcdctl role grant-permission leasehold --prefix=true readwrite /a/\n\
             etcdctl role grant-permission leasehold --prefix=true readwrite /leasehold/\n\
             etcdctl role grant-permission leasehold --prefix=true readwrite /services-old/\n\
             etcdctl role grant-permission leasehold --prefix=true readwrite /services/"
        );
    }
}
