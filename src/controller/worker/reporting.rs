//! Reports what is registered: in the status of each registration and of the Registry, in gauges and on `/readyz`.

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
use crate::backend::{Backend, Leadership};
use crate::controller::cache::Cache;
use crate::controller::debouncer::Debouncer;
use crate::controller::gates::{GateEvent, spec_version};
use crate::controller::source::Obstacle;
use crate::kube::{Amendment, StatusUpdate, WritePolicy};
use crate::model::RegistrationRef;
use crate::plan::{self, EndpointKind, Holding, Readiness, status_of};
use crate::telemetry::RegistryHealth;

/// Changes within this time are reported together.
const SETTLE: Duration = Duration::from_millis(50);
/// Minimum time between two statuses of one registration.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many bytes of status a registration may write per second on average. A status may have a thousand endpoints, and
/// each write is stored in the etcd of Kubernetes and sent to every client that watches registrations.
const BYTES_PER_SECOND: u32 = 20_000;

/// How long to write reports before pending writes are looked at again: the reports of many registrations take a while.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Limits how often the status of a registration is written.
pub fn debouncer() -> Debouncer<RegistrationRef> {
    Debouncer::new(SETTLE, INTERVAL)
}

/// Returns the time between this status and the next one.
pub fn pace(status: &ServiceRegistrationStatus) -> Duration {
    let bytes = serde_json::to_vec(status).map_or(0, |json| json.len());
    Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / BYTES_PER_SECOND
}

/// What the status of a registration needs beyond what the planner knows.
#[derive(Debug)]
pub struct Subject {
    service: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    /// Number of pods that it selects, ready or not.
    selected: usize,
    /// Why formats of it are suppressed in favour of another registration's.
    pub(super) suppressed: Vec<String>,
    kind: EndpointKind,
    /// Why nothing, or not everything, of its Service can be registered now.
    obstacle: Option<Obstacle>,
    /// Why the newest spec is not in force.
    pub(super) refusal: Option<(Reason, String)>,
    /// Why the Registry's rules do not let some of its formats be written.
    pub(super) denial: Option<String>,
    /// Why attributes of it are in no record.
    missing: Option<Obstacle>,
    places: Vec<FormatStatus>,
    /// Which keys and values it asks for.
    identity: Option<Arc<LastSynced>>,
    /// The last spec that was fully written.
    last_synced: Option<Arc<LastSynced>>,
    /// Which Events were published.
    pub(super) announced: Announced,
}

impl Subject {
    pub fn new(service: Arc<str>, version: Version, selected: usize) -> Self {
        Self {
            service,
            uid: version.uid,
            generation: version.generation,
            selected,
            suppressed: Vec::new(),
            kind: EndpointKind::default(),
            obstacle: None,
            refusal: None,
            denial: None,
            missing: None,
            places: Vec::new(),
            identity: None,
            last_synced: None,
            announced: Announced::default(),
        }
    }

    /// Sets the reasons for which formats of it are suppressed.
    pub fn suppressed(self, suppressed: Vec<String>) -> Self {
        Self { suppressed, ..self }
    }

    /// Sets what it registers, why that is not possible now, and why attributes are missing.
    pub fn of(self, kind: EndpointKind, obstacle: Option<Obstacle>, missing: Option<Obstacle>) -> Self {
        Self {
            kind,
            obstacle,
            missing,
            ..self
        }
    }

    /// Sets what its status records for the next leader.
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

    /// Takes over which Events were published, if `former` is the same version: they are not published again.
    pub fn take_over(&mut self, former: Self) {
        if (&former.uid, former.generation) == (&self.uid, self.generation) {
            self.announced = former.announced;
        }
    }

    /// Records that the spec in force is fully written.
    fn carried_out(&mut self) {
        let is_same = |last: &Arc<LastSynced>| self.identity.as_ref().is_some_and(|now| last.is_same(now));
        if !self.last_synced.as_ref().is_some_and(is_same) {
            self.last_synced = self.identity.clone().filter(|now| now.is_recordable());
        }
    }

