//! Credentials that change: no event for consumers, no lease lost, no restart; and bad ones change nothing.

use serde_json::json;
use testbed::{Authority, ClientCertificates, History, Result, Security, Validity};

use crate::scene::{Scene, assert_puts, etcd, leases, security};
use crate::support::{plain_prefix, pod, wait_events, wait_keys};

const IN_USE: &str = "switched to the new endpoints and credentials";

#[tokio::test]
async fn password_rotates_without_an_event_and_a_wrong_one_keeps_the_old() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-rotation").await?;
    etcd.add_user("leasehold", "first", &["/leasehold/", "/services/"])
        .await?;
    let put = async |password: &str| {
        scene
            .secret("rotated-user", &[("username", "leasehold"), ("password", password)])
            .await
    };
    put("first").await?;
    let spec = json!({"etcd": {"auth": {"secretRef": {"name": "rotated-user"}}}});
    scene.registry("rotated", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("rotated").await?;
    let operator = scene.operator("rotated").await?;
    let prefix = plain_prefix(&namespace, "orders");
    let before = leases(&wait_keys(&etcd, &prefix, &["a"]).await);
    let pid = operator.pid();
    let history = History::watch(&etcd, "/services/", 0).await?;

    // The Secret first, and then etcd: until then the old password is in use.
    put("second").await?;
    let message = scene.wait("rotated", "CredentialsValid", "False", "LoginRefused").await;
    assert!(message.contains("The previous connection stays in use"), "{message}");
    scene.wait("rotated", "Connected", "True", "Connected").await;
    scene.wait("rotated", "Ready", "False", "LoginRefused").await;
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_events(&history, 1).await;
    etcd.set_password("leasehold", "second").await?;
    scene
        .wait("rotated", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    scene.wait("rotated", "Ready", "True", "Connected").await;
    namespace.create_pod(&pod("c", "orders")).await?;
    wait_events(&history, 2).await;

    // etcd first, and then the Secret.
    etcd.set_password("leasehold", "third").await?;
    put("third").await?;
    scene.wait_log("rotated", |line| line.contains(IN_USE)).await?;
    scene
        .wait("rotated", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    namespace.create_pod(&pod("d", "orders")).await?;
    wait_events(&history, 3).await;

    let after = leases(&wait_keys(&etcd, &prefix, &["a", "b", "c", "d"]).await);
    let key = format!("{prefix}a");
    assert_eq!(after[&key], before[&key], "the lease is the same");
    assert_puts(&history, &prefix, &["b", "c", "d"]).await?;
    assert_eq!(operator.pid(), pid);
    Ok(())
}

#[tokio::test]
async fn certificates_rotate_without_an_event_and_bad_ones_keep_the_old() -> Result<()> {
    let scene = Scene::take().await?;
    let (old, new, other) = (Authority::new("old"), Authority::new("new"), Authority::new("nobody's"));
    let both = format!("{}{}", old.pem(), new.pem());
    let security = Security {
        authority: both.clone(),
        clients: Some(ClientCertificates {
            authority: both.clone(),
            own: old.client("root", Validity::Valid),
        }),
        ..security(&old, true)
    };
    let etcd = etcd(Some(security), &[]).await?;
    let trust = async |pem: &str| scene.config_map("rotated-ca", &[("ca.crt", pem)]).await;
    let be = async |authority: &Authority| {
        let own = authority.client("leasehold", Validity::Valid);
        let data = [("tls.crt", own.certificate.as_str()), ("tls.key", own.key.as_str())];
        scene.secret("rotated-own", &data).await
    };
    trust(&old.pem()).await?;
    be(&old).await?;
    let spec = json!({"etcd": {"tls": {
        "caRef": {"kind": "ConfigMap", "name": "rotated-ca"}, "clientCertSecretRef": {"name": "rotated-own"},
    }}});
    scene.registry("rotated-tls", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("rotated-tls").await?;
    let _operator = scene.operator("rotated-tls").await?;
    let prefix = plain_prefix(&namespace, "orders");
    let before = leases(&wait_keys(&etcd, &prefix, &["a"]).await);
    scene
        .wait("rotated-tls", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    let history = History::watch(&etcd, "/services/", 0).await?;

    // Bad ones first: each is said, and none is used.
    trust("no certificate").await?;
    let message = scene
        .wait("rotated-tls", "CredentialsValid", "False", "CredentialsMalformed")
        .await;
    assert!(message.contains("stays in use"), "{message}");
    trust(&other.pem()).await?;
    scene
        .wait("rotated-tls", "CredentialsValid", "False", "UnknownAuthority")
        .await;
    trust(&old.pem()).await?;
    scene
        .wait("rotated-tls", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    be(&other).await?;
    scene
        .wait("rotated-tls", "CredentialsValid", "False", "ClientCertificateRefused")
        .await;
    scene.wait("rotated-tls", "Connected", "True", "Connected").await;

    // The new certificate of ours, and that of the server, each as soon as the other side can take it.
    be(&new).await?;
    scene
        .wait("rotated-tls", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    etcd.present(&new.server(&["127.0.0.1"], Validity::Valid))?;
    trust(&new.pem()).await?;
    let times = |log: &str| log.lines().filter(|line| line.contains(IN_USE)).count();
    testbed::until("both changes to be in use", crate::support::SOON, || async {
        let times = times(&scene.log("rotated-tls"));
        if times >= 2 {
            Ok(())
        } else {
            Err(format!("{times} times"))
        }
    })
    .await?;
    scene
        .wait("rotated-tls", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_events(&history, 1).await;
    let after = leases(&wait_keys(&etcd, &prefix, &["a", "b"]).await);
    let key = format!("{prefix}a");
    assert_eq!(after[&key], before[&key], "the lease is the same");
    assert_puts(&history, &prefix, &["b"]).await
}
