//! `cargo xtask bench scale`: what large and busy tenants cost the operator and its neighbours.
//!
//! Another tenant's latency under load is compared with its latency alone, in the same run. It contains the request to
//! the API server, which is as busy as the operator.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::json;
use testbed::{Bed, Namespace, NewPod};

use super::{
    Options, PATIENCE,
    figures::{Report, Times, kilo, ratio},
    load::{self, Puts},
    probe::{Followed, Probe},
    scene::{MANY, Scene, create_pods, pod_name, register, wait_registered},
};
use crate::error::Result;

/// Registrations of the tenant whose pods flap.
const FLAPPING: u32 = 1000;
/// Pods that are deleted at once, and the registrations that select them.
const DELETED: (u32, u32) = (2000, 16);
/// Keys of other programs, and the size of their values.
const FOREIGN: (u32, usize) = (300_000, 1000);
/// Registrations that are applied in a row, and how many per second.
const BULK: (u32, u32) = (5000, 50);
/// Registrations of all pods together, so that there are 200,000 keys of 10,000 pods.
const MULTIPLE: u32 = 20;
/// Registries for events that concern none of them.
const REGISTRIES: u32 = 20;
/// Events that change nothing.
const EVENTS: u32 = 1000;
/// How long a load lasts that could go on for ever.
const LOAD: Duration = Duration::from_secs(30);

/// A part of the table.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Pod events that change nothing, with one Registry and with many
    Events,
    /// Requests of an idle operator
    Idle,
    /// A tenant with many registrations whose pods change constantly
    Flood,
    /// Many pods that are deleted at once
    Removal,
    /// Keys of other programs below the prefix of a registration
    Foreign,
    /// Many registrations that are applied one after the other
    Bulk,
    /// A registration with many pods
    Large,
}

pub async fn run(scene: &Scene, options: &Options, report: &mut Report) -> Result<()> {
    // The guard would hold back what the loads remove.
    scene.configure(&json!({"guard": {"mode": "Off"}})).await?;
    let bed = &scene.bed;
    let mut quiet = Probe::register(bed, bed.namespace_named("quiet").await?, "probe").await?;
    quiet.measure(20).await?;
    let alone = quiet.measure(options.tries).await?;
    report.time(
        "key of a quiet tenant after a change of readiness, alone",
        &alone.key,
        None,
    );
    report.time(
        "the same, until a client that only watches the pod has the change",
        &alone.observed,
        None,
    );
    report.time("the same, from then to the key", &alone.after, None);

    for part in Part::value_variants() {
        if !options.only.is_empty() && !options.only.contains(part) {
            continue;
        }
        match part {
            Part::Events => events(scene, report).await?,
            Part::Idle => idle(scene, report).await?,
            Part::Flood => flood(bed, &mut quiet, &alone, report).await?,
            Part::Removal => Box::pin(removal(bed, &mut quiet, &alone, report)).await?,
            Part::Foreign => foreign(scene, &mut quiet, report).await?,
            Part::Bulk => bulk(scene, &mut quiet, report).await?,
            Part::Large => Box::pin(large(scene, options, &mut quiet, &alone, report)).await?,
        }
    }
    Ok(())
}

/// A tenant with many registrations whose pods change all the time.
async fn flood(bed: &Bed, quiet: &mut Probe, alone: &Followed, report: &mut Report) -> Result<()> {
    let flood = bed.namespace_named("flood").await?;
    for name in ["flood-0", "flood-1"] {
        flood
            .create_pod(&NewPod::new(name).label("app", "flood").port("grpc", 8080))
            .await?;
    }
    load::create_registrations(&flood, ("flood", FLAPPING), "flood", &["Plain"]).await?;
    load::wait_keys(bed.registry(), &flood, 2 * i64::from(FLAPPING)).await?;
    let storm = load::flap(&flood, ["flood-0", "flood-1"], LOAD);
    let (times, changes) = quiet.beside(storm).await?;
    let what = format!("beside {FLAPPING} registrations of two pods that flap, {changes} changes");
    report.beside(&what, &times, alone);
    load::clear(bed.registry(), &flood).await
}

