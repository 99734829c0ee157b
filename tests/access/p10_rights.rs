//! P10: a prefix that etcd denies concerns only who registers there.

use std::time::Duration;

use etcd_client::Permission;
use serde_json::{Value, json};
use testbed::{EtcdCluster, EtcdConfig, EtcdVersion, History, Namespace, Result, until};

use crate::scene::{Scene, etcd};
use crate::support::{API, message, pod, registration, wait_condition, wait_event, wait_in_sync, wait_keys};

const USER: &str = "leasehold";

/// Longer than until what is denied is tried again.
const AGAIN: Duration = Duration::from_secs(45);

/// A Registry whose etcd lets the operator's user read and write below these prefixes.
async fn registry(scene: &Scene, name: &str, etcd: &EtcdCluster, prefixes: &[&str], ttl: u32) -> Result<()> {
    etcd.enable_auth("root-of-p10").await?;
    etcd.add_user(USER, "pw-of-p10", prefixes).await?;
    let user = [("username", USER), ("password", "pw-of-p10")];
    scene.secret(&format!("{name}-user"), &user).await?;
    let spec = json!({
        "etcd": {"auth": {"secretRef": {"name": format!("{name}-user")}}},
        "defaults": {"leaseTTLSeconds": ttl},
    });
    scene.registry(name, &etcd.endpoints(), &spec).await
}

/// A registration of the pods labelled `app: APP`, whose keys lie below each of `places` and its own name.
fn at(registry: &str, name: &str, app: &str, places: &[&str]) -> Value {
    let format = |place: &&str| json!({"type": "Plain", "plain": {"prefix": format!("{place}/{name}")}});
    let formats: Vec<Value> = places.iter().map(format).collect();
    let selector = json!({"matchLabels": {"app": app}});
    registration(
        name,
        &json!({"registryRef": {"name": registry}, "formats": formats, "selector": selector}),
    )
}

/// Waits until `etcd` holds exactly these keys below `prefix`, however long it takes until what was denied is tried again.
async fn wait_granted(etcd: &EtcdCluster, prefix: &str, expected: &[&str]) -> Result<()> {
    let what = format!("exactly {expected:?} below {prefix}");
    until(&what, AGAIN, || async {
        let held = etcd.dump(prefix).await.map_err(|error| error.to_string())?;
        let names: Vec<&str> = held.keys().map(|key| &key[prefix.len()..]).collect();
        if names == expected {
            Ok(())
        } else {
            Err(format!("there are {names:?}"))
        }
    })
    .await
}

/// Follows the readiness of a pod a few times.
async fn assert_follows(namespace: &Namespace, etcd: &EtcdCluster, pod: &str, prefix: &str) -> Result<()> {
    for _ in 0..3 {
        namespace.set_ready(pod, false).await?;
        wait_keys(etcd, prefix, &[]).await;
        namespace.set_ready(pod, true).await?;
        wait_keys(etcd, prefix, &[pod]).await;
    }
    Ok(())
}

async fn assert_denied(namespace: &Namespace, name: &str, reported: &str) {
    let denied = wait_condition(namespace.objects(), name, "Synced", "False", "PermissionDenied").await;
    let message = message(&denied, "Synced");
    assert!(
        message.contains(reported) && message.contains("leasehold doctor --etcd-role"),
        "{message}"
    );
}

#[tokio::test]
async fn p10_prefixes_that_etcd_does_not_let_us_read_or_write_hold_up_no_other() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    registry(&scene, "p10-denied", &etcd, &["/leasehold/", "/open/"], 30).await?;
    let mut root = etcd.client().await?;
    let readable = Permission::read("/readable/").with_prefix();
    root.role_grant_permission(USER, readable).await.expect("granted");
    let namespace = scene.bed.namespace("p10-denied").await?;
    for (name, app, places) in [
        ("orders", "orders", &["/open"][..]),
        ("closed", "closed", &["/closed"]),
        ("readable", "readable", &["/readable"]),
        ("both", "orders", &["/open", "/closed"]),
    ] {
        namespace.apply(at("p10-denied", name, app, places)).await?;
    }
    for (name, app) in [("a", "orders"), ("c", "closed"), ("r", "readable")] {
        namespace.create_pod(&pod(name, app)).await?;
    }
    let operator = scene.operator("p10-denied").await?;
    wait_keys(&etcd, "/open/orders/", &["a"]).await;
    wait_keys(&etcd, "/open/both/", &["a"]).await;
    assert_denied(&namespace, "closed", "read what lies below /closed/closed/").await;
    assert_denied(&namespace, "readable", "write below /readable/readable/").await;
    assert_denied(&namespace, "both", "read what lies below /closed/both/").await;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    let reported = scene.wait("p10-denied", "Connected", "True", "Connected").await;
    assert!(reported.contains("denies its user"), "{reported}");
    let about = ("ServiceRegistration", "readable");
    wait_event(namespace.objects(), about, "PermissionDenied", "/readable/readable/").await?;
    assert_eq!(operator.metric("leasehold_denied_scopes").await?, Some(3.0));
    assert_follows(&namespace, &etcd, "a", "/open/orders/").await?;
    wait_keys(&etcd, "/open/both/", &["a"]).await;

    // Granted, they are served on, each on leases of its own.
    for prefix in ["/readable/", "/closed/"] {
        etcd.grant_prefix(USER, prefix).await?;
    }
    wait_granted(&etcd, "/closed/closed/", &["c"]).await?;
    wait_granted(&etcd, "/closed/both/", &["a"]).await?;
    wait_granted(&etcd, "/readable/readable/", &["r"]).await?;
    for name in ["orders", "closed", "readable", "both"] {
        wait_in_sync(namespace.objects(), name, 1).await;
    }
    let held = etcd.dump("/").await?;
    let lease = |key: &str| held[key].lease;
    assert_eq!(lease("/closed/both/a"), lease("/closed/closed/c"));
    assert_eq!(lease("/open/both/a"), lease("/open/orders/a"));
    let apart = ["/open/orders/a", "/closed/closed/c", "/readable/readable/r"].map(lease);
    assert!(
        apart[0] != apart[1] && apart[1] != apart[2] && apart[0] != apart[2],
        "{apart:?}"
    );
    Ok(())
}

