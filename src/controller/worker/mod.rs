//! One Registry's part of the operator: what its etcd should hold is told by [`Command`]s, what it does hold by the
//! mirror, and the ledger's steps from one to the other are carried out while this replica leads.
//!
//! Owns the ledger, the tasks that talk to this etcd, and the decision when to write and when to report. What to write
//! is `plan`'s decision. A registrar never waits for etcd: every request is a task of its own, so orders are
//! taken and leases renewed whatever etcd does.

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

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::backend_health::BackendHealth;
pub use self::backend_health::Trouble;
use self::candidates::Candidates;
pub use self::command::{Command, Outdated, StatusSeen, Version};
use self::confirmation::Confirmation;
use self::credentials::Credentials;
pub use self::credentials::trouble;
use self::guarding::Guarding;
pub use self::guarding::terms as guard_terms;
use self::permission_probe::Found;
use self::registry_status::Told;
use self::reporting::{Reporter, Subject};
use self::rights::{PermissionProbe, Probed, Rights};
pub use self::serve::serve;
use self::takeover::CatchingUp;
use self::write_slots::WriteSlot;
use self::writing::Writing;
use super::bypass::RateLimitBypass;
use super::debouncer::Debouncer;
use crate::api::{Limits, RecordFormat, Registry, ServiceRegistration};
use crate::etcd::{self, Access, Candidacy, Connection, Leadership, Timeouts};
use crate::index::RegistrationRef;
use crate::kube::{Events, SharedCheckpoint, Source, StatusUpdate, WatchScope};
use crate::peer::{PeerStatuses, Peers};
use crate::plan::{
    Fence, Freshness, Key, KeyValue, LeaseGroups, LeaseId, Planner, Prefix, Revision, Ticket, TxnOutcome,
};
use crate::telemetry::{Health, Metrics, RegistryHealth, RegistryMetrics};

/// Between two rounds of keeping house.
const HOUSE: Duration = Duration::from_mins(1);

/// What all registrars share.
#[derive(Clone, Debug)]
pub struct Context {
    /// The UID that names this Kubernetes cluster.
    pub cluster_id: Arc<str>,
    /// This replica.
    pub identity: Arc<str>,
    /// TTL of the session of an election, in seconds.
    pub session_ttl: u32,
    /// How long calls to etcd may take.
    pub timeouts: Timeouts,
    /// How far Kubernetes is being heard, and which namespaces of it.
    pub hearing: SharedCheckpoint,
    /// Where statuses of registrations are written.
    pub registrations: mpsc::UnboundedSender<StatusUpdate<ServiceRegistration>>,
    /// Where statuses of Registries are written.
    pub registries: mpsc::UnboundedSender<StatusUpdate<Registry>>,
    /// Where statuses of RecordFormats are written.
    pub record_formats: mpsc::UnboundedSender<StatusUpdate<RecordFormat>>,
    /// Where Events are published.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// What `/readyz` is told.
    pub health: Health,
    /// Set off once the apiserver has said which cluster it serves: nobody stands for election before. Who cannot know
    /// what is wanted must not keep those from leading that do.
    pub cluster_confirmed: CancellationToken,
    /// The operator's own namespace: the Secrets that Registries name are there.
    pub namespace: Arc<str>,
    /// Which of them are to be watched.
    pub sources: watch::Sender<BTreeSet<Source>>,
    /// Whether a registrar waits for all that has been heard.
    pub bypass: RateLimitBypass,
    /// Where is told which access to a Registry's etcd has proven good.
    pub good: mpsc::UnboundedSender<(Arc<str>, Access)>,
    /// The other replicas.
    pub peers: Peers,
}

/// What a task that was started here brought home.
enum Done {
    /// A transaction ended.
    Written {
        ticket: Ticket,
        /// What it went on.
        track: WriteSlot,
        /// The proof of leadership it was sent under.
        fence: Fence,
        result: etcd::Result<TxnOutcome>,
        /// When the oldest change in it was heard of.
        heard: Instant,
    },
    /// A grant ended.
    Granted {
        lease: LeaseId,
        ttl: u32,
        result: etcd::Result<i64>,
    },
    /// etcd was asked for its status.
    Asked(etcd::Result<etcd::Status>),
    /// Other credentials were tried.
    Tried(Box<Access>, etcd::Result<()>),
    /// etcd was asked which keys are on our leases.
    Listed(etcd::Result<Vec<Key>>),
    /// The notes were read that predecessors left.
    NotesRead {
        /// The proof of leadership under which they were asked for.
        fence: Fence,
        notes: etcd::Result<Vec<(Key, KeyValue)>>,
        /// When they had been read.
        at: Instant,
    },
    /// Keys were read that nobody is known to want.
    Looked(etcd::Result<Vec<(Key, Option<KeyValue>, Revision)>>),
    /// It was found out what etcd refused to write.
    Searched(PermissionProbe, etcd::Result<Found>),
    /// What was denied has been tried again.
    Probed(Probed),
    /// etcd was asked what it grants together.
    LeaseGroups(etcd::Result<LeaseGroups>),
}

/// To and from the parts that talk to this etcd for as long as it is served.
struct Channels {
    /// From the election.
    leadership: watch::Receiver<Leadership>,
    /// To the mirror.
    scopes: mpsc::UnboundedSender<Arc<BTreeSet<Prefix>>>,
    /// To the renewal.
    renewals: watch::Sender<etcd::Leases>,
    /// From the renewal: when the first lease would lapse; in the past while one has not been renewed here.
    ends: watch::Receiver<Option<Instant>>,
    /// To the election.
    candidacy: watch::Sender<Candidacy>,
}

