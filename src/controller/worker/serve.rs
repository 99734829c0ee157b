//! A registrar at work: the parts that talk to its etcd are started, what they and the intake say is taken in, and all
//! end together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::confirmation::{self, Confirmation, Outcome};
use super::{Channels, Command, Context, RegistryWorker, Trouble, Version, guarding, reporting, size};
use crate::api::RegistrySpec;
use crate::controller::failure::Failure;
use crate::etcd::{self, Access, Campaign, Candidacy, Connection, Leadership, LeaseEvent};
use crate::peer::Elsewhere;
use crate::plan::{MetaKeys, Planner};
use crate::telemetry::{RegistryHealth, RegistryMetrics};

/// Observations on their way from the mirror: it waits when there are more.
const OBSERVATIONS: usize = 256;
/// Between two looks at whether another replica is connected to a Registry that cannot be used here.
const LOOK: Duration = Duration::from_secs(10);

async fn connect(access: Result<Box<Access>, Trouble>, context: &Context) -> Result<Connection, Trouble> {
    let connection = Connection::new(&*access?, context.timeouts, context.metrics.calls.clone()).await;
    connection.map_err(|error| (&error).into())
}

/// Serves the Registry `name` until `shutdown` or the end of `commands`. An error means that a part of it has ended that
/// never should.
pub async fn serve(
    name: Arc<str>,
    (spec, version): (RegistrySpec, Version),
    access: Result<Box<Access>, Trouble>,
    context: Context,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let connection = match connect(access, &context).await {
        Ok(connection) => connection,
        Err(trouble) => return idle(&name, version.generation, &context, &trouble, commands, shutdown).await,
    };
    let meta = MetaKeys::of_registry(&spec.meta_prefix, &context.cluster_id, &name);
    let leader_key = meta.leader();
    let (scopes, wanted) = mpsc::unbounded_channel();
    // Our own bookkeeping at once: it says which leases to renew.
    let _ = scopes.send(Arc::new(BTreeSet::from([meta.scope().clone()])));
    let renewals = watch::Sender::new(etcd::Leases::default());
    let (leads, leadership) = watch::channel(Leadership::Seeking);
    let (sees, mut observations) = mpsc::channel(OBSERVATIONS);
    let (tells, mut lease_news) = mpsc::channel(OBSERVATIONS);
    let (soonest, ends) = watch::channel(None);
    let (stands, candidacy) = watch::channel(Candidacy::default());
    let metrics = context.metrics.registry(&name);

    let ending = shutdown.child_token();
    let mut parts = JoinSet::new();
    let essential = meta.scope().clone();
    let mirror = etcd::mirror(connection.clone(), essential, wanted, sees, ending.clone());
    parts.spawn(named("mirror", mirror));
    let renewal = etcd::renew(connection.clone(), renewals.subscribe(), tells, soonest, ending.clone());
    parts.spawn(named("renewal", renewal));
    parts.spawn(named("end of leases", show_end(ends.clone(), metrics, ending.clone())));
    let election = elect(
        connection.clone(),
        campaign(&meta, &context),
        candidacy,
        &context,
        leads,
        ending.clone(),
    );
    parts.spawn(named("election", election));

    let lines = Channels {
        leadership,
        scopes,
        renewals,
        ends,
        candidacy: stands,
    };
    let mut planner = Planner::new(meta, size(spec.limits.keys_per_lease));
    planner.set_guard(guarding::terms(&spec.guard));
    // Who has nothing to show either may do everything or gets nowhere.
    if connection.access().has_credentials() {
        planner.await_domains();
    }
    let mut worker = RegistryWorker::new(
        name,
        (spec.limits, version),
        context,
        (connection, leader_key),
        planner,
        lines,
    );
    loop {
        // Of everything something: where one never comes to an end, the others go on nevertheless.
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
            command = commands.recv() => match command {
                Some(command) => worker.take_commands(command, &mut commands),
                None => break,
            },
            Some(observation) = observations.recv() => worker.observe_all(observation, &mut observations),
            Ok(()) = worker.lines.leadership.changed() => worker.leadership_changed(),
            Some(done) = worker.tasks.join_next() => worker.end_of(done),
            Some(news) = lease_news.recv() => match news {
                LeaseEvent::Lapsed(lease) => worker.lapsed(lease),
                LeaseEvent::Denied(lease) => worker.renewal_denied(lease),
            },
            Ok(()) = worker.presences.changed() => {}
            // Until the process is ready for this Registry it waits for the renewal of each lease.
            Ok(()) = worker.lines.ends.changed(), if worker.health == RegistryHealth::Renewing => {}
            () = sleep_until(wake.into()) => {}
        }
    }
    // Nothing is written any more. The election gives its key back, so that the next one leads at once; the data keys
    // stay, for that one to take over.
    worker.tasks.shutdown().await;
    ending.cancel();
    while parts.join_next().await.is_some() {}
    Ok(())
}

