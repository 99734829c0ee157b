//! `cargo xtask bench`: what an operator costs and how long it takes, measured in one run on a real control plane.
//!
//! Everything shares this machine with the operator, so times are those of a small machine under load. Ratios of two rows
//! of one run say more than the times.

mod figures;
mod load;
mod probe;
mod scale;
mod scene;

use std::time::{Duration, Instant};

use serde_json::json;
use testbed::History;

use self::figures::{Report, Times};
use self::scene::{NAMESPACE, Scene, Source};
use crate::error::{Error, Result};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Which table to print
    #[arg(value_enum, default_value_t = Table::Cost)]
    table: Table,
    /// Measure only these parts of the table `scale`, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<scale::Part>,
    /// Number of pods that one registration registers
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pods: u32,
    /// Number of Services that no registration names
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=50_000))]
    services: u32,
    /// Number of EndpointSlices, and of nodes, that no registration uses
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    others: u32,
    /// Number of readiness changes for each latency
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    tries: u32,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Table {
    /// Memory of each kind of object, latencies, and the registration of many pods at once
    Cost,
    /// Cost of large and busy tenants for the others; takes about 20 minutes on two cores
    Scale,
}

/// Measures everything of a table and prints it as Markdown.
pub async fn run(options: &Options) -> Result<()> {
    let mut report = Report::default();
    let scene = Scene::set().await?;
    match options.table {
        Table::Cost => cost(&scene, options, &mut report).await?,
        Table::Scale => Box::pin(scale::run(&scene, options, &mut report)).await?,
    }
    println!("{report}");
    Ok(())
}

async fn cost(scene: &Scene, options: &Options, report: &mut Report) -> Result<()> {
    let empty = scene.memory_at_rest().await?;
    report.memory("operator without pods and registrations", empty, None);
    latencies(scene, options, report).await?;
    memory(scene, options, report).await?;
    registration(scene, options, report).await
}

/// From the request to the API server that changes the readiness of a pod to the key, by the source of the registration,
/// alone and beside many Services.
async fn latencies(scene: &Scene, options: &Options, report: &mut Report) -> Result<()> {
    eprintln!("measuring latencies ...");
    scene.register_probes().await?;
    measure(scene, 20).await?;
    let alone = measure(scene, options.tries).await?;
    let before = scene.memory_at_rest().await?;
    scene.create_services(options.services).await?;
    let after = scene.memory_at_rest().await?;
    let what = format!("with {} Services that no registration names", options.services);
    report.memory(&what, after, Some((before, options.services)));
    let beside = measure(scene, options.tries).await?;
    report.time("request that changes the readiness of a pod", &alone.request, None);
    report.time("from this request to the key, `selector`", &alone.selector, None);
    report.time(
        "from the request to the key, `service`",
        &alone.service,
        Some(&alone.selector),
    );
    report.time(&format!("the request, {what}"), &beside.request, Some(&alone.request));
    let beside_services = |source: &str| format!("from the request to the key, `{source}`, {what}");
    report.time(&beside_services("selector"), &beside.selector, Some(&alone.selector));
    report.time(&beside_services("service"), &beside.service, Some(&alone.service));
    report.cpu("CPU time for a change of readiness", alone.cpu, None);
    let what = format!("CPU time for a change of readiness, {what}");
    report.cpu(&what, beside.cpu, Some(alone.cpu));
    Ok(())
}

/// The times of both sources, measured in turns.
struct Measured {
    /// Of the requests, which the latencies contain.
    request: Times,
    selector: Times,
    service: Times,
    /// CPU time of the operator for one change.
    cpu: Duration,
}

async fn measure(scene: &Scene, tries: u32) -> Result<Measured> {
    let history = History::watch(scene.bed.registry(), &format!("/services/{NAMESPACE}/"), 0).await?;
    let (mut request, mut selector, mut service) = (Vec::new(), Vec::new(), Vec::new());
    let (cpu, mut seen) = (scene.cpu()?, 0);
    for attempt in 0..tries {
        for (source, times) in [(Source::Selector, &mut selector), (Source::Service, &mut service)] {
            let sent = Instant::now();
            scene.namespace.set_ready(source.pod(), attempt % 2 == 1).await?;
            request.push(sent.elapsed());
            seen += 1;
            history.wait_for(|events| events.len() >= seen, PATIENCE).await?;
            times.push(history.arrivals()[seen - 1].0.saturating_duration_since(sent));
        }
    }
    Ok(Measured {
        request: Times::of(request),
        selector: Times::of(selector),
        service: Times::of(service),
        cpu: scene.cpu()?.saturating_sub(cpu) / (2 * tries),
    })
}

/// What objects cost that no registration refers to.
async fn memory(scene: &Scene, options: &Options, report: &mut Report) -> Result<()> {
    let before = scene.memory_at_rest().await?;
    scene.create_slices(options.others).await?;
    let slices = scene.memory_at_rest().await?;
    let what = format!("with {} EndpointSlices that Kubernetes does not write", options.others);
    report.memory(&what, slices, Some((before, options.others)));
    scene.create_nodes(options.others).await?;
    let nodes = scene.memory_at_rest().await?;
    report.memory(
        &format!("with {} nodes", options.others),
        nodes,
        Some((slices, options.others)),
    );
    scene.create_pods(options.pods).await?;
    let pods = scene.memory_at_rest().await?;
    let what = format!("with {} pods that no registration selects", options.pods);
    report.memory(&what, pods, Some((nodes, options.pods)));
    Ok(())
}

/// What it takes to register many pods at once, and to have them registered.
async fn registration(scene: &Scene, options: &Options, report: &mut Report) -> Result<()> {
    let before = scene.memory_at_rest().await?;
    let (cold, endpoints) = register_all(scene, "many", options.pods).await?;
    let what = format!(
        "{} ready pods, from the first key to the last, default limits",
        options.pods
    );
    report.duration(&what, cold);
    let after = scene.memory_at_rest().await?;
    let what = format!("the same, all {} registered", options.pods);
    report.memory(&what, after, Some((before, options.pods)));

    eprintln!("restarting the operator ...");
    scene.operator.restart().await?;
    scene.wait_leader().await?;
    let restarted = scene.memory_at_rest().await?;
    report.memory("the same, after a restart", restarted, None);
    let events = endpoints.settled().await?.len();
    if events != options.pods as usize {
        return Err(Error::Broken(format!(
            "the restart changed keys: {events} events on {} keys",
            options.pods
        )));
    }

    let limits = json!({"keysPerSecond": 100_000, "changesPerSecondPerNamespace": 100_000});
    scene.configure(&json!({"limits": limits})).await?;
    let (cold, _) = register_all(scene, "many-again", options.pods).await?;
    let what = format!(
        "{} ready pods, from the first key to the last, highest limits",
        options.pods
    );
    report.duration(&what, cold);
    Ok(())
}

/// Registers all pods under a name, and returns the time from the first to the last key.
async fn register_all(scene: &Scene, name: &str, pods: u32) -> Result<(Duration, History)> {
    eprintln!("registering {pods} pods ...");
    let history = History::watch(scene.bed.registry(), &format!("/services/{NAMESPACE}/{name}/"), 0).await?;
    scene.register_pods(name).await?;
    history
        .wait_for(|events| events.len() >= pods as usize, PATIENCE)
        .await?;
    let arrivals = history.arrivals();
    let ends = arrivals.first().zip(arrivals.last());
    let took = ends.map_or(Duration::ZERO, |((first, _), (last, _))| *last - *first);
    scene::wait_registered(&scene.namespace, name, pods).await?;
    Ok((took, history))
}
