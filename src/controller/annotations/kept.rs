//! The registrations that the operator keeps for annotated Services, as last observed.

use std::collections::HashMap;

use crate::api::{ServiceRegistration, ServiceRegistrationSpec};
use crate::model::RegistrationRef;

#[derive(Debug, PartialEq)]
pub struct Kept {
    /// The UID of the Service.
    pub owner: String,
    pub spec: ServiceRegistrationSpec,
    pub is_deleting: bool,
}

/// A registration that belongs to a user is not among them.
#[derive(Debug, Default)]
pub struct KeptRegistrations(HashMap<RegistrationRef, Kept>);

impl KeptRegistrations {
    /// Adds or updates a registration, or drops it if it now belongs to a user. Returns whether anything has changed
    /// that decisions depend on.
    pub fn observe(&mut self, reference: &RegistrationRef, object: &ServiceRegistration) -> bool {
        let Some(owner) = object.owning_service() else {
            return self.remove(reference);
        };
        let is_deleting = object.metadata.deletion_timestamp.is_some();
        let is_same = |kept: &Kept| kept.owner == owner && kept.spec == object.spec && kept.is_deleting == is_deleting;
        if self.0.get(reference).is_some_and(is_same) {
            return false;
        }
        let kept = Kept {
            owner: owner.to_owned(),
            spec: object.spec.clone(),
            is_deleting,
        };
        self.0.insert(reference.clone(), kept);
        true
    }

    /// Returns whether the registration was among them.
    pub fn remove(&mut self, reference: &RegistrationRef) -> bool {
        self.0.remove(reference).is_some()
    }

    pub fn get(&self, reference: &RegistrationRef) -> Option<&Kept> {
        self.0.get(reference)
    }

    pub fn names(&self) -> impl Iterator<Item = &RegistrationRef> {
        self.0.keys()
    }

    /// Returns the registrations in this Registry.
    pub fn in_registry<'a>(&'a self, registry: &'a str) -> impl Iterator<Item = &'a RegistrationRef> {
        let all = self.0.iter();
        all.filter(move |(_, kept)| kept.spec.registry_ref.name == registry)
            .map(|(reference, _)| reference)
    }
}
