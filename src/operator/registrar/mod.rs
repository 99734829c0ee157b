//! One Registry's part of the operator: what its etcd should hold is told by [`Order`]s, what it does hold by the
//! mirror, and the ledger's steps from one to the other are carried out while this replica leads.
//!
//! Owns the ledger, the tasks that talk to this etcd, and the decision when to write and when to report. What to write
//! is `plan`'s decision. A registrar never waits for etcd: every request is a task of its own, so orders are
//! taken and leases renewed whatever etcd does.

mod duty;
mod order;
mod registry_status;
mod reporting;
mod standing;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

pub use self::order::Order;
use self::registry_status::Told;
use self::reporting::{Stance, Subject};
use self::standing::Standing;
use self::writing::Writing;
use super::pacer::Pacer;
use super::run::Failure;
use crate::api::{Limits, Registry, RegistrySpec, ServiceRegistration};
use crate::cluster::DeskNote;
use crate::etcd::{self, Campaign, Connection, Leadership, Timeouts};
use crate::index::RegistrationRef;
use crate::plan::{Fence, Held, Key, LeaseId, Ledger, MetaKeys, Observation, Revision, Scope, Ticket, Verdict};
use crate::telemetry::{Health, Metrics, RegistryMetrics};

/// Orders and observations taken in before the next look at what is to be done: what comes together is written together.
const BATCH: usize = 1024;
/// Observations on their way from the mirror: it waits when there are more.
const OBSERVATIONS: usize = 256;
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
    /// Where statuses of registrations are written.
    pub registrations: mpsc::UnboundedSender<DeskNote<ServiceRegistration>>,
    /// Where statuses of Registries are written.
    pub registries: mpsc::UnboundedSender<DeskNote<Registry>>,
    /// What is counted.
    pub metrics: Metrics,
    /// What `/readyz` is told.
    pub health: Health,
}

/// What a task that was started here brought home.
enum Done {
    /// A transaction ended.
    Written {
        ticket: Ticket,
        /// The proof of leadership it was sent under.
        fence: Fence,
        result: etcd::Result<Verdict>,
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
    /// etcd was asked which keys are on our leases.
    Listed(etcd::Result<Vec<Key>>),
    /// Keys were read that nobody is known to want.
    Looked(etcd::Result<Vec<(Key, Option<Held>, Revision)>>),
}

/// To and from the parts that talk to this etcd for as long as it is served.
struct Lines {
    /// From the election.
    leadership: watch::Receiver<Leadership>,
    /// To the mirror.
    scopes: mpsc::UnboundedSender<Arc<BTreeSet<Scope>>>,
    /// To the renewal.
    renewals: watch::Sender<etcd::Leases>,
}

/// What Kubernetes has told, as a whole.
#[derive(Debug, Default)]
struct Kubernetes {
    /// Whether that is everything.
    complete: bool,
    /// Whether it is outdated.
    outdated: bool,
    /// Whether there are registrations whose keys are not known.
    some_are_unclear: bool,
}

/// One Registry's part of the operator.
struct Registrar {
    name: Arc<str>,
    context: Context,
    metrics: RegistryMetrics,
    connection: Connection,
    limits: Limits,
    /// The generation of the Registry's spec.
    generation: i64,

    ledger: Ledger,
    kubernetes: Kubernetes,
    /// The proof under which nothing is written until Kubernetes has told everything anew: it was won with an outdated
    /// view, and whoever led before may have known better.
    held_back: Option<Fence>,

    lines: Lines,
    /// Whether this replica was the last one known to lead.
    led: bool,
    /// The proof of leadership that it last had.
    last_fence: Option<Fence>,

    standing: Standing,
    writing: Writing,
    sweep: duty::Sweep,
    /// When to keep house next.
    house_at: Instant,

    subjects: HashMap<RegistrationRef, Subject>,
    pacer: Pacer<RegistrationRef>,
    told: Told,
    /// How this replica stood when it last looked.
    stance: Stance,

