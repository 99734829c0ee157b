//! P8: a key that is not ours is never overwritten or deleted; the registration says who holds it.

use etcd_client::PutOptions;
use serde_json::json;
use testbed::{History, Result};

use crate::bed;
use crate::support::{
    condition, message, plain_prefix, pod, registration, wait_condition, wait_event, wait_in_sync, wait_keys,
    wait_reported,
};

#[tokio::test]
async fn p8_foreign_key_is_left_alone_reported_and_taken_when_it_is_free() -> Result<()> {
    let namespace = bed().await.namespace("p8-held").await?;
    let etcd = bed().await.registry();
    let prefix = plain_prefix(&namespace, "orders");
    let held = format!("{prefix}a");
    let mut client = etcd.client().await?;
    client.put(held.as_str(), "theirs", None).await.expect("etcd takes it");
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.1")).await?;
    namespace.create_pod(&pod("b", "orders").ip("10.9.8.2")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;

    let object = wait_condition(namespace.objects(), "orders", "Conflict", "True", "HeldByOther").await;
    let text = message(&object, "Conflict");
    assert!(text.contains(&held) && text.contains("no lease"), "{text}");
    let about = ("ServiceRegistration", "orders");
    let event = wait_event(namespace.objects(), about, "KeysHeld", &held).await?;
    assert_eq!(
        (&event["type"], &event["regarding"]["uid"]),
        (&json!("Warning"), &object["metadata"]["uid"])
    );
    wait_keys(etcd, &prefix, &["a", "b"]).await;
    // The other pod is registered.
    wait_reported(namespace.objects(), "orders", "KeysHeld", (1, 2)).await;

    client.delete(held.as_str(), None).await.expect("etcd takes it");
    let status = wait_in_sync(namespace.objects(), "orders", 2).await;
    assert_eq!(status.endpoints.len(), 2);
    let object = wait_condition(namespace.objects(), "orders", "Conflict", "False", "NoConflict").await;
    assert_eq!(condition(&object, "Ready").0, "True");
    let (b, gone, a) = (
        format!("put {prefix}b 10.9.8.2:8080"),
        format!("delete {held}"),
        format!("put {held} 10.9.8.1:8080"),
    );
    history.assert_exactly(&[&b, &gone, &a]).await;
    Ok(())
}

#[tokio::test]
async fn p8_a_key_held_on_someone_s_lease_is_taken_when_the_lease_ends() -> Result<()> {
    let namespace = bed().await.namespace("p8-lease").await?;
    let etcd = bed().await.registry();
    let prefix = plain_prefix(&namespace, "orders");
    let mut client = etcd.client().await?;
    let lease = client.lease_grant(2, None).await.expect("etcd grants").id();
    let theirs = PutOptions::new().with_lease(lease);
    client
        .put(format!("{prefix}a"), "theirs", Some(theirs))
        .await
        .expect("etcd takes it");
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    Ok(())
}

#[tokio::test]
async fn p8_foreign_keys_beside_ours_survive_all_operations() -> Result<()> {
    let namespace = bed().await.namespace("p8-beside").await?;
    let etcd = bed().await.registry();
    let prefix = plain_prefix(&namespace, "orders");
    let mut client = etcd.client().await?;
    let strangers = ["0", "a/below", "z"];
    for name in strangers {
        client
            .put(format!("{prefix}{name}"), "theirs", None)
            .await
            .expect("etcd takes it");
    }
    let before = etcd.dump(&prefix).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_keys(etcd, &prefix, &["0", "a", "a/below", "z"]).await;
    namespace.set_ready("a", false).await?;
    wait_keys(etcd, &prefix, &strangers).await;
    namespace.set_ready("a", true).await?;
    wait_keys(etcd, &prefix, &["0", "a", "a/below", "z"]).await;
    namespace
        .objects()
        .delete(crate::support::API, "ServiceRegistration", "orders")
        .await?;
    wait_keys(etcd, &prefix, &strangers).await;
    assert_eq!(etcd.dump(&prefix).await?, before);
    Ok(())
}

#[tokio::test]
async fn p8_a_key_of_ours_that_someone_deletes_or_changes_is_put_back() -> Result<()> {
    let namespace = bed().await.namespace("p8-back").await?;
    let etcd = bed().await.registry();
    let prefix = plain_prefix(&namespace, "orders");
    let key = format!("{prefix}a");
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.3")).await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let history = History::watch(etcd, &prefix, 0).await?;
    let mut client = etcd.client().await?;
    client.delete(key.as_str(), None).await.expect("etcd takes it");
    crate::support::wait_events(&history, 2).await;
    client.put(key.as_str(), "changed", None).await.expect("etcd takes it");
    crate::support::wait_events(&history, 4).await;
    let ours = format!("put {key} 10.9.8.3:8080");
    history
        .assert_exactly(&[&format!("delete {key}"), &ours, &format!("put {key} changed"), &ours])
        .await;
    let held = &etcd.dump(&prefix).await?[&key];
    assert_ne!(held.lease, 0, "it is on a lease again");
    Ok(())
}

#[tokio::test]
async fn p8_older_registration_keeps_a_shared_key_and_other_reports_conflict() -> Result<()> {
    let namespace = bed().await.namespace("p8-older").await?;
    let etcd = bed().await.registry();
    let prefix = format!("/p8/{}/shared/", namespace.name());
    let spec = json!({
        "selector": {"matchLabels": {"app": "orders"}},
        "formats": [{"type": "Plain", "plain": {"prefix": prefix.trim_end_matches('/')}}],
    });
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.4")).await?;
    namespace.apply(registration("older", &spec)).await?;
    wait_in_sync(namespace.objects(), "older", 1).await;
    let history = History::watch(etcd, &prefix, 0).await?;
    // Creation times have whole seconds: within one the name decides, and "older" comes after "newer".
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    namespace.apply(registration("newer", &spec)).await?;
    let object = wait_condition(namespace.objects(), "newer", "Conflict", "True", "HeldByRegistration").await;
    let text = message(&object, "Conflict");
    assert!(text.contains("older"), "{text}");
    history.assert_silent().await;

    namespace
        .objects()
        .delete(crate::support::API, "ServiceRegistration", "older")
        .await?;
    wait_in_sync(namespace.objects(), "newer", 1).await;
    wait_keys(etcd, &prefix, &["a"]).await;
    Ok(())
}

#[tokio::test]
async fn p8_of_a_server_of_two_keys_none_is_written_while_someone_holds_one() -> Result<()> {
    let namespace = bed().await.namespace("p8-unit").await?;
    let etcd = bed().await.registry();
    let name = namespace.name();
    let spec =
        json!({"weight": 7, "formats": [{"type": "Traefik", "traefik": {"serviceName": name, "root": "p8-unit"}}]});
    let prefix = format!("p8-unit/http/services/{name}/loadbalancer/servers/");
    namespace.create_pod(&pod("a", "orders").ip("10.9.8.9")).await?;
    namespace.apply(registration("orders", &spec)).await?;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let whole = etcd.dump(&prefix).await?;
    let (url, weight) = match whole.keys().collect::<Vec<_>>()[..] {
        [url, weight] => (url.clone(), weight.clone()),
        ref keys => panic!("not a url and a weight: {keys:?}"),
    };
    namespace
        .objects()
        .delete(crate::support::API, "ServiceRegistration", "orders")
        .await?;
    wait_keys(etcd, &prefix, &[]).await;

    let mut client = etcd.client().await?;
    client.put(weight.as_str(), "1", None).await.expect("etcd takes it");
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.apply(registration("orders", &spec)).await?;
    let object = wait_condition(namespace.objects(), "orders", "Conflict", "True", "HeldByOther").await;
    let text = message(&object, "Conflict");
    assert!(text.contains(&weight) && text.contains(&url), "{text}");
    wait_reported(namespace.objects(), "orders", "KeysHeld", (0, 1)).await;

    client.delete(weight.as_str(), None).await.expect("etcd takes it");
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let events = history.settled().await?;
    let reported: Vec<String> = events.iter().map(ToString::to_string).collect();
    assert_eq!(reported[0], format!("delete {weight}"), "nothing was written before");
    assert_eq!(
        (events.len(), events[1].revision),
        (3, events[2].revision),
        "{reported:?}"
    );

    // A change of one of the two is an event of that one only.
    let patch =
        json!({"weight": 9, "formats": [{"type": "Traefik", "traefik": {"serviceName": name, "root": "p8-unit"}}]});
    namespace.apply(registration("orders", &patch)).await?;
    crate::support::wait_events(&history, 4).await;
    let events = history.settled().await?;
    assert_eq!(
        events[3..].iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!("put {weight} 9")]
    );
    Ok(())
}