    /// Sets the number of selected pods. Returns whether it has changed and the status needs an update.
    pub fn select(&mut self, selected: usize) -> bool {
        std::mem::replace(&mut self.selected, selected) != selected
    }

    /// Records that its newest spec, of this generation, cannot be carried out.
    pub fn refuse(&mut self, generation: i64, reason: Reason, message: String) {
        self.generation = generation;
        self.refusal = Some((reason, message));
    }
}

/// In which role this replica writes statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReporterRole {
    /// Writes none: another replica does, or none is needed yet.
    Silent,
    /// Cut off from etcd, and the status names no other replica as the leader. Reports on the Registry, and on
    /// registrations without a status.
    Spare,
    /// The same, and no replica confirms the statuses of the registrations any more.
    Alone,
    /// The last known leader, while etcd does not report who leads now. Another replica may lead and know better, so
    /// each report is written only once. Otherwise two replicas would overwrite each other for ever.
    Former,
    Leader,
}

/// Role and readiness of this replica. Its reports change with them.
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

/// Logs that this replica cannot serve a Registry, because of its endpoints or its credentials.
pub fn cannot_serve(name: &Arc<str>, trouble: &Trouble) {
    tracing::error!(registry = %name, reason = trouble.reason, cause = trouble.message, "this Registry cannot be used");
}

/// Reports that this replica cannot serve a Registry, as far as `outcome` lets it. `registrations` are those of the
/// Registry.
pub fn report_invalid(
    name: &Arc<str>,
    generation: i64,
    context: &Context,
    trouble: &Trouble,
    (outcome, registrations): (Outcome, &BTreeSet<RegistrationRef>),
) {
    // The status writer ends only with the process.
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
        other_namespaces: None,
    };
    let update = StatusUpdate::Wanted(name.clone(), facts.status(&now()), WritePolicy::Once);
    let _ = context.registries.send(update);
}

/// Removes the leader's name from the status of the Registry `name`. A leader that lives puts it back.
pub fn question(name: &Arc<str>) -> StatusUpdate<Registry> {
    tracing::warn!(registry = %name, "cannot reach etcd; asking through the status whether the leader is alive");
    StatusUpdate::Amended(
        name.clone(),
        Amendment::new(|status: &mut RegistryStatus| status.leader = None),
    )
}

