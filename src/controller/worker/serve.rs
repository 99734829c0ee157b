//! Runs a worker: starts the tasks that talk to its etcd, takes in their messages and the controller's commands, and
//! ends all of them together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::confirmation::{self, Confirmation, Outcome};
use super::{Channels, Command, Context, RegistryWorker, Trouble, guarding, reporting, size};
use crate::api::RegistrySpec;
use crate::backend::{Backend, Campaign, Candidacy, Capabilities, Leadership, LeaseEvent, Leases};
use crate::controller::failure::Failure;
use crate::controller::workers::NewWorker;
use crate::model::{Elsewhere, PrefixChanges};
use crate::plan::{MetaKeys, Planner};
use crate::telemetry::{RegistryHealth, RegistryMetrics};

/// Capacity of the channel of observations. The mirror waits while it is full.
const OBSERVATIONS: usize = 256;
/// Interval of the check whether another replica is connected to a Registry that this replica cannot use.
const LOOK: Duration = Duration::from_secs(10);

/// Serves a Registry, whose store is `backend`, until its shutdown or the end of its commands. Returns an error if one of
/// its tasks has ended, which none ever should.
pub async fn serve<B: Backend>(new: NewWorker, backend: Result<B, Trouble>) -> Result<(), Failure> {
    let (name, spec, version) = (new.name, new.spec, new.version);
    let (context, commands, shutdown) = (new.context, new.commands, new.shutdown);
    let backend = match backend {
        Ok(backend) => backend,
        Err(trouble) => return idle(&name, version.generation, &context, &trouble, commands, shutdown).await,
    };
    let meta = MetaKeys::of_registry(&spec.etcd.meta_prefix, &context.cluster_id, &name);
    let leader_key = meta.leader();
    let (prefixes, wanted) = mpsc::unbounded_channel();
    // The mirror reads our bookkeeping at once: it contains the leases to renew.
    let _ = prefixes.send(PrefixChanges::add([meta.prefix().clone()]));
    let renewals = watch::Sender::new(Leases::default());
    let (leads, leadership) = watch::channel(Leadership::Seeking);
    let (sees, mut observations) = mpsc::channel(OBSERVATIONS);
    let (sends, mut lease_events) = mpsc::channel(OBSERVATIONS);
    let (soonest, ends) = watch::channel(None);
    let (stands, candidacy) = watch::channel(Candidacy::default());
    let metrics = context.metrics.registry(&name);

    let ending = shutdown.child_token();
    let mut parts = JoinSet::new();
    let essential = meta.prefix().clone();
    let mirror = backend.clone().mirror(essential, wanted, sees, ending.clone());
    parts.spawn(named("mirror", mirror));
    let renewal = backend
        .clone()
        .renew(renewals.subscribe(), sends, soonest, ending.clone());
    parts.spawn(named("renewal", renewal));
    parts.spawn(named(
        "lease end metric",
        show_end(ends.clone(), metrics, ending.clone()),
    ));
    let election = elect(
        backend.clone(),
        campaign(&meta, &context),
        candidacy,
        &context,
        leads,
        ending.clone(),
    );
    parts.spawn(named("election", election));

    let lines = Channels {
        commands,
        leader: new.leader,
        leadership,
        prefixes,
        renewals,
        ends,
        candidacy: stands,
    };
    let planner = planner(meta, &spec, backend.capabilities());
    let mut worker = RegistryWorker::new(
        name,
        (spec.limits, version),
        context,
        (backend, leader_key),
        planner,
        lines,
    );
    loop {
        // Drain a bounded batch of each source, so that none starves the others.
        while let Some(done) = worker.tasks.try_join_next() {
            worker.end_of(done);
        }
        if let Ok(observation) = observations.try_recv() {
            worker.observe_all(observation, &mut observations);
        }
        if worker.lines.leadership.has_changed().unwrap_or(false) {
            worker.leadership_changed();
        }
        let wake = worker.act();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = parts.join_next() => {
                let part = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                return Err(Failure::PartEnded(part));
            }
            command = worker.lines.commands.recv() => match command {
                // The others follow as soon as the cache is locked.
                Some(command) => worker.take(command),
                None => break,
            },
            Some(observation) = observations.recv() => worker.observe_all(observation, &mut observations),
            Ok(()) = worker.lines.leadership.changed() => worker.leadership_changed(),
            Some(done) = worker.tasks.join_next() => worker.end_of(done),
            Some(event) = lease_events.recv() => match event {
                LeaseEvent::Lapsed(lease) => worker.lapsed(lease),
                LeaseEvent::Denied(lease) => worker.renewal_denied(lease),
            },
            Ok(()) = worker.presences.changed() => {}
            // A leader that has caught up acts on what changes, not on how far it has observed.
            Ok(()) = worker.freshness.changed(), if worker.catching_up.is_some() => {}
            // `/readyz` of this Registry waits for the renewal of each lease.
            Ok(()) = worker.lines.ends.changed(), if worker.health == RegistryHealth::Renewing => {}
            () = sleep_until(wake.into()) => {}
        }
    }
    // The worker writes nothing from here on. The election deletes its key, so that the next leader takes over at once.
    // The data keys stay for that leader, which may be one of another installation.
    worker.stop_insisting();
    worker.tasks.shutdown().await;
    ending.cancel();
    while parts.join_next().await.is_some() {}
    Ok(())
}

