//! A replica that starts enters with what is in its state folder, where the kube-apiserver is away or the Secrets are bad.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use testbed::{Authority, History, Namespace, Operator, OperatorConfig, Result, Validity, until};

use crate::scene::{Scene, assert_puts, etcd, security};
use crate::support::{SOON, plain_prefix, pod, wait_keys};

/// An operator that keeps its state, and the file in which it does.
fn keeping(scene: &Scene, namespace: &Namespace, name: &str) -> (OperatorConfig, PathBuf) {
    let folder = scene.bed.folder().path().join(format!("state-{}", namespace.name()));
    let file = folder.join("state.json");
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    config.args = scene.args();
    config.args.extend(["--state-dir".into(), folder.into()]);
    (config, file)
}

async fn wait_kept(file: &Path, password: &str) -> Result<()> {
    until("the credentials to be kept", SOON, || async {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        if text.contains(password) { Ok(()) } else { Err(text) }
    })
    .await
}

#[tokio::test]
async fn credentials_are_kept_for_a_restart_while_the_apiserver_is_away() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("kept");
    let etcd = etcd(Some(security(&authority, true)), &[]).await?;
    etcd.enable_auth("root-of-kept").await?;
    etcd.add_user("leasehold", "pw-of-kept", &["/leasehold/", "/services/"])
        .await?;
    let own = authority.client("nobody", Validity::Valid);
    scene.config_map("kept-ca", &[("ca.crt", &authority.pem())]).await?;
    scene
        .secret("kept-own", &[("tls.crt", &own.certificate), ("tls.key", &own.key)])
        .await?;
    scene
        .secret("kept-user", &[("username", "leasehold"), ("password", "pw-of-kept")])
        .await?;
    let spec = json!({
        "etcd": {
            "tls": {"caRef": {"kind": "ConfigMap", "name": "kept-ca"}, "clientCertSecretRef": {"name": "kept-own"}},
            "auth": {"secretRef": {"name": "kept-user"}},
        },
        "defaults": {"leaseTTLSeconds": 15},
    });
    scene.registry("kept", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("kept").await?;
    let (mut config, file) = keeping(&scene, &namespace, "kept");
    let operator = Operator::start(scene.bed, config.clone())?;
    wait_keys(&etcd, &plain_prefix(&namespace, "orders"), &["a"]).await;
    wait_kept(&file, "pw-of-kept").await?;
    let mode = std::fs::metadata(&file).expect("it is there").mode();
    assert_eq!(mode & 0o777, 0o600);
    operator.terminate()?;
    operator.wait_exit(SOON).await?;

    let history = History::watch(&etcd, "/services/", 0).await?;
    config.kubeconfig = Some(scene.bed.operator_kubeconfig_by("away", "https://127.0.0.1:1")?);
    let _operator = Operator::start(scene.bed, config)?;
    let begin = Instant::now();
    until("two TTLs to pass", SOON * 3, || async {
        let passed = begin.elapsed();
        if passed > Duration::from_secs(32) {
            Ok(())
        } else {
            Err(format!("{passed:?}"))
        }
    })
    .await?;
    history.assert_silent().await;
    wait_keys(&etcd, &plain_prefix(&namespace, "orders"), &["a"]).await;
    Ok(())
}

#[tokio::test]
async fn replica_started_after_secret_went_bad_uses_stored_credentials() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-restart").await?;
    etcd.add_user("leasehold", "right", &["/leasehold/", "/services/"])
        .await?;
    let put = async |password: &str| {
        scene
            .secret("restart-user", &[("username", "leasehold"), ("password", password)])
            .await
    };
    put("right").await?;
    let spec = json!({"etcd": {"auth": {"secretRef": {"name": "restart-user"}}}, "defaults": {"leaseTTLSeconds": 15}});
    scene.registry("restart", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("restart").await?;
    let (config, file) = keeping(&scene, &namespace, "restart");
    let operator = Operator::start(scene.bed, config.clone())?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    wait_kept(&file, "right").await?;
    let history = History::watch(&etcd, "/services/", 0).await?;
    operator.kill().await?;
    put("wrong").await?;

    let operator = Operator::start(scene.bed, config)?;
    operator.wait_ready(SOON).await?;
    let message = scene.wait("restart", "CredentialsValid", "False", "LoginRefused").await;
    assert!(message.contains("The previous connection stays in use"), "{message}");
    scene.wait("restart", "Connected", "True", "Connected").await;
    history.assert_silent().await;
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_keys(&etcd, &prefix, &["a", "b"]).await;
    put("right").await?;
    scene
        .wait("restart", "CredentialsValid", "True", "CredentialsInUse")
        .await;
    assert_puts(&history, &prefix, &["b"]).await
}
