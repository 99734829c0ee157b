//! The worker of one Registry. It receives the desired state as [`Command`]s and the observed state from the mirror.
//! While this replica leads, it carries out the planner's steps from one to the other.
//!
//! Owns the planner, the tasks that talk to this etcd, and the decision when to write and when to report. `plan`
//! decides what to write. The worker never waits for etcd: every request runs in its own task, so commands are taken in
//! and leases renewed whatever etcd does.

mod backend_health;
mod candidates;
mod command;
mod commands;
mod confirmation;
mod credentials;
mod events;
mod expiry;
mod guarding;
mod orphans;
mod permission_probe;
mod preview;
mod registry_status;
mod rejections;
mod reporting;
mod rights;
mod serve;
mod takeover;
#[cfg(test)]
mod tests;
mod write_slots;
mod writing;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::backend_health::BackendHealth;
pub use self::backend_health::Trouble;
use self::candidates::Candidates;
pub use self::command::{Command, MissingPod, Outdated, Register, StatusSeen, Version};
use self::confirmation::Confirmation;
use self::credentials::Credentials;
pub use self::credentials::trouble;
use self::guarding::Guarding;
pub use self::guarding::settings as guard_settings;
use self::permission_probe::Found;
pub use self::preview::PreviewWorker;
use self::registry_status::ReportedStatus;
use self::reporting::{Reporter, Subject};
use self::rights::{PermissionProbe, Probed, Rights};
pub use self::serve::serve;
use self::takeover::CatchingUp;
use self::write_slots::WriteSlot;
use self::writing::{Rest, Writing};
use super::cache::{Cache, SharedCache};
use super::debouncer::Debouncer;
use super::gates::GateEvent;
use crate::api::{Limits, RecordFormat, Registry, ServiceRegistration};
use crate::backend::{self, Access, Backend, Candidacy, Leadership, Leases, Timeouts};
use crate::kube::{Events, SharedCheckpoint, Source, StatusUpdate, WriterCommand};
use crate::model::{
    Fence, Freshness, Key, KeyValue, LeaderFlag, LeaseId, PrefixChanges, RegistrationRef, Revision, TxnOutcome,
};
use crate::peer::{PeerStatuses, Peers};
use crate::plan::{LeaseGroups, Planner, Ticket};
use crate::telemetry::{Health, Metrics, RegistryHealth, RegistryMetrics};

/// Interval of housekeeping.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_mins(1);
/// About the maximum number of pods that are computed at once while the cache is locked, apart from the work in
/// transactions.
const REFRESHED: usize = 2048;
/// How often the guard decides while the cache is locked.
const ROUNDS: usize = 4;

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Context {
    /// The UID that identifies this Kubernetes cluster.
    pub cluster_id: Arc<str>,
    /// The class of the Registries that this installation serves; if none, those without a class.
    pub class: Option<Arc<str>>,
    /// The name of this replica.
    pub identity: Arc<str>,
    /// TTL of the election session, in seconds.
    pub session_ttl: u32,
    /// Timeouts of requests to a store.
    pub timeouts: Timeouts,
    /// The checkpoint of the Kubernetes watches, and the namespaces that they cover.
    pub checkpoint: SharedCheckpoint,
    pub registrations: mpsc::UnboundedSender<StatusUpdate<ServiceRegistration>>,
    pub registries: mpsc::UnboundedSender<StatusUpdate<Registry>>,
    pub record_formats: mpsc::UnboundedSender<StatusUpdate<RecordFormat>>,
    pub events: Events,
    /// To the task that opens the readiness gates of pods.
    pub gates: mpsc::UnboundedSender<GateEvent>,
    pub metrics: Metrics,
    /// Backs `/readyz`.
    pub health: Health,
    /// Cancelled once the API server has reported which cluster it serves. No worker campaigns before: a replica that
    /// cannot know the desired state must not keep the others from leading.
    pub cluster_confirmed: CancellationToken,
    /// The operator's own namespace, which holds the Secrets and ConfigMaps that Registries name.
    pub namespace: Arc<str>,
    /// Which Secrets and ConfigMaps to watch.
    pub sources: watch::Sender<BTreeSet<Source>>,
    /// The pods and the registrations. The controller updates it.
    pub cache: SharedCache,
    /// How far Kubernetes has been observed. The controller updates it before it unlocks the cache, and after it has sent
    /// the commands that belong to the update.
    pub freshness: watch::Sender<Freshness>,
    /// Reports the endpoints and credentials that the etcd of a Registry accepted.
    pub good: mpsc::UnboundedSender<(Arc<str>, Access)>,
    /// Reports that this replica begins to lead a Registry, and has observed as much as its predecessors.
    pub led: mpsc::UnboundedSender<Arc<str>>,
    /// Writes the registrations of annotated Services; none if annotations are not carried out.
    pub registration_writer: Option<mpsc::UnboundedSender<WriterCommand>>,
    pub peers: Peers,
}

