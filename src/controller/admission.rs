//! Admits or rejects registrations, and reports the reason of a rejection.
//!
//! If a new spec is rejected, the spec in force stays in force: an invalid change loses no keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::cache::Cache;
use super::services::lacks_nodes;
use super::source::Obstacle;
use super::{Command, Controller, gates, record_formats};
use crate::api::{FormatStatus, LastSynced, Reason, ServiceRegistration, ServiceRegistrationStatus};
use crate::controller::compile::{Compiled, Invalid, References, Reserved, compile, compile_last, reference};
use crate::controller::worker::{Register, Version};
use crate::format::{Dialect, FormatError, Reading};
use crate::kube::{About, Notice, ObjectEvent, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, StatusUpdate, WritePolicy};
use crate::model::{Mark, NamespaceScope, Prefix, RegistrationRef};
use crate::plan::{EndpointKind, Holding, RegistrationSettings, Since, Subject, refused_status};

/// What the controller knows about a registration.
#[derive(Debug)]
pub struct Entry {
    /// `metadata.uid` of the object that was observed last; empty if that object was unreadable.
    uid: String,
    generation: i64,
    /// The list that contained the registration last.
    list: Mark,
    /// The object, if it names a RecordFormat or a Service, whose change may change its records.
    kept: Option<Arc<ServiceRegistration>>,
    in_force: Option<Box<Compiled>>,
    /// The newest spec, while it waits for its Registry.
    pending: Option<Box<Compiled>>,
    /// Why the newest spec is not in force.
    refusal: Option<Refusal>,
    /// The newest spec, while it overlaps the metaPrefix of a Registry.
    reserved: Option<Box<Compiled>>,
    record: Record,
}

/// What the status of a registration records for the next leader.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The claimed prefixes, each with the time of the claim.
    formats: Vec<FormatStatus>,
    /// The newest spec that was applied completely.
    last_synced: Option<Arc<LastSynced>>,
}

impl Record {
    fn of(status: Option<&ServiceRegistrationStatus>) -> Self {
        status.map_or_else(Self::default, |status| Self {
            // The numbers of records change with the pods and mean nothing to the next leader.
            formats: status.formats.iter().cloned().map(FormatStatus::uncounted).collect(),
            last_synced: status.last_synced.clone().map(Arc::new),
        })
    }

    fn is_blank(&self) -> bool {
        self.formats.is_empty() && self.last_synced.is_none()
    }

    /// Returns when the prefix of `reading` was claimed, in milliseconds since 1970.
    fn since(&self, reading: &Reading) -> Option<i64> {
        let is_it = |place: &&FormatStatus| {
            let Dialect { kind, variant } = &reading.dialect;
            (place.kind, place.variant.as_deref(), &*place.location) == (*kind, variant.as_deref(), &*reading.written)
        };
        let since = &self.formats.iter().find(is_it)?.claimed_at;
        Some(since.parse::<Timestamp>().ok()?.as_millisecond())
    }
}

impl Entry {
    /// The object, if it names a RecordFormat, a Service or a label of nodes and is readable.
    pub fn kept(&self) -> Option<&Arc<ServiceRegistration>> {
        self.kept.as_ref()
    }

    #[cfg(test)]
    pub fn refusal(&self) -> Option<&'static str> {
        self.refusal.as_ref().map(|refusal| refusal.reason.as_str())
    }

    /// Why the newest spec is not in force, as text.
    pub fn why_refused(&self) -> Option<&str> {
        self.refusal.as_ref().map(|refusal| refusal.message.as_str())
    }

    pub fn in_force(&self) -> Option<&Compiled> {
        self.in_force.as_deref()
    }

    /// The pending spec if there is one, else the spec in force.
    pub fn newest(&self) -> Option<&Compiled> {
        self.pending.as_deref().or(self.in_force())
    }
}

/// Why a registration is rejected.
#[derive(Clone, Debug)]
struct Refusal {
    reason: Reason,
    message: String,
}

/// The newest spec of a rejected registration.
enum RejectedSpec {
    /// Waits until its Registry is created. A registration cannot be moved, so no other Registry has keys of it.
    Pending(Box<Compiled>),
    /// The Registry that it names; none if the object is unreadable.
    Unusable(Option<Arc<str>>),
}

