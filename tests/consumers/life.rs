//! What consumers see of pods that come and go, and do not see of everything else.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use testbed::Result;

use crate::programs::ZONE;
use crate::scene::{Scene, TTL, formats};
use crate::support::{SOON, pod, registration, wait_in_sync};

#[tokio::test]
async fn a_pod_is_known_while_it_is_ready_and_only_then() -> Result<()> {
    let scene = Scene::start("ready").await?;
    let all = scene.kubelet.addresses();
    let (pod, address) = all.first_key_value().expect("three pods");
    let others: BTreeSet<String> = all.values().filter(|other| *other != address).cloned().collect();
    scene.turn.namespace.set_ready(pod, false).await?;
    scene.wait_view(&others).await?;
    scene.turn.namespace.set_ready(pod, true).await?;
    scene.wait_view(&scene.serving()).await
}

#[tokio::test]
async fn neither_a_restarted_operator_nor_a_sibling_service_is_noticed() -> Result<()> {
    let scene = Scene::start("quiet").await?;
    let counts = scene.counts();
    let namespace = &scene.turn.namespace;

    let sibling = registration("orders-v2", &formats("orders-v2", &scene.turn));
    namespace.apply(sibling).await?;
    wait_in_sync(namespace.objects(), "orders-v2", 3).await;

    scene.operator.kill().await?;
    scene.operator.restart().await?;
    scene.operator.wait_ready(SOON).await?;

    // A change of the operator's second life: before it has been seen there was nothing to see.
    let all = scene.kubelet.addresses();
    let (pod, address) = all.first_key_value().expect("three pods");
    let others: BTreeSet<String> = all.values().filter(|other| *other != address).cloned().collect();
    namespace.set_ready(pod, false).await?;
    scene.wait_view(&others).await?;
    scene.assert_one_more(counts);
    assert_eq!(scene.dns.failures(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn what_lapses_with_the_operator_is_gone_for_consumers() -> Result<()> {
    let scene = Scene::start("lapse").await?;
    scene.operator.kill().await?;
    let patience = SOON + Duration::from_secs(TTL.into());
    for consumer in scene.consumers() {
        consumer.wait_view_within(&BTreeSet::new(), patience).await?;
    }
    assert!(!scene.grpc.failures().is_empty(), "calls fail once nobody is known");
    Ok(())
}

#[tokio::test]
async fn coredns_answers_for_addresses_of_both_families() -> Result<()> {
    let scene = Scene::start("dns").await?;
    let (turn, name) = (&scene.turn, format!("six.{ZONE}"));
    let six = json!({
        "address": {"family": "IPv6"},
        "formats": [{"type": "CoreDns", "domain": name}],
    });
    turn.namespace.apply(registration("six", &six)).await?;
    turn.namespace.create_pod(&pod("six-0", "six").ip("fd00::7")).await?;
    let six = scene.core_dns.client(turn, &name)?;
    six.wait_view(&["[fd00::7]:8080".to_owned()].into()).await?;
    assert_eq!(six.detail("aaaa"), ["fd00::7"]);
    assert_eq!(
        (six.detail("a"), six.detail("targets")),
        (vec![], vec![format!("six-0.{name}.")])
    );

    let (pods, addresses): (Vec<_>, Vec<_>) = scene.kubelet.addresses().into_iter().unzip();
    let mut hosts: Vec<String> = addresses
        .iter()
        .filter_map(|address| Some(address.rsplit_once(':')?.0.to_owned()))
        .collect();
    hosts.sort();
    assert_eq!((scene.dns.detail("a"), scene.dns.detail("aaaa")), (hosts, vec![]));
    let targets: Vec<String> = pods.iter().map(|pod| format!("{pod}.orders.{ZONE}.")).collect();
    assert_eq!(scene.dns.detail("targets"), targets);
    Ok(())
}
