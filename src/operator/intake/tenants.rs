//! Namespaces as their labels change, and Registries as their rules do: what either allows is in force at once.

use std::time::Instant;

use super::Intake;
use crate::cluster::Seen;
use crate::index::{RegistrationRef, Tenant};

impl Intake {
    pub(super) fn namespace(&mut self, seen: Seen<Tenant>, now: Instant) {
        match seen {
            Seen::ListBegins => self.tenants.begin_relist(),
            Seen::Lost(_) => {}
            Seen::Applied(tenant) => {
                let name = tenant.name.clone();
                if self.tenants.apply(tenant) && self.listed.namespaces {
                    self.judge_anew(|reference| *reference.namespace == *name, now);
                }
            }
            Seen::Deleted { name, .. } => {
                let entries = &self.entries;
                let in_use = |name: &str| entries.keys().any(|reference| *reference.namespace == *name);
                self.tenants.delete(&name, in_use);
            }
            // The watch has said so; what is known of it stays in force.
            Seen::Unreadable { name, .. } => self.tenants.keep(&name),
            Seen::ListComplete => {
                let entries = &self.entries;
                let in_use = |name: &str| entries.keys().any(|reference| *reference.namespace == *name);
                self.tenants.end_relist(in_use);
                if !std::mem::replace(&mut self.listed.namespaces, true) {
                    self.judge_anew(|_| true, now);
                }
                self.listed_one();
            }
        }
    }

    /// The rules of `registry` have changed.
    pub(super) fn rules_changed(&mut self, registry: &str, now: Instant) {
        for (reference, compiled) in self.asking_for(registry) {
            // Forgotten first, so that every pod of it counts as changed.
            self.index.delete_registration(&reference);
            self.admit(&reference, compiled, now);
        }
    }

    /// Holds the registrations that are `concerned` against the rules of their Registries again, where there are any.
    fn judge_anew(&mut self, concerned: impl Fn(&RegistrationRef) -> bool, now: Instant) {
        let is_ruled = |registry: &str| {
            let known = self.registries.get(registry);
            known.is_some_and(|known| known.spec().access.is_some())
        };
        let entries = self.entries.iter().filter(|(reference, _)| concerned(reference));
        let newest = entries.filter_map(|(reference, entry)| Some((reference, entry.newest()?)));
        let ruled = newest.filter(|(_, compiled)| is_ruled(&compiled.registration.registry));
        let ruled: Vec<_> = ruled
            .map(|(reference, compiled)| (reference.clone(), Box::new(compiled.clone())))
            .collect();
        for (reference, compiled) in ruled {
            // Forgotten first, so that every pod of it counts as changed.
            self.index.delete_registration(&reference);
            self.admit(&reference, compiled, now);
        }
    }
}
