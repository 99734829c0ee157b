//! Which registrations are carried out, and what is said to those that are not.
//!
//! A registration whose new spec cannot be carried out keeps what it had: bad input loses nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{Intake, Order, record_formats};
use crate::api::{Reason, ServiceRegistration};
use crate::cluster::{About, DeskNote, Insistence, Notice, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, Seen};
use crate::format::FormatError;
use crate::index::{Area, Mark, RegistrationRef};
use crate::operator::compile::{Compiled, Invalid, Reserved, compile, reference};
use crate::operator::registrar::Version;
use crate::plan::{Holding, Scope, Subject, refused_status};

/// One registration.
#[derive(Debug)]
pub struct Entry {
    /// The object that was looked at last.
    uid: String,
    /// Its generation.
    generation: i64,
    /// The list that it was last seen in.
    list: Mark,
    /// The object, if another RecordFormat may make something else of it.
    kept: Option<Arc<ServiceRegistration>>,
    /// Its spec in force.
    in_force: Option<Box<Compiled>>,
    /// Its newest spec, while it is not in force.
    pending: Option<Box<Compiled>>,
    /// Why the newest spec is not in force.
    refusal: Option<Refusal>,
    /// Its newest spec, while that reaches into the bookkeeping of a Registry.
    reserved: Option<Box<Compiled>>,
}

impl Entry {
    /// The object, if it uses a RecordFormat and could be read.
    pub fn kept(&self) -> Option<&Arc<ServiceRegistration>> {
        self.kept.as_ref()
    }

    /// The reason why the newest spec is not in force.
    #[cfg(test)]
    pub fn refusal(&self) -> Option<&'static str> {
        self.refusal.as_ref().map(|refusal| refusal.reason.as_str())
    }

    /// The spec that is carried out.
    pub fn in_force(&self) -> Option<&Compiled> {
        self.in_force.as_deref()
    }

    /// The newest spec that may be carried out.
    pub fn newest(&self) -> Option<&Compiled> {
        self.pending.as_deref().or(self.in_force())
    }
}

/// Why a registration is not carried out.
#[derive(Clone, Debug)]
struct Refusal {
    reason: Reason,
    message: String,
}

impl Refusal {
    fn reserved(reserved: &Reserved) -> Self {
        let Reserved {
            scope,
            registry,
            meta_prefix,
        } = reserved;
        let message = format!(
            "The prefix {} and the metaPrefix {meta_prefix} of the Registry \"{registry}\" overlap: use a prefix outside of \
             it.",
            scope.prefix()
        );
        Self {
            reason: Reason::PrefixReserved,
            message,
        }
    }
}

impl Intake {
    pub(super) fn registration(&mut self, area: &Area, seen: Seen<Box<ServiceRegistration>>, now: Instant) {
        match seen {
            Seen::ListBegins => self.registration_lists.begin(area),
            Seen::Lost(_) => self.weigh(now),
            Seen::Applied(object) => self.registration_applied(&object, now),
            Seen::Deleted { namespace, name } => {
                self.registration_gone(&RegistrationRef::new(namespace, name));
                self.tell_unclear();
            }
            Seen::Unreadable {
                namespace,
                name,
                generation,
                cause,
            } => {
                let reference = RegistrationRef::new(namespace, name);
                let message = format!("This object cannot be read: {cause}. Apply it again as the CRD describes it.");
                // Our own status is a change of the object, too.
                if !self.mark(&reference, String::new(), generation) {
                    return;
                }
                self.refuse(
                    &reference,
                    generation,
                    None,
                    Refusal {
                        reason: Reason::InvalidSpec,
                        message,
                    },
                );
                self.tell_unclear();
            }
            Seen::ListComplete => {
                let began = self.registration_lists.began(area);
                let listed = self
                    .entries
                    .iter()
                    .filter(|(reference, _)| area.contains(&reference.namespace));
                let gone = listed.filter(|(_, entry)| entry.list.is_before(began));
                let gone: Vec<RegistrationRef> = gone.map(|(reference, _)| reference.clone()).collect();
                for reference in gone {
                    self.registration_gone(&reference);
                }
                self.tell_unclear();
                self.streams.listed(REGISTRATIONS, area);
                self.weigh(now);
            }
        }
    }

    /// Notes that the registration is there; returns whether this version of it is new.
    fn mark(&mut self, reference: &RegistrationRef, uid: String, generation: i64) -> bool {
        let list = self.registration_lists.mark();
        let entry = self.entries.entry(reference.clone()).or_insert_with(|| Entry {
            uid: String::new(),
            generation: 0,
            list,
            kept: None,
            in_force: None,
            pending: None,
            refusal: None,
            reserved: None,
        });
        entry.list = list;
        let is_new = (entry.uid != uid) || (entry.generation != generation);
        (entry.uid, entry.generation) = (uid, generation);
        if is_new {
            entry.refusal = None;
            entry.reserved = None;
            entry.kept = None;
        }
        is_new
    }