/// How this replica stands for election.
fn campaign(meta: &MetaKeys, context: &Context) -> Campaign {
    Campaign {
        leader_key: meta.leader(),
        candidate_key: meta.candidate(&context.identity),
        process: context.peers.me().incarnation.clone(),
        address: context.peers.address(),
        identity: context.identity.to_string(),
        session_ttl: context.session_ttl,
    }
}

/// Stands for election once it is known which cluster this is.
fn elect(
    connection: Connection,
    campaign: Campaign,
    candidacy: watch::Receiver<Candidacy>,
    context: &Context,
    leads: watch::Sender<Leadership>,
    end: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (confirmed, presences) = (context.cluster_confirmed.clone(), context.peers.presences());
    let campaign = Box::pin(etcd::campaign(
        connection,
        campaign,
        candidacy,
        presences,
        leads,
        end.clone(),
    ));
    async move {
        tokio::select! {
            biased;
            () = end.cancelled() => {}
            () = confirmed.cancelled() => campaign.await,
        }
    }
}

/// Shows when the first lease would end. What tells it ends with the Registry.
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

/// A Registry whose endpoints make no sense, which admission refuses, or whose credentials are not there: said in its
/// status until that changes, unless another replica serves it.
async fn idle(
    name: &Arc<str>,
    generation: i64,
    context: &Context,
    trouble: &Trouble,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    reporting::cannot_serve(name, trouble);
    let mut presences = context.peers.presences();
    let mut confirmation = Confirmation::new(Duration::from_secs(context.session_ttl.into()));
    let mut registrations = BTreeSet::new();
    let mut said = Outcome::Silent;
    loop {
        // Another replica may be connected nevertheless, by what it had before.
        presences.mark_unchanged();
        let now = Instant::now();
        let elsewhere = context.peers.elsewhere(name, [], now);
        let again = (elsewhere != Elsewhere::Nobody).then(|| now + LOOK);
        let facts = confirmation::Facts {
            cut_off: true,
            identity: &context.identity,
            peer_is_connected: confirmation::peer_is_connected(&elsewhere),
        };
        context
            .health
            .set_registry(name, RegistryHealth::Unreachable(elsewhere));
        let (outcome, wake) = match confirmation.step(facts, now) {
            // What goes by the same name there may be another cluster's.
            _ if !context.cluster_confirmed.is_cancelled() => (Outcome::Silent, None),
            step => step,
        };
        if std::mem::replace(&mut said, outcome) != outcome {
            reporting::tell_invalid(name, generation, context, trouble, (outcome, &registrations));
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
                Command::Register { registration, .. } => drop(registrations.insert(registration)),
                Command::Remove(registration) => drop(registrations.remove(&registration)),
                Command::Together(commands) => taken.extend(commands.into_iter().rev()),
                _ => {}
            }
        }
    }
}
