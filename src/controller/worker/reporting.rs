//! Telling what is registered: in the status of each registration, of the Registry, in gauges and on `/readyz`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backend_health::{Connectivity, Trouble};
use super::confirmation::{self, Outcome};
use super::events::{Announced, announce};
use super::registry_status::Facts;
use super::{Context, RegistryWorker, Version};
use crate::api::{
    ConditionStatus, ConditionType, FormatStatus, LastSynced, Reason, Registry, RegistryStatus, ServiceRegistration,
    ServiceRegistrationStatus, conditions,
};
use crate::controller::debouncer::Debouncer;
use crate::etcd::Leadership;
use crate::index::RegistrationRef;
use crate::kube::{Amendment, StatusUpdate, WritePolicy};
use crate::plan::{self, Holding, Readiness, status_of};
use crate::telemetry::RegistryHealth;

/// Changes that come within this time are told together.
const SETTLE: Duration = Duration::from_millis(50);
/// The least time between two statuses of one registration.
const INTERVAL: Duration = Duration::from_secs(1);

/// For how long reports are made before the next look at what is to be written: those of many registrations take a while.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The pace of the statuses of registrations.
pub fn debouncer() -> Debouncer<RegistrationRef> {
    Debouncer::new(SETTLE, INTERVAL)
}

/// What a status needs of a registration that the ledger does not know.
#[derive(Debug)]
pub struct Subject {
    service: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    /// How many pods it selects, ready or not.
    selected: usize,
    /// Why formats of it stand aside for another registration's.
    pub(super) aside: Vec<String>,
    /// Why the newest spec is not the one in force.
    pub(super) refusal: Option<(Reason, String)>,
    /// Why some of its formats cannot be written, if the Registry's rules say so.
    pub(super) denial: Option<String>,
    /// The places that it has.
    places: Vec<FormatStatus>,
    /// Which keys and values it asks for.
    identity: Option<Arc<LastSynced>>,
    /// The last spec that was carried out as a whole.
    last_synced: Option<Arc<LastSynced>>,
    /// What of its trouble was told.
    pub(super) announced: Announced,
}

impl Subject {
    /// A registration whose newest spec is in force.
    pub fn new(service: Arc<str>, version: Version, selected: usize) -> Self {
        Self {
            service,
            uid: version.uid,
            generation: version.generation,
            selected,
            aside: Vec::new(),
            refusal: None,
            denial: None,
            places: Vec::new(),
            identity: None,
            last_synced: None,
            announced: Announced::default(),
        }
    }

    /// Formats of it stand aside, for these reasons.
    pub fn aside(self, aside: Vec<String>) -> Self {
        Self { aside, ..self }
    }

    /// This is what its status records for the next leader.
    pub fn recording(
        self,
        places: Vec<FormatStatus>,
        identity: Arc<LastSynced>,
        last_synced: Option<Arc<LastSynced>>,
    ) -> Self {
        Self {
            places,
            identity: Some(identity),
            last_synced,
            ..self
        }
    }

    /// What was announced of `former` need not be announced again, if it is the same version.
    pub fn take_over(&mut self, former: Self) {
        if (&former.uid, former.generation) == (&self.uid, self.generation) {
            self.announced = former.announced;
        }
    }

    /// The spec in force is carried out as a whole.
    fn carried_out(&mut self) {
        let is_same = |last: &Arc<LastSynced>| self.identity.as_ref().is_some_and(|now| last.is_same(now));
        if !self.last_synced.as_ref().is_some_and(is_same) {
            self.last_synced = self.identity.clone().filter(|now| now.is_recordable());
        }
    }

    /// It selects so many pods by now; returns whether a status tells of the difference.
    pub fn select(&mut self, selected: usize) -> bool {
        std::mem::replace(&mut self.selected, selected) != selected
    }

    /// Its newest spec, of this generation, cannot be carried out.
    pub fn refuse(&mut self, generation: i64, reason: Reason, message: String) {
        self.generation = generation;
        self.refusal = Some((reason, message));
    }
}

