//! Each thing that can be wrong with an access, and the condition that says so and what to do.

use serde_json::{Value, json};
use testbed::{Authority, EtcdCluster, Pair, Result, Security, Validity, self_signed};

use crate::scene::{Scene, etcd, security};
use crate::support::{message, plain_prefix, pod, wait_condition, wait_in_sync, wait_keys};

/// What is wrong: the Registry, its endpoints and more of its spec, the reason, and words of the message.
type Fault = (&'static str, Vec<String>, Value, &'static str, &'static [&'static str]);

async fn check(scene: &Scene, faults: Vec<Fault>) -> Result<()> {
    for (name, endpoints, spec, ..) in &faults {
        scene.registry(name, endpoints, spec).await?;
    }
    let _operator = scene.operator_that_waits("faults")?;
    for (name, _, _, reason, words) in faults {
        let connected = scene.wait(name, "Connected", "False", reason).await;
        let credentials = match reason {
            // A right that is missing is no fault of the credentials where there are none.
            "UserRequired" => connected.clone(),
            _ => scene.wait(name, "CredentialsValid", "False", reason).await,
        };
        let ready = scene.wait(name, "Ready", "False", reason).await;
        for word in words {
            assert!(connected.contains(word), "{name}: {connected:?} lacks {word:?}");
            assert!(credentials.contains(word), "{name}: {credentials:?} lacks {word:?}");
            assert!(ready.contains(word), "{name}: {ready:?} lacks {word:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_certificates_is_said_with_the_remedy() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("faults");
    let other = Authority::new("faults-other");
    scene.config_map("faults-ca", &[("ca.crt", &authority.pem())]).await?;
    scene.config_map("faults-other-ca", &[("ca.crt", &other.pem())]).await?;
    for (name, pair) in [
        ("faults-own", authority.client("leasehold", Validity::Valid)),
        ("faults-expired", authority.client("leasehold", Validity::Expired)),
        ("faults-stranger", other.client("leasehold", Validity::Valid)),
    ] {
        scene
            .secret(name, &[("tls.crt", &pair.certificate), ("tls.key", &pair.key)])
            .await?;
    }
    let mutual = etcd(Some(security(&authority, true)), &[]).await?;
    let expired = Security {
        server: authority.server(&["127.0.0.1"], Validity::Expired),
        ..security(&authority, false)
    };
    let expired = etcd(Some(expired), &[]).await?;
    let open = etcd(None, &[]).await?;
    let by_name: Vec<_> = mutual
        .endpoints()
        .iter()
        .map(|url| url.replace("127.0.0.1", "localhost"))
        .collect();
    let without_tls: Vec<_> = open
        .endpoints()
        .iter()
        .map(|url| url.replace("http:", "https:"))
        .collect();
    let ca = json!({"kind": "ConfigMap", "name": "faults-ca"});
    let other_ca = json!({"kind": "ConfigMap", "name": "faults-other-ca"});
    let own = json!({"name": "faults-own"});
    let faults: Vec<Fault> = vec![
        (
            "server-expired",
            expired.endpoints(),
            json!({"etcd": {"tls": {"caRef": ca}}}),
            "ServerCertificateExpired",
            &["has expired", "renew the server certificate"],
        ),
        (
            "other-authority",
            mutual.endpoints(),
            json!({"etcd": {"tls": {"caRef": other_ca, "clientCertSecretRef": own}}}),
            "UnknownAuthority",
            &["not signed by a trusted CA", "spec.etcd.tls"],
        ),
        (
            "other-name",
            by_name.clone(),
            json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": own}}}),
            "ServerNameMismatch",
            &["etcd.test", "spec.etcd.tls.serverName"],
        ),
        (
            "own-expired",
            mutual.endpoints(),
            json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": {"name": "faults-expired"}}}}),
            "ClientCertificateExpired",
            &[
                "the client certificate has expired",
                "spec.etcd.tls.clientCertSecretRef",
            ],
        ),
        (
            "own-stranger",
            mutual.endpoints(),
            json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": {"name": "faults-stranger"}}}}),
            "ClientCertificateRefused",
            &["rejects the client certificate", "--trusted-ca-file"],
        ),
        (
            "own-missing",
            mutual.endpoints(),
            json!({"etcd": {"tls": {"caRef": ca}}}),
            "ClientCertificateRequired",
            &["requires a client certificate", "spec.etcd.tls.clientCertSecretRef"],
        ),
        (
            "no-tls",
            without_tls,
            json!({"etcd": {"tls": {"caRef": ca}}}),
            "TLSFailed",
            &["does not speak TLS", "http://"],
        ),
    ];
    check(&scene, faults).await?;
    // The remedy for another name.
    let _operator = scene.operator_that_waits("remedied")?;
    let spec = json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": own, "serverName": "etcd.test"}}});
    scene.registry("other-name", &by_name, &spec).await?;
    scene.wait("other-name", "Connected", "True", "Connected").await;
    scene
        .wait("other-name", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    Ok(())
}

/// What `leasehold doctor` says of a Registry.
fn doctor(scene: &Scene, registry: &str) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args([
            "doctor",
            "--registry",
            registry,
            "--operator-namespace",
            scene.ops.name(),
            "--kubeconfig",
        ])
        .arg(scene.bed.kubeconfig())
        .output()
        .expect("leasehold is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_certificate_that_no_client_may_accept_is_described_in_words() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("unfit");
    let hosts: &[&str] = &["127.0.0.1"];
    // Each is trusted: what is wrong lies in the certificate itself.
    let shown = |server: Pair, authority: String| Security {
        server,
        authority,
        clients: None,
    };
    let own = |pair: Pair| shown(pair.clone(), pair.certificate);
    let mut etcds: Vec<(&str, EtcdCluster, &str, &'static [&'static str])> = Vec::new();
    for (name, security, reason, words) in [
        (
            "unfit-authority",
            own(self_signed(hosts, true)),
            "ServerCertificateUnusable",
            &["is a CA certificate (CA:TRUE)", "basicConstraints=critical,CA:FALSE"],
        ),
        (
            "unfit-purpose",
            shown(authority.misused(hosts), authority.pem()),
            "ServerCertificateUnusable",
            &["is not a server certificate", "serverAuth"],
        ),
        (
            "unfit-nameless",
            shown(authority.server(&[], Validity::Valid), authority.pem()),
            "ServerNameMismatch",
            &["contains no host name", "subjectAltName"],
        ),
    ] {
        scene.config_map(name, &[("ca.crt", &security.authority)]).await?;
        etcds.push((name, etcd(Some(security), &[]).await?, reason, words));
    }
    let spec = |name: &str| json!({"etcd": {"tls": {"caRef": {"kind": "ConfigMap", "name": name}}}});
    let faults = etcds
        .iter()
        .map(|(name, etcd, reason, words)| (*name, etcd.endpoints(), spec(name), *reason, *words));
    check(&scene, faults.collect()).await?;
    for (name, _, _, words) in &etcds {
        let reported = doctor(&scene, name);
        assert!(words.iter().all(|word| reported.contains(word)), "{reported}");
    }

    // The remedy for the first.
    let remedied = own(self_signed(hosts, false));
    scene
        .config_map("unfit-not", &[("ca.crt", &remedied.authority)])
        .await?;
    let remedied = etcd(Some(remedied), &[]).await?;
    scene
        .registry("unfit-not", &remedied.endpoints(), &spec("unfit-not"))
        .await?;
    let _operator = scene.operator_that_waits("unfit-not")?;
    scene.wait("unfit-not", "Connected", "True", "Connected").await;
    Ok(())
}

#[tokio::test]
async fn a_user_or_password_that_ends_with_a_line_break_logs_in() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-lines").await?;
    let prefixes = ["/leasehold/", "/services/"];
    etcd.add_user("leasehold", "pw-of-lines", &prefixes).await?;
    etcd.add_user("spacious", "pw-of-lines ", &prefixes).await?;
    let secrets = [
        ("lines-both", "leasehold\n", "pw-of-lines\n"),
        ("lines-windows", "\u{feff}leasehold\r\n", "\u{feff}pw-of-lines\r\n"),
        ("lines-space", "spacious", "pw-of-lines \n"),
    ];
    for (name, user, password) in secrets {
        scene
            .secret(name, &[("username", user), ("password", password)])
            .await?;
        let spec = json!({"etcd": {"auth": {"secretRef": {"name": name}}}});
        scene.registry(name, &etcd.endpoints(), &spec).await?;
    }
    let _operator = scene.operator("lines").await?;
    for (name, ..) in secrets {
        scene.wait(name, "CredentialsValid", "True", "CredentialsInUse").await;
        let reported = doctor(&scene, name);
        assert!(!reported.contains("rejected the login"), "{reported}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_user_is_said_with_the_remedy() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-users").await?;
    etcd.add_user("leasehold", "pw-of-users", &["/leasehold/", "/services/"])
        .await?;
    etcd.add_user("powerless", "pw-of-users", &["/elsewhere/"]).await?;
    for (secret, user, password) in [
        ("users-wrong", "leasehold", "not-this-one"),
        ("users-unknown", "nobody", "pw-of-users"),
        ("users-powerless", "powerless", "pw-of-users"),
    ] {
        scene
            .secret(secret, &[("username", user), ("password", password)])
            .await?;
    }
    let auth = |secret: &str| json!({"etcd": {"auth": {"secretRef": {"name": secret}}}});
    let at = || etcd.endpoints();
    let faults: Vec<Fault> = vec![
        (
            "wrong-password",
            at(),
            auth("users-wrong"),
            "LoginRefused",
            &["password", "etcdctl user passwd"],
        ),
        (
            "unknown-user",
            at(),
            auth("users-unknown"),
            "LoginRefused",
            &["user does not exist"],
        ),
        (
            "no-role",
            at(),
            auth("users-powerless"),
            "PermissionDenied",
            &["grant the user", "/leasehold/"],
        ),
        ("no-user", at(), json!({}), "UserRequired", &["spec.etcd.auth"]),
    ];
    check(&scene, faults).await
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_is_said_before_etcd_is_asked() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("secrets");
    let (one, another) = (
        authority.client("leasehold", Validity::Valid),
        authority.client("leasehold", Validity::Valid),
    );
    scene
        .config_map(
            "secrets-ca",
            &[("ca.crt", &authority.pem()), ("garbage", "none of that")],
        )
        .await?;
    scene.secret("secrets-no-key", &[("username", "leasehold")]).await?;
    scene
        .secret(
            "secrets-mixed",
            &[("tls.crt", &one.certificate), ("tls.key", &another.key)],
        )
        .await?;
    scene
        .secret(
            "secrets-no-pem",
            &[("tls.crt", &one.certificate), ("tls.key", "none of that")],
        )
        .await?;
    let at = || vec!["https://127.0.0.1:1".to_owned()];
    let ca = json!({"kind": "ConfigMap", "name": "secrets-ca"});
    let faults: Vec<Fault> = vec![
        (
            "absent",
            vec!["http://127.0.0.1:1".to_owned()],
            json!({"etcd": {"auth": {"secretRef": {"name": "secrets-absent"}}}}),
            "CredentialsMissing",
            &["Secret leasehold/secrets-absent does not exist", "create it"],
        ),
        (
            "no-key",
            vec!["http://127.0.0.1:1".to_owned()],
            json!({"etcd": {"auth": {"secretRef": {"name": "secrets-no-key"}}}}),
            "CredentialsMissing",
            &["has no key password"],
        ),
        (
            "no-authority",
            at(),
            json!({"etcd": {"tls": {"caRef": {"kind": "ConfigMap", "name": "secrets-ca", "key": "garbage"}}}}),
            "CredentialsMalformed",
            &["garbage of the ConfigMap leasehold/secrets-ca", "PEM block CERTIFICATE"],
        ),
        (
            "mixed",
            at(),
            json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": {"name": "secrets-mixed"}}}}),
            "CredentialsMalformed",
            &[
                "tls.key of the Secret leasehold/secrets-mixed",
                "does not belong to the certificate",
            ],
        ),
        (
            "no-pem",
            at(),
            json!({"etcd": {"tls": {"caRef": ca, "clientCertSecretRef": {"name": "secrets-no-pem"}}}}),
            "CredentialsMalformed",
            &[
                "tls.key of the Secret leasehold/secrets-no-pem",
                "no usable private key",
            ],
        ),
    ];
    check(&scene, faults).await
}

#[tokio::test]
async fn a_secret_that_comes_late_is_used_as_soon_as_it_is_there() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-late").await?;
    etcd.add_user("leasehold", "pw-of-late", &["/leasehold/", "/services/"])
        .await?;
    let name = "late-user";
    scene.ops.objects().delete("v1", "Secret", name).await?;
    let spec = json!({"etcd": {"auth": {"secretRef": {"name": name}}}});
    scene.registry("late", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("late").await?;
    let _operator = scene.operator_that_waits("late")?;
    scene.wait("late", "Connected", "False", "CredentialsMissing").await;
    scene
        .secret(name, &[("username", "leasehold"), ("password", "pw-of-late")])
        .await?;
    wait_keys(&etcd, &plain_prefix(&namespace, "orders"), &["a"]).await;
    scene.wait("late", "CredentialsValid", "True", "CredentialsInUse").await;
    Ok(())
}

#[tokio::test]
async fn etcd_without_authentication_is_served_and_reported() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    scene
        .secret("off-user", &[("username", "leasehold"), ("password", "pw-of-off")])
        .await?;
    let spec = json!({"etcd": {"auth": {"secretRef": {"name": "off-user"}}}});
    scene.registry("off", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("off").await?;
    let _operator = scene.operator("off").await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    scene.wait("off", "Connected", "True", "Connected").await;
    let message = scene
        .wait("off", "CredentialsValid", "False", "AuthenticationOff")
        .await;
    scene.wait("off", "Ready", "False", "AuthenticationOff").await;
    assert!(message.contains("etcdctl auth enable"), "{message}");
    // Turned on, it asks for what the Secret has.
    etcd.add_user("leasehold", "pw-of-off", &["/leasehold/", "/services/"])
        .await?;
    etcd.enable_auth("root-of-off").await?;
    scene.wait("off", "CredentialsValid", "True", "CredentialsInUse").await;
    scene.wait("off", "Ready", "True", "Connected").await;
    namespace.set_ready("a", false).await?;
    wait_keys(&etcd, &prefix, &[]).await;
    Ok(())
}

#[tokio::test]
async fn revoked_permission_is_reported_and_writes_resume_when_granted() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-rights").await?;
    etcd.add_user("leasehold", "pw-of-rights", &["/leasehold/", "/services/"])
        .await?;
    let user = [("username", "leasehold"), ("password", "pw-of-rights")];
    scene.secret("rights-user", &user).await?;
    let spec = json!({"etcd": {"auth": {"secretRef": {"name": "rights-user"}}}});
    scene.registry("rights", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("rights").await?;
    let _operator = scene.operator("rights").await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    etcd.revoke_prefix("leasehold", "/services/").await?;
    namespace.create_pod(&pod("b", "orders")).await?;
    let objects = namespace.objects();
    let reported = wait_condition(objects, "orders", "Synced", "False", "PermissionDenied").await;
    let reported = message(&reported, "Synced");
    assert!(reported.contains("Grant it readwrite there"), "{reported}");
    etcd.grant_prefix("leasehold", "/services/").await?;
    wait_keys(&etcd, &prefix, &["a", "b"]).await;
    wait_in_sync(namespace.objects(), "orders", 2).await;

    // Without access to its own records, the operator can write no key at all.
    etcd.revoke_prefix("leasehold", "/leasehold/").await?;
    namespace.create_pod(&pod("c", "orders")).await?;
    let reported = scene.wait("rights", "Connected", "False", "PermissionDenied").await;
    assert!(reported.contains("grant the user readwrite"), "{reported}");
    etcd.grant_prefix("leasehold", "/leasehold/").await?;
    wait_keys(&etcd, &prefix, &["a", "b", "c"]).await;
    scene.wait("rights", "Connected", "True", "Connected").await;
    Ok(())
}
