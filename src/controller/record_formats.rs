//! Handles RecordFormats that are created, changed or deleted, and examines the registrations that use them.
//!
//! Every replica evaluates each RecordFormat with the same result. So every replica writes its status: once per
//! version, and only if the current status differs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::Controller;
use super::cache::Cache;
use crate::api::{
    ConditionStatus, ConditionType, FormatType, Reason, RecordFormat, RecordFormatStatus, ServiceRegistration,
    conditions,
};
use crate::format::{RecordFormats, TemplateError, Templates};
use crate::kube::{About, Notice, ObjectEvent, RECORD_FORMATS, StatusUpdate, WritePolicy};
use crate::model::{NamespaceScope, RegistrationRef};

/// The version of a RecordFormat that was observed last.
#[derive(Debug)]
struct Version {
    uid: String,
    generation: i64,
    /// The list that contained the RecordFormat last.
    list: u64,
}

/// All RecordFormats, valid or not.
#[derive(Debug, Default)]
pub struct Library {
    formats: RecordFormats,
    versions: HashMap<Arc<str>, Version>,
    /// Counts the lists. When a list is complete, a RecordFormat marked by an older list is gone.
    list: u64,
}

impl Library {
    /// The compiled RecordFormats.
    pub fn formats(&self) -> &RecordFormats {
        &self.formats
    }

    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Marks this version as present. Returns whether it is new.
    fn mark(&mut self, name: &str, uid: String, generation: i64) -> bool {
        let version = Version {
            uid,
            generation,
            list: self.list,
        };
        let is_new = |former: &Version| former.uid != version.uid || former.generation != generation;
        let is_new = self.versions.get(name).is_none_or(is_new);
        self.versions.insert(name.into(), version);
        is_new
    }
}

/// Whether a registration is kept, to compile it again when a RecordFormat, a Service or the default formats of its
/// Registry change, or the nodes become known. It is not if it depends on none of them.
pub fn is_kept(registration: &ServiceRegistration) -> bool {
    let spec = &registration.spec;
    let uses_one = spec.formats.iter().any(|format| format.kind == FormatType::Custom);
    let has_defaults = spec.formats.is_empty();
    uses_one || has_defaults || spec.uses_node_labels() || spec.service.is_some()
}

/// Returns the registration without what is not needed to compile it.
pub fn stripped(registration: &ServiceRegistration) -> Arc<ServiceRegistration> {
    let mut stripped = registration.clone();
    stripped.status = None;
    stripped.metadata.managed_fields = None;
    Arc::new(stripped)
}

impl Controller {
    pub(super) fn record_format(&mut self, cache: &mut Cache, seen: ObjectEvent<Box<RecordFormat>>, now: Instant) {
        match seen {
            ObjectEvent::ListBegins => self.library.list += 1,
            ObjectEvent::Lost(_) => self.weigh(cache, now),
            ObjectEvent::Applied(object) => {
                let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
                let generation = object.metadata.generation.unwrap_or_default();
                let seen = StatusUpdate::Observed(name.as_str().into(), object.status);
                // The status writer runs until the process ends.
                let _ = self.workers.context().record_formats.send(seen);
                if self.library.mark(&name, uid.clone(), generation) {
                    let templates = Templates::compile(&name, &object.spec);
                    if let Err(error) = &templates {
                        self.announce_broken(&name, &uid, generation, error);
                    }
                    self.record_format_applied(cache, &name, generation, templates, now);
                }
            }
            ObjectEvent::Unreadable {
                name,
                generation,
                cause,
                ..
            } => {
                if self.library.mark(&name, String::new(), generation) {
                    self.record_format_applied(cache, &name, generation, Err(TemplateError::Unreadable(cause)), now);
                }
            }
            ObjectEvent::Deleted { name, .. } => self.record_format_gone(cache, &name, now),
            ObjectEvent::ListComplete => {
                let list = self.library.list;
                let gone = self.library.versions.iter().filter(|(_, version)| version.list != list);
                let gone: Vec<Arc<str>> = gone.map(|(name, _)| name.clone()).collect();
                for name in gone {
                    self.record_format_gone(cache, &name, now);
                }
                if self.watches.listed(RECORD_FORMATS, &NamespaceScope::Cluster) {
                    self.examine_waiting(cache, now);
                }
                self.weigh(cache, now);
            }
        }
    }