/// In whose name this replica writes statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReporterRole {
    /// Somebody else does, or nobody needs to yet.
    Silent,
    /// It is cut off from etcd, and no other replica is named as the leader: what no other replica says is said.
    Spare,
    /// The same, and no replica confirms any more what is said of the registrations.
    Alone,
    /// As the last one that led, while etcd does not tell who leads now. Somebody else may, and then knows better: what
    /// is said is said once, or two replicas would overrule each other for ever.
    Former,
    /// As the leader.
    Leader,
}

/// How this replica stands with the Registry: what it says changes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reporter {
    pub(super) role: ReporterRole,
    readiness: Readiness,
}

impl Default for Reporter {
    fn default() -> Self {
        Self {
            role: ReporterRole::Silent,
            readiness: Readiness::Starting,
        }
    }
}

fn now() -> Time {
    Time(Timestamp::now())
}

/// This replica cannot serve a Registry: its endpoints make no sense, or its credentials are not there.
pub fn cannot_serve(name: &Arc<str>, trouble: &Trouble) {
    tracing::error!(registry = %name, reason = trouble.reason, cause = trouble.message, "this Registry cannot be used");
}

/// Says that this replica cannot serve a Registry, as far as no other one may. These are its registrations.
pub fn tell_invalid(
    name: &Arc<str>,
    generation: i64,
    context: &Context,
    trouble: &Trouble,
    (outcome, registrations): (Outcome, &BTreeSet<RegistrationRef>),
) {
    // The desk ends only with the process.
    match outcome {
        Outcome::Silent => return,
        Outcome::Ask => {
            let _ = context.registries.send(question(name));
            return;
        }
        Outcome::Registry => {}
        Outcome::All => {
            for registration in registrations {
                let _ = context.registrations.send(unconfirmed(registration, name));
            }
        }
    }
    let facts = Facts {
        generation,
        link: Connectivity::Down(trouble.clone()),
        not_adopted: None,
        endpoints: Vec::new(),
        cluster_id: None,
        credentials: trouble.is_access.then(|| Err(trouble.clone())),
        expiring: None,
        version: None,
        leader: None,
        replicas: Vec::new(),
        leases: None,
        keys: None,
        is_alone: true,
        holding: Holding::Undecided,
        unused: None,
        denied: None,
        outdated: None,
    };
    let note = StatusUpdate::Wanted(name.clone(), facts.status(&now()), WritePolicy::Once);
    let _ = context.registries.send(note);
}

/// Asks a leader that lives to put its name back into the status of the Registry `name`.
pub fn question(name: &Arc<str>) -> StatusUpdate<Registry> {
    tracing::warn!(registry = %name, "cut off from etcd; asking whether its leader lives");
    StatusUpdate::Amended(
        name.clone(),
        Amendment::new(|status: &mut RegistryStatus| status.leader = None),
    )
}

/// Says of a registration that no replica confirms its status any more. What the last one knew of it is kept.
pub fn unconfirmed(registration: &RegistrationRef, registry: &str) -> StatusUpdate<ServiceRegistration> {
    let message = format!(
        "No replica of the operator confirms what is in etcd: see the condition Connected of Registry \"{registry}\". What \
         else this status says is as of then."
    );
    let amendment = move |status: &mut ServiceRegistrationStatus| {
        let list = &mut status.conditions;
        for kind in [ConditionType::Synced, ConditionType::Ready] {
            let said = list.iter().find(|condition| condition.type_ == kind.as_str());
            // That no pod is ready is known without etcd.
            let is_open = kind == ConditionType::Synced || said.is_some_and(|said| said.status == "True");
            if let Some(said) = said.filter(|said| is_open && said.status != "Unknown") {
                let (generation, unknown) = (said.observed_generation, ConditionStatus::Unknown);
                conditions::set(list, kind, unknown, Reason::NotConfirmed, &message, generation, &now());
            }
        }
    };
    StatusUpdate::Amended(registration.clone(), Amendment::new(amendment))
}