    fn registration_applied(&mut self, object: &ServiceRegistration, now: Instant) {
        let reference = reference(object);
        let seen = DeskNote::Seen(reference.clone(), object.status.clone());
        // The desk ends only with the process.
        let _ = self.staff.context().registrations.send(seen);
        let generation = object.metadata.generation.unwrap_or_default();
        if !self.mark(&reference, object.uid().unwrap_or_default(), generation) {
            return;
        }
        self.entries.get_mut(&reference).expect("it was marked").kept = record_formats::kept(object);
        self.examine(&reference, object, now);
        self.tell_unclear();
    }

    /// Carries a registration out with the RecordFormats that there are now, or says why not.
    pub(super) fn examine(&mut self, reference: &RegistrationRef, object: &ServiceRegistration, now: Instant) {
        let entry = self.entries.get_mut(reference).expect("it was marked");
        match compile(object, self.library.formats()) {
            Ok(compiled) => {
                entry.refusal = None;
                self.admit(reference, Box::new(compiled), now);
            }
            // It may be in the list that is on its way: `examine_waiting` comes back to this.
            Err(Invalid::Format(FormatError::NoRecordFormat(_)))
                if !self.streams.is_listed(RECORD_FORMATS, &Area::Cluster) => {}
            Err(invalid) => {
                let generation = object.metadata.generation.unwrap_or_default();
                let refusal = Refusal {
                    reason: invalid.reason(),
                    message: format!("{invalid}."),
                };
                self.refuse(reference, generation, None, refusal);
            }
        }
    }

    /// Puts a spec in force, or says why it cannot be.
    pub(super) fn admit(&mut self, reference: &RegistrationRef, mut compiled: Box<Compiled>, now: Instant) {
        let registration = &compiled.registration;
        let (registry, generation) = (registration.registry.clone(), registration.generation);
        let created = registration.created;
        let Some(known) = self.registries.get(&registry) else {
            if !self.streams.is_listed(REGISTRIES, &Area::Cluster) {
                // It may be in the list that is on its way: `admit_pending` comes back to this.
                self.entries.get_mut(reference).expect("it was marked").pending = Some(compiled);
                return;
            }
            let refusal = Refusal {
                reason: Reason::RegistryNotFound,
                message: format!(
                    "There is no Registry \"{registry}\": create it, or name another one in a new registration."
                ),
            };
            return self.refuse(reference, generation, Some(compiled), refusal);
        };
        let reserved = self.reserved(&compiled);
        let was_reserved = compiled.frozen || self.entries[reference].reserved.is_some();
        compiled.frozen = reserved.is_some();
        let entry = self.entries.get_mut(reference).expect("it was marked");
        entry.reserved = None;
        if let Some(reserved) = &reserved {
            let refusal = Refusal::reserved(reserved);
            let is_in_force = entry.in_force().is_some_and(|in_force| {
                let (former, newest) = (&in_force.registration, &compiled.registration);
                (&former.uid, former.generation) == (&newest.uid, newest.generation)
            });
            if !is_in_force || reserved.registry == registry {
                entry.reserved = Some(compiled);
                return self.refuse(reference, generation, None, refusal);
            }
            // What came first keeps what it has elsewhere, and changes nothing any more.
            tracing::warn!(registration = %reference, generation, message = refusal.message, "frozen");
            entry.refusal = Some(refusal);
        } else if was_reserved {
            entry.refusal = None;
        }
        // Whatever stood aside is looked at like the rest.
        compiled.stand_aside(&[]);
        let mut verdict = compiled.submit(known.spec(), &self.tenants);
        if let Some(Reserved {
            registry, meta_prefix, ..
        }) = reserved
        {
            let bookkeeping = Scope::below(&format!("{meta_prefix}{}", self.staff.context().cluster_id));
            verdict.forbidden.push(compiled.keep_out(bookkeeping, registry));
        }
        if let Some(denial) = &verdict.denial {
            tracing::warn!(registration = %reference, generation, %registry, denial, "not allowed to register all of this");
        }
        let concerned = self
            .neighbours
            .settle(reference, created, &registry, compiled.readings());
        compiled.stand_aside(&self.neighbours.aside(reference));
        for (_, aside) in &compiled.aside {
            tracing::warn!(registration = %reference, generation, reason = %aside.reason, "a format stands aside");
        }
        let (terms, aside) = (compiled.terms(known.spec()), compiled.told_aside());
        let registration = &compiled.registration;
        tracing::info!(registration = %reference, generation, %registry, service = %registration.service, "carrying out");
        let entry = &self.entries[reference];
        let rewritten = |former: &Compiled| former.registration == *registration && former.outlets != compiled.outlets;
        if entry.in_force().is_some_and(rewritten) {
            // A RecordFormat has changed, of which the index knows nothing: forgotten first, so that every pod counts as
            // changed.
            self.index.delete_registration(reference);
        }
        let touches = self.index.apply_registration(registration.clone());
        let rule = Order::Rule {
            registration: reference.clone(),
            verdict,
        };
        let register = Order::Register {
            registration: reference.clone(),
            terms,
            service: registration.service.clone(),
            version: Version {
                uid: registration.uid.clone(),
                generation,
            },
            selected: self.index.selected_count(reference),
            aside,
        };
        let entry = self.entries.get_mut(reference).expect("it was marked");
        let former = entry.in_force.replace(compiled);
        if entry.pending.take().is_some() {
            entry.refusal = None;
        }
        // Of a newer spec, while this older one is handed to another registrar or under other terms.
        let refused = entry.refusal.clone().map(|refusal| (entry.generation, refusal));
        self.unclear.remove(reference);
        if let Some(former) = former.filter(|former| former.registration.registry != registry) {
            // Deleted and created anew in another Registry, between two lists.
            self.staff
                .order(&former.registration.registry, Order::Remove(reference.clone()));
        }
        self.staff.order(&registry, Order::Together(vec![register, rule]));
        if let Some((generation, refusal)) = refused {
            let order = Order::refuse(reference, generation, refusal.reason, refusal.message);
            self.staff.order(&registry, order);
        }
        self.forward(touches, now);
        self.look_again(&concerned, now);
    }