    fn record_format_applied(
        &mut self,
        cache: &mut Cache,
        name: &str,
        generation: i64,
        templates: Result<Templates, TemplateError>,
        now: Instant,
    ) {
        match &templates {
            Ok(_) => tracing::info!(record_format = name, generation, "RecordFormat accepted"),
            Err(error) => tracing::warn!(
                record_format = name, generation, %error,
                "this RecordFormat cannot be used; registrations keep the templates in force"
            ),
        }
        let wanted = StatusUpdate::Wanted(name.into(), status(generation, &templates), WritePolicy::Once);
        let _ = self.workers.context().record_formats.send(wanted);
        if self.library.formats.set(name, templates) {
            self.examine_users(cache, name, now);
        }
    }

    /// Publishes an Event about a RecordFormat that cannot be used. Every replica publishes the same notice, which
    /// becomes one Event.
    fn announce_broken(&self, name: &str, uid: &str, generation: i64, error: &TemplateError) {
        self.workers.context().events.publish(Notice {
            about: About::RecordFormat(name.into()),
            uid: uid.into(),
            is_warning: true,
            reason: error.reason().as_str(),
            note: sentence(error),
            occurrence: generation.to_string(),
        });
    }

    fn record_format_gone(&mut self, cache: &mut Cache, name: &str, now: Instant) {
        let _ = self
            .workers
            .context()
            .record_formats
            .send(StatusUpdate::Gone(name.into()));
        if self.library.versions.remove(name).is_none() {
            return;
        }
        tracing::warn!(
            record_format = name,
            "the RecordFormat was deleted; registrations keep the templates in force"
        );
        self.library.formats.remove(name);
        self.examine_users(cache, name, now);
    }

    /// Examines the registrations that use a RecordFormat again.
    fn examine_users(&mut self, cache: &mut Cache, name: &str, now: Instant) {
        let uses = |object: &ServiceRegistration| {
            let mut formats = object.spec.formats.iter();
            // The default formats may name it.
            object.spec.formats.is_empty()
                || formats.any(|format| {
                    let custom = format.custom.as_ref();
                    custom.is_some_and(|custom| custom.record_format_ref.name == name)
                })
        };
        self.examine_all(cache, uses, now);
    }

    /// Examines the registrations again once all RecordFormats are listed: a missing one does not exist.
    fn examine_waiting(&mut self, cache: &mut Cache, now: Instant) {
        self.examine_all(cache, |_| true, now);
    }

    pub(super) fn examine_all(
        &mut self,
        cache: &mut Cache,
        which: impl Fn(&ServiceRegistration) -> bool,
        now: Instant,
    ) {
        let kept = cache
            .entries
            .iter()
            .filter_map(|(reference, entry)| Some((reference.clone(), entry.kept()?.clone())));
        let mut kept: Vec<(RegistrationRef, Arc<ServiceRegistration>)> =
            kept.filter(|(_, object)| which(object)).collect();
        // Oldest first: in this order they claim their prefixes.
        kept.sort_by_key(|(reference, object)| (object.metadata.creation_timestamp.clone(), reference.clone()));
        for (reference, object) in kept {
            self.examine(cache, &reference, &object, now);
        }
        self.report_unclear();
    }
}

/// Returns the status for the author of the RecordFormat.
fn status(generation: i64, templates: &Result<Templates, TemplateError>) -> RecordFormatStatus {
    let (holds, reason, message, preview) = match templates {
        Ok(templates) => (
            ConditionStatus::True,
            Reason::Accepted,
            "The templates are valid.".to_owned(),
            templates.preview().to_vec(),
        ),
        Err(error) => (ConditionStatus::False, error.reason(), sentence(error), Vec::new()),
    };
    let mut list = Vec::new();
    let now = Time(Timestamp::now());
    for kind in [ConditionType::Ready, ConditionType::Accepted] {
        conditions::set(&mut list, kind, holds, reason, &message, Some(generation), &now);
    }
    RecordFormatStatus {
        observed_generation: Some(generation),
        preview,
        conditions: list,
    }
}

fn sentence(error: &TemplateError) -> String {
    let text = format!("{error}.");
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => text,
    }
}