impl RegistryWorker {
    /// Tells what is to be told by now; returns when the Registry's status is to be written again.
    pub(super) fn report(&mut self, at: Instant) -> Option<Instant> {
        let reporter = self.reporter(at);
        if reporter != self.reporter {
            self.reporter = reporter;
            for registration in self.subjects.keys() {
                self.debouncer.changed(registration.clone(), at);
            }
        }
        self.report_health(at);
        let serves = match self.reporter.readiness {
            Readiness::Firm => true,
            // Of Kubernetes not everything is known: that is not etcd's fault.
            Readiness::Starting => self.standing.is_live(),
            Readiness::Unreachable(_) => false,
        };
        self.metrics
            .set_connected(serves && !matches!(self.registry_link(at), Connectivity::Down(_)));
        for registration in self.planner.take_changed() {
            self.debouncer.changed(registration, at);
        }
        let began = Instant::now();
        while let Some(registration) = self.debouncer.take_due(at) {
            self.report_registration(&registration);
            if began.elapsed() >= AT_ONCE {
                break;
            }
        }
        self.report_registry(at)
    }

    fn report_registration(&mut self, registration: &RegistrationRef) {
        let Reporter {
            role, ref readiness, ..
        } = self.reporter;
        let Some(subject) = self.subjects.get_mut(registration) else {
            return;
        };
        let write_policy = match (role, readiness) {
            (ReporterRole::Silent, _) => return,
            (ReporterRole::Leader, Readiness::Firm | Readiness::Unreachable(_)) if self.kubernetes.complete => {
                WritePolicy::Always
            }
            (ReporterRole::Former, Readiness::Firm | Readiness::Unreachable(_)) if self.kubernetes.complete => {
                WritePolicy::Once
            }
            // Not everything is known yet: better than nothing, but not better than what a predecessor knew.
            (ReporterRole::Leader | ReporterRole::Former | ReporterRole::Spare | ReporterRole::Alone, _) => {
                WritePolicy::IfBlank
            }
        };
        let Some(report) = self.planner.report(registration) else {
            return;
        };
        let now = now();
        let about = plan::Subject {
            generation: subject.generation,
            service: &subject.service,
            registry: &self.name,
            selected: subject.selected,
            holding: self.guarding.holding(),
            aside: &subject.aside,
        };
        let mut status = status_of(&report, readiness, about, &now);
        // Without a pod there is nothing to lose.
        let is_empty = subject.selected == 0 && report.endpoints.is_empty();
        if write_policy == WritePolicy::Always
            && *readiness == Readiness::Firm
            && !report.suspended
            && (report.carried_out || is_empty)
        {
            subject.carried_out();
        }
        status.formats.clone_from(&subject.places);
        status.last_synced = subject.last_synced.as_deref().cloned();
        if let Some(denial) = &subject.denial {
            let (list, generation) = (&mut status.conditions, Some(subject.generation));
            let message = format!("Not all of this may be registered, and what may not is not in etcd: {denial}.");
            let (kind, refused) = (ConditionType::Accepted, ConditionStatus::False);
            conditions::set(list, kind, refused, Reason::AccessDenied, &message, generation, &now);
        }
        if let Some((reason, message)) = &subject.refusal {
            let (list, generation) = (&mut status.conditions, Some(subject.generation));
            let message = format!("{message} What was registered before stays in force.");
            let (kind, refused) = (ConditionType::Accepted, ConditionStatus::False);
            conditions::set(list, kind, refused, *reason, &message, generation, &now);
        }
        // Before everything is known, a key of ours may look like somebody else's.
        if *readiness == Readiness::Firm {
            let speaker = (role == ReporterRole::Leader).then_some(&self.context.events);
            let hold = self.planner.hold().map(|hold| &*hold.id);
            announce(registration, subject, (&report, hold), &status.conditions, speaker);
        }
        let note = StatusUpdate::Wanted(registration.clone(), status, write_policy);
        let _ = self.context.registrations.send(note);
        if role == ReporterRole::Alone {
            let _ = self.context.registrations.send(unconfirmed(registration, &self.name));
        }
    }