impl Context {
    /// Returns the context of a replica without other tasks: what the controller and its workers report is dropped.
    pub fn detached(cluster_id: &str, identity: &str) -> Self {
        let metrics = Metrics::new().0;
        let checkpoint = SharedCheckpoint::default();
        Self {
            cluster_id: cluster_id.into(),
            class: None,
            identity: identity.into(),
            session_ttl: 10,
            timeouts: Timeouts::default(),
            freshness: watch::Sender::new(Freshness::new(checkpoint.watch_scope().targets())),
            checkpoint,
            registrations: mpsc::unbounded_channel().0,
            registries: mpsc::unbounded_channel().0,
            record_formats: mpsc::unbounded_channel().0,
            events: Events::new(metrics.clone()).0,
            gates: mpsc::unbounded_channel().0,
            peers: Peers::none(identity.into(), &metrics),
            metrics,
            health: Health::new(),
            cluster_confirmed: CancellationToken::new(),
            namespace: "leasehold".into(),
            sources: watch::Sender::default(),
            cache: SharedCache::default(),
            good: mpsc::unbounded_channel().0,
            led: mpsc::unbounded_channel().0,
            registration_writer: None,
        }
    }
}

/// The result of a task that the worker started.
enum Done {
    Written {
        ticket: Ticket,
        slot: WriteSlot,
        /// The fence it was sent under.
        fence: Fence,
        result: backend::Result<TxnOutcome>,
        /// When the oldest change in it was observed.
        observed: Instant,
    },
    Granted {
        ttl: u32,
        result: backend::Result<LeaseId>,
    },
    /// etcd answered a status request.
    Asked(backend::Result<backend::Status>),
    /// Other endpoints or credentials were tried.
    Tried(Box<Access>, backend::Result<()>),
    /// etcd listed the keys on our leases.
    Listed(backend::Result<Vec<Key>>),
    /// The watches had a while to receive what a new leader lacks.
    StillBehind {
        /// The fence under which the worker waited.
        fence: Fence,
    },
    /// The checkpoints of former leaders were read.
    CheckpointsRead {
        /// The fence under which the worker asked for them.
        fence: Fence,
        checkpoints: backend::Result<Vec<(Key, KeyValue)>>,
        /// When the read ended.
        at: Instant,
    },
    /// Keys were read that no registration is known to want.
    Looked(backend::Result<Vec<(Key, Option<KeyValue>, Revision)>>),
    /// The permission probe found which part of a refused request etcd denies.
    Searched(PermissionProbe, backend::Result<Found>),
    /// Denied prefixes and leases were tried again.
    Probed(Probed),
    /// etcd was asked which prefixes it grants together: about all, or about those whose lease group was not known.
    LeaseGroups {
        /// Whether etcd was asked about all prefixes, and not only about those whose group was not known.
        about_all: bool,
        groups: backend::Result<LeaseGroups>,
    },
}

/// Channels from the controller, and to and from the tasks that talk to this etcd while the Registry is served.
struct Channels {
    commands: mpsc::UnboundedReceiver<Command>,
    /// To the controller: whether this replica leads.
    leader: LeaderFlag,
    /// From the election.
    leadership: watch::Receiver<Leadership>,
    /// To the mirror: the prefixes to watch.
    prefixes: mpsc::UnboundedSender<PrefixChanges>,
    /// To the renewal task: the leases to renew.
    renewals: watch::Sender<Leases>,
    /// From the renewal task: when the first lease expires. In the past while this replica has not yet renewed one of
    /// them.
    ends: watch::Receiver<Option<Instant>>,
    /// To the election.
    candidacy: watch::Sender<Candidacy>,
}

impl Channels {
    /// Returns channels to no tasks.
    fn closed(commands: mpsc::UnboundedReceiver<Command>, leader: LeaderFlag) -> Self {
        Self {
            commands,
            leader,
            leadership: watch::channel(Leadership::Seeking).1,
            prefixes: mpsc::unbounded_channel().0,
            renewals: watch::Sender::default(),
            ends: watch::channel(None).1,
            candidacy: watch::Sender::default(),
        }
    }
}