/// Sets the conditions of a registration to `Unknown`: no replica confirms its status any more. All other fields stay
/// as the last replica wrote them.
pub fn unconfirmed(registration: &RegistrationRef, registry: &str) -> StatusUpdate<ServiceRegistration> {
    let message = format!(
        "No replica of the operator confirms what is in etcd: see the condition Connected of Registry \"{registry}\". \
         The rest of this status is the last known state."
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

impl<B: Backend> RegistryWorker<B> {
    /// Writes the reports that are due. Returns when the Registry's status is to be written again.
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
            // An incomplete view of Kubernetes is not etcd's fault.
            Readiness::Starting => self.state.is_live(),
            Readiness::Unreachable(_) => false,
        };
        self.metrics
            .set_connected(serves && !matches!(self.registry_link(at), Connectivity::Down(_)));
        for registration in self.planner.take_changed() {
            self.debouncer.changed(registration, at);
        }
        let began = Instant::now();
        while let Some(registration) = self.debouncer.take_due(at) {
            self.report_registration(&registration, at);
            if began.elapsed() >= AT_ONCE {
                break;
            }
        }
        self.report_registry(at)
    }

    /// Reports which pods that wait for their readiness gate have all their records in etcd. The cache is the one by
    /// which the planner has computed the records.
    pub(super) fn report_gated(&mut self, cache: &Cache) {
        // The task that takes these in ends only with the process.
        for gated in self.planner.take_gated() {
            if let Some(spec) = spec_version(cache, &gated.registration) {
                let registered = GateEvent::Registered(gated, self.name.clone(), spec);
                let _ = self.context.gates.send(registered);
            }
        }
    }

    fn report_registration(&mut self, registration: &RegistrationRef, at: Instant) {
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
            // Not everything is known yet. The report replaces an empty status, but not that of a predecessor.
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
            kind: subject.kind,
            selected: subject.selected,
            obstacle: subject.obstacle.as_ref().map(Obstacle::condition),
            missing: subject.missing.as_ref().map(Obstacle::condition),
            holding: self.guarding.holding(),
            suppressed: &subject.suppressed,
        };
        let mut status = status_of(&report, readiness, about, &now);
        // Without a pod there is no key to write.
        let is_empty = subject.selected == 0 && report.endpoints.is_empty();
        if write_policy == WritePolicy::Always
            && *readiness == Readiness::Firm
            && !report.suspended
            && (report.carried_out || is_empty)
        {
            subject.carried_out();
        }
        let counted = |place: &FormatStatus| FormatStatus {
            records: Some(plan::count(report.records_below(&place.location))),
            ..place.clone()
        };
        status.formats = subject.places.iter().map(counted).collect();
        status.last_synced = subject.last_synced.as_deref().cloned();
        if let Some(denial) = &subject.denial {
            let (list, generation) = (&mut status.conditions, Some(subject.generation));
            let mut message =
                format!("Access rules deny formats of this registration, so these are not in etcd: {denial}.");
            if let Some(missing) = &subject.missing {
                message = format!("{message} {}", missing.message);
            }
            let (kind, refused) = (ConditionType::Accepted, ConditionStatus::False);
            conditions::set(list, kind, refused, Reason::AccessDenied, &message, generation, &now);
        }
        if let Some((reason, message)) = &subject.refusal {
            let (list, generation) = (&mut status.conditions, Some(subject.generation));
            let message = format!("{message} The spec that was applied before stays in force.");
            let (kind, refused) = (ConditionType::Accepted, ConditionStatus::False);
            conditions::set(list, kind, refused, *reason, &message, generation, &now);
        }
        // Before everything is known, a key of ours may look like a foreign key.
        if *readiness == Readiness::Firm {
            let speaker = (role == ReporterRole::Leader).then_some(&self.context.events);
            let hold = self.planner.hold().map(|hold| &*hold.id);
            announce(registration, subject, (&report, hold), &status.conditions, speaker);
        }
        self.debouncer.postpone(registration, at + pace(&status));
        let update = StatusUpdate::Wanted(registration.clone(), status, write_policy);
        let _ = self.context.registrations.send(update);
        if role == ReporterRole::Alone {
            let _ = self.context.registrations.send(unconfirmed(registration, &self.name));
        }
    }

    fn report_registry(&mut self, at: Instant) -> Option<Instant> {
        let facts = self.facts(at);
        self.announce_link(&facts.link);
        self.announce_expiry(facts.expiring.as_deref());
        self.announce_giving_way();
        let write_policy = match self.reporter.role {
            ReporterRole::Silent => return None,
            ReporterRole::Spare | ReporterRole::Alone | ReporterRole::Former => WritePolicy::Once,
            ReporterRole::Leader => WritePolicy::Always,
        };
        if !self.reported.report(&facts, at) {
            return self.reported.due(&facts, at);
        }
        let update = StatusUpdate::Wanted(self.name.clone(), facts.status(&now()), write_policy);
        let _ = self.context.registries.send(update);
        None
    }

    fn facts(&mut self, at: Instant) -> Facts {
        let (leases, keys) = (self.planner.leases().len(), self.planner.key_count());
        self.metrics.set_leases(leases);
        self.metrics.set_keys(keys);
        self.metrics.set_backlog(self.planner.queued());
        self.metrics.set_denied(self.planner.denied().count());
        self.metrics.set_not_adopted(self.is_not_adopted());
        let link = self.registry_link(at);
        let was_live = self.state.was_live();
        let is_alone = matches!(self.reporter.role, ReporterRole::Spare | ReporterRole::Alone);
        Facts {
            generation: self.version.generation,
            not_adopted: self.not_adopted(),
            endpoints: if was_live {
                self.backend.access().endpoints
            } else {
                let reported = self.confirmation.seen().map(|seen| seen.endpoints.clone());
                reported.unwrap_or_default()
            },
            cluster_id: self.cluster_id(),
            credentials: self.credentials(&link),
            expiring: self.expiring(),
            link,
            version: self.state.version().map(str::to_owned),
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
            other_namespaces: self.candidates.with_other_namespaces(),
        }
    }

    /// The unused endpoints, with reasons. None if all are used, or if there is only one: its condition describes it
    /// anyway.
    fn unused_endpoints(&self) -> Option<String> {
        let words = self.backend.unused_endpoints();
        let is_single = self.backend.access().endpoints.len() == 1;
        (!words.is_empty() && !is_single).then(|| words.join("; "))
    }

    /// The state of the Registry as a whole: an etcd whose watch is live may still take no writes.
    fn registry_link(&self, at: Instant) -> Connectivity {
        let refused = self.writing.trouble(at).or(self.state.full());
        match (self.state.link(at), refused) {
            (Connectivity::Up, Some(trouble)) => Connectivity::Down(trouble.clone()),
            (link, _) => link,
        }
    }

    fn role(&self) -> ReporterRole {
        // A Registry of the same name may belong to another cluster there.
        if !self.context.cluster_confirmed.is_cancelled() {
            return ReporterRole::Silent;
        }
        match &self.leadership {
            Leadership::Leading(_) => ReporterRole::Leader,
            // Another replica that the status names in its place has taken over and knows better.
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

    /// While this replica is cut off from etcd, finds out whether another replica still confirms the status. Returns
    /// when to look again.
    pub(super) fn confirm(&mut self, at: Instant) -> Option<Instant> {
        let facts = confirmation::Facts {
            cut_off: !self.leads() && matches!(self.state.link(at), Connectivity::Down(_)),
            identity: &self.context.identity,
            peer_is_connected: confirmation::peer_is_connected(&self.elsewhere(at)),
        };
        let (outcome, wake) = self.confirmation.step(facts, at);
        if outcome == Outcome::Ask && self.context.cluster_confirmed.is_cancelled() {
            let _ = self.context.registries.send(question(&self.name));
        }
        if std::mem::replace(&mut self.outcome, outcome) != outcome {
            // Another replica may have overwritten the status since.
            self.reported.forget();
        }
        wake
    }

    fn readiness(&self, at: Instant) -> Readiness {
        let unreachable = |trouble: &Trouble| Readiness::Unreachable(trouble.message.clone());
        match (self.state.link(at), self.writing.trouble(at)) {
            (Connectivity::Down(trouble), _) => unreachable(&trouble),
            (Connectivity::Up | Connectivity::Unsure, Some(trouble)) => unreachable(trouble),
            (_, None) if self.catching_up.is_some() => Readiness::Starting,
            (Connectivity::Up, None) if self.kubernetes.complete => Readiness::Firm,
            // A view that was live a moment ago is still accurate enough.
            (Connectivity::Unsure, None) if self.reporter.readiness == Readiness::Firm => Readiness::Firm,
            (Connectivity::Up | Connectivity::Unsure, None) => Readiness::Starting,
        }
    }

    fn reporter(&self, at: Instant) -> Reporter {
        let (role, readiness) = (self.role(), self.readiness(at));
        Reporter { role, readiness }
    }

    /// Reports the state of this replica for the Registry to `/readyz` and to the other replicas.
    fn report_health(&mut self, at: Instant) {
        let link = self.state.link(at);
        // This replica renews leases that are granted later from the start.
        self.renewed =
            !matches!(link, Connectivity::Down(_)) && (self.renewed || self.state.is_live() && self.has_renewed(at));
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
            // From now on the candidate records in etcd name the other replicas.
            self.context.peers.drop_hints(&self.name);
        }
        self.health = health.clone();
        self.context.health.set_registry(&self.name, health);
    }
}