    tasks: JoinSet<Done>,
}

/// Serves the Registry `name` until `shutdown` or the end of `orders`. An error means that a part of it has ended that
/// never should.
pub async fn serve(
    name: Arc<str>,
    (spec, generation): (RegistrySpec, i64),
    context: Context,
    mut orders: mpsc::UnboundedReceiver<Order>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let access = etcd::Access {
        endpoints: spec.endpoints.clone(),
    };
    let connection = match Connection::new(&access, context.timeouts, context.metrics.calls.clone()).await {
        Ok(connection) => connection,
        Err(error) => return idle(&name, generation, &context, &error, orders, shutdown).await,
    };
    let meta = MetaKeys::of_registry(&spec.meta_prefix, &context.cluster_id, &name);
    let campaign = Campaign {
        leader_key: meta.leader(),
        identity: context.identity.to_string(),
        session_ttl: context.session_ttl,
    };
    let (scopes, wanted) = mpsc::unbounded_channel();
    // Our own bookkeeping at once: it says which leases to renew.
    let _ = scopes.send(Arc::new(BTreeSet::from([meta.scope().clone()])));
    let renewals = watch::Sender::new(etcd::Leases::default());
    let (leads, leadership) = watch::channel(Leadership::Seeking);
    let (sees, mut observations) = mpsc::channel(OBSERVATIONS);
    let (gone, mut lapsed) = mpsc::channel(OBSERVATIONS);
    let soonest = watch::Sender::new(None);

    let ending = shutdown.child_token();
    let mut parts = JoinSet::new();
    let mirror = etcd::mirror(connection.clone(), wanted, sees, ending.clone());
    parts.spawn(named("mirror", mirror));
    let renewal = etcd::renew(connection.clone(), renewals.subscribe(), gone, soonest, ending.clone());
    parts.spawn(named("renewal", renewal));
    let campaign = etcd::campaign(connection.clone(), campaign, leads, ending.clone());
    parts.spawn(named("election", campaign));

    let lines = Lines {
        leadership,
        scopes,
        renewals,
    };
    let ledger = Ledger::new(meta, size(spec.limits.keys_per_lease));
    let mut registrar = Registrar::new(name, (spec.limits, generation), context, connection, ledger, lines);
    loop {
        let wake = registrar.act();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = parts.join_next() => {
                let part = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                return Err(Failure::PartEnded(part));
            }
            order = orders.recv() => match order {
                Some(order) => registrar.take_orders(order, &mut orders),
                None => break,
            },
            Some(observation) = observations.recv() => registrar.observe_all(observation, &mut observations),
            Ok(()) = registrar.lines.leadership.changed() => registrar.leadership_changed(),
            Some(done) = registrar.tasks.join_next() => match done {
                Ok(done) => registrar.done(done),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
            Some(lease) = lapsed.recv() => registrar.lapsed(lease),
            () = sleep_until(wake.into()) => {}
        }
    }
    // Nothing is written any more. The election gives its key back, so that the next one leads at once; the data keys
    // stay, for that one to take over.
    registrar.tasks.shutdown().await;
    ending.cancel();
    while parts.join_next().await.is_some() {}
    Ok(())
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A Registry whose endpoints make no sense, which admission refuses: said in its status, until they change.
async fn idle(
    name: &Arc<str>,
    generation: i64,
    context: &Context,
    error: &etcd::Error,
    mut orders: mpsc::UnboundedReceiver<Order>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    reporting::tell_invalid(name, generation, context, error);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            order = orders.recv() => if order.is_none() {
                return Ok(());
            },
        }
    }
}

impl Registrar {
    /// Knows nothing and has nothing to do yet.
    fn new(
        name: Arc<str>,
        (limits, generation): (Limits, i64),
        context: Context,
        connection: Connection,
        ledger: Ledger,
        lines: Lines,
    ) -> Self {
        let now = Instant::now();
        Self {
            metrics: context.metrics.registry(&name),
            ledger,
            writing: Writing::new(&limits, now),
            limits,
            kubernetes: Kubernetes::default(),
            held_back: None,
            led: false,
            last_fence: None,
            standing: Standing::new(now),
            sweep: duty::Sweep::default(),
            house_at: now + HOUSE,
            subjects: HashMap::new(),
            pacer: reporting::pacer(),
            told: Told::default(),
            stance: Stance::default(),
            tasks: JoinSet::new(),
            name,
            context,
            connection,
            generation,
            lines,
        }
    }

