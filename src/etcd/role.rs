//! The rights that the operator needs in an etcd whose authentication is on: no more than these.

use std::collections::BTreeSet;
use std::fmt;

/// The rights of one user: to read and write what lies below some prefixes, and nothing else. Leases need no right of
/// their own: etcd lets those renew a lease who may write all keys on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    prefixes: BTreeSet<String>,
}

/// The role for a Registry with this meta prefix whose registrations write below `data_prefixes`.
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
    // In this order a prefix comes right before all that it contains.
    let mut prefixes: BTreeSet<String> = BTreeSet::new();
    for prefix in all {
        if prefixes.last().is_none_or(|wider| !prefix.starts_with(wider.as_str())) {
            prefixes.insert(prefix);
        }
    }
    Role { prefixes }
}

impl Role {
    /// The prefixes that it lets be read and written, each with a slash at its end.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.prefixes.iter().map(String::as_str)
    }

    /// The lines, for etcdctl, that make the role `name`.
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
    /// The lines for a role of the operator's own name.
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
