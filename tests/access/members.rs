//! A cluster of several members that asks for everything: one that dies is done without, and a plan is made against it.

use serde_json::json;
use testbed::{Authority, EtcdCluster, EtcdConfig, Result, Validity};
use tokio::process::Command;

use crate::scene::{Scene, security};
use crate::support::{plain_prefix, pod, registration, wait_in_sync, wait_keys};

#[tokio::test]
async fn dead_member_is_tolerated_and_plan_connects_like_the_operator() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("members");
    let config = EtcdConfig {
        members: 3,
        security: Some(security(&authority, true)),
        ..EtcdConfig::default()
    };
    let etcd = EtcdCluster::temporary_with(config).await?;
    etcd.enable_auth("root-of-members").await?;
    etcd.add_user("leasehold", "pw-of-members", &["/leasehold/", "/services/"])
        .await?;
    let own = authority.client("nobody", Validity::Valid);
    scene.config_map("members-ca", &[("ca.crt", &authority.pem())]).await?;
    let pair = [("tls.crt", own.certificate.as_str()), ("tls.key", own.key.as_str())];
    scene.secret("members-own", &pair).await?;
    let user = [("username", "leasehold"), ("password", "pw-of-members")];
    scene.secret("members-user", &user).await?;
    let spec = json!({
        "etcd": {
            "tls": {"caRef": {"kind": "ConfigMap", "name": "members-ca"}, "clientCertSecretRef": {"name": "members-own"}},
            "auth": {"secretRef": {"name": "members-user"}},
        },
    });
    scene.registry("members", &etcd.endpoints(), &spec).await?;
    let namespace = scene.tenant("members").await?;
    let _operator = scene.operator("members").await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(&etcd, &prefix, &["a"]).await;
    wait_in_sync(namespace.objects(), "orders", 1).await;

    let mut planned = registration("orders", &json!({"registryRef": {"name": "members"}}));
    planned["metadata"]["namespace"] = json!(namespace.name());
    let file = scene.bed.folder().path().join("members.json");
    std::fs::write(&file, planned.to_string()).expect("a file");
    let plan = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(["plan", "--operator-namespace", scene.ops.name(), "--filename"])
        .arg(&file)
        .arg("--kubeconfig")
        .arg(scene.bed.kubeconfig())
        .output()
        .await
        .expect("it runs");
    let errors = String::from_utf8_lossy(&plan.stderr);
    assert_eq!(plan.status.code(), Some(0), "nothing is to be changed: {errors}");

    etcd.member(0).kill().await?;
    namespace.create_pod(&pod("b", "orders")).await?;
    wait_keys(&etcd, &prefix, &["a", "b"]).await;
    Ok(())
}
