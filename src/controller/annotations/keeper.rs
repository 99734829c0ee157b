//! Decides about the registrations of annotated Services when one of the two changes, and has the decisions written.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio::sync::mpsc;

use super::decision::{Complaint, Decision, Existing, Role, decide};
use super::kept::{Kept, KeptRegistrations};
use crate::api::{ServiceRegistration, ServiceRegistrationSpec, annotated_registry};
use crate::controller::Controller;
use crate::controller::cache::Cache;
use crate::kube::{About, Notice, RegistrationChange, RegistrationWrite, WriterCommand};
use crate::model::{LeaderFlag, RegistrationRef, fnv64};

/// The annotated Services, and the registrations that the operator keeps for them. A Service and its registration have
/// the same namespace and name.
#[derive(Debug, Default)]
pub struct AnnotatedServices {
    /// The Services that have the annotation `leasehold.dev/register`.
    annotated: BTreeSet<RegistrationRef>,
    kept: KeptRegistrations,
    /// Hashes of the complaints that were published last.
    complaints: HashMap<RegistrationRef, u64>,
    /// The registrations for which the writer may have something to do.
    asked: HashSet<RegistrationRef>,
}

impl Controller {
    /// Decides about the registration of a Service that has changed or was deleted.
    pub(in crate::controller) fn annotations_changed(&mut self, cache: &Cache, namespace: &str, name: &str) {
        let reference = RegistrationRef::new(namespace, name);
        let service = self.services.get(namespace, name);
        let registry = service.and_then(|service| annotated_registry(&service.annotations));
        if registry.is_some() {
            self.annotations.annotated.insert(reference.clone());
        } else {
            self.annotations.annotated.remove(&reference);
        }
        self.keep(cache, &reference);
    }

    /// Decides about a registration whose spec has changed if `is_new`, or whose owner may have.
    pub(in crate::controller) fn kept_observed(
        &mut self,
        cache: &Cache,
        reference: &RegistrationRef,
        object: &ServiceRegistration,
        is_new: bool,
    ) {
        if self.annotations.kept.observe(reference, object) || is_new {
            self.keep(cache, reference);
        }
    }

    /// Decides about a registration that was deleted.
    pub(in crate::controller) fn kept_gone(&mut self, cache: &Cache, reference: &RegistrationRef) {
        self.annotations.kept.remove(reference);
        self.keep(cache, reference);
    }

    /// Decides about all annotated Services and kept registrations of a Registry: this replica now leads it, or it was
    /// created or deleted.
    pub(in crate::controller) fn keep_all_of(&mut self, cache: &Cache, registry: &str) {
        let names = |reference: &&RegistrationRef| {
            let service = self.services.get(&reference.namespace, &reference.name);
            service.and_then(|service| annotated_registry(&service.annotations)) == Some(registry)
        };
        let annotated = self.annotations.annotated.iter().filter(names);
        let concerned = annotated.chain(self.annotations.kept.in_registry(registry));
        let concerned: BTreeSet<RegistrationRef> = concerned.cloned().collect();
        for reference in concerned {
            self.keep(cache, &reference);
        }
    }

    /// Decides about all annotated Services and kept registrations, once the caches are complete.
    pub(in crate::controller) fn keep_all(&mut self, cache: &Cache) {
        let annotated = self.annotations.annotated.iter();
        let all: BTreeSet<_> = annotated.chain(self.annotations.kept.names()).cloned().collect();
        for reference in all {
            self.keep(cache, &reference);
        }
    }

    /// Decides about one Service and its registration, and has the decision written.
    fn keep(&mut self, cache: &Cache, reference: &RegistrationRef) {
        let Some(writer) = self.workers.context().registration_writer.clone() else {
            return;
        };
        let is_concerned =
            self.annotations.annotated.contains(reference) || self.annotations.kept.get(reference).is_some();
        if !is_concerned {
            return self.settle(reference, &writer);
        }
        // What is not cached yet may exist.
        if !self.complete {
            return;
        }
        let service = self.services.get(&reference.namespace, &reference.name);
        let existing = match self.annotations.kept.get(reference) {
            Some(kept) => Existing::Kept {
                owner: &kept.owner,
                spec: &kept.spec,
                is_deleting: kept.is_deleting,
            },
            None if cache.entries.contains_key(reference) => Existing::OfUser,
            None => Existing::None,
        };
        let decision = decide(service, existing, |registry| self.role(registry));
        let uid = service.map(|service| service.uid.clone()).unwrap_or_default();
        let annotations = service.map(|service| service.annotations.clone()).unwrap_or_default();
        let present = self.annotations.kept.get(reference);
        let (change, registry) = match decision {
            Decision::Create(spec) | Decision::Update(spec) => {
                let registry = spec.registry_ref.name.clone();
                (RegistrationChange::Apply(spec), registry)
            }
            Decision::Delete => delete_from(present, None),
            Decision::Move(spec) => delete_from(present, Some(spec)),
            Decision::Leave => return self.settle(reference, &writer),
            Decision::Complain(complaint) => return self.complain(reference, &uid, complaint, &writer),
        };
        self.annotations.complaints.remove(reference);
        self.annotations.asked.insert(reference.clone());
        let leader = match self.role(&registry) {
            Role::Absent => LeaderFlag::raised(),
            Role::Leader | Role::Other => self.workers.leader_flag(&registry),
        };
        let write = RegistrationWrite {
            registration: reference.clone(),
            service_uid: uid,
            annotations,
            change,
            leader,
        };
        // The writer runs until the process ends.
        let _ = writer.send(WriterCommand::Wanted(write));
    }

    fn role(&self, registry: &str) -> Role {
        if !self.registries.contains_key(registry) {
            Role::Absent
        } else if self.workers.leader_flag(registry).is_set() {
            Role::Leader
        } else {
            Role::Other
        }
    }

    /// Drops what the writer may still have to do for the registration.
    fn settle(&mut self, reference: &RegistrationRef, writer: &mpsc::UnboundedSender<WriterCommand>) {
        self.annotations.complaints.remove(reference);
        self.withdraw(reference, writer);
    }

    fn withdraw(&mut self, reference: &RegistrationRef, writer: &mpsc::UnboundedSender<WriterCommand>) {
        if self.annotations.asked.remove(reference) {
            let _ = writer.send(WriterCommand::Settled(reference.clone()));
        }
    }

    /// Publishes a complaint about the annotations of the Service, once while it stays the same.
    fn complain(
        &mut self,
        reference: &RegistrationRef,
        uid: &str,
        Complaint { reason, note }: Complaint,
        writer: &mpsc::UnboundedSender<WriterCommand>,
    ) {
        self.withdraw(reference, writer);
        let hash = fnv64(&[reason, &note]);
        if self.annotations.complaints.insert(reference.clone(), hash) == Some(hash) {
            return;
        }
        tracing::warn!(service = %reference, reason, note, "the annotations are not carried out");
        self.workers.context().events.publish(Notice {
            about: About::Service(reference.clone()),
            uid: uid.into(),
            is_warning: true,
            reason,
            note,
            occurrence: format!("{hash:016x}"),
        });
    }
}

/// Returns the deletion of a registration from the Registry that it names. `next` is its spec in another Registry.
fn delete_from(present: Option<&Kept>, next: Option<Box<ServiceRegistrationSpec>>) -> (RegistrationChange, String) {
    let registry = present.map_or_else(String::new, |kept| kept.spec.registry_ref.name.clone());
    let change = RegistrationChange::DeleteFrom {
        registry: registry.clone(),
        next,
    };
    (change, registry)
}
