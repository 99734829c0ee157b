//! Injects the planned faults and repairs them.

mod credentials;

use std::time::Duration;

use futures::future::join_all;
use testbed::{Namespace, Operator, Process};
use tokio::time::{sleep, timeout};

use super::{
    checker::{Kind, Violation},
    manifests::{NAMESPACES, REGISTRIES},
    plan::PlannedFault,
    record::{Fault, FaultKind, Gate, Moment, Pod, Span},
    rng::index,
    scene::{READY, Scene},
};
use crate::error::Result;

/// How long an operator may take to end after SIGTERM.
const END: Duration = Duration::from_secs(15);
/// How many pods change at the moment at which an operator is paused, and how long that may take.
const VICTIMS: usize = 5;
const BURST: Duration = Duration::from_secs(2);

/// Carries out one fault, from its begin to the end of its repair, and writes it down.
pub async fn inject(scene: &Scene, planned: &PlannedFault) -> Result<()> {
    sleep(planned.after).await;
    let from = scene.now();
    let (target, effect) = match planned.kind {
        FaultKind::OperatorKill | FaultKind::OperatorRestart | FaultKind::OperatorPause | FaultKind::OperatorStall => {
            one_operator(scene, planned).await?
        }
        FaultKind::OperatorCutOff => cut_off(scene, planned).await?,
        FaultKind::SlowLink => slow_link(scene, planned).await?,
        FaultKind::SlowEtcdLink => slow_etcd_links(scene, planned).await?,
        FaultKind::OperatorsKill => all_operators(scene, planned.lasts).await?,
        FaultKind::OperatorsGone => all_operators(scene, scene.terms.ttl + planned.lasts).await?,
        FaultKind::MemberKill | FaultKind::MemberPause => one_member(scene, planned).await?,
        FaultKind::MemberReplacement => replacement(scene, planned).await?,
        FaultKind::QuorumLoss => quorum(scene, planned).await?,
        FaultKind::CredentialRotation => credentials::rotate(scene, planned).await?,
        FaultKind::Compaction => compact(scene).await?,
        FaultKind::ApiserverKill | FaultKind::ApiserverPause => apiserver(scene, planned).await?,
    };
    let span = Span { from, to: scene.now() };
    eprintln!(
        "{:8.3} s  {}: {target}, repaired after {:.1} s",
        from.as_secs_f64(),
        planned.kind,
        span.length().as_secs_f64()
    );
    scene.record_fault(Fault {
        kind: planned.kind,
        target,
        span,
        halts: effect.halts,
        relieved: effect.relieved,
        registry: effect.registry.map(|registry| REGISTRIES[registry].0.to_owned()),
    });
    Ok(())
}

/// What a fault does to the operators.
struct Effect {
    /// The Registry whose operators it affects; none for all of them.
    registry: Option<usize>,
    /// Whether none of them can renew a lease.
    halts: bool,
    /// Whether others of them work on.
    relieved: bool,
}

impl Effect {
    /// Of a fault that concerns them all, or the servers that they use.
    fn on_all(halts: bool) -> Self {
        Self {
            registry: None,
            halts,
            relieved: false,
        }
    }
}

/// An operator that a fault affects.
struct Chosen {
    registry: usize,
    operator: usize,
    leader: Option<usize>,
}

impl Chosen {
    /// One of the second Registry in every fourth case; otherwise one of the first.
    fn by(scene: &Scene, pick: u64) -> Self {
        let registry = usize::from((pick >> 32).is_multiple_of(4));
        let leader = scene.leader(registry);
        let all = scene.operators_of(registry);
        let leading = leader.and_then(|leader| leader.checked_sub(all.start));
        let operator = all.start + victim(leading, pick, all.len());
        Self {
            registry,
            operator,
            leader,
        }
    }

    /// The only one of its Registry.
    fn is_alone(&self, scene: &Scene) -> bool {
        scene.operators_of(self.registry).len() == 1
    }

    fn name(&self, scene: &Scene) -> String {
        let name = scene.operators[self.operator].name();
        format!("{name}{}", role(self.leader, self.operator))
    }
}

/// Half of the time it is the leader that is hit: it alone has something to lose.
fn victim(leader: Option<usize>, pick: u64, n: usize) -> usize {
    match leader {
        Some(leader) if pick.is_multiple_of(2) => leader,
        _ => index(pick >> 1, n),
    }
}