#[tokio::test]
async fn p10_revoked_permission_removes_no_keys_of_others() -> Result<()> {
    for version in EtcdVersion::ALL {
        let scene = Scene::take().await?;
        let config = EtcdConfig {
            version,
            ..EtcdConfig::default()
        };
        let etcd = EtcdCluster::temporary_with(config).await?;
        let name = format!("p10-back-{version:?}").to_lowercase().replace('_', "-");
        registry(&scene, &name, &etcd, &["/leasehold/", "/open/", "/other/"], 15).await?;
        let namespace = scene.bed.namespace(&name).await?;
        namespace.apply(at(&name, "orders", "orders", &["/open"])).await?;
        namespace.apply(at(&name, "carts", "carts", &["/other"])).await?;
        for (name, app) in [("a", "orders"), ("b", "orders"), ("c", "carts")] {
            namespace.create_pod(&pod(name, app)).await?;
        }
        let _operator = scene.operator(&name).await?;
        wait_in_sync(namespace.objects(), "orders", 2).await;
        wait_in_sync(namespace.objects(), "carts", 1).await;

        let history = History::watch(&etcd, "/open/orders/", 0).await?;
        etcd.revoke_prefix(USER, "/other/").await?;
        // The operator does not delete them: etcd denies the renewals of their lease until it expires.
        wait_granted(&etcd, "/other/carts/", &[]).await?;
        assert_denied(&namespace, "carts", "below /other/carts/").await;
        history.assert_silent().await;
        namespace.set_ready("b", false).await?;
        wait_keys(&etcd, "/open/orders/", &["a"]).await;
        namespace.create_pod(&pod("d", "carts")).await?;
        namespace.set_ready("b", true).await?;
        wait_keys(&etcd, "/open/orders/", &["a", "b"]).await;

        etcd.grant_prefix(USER, "/other/").await?;
        wait_granted(&etcd, "/other/carts/", &["c", "d"]).await?;
        wait_in_sync(namespace.objects(), "carts", 2).await;
        scene.bed.objects().delete(API, "Registry", &name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn p10_keys_on_a_denied_lease_move_before_it_expires() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    registry(&scene, "p10-narrow", &etcd, &["/"], 15).await?;
    let namespace = scene.bed.namespace("p10-narrow").await?;
    namespace
        .apply(at("p10-narrow", "orders", "orders", &["/open"]))
        .await?;
    namespace.apply(at("p10-narrow", "carts", "carts", &["/other"])).await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace.create_pod(&pod("c", "carts")).await?;
    let _operator = scene.operator("p10-narrow").await?;
    let first = wait_keys(&etcd, "/open/orders/", &["a"]).await["/open/orders/a"].lease;
    let shared = wait_keys(&etcd, "/other/carts/", &["c"]).await["/other/carts/c"].lease;
    assert_eq!(first, shared, "all of it is granted as one");
    wait_in_sync(namespace.objects(), "carts", 1).await;

    let history = History::watch(&etcd, "/open/orders/", 0).await?;
    for prefix in ["/leasehold/", "/open/"] {
        etcd.grant_prefix(USER, prefix).await?;
    }
    etcd.revoke_prefix(USER, "/").await?;
    wait_granted(&etcd, "/other/carts/", &[]).await?;
    assert_denied(&namespace, "carts", "below /other/carts/").await;
    let held = wait_keys(&etcd, "/open/orders/", &["a"]).await;
    assert_ne!(held["/open/orders/a"].lease, shared);
    let reported: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(reported.len(), 1, "one put, and no removal: {reported:?}");
    assert!(reported[0].starts_with("put /open/orders/a"), "{reported:?}");
    assert_follows(&namespace, &etcd, "a", "/open/orders/").await?;

    etcd.grant_prefix(USER, "/other/").await?;
    wait_granted(&etcd, "/other/carts/", &["c"]).await?;
    wait_in_sync(namespace.objects(), "carts", 1).await;
    let own = wait_keys(&etcd, "/other/carts/", &["c"]).await["/other/carts/c"].lease;
    assert_ne!(own, held["/open/orders/a"].lease);
    Ok(())
}
