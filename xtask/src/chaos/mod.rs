//! `cargo xtask chaos`: a random workload under random faults, and a checker of what consumers could observe.
//!
//! - [`plan`]: what a seed stands for. [`manifests`]: what it is made of.
//! - [`scene`]: the bed and what is known of it; [`etcd_links`] and [`access`]: how operators reach and enter etcd; [`workload`], [`nodes`], [`foreign_client`] and [`faults`] carry the plan out on
//!   it.
//! - [`recorder`] and the test bed's history of etcd see what happens; [`record`] is what they saw.
//! - [`wanted`], [`cluster`], [`desired`], [`observation_order`]: what keys should hold by it. [`holders`]: what they held. [`health`]: when the servers were well.
//! - [`checker`]: whether that is correct. [`report`]: what the command prints.
//!
//! Nothing here may use the crate `leasehold`: what decides about the operator shares no code with it.

mod access;
mod checker;
mod cluster;
mod desired;
mod etcd_links;
mod faults;
mod foreign_client;
mod health;
mod holders;
mod manifests;
mod nodes;
mod observation_order;
mod plan;
mod record;
mod recorder;
mod report;
mod rng;
mod scene;
mod wanted;
mod workload;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use testbed::EtcdVersion;
use tokio::{sync::Mutex, time::sleep};

use crate::{
    error::{Error, Result},
    signals::Signals,
};
use checker::{Kind, Terms, Violation};
use plan::Round;
use scene::{Rest, Scene, SceneConfig};

/// How long it may take until everything has come to rest, controllers of Kubernetes included.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a quiet time is.
const QUIET: Duration = Duration::from_secs(4);

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Minutes of faults, without the start and the end; may be a fraction
    #[arg(long, value_name = "MINUTES", default_value_t = 3.0, value_parser = minutes)]
    minutes: f64,
    /// Seed that determines faults and actions; a random one is chosen and printed by default
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Release of the etcd to register in: 3.5, 3.6 or 3.7
    #[arg(long, value_name = "X.Y", default_value_t)]
    etcd_version: EtcdVersion,
    /// Number of members of that etcd
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    etcd_members: u8,
    /// Number of operators of the first Registry, named operator-0, operator-1, ...; the second one has two of its own
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    operators: u8,
    /// Let etcd require TLS, client certificates and a user, whose credentials change during the run
    #[arg(long)]
    etcd_tls_auth: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=1440.0).contains(&minutes) => Ok(minutes),
        _ => Err("write a number from 0.1 to 1440".to_owned()),
    }
}

/// Injects faults for a while and checks the record. Fails if a consumer could have noticed a fault.
pub async fn run(options: &Options) -> Result<()> {
    let mut signals = Signals::listen()?;
    let seed = options.seed.unwrap_or_else(rng::any_seed);
    let command = format!(
        "cargo xtask chaos --minutes {} --seed {seed} --etcd-version {} --etcd-members {} --operators {}{}",
        options.minutes,
        options.etcd_version,
        options.etcd_members,
        options.operators,
        if options.etcd_tls_auth { " --etcd-tls-auth" } else { "" }
    );
    println!("{command}");
    let config = SceneConfig {
        etcd_version: options.etcd_version,
        etcd_members: options.etcd_members.into(),
        operators: options.operators.into(),
        etcd_tls_auth: options.etcd_tls_auth,
        terms: terms(),
    };
    let scene = signals.unless_signalled(Box::pin(Scene::set(config))).await?;
    let lasting = Duration::from_secs_f64(options.minutes * 60.0);
    let played = signals.unless_signalled(Box::pin(play(&scene, seed, lasting))).await;
    if let Err(error @ (Error::Bed(_) | Error::Kube(_) | Error::Io { .. })) = &played {
        // The operator may not be the cause, but the logs are needed to find it.
        report::keep(&scene.record(), &scene.logs(), &kept(seed))?;
        println!(
            "{error}\nto repeat: {command}\nlogs and history: {}",
            kept(seed).display()
        );
    }
    played?;
    verdict(&scene, seed, &command)
}