async fn one_operator(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let mut chosen = Chosen::by(scene, planned.pick);
    if let Some(leader) = chosen.leader.filter(|_| planned.kind == FaultKind::OperatorStall) {
        // Who is away for so long and does not lead has nothing that could become stale.
        chosen.operator = leader;
    }
    let operator = &scene.operators[chosen.operator];
    match planned.kind {
        FaultKind::OperatorRestart => {
            operator.terminate()?;
            if let Err(error) = operator.wait_exit(END).await {
                died(scene, operator, &format!("it did not end on SIGTERM: {error}"));
            }
            sleep(planned.lasts).await;
            start(scene, operator).await?;
        }
        FaultKind::OperatorKill => {
            operator.kill().await?;
            sleep(planned.lasts).await;
            start(scene, operator).await?;
        }
        _ => pause_at_work(scene, &chosen, planned).await?,
    }
    let alone = chosen.is_alone(scene);
    let effect = Effect {
        registry: Some(chosen.registry),
        halts: alone,
        relieved: !alone,
    };
    Ok((chosen.name(scene), effect))
}

fn role(leader: Option<usize>, chosen: usize) -> &'static str {
    if leader == Some(chosen) { ", the leader" } else { "" }
}

/// Cuts one operator off from kube-apiserver: half of the time what it sends is lost, otherwise its connections are reset.
async fn cut_off(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let chosen = Chosen::by(scene, planned.pick);
    let link = &scene.links[chosen.operator];
    let silently = (planned.pick >> 8).is_multiple_of(2);
    if silently {
        link.dark().await?;
    } else {
        link.reset().await?;
    }
    sleep(planned.lasts).await;
    link.heal().await?;
    let how = if silently { "silently" } else { "by resets" };
    // It renews leases all the while.
    let effect = Effect {
        registry: Some(chosen.registry),
        halts: false,
        relieved: !chosen.is_alone(scene),
    };
    Ok((format!("{}, {how}", chosen.name(scene)), effect))
}

/// Delays what one operator and kube-apiserver send each other, each way by up to 0.4 s.
async fn slow_link(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let chosen = Chosen::by(scene, planned.pick);
    let round_trip = Duration::from_millis(100 + (planned.pick >> 8) % 700);
    let link = &scene.links[chosen.operator];
    link.slow(round_trip).await?;
    sleep(planned.lasts).await;
    link.heal().await?;
    Ok(slowed(scene, &chosen, round_trip))
}

/// Delays what one operator and every member of the etcd send each other, each way by up to 0.3 s: three round trips fit
/// into the time between two renewals of a session, so that no session ends.
async fn slow_etcd_links(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let chosen = Chosen::by(scene, planned.pick);
    let round_trip = Duration::from_millis(100 + (planned.pick >> 8) % 500);
    let links = scene.etcd.links(chosen.operator);
    for slowed in join_all(links.iter().map(|link| link.slow(round_trip))).await {
        slowed?;
    }
    sleep(planned.lasts).await;
    for healed in join_all(links.iter().map(testbed::Link::heal)).await {
        healed?;
    }
    Ok(slowed(scene, &chosen, round_trip))
}

fn slowed(scene: &Scene, chosen: &Chosen, round_trip: Duration) -> (String, Effect) {
    let effect = Effect {
        registry: Some(chosen.registry),
        halts: false,
        relieved: false,
    };
    let target = format!("{}, by {} ms", chosen.name(scene), round_trip.as_millis());
    (target, effect)
}

/// Pauses an operator that has just been given work, and undoes that work while it is away: some of it is written, some is
/// under way, and what it still has in hand when it wakes is wrong.
async fn pause_at_work(scene: &Scene, chosen: &Chosen, planned: &PlannedFault) -> Result<()> {
    let operator = &scene.operators[chosen.operator];
    let namespace = scene.namespace(NAMESPACES[chosen.registry]);
    // No kubelet makes a pod ready whose gate is closed.
    let is_free = |pod: &Pod| pod.ready && pod.gate != Some(Gate::Closed) && pod.namespace == namespace.name();
    let ready = scene.recorder.pods().into_iter().filter(|(_, pod)| is_free(pod));
    let pods: Vec<String> = ready.map(|(name, _)| name).take(VICTIMS).collect();
    let pause = async {
        sleep(Duration::from_millis(planned.pick % 60)).await;
        operator.stop()
    };
    let ((), stopped) = tokio::join!(set_ready(namespace, &pods, false), pause);
    stopped?;
    let undo = async {
        sleep(planned.lasts * 2 / 3).await;
        set_ready(namespace, &pods, true).await;
    };
    tokio::join!(sleep(planned.lasts), undo);
    operator.cont()?;
    Ok(())
}

/// As far as kube-apiserver lets us: another fault may have it.
async fn set_ready(namespace: &Namespace, pods: &[String], ready: bool) {
    let all = join_all(pods.iter().map(|pod| namespace.set_ready(pod, ready)));
    let _ = timeout(BURST, all).await;
}