    /// Which Registry's bookkeeping a registration would reach into.
    fn reserved(&self, compiled: &Compiled) -> Option<Reserved> {
        let registries = self.registries.iter();
        compiled.reserved(registries.map(|(name, known)| (&**name, known.spec())))
    }

    /// A Registry came, went, or keeps its bookkeeping elsewhere: registrations that reach into the bookkeeping of one are
    /// judged again, whichever Registry they ask for.
    pub(super) fn judge_reserved(&mut self, now: Instant) {
        let mut concerned = Vec::new();
        for (reference, entry) in &self.entries {
            if let Some(newest) = &entry.reserved {
                if self.reserved(newest).is_none() {
                    concerned.push((reference.clone(), newest.clone()));
                }
            } else if let Some(in_force) = &entry.in_force
                && self.reserved(in_force).is_some() != in_force.frozen
            {
                concerned.push((reference.clone(), in_force.clone()));
            }
        }
        for (reference, compiled) in concerned {
            // Forgotten first, so that every pod of it counts as changed.
            self.index.delete_registration(&reference);
            self.admit(&reference, compiled, now);
        }
        self.tell_unclear();
    }

    /// Lets formats of registrations in force stand aside or come back, as their neighbours have it by now.
    fn look_again(&mut self, concerned: &BTreeSet<RegistrationRef>, now: Instant) {
        for reference in concerned {
            let aside = self.neighbours.aside(reference);
            let Some(entry) = self.entries.get_mut(reference) else {
                continue;
            };
            let Some(compiled) = entry.in_force.clone() else {
                continue;
            };
            if compiled.aside.iter().map(|(_, aside)| aside).eq(&aside) {
                continue;
            }
            // A newer spec that waits goes on waiting.
            let pending = entry.pending.take();
            // Forgotten first, so that every pod of it counts as changed.
            self.index.delete_registration(reference);
            self.admit(reference, compiled, now);
            self.entries.get_mut(reference).expect("it is in force").pending = pending;
        }
    }

    /// A registration is not carried out any more: what stood aside for its sake comes back.
    fn leaves_its_neighbours(&mut self, reference: &RegistrationRef, now: Instant) {
        let concerned = self.neighbours.leave(reference);
        self.look_again(&concerned, now);
    }