pub(super) fn planner(meta: MetaKeys, spec: &RegistrySpec, capabilities: Capabilities) -> Planner {
    let mut planner = Planner::new(meta, size(spec.limits.keys_per_lease));
    planner.set_guard(guarding::settings(&spec.guard));
    planner.set_rate_limit(spec.limits.changes_per_second_per_namespace);
    // Keys wait until the store has been asked which prefixes it grants together.
    if capabilities.has_permissions {
        planner.await_lease_groups();
    }
    planner
}

pub(super) fn campaign(meta: &MetaKeys, context: &Context) -> Campaign {
    Campaign {
        leader_key: meta.leader(),
        candidate_key: meta.candidate(&context.identity),
        candidates: meta.candidates(),
        namespaces: context.checkpoint.watch_scope().namespaces(),
        process: context.peers.me().incarnation.clone(),
        address: context.peers.address(),
        identity: context.identity.to_string(),
        session_ttl: context.session_ttl,
    }
}

/// Campaigns once the API server has confirmed which cluster this is.
fn elect<B: Backend>(
    backend: B,
    campaign: Campaign,
    candidacy: watch::Receiver<Candidacy>,
    context: &Context,
    leads: watch::Sender<Leadership>,
    end: CancellationToken,
) -> impl Future<Output = ()> + use<B> {
    let (confirmed, presences) = (context.cluster_confirmed.clone(), context.peers.statuses());
    let campaign = Box::pin(backend.campaign(campaign, candidacy, presences, leads, end.clone()));
    async move {
        tokio::select! {
            biased;
            () = end.cancelled() => {}
            () = confirmed.cancelled() => campaign.await,
        }
    }
}

/// Exports when the first lease expires. `ends` ends with the Registry.
async fn show_end(
    mut ends: watch::Receiver<Option<std::time::Instant>>,
    metrics: RegistryMetrics,
    shutdown: CancellationToken,
) {
    let show = async {
        while ends.changed().await.is_ok() {
            let end = *ends.borrow_and_update();
            metrics.set_leases_end(end.map(|end| end.saturating_duration_since(std::time::Instant::now())));
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = show => shutdown.cancelled().await,
    }
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// Serves a Registry whose endpoints are invalid (admission rejects those) or whose credentials are missing. Reports
/// that in its status until it changes, unless another replica serves the Registry.
async fn idle(
    name: &Arc<str>,
    generation: i64,
    context: &Context,
    trouble: &Trouble,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    reporting::cannot_serve(name, trouble);
    let mut presences = context.peers.statuses();
    let mut confirmation = Confirmation::new(Duration::from_secs(context.session_ttl.into()));
    let mut registrations = BTreeSet::new();
    let mut said = Outcome::Silent;
    loop {
        // Another replica may still be connected with its earlier endpoints and credentials.
        presences.mark_unchanged();
        let now = Instant::now();
        let elsewhere = context.peers.elsewhere(name, [], now);
        let again = (elsewhere != Elsewhere::NoReplica).then(|| now + LOOK);
        let facts = confirmation::Facts {
            cut_off: true,
            identity: &context.identity,
            peer_is_connected: confirmation::peer_is_connected(&elsewhere),
        };
        context
            .health
            .set_registry(name, RegistryHealth::Unreachable(elsewhere));
        let (outcome, wake) = match confirmation.step(facts, now) {
            // A Registry of the same name may belong to another cluster there.
            _ if !context.cluster_confirmed.is_cancelled() => (Outcome::Silent, None),
            step => step,
        };
        if std::mem::replace(&mut said, outcome) != outcome {
            reporting::report_invalid(name, generation, context, trouble, (outcome, &registrations));
        }
        let next = wake.into_iter().chain(again).min();
        let first = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = context.cluster_confirmed.cancelled(), if !context.cluster_confirmed.is_cancelled() => continue,
            Ok(()) = presences.changed() => continue,
            () = sleep_until(next.unwrap_or(now).into()), if next.is_some() => continue,
            command = commands.recv() => command,
        };
        let Some(first) = first else { return Ok(()) };
        let mut taken = vec![first];
        while let Some(command) = taken.pop() {
            match command {
                Command::Status(seen) => confirmation.see(seen, Instant::now()),
                Command::Register(register) => drop(registrations.insert(register.registration)),
                Command::Remove(registration) => drop(registrations.remove(&registration)),
                Command::Together(commands) => taken.extend(commands.into_iter().rev()),
                _ => {}
            }
        }
    }
}