impl Refusal {
    fn no_registry(registry: &str) -> Self {
        Self {
            reason: Reason::RegistryNotFound,
            message: format!(
                "The Registry \"{registry}\" does not exist: create it, or name another one in a new registration."
            ),
        }
    }

    fn reserved(reserved: &Reserved) -> Self {
        let Reserved {
            prefix,
            registry,
            meta_prefix,
        } = reserved;
        let message = format!(
            "The prefix {} and the metaPrefix {meta_prefix} of the Registry \"{registry}\" overlap: use a prefix outside of \
             it.",
            prefix.as_str()
        );
        Self {
            reason: Reason::PrefixReserved,
            message,
        }
    }
}

/// Returns the last spec that was applied completely, if it asks for other keys or values than `compiled`, the compiled
/// `object`. If the status records no such spec, the spec in force takes its place.
fn previous(
    entry: &Entry,
    object: &ServiceRegistration,
    compiled: &Compiled,
    references: References<'_>,
) -> Option<Box<Compiled>> {
    if let Some(last) = &entry.record.last_synced {
        let differs = !last.is_same(&compiled.identity);
        return differs
            .then(|| compile_last(object, last, references))
            .flatten()
            .map(Box::new);
    }
    let of_this = |former: &&Compiled| former.registration.uid == compiled.registration.uid;
    let mut former = Box::new(entry.in_force().filter(of_this)?.clone());
    if former.identity.is_same(&compiled.identity) {
        return former.previous;
    }
    if let Some(last) = former.previous.take() {
        // The spec in force was not applied completely either. The edit may undo it.
        return (!last.identity.is_same(&compiled.identity)).then_some(last);
    }
    former.suppress(&[]);
    Some(former)
}

impl Controller {
    pub(super) fn registration(
        &mut self,
        cache: &mut Cache,
        namespaces: &NamespaceScope,
        seen: ObjectEvent<Box<ServiceRegistration>>,
        now: Instant,
    ) {
        match seen {
            ObjectEvent::ListBegins => self.registration_lists.begin(namespaces),
            ObjectEvent::Lost(_) => self.weigh(cache, now),
            ObjectEvent::Applied(object) => self.registration_applied(cache, &object, now),
            ObjectEvent::Deleted { namespace, name } => {
                self.registration_gone(cache, &RegistrationRef::new(namespace, name));
                self.report_unclear();
            }
            ObjectEvent::Unreadable {
                namespace,
                name,
                generation,
                cause,
            } => {
                let reference = RegistrationRef::new(namespace, name);
                let message = format!("This object cannot be decoded: {cause}. Correct it and apply it again.");
                // The operator's own status update changes the object, too.
                if !self.mark(cache, &reference, String::new(), generation) {
                    return;
                }
                let refusal = Refusal {
                    reason: Reason::InvalidSpec,
                    message,
                };
                self.refuse(cache, &reference, generation, RejectedSpec::Unusable(None), refusal);
                self.report_unclear();
            }
            ObjectEvent::ListComplete => {
                let began = self.registration_lists.began(namespaces);
                let listed = cache
                    .entries
                    .iter()
                    .filter(|(reference, _)| namespaces.contains(&reference.namespace));
                let gone = listed.filter(|(_, entry)| entry.list.is_before(began));
                let gone: Vec<RegistrationRef> = gone.map(|(reference, _)| reference.clone()).collect();
                for reference in gone {
                    self.registration_gone(cache, &reference);
                }
                self.report_unclear();
                self.watches.listed(REGISTRATIONS, namespaces);
                self.weigh(cache, now);
            }
        }
    }

