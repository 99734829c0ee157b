//! Names that are alike: of services whose names run into each other, and of one service in two clusters.

use serde_json::json;
use testbed::{Bed, BedConfig, History, Operator, OperatorConfig, Result};

use crate::Scene;
use crate::support::{pod, registration, wait_condition, wait_count, wait_in_sync, wait_keys};

#[tokio::test]
async fn services_with_equal_hyphen_joined_names_have_separate_keys() -> Result<()> {
    let scene = Scene::of("joined", 1, 30).await?;
    let (bed, etcd, first) = (scene.turn.bed, &scene.turn.etcd, &scene.turn.namespace);
    // FIRST-y-z-p either way; and names of which one begins the other.
    let second = bed.namespace_named(&format!("{}-y", first.name())).await?;
    let spec = json!({
        "selector": {"matchLabels": {"app": "joined"}},
        "formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}],
    });
    for (namespace, service) in [(first, "y-z"), (first, "y"), (&second, "z"), (&second, "zz")] {
        namespace.apply(registration(service, &spec)).await?;
    }
    for namespace in [first, &second] {
        namespace.create_pod(&pod("p", "joined")).await?;
    }
    let prefix = |namespace: &testbed::Namespace, service: &str| format!("/services/{}/{service}/", namespace.name());
    for (namespace, service) in [(first, "y-z"), (first, "y"), (&second, "z"), (&second, "zz")] {
        wait_keys(etcd, &prefix(namespace, service), &["p"]).await;
        wait_in_sync(namespace.objects(), service, 1).await;
    }
    let history = [(first, "y-z"), (&second, "zz")];
    let history = history.map(|(namespace, service)| prefix(namespace, service));
    let [kept, sibling] = history;
    let kept = History::watch(etcd, &kept, 0).await?;
    let sibling = History::watch(etcd, &sibling, 0).await?;
    let api = crate::support::API;
    for (namespace, service) in [(first, "y"), (&second, "z")] {
        namespace.objects().delete(api, "ServiceRegistration", service).await?;
        wait_count(etcd, &prefix(namespace, service), 0, crate::support::SOON).await;
        let grpc = format!("{}/{service}/", namespace.name());
        wait_count(etcd, &grpc, 0, crate::support::SOON).await;
    }
    kept.assert_silent().await;
    sibling.assert_silent().await;
    Ok(())
}

#[tokio::test]
async fn two_clusters_that_register_the_same_service_leave_each_other_alone() -> Result<()> {
    let scene = Scene::of("clusters", 1, 30).await?;
    let (etcd, orders) = (&scene.turn.etcd, scene.turn.plain("orders"));
    let other = Bed::start(BedConfig::default()).await?;
    other.apply_crds().await?;
    other.create_registry("default", &etcd.endpoints(), 30).await?;
    let namespace = other.namespace_named(scene.turn.namespace.name()).await?;
    let spec = json!({
        "selector": {"matchLabels": {"app": "orders"}},
        "formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}],
    });
    namespace.apply(registration("orders", &spec)).await?;
    // One of them is called like one of the first cluster's, which was there before.
    for name in ["a", "d", "e"] {
        namespace.create_pod(&pod(name, "orders")).await?;
    }
    let before = scene.wait(&["a", "b", "c"]).await;
    let config = OperatorConfig::new("operator-there", env!("CARGO_BIN_EXE_leasehold"));
    let there = Operator::start(&other, config)?;
    there.wait_ready(crate::support::SOON).await?;
    let both = wait_keys(etcd, &orders, &["a", "b", "c", "d", "e"]).await;
    for (key, held) in &before {
        assert_eq!(&both[key], held, "the first one's are as they were");
    }
    wait_condition(namespace.objects(), "orders", "Conflict", "True", "HeldByOther").await;

    let history = History::watch(etcd, &orders, 0).await?;
    for operator in [&scene.operator, &there] {
        operator.restart().await?;
        operator.wait_ready(crate::support::SOON).await?;
    }
    wait_in_sync(scene.turn.namespace.objects(), "orders", 3).await;
    history.assert_silent().await;
    // What each has goes by its own word only.
    scene.turn.namespace.set_ready("a", false).await?;
    let taken = history
        .wait_for(|events| events.len() >= 2, crate::support::SOON)
        .await?;
    assert_eq!(taken[0].to_string(), format!("delete {orders}a"));
    assert!(
        taken[1].to_string().starts_with(&format!("put {orders}a ")),
        "{taken:?}"
    );
    wait_in_sync(namespace.objects(), "orders", 3).await;
    let api = crate::support::API;
    namespace.objects().delete(api, "ServiceRegistration", "orders").await?;
    scene.wait(&["b", "c"]).await;
    Ok(())
}
