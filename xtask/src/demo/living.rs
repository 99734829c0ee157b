//! Pods come, one is lost, there are more: their keys follow.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use testbed::Kind;

use super::{
    shop::{NAME, PATIENCE, PREFIXES, SELECTOR, Shop, listed, pod_of, registration, written},
    story::{Story, median, milliseconds},
};
use crate::error::{Error, Result};

/// Which of two programs on one machine comes first is a matter of chance below this: seven pods are no benchmark.
const NEAR: Duration = Duration::from_millis(100);
/// The longest that a key may lag behind its pod on a busy machine. It takes milliseconds; no timer takes as little as this.
const PROMPT: Duration = Duration::from_secs(1);

/// A Deployment of 3 is registered in two formats.
pub async fn register(story: &mut Story, shop: &Shop<'_>) -> Result<()> {
    story.step("A Deployment of 3 pods, and a ServiceRegistration that writes them as EtcdGRPC and as Plain");
    let histories = shop.histories().await?;
    let begin = Instant::now();
    shop.namespace
        .apply(registration(NAME, "default", &["EtcdGRPC", "Plain"]))
        .await?;
    shop.namespace
        .create_deployment(NAME, &[("app", NAME)], 3, &[("grpc", 8080)])
        .await?;
    let ready = shop.ready.wait(3, PATIENCE).await?;
    let mut last = begin;
    for history in &histories {
        history.wait_for(|events| events.len() >= 3, PATIENCE).await?;
        last = written(history).into_values().fold(last, Instant::max);
    }
    let ready = ready.into_values().fold(begin, Instant::max);
    let keys = shop.wait_keys(&PREFIXES, 6, PATIENCE).await?;
    story.show(&listed(&keys));
    story.holds(
        keys.values().all(|held| held.lease != 0),
        &format!(
            "6 keys, all on leases, {:.2} s after both were applied (the pods were ready after {:.2} s)",
            (last - begin).as_secs_f64(),
            (ready - begin).as_secs_f64()
        ),
    )?;
    shop.wait_status(NAME, 3).await?;
    story.show(&shop.kubectl().await?);
    Ok(())
}

/// A pod becomes unready, and ready again.
pub async fn lose_one(story: &mut Story, shop: &Shop<'_>) -> Result<()> {
    story.step("One pod becomes unready");
    let pods = shop.namespace.wait_ready_pods(SELECTOR, 3).await?;
    let pod = pods[0].metadata.name.clone().unwrap_or_default();
    let histories = shop.histories().await?;

    let begin = Instant::now();
    shop.namespace.set_ready(&pod, false).await?;
    let mut last = begin;
    for history in &histories {
        history.wait_for(|events| !events.is_empty(), PATIENCE).await?;
        let arrivals = history.arrivals();
        let (at, event) = &arrivals[0];
        if arrivals.len() != 1 || event.kind != Kind::Delete || pod_of(&event.key) != pod {
            return Err(Error::Broken(format!("only {pod} is deleted: {arrivals:?}")));
        }
        last = last.max(*at);
    }
    let after = milliseconds(begin, last);
    story.holds(
        last - begin < PROMPT,
        &format!("both keys of {pod} were removed {after:.0} ms after the kubelet's write was sent"),
    )?;

    let begin = Instant::now();
    shop.namespace.set_ready(&pod, true).await?;
    let mut last = begin;
    for history in &histories {
        history.wait_for(|events| events.len() > 1, PATIENCE).await?;
        last = last.max(history.arrivals()[1].0);
    }
    let after = milliseconds(begin, last);
    story.holds(
        last - begin < PROMPT,
        &format!("ready again: both keys were back after {after:.0} ms"),
    )
}

/// The Deployment is scaled to 10; each new pod's keys race its EndpointSlice.
pub async fn scale(story: &mut Story, shop: &Shop<'_>) -> Result<()> {
    story.step("Scale to 10: Ready -> key beside Ready -> EndpointSlice of kube-controller-manager, on one clock");
    let old: BTreeSet<_> = shop.endpoints.wait(3, PATIENCE).await?.into_keys().collect();
    let [plain, grpc] = shop.histories().await?;
    shop.namespace.scale(NAME, 10).await?;
    let ready = shop.ready.wait(10, PATIENCE).await?;
    let endpoints = shop.endpoints.wait(10, PATIENCE).await?;
    for history in [&plain, &grpc] {
        history.wait_for(|events| events.len() >= 7, PATIENCE).await?;
    }
    let keys = written(&plain);

    let mut table = format!(
        "{:<28}{:>12}{:>18}\n",
        "milliseconds after Ready", "key", "EndpointSlice"
    );
    let (mut to_key, mut to_slice) = (Vec::new(), Vec::new());
    for (pod, ready) in ready.iter().filter(|(pod, _)| !old.contains(*pod)) {
        let (Some(key), Some(slice)) = (keys.get(pod), endpoints.get(pod)) else {
            return Err(Error::Broken(format!("{pod} has a key and is in the EndpointSlice")));
        };
        let (key, slice) = (milliseconds(*ready, *key), milliseconds(*ready, *slice));
        let _ = writeln!(table, "{pod:<28}{key:>12.1}{slice:>18.1}");
        to_key.push(key);
        to_slice.push(slice);
    }
    story.show(&table);
    story.show(
        "(0 is when the demo's own watch reports Ready; a negative time means that the operator's watch was faster)",
    );
    let slowest = to_key.iter().copied().fold(f64::MIN, f64::max);
    let (key, slice) = (median(to_key).unwrap_or(f64::MAX), median(to_slice).unwrap_or(f64::MIN));
    story.holds(
        slowest < PROMPT.as_secs_f64() * 1000.0,
        &format!("every key within {slowest:.1} ms of Ready"),
    )?;
    let order = if key < slice { "before" } else { "about when" };
    story.holds(
        key < slice.max(NEAR.as_secs_f64() * 1000.0),
        &format!("the key is there {order} the EndpointSlice is: median {key:.1} ms against {slice:.1} ms"),
    )?;
    let count = shop.keys(&PREFIXES).await?.len();
    story.holds(count == 20, &format!("{count} keys for 10 pods in 2 formats"))?;
    shop.wait_status(NAME, 10).await?;
    story.show(&shop.kubectl().await?);
    Ok(())
}