    /// Marks the registration as present. Returns whether this version is new.
    fn mark(&mut self, cache: &mut Cache, reference: &RegistrationRef, uid: String, generation: i64) -> bool {
        let list = self.registration_lists.mark();
        let entry = cache.entries.entry(reference.clone()).or_insert_with(|| Entry {
            uid: String::new(),
            generation: 0,
            list,
            kept: None,
            in_force: None,
            pending: None,
            refusal: None,
            reserved: None,
            record: Record::default(),
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

    fn registration_applied(&mut self, cache: &mut Cache, object: &ServiceRegistration, now: Instant) {
        let reference = reference(object);
        let seen = StatusUpdate::Observed(reference.clone(), object.status.clone());
        // The status writer runs until the process ends.
        let _ = self.workers.context().registrations.send(seen);
        let generation = object.metadata.generation.unwrap_or_default();
        let is_new = self.mark(cache, &reference, object.uid().unwrap_or_default(), generation);
        let entry = cache.entries.get_mut(&reference).expect("mark() has added it");
        let record = Record::of(object.status.as_ref());
        let before = std::mem::replace(&mut entry.record, record);
        self.kept_observed(cache, &reference, object, is_new);
        if !is_new {
            if before != cache.entries[&reference].record {
                self.recorded(cache, &reference, now);
            }
            return self.registered_by_others(cache, &reference, object);
        }
        let entry = cache.entries.get_mut(&reference).expect("mark() has added it");
        entry.kept = record_formats::is_kept(object).then(|| record_formats::stripped(object));
        self.services.add_user(&reference, object);
        self.examine(cache, &reference, object, now);
        self.report_unclear();
        self.registered_by_others(cache, &reference, object);
    }

    /// Tells the readiness gates which pods another installation has registered, if it serves this registration.
    fn registered_by_others(&self, cache: &Cache, reference: &RegistrationRef, object: &ServiceRegistration) {
        if cache.others.contains(object.spec.registry_ref.name.as_str()) {
            for registered in gates::registered(cache, reference, object) {
                // The task that takes these in ends only with the process.
                let _ = self.workers.context().gates.send(registered);
            }
        }
    }

    /// Compiles a registration with what it refers to, and admits or rejects it. A registration whose Service may not be
    /// listed yet is examined again when it is.
    pub(super) fn examine(
        &mut self,
        cache: &mut Cache,
        reference: &RegistrationRef,
        object: &ServiceRegistration,
        now: Instant,
    ) {
        let registry = object.spec.registry_ref.name.as_str();
        let lacks_defaults = object.spec.formats.is_empty() && !self.registries.contains_key(registry);
        let are_registries_listed = self.watches.is_listed(REGISTRIES, &NamespaceScope::Cluster);
        if !self.is_service_known(reference, object) || lacks_defaults && !are_registries_listed {
            return;
        }
        let generation = object.metadata.generation.unwrap_or_default();
        if lacks_defaults {
            let refusal = Refusal::no_registry(registry);
            let spec = RejectedSpec::Unusable(Some(registry.into()));
            return self.refuse(cache, reference, generation, spec, refusal);
        }
        let references = self.references(registry);
        let compiled = compile(object, references);
        let lacks_nodes = compiled.as_ref().is_ok_and(|compiled| lacks_nodes(cache, compiled));
        if lacks_nodes && !self.watches.are_nodes_unknown() {
            return;
        }
        let entry = cache.entries.get_mut(reference).expect("mark() has added it");
        match compiled {
            Ok(mut compiled) => {
                entry.refusal = None;
                compiled.previous = previous(entry, object, &compiled, references);
                if lacks_nodes {
                    compiled.obstacle = Some(Obstacle::nodes_unknown());
                }
                self.admit(cache, reference, Box::new(compiled), now);
            }
            // The list of RecordFormats is not complete and may contain it: `examine_waiting` retries.
            Err(Invalid::Format(FormatError::NoRecordFormat(_)))
                if !self.watches.is_listed(RECORD_FORMATS, &NamespaceScope::Cluster) => {}
            // The list of Registries is not complete, and another installation may serve this one, and report this.
            Err(_) if !self.registries.contains_key(registry) && !are_registries_listed => {
                entry.kept = Some(record_formats::stripped(object));
            }
            Err(invalid) => {
                entry.kept.take_if(|kept| !record_formats::is_kept(kept));
                let refusal = Refusal {
                    reason: invalid.reason(),
                    message: format!("{invalid}."),
                };
                // Admit the last good spec, as if this process had been running when that spec came into force.
                // A spec in force that names a Service goes on following it.
                let name = object.spec.service.as_ref().map(|service| service.name.as_str());
                let (last, previous) = match entry.in_force() {
                    None => (entry.record.last_synced.clone(), None),
                    Some(former) if name.is_some() && former.service_name.as_deref() == name => {
                        (Some(former.identity.clone()), former.previous.clone())
                    }
                    Some(_) => (None, None),
                };
                if let Some(last) = last.and_then(|last| compile_last(object, &last, references)) {
                    let last = Compiled { previous, ..last };
                    self.admit(cache, reference, Box::new(last), now);
                }
                let spec = RejectedSpec::Unusable(Some(registry.into()));
                self.refuse(cache, reference, generation, spec, refusal);
            }
        }
    }

    /// Handles a status with a changed record, written by this or another replica.
    fn recorded(&mut self, cache: &mut Cache, reference: &RegistrationRef, now: Instant) {
        let entry = &cache.entries[reference];
        let Some(compiled) = &entry.in_force else {
            return;
        };
        let is_done = compiled.previous.is_some()
            && entry
                .record
                .last_synced
                .as_ref()
                .is_some_and(|last| last.is_same(&compiled.identity));
        let registry = compiled.registration.registry.clone();
        let differs = |reading: &Reading| {
            let (known, recorded) = (
                self.overlaps.since(reference, &registry, reading),
                entry.record.since(reading),
            );
            known
                .zip(recorded)
                .is_some_and(|(known, recorded)| known != Since::Recorded(recorded))
        };
        let differs = compiled.readings().iter().flatten().any(differs);
        let mut compiled = compiled.clone();
        if is_done {
            compiled.previous = None;
        }
        if is_done || differs {
            self.admit_again(cache, reference, compiled, now);
        } else {
            let concerned = self.settle_among_neighbours(cache, reference, &compiled);
            self.look_again(cache, &concerned, now);
        }
    }

    /// Admits the spec in force again. A newer pending spec stays pending.
    fn admit_again(&mut self, cache: &mut Cache, reference: &RegistrationRef, compiled: Box<Compiled>, now: Instant) {
        let pending = cache.entries.get_mut(reference).and_then(|entry| entry.pending.take());
        self.admit(cache, reference, compiled, now);
        if let Some(entry) = cache.entries.get_mut(reference).filter(|entry| entry.pending.is_none()) {
            entry.pending = pending;
        }
    }

    /// Updates the claims of `registration` in the overlap check. Returns the registrations to check again.
    fn settle_among_neighbours(
        &mut self,
        cache: &Cache,
        reference: &RegistrationRef,
        compiled: &Compiled,
    ) -> BTreeSet<RegistrationRef> {
        let registration = &compiled.registration;
        let entry = &cache.entries[reference];
        let mut readings = Vec::new();
        for reading in compiled.readings() {
            let Some(reading) = reading else {
                readings.push(None);
                continue;
            };
            let is_same = |former: &Compiled| former.registration.uid == registration.uid;
            let in_force = entry.in_force().filter(|former| is_same(former));
            let known = in_force.and_then(|_| self.overlaps.since(reference, &registration.registry, &reading));
            // A prefix that the registration left is claimed again, even if the status still records the old claim.
            let is_left = self.complete && in_force.is_some() && known.is_none();
            let recorded = entry.record.since(&reading).filter(|_| !is_left).map(Since::Recorded);
            // Until the caches are complete this process does not know the order of the claims.
            let first =
                || (!self.complete && entry.record.is_blank()).then_some(Since::Created(registration.created * 1000));
            let since = match recorded.or(known).or_else(first) {
                Some(since) => since,
                None => self.overlaps.claim(Timestamp::now().as_millisecond()),
            };
            readings.push(Some((reading, since)));
        }
        self.overlaps.settle(reference, &registration.registry, readings)
    }

    /// Returns when `registration` claimed each of its prefixes.
    fn claims(&self, reference: &RegistrationRef, compiled: &Compiled) -> BTreeMap<Prefix, Since> {
        let registry = &compiled.registration.registry;
        let readings = compiled.readings().into_iter().flatten();
        let claim = |reading: Reading| {
            let since = self.overlaps.since(reference, registry, &reading)?;
            Some((Prefix::below(&reading.written), since))
        };
        readings.filter_map(claim).collect()
    }

    /// Returns the claimed prefixes of `registration` for its status, without those of suppressed formats.
    pub(super) fn places(&self, reference: &RegistrationRef, compiled: &Compiled) -> Vec<FormatStatus> {
        let suppressed: Vec<usize> = self
            .overlaps
            .suppressed(reference)
            .iter()
            .map(|suppressed| suppressed.format)
            .collect();
        let readings = compiled.readings().into_iter().enumerate();
        let mine = readings.filter(|(place, _)| !suppressed.contains(place));
        let place = |reading: Reading| {
            let since = self
                .overlaps
                .since(reference, &compiled.registration.registry, &reading)?;
            Some(FormatStatus {
                kind: reading.dialect.kind,
                variant: reading.dialect.variant.as_deref().map(Into::into),
                location: reading.written.to_string(),
                records: None,
                claimed_at: Timestamp::from_millisecond(since.millis()).ok()?.to_string(),
            })
        };
        mine.filter_map(|(_, reading)| place(reading?)).collect()
    }

    /// Puts a spec in force or rejects it.
    pub(super) fn admit(
        &mut self,
        cache: &mut Cache,
        reference: &RegistrationRef,
        mut compiled: Box<Compiled>,
        now: Instant,
    ) {
        let registration = &compiled.registration;
        let (registry, generation) = (registration.registry.clone(), registration.generation);
        let Some(known) = self.registries.get(&registry) else {
            if !self.watches.is_listed(REGISTRIES, &NamespaceScope::Cluster) {
                // The list of Registries is not complete and may contain it: `admit_pending` retries.
                cache.entries.get_mut(reference).expect("mark() has added it").pending = Some(compiled);
                return;
            }
            let refusal = Refusal::no_registry(&registry);
            return self.refuse(cache, reference, generation, RejectedSpec::Pending(compiled), refusal);
        };
        let reserved = self.reserved(&compiled);
        let entry = cache.entries.get_mut(reference).expect("mark() has added it");
        // If the spec in force is admitted again, a newer rejected spec stays rejected.
        let newer = |newest: &Compiled| {
            let (newest, this) = (&newest.registration, &compiled.registration);
            newest.uid == this.uid && newest.generation > this.generation
        };
        let newest = entry.reserved.take();
        let was_reserved = compiled.frozen || newest.as_deref().is_some_and(|newest| !newer(newest));
        entry.reserved = newest.filter(|newest| newer(newest));
        compiled.frozen = reserved.is_some();
        if let Some(reserved) = &reserved {
            let refusal = Refusal::reserved(reserved);
            let is_in_force = entry.in_force().is_some_and(|in_force| {
                let (former, newest) = (&in_force.registration, &compiled.registration);
                (&former.uid, former.generation) == (&newest.uid, newest.generation)
            });
            if !is_in_force || reserved.registry == registry {
                entry.reserved = Some(compiled);
                return self.refuse(
                    cache,
                    reference,
                    generation,
                    RejectedSpec::Unusable(Some(registry)),
                    refusal,
                );
            }
            // The registration was in force before the metaPrefix: it keeps its keys elsewhere, and is frozen.
            tracing::warn!(registration = %reference, generation, message = refusal.message, "frozen");
            entry.refusal = Some(refusal);
        } else if was_reserved {
            entry.refusal = None;
        }
        let previous = compiled.previous.take();
        compiled.previous = previous.filter(|previous| self.reserved(previous).is_none());
        // Check the suppressed formats like the others.
        compiled.suppress(&[]);
        let mut verdict = compiled.submit(known.spec(), &self.namespaces);
        if let Some(Reserved {
            registry, meta_prefix, ..
        }) = reserved
        {
            let bookkeeping = Prefix::below(&format!("{meta_prefix}{}", self.workers.context().cluster_id));
            verdict.forbidden.push(compiled.keep_out(bookkeeping, registry));
        }
        let concerned = self.settle_among_neighbours(cache, reference, &compiled);
        compiled.suppress(&self.overlaps.suppressed(reference));
        let known = self.registries.get(&registry).expect("it was found above");
        let mut settings = compiled.settings(known.spec());
        let lacks_nodes = lacks_nodes(cache, &compiled);
        let registration = &compiled.registration;
        // Which of its keys belong to nodes, or what they are to contain of nodes, is not known: all of them stay.
        settings.suspended |= lacks_nodes;
        let former = cache.entries[reference].in_force();
        log_admission(&compiled, former, verdict.denial.as_deref());
        let lacked_nodes = former.is_some_and(|former| former.obstacle == Some(Obstacle::nodes_unknown()));
        if lacked_nodes && !lacks_nodes || former.is_some_and(|former| compiled.rewrites(former)) {
            // The index sees no difference, and every pod counts as changed nevertheless.
            cache.index.invalidate(reference);
        }
        let marks = cache.index.apply_registration(registration.clone());
        let rule = Command::Rule {
            registration: reference.clone(),
            verdict,
        };
        let register = self.register(cache, reference, &compiled, settings);
        let entry = cache.entries.get_mut(reference).expect("mark() has added it");
        let former = entry.in_force.replace(compiled);
        if entry.pending.take().is_some() {
            entry.refusal = None;
        }
        // The rejection of a newer spec, while this older one is sent to another worker or with other settings.
        let refused = entry.refusal.clone().map(|refusal| (entry.generation, refusal));
        self.unclear.remove(reference);
        if lacks_nodes {
            // Its keys are not known.
            self.unclear.insert(reference, Some(registry.clone()));
        }
        if let Some(former) = former.filter(|former| former.registration.registry != registry) {
            // The registration was deleted, and created again for another Registry, between two lists.
            self.workers
                .send(&former.registration.registry, Command::Remove(reference.clone()));
        }
        self.workers.send(&registry, Command::Together(vec![register, rule]));
        if let Some((generation, refusal)) = refused {
            let command = Command::refuse(reference, generation, refusal.reason, refusal.message);
            self.workers.send(&registry, command);
        }
        if !marks.is_empty() {
            let edited = Command::PodsEdited {
                registration: reference.clone(),
                // The guard compares what the registration loses with what it gains, so what it gains comes first.
                pods: marks.into_iter().map(|mark| mark.pod).collect(),
                at: now,
            };
            self.workers.send(&registry, edited);
        }
        self.look_again(cache, &concerned, now);
    }

    /// Returns the command to apply `compiled` with these settings.
    fn register(
        &self,
        cache: &Cache,
        reference: &RegistrationRef,
        compiled: &Compiled,
        settings: RegistrationSettings,
    ) -> Command {
        let registration = &compiled.registration;
        Command::Register(Box::new(Register {
            registration: reference.clone(),
            settings,
            service: registration.service.clone(),
            version: Version {
                uid: registration.uid.clone(),
                generation: registration.generation,
            },
            selected: cache.index.selected_count(reference),
            suppressed: compiled.suppression_reasons(),
            kind: compiled.kind(),
            obstacle: compiled.obstacle.clone(),
            missing: compiled.missing.clone(),
            keeps_previous: compiled.previous.is_some(),
            since: self.claims(reference, compiled),
            places: self.places(reference, compiled),
            identity: compiled.identity.clone(),
            last_synced: cache.entries[reference].record.last_synced.clone(),
        }))
    }

    /// Returns the Registry whose metaPrefix the registration overlaps.
    fn reserved(&self, compiled: &Compiled) -> Option<Reserved> {
        let registries = self.registries.iter();
        compiled.reserved(registries.map(|(name, known)| (&**name, known.spec())))
    }

    /// Checks the registrations against the metaPrefixes again, whichever Registry they name. Call when a Registry was
    /// created or deleted, or its metaPrefix has changed.
    pub(super) fn judge_reserved(&mut self, cache: &mut Cache, now: Instant) {
        let mut concerned = Vec::new();
        for (reference, entry) in &cache.entries {
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
            // Remove the registration first, so that every pod counts as changed.
            cache.index.delete_registration(&reference);
            self.admit(cache, &reference, compiled, now);
        }
        self.report_unclear();
    }

    /// Suppresses or restores formats of registrations in force, according to the current overlaps.
    fn look_again(&mut self, cache: &mut Cache, concerned: &BTreeSet<RegistrationRef>, now: Instant) {
        for reference in concerned {
            let suppressed = self.overlaps.suppressed(reference);
            let Some(compiled) = cache.entries.get(reference).and_then(|entry| entry.in_force.clone()) else {
                continue;
            };
            if compiled.all_suppressed().eq(suppressed) {
                continue;
            }
            // Remove the registration first, so that every pod counts as changed.
            cache.index.delete_registration(reference);
            self.admit_again(cache, reference, compiled, now);
        }
    }

    /// Removes a registration from the overlap check, and restores the formats that it suppressed.
    fn leaves_its_neighbours(&mut self, cache: &mut Cache, reference: &RegistrationRef, now: Instant) {
        let concerned = self.overlaps.leave(reference);
        self.look_again(cache, &concerned, now);
    }

    /// Reports why the newest spec of a registration is rejected. The spec in force stays in force.
    fn refuse(
        &mut self,
        cache: &mut Cache,
        reference: &RegistrationRef,
        generation: i64,
        spec: RejectedSpec,
        refusal: Refusal,
    ) {
        let Refusal { reason, message } = refusal;
        tracing::warn!(registration = %reference, generation, reason = reason.as_str(), %message, "spec rejected");
        let entry = cache.entries.get_mut(reference).expect("mark() has added it");
        entry.refusal = Some(Refusal {
            reason,
            message: message.clone(),
        });
        let uid = &entry.uid;
        let mut concerned = BTreeSet::new();
        let of_another = |former: &mut Box<Compiled>| !uid.is_empty() && *former.registration.uid != **uid;
        if let Some(former) = entry.in_force.take_if(of_another) {
            // The registration was deleted and created again between two lists: the spec in force belongs to the
            // deleted object.
            cache.index.delete_registration(reference);
            let command = Command::Remove(reference.clone());
            self.workers.send(&former.registration.registry, command);
            concerned = self.overlaps.leave(reference);
        }
        let mut is_of_others = false;
        let pending = match spec {
            RejectedSpec::Pending(compiled) => {
                self.unclear.remove(reference);
                Some(compiled)
            }
            RejectedSpec::Unusable(registry) => {
                is_of_others = registry
                    .as_ref()
                    .is_some_and(|registry| cache.others.contains(registry));
                if entry.in_force.is_none() {
                    self.unclear.insert(reference, registry);
                }
                None
            }
        };
        let service = pending.as_ref().map(|compiled| compiled.registration.service.clone());
        entry.pending = pending;
        let uid: Arc<str> = entry.uid.as_str().into();
        if let Some(in_force) = &entry.in_force {
            let command = Command::refuse(reference, generation, reason, message);
            return self.workers.send(&in_force.registration.registry, command);
        }
        if is_of_others {
            return self.look_again(cache, &concerned, Instant::now());
        }
        let subject = Subject {
            generation,
            service: service.as_deref().unwrap_or(&reference.name),
            registry: "",
            kind: EndpointKind::default(),
            selected: 0,
            obstacle: None,
            missing: None,
            holding: &Holding::Undecided,
            suppressed: &[],
        };
        // Without a worker there is no leader: every replica publishes the same notice, which becomes one Event.
        self.workers.context().events.publish(Notice {
            about: About::Registration(reference.clone()),
            uid,
            is_warning: true,
            reason: reason.as_str(),
            note: message.clone(),
            occurrence: generation.to_string(),
        });
        let mut status = refused_status(reason, &message, subject, &Time(Timestamp::now()));
        let record = cache.entries[reference].record.clone();
        status.formats = record.formats;
        status.last_synced = record.last_synced.map(|last| (*last).clone());
        let note = StatusUpdate::Wanted(reference.clone(), status, WritePolicy::Once);
        let _ = self.workers.context().registrations.send(note);
        self.look_again(cache, &concerned, Instant::now());
    }

    fn registration_gone(&mut self, cache: &mut Cache, reference: &RegistrationRef) {
        let _ = self
            .workers
            .context()
            .registrations
            .send(StatusUpdate::Gone(reference.clone()));
        cache.index.delete_registration(reference);
        self.unclear.remove(reference);
        let Some(entry) = cache.entries.remove(reference) else {
            return;
        };
        tracing::info!(registration = %reference, "deleted");
        self.kept_gone(cache, reference);
        if let Some(object) = entry.kept() {
            self.services.remove_user(reference, object);
        }
        if let Some(in_force) = entry.in_force {
            let command = Command::Remove(reference.clone());
            self.workers.send(&in_force.registration.registry, command);
        }
        self.leaves_its_neighbours(cache, reference, Instant::now());
    }

    /// Admits the registrations of `registry` again, after its spec has changed.
    pub(super) fn admit_all(&mut self, cache: &mut Cache, registry: &str, now: Instant) {
        for (reference, compiled) in cache.asking_for(registry) {
            self.admit(cache, &reference, compiled, now);
        }
        self.report_unclear();
    }

    /// Admits the registrations in force again for which `concerned` is true, because what they may publish of nodes, or what
    /// is known of nodes, has changed.
    pub(super) fn admit_publishers_of_node_labels(
        &mut self,
        cache: &mut Cache,
        concerned: impl Fn(&Compiled) -> bool,
        now: Instant,
    ) {
        let in_force = cache.entries.iter();
        let in_force = in_force.filter_map(|(reference, entry)| Some((reference, entry.in_force.as_ref()?)));
        let publishing = in_force.filter(|(_, compiled)| compiled.uses_node_labels() && concerned(compiled));
        let publishing: Vec<_> = publishing
            .map(|(reference, compiled)| (reference.clone(), compiled.clone()))
            .collect();
        for (reference, compiled) in publishing {
            self.admit_again(cache, &reference, compiled, now);
        }
        self.report_unclear();
    }

    /// Admits the pending registrations once all Registries are listed: a missing Registry does not exist.
    pub(super) fn admit_pending(&mut self, cache: &mut Cache, now: Instant) {
        let waiting =
            |(reference, entry): (&RegistrationRef, &Entry)| Some((reference.clone(), entry.pending.clone()?));
        let mut waiting: Vec<_> = cache.entries.iter().filter_map(waiting).collect();
        waiting.sort_by_key(|(reference, compiled)| (compiled.registration.created, reference.clone()));
        for (reference, compiled) in waiting {
            self.admit(cache, &reference, compiled, now);
        }
        self.report_unclear();
    }

    /// Sends everything to a new worker, as after a restart.
    pub(super) fn hand_over(&mut self, cache: &mut Cache, registry: &Arc<str>, now: Instant) {
        let unclear = self.unclear.send(registry);
        self.workers.send(registry, Command::SomeAreUnclear(unclear));
        self.workers
            .send(registry, Command::KubernetesIsOutdated(self.outdated.clone()));
        for (reference, compiled) in cache.asking_for(registry) {
            // Remove the registration first, so that every pod counts as changed.
            cache.index.delete_registration(&reference);
            self.admit(cache, &reference, compiled, now);
        }
        self.report_unclear();
        if let Some(known) = self.registries.get(registry) {
            self.workers.send(registry, Command::Approve(known.approved()));
        }
        if self.complete {
            self.workers.send(registry, Command::KubernetesIsComplete);
        }
    }

    /// Takes the registrations of a deleted Registry out of force.
    pub(super) fn withdraw_all(&mut self, cache: &mut Cache, registry: &str, now: Instant) {
        for (reference, compiled) in cache.asking_for(registry) {
            cache.index.delete_registration(&reference);
            cache.entries.get_mut(&reference).expect("it has an entry").in_force = None;
            // The other registrations of this Registry are withdrawn, too, and need no new overlap check.
            self.overlaps.leave(&reference);
            self.admit(cache, &reference, compiled, now);
        }
    }

    /// Notifies each worker if registrations with unknown keys have appeared in its Registry, or the last one has
    /// disappeared.
    pub(super) fn report_unclear(&mut self) {
        for registry in self.registries.keys() {
            if let Some(unclear) = self.unclear.send_changed(registry) {
                self.workers.send(registry, Command::SomeAreUnclear(unclear));
            }
        }
    }
}

/// Logs that `compiled` takes effect, and what of it does not.
fn log_admission(compiled: &Compiled, former: Option<&Compiled>, denial: Option<&str>) {
    let registration = &compiled.registration;
    let (reference, registry, generation) = (&registration.reference, &registration.registry, registration.generation);
    if let Some(denial) = denial {
        tracing::warn!(registration = %reference, generation, %registry, denial, "access rules deny some formats");
    }
    if let Some(missing) = &compiled.missing {
        tracing::warn!(registration = %reference, generation, %registry, reason = missing.message, "attributes are missing");
    }
    for (_, suppressed) in &compiled.suppressed {
        tracing::warn!(registration = %reference, generation, reason = %suppressed.reason, "a format is suppressed");
    }
    let is_same = |former: &Compiled| former.registration == *registration && former.bindings == compiled.bindings;
    if !former.is_some_and(is_same) {
        tracing::info!(registration = %reference, generation, %registry, service = %registration.service, "applying spec");
    }
}