    fn report_registry(&mut self, at: Instant) -> Option<Instant> {
        let facts = self.facts(at);
        self.announce_link(&facts.link);
        self.announce_expiry(facts.expiring.as_deref());
        let write_policy = match self.reporter.role {
            ReporterRole::Silent => return None,
            ReporterRole::Spare | ReporterRole::Alone | ReporterRole::Former => WritePolicy::Once,
            ReporterRole::Leader => WritePolicy::Always,
        };
        if !self.told.tell(&facts, at) {
            return self.told.due(&facts, at);
        }
        let note = StatusUpdate::Wanted(self.name.clone(), facts.status(&now()), write_policy);
        let _ = self.context.registries.send(note);
        None
    }

    fn facts(&mut self, at: Instant) -> Facts {
        let (leases, keys) = (self.planner.leases().len(), self.planner.key_count());
        self.metrics.set_leases(leases);
        self.metrics.set_keys(keys);
        self.metrics.set_backlog(self.planner.queue());
        self.metrics.set_denied(self.planner.denied().count());
        self.metrics.set_not_adopted(self.is_not_adopted());
        let link = self.registry_link(at);
        let was_live = self.standing.was_live();
        let is_alone = matches!(self.reporter.role, ReporterRole::Spare | ReporterRole::Alone);
        Facts {
            generation: self.version.generation,
            not_adopted: self.not_adopted(),
            endpoints: if was_live {
                self.connection.access().endpoints
            } else {
                let told = self.confirmation.seen().map(|seen| seen.endpoints.clone());
                told.unwrap_or_default()
            },
            cluster_id: self.cluster_id(),
            credentials: self.credentials(&link),
            expiring: self.expiring(),
            link,
            version: self.standing.version().map(str::to_owned),
            leader: match &self.leadership {
                Leadership::Leading(_) => Some(self.context.identity.to_string()),
                Leadership::Standby { leader } if !is_alone => Some(leader.clone()),
                Leadership::Standby { .. } | Leadership::Seeking => None,
            },
            replicas: self.connected_replicas(at),
            leases: was_live.then_some(leases),
            keys: was_live.then_some(keys),
            is_alone,
            holding: self.guarding.holding().clone(),
            unused: self.unused_endpoints(),
            denied: self.denied_words(),
            outdated: self.kubernetes.outdated.clone(),
        }
    }

    /// The endpoints that are not used and why; none if there is no such one, or a single endpoint, of which the condition
    /// speaks anyway.
    fn unused_endpoints(&self) -> Option<String> {
        let faults = self.connection.faults();
        let is_single = self.connection.access().endpoints.len() == 1;
        let words: Vec<_> = faults
            .iter()
            .map(|(endpoint, fault)| fault.describe(endpoint))
            .collect();
        (!words.is_empty() && !is_single).then(|| words.join("; "))
    }

    /// How the Registry stands as a whole: one whose view is live may still take no writes.
    fn registry_link(&self, at: Instant) -> Connectivity {
        let refused = self.writing.trouble(at).or(self.standing.full());
        match (self.standing.link(at), refused) {
            (Connectivity::Up, Some(trouble)) => Connectivity::Down(trouble.clone()),
            (link, _) => link,
        }
    }