/// How complete and how fresh the view of Kubernetes is.
#[derive(Debug)]
struct Kubernetes {
    /// Whether everything has been listed.
    complete: bool,
    /// Which part of the view is stale.
    outdated: Option<Outdated>,
    /// Whether some registrations of this Registry are invalid or unreadable, so that their keys are not known.
    some_are_unclear: bool,
}

impl Kubernetes {
    /// A view in which nothing has been listed yet.
    fn silent() -> Self {
        Self {
            complete: false,
            outdated: None,
            some_are_unclear: false,
        }
    }
}

struct RegistryWorker<B> {
    name: Arc<str>,
    context: Context,
    metrics: RegistryMetrics,
    backend: B,
    credentials: Credentials,
    /// Whether a replica confirms the Registry's status.
    confirmation: Confirmation,
    /// What this replica may report while it does not lead.
    outcome: confirmation::Outcome,
    /// Every etcd user that may write here may read this key, so access is checked with it.
    leader_key: Key,
    limits: Limits,
    /// The Registry object and the version of its spec.
    version: Version,

    planner: Planner,
    kubernetes: Kubernetes,
    /// Since when the view of Kubernetes is stale. None while it is complete and up to date.
    stale_since: Option<Instant>,
    /// When this worker started.
    began: Instant,
    candidates: Candidates,
    /// The namespaces of the candidate for which this replica does not claim the lead, as reported.
    gives_way_to: Option<BTreeSet<Arc<str>>>,
    /// What is known of the processes of the other replicas.
    presences: watch::Receiver<PeerStatuses>,
    /// How far Kubernetes has been observed, in changes of which this worker may not know yet.
    freshness: watch::Receiver<Freshness>,
    /// What a new leader still has to observe before it writes.
    catching_up: Option<CatchingUp>,

    lines: Channels,
    /// The last election result that the worker has processed. The worker acts on no newer one.
    leadership: Leadership,
    /// Whether this replica was the last known leader.
    led: bool,
    /// The last fence that this replica had.
    last_fence: Option<Fence>,

    state: BackendHealth,
    writing: Writing,
    rights: Rights,
    rejections: rejections::Rejections,
    orphans: orphans::OrphanCollection,
    guarding: Guarding,
    /// When the next housekeeping is due.
    housekeeping_at: Instant,

    subjects: HashMap<RegistrationRef, Subject>,
    debouncer: Debouncer<RegistrationRef>,
    reported: ReportedStatus,
    /// Whether an Event has reported trouble with etcd, and none has reported its end yet.
    outage_announced: bool,
    /// The role and the readiness at the last report.
    reporter: Reporter,
    /// The state that `/readyz` has.
    health: RegistryHealth,
    /// Whether this replica has renewed every recorded lease since it was connected.
    renewed: bool,
    /// The fence under which the desired records of all marked pods were computed last.
    refreshed_for: Option<Fence>,

    tasks: JoinSet<Done>,
}

impl<B: Backend> RegistryWorker<B> {
    fn new(
        name: Arc<str>,
        (limits, version): (Limits, Version),
        context: Context,
        (backend, leader_key): (B, Key),
        planner: Planner,
        lines: Channels,
    ) -> Self {
        let now = Instant::now();
        Self {
            metrics: context.metrics.registry(&name),
            stale_since: Some(now),
            began: now,
            candidates: Candidates::new(
                planner.meta().prefix().clone(),
                planner.meta().candidates(),
                context.checkpoint.watch_scope().namespaces(),
            ),
            gives_way_to: None,
            presences: context.peers.statuses(),
            freshness: context.freshness.subscribe(),
            health: RegistryHealth::Starting,
            renewed: false,
            refreshed_for: None,
            planner,
            writing: Writing::new(&limits, now),
            limits,
            kubernetes: Kubernetes::silent(),
            catching_up: None,
            leadership: Leadership::Seeking,
            led: false,
            last_fence: None,
            state: BackendHealth::new(now),
            rights: Rights::new(backend.capabilities()),
            rejections: rejections::Rejections::default(),
            orphans: orphans::OrphanCollection::default(),
            guarding: Guarding::default(),
            housekeeping_at: now + HOUSEKEEPING_INTERVAL,
            subjects: HashMap::new(),
            debouncer: reporting::debouncer(),
            reported: ReportedStatus::default(),
            outage_announced: false,
            confirmation: Confirmation::new(Duration::from_secs(context.session_ttl.into())),
            outcome: confirmation::Outcome::default(),
            reporter: Reporter::default(),
            tasks: JoinSet::new(),
            name,
            context,
            backend,
            credentials: Credentials::default(),
            leader_key,
            version,
            lines,
        }
    }