    /// Says why the newest spec of a registration is not carried out. What is in force stays.
    fn refuse(
        &mut self,
        reference: &RegistrationRef,
        generation: i64,
        pending: Option<Box<Compiled>>,
        refusal: Refusal,
    ) {
        let Refusal { reason, message } = refusal;
        tracing::warn!(registration = %reference, generation, reason = reason.as_str(), %message, "not carrying out");
        let entry = self.entries.get_mut(reference).expect("it was marked");
        entry.refusal = Some(Refusal {
            reason,
            message: message.clone(),
        });
        let uid = &entry.uid;
        let mut concerned = BTreeSet::new();
        let of_another = |former: &mut Box<Compiled>| !uid.is_empty() && *former.registration.uid != **uid;
        if let Some(former) = entry.in_force.take_if(of_another) {
            // Deleted and created anew between two lists: what is in force is a deleted object's.
            self.index.delete_registration(reference);
            let order = Order::Remove(reference.clone());
            self.staff.order(&former.registration.registry, order);
            concerned = self.neighbours.leave(reference);
        }
        if pending.is_none() && entry.in_force.is_none() {
            self.unclear.insert(reference.clone());
        }
        let service = pending.as_ref().map(|compiled| compiled.registration.service.clone());
        entry.pending = pending;
        let uid: Arc<str> = entry.uid.as_str().into();
        if let Some(in_force) = &entry.in_force {
            let order = Order::refuse(reference, generation, reason, message);
            return self.staff.order(&in_force.registration.registry, order);
        }
        let subject = Subject {
            generation,
            service: service.as_deref().unwrap_or(&reference.name),
            registry: "",
            selected: 0,
            holding: &Holding::Undecided,
            aside: &[],
        };
        // There is no registrar and thus no leader for it: every replica says the same, which is one Event.
        self.staff.context().events.publish(Notice {
            about: About::Registration(reference.clone()),
            uid,
            is_warning: true,
            reason: reason.as_str(),
            note: message.clone(),
            occurrence: generation.to_string(),
        });
        let status = refused_status(reason, &message, subject, &Time(Timestamp::now()));
        let note = DeskNote::Wanted(reference.clone(), status, Insistence::Once);
        let _ = self.staff.context().registrations.send(note);
        self.look_again(&concerned, Instant::now());
    }

    fn registration_gone(&mut self, reference: &RegistrationRef) {
        let _ = self
            .staff
            .context()
            .registrations
            .send(DeskNote::Gone(reference.clone()));
        self.index.delete_registration(reference);
        self.unclear.remove(reference);
        let Some(entry) = self.entries.remove(reference) else {
            return;
        };
        tracing::info!(registration = %reference, "deleted");
        if let Some(in_force) = entry.in_force {
            let order = Order::Remove(reference.clone());
            self.staff.order(&in_force.registration.registry, order);
        }
        self.leaves_its_neighbours(reference, Instant::now());
    }

    /// A Registry is there or has changed: what asks for it is looked at again.
    pub(super) fn admit_all(&mut self, registry: &str, now: Instant) {
        for (reference, compiled) in self.asking_for(registry) {
            self.admit(&reference, compiled, now);
        }
        self.tell_unclear();
    }

    /// All Registries are known: what still waits for one waits for one that does not exist.
    pub(super) fn admit_pending(&mut self, now: Instant) {
        let waiting =
            |(reference, entry): (&RegistrationRef, &Entry)| Some((reference.clone(), entry.pending.clone()?));
        let waiting: Vec<_> = self.entries.iter().filter_map(waiting).collect();
        for (reference, compiled) in waiting {
            self.admit(&reference, compiled, now);
        }
        self.tell_unclear();
    }

    /// The registrar of a Registry has nothing yet: it is told everything, as after a restart.
    pub(super) fn hand_over(&mut self, registry: &Arc<str>, now: Instant) {
        self.staff.order(registry, Order::SomeAreUnclear(self.some_are_unclear));
        self.staff
            .order(registry, Order::KubernetesIsOutdated(self.outdated.clone()));
        for (reference, compiled) in self.asking_for(registry) {
            // Forgotten first, so that every pod of it counts as changed.
            self.index.delete_registration(&reference);
            self.admit(&reference, compiled, now);
        }
        self.tell_unclear();
        if let Some(known) = self.registries.get(registry) {
            self.staff.order(registry, Order::Approve(known.approved()));
        }
        if self.complete {
            self.staff.order(registry, Order::KubernetesIsComplete);
        }
        self.staff.order(registry, Order::Progress(self.streams.progress()));
    }

    /// A Registry is gone: nothing that asks for it can be carried out.
    pub(super) fn withdraw_all(&mut self, registry: &str, now: Instant) {
        for (reference, compiled) in self.asking_for(registry) {
            self.index.delete_registration(&reference);
            self.entries.get_mut(&reference).expect("it is asking").in_force = None;
            // The others of this Registry go, too.
            self.neighbours.leave(&reference);
            self.admit(&reference, compiled, now);
        }
    }

    /// The registrations that ask for `registry`, with their newest specs.
    pub(super) fn asking_for(&self, registry: &str) -> Vec<(RegistrationRef, Box<Compiled>)> {
        let all = self
            .entries
            .iter()
            .filter_map(|(reference, entry)| Some((reference.clone(), Box::new(entry.newest()?.clone()))));
        all.filter(|(_, compiled)| *compiled.registration.registry == *registry)
            .collect()
    }

    /// Tells the registrars whether there are registrations whose keys are not known, if that has changed.
    pub(super) fn tell_unclear(&mut self) {
        let some = !self.unclear.is_empty();
        if std::mem::replace(&mut self.some_are_unclear, some) != some {
            self.staff.order_all(|| Order::SomeAreUnclear(some));
        }
    }
}
