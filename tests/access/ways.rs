//! Each way into an etcd, all of them side by side in one operator.

use serde_json::json;
use testbed::{Authority, Result, Validity};

use crate::scene::{Scene, etcd, security};
use crate::support::{plain_prefix, wait_in_sync, wait_keys};

#[tokio::test]
async fn each_way_in_leads_in_beside_all_the_others() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("ways");
    let own = authority.client("leasehold", Validity::Valid);
    scene.config_map("ways-ca", &[("ca.crt", &authority.pem())]).await?;
    scene.secret("ways-ca", &[("root.pem", &authority.pem())]).await?;
    let pair = [("tls.crt", own.certificate.as_str()), ("tls.key", own.key.as_str())];
    scene.secret("ways-own", &pair).await?;
    scene
        .secret("ways-user", &[("username", "leasehold"), ("password", "pw-of-ways")])
        .await?;
    scene
        .secret("ways-other-keys", &[("u", "leasehold"), ("p", "pw-of-ways")])
        .await?;

    let ca = json!({"kind": "ConfigMap", "name": "ways-ca"});
    let ca_secret = json!({"kind": "Secret", "name": "ways-ca", "key": "root.pem"});
    let own = json!({"name": "ways-own"});
    let user = json!({"secretRef": {"name": "ways-user"}});
    let other_keys = json!({"secretRef": {"name": "ways-other-keys"}, "usernameKey": "u", "passwordKey": "p"});
    // Its name, TLS of the etcd and whether that asks for certificates, whether it asks for a user; and the Registry.
    let ways = [
        ("way-open", None, false, json!({})),
        ("way-tls", Some(false), false, json!({"etcd": {"tls": {"caRef": ca}}})),
        (
            "way-mutual",
            Some(true),
            false,
            json!({"etcd": {"tls": {"caRef": ca_secret, "clientCertSecretRef": own}}}),
        ),
        ("way-user", None, true, json!({"etcd": {"auth": user}})),
        (
            "way-tls-user",
            Some(false),
            true,
            json!({"etcd": {"tls": {"caRef": ca}, "auth": other_keys}}),
        ),
        (
            "way-all",
            Some(true),
            true,
            json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": own}, "auth": user}}),
        ),
        // The certificate's common name is the user.
        (
            "way-name",
            Some(true),
            true,
            json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": own}}}),
        ),
    ];
    let mut places = Vec::new();
    for (name, tls, asks_for_user, spec) in ways {
        let etcd = etcd(tls.map(|asks| security(&authority, asks)), &[]).await?;
        if asks_for_user {
            etcd.enable_auth("root-of-ways").await?;
            etcd.add_user("leasehold", "pw-of-ways", &["/leasehold/", "/services/"])
                .await?;
        }
        scene.registry(name, &etcd.endpoints(), &spec).await?;
        let namespace = scene.tenant(name).await?;
        places.push((name, etcd, namespace));
    }
    let _operator = scene.operator("ways").await?;
    for (name, etcd, namespace) in &places {
        let prefix = plain_prefix(namespace, "orders");
        wait_keys(etcd, &prefix, &["a"]).await;
        wait_in_sync(namespace.objects(), "orders", 1).await;
        scene.wait(name, "Connected", "True", "Connected").await;
        if *name != "way-open" {
            scene.wait(name, "CredentialsValid", "True", "CredentialsInUse").await;
        }
        namespace.set_ready("a", false).await?;
        wait_keys(etcd, &prefix, &[]).await;
    }
    Ok(())
}