async fn all_operators(scene: &Scene, lasts: Duration) -> Result<(String, Effect)> {
    for operator in &scene.operators {
        operator.kill().await?;
    }
    sleep(lasts).await;
    for started in join_all(scene.operators.iter().map(|operator| start(scene, operator))).await {
        started?;
    }
    Ok((format!("{} operators", scene.operators.len()), Effect::on_all(true)))
}

/// Starts an operator that has ended and waits until it serves.
async fn start(scene: &Scene, operator: &Operator) -> Result<()> {
    operator.restart().await?;
    scene.etcd.introduce(&scene.operators);
    if let Err(error) = operator.wait_ready(READY).await {
        died(
            scene,
            operator,
            &format!("it did not become ready after its start: {error}"),
        );
    }
    Ok(())
}

async fn one_member(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let etcd = scene.bed.registry();
    let members = etcd.pids().len();
    let leader = etcd.leader().await.ok();
    let chosen = victim(leader, planned.pick, members);
    let member = etcd.member(chosen);
    if planned.kind == FaultKind::MemberKill {
        member.kill().await?;
        sleep(planned.lasts).await;
        etcd.restart(chosen).await?;
    } else {
        pause(member, planned.lasts).await?;
        etcd.wait_serving(chosen, READY).await?;
    }
    let target = format!("{}{}", member.name(), role(leader, chosen));
    Ok((target, Effect::on_all(members == 1)))
}

/// Replaces a member by the recommended way; a cluster of fewer than three members cannot do without one.
async fn replacement(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let etcd = scene.bed.registry();
    let members = etcd.pids().len();
    if members < 3 {
        return Ok((format!("skipped, {members} of 3 members"), Effect::on_all(false)));
    }
    let leader = etcd.leader().await.ok();
    let chosen = victim(leader, planned.pick, members);
    etcd.remove_member(chosen).await?;
    sleep(planned.lasts).await;
    etcd.add_learner(chosen).await?;
    sleep(planned.lasts).await;
    etcd.promote(chosen).await?;
    let target = format!("{}{}", etcd.member(chosen).name(), role(leader, chosen));
    Ok((target, Effect::on_all(false)))
}

/// Kills so many members that the others cannot decide.
async fn quorum(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let etcd = scene.bed.registry();
    let members = etcd.pids().len();
    let lost = members - (members - 1) / 2;
    let chosen: Vec<usize> = (0..lost)
        .map(|i| (index(planned.pick, members) + i) % members)
        .collect();
    for i in &chosen {
        etcd.member(*i).kill().await?;
    }
    sleep(planned.lasts).await;
    // None of them serves before enough of them run.
    for restarted in join_all(chosen.iter().map(|i| etcd.restart(*i))).await {
        restarted?;
    }
    Ok((format!("{lost} of {members} members"), Effect::on_all(true)))
}

/// Forgets all revisions but the last, once the recorder has seen them.
async fn compact(scene: &Scene) -> Result<(String, Effect)> {
    let Ok(events) = scene.history.settled().await else {
        return Ok(("skipped, the recorder is behind".to_owned(), Effect::on_all(false)));
    };
    let revision = events.last().map_or(0, |event| event.revision);
    let mut client = scene.bed.registry().client().await?;
    let done = match client.compact(revision, None).await {
        Ok(_) => format!("up to revision {revision}"),
        Err(error) => format!("failed: {error}"),
    };
    Ok((done, Effect::on_all(false)))
}

async fn apiserver(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let plane = scene.bed.control_plane();
    if planned.kind == FaultKind::ApiserverKill {
        plane.apiserver().kill().await?;
        sleep(planned.lasts).await;
        plane.restart_apiserver().await?;
        // They would notice its return only after a minute or more.
        for process in [plane.controller_manager(), plane.scheduler(), plane.kwok()] {
            process.restart().await?;
        }
    } else {
        pause(plane.apiserver(), planned.lasts).await?;
        plane.wait_ready().await?;
    }
    Ok((plane.apiserver().name().to_owned(), Effect::on_all(false)))
}

async fn pause(process: &Process, lasts: Duration) -> Result<()> {
    process.stop()?;
    sleep(lasts).await;
    process.cont()?;
    Ok(())
}

/// Records operators that ended although the run did not stop them.
pub fn look_for_the_dead(scene: &Scene) {
    for operator in &scene.operators {
        if let Err(error) = operator.process().alive() {
            died(scene, operator, &error.to_string());
        }
    }
}

fn died(scene: &Scene, operator: &Operator, why: &str) {
    let at: Moment = scene.now();
    scene.found(Violation {
        kind: Kind::Death,
        key: None,
        at,
        why: format!("{}: {why}", operator.name()),
    });
}
