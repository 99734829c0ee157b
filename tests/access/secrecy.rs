//! What is secret is seen nowhere: not in logs, Events, statuses, metrics or health, whatever goes wrong with it.

use serde_json::json;
use testbed::{Authority, Result, Validity};

use crate::scene::{Scene, etcd, security};
use crate::support::{API, plain_prefix, wait_keys};

/// Passwords, and what they are in a Secret's `data`.
const PASSWORDS: [&str; 3] = ["sw0rdfish-one", "sw0rdfish-two", "sw0rdfish-wrong"];
const ENCODED: [&str; 3] = ["c3cwcmRmaXNoLW9u", "c3cwcmRmaXNoLXR3", "c3cwcmRmaXNoLXdy"];

#[tokio::test]
async fn what_is_secret_is_seen_nowhere() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("secrecy");
    let etcd = etcd(Some(security(&authority, true)), &[]).await?;
    etcd.enable_auth("root-of-secrecy").await?;
    etcd.add_user("leasehold", PASSWORDS[0], &["/leasehold/", "/services/"])
        .await?;
    let own = authority.client("nobody", Validity::Valid);
    let renewed = authority.client("nobody", Validity::Valid);
    scene.config_map("secrecy-ca", &[("ca.crt", &authority.pem())]).await?;
    let put = async |pair: &testbed::Pair, key: &str| {
        scene
            .secret("secrecy-own", &[("tls.crt", &pair.certificate), ("tls.key", key)])
            .await
    };
    let password = async |text: &str| {
        scene
            .secret("secrecy-user", &[("username", "leasehold"), ("password", text)])
            .await
    };
    put(&own, &own.key).await?;
    password(PASSWORDS[0]).await?;
    let spec = json!({
        "etcd": {
            "tls": {"caRef": {"kind": "ConfigMap", "name": "secrecy-ca"}, "clientCertSecretRef": {"name": "secrecy-own"}},
            "auth": {"secretRef": {"name": "secrecy-user"}},
        },
    });
    scene.registry("secrecy", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("secrecy").await?;
    let operator = scene.operator("secrecy").await?;
    wait_keys(&etcd, &plain_prefix(&namespace, "orders"), &["a"]).await;
    // All that can be said of them is said.
    password(PASSWORDS[2]).await?;
    scene.wait("secrecy", "CredentialsValid", "False", "LoginRefused").await;
    etcd.set_password("leasehold", PASSWORDS[1]).await?;
    password(PASSWORDS[1]).await?;
    scene
        .wait("secrecy", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    put(&renewed, &own.key).await?;
    scene
        .wait("secrecy", "CredentialsValid", "False", "CredentialsMalformed")
        .await;
    put(&renewed, &renewed.key).await?;
    scene
        .wait("secrecy", "CredentialsValid", "True", "CredentialsInUse")
        .await;

    let mut secrets: Vec<String> = PASSWORDS.iter().chain(&ENCODED).map(|&text| text.to_owned()).collect();
    for pair in [&own, &renewed] {
        let lines = pair.key.lines().filter(|line| !line.starts_with("-----"));
        secrets.extend(lines.map(str::to_owned));
    }
    assert!(secrets.len() > 8, "{}", secrets.len());
    let mut places = vec![
        ("the log", scene.log("secrecy")),
        ("the metrics", operator.metrics().await?),
    ];
    for (what, api, kind) in [
        ("Registries", API, "Registry"),
        ("registrations", API, "ServiceRegistration"),
        ("Events", "events.k8s.io/v1", "Event"),
    ] {
        for objects in [
            scene.bed.objects(),
            namespace.objects().clone(),
            scene.ops.objects().clone(),
        ] {
            places.push((what, format!("{:?}", objects.list(api, kind).await?)));
        }
    }
    assert!(places[0].1.contains("DEBUG"), "the log tells everything");
    for (place, text) in &places {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret:?} is seen in {place}");
        }
    }
    Ok(())
}