    fn role(&self) -> ReporterRole {
        // What goes by the same name there may be another cluster's.
        if !self.context.cluster_confirmed.is_cancelled() {
            return ReporterRole::Silent;
        }
        match &self.leadership {
            Leadership::Leading(_) => ReporterRole::Leader,
            // Another replica that is named in its place has taken over, and knows better.
            Leadership::Seeking if self.led && !self.confirmation.names_other(&self.context.identity) => {
                ReporterRole::Former
            }
            Leadership::Standby { .. } | Leadership::Seeking => match self.outcome {
                Outcome::Silent | Outcome::Ask => ReporterRole::Silent,
                Outcome::Registry => ReporterRole::Spare,
                Outcome::All => ReporterRole::Alone,
            },
        }
    }

    /// Whether no other replica is known that could lead this Registry.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.outcome, Outcome::Registry | Outcome::All)
    }

    /// Finds out whether a replica still confirms what the status says, where this one is cut off from etcd; returns when
    /// to look again.
    pub(super) fn confirm(&mut self, at: Instant) -> Option<Instant> {
        let facts = confirmation::Facts {
            cut_off: !self.leads() && matches!(self.standing.link(at), Connectivity::Down(_)),
            identity: &self.context.identity,
            peer_is_connected: confirmation::peer_is_connected(&self.elsewhere(at)),
        };
        let (outcome, wake) = self.confirmation.step(facts, at);
        if outcome == Outcome::Ask && self.context.cluster_confirmed.is_cancelled() {
            let _ = self.context.registries.send(question(&self.name));
        }
        if std::mem::replace(&mut self.outcome, outcome) != outcome {
            // What was said since may have been said otherwise.
            self.told.forget();
        }
        wake
    }

    fn readiness(&self, at: Instant) -> Readiness {
        let unreachable = |trouble: &Trouble| Readiness::Unreachable(trouble.message.clone());
        match (self.standing.link(at), self.writing.trouble(at)) {
            (Connectivity::Down(trouble), _) => unreachable(&trouble),
            (Connectivity::Up | Connectivity::Unsure, Some(trouble)) => unreachable(trouble),
            (_, None) if self.catching_up.is_some() => Readiness::Starting,
            (Connectivity::Up, None) if self.kubernetes.complete => Readiness::Firm,
            // A view that was live a moment ago still tells what is there.
            (Connectivity::Unsure, None) if self.reporter.readiness == Readiness::Firm => Readiness::Firm,
            (Connectivity::Up | Connectivity::Unsure, None) => Readiness::Starting,
        }
    }

    fn reporter(&self, at: Instant) -> Reporter {
        let (role, readiness) = (self.role(), self.readiness(at));
        Reporter { role, readiness }
    }

    /// Tells `/readyz` and the other replicas how this one stands with the Registry.
    fn report_health(&mut self, at: Instant) {
        let link = self.standing.link(at);
        // Leases that are granted later are renewed by this replica from the start.
        self.renewed =
            !matches!(link, Connectivity::Down(_)) && (self.renewed || self.standing.is_live() && self.has_renewed(at));
        let renewed = self.renewed;
        let yields_to = self.yields_to().filter(|_| !self.leads());
        let health = match (&self.leadership, &self.reporter.readiness, yields_to) {
            (_, Readiness::Unreachable(_), _) => RegistryHealth::Unreachable(self.elsewhere(at)),
            (_, Readiness::Starting, _) => RegistryHealth::Starting,
            (_, Readiness::Firm, _) if !renewed => RegistryHealth::Renewing,
            (_, Readiness::Firm, Some(other)) => RegistryHealth::Yielding(other),
            (Leadership::Leading(_), Readiness::Firm, None) => RegistryHealth::Leading,
            (Leadership::Standby { .. }, Readiness::Firm, None) => RegistryHealth::StandingBy,
            (Leadership::Seeking, Readiness::Firm, None) => RegistryHealth::Electing,
        };
        self.state_to_peers(renewed);
        if health == self.health {
            return;
        }
        if matches!(health, RegistryHealth::Leading | RegistryHealth::StandingBy) {
            // The candidates in etcd say who else there is from now on.
            self.context.peers.drop_hints(&self.name);
        }
        self.health = health.clone();
        self.context.health.set_registry(&self.name, health);
    }
}