    /// Does everything that is due. Returns when to act again if nothing happens before.
    fn act(&mut self) -> Instant {
        let now = Instant::now();
        let cache = self.context.cache.clone();
        let cache = cache.read();
        self.take_commands();
        self.has_caught_up();
        if self.planner.set_time(guarding::moment()) {
            self.writing.observed(now);
        }
        if self.kubernetes.complete
            && let Some(changes) = self.planner.take_changed_prefixes()
        {
            // The mirror ends only with the process or with this worker.
            let _ = self.lines.prefixes.send(changes);
        }
        self.ask_for_lease_groups(now);
        self.probe(now);
        self.retry_rejected(now);
        self.reconcile(&cache, now);
        self.report_gated(&cache);
        drop(cache);
        self.show_leader();
        if now >= self.housekeeping_at {
            self.housekeeping_at = now + HOUSEKEEPING_INTERVAL;
            self.do_housekeeping(now);
            self.rights.may_have_changed();
        }
        if let Some(renewals) = self.planner.leases().take_changed_renewals() {
            self.lines.renewals.send_replace(Arc::new(renewals));
        }
        let confirm_at = self.confirm(now);
        self.try_offer(now);
        self.ask(now);
        self.orphans(now);
        let stand_due = self.stand(now);
        let report_due = self.report(now);
        let wakes = [
            self.writing.wake_at(now),
            self.rejections.wake_at(),
            self.state.ask_at(),
            self.state.changes_at(now),
            self.orphans.wake_at(now),
            self.debouncer.next_due(),
            report_due,
            stand_due,
            confirm_at,
            Some(self.housekeeping_at),
            self.guard_wakes_at(),
            self.planner.next_available_at(),
            self.credentials.wake_at(),
            self.rights
                .wake_at(self.leads(), !self.planner.prefixes_without_lease_group().is_empty()),
        ];
        wakes.into_iter().flatten().min().expect("housekeeping has a time")
    }

    /// Reports whether this replica leads, as soon as it has caught up with its predecessors.
    fn show_leader(&self) {
        let leads = self.leads() && self.catching_up.is_none() && self.kubernetes.complete;
        if self.lines.leader.set(leads) {
            // The receivers end only with the process.
            let _ = self.context.gates.send(GateEvent::Leads(self.name.clone(), leads));
            if leads {
                let _ = self.context.led.send(self.name.clone());
            }
        }
    }

    /// Computes the desired records of the pods that changed, decides about unconfirmed removals, and writes.
    fn reconcile(&mut self, cache: &Cache, now: Instant) {
        self.writing.rest = Rest::Nothing;
        self.planner.end_left(cache);
        if !self.reconciles_by_item(now) && self.planner.refresh_all(cache, REFRESHED) {
            return self.refresh_first();
        }
        for _ in 0..ROUNDS {
            self.guard(now);
            self.write(cache, now);
            // The guard decides about pods that were just found not to be ready.
            if !self.may_judge() || !self.planner.has_undecided() {
                return;
            }
            // The guard decides about a burst of removals as a whole, because each part of it may look harmless.
            let is_incomplete = if self.planner.is_loss_near_limit() {
                let is_incomplete = self.planner.refresh_all(cache, REFRESHED);
                self.planner.release_all_previous();
                is_incomplete
            } else {
                self.planner.refresh_within_limits(cache, REFRESHED)
            };
            if is_incomplete {
                break;
            }
        }
        self.refresh_first();
    }

    /// Has all marked pods computed before anything else is decided.
    fn refresh_first(&mut self) {
        self.refreshed_for = None;
        self.writing.rest = Rest::More;
    }

    /// Whether the desired records of a pod are computed only when its work item is popped. Before the first write under
    /// a fence, all of them are computed, so that the leader acts on nothing older than it has observed. The guard needs
    /// all of them, too, before it decides which keys a predecessor left.
    fn reconciles_by_item(&mut self, now: Instant) -> bool {
        let fence = self.may_write(now);
        let is_same = fence.is_some() && fence == self.refreshed_for;
        let is_settled = self.kubernetes.complete && self.planner.has_decided_leftovers();
        self.refreshed_for = fence;
        is_same && is_settled
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
