//! Counts by key.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// How many there are of each key. A key of which there is none takes no room.
#[derive(Debug)]
pub struct Counts<K>(HashMap<K, usize>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Counts<K> {
    /// Adds one of `key`.
    pub fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    /// Removes one of `key`, if there is any.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(count) = self.0.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(key);
            }
        }
    }

    /// Removes all of `key`. Returns how many there were.
    pub fn remove_all<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).unwrap_or_default()
    }

    /// The number of `key`.
    pub fn of<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// Whether there is none of any key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of all keys together.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// The keys of which there is any, each with its number.
    pub fn iter(&self) -> impl Iterator<Item = (&K, usize)> {
        self.0.iter().map(|(key, count)| (key, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_which_there_is_none_is_dropped() {
        let mut counts = Counts::default();
        for key in ["a", "a", "b"] {
            counts.add(key);
        }
        assert_eq!((counts.of("a"), counts.of("c"), counts.total()), (2, 0, 3));
        counts.remove("a");
        counts.remove("b");
        counts.remove("b");
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(&"a", 1)]);
        assert_eq!((counts.remove_all("a"), counts.remove_all("a")), (1, 0));
        assert!(counts.is_empty());
    }
}