/// Many pods that are deleted at once.
async fn removal(bed: &Bed, quiet: &mut Probe, alone: &Followed, report: &mut Report) -> Result<()> {
    let (pods, registrations) = DELETED;
    let mass = bed.namespace_named("mass").await?;
    create_pods(&mass, pods).await?;
    load::create_registrations(&mass, ("mass", registrations), MANY, &["Plain"]).await?;
    load::wait_keys(bed.registry(), &mass, i64::from(pods * registrations)).await?;
    let begin = Instant::now();
    let removal = async {
        let deleted = load::delete_pods(&mass, pods).await?;
        Ok((deleted, load::wait_keys(bed.registry(), &mass, 0).await?))
    };
    let (times, (deleted, removed)) = Box::pin(quiet.beside(removal)).await?;
    report.figure(
        &format!("{pods} pods deleted, {registrations} registrations: from the last pod to the last key"),
        format!("{:.2} s", removed.saturating_duration_since(deleted).as_secs_f64()),
        Some(format!(
            "the deletions took {:.1} s",
            deleted.duration_since(begin).as_secs_f64()
        )),
    );
    report.beside("key of the quiet tenant meanwhile", &times, alone);
    load::clear(bed.registry(), &mass).await
}

/// Keys of other programs below the prefix of a registration.
async fn foreign(scene: &Scene, quiet: &mut Probe, report: &mut Report) -> Result<()> {
    let (count, size) = FOREIGN;
    let etcd = scene.bed.registry().client().await?;
    let before = scene.memory_at_rest().await?;
    load::put(&etcd, "/services/foreign/kept/", count, size).await?;
    let namespace = scene.bed.namespace_named("foreign").await?;
    namespace.create_pod(&NewPod::new("foreign").port("grpc", 8080)).await?;
    let registration = async {
        register(
            &namespace,
            "kept",
            json!({"selector": {"matchLabels": {"app": "foreign"}}}),
        )
        .await?;
        wait_registered(&namespace, "kept", 1).await
    };
    let (times, ()) = quiet.beside(registration).await?;
    let after = scene.memory_at_rest().await?;
    let what = format!("memory after listing {count} keys of {size} bytes of another program");
    report.memory(&what, after, Some((before, count)));
    report.time("key of the quiet tenant while they are listed", &times.key, None);
    load::clear_foreign(&etcd, "/services/foreign/kept/").await?;
    Ok(())
}

/// Many registrations that are applied in a row.
async fn bulk(scene: &Scene, quiet: &mut Probe, report: &mut Report) -> Result<()> {
    let (count, rate) = BULK;
    let bulk = scene.bed.namespace_named("bulk").await?;
    bulk.create_pod(&NewPod::new("bulk").port("grpc", 8080)).await?;
    let mut etcd = scene.bed.registry().client().await?;
    let (memory, cpu, begin) = (scene.memory_at_rest().await?, scene.cpu()?, Instant::now());
    let load = load::create_registrations_slowly(&bulk, count, "bulk", rate);
    let mut load = std::pin::pin!(load);
    let mut times = Vec::new();
    let applied = loop {
        tokio::select! {
            biased;
            done = &mut load => break done.map(|()| Instant::now())?,
            time = quiet.lose_key(&mut etcd) => times.push(time?),
        }
    };
    // The last one may have been cut off.
    quiet.resume().await?;
    let registered = load::wait_keys(scene.bed.registry(), &bulk, i64::from(count)).await?;
    let what = format!(
        "{count} registrations in two formats, {rate} per second: a key that another client deletes is back after"
    );
    report.time(&what, &Times::of(times), None);
    report.figure(
        "the same: from the last registration to the last key",
        format!("{:.2} s", registered.saturating_duration_since(applied).as_secs_f64()),
        Some(format!(
            "all were applied in {:.0} s",
            applied.duration_since(begin).as_secs_f64()
        )),
    );
    report.duration("the same: CPU time", scene.cpu()?.saturating_sub(cpu));
    report.memory("the same: memory", scene.memory_at_rest().await?, Some((memory, count)));
    load::clear(scene.bed.registry(), &bulk).await
}

