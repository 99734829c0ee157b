//! What consumers see of pods that come and go, and do not see of everything else.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use testbed::{Result, until};

use crate::consumer::Consumer;
use crate::scene::{Scene, TTL, domain, formats};
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
    let (turn, name) = (&scene.turn, domain("six", &scene.turn));
    let six = json!({
        "address": {"ipFamilies": ["IPv6"]},
        "formats": [{"type": "CoreDNS", "coreDNS": {"domain": name}}],
    });
    turn.namespace.apply(registration("six", &six)).await?;
    turn.namespace.create_pod(&pod("six-0", "six").ip("fd00::7")).await?;
    let six = scene.core_dns.client(turn, &name)?;
    six.wait_view(&["[fd00::7]:8080".to_owned()].into()).await?;
    wait_newest(&six, "aaaa", &["fd00::7".to_owned()]).await?;
    wait_newest(&six, "a", &[]).await?;
    wait_newest(&six, "targets", &[format!("six-0.{name}.")]).await?;

    let name = domain("both", turn);
    let both = json!({
        "address": {"ipFamilies": ["IPv4", "IPv6"]},
        "formats": [{"type": "CoreDNS", "coreDNS": {"domain": name}}],
    });
    turn.namespace.apply(registration("both", &both)).await?;
    turn.namespace.create_pod(&pod("both-0", "both").ip("10.9.3.7")).await?;
    turn.namespace.set_pod_ips("both-0", &["10.9.3.7", "fd00::37"]).await?;
    let both = scene.core_dns.client(turn, &name)?;
    wait_newest(&both, "a", &["10.9.3.7".to_owned()]).await?;
    wait_newest(&both, "aaaa", &["fd00::37".to_owned()]).await?;

    let (pods, addresses): (Vec<_>, Vec<_>) = scene.kubelet.addresses().into_iter().unzip();
    let host = |address: &String| Some(address.rsplit_once(':')?.0.to_owned());
    let mut hosts: Vec<String> = addresses.iter().filter_map(host).collect();
    hosts.sort();
    wait_newest(&scene.dns, "a", &hosts).await?;
    wait_newest(&scene.dns, "aaaa", &[]).await?;
    let targets: Vec<String> = pods
        .iter()
        .map(|pod| format!("{pod}.{}.", domain("orders", turn)))
        .collect();
    wait_newest(&scene.dns, "targets", &targets).await
}

/// Waits until the newest of a consumer's lists of this name is this one.
async fn wait_newest(consumer: &Consumer, name: &str, expected: &[String]) -> Result<()> {
    until(&format!("{name} to be {expected:?}"), SOON, || async {
        match consumer.newest(name) {
            newest if newest == expected => Ok(()),
            newest => Err(format!("{newest:?}")),
        }
    })
    .await
}
