//! Registrations by prefix, so that those around a key are found whatever their number.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Prefix, RegistrationRef, entries_below, prefixes_around};

#[derive(Debug, Default)]
pub(super) struct ByPrefix(BTreeMap<Prefix, BTreeSet<RegistrationRef>>);

impl ByPrefix {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a registration has exactly `prefix`.
    pub fn contains(&self, prefix: &str) -> bool {
        self.0.contains_key(prefix)
    }

    /// Returns the prefixes that begin with `start`.
    pub fn beginning_with(&self, start: &str) -> impl Iterator<Item = &Prefix> {
        entries_below(&self.0, start).map(|(prefix, _)| prefix)
    }

    pub fn insert<'a>(&mut self, prefixes: impl IntoIterator<Item = &'a Prefix>, registration: &RegistrationRef) {
        for prefix in prefixes {
            let registrations = self.0.entry(prefix.clone()).or_default();
            registrations.insert(registration.clone());
        }
    }

    pub fn remove<'a>(&mut self, prefixes: impl IntoIterator<Item = &'a Prefix>, registration: &RegistrationRef) {
        for prefix in prefixes {
            if let Some(registrations) = self.0.get_mut(prefix) {
                registrations.remove(registration);
                if registrations.is_empty() {
                    self.0.remove(prefix);
                }
            }
        }
    }

    /// Returns the registrations that have a prefix around `key`. Those with several are returned as often.
    pub fn around(&self, key: &str) -> impl Iterator<Item = &RegistrationRef> {
        prefixes_around(key).filter_map(|prefix| self.0.get(prefix)).flatten()
    }

    /// Returns the registrations that have a prefix around `prefix`, or inside it.
    pub fn touching(&self, prefix: &Prefix) -> BTreeSet<&RegistrationRef> {
        let inside = entries_below(&self.0, prefix.as_str()).flat_map(|(_, registrations)| registrations);
        inside.chain(self.around(prefix.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_are_found_by_keys_and_by_prefixes_in_either_direction() {
        let of = |name: &str| RegistrationRef::new("shop", name);
        let mut index = ByPrefix::default();
        for (name, prefixes) in [("a", ["/s/", "/t/a/"]), ("b", ["/s/b/", "/t/"]), ("c", ["/sc/", "/u/"])] {
            index.insert(&prefixes.map(Prefix::below), &of(name));
        }
        let around = |index: &ByPrefix, key: &str| index.around(key).map(|of| of.name.to_string()).collect::<Vec<_>>();
        assert_eq!(around(&index, "/s/b/1"), ["a", "b"]);
        assert_eq!(around(&index, "/s/1"), ["a"]);
        assert_eq!(around(&index, "/s"), [""; 0]);
        let touching = |prefix: &str| {
            index
                .touching(&Prefix::below(prefix))
                .into_iter()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(touching("/s/"), ["a", "b"].map(of));
        assert_eq!(touching("/s/b/c/"), ["a", "b"].map(of));
        assert_eq!(touching("/t/x/"), ["b"].map(of));
        assert_eq!(touching("/"), ["a", "b", "c"].map(of));
        index.remove(&["/s/", "/t/a/"].map(Prefix::below), &of("a"));
        assert_eq!(around(&index, "/s/b/1"), ["b"]);
        index.remove(&["/s/b/", "/t/"].map(Prefix::below), &of("b"));
        index.remove(&["/sc/", "/u/"].map(Prefix::below), &of("c"));
        assert!(index.is_empty());
    }
}