/// A registration with many pods.
async fn large(
    scene: &Scene,
    options: &Options,
    quiet: &mut Probe,
    alone: &Followed,
    report: &mut Report,
) -> Result<()> {
    let pods = options.pods;
    let large = scene.bed.namespace_named("large").await?;
    create_pods(&large, pods).await?;
    Box::pin(cold(scene, &large, pods, report)).await?;

    // The default limits.
    scene.configure(&json!({"guard": {"mode": "Off"}})).await?;
    let (times, edits) = quiet.beside(load::edit(&large, MANY, LOAD)).await?;
    let what = format!("beside a registration of {pods} pods that is edited {edits} times in {LOAD:?}");
    report.beside(&what, &times, alone);

    let flips = load::flip_slowly(&large, Duration::from_millis(300), LOAD);
    let (writes, bytes) = load::status_bytes(&large, MANY, flips).await?;
    report.figure(
        &format!("status of a registration of {pods} pods, one changes every 300 ms"),
        format!("{:.1} kB/s", kilo(bytes) / LOAD.as_secs_f64()),
        Some(format!("{writes} writes in {LOAD:?}")),
    );
    quota(scene, &large, options.tries, report).await?;
    broken_watch(scene, &large, (pods, quiet), report).await
}

/// Registers all pods with the highest limits, and compares that with writing as many keys without a thought.
async fn cold(scene: &Scene, large: &Namespace, pods: u32, report: &mut Report) -> Result<()> {
    let limits = json!({"keysPerSecond": 100_000, "changesPerSecondPerNamespace": 100_000});
    let off = json!({"mode": "Off"});
    scene.configure(&json!({"guard": off, "limits": limits})).await?;
    let etcd = scene.bed.registry().client().await?;
    let plain = load::put_leased(&etcd, ("/plain/", pods), 100, Puts::Plain).await?;
    load::clear_foreign(&etcd, "/plain/").await?;
    // The operator and the bench watch the operator's keys.
    let registry = scene.bed.registry();
    let watching = [
        testbed::History::watch(registry, "/raw/", 0).await?,
        testbed::History::watch(registry, "/raw/", 0).await?,
    ];
    let guarded = load::put_leased(&etcd, ("/raw/", pods), 100, Puts::Guarded).await?;
    drop(watching);
    load::clear_foreign(&etcd, "/raw/").await?;
    let history = testbed::History::watch(scene.bed.registry(), &format!("/services/{}/", large.name()), 0).await?;
    register(large, MANY, json!({"selector": {"matchLabels": {"app": MANY}}})).await?;
    let all = pods as usize;
    history.wait_for(|events| events.len() >= all, PATIENCE).await?;
    let arrivals = history.arrivals();
    let took = arrivals[all - 1].0.duration_since(arrivals[0].0);
    report.figure(
        &format!("{pods} keys with the highest limits, from the first to the last"),
        format!("{:.0} keys/s", f64::from(pods) / took.as_secs_f64()),
        Some(format!(
            "{} of the time of equal transactions, {} of plain puts without a watch",
            ratio(took, guarded),
            ratio(took, plain)
        )),
    );
    wait_registered(large, MANY, pods).await
}

