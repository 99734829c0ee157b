//! Tokens that expire, or that a change of any user invalidates: keys keep their leases, and no warning is logged.

use std::time::{Duration, Instant};

use serde_json::json;
use testbed::etcd::certificates::token_keys;
use testbed::{EtcdCluster, Folder, History, Result, until};

use crate::scene::{Scene, assert_puts, etcd, leases};
use crate::support::{plain_prefix, pod, wait_events, wait_keys};

async fn outlive(name: &str, etcd: EtcdCluster, seconds: u64) -> Result<()> {
    let scene = Scene::take().await?;
    etcd.enable_auth("root-of-tokens").await?;
    etcd.add_user("leasehold", "pw-of-tokens", &["/leasehold/", "/services/"])
        .await?;
    scene
        .secret(name, &[("username", "leasehold"), ("password", "pw-of-tokens")])
        .await?;
    let spec = json!({"etcd": {"auth": {"secretRef": {"name": name}}}, "defaults": {"leaseTTLSeconds": 15}});
    scene.registry(name, &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant(name).await?;
    let _operator = scene.operator(name).await?;
    let prefix = plain_prefix(&namespace, "orders");
    let before = leases(&wait_keys(&etcd, &prefix, &["a"]).await);
    scene.wait(name, "Connected", "True", "Connected").await;
    let history = History::watch(&etcd, "/services/", 0).await?;
    let begin = Instant::now();
    let time = Duration::from_secs(seconds);
    until("tokens to expire several times", time * 2, || async {
        let passed = begin.elapsed();
        if passed > time {
            Ok(())
        } else {
            Err(format!("{passed:?}"))
        }
    })
    .await?;
    // A change of any user makes tokens that carry their own proof worthless.
    etcd.add_user("bystander", "pw", &["/elsewhere/"]).await?;
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_events(&history, 1).await;
    let after = leases(&wait_keys(&etcd, &prefix, &["a", "b"]).await);
    let key = format!("{prefix}a");
    assert_eq!(after[&key], before[&key], "the lease is the same");
    assert_puts(&history, &prefix, &["b"]).await?;
    let reported = scene.wait(name, "Connected", "True", "Connected").await;
    assert!(!reported.is_empty());
    let log = scene.log(name);
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" WARN ") && (line.contains("auth token") || line.contains("auth store")))
        .collect();
    assert_eq!(complaints, Vec::<&str>::new());
    Ok(())
}

#[tokio::test]
async fn a_token_that_expires_is_replaced_unnoticed() -> Result<()> {
    outlive("tokens-simple", etcd(None, &["--auth-token-ttl", "3"]).await?, 20).await
}

#[tokio::test]
async fn a_token_that_carries_its_own_end_is_replaced_unnoticed() -> Result<()> {
    let folder = Folder::new("tokens")?;
    let (private, public) = token_keys();
    let files = [("private.pem", private), ("public.pem", public)].map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    });
    let flag = format!(
        "jwt,priv-key={},pub-key={},sign-method=ES256,ttl=6s",
        files[0], files[1]
    );
    outlive("tokens-signed", etcd(None, &["--auth-token", &flag]).await?, 20).await
}
