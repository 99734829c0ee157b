//! Applies changes of namespace labels and of Registry rules to the registrations at once.

use std::time::Instant;

use super::Controller;
use super::cache::Cache;
use crate::index::NamespaceLabels;
use crate::kube::{NAMESPACES, ObjectEvent};
use crate::model::{NamespaceScope, RegistrationRef};

impl Controller {
    pub(super) fn namespace(
        &mut self,
        cache: &mut Cache,
        namespaces: &NamespaceScope,
        seen: ObjectEvent<NamespaceLabels>,
        now: Instant,
    ) {
        match seen {
            ObjectEvent::ListBegins => self.namespaces.begin_relist(namespaces),
            ObjectEvent::Lost(_) => self.weigh(cache, now),
            ObjectEvent::Applied(namespace) => {
                let name = namespace.name.clone();
                let was_there = self.namespaces.is_there(&name);
                if self.namespaces.apply(namespace) && self.watches.is_listed(NAMESPACES, namespaces) {
                    self.judge_again(cache, |reference| *reference.namespace == *name, now);
                }
                if !was_there {
                    self.weigh(cache, now);
                }
            }
            ObjectEvent::Deleted { name, .. } => {
                let entries = &cache.entries;
                let in_use = |name: &str| entries.keys().any(|reference| *reference.namespace == *name);
                self.namespaces.delete(&name, in_use);
                self.weigh(cache, now);
            }
            // The watch has logged the error. The known labels stay in force.
            ObjectEvent::Unreadable { name, .. } => self.namespaces.keep(&name),
            ObjectEvent::ListComplete => {
                let entries = &cache.entries;
                let in_use = |name: &str| entries.keys().any(|reference| *reference.namespace == *name);
                self.namespaces.end_relist(namespaces, in_use);
                if self.watches.listed(NAMESPACES, namespaces) {
                    self.judge_again(cache, |reference| namespaces.contains(&reference.namespace), now);
                }
                self.weigh(cache, now);
            }
        }
    }

    /// Applies the changed rules of `registry` to its registrations.
    pub(super) fn rules_changed(&mut self, cache: &mut Cache, registry: &str, now: Instant) {
        for (reference, compiled) in cache.asking_for(registry) {
            // Remove the registration first, so that every pod counts as changed.
            cache.index.delete_registration(&reference);
            self.admit(cache, &reference, compiled, now);
        }
    }

    /// Applies the rules of the Registries again to the registrations for which `concerned` is true.
    fn judge_again(&mut self, cache: &mut Cache, concerned: impl Fn(&RegistrationRef) -> bool, now: Instant) {
        let is_ruled = |registry: &str| {
            let known = self.registries.get(registry);
            known.is_some_and(|known| known.spec().access.is_some())
        };
        let entries = cache.entries.iter().filter(|(reference, _)| concerned(reference));
        let newest = entries.filter_map(|(reference, entry)| Some((reference, entry.newest()?)));
        let ruled = newest.filter(|(_, compiled)| is_ruled(&compiled.registration.registry));
        let ruled: Vec<_> = ruled
            .map(|(reference, compiled)| (reference.clone(), Box::new(compiled.clone())))
            .collect();
        for (reference, compiled) in ruled {
            // Remove the registration first, so that every pod counts as changed.
            cache.index.delete_registration(&reference);
            self.admit(cache, &reference, compiled, now);
        }
    }
}
