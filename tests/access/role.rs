//! The role that the operator needs, created with the commands of the documentation.

use std::path::Path;

use serde_json::json;
use testbed::{Result, Tool};
use tokio::process::Command;

use crate::scene::{Scene, etcd};
use crate::support::{plain_prefix, wait_keys};

/// The lines for etcdctl in the page about access.
fn lines() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/access.md");
    let page = std::fs::read_to_string(page).expect("the page");
    page.lines()
        .filter(|line| line.starts_with("etcdctl "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_lines_of_the_page_make_a_user_that_may_do_all_that_is_needed() -> Result<()> {
    let scene = Scene::take().await?;
    let lines = lines();
    for line in leasehold::backend::etcd::role("/leasehold/", ["/services/"]).etcdctl("leasehold") {
        assert!(lines.contains(&line), "the page lacks {line:?}");
    }
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-role").await?;
    let etcdctl = tokio::task::spawn_blocking(|| Tool::Etcdctl.binary())
        .await
        .expect("no panic")?;
    let folder = etcdctl.parent().expect("it is in a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    assert!(lines.len() >= 5, "{lines:?}");
    for line in &lines {
        let ran = Command::new("sh")
            .args(["-c", line])
            .env("PATH", &path)
            .env("PASSWORD", "pw-of-role")
            .env("ETCDCTL_ENDPOINTS", etcd.endpoints().join(","))
            .env("ETCDCTL_COMMAND_TIMEOUT", "60s")
            .env("ETCDCTL_USER", "root:root-of-role")
            .output()
            .await
            .expect("sh runs");
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    scene
        .secret("role-user", &[("username", "leasehold"), ("password", "pw-of-role")])
        .await?;
    let spec = json!({"etcd": {"auth": {"secretRef": {"name": "role-user"}}}});
    scene.registry("role", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("role").await?;
    let _operator = scene.operator("role").await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    namespace.set_ready("a", false).await?;
    wait_keys(&etcd, &prefix, &[]).await;
    let log = scene.log("role");
    let denied: Vec<&str> = log.lines().filter(|line| line.contains("permission denied")).collect();
    assert_eq!(denied, Vec::<&str>::new());
    Ok(())
}
