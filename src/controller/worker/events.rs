//! Publishes changes as Events: once, when they occur, by the replica that leads.

use std::fmt::Display;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::RegistryWorker;
use super::backend_health::Connectivity;
use super::registry_status::reason;
use super::reporting::{ReporterRole, Subject};
use crate::api::{ConditionType, Reason};
use crate::backend::Backend;
use crate::kube::{About, Events, Notice};
use crate::model::{LeaseId, RegistrationRef};
use crate::plan::{Conflict, GuardEvent, Holder, Holding, Release, Report};

/// The guard released a hold.
const RELEASED: &str = "RemovalsReleased";
/// More keys are removed than the guard allows, and `spec.guard.mode` is Warn.
const NOT_HELD: &str = "RemovalsNotHeld";
/// A lease was gone before it could be renewed.
const LEASE_LOST: &str = "LeaseLost";
/// A certificate expires soon or has expired.
const CERTIFICATE_ENDS: &str = "CertificateEnds";

/// Which Events were published for one registration.
#[derive(Debug, Default)]
pub struct Announced {
    /// The conflict of the last Event, until it is resolved.
    conflict: Option<String>,
    /// The hold of the last Event, until it is released.
    hold: Option<String>,
    /// The prefix of the last Event about a denied write, until etcd grants it.
    denied: Option<String>,
    /// Whether an Event reports that etcd rejects records, until etcd accepts them.
    rejected: bool,
    /// The generation whose refusal was published.
    refused: Option<i64>,
}