/// What Kubernetes has told, as a whole.
#[derive(Debug)]
struct Kubernetes {
    /// Whether that is everything.
    complete: bool,
    /// What of it is outdated.
    outdated: Option<Outdated>,
    /// Whether there are registrations whose keys are not known.
    some_are_unclear: bool,
    /// How far it has been heard.
    progress: Freshness,
}

impl Kubernetes {
    /// It has told nothing of this territory.
    fn silent(watch_scope: &WatchScope) -> Self {
        Self {
            complete: false,
            outdated: None,
            some_are_unclear: false,
            progress: Freshness::new(watch_scope.streams()),
        }
    }
}

/// One Registry's part of the operator.
struct RegistryWorker {
    name: Arc<str>,
    context: Context,
    metrics: RegistryMetrics,
    connection: Connection,
    credentials: Credentials,
    /// Whether a replica confirms the Registry's status.
    confirmation: Confirmation,
    /// What may be said of it, while this replica does not lead.
    outcome: confirmation::Outcome,
    /// Everybody who may write here may read this.
    leader_key: Key,
    limits: Limits,
    /// The Registry, and the version of its spec.
    version: Version,

    planner: Planner,
    kubernetes: Kubernetes,
    /// Since when the view of Kubernetes is stale; none while it is complete and up to date.
    stale_since: Option<Instant>,
    /// When this began.
    began: Instant,
    candidates: Candidates,
    /// What is known of the other replicas' processes.
    presences: watch::Receiver<PeerStatuses>,
    /// What this replica has to hear before it writes, since it came to lead.
    catching_up: Option<CatchingUp>,

    lines: Channels,
    /// What the election last said, as far as it was taken in: before that, nothing is done by it.
    leadership: Leadership,
    /// Whether this replica was the last one known to lead.
    led: bool,
    /// The proof of leadership that it last had.
    last_fence: Option<Fence>,

    standing: BackendHealth,
    writing: Writing,
    rights: Rights,
    rejections: rejections::Rejections,
    sweep: orphans::OrphanCollection,
    guarding: Guarding,
    /// When to keep house next.
    house_at: Instant,

    subjects: HashMap<RegistrationRef, Subject>,
    debouncer: Debouncer<RegistrationRef>,
    told: Told,
    /// Whether it was told that etcd is in trouble, and not yet that it no longer is.
    outage_announced: bool,
    /// How this replica stood when it last looked.
    reporter: Reporter,
    /// What `/readyz` was told last.
    health: RegistryHealth,
    /// Whether this replica has renewed every recorded lease since it was connected.
    renewed: bool,

    tasks: JoinSet<Done>,
    /// Of the orders that were taken in since the last look at what is to be done.
    slips: Vec<OwnedSemaphorePermit>,
}

impl RegistryWorker {
    /// Knows nothing and has nothing to do yet.
    fn new(
        name: Arc<str>,
        (limits, version): (Limits, Version),
        context: Context,
        (connection, leader_key): (Connection, Key),
        planner: Planner,
        lines: Channels,
    ) -> Self {
        let now = Instant::now();
        Self {
            metrics: context.metrics.registry(&name),
            stale_since: Some(now),
            began: now,
            candidates: Candidates::new(planner.meta().scope().clone(), planner.meta().candidates()),
            presences: context.peers.presences(),
            health: RegistryHealth::Starting,
            renewed: false,
            planner,
            writing: Writing::new(&limits, now),
            limits,
            kubernetes: Kubernetes::silent(context.hearing.watch_scope()),
            catching_up: None,
            leadership: Leadership::Seeking,
            led: false,
            last_fence: None,
            standing: BackendHealth::new(now),
            rights: Rights::new(&connection),
            rejections: rejections::Rejections::default(),
            sweep: orphans::OrphanCollection::default(),
            guarding: Guarding::default(),
            house_at: now + HOUSE,
            subjects: HashMap::new(),
            debouncer: reporting::debouncer(),
            told: Told::default(),
            outage_announced: false,
            confirmation: Confirmation::new(Duration::from_secs(context.session_ttl.into())),
            outcome: confirmation::Outcome::default(),
            reporter: Reporter::default(),
            tasks: JoinSet::new(),
            slips: Vec::new(),
            name,
            context,
            connection,
            credentials: Credentials::default(),
            leader_key,
            version,
            lines,
        }
    }

    /// Does what is to be done now; returns when to look again if nothing happens before.
    fn act(&mut self) -> Instant {
        let now = Instant::now();
        if self.kubernetes.complete
            && let Some(scopes) = self.planner.take_changed_scopes()
        {
            // The mirror ends only with the process, or with this registrar.
            let _ = self.lines.scopes.send(Arc::new(scopes));
            self.rights.scopes_changed();
        }
        self.ask_domains(now);
        self.probe(now);
        self.retry_rejected(now);
        self.guard(now);
        self.write(now);
        if now >= self.house_at {
            self.house_at = now + HOUSE;
            self.keep_house(now);
            self.rights.may_have_changed();
        }
        if let Some(renewals) = self.planner.leases().take_changed_renewals() {
            self.lines.renewals.send_replace(Arc::new(renewals));
        }
        let confirm_at = self.confirm(now);
        self.try_offer(now);
        self.ask(now);
        self.sweep(now);
        let stand_due = self.stand(now);
        let report_due = self.report(now);
        self.slips.clear();
        let wakes = [
            self.writing.wake_at(now),
            self.rejections.wake_at(),
            self.standing.ask_at(),
            self.standing.changes_at(now),
            self.sweep.wake_at(now),
            self.debouncer.next_due(),
            report_due,
            stand_due,
            confirm_at,
            Some(self.house_at),
            self.guard_wakes_at(),
            self.credentials.wake_at(),
            self.rights.wake_at(self.leads()),
        ];
        wakes.into_iter().flatten().min().expect("one is always there")
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