    /// Does what is to be done now; returns when to look again if nothing happens before.
    fn act(&mut self) -> Instant {
        let now = Instant::now();
        if self.kubernetes.complete
            && let Some(scopes) = self.ledger.take_changed_scopes()
        {
            // The mirror ends only with the process, or with this registrar.
            let _ = self.lines.scopes.send(Arc::new(scopes));
        }
        self.write(now);
        if now >= self.house_at {
            self.house_at = now + HOUSE;
            self.keep_house(now);
        }
        if let Some(renewals) = self.ledger.leases().take_changed_renewals() {
            self.lines.renewals.send_replace(Arc::new(renewals));
        }
        self.ask(now);
        self.sweep(now);
        self.report(now);
        let wakes = [
            self.writing.wake_at(now),
            self.standing.ask_at(),
            self.standing.changes_at(now),
            self.sweep.wake_at(now),
            self.pacer.next_due(),
            self.registry_report_due(now),
            Some(self.house_at),
        ];
        wakes.into_iter().flatten().min().expect("one is always there")
    }

    fn take_orders(&mut self, first: Order, rest: &mut mpsc::UnboundedReceiver<Order>) {
        self.take(first);
        for _ in 1..BATCH {
            match rest.try_recv() {
                Ok(order) => self.take(order),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Register {
                registration,
                terms,
                service,
                generation,
                selected,
            } => {
                self.ledger.set_terms(&registration, terms);
                self.pacer.changed(registration.clone(), Instant::now());
                self.subjects
                    .insert(registration, Subject::new(service, generation, selected));
            }
            Order::Refuse {
                registration,
                generation,
                reason,
                message,
            } => {
                if let Some(subject) = self.subjects.get_mut(&registration) {
                    subject.refuse(generation, reason, message);
                    self.pacer.changed(registration, Instant::now());
                }
            }
            Order::Remove(registration) => {
                self.ledger.remove_registration(&registration);
                self.subjects.remove(&registration);
                self.pacer.forget(&registration);
            }
            Order::Pod {
                registration,
                pod,
                tenancy,
                selected,
                heard,
            } => {
                self.ledger.set_tenancy(&registration, &pod, tenancy);
                if let Some(subject) = self.subjects.get_mut(&registration)
                    && subject.select(selected)
                {
                    self.pacer.changed(registration, Instant::now());
                }
                self.writing.heard(heard);
            }
            Order::KubernetesIsComplete => {
                self.kubernetes.complete = true;
                self.ledger.kubernetes_is_complete();
            }
            Order::KubernetesIsOutdated(outdated) => {
                self.kubernetes.outdated = outdated;
                if !outdated {
                    self.held_back = None;
                }
            }
            Order::SomeAreUnclear(unclear) => {
                self.kubernetes.some_are_unclear = unclear;
                self.sweep.is_due();
            }
            Order::Limits(limits, generation) => {
                self.ledger.leases().set_capacity(size(limits.keys_per_lease));
                self.writing.set_limits(&limits);
                self.limits = limits;
                self.generation = generation;
            }
        }
    }

    fn observe_all(&mut self, first: Observation, rest: &mut mpsc::Receiver<Observation>) {
        self.observe(first);
        for _ in 1..BATCH {
            match rest.try_recv() {
                Ok(observation) => self.observe(observation),
                Err(_) => return,
            }
        }
    }

    fn observe(&mut self, observation: Observation) {
        let now = Instant::now();
        match &observation {
            Observation::Complete { .. } => self.standing.view_is_live(now),
            Observation::Interrupted => self.standing.view_is_lost(now),
            Observation::Restored => {
                self.standing.view_is_lost(now);
                self.sweep.is_due();
            }
            Observation::Snapshot { .. } | Observation::Changed { .. } => {}
        }
        self.ledger.observe(observation);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Written {
                ticket,
                fence,
                result,
                heard,
            } => self.written(ticket, fence, result, heard),
            Done::Granted { lease, ttl, result } => self.granted(lease, ttl, result),
            Done::Asked(answer) => self.standing.answered(answer, Instant::now()),
            Done::Listed(keys) => self.listed(keys),
            Done::Looked(found) => self.looked(found),
        }
    }

    /// Asks etcd for its status when that is in question.
    fn ask(&mut self, now: Instant) {
        if self.standing.ask_at().is_some_and(|at| at <= now) {
            self.standing.asked();
            let connection = self.connection.clone();
            self.tasks.spawn(async move { Done::Asked(connection.status().await) });
        }
    }

    /// etcd says that it does not know this lease.
    fn lapsed(&mut self, lease: LeaseId) {
        tracing::warn!(registry = %self.name, %lease, "a lease lapsed; its keys are put back on another");
        self.metrics.count_lapsed(1);
        self.ledger.leases().doubt(lease);
    }
}