/// Reports what has changed for `registration`: in the log, and in Events to `events` if this replica leads. `hold` is
/// the id of the current hold, `conditions` are those of the new status.
pub fn announce(
    registration: &RegistrationRef,
    subject: &mut Subject,
    (report, hold): (&Report<'_>, Option<&str>),
    conditions: &[Condition],
    events: Option<&Events>,
) {
    let message = |kind: ConditionType| {
        let found = conditions.iter().find(|reported| reported.type_ == kind.as_str());
        found.map(|reported| reported.message.clone()).unwrap_or_default()
    };
    let uid = subject.uid.clone();
    let publish = |is_warning, reason, note, occurrence| {
        if let Some(events) = events {
            events.publish(Notice {
                about: About::Registration(registration.clone()),
                uid: uid.clone(),
                is_warning,
                reason,
                note,
                occurrence,
            });
        }
    };
    let announced = &mut subject.announced;
    let conflict = || Some((Reason::KeysHeld, occurrence(report.conflicts.first()?)));
    let clash = subject
        .suppressed
        .first()
        .map(|suppressed| (Reason::FormatsClash, suppressed.clone()));
    match (clash.or_else(conflict), &announced.conflict) {
        (Some((reason, first)), None) => {
            let keys = report.conflicts.len();
            tracing::warn!(%registration, keys, first, "keys are held by another owner, or formats overlap");
            let occurrence = announced.conflict.insert(first).clone();
            publish(true, reason.as_str(), message(ConditionType::Conflict), occurrence);
        }
        (None, Some(_)) => {
            tracing::info!(%registration, "conflict resolved: no key is held by another owner, and no format overlaps");
            announced.conflict = None;
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let hold = hold.filter(|_| report.held > 0);
    if hold != announced.hold.as_deref() {
        let former = std::mem::replace(&mut announced.hold, hold.map(str::to_owned));
        match (hold, former) {
            (Some(id), _) => {
                let reason = Reason::RemovalsHeld.as_str();
                publish(true, reason, message(ConditionType::RemovalsHeld), id.to_owned());
            }
            (None, former) => publish(
                false,
                RELEASED,
                message(ConditionType::RemovalsHeld),
                former.unwrap_or_default(),
            ),
        }
    }
    match (report.denied.first(), &announced.denied) {
        (Some((prefix, _)), None) => {
            let occurrence = announced.denied.insert(prefix.as_str().to_owned()).clone();
            let reason = Reason::PermissionDenied.as_str();
            publish(true, reason, message(ConditionType::Synced), occurrence);
        }
        (None, Some(_)) => announced.denied = None,
        (Some(_), Some(_)) | (None, None) => {}
    }
    let is_rejected = report.rejected.is_some();
    if !std::mem::replace(&mut announced.rejected, is_rejected) && is_rejected {
        let reason = Reason::RecordsRejected.as_str();
        publish(
            true,
            reason,
            message(ConditionType::Synced),
            subject.generation.to_string(),
        );
    }
    if let Some((reason, _)) = &subject.refusal
        && announced.refused.replace(subject.generation) != Some(subject.generation)
    {
        let note = message(ConditionType::Accepted);
        publish(true, reason.as_str(), note, subject.generation.to_string());
    }
}

/// Identifies a conflict across restarts of the operator.
fn occurrence(Conflict { key, holder, .. }: &Conflict) -> String {
    match holder {
        Holder::OtherClient { create_revision, .. } => format!("{key} {create_revision}"),
        Holder::Registration(registration) => format!("{key} {registration}"),
    }
}

impl<B: Backend> RegistryWorker<B> {
    /// Publishes that etcd has become unreachable, or is reachable again. The replica that published the one publishes
    /// the other.
    pub(super) fn announce_link(&mut self, link: &Connectivity) {
        match link {
            Connectivity::Down(trouble) if !self.outage_announced => {
                if matches!(self.reporter.role, ReporterRole::Leader | ReporterRole::Former) {
                    self.outage_announced = true;
                    let reason = reason(trouble.reason).as_str();
                    self.publish(true, reason, trouble.message.clone(), Timestamp::now());
                }
            }
            Connectivity::Up if std::mem::take(&mut self.outage_announced) => {
                let note = "The operator reads, watches and writes this etcd again.";
                self.publish(false, Reason::Connected.as_str(), note.to_owned(), Timestamp::now());
            }
            Connectivity::Down(_) | Connectivity::Up | Connectivity::Unsure => {}
        }
    }

    /// Publishes that a certificate expires soon. The Event is the same whichever replica publishes it.
    pub(super) fn announce_expiry(&mut self, expiring: Option<&str>) {
        if self.leads() && self.credentials.announced.as_deref() != expiring {
            self.credentials.announced = expiring.map(str::to_owned);
            if let Some(note) = expiring {
                tracing::warn!(registry = %self.name, note, "a certificate expires soon or has expired");
                self.publish(true, CERTIFICATE_ENDS, note.to_owned(), note);
            }
        }
    }

    /// Publishes that endpoints or credentials were tried and are not used.
    pub(super) fn announce_not_adopted(&self, reason: &'static str, why: &impl Display) {
        if self.leads() {
            let note = format!("{why}. The previous endpoints and credentials stay in use.");
            self.publish(true, reason, note, Timestamp::now());
        }
    }

    /// Publishes that a lease has expired.
    pub(super) fn announce_lapsed(&self, lease: LeaseId) {
        if self.leads() {
            let note = format!(
                "Lease {lease} expired before it could be renewed, and its keys with it. They are written again on \
                 another lease. If this happens again, find out what keeps the operator from reaching etcd for the time \
                 of a lease's TTL."
            );
            self.publish(true, LEASE_LOST, note, lease);
        }
    }

    /// Publishes what the guard has decided.
    pub(super) fn announce_guard(&self, event: &GuardEvent) {
        match event {
            // A replica that resumes the hold publishes the same Event again.
            GuardEvent::Held | GuardEvent::Resumed | GuardEvent::Widened => {
                if let (Some(hold), Holding::Some(notice)) = (self.planner.hold(), self.guarding.holding()) {
                    let reason = Reason::RemovalsHeld.as_str();
                    self.publish(true, reason, notice.to_string(), &hold.id);
                }
            }
            GuardEvent::Warned { lost, of } => {
                let note = format!(
                    "{lost} of {of} endpoints lose keys at once. The removals are not held, because spec.guard.mode is Warn."
                );
                self.publish(true, NOT_HELD, note, Timestamp::now());
            }
            GuardEvent::Released { id, keys, why } => {
                let why = match why {
                    Release::Resolved => "most of its keys are desired again, or their pods have ended",
                    Release::Expired => "spec.guard.holdSeconds have passed",
                    Release::Approved => "it was approved",
                    Release::Unguarded => "spec.guard.mode is no longer Hold",
                };
                let note = format!("The hold {id} is released: {why}. {keys} keys are removed.");
                self.publish(false, RELEASED, note, id);
            }
        }
    }

    pub(super) fn publish(&self, is_warning: bool, reason: &'static str, note: String, occurrence: impl Display) {
        self.context.events.publish(Notice {
            about: About::Registry(self.name.clone()),
            uid: Arc::clone(&self.version.uid),
            is_warning,
            reason,
            note,
            occurrence: occurrence.to_string(),
        });
    }
}
