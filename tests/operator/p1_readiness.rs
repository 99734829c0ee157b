//! P1: a ready pod has its key, and one that is not ready, terminating or deleted has not; no timer in the path.

use serde_json::json;
use testbed::{History, Namespace, Result};

use crate::support::{plain_prefix, pod, registration, wait_events, wait_keys};
use crate::{bed, support};

async fn orders(prefix: &str) -> Result<(Namespace, String)> {
    let namespace = bed().await.namespace(prefix).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    let prefix = plain_prefix(&namespace, "orders");
    Ok((namespace, prefix))
}

#[tokio::test]
async fn p1_a_key_is_there_while_its_pod_is_ready_and_gone_when_it_is_not() -> Result<()> {
    let (namespace, prefix) = orders("p1-ready").await?;
    let history = History::watch(bed().await.registry(), &prefix, 0).await?;
    namespace
        .create_pod(&pod("a", "orders").ip("10.9.0.1").unready())
        .await?;
    // Coalesced into one, the four changes would cause no event, so the test waits for the first.
    namespace.set_ready("a", true).await?;
    wait_events(&history, 1).await;
    for ready in [false, true, false] {
        namespace.set_ready("a", ready).await?;
    }
    let expected = ["put a 10.9.0.1:8080", "delete a", "put a 10.9.0.1:8080", "delete a"];
    let expected = expected.map(|event| event.replace(" a", &format!(" {prefix}a")));
    // Changes within one round trip may be coalesced. Promised are the last one and the order.
    let events = history
        .wait_for(|events| events.last().is_some_and(is_delete), support::SOON)
        .await?;
    assert!(events.len() <= 4, "{events:?}");
    for (event, expected) in events.iter().zip(expected) {
        assert_eq!(event.to_string(), expected);
    }
    Ok(())
}

fn is_delete(event: &testbed::Event) -> bool {
    event.kind == testbed::Kind::Delete
}

#[tokio::test]
async fn p1_a_terminating_pod_loses_its_key_at_once_though_it_is_still_there() -> Result<()> {
    let (namespace, prefix) = orders("p1-terminating").await?;
    let etcd = bed().await.registry();
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace
        .create_pod(&pod("a", "orders").ip("10.9.0.2").held_when_deleted())
        .await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    namespace.delete_pod("a").await?;
    wait_events(&history, 2).await;
    assert_eq!(
        namespace.pods("app=orders").await?.len(),
        1,
        "it waits for its finalizer"
    );
    namespace.release("a").await?;
    namespace.wait_pod_gone("a").await?;
    history
        .assert_exactly(&[&format!("put {prefix}a 10.9.0.2:8080"), &format!("delete {prefix}a")])
        .await;
    Ok(())
}

#[tokio::test]
async fn p1_a_deleted_pod_loses_its_key_and_one_of_its_name_gets_another() -> Result<()> {
    let (namespace, prefix) = orders("p1-deleted").await?;
    let etcd = bed().await.registry();
    let history = History::watch(etcd, &prefix, 0).await?;
    for address in ["10.9.0.3", "10.9.0.4"] {
        namespace.create_pod(&pod("a", "orders").ip(address)).await?;
        wait_keys(etcd, &prefix, &["a"]).await;
        namespace.delete_pod("a").await?;
        namespace.wait_pod_gone("a").await?;
        wait_keys(etcd, &prefix, &[]).await;
    }
    let expected = ["put a 10.9.0.3:8080", "delete a", "put a 10.9.0.4:8080", "delete a"];
    let expected = expected.map(|event| event.replace(" a", &format!(" {prefix}a")));
    history.assert_exactly(&expected.each_ref().map(String::as_str)).await;
    Ok(())
}

#[tokio::test]
async fn p1_a_pod_that_leaves_the_selector_loses_its_key() -> Result<()> {
    let (namespace, prefix) = orders("p1-selector").await?;
    let etcd = bed().await.registry();
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_keys(etcd, &prefix, &["a", "b"]).await;
    namespace.apply(pod("a", "others").manifest()).await?;
    wait_keys(etcd, &prefix, &["b"]).await;
    namespace.apply(pod("a", "orders").manifest()).await?;
    wait_keys(etcd, &prefix, &["a", "b"]).await;
    Ok(())
}

#[tokio::test]
async fn p1_changed_pod_address_replaces_the_value_in_one_event() -> Result<()> {
    let (namespace, prefix) = orders("p1-address").await?;
    let etcd = bed().await.registry();
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.0.5")).await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    namespace.set_pod_ip("a", "10.9.0.6").await?;
    wait_events(&history, 2).await;
    let (first, second) = (
        format!("put {prefix}a 10.9.0.5:8080"),
        format!("put {prefix}a 10.9.0.6:8080"),
    );
    history.assert_exactly(&[&first, &second]).await;
    Ok(())
}

#[tokio::test]
async fn p1_a_pod_becomes_a_key_sooner_than_any_timer_could_make_it() -> Result<()> {
    let (namespace, prefix) = orders("p1-soon").await?;
    let history = History::watch(bed().await.registry(), &prefix, 0).await?;
    namespace.create_pod(&pod("a", "orders").unready()).await?;
    let mut fastest = std::time::Duration::MAX;
    for round in 1..=40 {
        let begin = std::time::Instant::now();
        namespace.set_ready("a", true).await?;
        wait_events(&history, 2 * round - 1).await;
        fastest = fastest.min(begin.elapsed());
        namespace.set_ready("a", false).await?;
        wait_events(&history, 2 * round).await;
        if fastest < std::time::Duration::from_millis(500) {
            break;
        }
    }
    // It takes about 20 ms, and stays below the shortest timer but the status's 50 ms only if none of them is waited for.
    // A busy machine has more tries, for a timer would be waited for in each.
    assert!(fastest < std::time::Duration::from_millis(500), "{fastest:?}");
    Ok(())
}
