//! Key prefixes: what is listed and watched as a whole, and what of a map or a set lies below one.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// A key prefix that is listed and watched as a whole. It always ends in `/`, so that `orders/` never includes
/// `orders-v2/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Returns the prefix of all keys below `prefix`. Adds a missing `/` at the end.
    pub fn below(prefix: &str) -> Self {
        if prefix.ends_with('/') {
            Self(prefix.into())
        } else {
            Self(format!("{prefix}/").into())
        }
    }

    /// Returns the prefix as text, which ends in `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` starts with this prefix.
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&*self.0)
    }
}

impl Borrow<str> for Prefix {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Returns the prefixes that contain `key`, the outermost first, each with its trailing slash. A key that is a prefix is
/// among them.
pub fn prefixes_around(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(slash, _)| &key[..=slash])
}

/// How a set of prefixes changes. Applied in this order: a prefix that is in both was removed and added again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixChanges {
    pub removed: Vec<Prefix>,
    pub added: Vec<Prefix>,
}

impl PrefixChanges {
    /// Returns the changes that add `prefixes`.
    pub fn add(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        Self {
            removed: Vec::new(),
            added: prefixes.into_iter().collect(),
        }
    }
}

/// Returns the entries of `map` below `prefix`, and that of `prefix` itself. The others cost nothing.
pub fn entries_below<'a, K: Borrow<str> + Ord, V>(
    map: &'a BTreeMap<K, V>,
    prefix: &str,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let behind = map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    behind.take_while(move |(key, _)| (*key).borrow().starts_with(prefix))
}

/// Returns the elements of `set` below `prefix`, and `prefix` itself if it is one. The others cost nothing.
pub fn elements_below<'a, K: Borrow<str> + Ord>(set: &'a BTreeSet<K>, prefix: &str) -> impl Iterator<Item = &'a K> {
    let behind = set.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    behind.take_while(move |element| (*element).borrow().starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_below_a_prefix_are_found_among_those_around_it() {
        let keys = ["/a", "/a/", "/a/b", "/a/b/c", "/a0", "/b/"].map(Arc::<str>::from);
        let set = BTreeSet::from(keys);
        let map: BTreeMap<_, _> = set.iter().map(|key| (key.clone(), key.len())).collect();
        let found: Vec<&str> = elements_below(&set, "/a/").map(|key| &**key).collect();
        assert_eq!(found, ["/a/", "/a/b", "/a/b/c"]);
        let found: Vec<(&str, usize)> = entries_below(&map, "/a/b")
            .map(|(key, length)| (&**key, *length))
            .collect();
        assert_eq!(found, [("/a/b", 4), ("/a/b/c", 6)]);
        assert_eq!(elements_below(&set, "/c/").count(), 0);
    }
}