/// What a change costs when the namespace has a quota.
async fn quota(scene: &Scene, large: &Namespace, tries: u32, report: &mut Report) -> Result<()> {
    let off = json!({"mode": "Off"});
    let rule = |limit: Option<u32>| {
        let mut rule = json!({"name": "all", "namespaceSelector": {}});
        if let Some(limit) = limit {
            rule["keysPerNamespace"] = limit.into();
        }
        json!({"guard": off, "access": {"rules": [rule]}})
    };
    let mut probe = Probe::register(&scene.bed, scene.bed.namespace_named(large.name()).await?, "in-large").await?;
    let mut without = None;
    for (what, spec) in [
        ("without access rules", json!({"guard": off})),
        ("with a rule", rule(None)),
        ("with a quota", rule(Some(100_000))),
    ] {
        scene.configure(&spec).await?;
        probe.measure(20).await?;
        let cpu = scene.cpu()?;
        probe.measure(tries).await?;
        let cpu = scene.cpu()?.saturating_sub(cpu) / tries;
        let base = *without.get_or_insert(cpu);
        report.cpu(
            &format!("CPU time for a change in a large namespace, {what}"),
            cpu,
            Some(base),
        );
    }
    scene.configure(&json!({"guard": off})).await
}

/// What a broken connection to etcd costs when there are many keys.
async fn broken_watch(
    scene: &Scene,
    large: &Namespace,
    (pods, quiet): (u32, &mut Probe),
    report: &mut Report,
) -> Result<()> {
    let limits = json!({"keysPerSecond": 100_000, "changesPerSecondPerNamespace": 100_000});
    scene
        .configure(&json!({"guard": {"mode": "Off"}, "limits": limits}))
        .await?;
    load::create_registrations(large, ("again", MULTIPLE - 1), MANY, &["Plain"]).await?;
    let keys = i64::from(pods) * i64::from(MULTIPLE) + 1;
    load::wait_keys(scene.bed.registry(), large, keys).await?;
    let what = format!("memory with {keys} keys, including the rest of earlier parts");
    report.memory(&what, scene.memory_at_rest().await?, None);
    let alone = quiet.measure(50).await?;
    report.time("key of the quiet tenant beside them", &alone.key, None);
    let writes = scene.calls("patch_status").await?;
    scene.bed.registry().restart(0).await?;
    let times = quiet.measure(50).await?;
    report.beside("the same after a restart of etcd, the outage included", &times, &alone);
    scene.memory_at_rest().await?;
    // The status of the quiet tenant's registration follows its pod at least once a second.
    report.figure(
        "status writes of the restart and of the quiet tenant's changes",
        format!("{}", scene.calls("patch_status").await? - writes),
        None,
    );
    report.memory("memory after the restart", scene.memory_at_rest().await?, None);
    Ok(())
}

/// Pod events that change nothing, with one Registry and with many.
async fn events(scene: &Scene, report: &mut Report) -> Result<()> {
    let namespace = scene.bed.namespace_named("others").await?;
    create_pods(&namespace, 1).await?;
    let cpu_of_an_event = async || {
        let cpu = scene.cpu()?;
        load::annotate(&namespace, &pod_name(0), EVENTS).await?;
        Ok::<_, crate::error::Error>(scene.cpu()?.saturating_sub(cpu) / EVENTS)
    };
    let one = cpu_of_an_event().await?;
    report.cpu("CPU time of a pod event that changes nothing", one, None);
    for i in 1..REGISTRIES {
        scene.apply_registry(&format!("more-{i}"), &json!({})).await?;
    }
    scene.memory_at_rest().await?;
    let many = cpu_of_an_event().await?;
    report.cpu(&format!("the same with {REGISTRIES} Registries"), many, Some(one));
    for i in 1..REGISTRIES {
        let registries = scene.bed.objects();
        registries
            .delete(super::scene::API, "Registry", &format!("more-{i}"))
            .await?;
    }
    Ok(())
}

/// The requests of an operator that has nothing to do.
async fn idle(scene: &Scene, report: &mut Report) -> Result<()> {
    scene.memory_at_rest().await?;
    let begin = Instant::now();
    let before = scene.apiserver_requests().await?;
    tokio::time::sleep(Duration::from_mins(2)).await;
    let requests = scene.apiserver_requests().await? - before;
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    report.figure(
        "LIST and WATCH requests for registrations at rest",
        format!("{:.1} per minute", requests / minutes),
        None,
    );
    Ok(())
}
