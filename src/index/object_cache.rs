//! A cache of namespaced objects of one kind, with the bookkeeping of their lists.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Mark, NamespaceScope, Relists};

/// The objects of one namespace, by name, each with the time of its last sighting.
type Objects<T> = HashMap<Arc<str>, (T, Mark)>;

/// The objects of one kind, by namespace and name.
#[derive(Clone, Debug)]
pub struct ObjectCache<T> {
    objects: HashMap<Arc<str>, Objects<T>>,
    relists: Relists,
}

impl<T> Default for ObjectCache<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            relists: Relists::default(),
        }
    }
}

impl<T: PartialEq> ObjectCache<T> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.objects.get(namespace)?.get(name).map(|(object, _)| object)
    }

    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &T> {
        let objects = self.objects.get(namespace).into_iter().flat_map(HashMap::values);
        objects.map(|(object, _)| object)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.objects.values().map(HashMap::len).sum()
    }

    /// Adds or updates an object. Returns whether it has changed.
    pub fn apply(&mut self, namespace: &str, name: &str, object: T) -> bool {
        let seen = self.relists.mark();
        if !self.objects.contains_key(namespace) {
            self.objects.insert(namespace.into(), HashMap::new());
        }
        let objects = self.objects.get_mut(namespace).expect("inserted if it was absent");
        match objects.get_mut(name) {
            Some((known, mark)) => {
                *mark = seen;
                let is_new = *known != object;
                *known = object;
                is_new
            }
            None => objects.insert(name.into(), (object, seen)).is_none(),
        }
    }

    /// Keeps the cached state, if any, of an object that exists but cannot be decoded.
    pub fn keep(&mut self, namespace: &str, name: &str) {
        let seen = self.relists.mark();
        if let Some((_, mark)) = self
            .objects
            .get_mut(namespace)
            .and_then(|objects| objects.get_mut(name))
        {
            *mark = seen;
        }
    }

    pub fn delete(&mut self, namespace: &str, name: &str) -> Option<T> {
        let objects = self.objects.get_mut(namespace)?;
        let deleted = objects.remove(name).map(|(object, _)| object);
        if objects.is_empty() {
            self.objects.remove(namespace);
        }
        deleted
    }

    /// Begins a complete list of the objects of `namespaces`. If a list fails, the caller begins another one.
    pub fn begin_relist(&mut self, namespaces: &NamespaceScope) {
        self.relists.begin(namespaces);
    }

    /// Ends the list of `namespaces`. Deletes and returns the objects that it did not contain.
    pub fn end_relist(&mut self, namespaces: &NamespaceScope) -> Vec<T> {
        let began = self.relists.began(namespaces);
        let mut deleted = Vec::new();
        for (_, objects) in self
            .objects
            .iter_mut()
            .filter(|(namespace, _)| namespaces.contains(namespace))
        {
            let unseen = objects.extract_if(|_, (_, mark)| mark.is_before(began));
            deleted.extend(unseen.map(|(_, (object, _))| object));
        }
        self.objects.retain(|_, objects| !objects.is_empty());
        deleted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_objects_are_a_change() {
        let mut cache = ObjectCache::default();
        assert!(cache.apply("shop", "orders", 1));
        assert!(!cache.apply("shop", "orders", 1));
        assert!(cache.apply("shop", "orders", 2));
        assert_eq!(
            (cache.get("shop", "orders"), cache.get("bank", "orders")),
            (Some(&2), None)
        );
        assert_eq!(cache.delete("shop", "orders"), Some(2));
        assert_eq!((cache.delete("shop", "orders"), cache.len()), (None, 0));
    }

    #[test]
    fn a_list_deletes_what_it_lacks_in_its_own_area() {
        let mut cache = ObjectCache::default();
        for (namespace, name) in [("shop", "a"), ("shop", "b"), ("shop", "c"), ("bank", "a")] {
            cache.apply(namespace, name, format!("{namespace}/{name}"));
        }
        let shop = NamespaceScope::namespace("shop");
        cache.begin_relist(&shop);
        cache.apply("shop", "a", "shop/a".to_owned());
        cache.keep("shop", "b");
        assert_eq!(cache.end_relist(&shop), ["shop/c"]);
        assert_eq!((cache.len(), cache.in_namespace("shop").count()), (3, 2));
    }
}