/// What is promised, with room for a busy machine.
fn terms() -> Terms {
    Terms {
        bound: Duration::from_secs(10),
        reach: Duration::from_millis(1500),
        lag: Duration::from_secs(1),
        recovery: Duration::from_secs(5),
        takeover: Duration::from_secs(2),
        yielding: Duration::from_secs(30),
        session: Duration::from_secs(3),
        ttl: Duration::from_secs(15),
        gate_wait: Duration::from_secs(20),
    }
}

async fn play(scene: &Scene, seed: u64, lasting: Duration) -> Result<()> {
    begin(scene, seed).await?;
    let turn = Mutex::new(());
    let rounds = async {
        let end = scene.now() + lasting;
        for round in plan::Rounds::new(seed) {
            play_round(scene, &round, &turn).await?;
            if scene.now() >= end {
                break;
            }
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        () = workload::run(scene, seed, &turn) => {}
        done = rounds => done?,
    }
    // Whatever the workload had under way when it was stopped is done or dropped by then.
    rest_and_be_quiet(scene).await?;
    faults::look_for_the_dead(scene);
    Ok(())
}

/// Deployments and registrations to begin with.
async fn begin(scene: &Scene, seed: u64) -> Result<()> {
    let mut rng = rng::Rng::new(seed, 3);
    for number in 0..plan::NODES {
        nodes::take_over(scene, number).await?;
    }
    for number in 0..plan::APPS {
        let name = manifests::app(number);
        let labels = [("app", name.as_str())];
        let namespace = scene.namespace_of(number);
        namespace
            .create_deployment(&name, &labels, 3, &manifests::PORTS)
            .await?;
        if let Some(gate) = manifests::deployment_gate(number) {
            let deployments = Api::<Deployment>::namespaced(scene.bed.client(), namespace.name());
            let change = Patch::Merge(gate);
            deployments.patch(&name, &PatchParams::default(), &change).await?;
        }
        namespace.apply(manifests::service(number)).await?;
        let balanced = manifests::load_balancer(number, 2);
        namespace.objects().merge_status(balanced).await?;
    }
    for slot in 0..plan::SLOTS {
        let namespace = scene.namespace_of(manifests::app_of_registration(slot));
        namespace.apply(manifests::registration(slot, rng.next())).await?;
    }
    rest_and_be_quiet(scene).await
}

async fn play_round(scene: &Scene, round: &Round, turn: &Mutex<()>) -> Result<()> {
    for injected in join_all(round.faults.iter().map(|fault| faults::inject(scene, fault))).await {
        injected?;
    }
    sleep(round.calm).await;
    faults::look_for_the_dead(scene);
    if round.quiet {
        let _turn = turn.lock().await;
        rest_and_be_quiet(scene).await?;
    }
    Ok(())
}

/// Waits until etcd holds what it should and nothing moves, and then that it stays so.
async fn rest_and_be_quiet(scene: &Scene) -> Result<()> {
    match scene.rest(PATIENCE).await {
        Rest::Reached => scene.quiet(QUIET).await,
        Rest::Never(differences) => {
            let at = scene.now();
            let mut why = format!(
                "not converged after {} s: {}",
                PATIENCE.as_secs(),
                differences.join("; ")
            );
            for condition in scene.bad_conditions().await {
                why.push_str("\n              ");
                why.push_str(&condition);
            }
            scene.found(Violation {
                kind: Kind::Unconverged,
                key: None,
                at,
                why,
            });
            Ok(())
        }
    }
}

fn verdict(scene: &Scene, seed: u64, command: &str) -> Result<()> {
    let record = scene.record();
    let mut verdict = checker::check(&record, &scene.terms);
    verdict.violations.extend(scene.violations());
    verdict.violations.sort_by_key(|violation| violation.at);
    println!("\n{}", report::table(&record, &verdict, &scene.actions()));
    let folder = kept(seed);
    report::keep(&record, &scene.logs(), &folder)?;
    if verdict.violations.is_empty() {
        println!("no violations; logs and history: {}", folder.display());
        return Ok(());
    }
    println!("{}", report::stories(&record, &verdict.violations));
    println!("to repeat: {command}\nlogs and history: {}", folder.display());
    Err(Error::Broken(format!(
        "no violations ({} are listed above)",
        verdict.violations.len()
    )))
}

/// Where what was seen in a run is kept.
fn kept(seed: u64) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let workspace = workspace.expect("this crate is one folder deep");
    workspace.join("target").join("chaos").join(format!("seed-{seed}"))
}
